//! `dormouse outbox`: how far each sink is behind the outbox, and the events themselves.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::table::{Column, render, terminal_width};
use super::when::rfc3339;
use super::{ledger, output};
use crate::calendar::duration;
use crate::control;
use crate::proto::{ExportEventsRequest, OutboxReply, OutboxRequest, Sink};
use crate::words::counted;

const COLUMNS: [Column; 6] = [
    Column::text("SINK"),
    Column::number("ACKNOWLEDGED"),
    Column::number("LAG"),
    Column::number("AGE"),
    Column::text("SINCE"),
    Column::long("ERROR"),
];

#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Print the events that are kept, one `CloudEvent` a line, byte for byte as they are sent
    #[arg(long)]
    export: bool,

    /// With --export: only the events after this number
    #[arg(long, value_name = "NUMBER", default_value_t = 0, requires = "export")]
    after: u64,

    /// Read this ledger, without an agent
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    if args.export {
        return export(args, context).await;
    }
    let reply = if let Some(path) = args.ledger {
        control::outbox(ledger::questions(path)?.outbox()?, Context::now_unix_ns()?)
    } else {
        let reply = context.agent().await?.outbox(OutboxRequest {}).await;
        reply.map_err(|status| Failure::of_status(&status))?.into_inner()
    };
    if context.json {
        output::print_json(&json_of(&reply))?;
    } else {
        output::print(&describe(&reply))?;
    }
    Ok(Exit::Done)
}

async fn export(args: Args, context: &Context) -> Result<Exit, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    let failed = |error: io::Error| Failure::new(format!("standard output cannot be written: {error}"));
    let mut line = |payload: &[u8]| out.write_all(payload).and_then(|()| out.write_all(b"\n"));
    if let Some(path) = args.ledger {
        let mut written = Ok(());
        ledger::questions(path)?.events(args.after, |event| {
            written = line(&event.payload);
            written.is_ok()
        })?;
        written.map_err(failed)?;
    } else {
        let failed_to_ask = |status| Failure::of_status(&status);
        let request = ExportEventsRequest { after_seq: args.after };
        let mut events =
            context.agent().await?.export_events(request).await.map_err(failed_to_ask)?.into_inner();
        while let Some(event) = events.message().await.map_err(failed_to_ask)? {
            line(&event.payload).map_err(failed)?;
        }
    }
    out.flush().map_err(failed)?;
    Ok(Exit::Done)
}

fn describe(reply: &OutboxReply) -> String {
    let kept = reply.last_seq.saturating_sub(reply.retained_after_seq);
    let summary = format!("{} kept, the last is number {}\n", counted(kept, "event"), reply.last_seq);
    if reply.sinks.is_empty() {
        return format!("{summary}no sink is configured: events wait here\n");
    }
    let rows: Vec<_> = reply.sinks.iter().map(row).collect();
    format!("{}{summary}", render(COLUMNS, &rows, terminal_width()))
}

fn row(sink: &Sink) -> [String; 6] {
    let age = if sink.lag_events == 0 { String::new() } else { duration(sink.lag_age_ns) };
    [
        sink.name.clone(),
        sink.acknowledged_seq.to_string(),
        sink.lag_events.to_string(),
        age,
        rfc3339(sink.since_unix_ns),
        sink.error.clone(),
    ]
}

fn json_of(reply: &OutboxReply) -> Value {
    let sink = |sink: &Sink| {
        let has_error = !sink.error.is_empty();
        json!({
            "name": sink.name,
            "acknowledged_seq": sink.acknowledged_seq,
            "lag_events": sink.lag_events,
            "lag_age_ns": sink.lag_age_ns,
            "since_unix_ns": sink.since_unix_ns,
            "error": has_error.then_some(&sink.error),
            "error_unix_ns": has_error.then_some(sink.error_unix_ns),
        })
    };
    json!({
        "retained_after_seq": reply.retained_after_seq,
        "last_seq": reply.last_seq,
        "sinks": reply.sinks.iter().map(sink).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_age_and_error_of_each_sink_are_shown() {
        let mut reply = OutboxReply { retained_after_seq: 2, last_seq: 9, sinks: Vec::new() };
        assert!(
            describe(&reply).starts_with("7 events kept, the last is number 9\n"),
            "{}",
            describe(&reply)
        );
        assert!(describe(&reply).contains("no sink is configured"));
        reply.sinks.push(Sink {
            name: "fleet".to_owned(),
            acknowledged_seq: 4,
            lag_events: 5,
            lag_age_ns: 90_000_000_000,
            error: "refused [SINK_REFUSED]".to_owned(),
            ..Sink::default()
        });
        let text = describe(&reply);
        assert!(text.contains("fleet             4    5  1m 30s  1970"), "{text}");
        assert!(text.contains("refused [SINK_REFUSED]"), "{text}");
        assert_eq!(json_of(&reply)["sinks"][0]["lag_age_ns"], 90_000_000_000_u64);
    }
}
