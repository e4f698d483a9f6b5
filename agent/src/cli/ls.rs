//! `dormouse ls`: lists the sandboxes.

use serde_json::Value;

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::table::{Column, render, terminal_width};
use super::{json, output, show};
use crate::proto::{
    ListRequest, Orphan, OrphansRequest, RejectedFile, RejectedReply, RejectedRequest, Sandbox,
};
use crate::size::Size;

const COLUMNS: [Column; 8] = [
    Column::long("ORG"),
    Column::long("SANDBOX"),
    Column::text("STATE"),
    Column::number("MEMORY"),
    Column::number("MAX"),
    Column::number("VCPUS"),
    Column::text("QMP"),
    Column::long("TAGS"),
];

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this org's
    #[arg(long)]
    org: Option<String>,

    /// The processes that the agent has started and that no sandbox claims, instead
    #[arg(long, conflicts_with = "org")]
    orphans: bool,

    /// What lies in the watched folder and is not taken as a sandbox, with the reason and what to do, instead
    #[arg(long, conflicts_with_all = ["org", "orphans"])]
    rejected: bool,
}

const ORPHAN_COLUMNS: [Column; 4] =
    [Column::number("PID"), Column::long("ORG"), Column::long("SANDBOX"), Column::long("STARTED BY REQUEST")];

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    if args.orphans {
        return list_orphans(context).await;
    }
    if args.rejected {
        return list_rejected(context).await;
    }
    let request = ListRequest { org: args.org.unwrap_or_default() };
    let reply = context.agent().await?.list(request).await.map_err(|status| Failure::of_status(&status))?;
    let sandboxes = reply.into_inner().sandboxes;
    if context.json {
        output::print_json(&sandboxes.iter().map(json::sandbox).collect::<Value>())?;
    } else if sandboxes.is_empty() {
        eprintln!("no sandbox is attached");
    } else {
        let rows: Vec<_> = sandboxes.iter().map(row).collect();
        output::print(&render(COLUMNS, &rows, terminal_width()))?;
    }
    Ok(Exit::Done)
}

async fn list_orphans(context: &Context) -> Result<Exit, Failure> {
    let mut agent = context.agent().await?;
    let reply = agent.orphans(OrphansRequest {}).await.map_err(|status| Failure::of_status(&status))?;
    let orphans = reply.into_inner().orphans;
    if context.json {
        output::print_json(&orphans.iter().map(json::orphan).collect::<Value>())?;
    } else if orphans.is_empty() {
        eprintln!("every process that the agent has started belongs to a sandbox");
    } else {
        let row = |orphan: Orphan| {
            let key = orphan.key.unwrap_or_default();
            [orphan.pid.to_string(), key.org, key.sandbox, orphan.request_id]
        };
        let rows: Vec<_> = orphans.into_iter().map(row).collect();
        output::print(&render(ORPHAN_COLUMNS, &rows, terminal_width()))?;
    }
    Ok(Exit::Done)
}

async fn list_rejected(context: &Context) -> Result<Exit, Failure> {
    let mut agent = context.agent().await?;
    let reply = agent.rejected(RejectedRequest {}).await.map_err(|status| Failure::of_status(&status))?;
    let RejectedReply { files, total } = reply.into_inner();
    let more = total.saturating_sub(u64::try_from(files.len()).unwrap_or(u64::MAX));
    if context.json {
        output::print_json(&files.iter().map(json::rejected).collect::<Value>())?;
    } else if files.is_empty() {
        eprintln!("everything in the watched folder that looks like a sandbox is taken as one");
    } else {
        let line = |file: &RejectedFile| {
            let RejectedFile { path, reason, message, next } = file;
            format!("{path}: {message} [{reason}]\n       next: {next}\n")
        };
        output::print(&files.iter().map(line).collect::<String>())?;
    }
    if more > 0 {
        eprintln!("{more} more are not shown");
    }
    Ok(Exit::Done)
}

fn row(sandbox: &Sandbox) -> [String; 8] {
    let key = sandbox.key.clone().unwrap_or_default();
    let shape = sandbox.shape.unwrap_or_default();
    [
        key.org,
        key.sandbox,
        show::state(sandbox),
        Size(shape.memory_base_bytes + shape.memory_plugged_bytes).to_string(),
        Size(sandbox.memory_max_bytes).to_string(),
        show::vcpus(shape.vcpus_milli),
        sandbox.connection.clone(),
        show::tags(sandbox),
    ]
}
