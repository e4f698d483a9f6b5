//! `dormouse man`: the man pages, from the definition of the command line.

use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The folder, which must exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}
