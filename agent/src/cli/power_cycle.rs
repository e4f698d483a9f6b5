//! `dormouse power-cycle`: ends QEMU and starts it again.

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::SandboxRequest;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let call =
        async |mut agent: Agent, header| agent.power_cycle(SandboxRequest { header: Some(header) }).await;
    context.carry_out_long(&args.asked, call).await
}
