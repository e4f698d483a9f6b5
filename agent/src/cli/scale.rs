//! `dormouse scale`: changes a sandbox's memory.

use super::target::Asked;
use crate::size;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// Base and plugged memory together: 512MiB, 2GiB, 1.5GiB, or bytes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: u64,
}
