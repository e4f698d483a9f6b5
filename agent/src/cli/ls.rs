//! `dormouse ls`: lists the sandboxes.

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this org's
    #[arg(long)]
    org: Option<String>,
}
