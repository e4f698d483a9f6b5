//! `dormouse resume`: continues a guest.

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::ResumeRequest;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// Have the kernel begin to read its memory back first
    #[arg(long)]
    prefetch: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let prefetch = args.prefetch;
    let call =
        async |mut agent: Agent, header| agent.resume(ResumeRequest { header: Some(header), prefetch }).await;
    context.carry_out(&args.asked, call).await
}
