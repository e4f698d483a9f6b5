//! `dormouse pause`: stops a guest.

use super::target::Asked;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,
}
