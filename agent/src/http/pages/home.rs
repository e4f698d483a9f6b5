//! `/`: the org's sandboxes, each with its state, its size, and what it used in the last 30 days.

use axum::response::Html;
use dormouse_ledger::rfc3339;
use maud::{Markup, html};

use super::super::answers::{Sandbox, SandboxUsage, Slice};
use super::super::problem::Problem;
use super::bars::{SPARK_HEIGHT, SPARK_STEP, spark};
use super::fields::Fields;
use super::frame::{Refusal, Tab, frame};
use super::questions::{Questions, query};
use super::words;
use crate::size::Size;

const PER_PAGE: &str = "25";

/// A sandbox with what there is to say of it.
struct Row {
    sandbox: Sandbox,
    usage: SandboxUsage,
    /// The slice that was open at the end of the window, if one was.
    now: Option<Slice>,
}

/// `GET /`.
pub(super) async fn page(questions: Questions, fields: Fields) -> Result<Html<String>, Refusal> {
    let mut params = vec![("limit", PER_PAGE)];
    params.extend(fields.get("cursor").map(|cursor| ("cursor", cursor)));
    let listed = questions.sandboxes(&params).await?;
    let mut rows = Vec::new();
    for sandbox in listed.items {
        rows.push(row(&questions, sandbox).await?);
    }
    let main = html! {
        @if rows.is_empty() {
            p { "Your org has no sandboxes yet. They are here once an agent has seen them." }
        } @else {
            (table(&rows))
        }
        @if let Some(next) = &listed.next_cursor {
            p { a.more href={ "/?" (query(&[("cursor", next)])) } { "More sandboxes" } }
        }
    };
    Ok(frame("Sandboxes", Tab::Sandboxes, Some(&questions.token), &main))
}

async fn row(questions: &Questions, sandbox: Sandbox) -> Result<Row, Problem> {
    let usage = questions.usage_of(&sandbox.sandbox_id, &[("interval", "1d")]).await?;
    let (to, from) = (&usage.window.to, rfc3339(words::unix_ns(&usage.window.to).saturating_sub(1)));
    let (mut slices, _) = questions.slices(&sandbox.sandbox_id, &from, to).await?;
    let now = if sandbox.ended_at.is_none() { slices.pop() } else { None };
    Ok(Row { sandbox, usage, now })
}

fn table(rows: &[Row]) -> Markup {
    html! {
        div.wide role="region" aria-label="Sandboxes" tabindex="0" {
            table {
                caption { "By id, with those that have ended. Usage is of the last 30 days." }
                thead {
                    tr {
                        th scope="col" { "Sandbox" }
                        th scope="col" { "State" }
                        th.number scope="col" { "Memory" }
                        th.number scope="col" { "vCPUs" }
                        th scope="col" { "Tags" }
                        th.number scope="col" { "Memory GB-s" }
                        th.number scope="col" { "vCPU-s" }
                        th scope="col" { "Memory by day" }
                    }
                }
                tbody { @for row in rows { (line(row)) } }
            }
        }
    }
}

fn line(Row { sandbox, usage, now }: &Row) -> Markup {
    let [memory, _, vcpu] = words::amounts(&usage.amounts);
    let state = sandbox.lifecycle.as_str();
    let held = |slice: &Slice| Size(slice.memory_base_bytes.saturating_add(slice.memory_plugged_bytes));
    html! {
        tr {
            th scope="row" { a href={ "/sandboxes/" (sandbox.sandbox_id) } { (sandbox.sandbox_id) } }
            td { span class={ "state " (state) } { (state) } }
            td.number { @if let Some(slice) = now { (held(slice)) } @else { "–" } }
            td.number { @if let Some(slice) = now { (words::vcpus(slice.vcpus_milli)) } @else { "–" } }
            td { (tags(sandbox)) }
            td.number { (memory) }
            td.number { (vcpu) }
            td { (days(usage)) }
        }
    }
}

fn tags(sandbox: &Sandbox) -> Markup {
    html! {
        @for (key, value) in &sandbox.tags.tags {
            span.tag { (key) "=" (value) } " "
        }
    }
}

/// Memory by day, as small bars. The page of the sandbox, and of usage, tell the numbers.
fn days(usage: &SandboxUsage) -> Markup {
    let points = usage.points.as_deref().unwrap_or_default();
    let amounts: Vec<i128> =
        points.iter().map(|point| words::integer(&point.amounts.memory_byte_nanoseconds)).collect();
    let (days, busy) = (amounts.len(), amounts.iter().filter(|amount| **amount > 0).count());
    let width = SPARK_STEP * i64::try_from(days).unwrap_or_default();
    html! {
        svg.spark role="img" width=(width) height=(SPARK_HEIGHT)
            aria-label={ "Used on " (busy) " of " (days) " days" } {
            @for [x, y, width, height] in spark(&amounts) {
                rect x=(x) y=(y) width=(width) height=(height) {}
            }
            line.axis x1="0" y1=(SPARK_HEIGHT) x2=(width) y2=(SPARK_HEIGHT) {}
        }
    }
}
