//! `dormouse wake`: continues a hibernated guest.

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::WakeRequest;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// Begin the guest anew: what its memory held is given up, whether it could be loaded or not
    #[arg(long)]
    cold: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let Args { asked, cold } = args;
    let call = async |mut agent: Agent, header| agent.wake(WakeRequest { header: Some(header), cold }).await;
    context.carry_out_long(&asked, call).await
}
