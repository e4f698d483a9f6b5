//! `dormouse scale`: changes a sandbox's memory.

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::ScaleRequest;
use crate::size;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// Base and plugged memory together: 512MiB, 2GiB, 1.5GiB, or bytes
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: u64,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let memory_bytes = args.memory;
    let call = async |mut agent: Agent, header| {
        agent.scale(ScaleRequest { header: Some(header), memory_bytes }).await
    };
    context.carry_out_long(&args.asked, call).await
}
