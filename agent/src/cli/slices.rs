//! `dormouse slices`: prints the billing slices.

use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this sandbox [default: all]
    #[arg(value_name = "ID")]
    id: Option<String>,

    /// Only this org's [default: all; with an ID, default]
    #[arg(long)]
    org: Option<String>,

    /// Read this ledger, without an agent
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    ledger: Option<PathBuf>,
}
