//! `dormouse slices`: prints the billing slices.

use std::path::PathBuf;

use dormouse_ledger::SliceRow;

use super::context::{Agent, Context};
use super::exit::Exit;
use super::failure::Failure;
use super::output::{self, JsonList};
use super::show::TIMELINE_WIDTH;
use super::table::terminal_width;
use super::target::{org_of, sandbox_filter};
use super::{ledger, timeline};
use crate::control::slice_row;
use crate::proto::SlicesRequest;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Only this sandbox [default: all]
    #[arg(value_name = "ID")]
    id: Option<String>,

    /// Only this org's [default: all; with an ID, default]
    #[arg(long)]
    org: Option<String>,

    /// Read this ledger, without an agent
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let org = org_of(args.org, args.id.as_ref());
    let request = SlicesRequest { org, sandbox: args.id.unwrap_or_default() };
    let mut rows = Vec::new();
    let mut list = JsonList::default();
    let each = |slice| {
        if context.json {
            return list.print(&slice);
        }
        rows.push(slice);
        Ok(())
    };
    match args.ledger {
        Some(path) => each_of_ledger(path, &request, each)?,
        None => self::each(&mut context.agent().await?, request, each).await?,
    }
    if context.json {
        list.end()?;
    } else if rows.is_empty() {
        eprintln!("there are no slices");
    } else {
        output::print(&timeline::render(&rows, terminal_width().unwrap_or(TIMELINE_WIDTH)))?;
    }
    Ok(Exit::Done)
}

/// Calls `each` with the slices that the agent tells, in order.
pub(super) async fn each(
    agent: &mut Agent,
    request: SlicesRequest,
    mut each: impl FnMut(SliceRow) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |status| Failure::of_status(&status);
    let mut slices = agent.slices(request).await.map_err(failed)?.into_inner();
    while let Some(slice) = slices.message().await.map_err(failed)? {
        each(slice_row(slice))?;
    }
    Ok(())
}

fn each_of_ledger(
    path: PathBuf,
    request: &SlicesRequest,
    mut each: impl FnMut(SliceRow) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let questions = ledger::questions(path)?;
    let mut told = Ok(());
    let now = questions.last_known()?;
    questions.slices(sandbox_filter(&request.org, &request.sandbox), now, |slice| {
        told = each(slice);
        told.is_ok()
    })?;
    told
}
