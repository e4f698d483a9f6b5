//! `dormouse suppress`: lets a sandbox's time be free.

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::SuppressRequest;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// Why, for whoever reads the bill: it is on every slice of the time
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let reason = args.reason;
    let call = async |mut agent: Agent, header| {
        agent.suppress(SuppressRequest { header: Some(header), reason }).await
    };
    context.carry_out(&args.asked, call).await
}
