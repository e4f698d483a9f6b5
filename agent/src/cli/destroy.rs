//! `dormouse destroy`: ends a sandbox.

use super::target::Asked;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,
}
