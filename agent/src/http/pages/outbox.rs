//! `/outbox`: how far the host's sinks are behind. It tells nothing of any org: lag is of the host.

use axum::response::Html;
use dormouse_ledger::{OutboxStanding, SinkStanding, rfc3339};
use maud::{Markup, html};

use super::frame::{Refusal, Tab, frame};
use super::questions::Questions;
use super::words;
use crate::calendar::duration;

/// `GET /outbox`.
pub(super) async fn page(questions: Questions) -> Result<Html<String>, Refusal> {
    let OutboxStanding { sinks, .. } = questions.outbox().await?;
    let now_unix_ns = questions.now_unix_ns().await?;
    let main = html! {
        p {
            "What is durable in the ledger is sent to every sink. A sink that is behind loses nothing: it gets "
            "what it lacks, in order, once it takes it."
        }
        @if sinks.is_empty() {
            p { "No sink is configured here: events wait in the ledger." }
        } @else {
            (table(&sinks, now_unix_ns))
        }
    };
    Ok(frame("Outbox", Tab::Outbox, Some(&questions.token), &main))
}

fn table(sinks: &[SinkStanding], now_unix_ns: i64) -> Markup {
    html! {
        div.wide role="region" aria-label="Sinks" tabindex="0" {
            table {
                caption { "Every sink of the host, with what it lacks of all orgs together." }
                thead {
                    tr {
                        th scope="col" { "Sink" }
                        th scope="col" { "State" }
                        th.number scope="col" { "Events behind" }
                        th.number scope="col" { "Oldest is" }
                        th scope="col" { "Last took something" }
                    }
                }
                tbody { @for sink in sinks { (line(sink, now_unix_ns)) } }
            }
        }
        p.hint { "Why a sink fails, and where it is, is for the host's operator: " code { "dormouse outbox" } "." }
    }
}

fn line(sink: &SinkStanding, now_unix_ns: i64) -> Markup {
    let age_ns = sink.oldest_unix_ns.map(|oldest| now_unix_ns.saturating_sub(oldest).max(0).unsigned_abs());
    let (look, state) = match (sink.lag_events, &sink.error) {
        (0, _) => ("running", "up to date"),
        (_, None) => ("waking", "behind"),
        (_, Some(_)) => ("faulted", "failing"),
    };
    html! {
        tr {
            th scope="row" { (sink.name) }
            td { span class={ "state " (look) } { (state) } }
            td.number { (words::grouped(&sink.lag_events.to_string())) }
            td.number { @if let Some(age_ns) = age_ns { (duration(age_ns)) " old" } @else { "–" } }
            td.time { (words::moment(&rfc3339(sink.since_unix_ns))) }
        }
    }
}
