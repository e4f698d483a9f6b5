//! `dormouse watch`: follows what changes.

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this sandbox [default: all]
    #[arg(value_name = "ID")]
    id: Option<String>,

    /// Only this org's [default: all; with an ID, default]
    #[arg(long)]
    org: Option<String>,
}
