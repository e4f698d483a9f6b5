//! `dormouse destroy-orphan`: ends a process that the agent has started and that no sandbox claims.

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::{json, output};
use crate::proto::{DestroyOrphanRequest, OrphansRequest};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The process, as `dormouse ls --orphans` lists it
    #[arg(value_name = "PID")]
    pid: i32,

    /// The idempotency key, in the ledger. Without one, the agent makes one up
    #[arg(long, value_name = "KEY")]
    request_id: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let mut agent = context.agent().await?;
    let listed = agent.orphans(OrphansRequest {}).await.map_err(|status| Failure::of_status(&status))?;
    let orphan = listed.into_inner().orphans.into_iter().find(|orphan| orphan.pid == args.pid);
    // Which process it is, is said by its start: what has its pid later is another one. A pid that is not listed is asked
    // for all the same, so that the agent says what is wrong.
    let start_time_ticks = orphan.map(|orphan| orphan.start_time_ticks).unwrap_or_default();
    let request_id = args.request_id.unwrap_or_default();
    let request = DestroyOrphanRequest { pid: args.pid, start_time_ticks, request_id };
    let ended =
        agent.destroy_orphan(request).await.map_err(|status| Failure::of_status(&status))?.into_inner();
    if context.json {
        output::print_json(&json::orphan(&ended))?;
    } else {
        let key = ended.key.unwrap_or_default();
        output::print(&format!("process {} of {}/{} is gone\n", ended.pid, key.org, key.sandbox))?;
    }
    Ok(Exit::Done)
}
