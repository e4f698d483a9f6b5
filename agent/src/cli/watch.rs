//! `dormouse watch`: follows what changes.

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::table::printable;
use super::target::org_of;
use super::when::rfc3339;
use super::{json, output, show};
use crate::proto::{WatchEvent, WatchRequest};

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this sandbox [default: all]
    #[arg(value_name = "ID")]
    id: Option<String>,

    /// Only this org's [default: all; with an ID, default]
    #[arg(long)]
    org: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let org = org_of(args.org, args.id.as_ref());
    let request = WatchRequest { org, sandbox: args.id.unwrap_or_default() };
    let failed = |status| Failure::of_status(&status);
    let mut events = context.agent().await?.watch(request).await.map_err(failed)?.into_inner();
    while let Some(event) = events.message().await.map_err(failed)? {
        if context.json {
            output::print_json_line(&json::watch_event(&event))?;
        } else {
            output::print(&line(&event))?;
        }
    }
    Ok(Exit::Done)
}

fn line(event: &WatchEvent) -> String {
    let sandbox = event.sandbox.as_ref().map(show::in_short);
    let operation = event.sandbox.as_ref().and_then(|sandbox| sandbox.operation.as_ref());
    let doing = operation.map(|operation| format!("{}: {}", operation.kind, operation.step));
    let said = (!event.message.is_empty()).then(|| event.message.clone());
    let words: Vec<_> = [sandbox, doing, said].into_iter().flatten().collect();
    let text =
        format!("{}  {:<8}  {:<10}  {}", rfc3339(event.unix_ns), event.kind, event.cause, words.join(" | "));
    format!("{}\n", printable(&text))
}
