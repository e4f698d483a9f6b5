//! `dormouse completions`: a shell's completions, from the definition of the command line.

use clap_complete::Shell;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}
