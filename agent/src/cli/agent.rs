//! `dormouse agent`: runs the agent.

use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The configuration [default: /etc/dormouse/dormouse.toml if it exists, else the defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}
