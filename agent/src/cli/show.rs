//! `dormouse show`: one sandbox, and the timeline of its slices.

use super::target::Target;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
}
