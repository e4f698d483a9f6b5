//! `dormouse usage`: sums up what was used.

use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this org's [default: all; with a sandbox, default]
    #[arg(long)]
    org: Option<String>,

    /// Only this sandbox's
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,

    /// From when: 2026-03-01T12:00:00Z, 2026-03-01, or "2h ago" [default: the beginning]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,

    /// Until when, exclusive [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to: Option<String>,

    /// Read this ledger, without an agent
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    ledger: Option<PathBuf>,
}
