//! `dormouse pause`: stops a guest.

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::PauseRequest;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// Have the kernel write its memory out, too, to swap or its files; says how much it did
    #[arg(long)]
    reclaim: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let reclaim = args.reclaim;
    let call =
        async |mut agent: Agent, header| agent.pause(PauseRequest { header: Some(header), reclaim }).await;
    context.carry_out(&args.asked, call).await
}
