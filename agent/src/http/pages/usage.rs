//! `/usage`: what the org used by the values of a tag, or by sandbox, over time.

use std::ops::Range;

use axum::response::Html;
use dormouse_ledger::rfc3339;
use maud::{Markup, html};

use super::super::answers::{Amounts, KeyInUse, PointOfTime, Usage, UsageItem};
use super::super::problem::Problem;
use super::bars::{self, LOOK_OF_OTHERS, LOOK_OF_UNTAGGED, LOOKS, Series};
use super::fields::Fields;
use super::frame::{Refusal, Tab, frame};
use super::picture::picture;
use super::questions::{Questions, query};
use super::sandbox::WINDOWS;
use super::words;

/// Up to so long a window is shown by the hour.
const HOURLY_NS_MAX: i64 = 2 * 86_400_000_000_000;
const BY_SANDBOX: &str = "sandbox";
const WINDOW_DEFAULT: usize = 3;

/// The question that a page answers.
struct Question {
    group_by: String,
    last: &'static str,
    from: String,
    to: String,
    interval: &'static str,
    cursor: Option<String>,
}

/// `GET /usage`.
pub(super) async fn page(questions: Questions, fields: Fields) -> Result<Html<String>, Refusal> {
    let keys = questions.tag_keys().await?;
    let question = Question::new(&fields, &keys, questions.now_unix_ns().await?);
    let mut params = question.params();
    params.push(("groupBy", question.group_by.as_str()));
    params.extend(question.cursor.as_deref().map(|cursor| ("cursor", cursor)));
    let usage = questions.usage(&params).await?;
    let series =
        if question.cursor.is_none() { question.series(&questions, &usage).await? } else { Vec::new() };
    let points: Vec<_> = usage.points.iter().flatten().map(place).collect();
    let main = html! {
        (choice(&question, &keys))
        p.hint { "From " (words::minute(&usage.window.from)) " until " (words::minute(&usage.window.to)) ". "
            "Tags count as they are now. Memory is what is " (usage.basis) "." }
        @if !series.is_empty() {
            section aria-labelledby="over-time" {
                h2 #over-time { "Memory over time, in GB-seconds" }
                (drawn(&points, &series))
                (by_time(&points, &series))
            }
        }
        section aria-labelledby="in-all" { h2 #in-all { "In all" } (items(&question, &usage)) }
    };
    Ok(frame("Usage", Tab::Usage, Some(&questions.token), &main))
}

impl Question {
    fn new(fields: &Fields, keys: &[KeyInUse], now_unix_ns: i64) -> Self {
        let by_default = || keys.first().map_or(BY_SANDBOX.to_owned(), |key| format!("tag:{}", key.key));
        let known = WINDOWS.iter().find(|(name, ..)| Some(*name) == fields.get("last"));
        let (last, _, length_ns) = *known.unwrap_or(&WINDOWS[WINDOW_DEFAULT]);
        // A later page goes on in the window of the first.
        let (from, to) = match (fields.get("from"), fields.get("to")) {
            (Some(from), Some(to)) => (from.to_owned(), to.to_owned()),
            _ => (rfc3339(now_unix_ns.saturating_sub(length_ns)), rfc3339(now_unix_ns)),
        };
        let group_by = fields.get("groupBy").map_or_else(by_default, str::to_owned);
        let interval = if length_ns <= HOURLY_NS_MAX { "1h" } else { "1d" };
        Self { group_by, last, from, to, interval, cursor: fields.get("cursor").map(str::to_owned) }
    }

    fn params(&self) -> Vec<(&str, &str)> {
        vec![("from", self.from.as_str()), ("to", self.to.as_str()), ("interval", self.interval)]
    }

    /// The greatest items by time, what is untagged, and what is left of the total.
    async fn series(&self, questions: &Questions, usage: &Usage) -> Result<Vec<Series>, Problem> {
        let total = amounts(usage.points.as_deref());
        let (mut series, mut others) = (Vec::new(), total);
        let mut looks = LOOKS.into_iter();
        for item in &usage.items {
            let Some(amounts) = self.of_item(questions, item).await? else { continue };
            let Some(look) = looks.next() else { break };
            subtract(&mut others, &amounts);
            series.push(Series { name: name(item).to_owned(), look, amounts });
        }
        if let Some(key) = self.group_by.strip_prefix("tag:") {
            let amounts = self.filtered(questions, key, "").await?;
            subtract(&mut others, &amounts);
            series.push(Series { name: "untagged".to_owned(), look: LOOK_OF_UNTAGGED, amounts });
        }
        series.push(Series { name: "others".to_owned(), look: LOOK_OF_OTHERS, amounts: others });
        series.retain(|one| one.amounts.iter().any(|amount| *amount > 0));
        Ok(series)
    }

    /// An item by time; `None` where a filter cannot say it: it stays among the others.
    async fn of_item(&self, questions: &Questions, item: &UsageItem) -> Result<Option<Vec<i128>>, Problem> {
        if let Some(id) = &item.sandbox_id {
            let usage = questions.usage_of(id, &self.params()).await?;
            return Ok(Some(amounts(usage.points.as_deref())));
        }
        match (self.group_by.strip_prefix("tag:"), item.value.as_deref()) {
            (Some(key), Some(value)) if !value.is_empty() && !value.contains(',') => {
                Ok(Some(self.filtered(questions, key, value).await?))
            }
            _ => Ok(None),
        }
    }

    async fn filtered(&self, questions: &Questions, key: &str, value: &str) -> Result<Vec<i128>, Problem> {
        let filter = format!("filter[tag:{key}]");
        let mut params = self.params();
        params.extend([(filter.as_str(), value), ("limit", "1")]);
        Ok(amounts(questions.usage(&params).await?.points.as_deref()))
    }
}

fn amounts(points: Option<&[PointOfTime]>) -> Vec<i128> {
    let memory = |point: &PointOfTime| words::integer(&point.amounts.memory_byte_nanoseconds);
    points.unwrap_or_default().iter().map(memory).collect()
}

fn subtract(from: &mut [i128], amounts: &[i128]) {
    for (left, amount) in from.iter_mut().zip(amounts) {
        *left = left.saturating_sub(*amount);
    }
}

fn place(point: &PointOfTime) -> Range<i64> {
    words::unix_ns(&point.window.from)..words::unix_ns(&point.window.to)
}

fn name(item: &UsageItem) -> &str {
    item.sandbox_id.as_deref().or(item.value.as_deref()).unwrap_or_default()
}

fn choice(question: &Question, keys: &[KeyInUse]) -> Markup {
    let by = |key: &KeyInUse| format!("tag:{}", key.key);
    html! {
        form.choice method="get" action="/usage" {
            label { "By"
                select name="groupBy" {
                    @for key in keys {
                        option value=(by(key)) selected[by(key) == question.group_by] { "tag " (key.key) }
                    }
                    option value=(BY_SANDBOX) selected[question.group_by == BY_SANDBOX] { "sandbox" }
                }
            }
            label { "Over the last"
                select name="last" {
                    @for (name, words, _) in WINDOWS {
                        option value=(name) selected[name == question.last] { (words) }
                    }
                }
            }
            button type="submit" { "Show" }
        }
    }
}

fn drawn(points: &[Range<i64>], series: &[Series]) -> Markup {
    let describes = format!(
        "{} bars; in each, one part for each of: {}. The table below has the numbers.",
        points.len(),
        series.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ")
    );
    let shapes = bars::shapes(points, series);
    html! {
        (picture("bars", bars::HEIGHT, "Bars of memory over time, in GB-seconds", &describes, &shapes))
        ul.legend aria-label="Colours" {
            @for one in series {
                li { svg.key aria-hidden="true" viewBox="0 0 12 12" { rect class=(one.look) width="12" height="12" {} } (one.name) }
            }
        }
    }
}

fn by_time(points: &[Range<i64>], series: &[Series]) -> Markup {
    let amount = |one: &Series, index: usize| one.amounts.get(index).copied().unwrap_or_default();
    html! {
        details {
            summary { "The same as a table" }
            div.wide role="region" aria-label="Memory by hour or day" tabindex="0" {
                table {
                    caption { "Memory in GB-seconds; an hour or a day each, in which something was used." }
                    thead {
                        tr {
                            th scope="col" { "From" }
                            @for one in series { th.number scope="col" { (one.name) } }
                        }
                    }
                    tbody {
                        @for (index, point) in points.iter().enumerate() {
                            @if series.iter().any(|one| amount(one, index) > 0) {
                                tr {
                                    th scope="row" { (words::minute(&rfc3339(point.start))) }
                                    @for one in series { td.number { (words::gb_seconds(amount(one, index))) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn items(question: &Question, usage: &Usage) -> Markup {
    let is_by_sandbox = question.group_by == BY_SANDBOX;
    html! {
        div.wide role="region" aria-label="Usage in all" tabindex="0" {
            table {
                caption { "The greatest first. The total is of everything, whichever page." }
                thead {
                    tr {
                        th scope="col" { (question.group_by.strip_prefix("tag:").unwrap_or("Sandbox")) }
                        th.number scope="col" { "Memory GB-s" }
                        th.number scope="col" { "Disk overage GB-s" }
                        th.number scope="col" { "vCPU-s" }
                        th.number scope="col" { "Memory byte-ns" }
                    }
                }
                tbody {
                    @for item in &usage.items {
                        (line(&html! {
                            @if is_by_sandbox { a href={ "/sandboxes/" (name(item)) } { (name(item)) } }
                            @else { (name(item)) }
                        }, &item.amounts))
                    }
                    @if let Some(untagged) = &usage.untagged { (line(&html! { em { "untagged" } }, untagged)) }
                }
                tfoot { (line(&html! { "Total" }, &usage.total)) }
            }
        }
        @if let Some(next) = &usage.next_cursor {
            @let params = [("groupBy", question.group_by.as_str()), ("last", question.last),
                ("from", question.from.as_str()), ("to", question.to.as_str()), ("cursor", next.as_str())];
            p { a.more href={ "/usage?" (query(&params)) } { "More" } }
        }
    }
}

fn line(name: &Markup, amounts: &Amounts) -> Markup {
    html! {
        tr {
            th scope="row" { (name) }
            @for amount in words::amounts(amounts) { td.number { (amount) } }
            td.number.exact { (amounts.memory_byte_nanoseconds) }
        }
    }
}
