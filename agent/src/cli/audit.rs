//! `dormouse audit`: checks the ledger's invariants.

use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Read this ledger, without an agent
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    ledger: Option<PathBuf>,
}
