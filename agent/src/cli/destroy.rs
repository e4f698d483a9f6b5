//! `dormouse destroy`: ends a sandbox.

use super::context::{Agent, Context};
use super::duration;
use super::exit::Exit;
use super::failure::Failure;
use super::target::Asked;
use crate::proto::DestroyRequest;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    asked: Asked,

    /// Let the guest power itself off first, for so long (500ms, 30s, 2m)
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30s",
        value_parser = duration::parse_ms
    )]
    graceful: Option<u64>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let graceful_ms = args.graceful.unwrap_or_default();
    let call = async |mut agent: Agent, header| {
        agent.destroy(DestroyRequest { header: Some(header), graceful_ms }).await
    };
    context.carry_out(&args.asked, call).await
}
