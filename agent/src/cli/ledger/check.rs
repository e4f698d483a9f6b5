//! `dormouse ledger check`: names what holds an hour open.

use dormouse_ledger::fleet::{BrokenLink, Completeness, Lost, Missing, Quarantined, Silent};

use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::{output, when};
use crate::database::Database;
use crate::words::counted;

const HOUR_NS: i64 = 3_600 * 1_000_000_000;

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The time through which every host should be complete: 2026-03-01T12:00:00Z, -2h ... [default: the last full hour]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    through: Option<String>,
    /// Ask the hosts to send what is missing again; `dormouse ledger ingest` passes it on
    #[arg(long)]
    resend: bool,
}

pub(super) async fn run(args: Args, database: &Database, context: &Context) -> Result<Exit, Failure> {
    let now_ns = Context::now_unix_ns()?;
    let through_ns = match &args.through {
        Some(text) => when::parse(text, now_ns).map_err(Failure::usage)?,
        None => now_ns,
    };
    let mut ledger = database.open().await?;
    let found = ledger.check(through_ns - through_ns.rem_euclid(HOUR_NS)).await?;
    if args.resend {
        let requests = ledger.request_missing().await?;
        eprintln!("{} of events asked for", counted(requests, "run"));
    }
    if context.json {
        let document = serde_json::to_value(&found)
            .map_err(|error| Failure::new(format!("JSON cannot be written: {error}")))?;
        output::print_json(&document)?;
    } else {
        output::print(&describe(&found))?;
    }
    Ok(if found.is_clean() { Exit::Done } else { Exit::Anomaly })
}

fn describe(found: &Completeness) -> String {
    let missing = found.missing.iter().map(|Missing { source, first_seq, last_seq, holds_open_unix_ns }| {
        let (numbers, hour) = (numbers(*first_seq, *last_seq), hour(*holds_open_unix_ns));
        format!("{source}: {numbers} missing: {hour}\n")
    });
    let lost = found.lost.iter().map(|lost| {
        let Lost { source, first_seq, last_seq, holds_open_unix_ns, since_unix_ns } = lost;
        let (numbers, hour) = (numbers(*first_seq, *last_seq), hour(*holds_open_unix_ns));
        let since = when::rfc3339(*since_unix_ns);
        format!("{source}: {numbers} lost, and not kept by the host since {since}: {hour}: LOST_AT_SOURCE\n")
    });
    let silent = found.silent.iter().map(|Silent { source, complete_through_unix_ns, awaited_seq }| {
        let complete = complete_through_unix_ns.map_or_else(
            || "through no hour".to_owned(),
            |end_ns| format!("through {}", when::rfc3339(end_ns)),
        );
        format!("{source}: complete {complete}; event {awaited_seq} is awaited next\n")
    });
    let broken = found.broken.iter().map(|BrokenLink { source, host_seq }| {
        format!("{source}: event {host_seq} does not carry the hash of the event before it: BROKEN_LINK\n")
    });
    let quarantined = found
        .quarantined
        .iter()
        .map(|Quarantined { reason, messages }| format!("{messages} in quarantine: {reason}\n"));
    let verdict = if found.is_clean() { "everything is there" } else { "not everything is there" };
    let lines: String = missing.chain(lost).chain(silent).chain(broken).chain(quarantined).collect();
    format!(
        "{lines}checked {} through {}: {verdict}\n",
        counted(found.hosts, "host"),
        when::rfc3339(found.through_unix_ns)
    )
}

fn numbers(first_seq: i64, last_seq: i64) -> String {
    if first_seq == last_seq {
        format!("event {first_seq} is")
    } else {
        format!("events {first_seq} to {last_seq} are")
    }
}

/// Which hour a run of numbers holds open.
fn hour(end_unix_ns: Option<i64>) -> String {
    end_unix_ns.map_or_else(
        || "no hour is closed behind it yet".to_owned(),
        |end_ns| format!("the hour until {} stays open", when::rfc3339(end_ns)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_lost_is_told_with_the_hour_that_it_holds_open() {
        let mut found = Completeness { hosts: 2, ..Completeness::default() };
        assert_eq!(
            describe(&found),
            "checked 2 hosts through 1970-01-01T00:00:00.000Z: everything is there\n"
        );
        let source = "//dormouse/cell/h1".to_owned();
        found.missing.push(Missing {
            source: source.clone(),
            first_seq: 4,
            last_seq: 4,
            holds_open_unix_ns: Some(HOUR_NS),
        });
        found.lost.push(Lost {
            source: source.clone(),
            first_seq: 2,
            last_seq: 3,
            holds_open_unix_ns: None,
            since_unix_ns: 2 * HOUR_NS,
        });
        found.broken.push(BrokenLink { source: source.clone(), host_seq: 7 });
        found.silent.push(Silent { source, complete_through_unix_ns: None, awaited_seq: 9 });
        found.quarantined.push(Quarantined { reason: "OVERLAP".to_owned(), messages: 3 });
        assert_eq!(
            describe(&found),
            "//dormouse/cell/h1: event 4 is missing: the hour until 1970-01-01T01:00:00.000Z stays open\n\
             //dormouse/cell/h1: events 2 to 3 are lost, and not kept by the host since 1970-01-01T02:00:00.000Z: \
             no hour is closed behind it yet: LOST_AT_SOURCE\n\
             //dormouse/cell/h1: complete through no hour; event 9 is awaited next\n\
             //dormouse/cell/h1: event 7 does not carry the hash of the event before it: BROKEN_LINK\n\
             3 in quarantine: OVERLAP\n\
             checked 2 hosts through 1970-01-01T00:00:00.000Z: not everything is there\n"
        );
    }
}
