//! `/sandboxes/{id}`: what one sandbox went through, as a picture and as a table with reasons; its usage; its tags.

use std::ops::Range;

use axum::response::Html;
use dormouse_ledger::rfc3339;
use maud::{Markup, html};

use super::super::answers::{Sandbox, SandboxUsage};
use super::super::problem::Problem;
use super::super::sandboxes::SandboxId;
use super::fields::Fields;
use super::frame::{Refusal, Tab, frame};
use super::picture::picture;
use super::questions::Questions;
use super::tags::{self, Draft};
use super::timeline::{self, Stretch, stretches};
use super::words;
use crate::calendar::{duration, uncertain};
use crate::words::why;

const SECOND_NS: i64 = 1_000_000_000;
const DAY_NS: i64 = 86_400 * SECOND_NS;

/// How much of a life is shown.
pub(super) const WINDOWS: [(&str, &str, i64); 5] = [
    ("1h", "1 hour", DAY_NS / 24),
    ("24h", "24 hours", DAY_NS),
    ("7d", "7 days", 7 * DAY_NS),
    ("30d", "30 days", 30 * DAY_NS),
    ("90d", "90 days", 90 * DAY_NS),
];
const WINDOW_DEFAULT: (&str, i64) = ("24h", DAY_NS);

/// What a page is made of.
struct Life {
    sandbox: Sandbox,
    window: Range<i64>,
    last: &'static str,
    stretches: Vec<Stretch>,
    is_cut_short: bool,
    usage: SandboxUsage,
    usage_of_month: SandboxUsage,
}

/// `GET /sandboxes/{id}`.
pub(super) async fn page(
    questions: Questions,
    SandboxId(id): SandboxId,
    fields: Fields,
) -> Result<Html<String>, Refusal> {
    render(&questions, &id, &fields, None).await.map_err(Into::into)
}

/// The page, with a form for tags that was refused, if one was.
pub(super) async fn render(
    questions: &Questions,
    id: &str,
    fields: &Fields,
    draft: Option<&Draft>,
) -> Result<Html<String>, Problem> {
    let life = life(questions, id, fields.get("last")).await?;
    let main = html! {
        (summary(&life))
        section aria-labelledby="life" {
            h2 #life { "Life" }
            (windows(&life))
            (drawn(&life))
            (table(&life))
        }
        section aria-labelledby="used" { h2 #used { "Usage" } (usage(&life)) }
        section aria-labelledby="tags" {
            h2 #tags tabindex="-1" { "Tags" }
            @if fields.get("saved").is_some() { p.done role="status" { "Tags are saved." } }
            (tags::form(&life.sandbox, questions.may_tag(), draft))
        }
    };
    Ok(frame(&format!("Sandbox {id}"), Tab::Sandboxes, Some(&questions.token), &main))
}

async fn life(questions: &Questions, id: &str, last: Option<&str>) -> Result<Life, Problem> {
    let sandbox = questions.sandbox(id).await?;
    let now_unix_ns = questions.now_unix_ns().await?;
    let known = WINDOWS.iter().find(|(name, ..)| Some(*name) == last);
    let (last, length_ns) = known.map_or(WINDOW_DEFAULT, |(name, _, length_ns)| (*name, *length_ns));
    let window = window(&sandbox, now_unix_ns, length_ns);
    let (from, to) = (rfc3339(window.start), rfc3339(window.end));
    let (slices, is_cut_short) = questions.slices(id, &from, &to).await?;
    let usage = questions.usage_of(id, &[("from", from.as_str()), ("to", to.as_str())]).await?;
    let usage_of_month = questions.usage_of(id, &[]).await?;
    let stretches = stretches(&slices, now_unix_ns, questions.rules());
    Ok(Life { sandbox, window, last, stretches, is_cut_short, usage, usage_of_month })
}

/// The last part of its life: no longer than was asked, and no longer than its life.
fn window(sandbox: &Sandbox, now_unix_ns: i64, length_ns: i64) -> Range<i64> {
    let end = sandbox.ended_at.as_deref().map_or(now_unix_ns, words::unix_ns);
    // An earlier generation may have lived before this one was created.
    let start = end.saturating_sub(length_ns);
    let created = words::unix_ns(&sandbox.created_at);
    start.max(created).min(end.saturating_sub(SECOND_NS))..end
}

fn summary(life: &Life) -> Markup {
    let Life { sandbox, stretches, .. } = life;
    let now = stretches.last().filter(|stretch| stretch.is_open);
    html! {
        dl.summary {
            div { dt { "State" } dd { (sandbox.lifecycle) } }
            @if let Some(stretch) = now {
                div { dt { "Memory" } dd { (stretch.memory()) } }
                div { dt { "vCPUs" } dd { (words::vcpus(stretch.vcpus_milli)) } }
                div { dt { "Billed now" } dd { (words::billed_in_words(stretch.billed)) } }
            }
            div { dt { "Since" } dd { (words::moment(&sandbox.created_at)) } }
            @if let Some(ended) = &sandbox.ended_at { div { dt { "Ended" } dd { (words::moment(ended)) } } }
            div { dt { "Plan" } dd { (sandbox.plan.as_deref().unwrap_or("not known here")) } }
        }
    }
}

fn windows(life: &Life) -> Markup {
    html! {
        nav.windows aria-label="How much of its life" {
            @for (name, words, _) in WINDOWS {
                a href={ "?last=" (name) } aria-current=[(name == life.last).then_some("true")] {
                    span.unseen { "The last " } (words)
                }
            }
        }
    }
}

fn drawn(life: &Life) -> Markup {
    let (from, to) = (rfc3339(life.window.start), rfc3339(life.window.end));
    let describes = format!(
        "{} stretches of its life, from {} until {}. Height is memory. The table below has the same in words.",
        life.stretches.len(),
        words::moment(&from),
        words::moment(&to)
    );
    let shapes = timeline::shapes(&life.stretches, &life.window);
    html! {
        @if life.stretches.is_empty() {
            p { "It has no time in this window." }
        } @else {
            (picture("timeline", timeline::HEIGHT, "What ran when, and what was billed", &describes, &shapes))
            p.legend aria-hidden="true" {
                span.key.solid {} " billed " span.key.hatched {} " not billed"
            }
        }
        @if life.is_cut_short {
            p.alert { "This window has more slices than are read for a page: ask for a shorter one." }
        }
    }
}

fn table(life: &Life) -> Markup {
    html! {
        div.wide role="region" aria-label="Slices" tabindex="0" {
            table {
                caption {
                    "Slices with their reasons; those that only a full hour or a tick has cut stand in one line. "
                    "Behind ± stands by how much a duration may be wrong."
                }
                thead {
                    tr {
                        th scope="col" { "Slices" }
                        th scope="col" { "From" }
                        th.number scope="col" { "For" }
                        th scope="col" { "State" }
                        th.number scope="col" { "Memory" }
                        th.number scope="col" { "vCPUs" }
                        th scope="col" { "Billed" }
                        th scope="col" { "Begins because" }
                        th scope="col" { "Ends because" }
                    }
                }
                tbody { @for stretch in &life.stretches { (line(stretch)) } }
            }
        }
    }
}

fn line(stretch: &Stretch) -> Markup {
    let (first, last) = stretch.seqs;
    let fault = stretch.state.and_then(dormouse_metering::BillingState::fault);
    html! {
        tr {
            th scope="row" { (first) @if last > first { "–" (last) } }
            td.time { (words::moment(&rfc3339(stretch.place.start))) }
            td.number {
                (duration(stretch.duration_ns))
                @if let Some(by) = uncertain(stretch.uncertainty_ns) {
                    " " span.why { (by) }
                }
            }
            td {
                span class={ "state " (stretch.state_name) } { (stretch.state_name) }
                @if let Some(fault) = fault { " (" (fault.as_str()) ")" }
            }
            td.number { (stretch.memory()) }
            td.number { (words::vcpus(stretch.vcpus_milli)) }
            td {
                (words::billed_in_words(stretch.billed))
                @if !(stretch.billed.memory && stretch.billed.vcpu && stretch.billed.disk) {
                    @if let Some(state) = stretch.state { span.why { ": " (words::why_of_state(state)) } }
                }
            }
            td { (why(&stretch.opened_by)) }
            td {
                @if let Some(cause) = &stretch.closed_by { (why(cause)) } @else { "goes on" }
                @if let Some(command) = &stretch.command_id {
                    " " code.why title={ "Command " (command) } { (short(command)) }
                }
            }
        }
    }
}

/// Enough of a request id to know it by.
fn short(command: &str) -> String {
    const CHARS_MAX: usize = 16;
    if command.chars().count() <= CHARS_MAX {
        return command.to_owned();
    }
    format!("{}…", command.chars().take(CHARS_MAX / 2).collect::<String>())
}

fn usage(life: &Life) -> Markup {
    let rows = [("The window above", &life.usage), ("The last 30 days", &life.usage_of_month)];
    html! {
        div.wide role="region" aria-label="Amounts" tabindex="0" {
            table {
                caption { "What is billed of it, and the exact integers beside it." }
                thead {
                    tr {
                        th scope="col" { "Of" }
                        th.number scope="col" { "Memory GB-s" }
                        th.number scope="col" { "Disk overage GB-s" }
                        th.number scope="col" { "vCPU-s" }
                        th.number scope="col" { "Memory byte-ns" }
                        th.number scope="col" { "vCPU milli-ns" }
                    }
                }
                tbody {
                    @for (name, usage) in rows {
                        tr {
                            th scope="row" { (name) }
                            @for amount in words::amounts(&usage.amounts) { td.number { (amount) } }
                            td.number.exact { (usage.amounts.memory_byte_nanoseconds) }
                            td.number.exact { (usage.amounts.vcpu_milli_nanoseconds) }
                        }
                    }
                }
            }
        }
    }
}
