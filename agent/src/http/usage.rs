//! `GET /api/usage` and `GET /api/sandboxes/{id}/usage`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, RawQuery, State};
use dormouse_ledger::usage::{BreakdownQuery, DrilldownQuery, GroupBy, UsageLedger};
use dormouse_ledger::{LedgerError, TagsNow, Token, rfc3339};

use super::Shared;
use super::answers::{self, SandboxUsage, Usage, UsageItem};
use super::cursors::UsagePlace;
use super::problem::Problem;
use super::query::Params;
use super::sandboxes::SandboxId;

const OF_ORG: [&str; 10] =
    ["from", "to", "groupBy", "filter", "sort", "limit", "cursor", "interval", "basis", "attribution"];

/// An org's usage, broken down by sandbox or by the values of a tag.
#[utoipa::path(
    get,
    path = "/api/usage",
    params(
        ("from" = Option<String>, Query, format = DateTime, description = "Default: 30 days before `to`. A window has at most 90 days."),
        ("to" = Option<String>, Query, format = DateTime, description = "Exclusive. Default, and at most: now."),
        ("groupBy" = Option<String>, Query, pattern = "^(sandbox|tag:[A-Za-z0-9_.:-]{1,128})$", description = "`sandbox` (default) or `tag:` and a key; what has no tag of the key is in `untagged`."),
        ("filter" = Option<std::collections::BTreeMap<String, String>>, Query, style = DeepObject, explode, description = "`filter[tag:env]=a,b`: a or b. Different keys are all meant. An empty value: there is no tag of the key. At most 10 keys."),
        ("sort" = Option<String>, Query, pattern = "^-(memory|diskOverage)GbSeconds$", description = "`-memoryGbSeconds` (default) or `-diskOverageGbSeconds`. The sandbox's id, or the value, breaks ties."),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 500, description = "Default: 50."),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before, for the same question. All pages tell of one moment."),
        ("interval" = Option<String>, Query, pattern = "^1[hd]$", description = "`1h` or `1d`: adds points, which add up to the total."),
        ("basis" = Option<String>, Query, pattern = "^(plugged|requested|greater|lesser)$", description = "Which memory: `plugged`, `requested`, `greater` or `lesser`. Default: as configured."),
        ("attribution" = Option<String>, Query, pattern = "^(live|asof)$", description = "Tags as they are now (`live`, default) or as they were when the time passed (`asof`)."),
    ),
    responses((status = 200, body = Usage), Problem),
)]
pub(super) async fn usage(
    State(shared): State<Arc<Shared>>,
    Extension(token): Extension<Token>,
    RawQuery(query): RawQuery,
) -> Result<Json<Usage>, Problem> {
    let params = Params::read("/api/usage", &token, query.as_deref(), &OF_ORG)?;
    let (mut moment, now_unix_ns) = shared.moment().await?;
    let mut window = params.window(now_unix_ns)?;
    let after = match shared.place::<UsagePlace>(&params)? {
        None => None,
        Some(place) => {
            window = place.from_unix_ns..place.to_unix_ns;
            let (then, after) = place.read()?;
            moment = then;
            Some(after)
        }
    };
    let rules = params.rules(&shared.site.rules)?;
    let basis = rules.basis.name();
    let question = BreakdownQuery {
        org: token.org,
        window: window.clone(),
        moment,
        rules,
        group_by: params.group_by()?,
        filters: params.filters()?,
        attribution: params.attribution()?,
        sort: params.sort()?,
        interval: params.interval()?,
        limit: params.limit()?,
        after,
    };
    let group_by = match &question.group_by {
        GroupBy::Sandbox => "sandbox".to_owned(),
        GroupBy::Tag(key) => format!("tag:{key}"),
    };
    let (answer, tags) = shared
        .readers
        .ask(move |ledger, cancel| {
            let answer = ledger.breakdown(&question, cancel)?;
            let tags = tags_of(ledger, &question, answer.items.iter().map(|item| item.key.as_str()))?;
            Ok((answer, tags))
        })
        .await?;
    let next = answer.next.map(|place| UsagePlace::new(&window, moment, place));
    let items = answer.items.into_iter().zip(tags).map(|(item, tags)| {
        let (sandbox_id, value) =
            if tags.is_some() { (Some(item.key), None) } else { (None, Some(item.key)) };
        UsageItem { sandbox_id, value, amounts: item.amount.into(), tags: tags.map(Into::into) }
    });
    Ok(Json(Usage {
        window: (&window).into(),
        group_by,
        basis,
        items: items.collect(),
        untagged: answer.untagged.map(Into::into),
        total: answer.total.into(),
        points: answers::points(answer.points),
        next_cursor: shared.cursor(&params, next)?,
    }))
}

/// The tags of the sandboxes of a page; by tag there are none.
fn tags_of<'a>(
    ledger: &mut dyn UsageLedger,
    question: &BreakdownQuery,
    keys: impl Iterator<Item = &'a str>,
) -> Result<Vec<Option<TagsNow>>, LedgerError> {
    keys.map(|key| match question.group_by {
        GroupBy::Sandbox => ledger.tags(&question.org, key).map(Some),
        GroupBy::Tag(_) => Ok(None),
    })
    .collect()
}

/// One sandbox's usage, whether it still lives or not.
#[utoipa::path(
    get,
    path = "/api/sandboxes/{id}/usage",
    params(
        ("id" = String, Path),
        ("from" = Option<String>, Query, format = DateTime, description = "Default: 30 days before `to`. A window has at most 90 days."),
        ("to" = Option<String>, Query, format = DateTime, description = "Exclusive. Default, and at most: now."),
        ("interval" = Option<String>, Query, pattern = "^1[hd]$", description = "`1h` or `1d`: adds points, which add up to the whole."),
        ("basis" = Option<String>, Query, pattern = "^(plugged|requested|greater|lesser)$", description = "Which memory: `plugged`, `requested`, `greater` or `lesser`. Default: as configured."),
    ),
    responses((status = 200, body = SandboxUsage), Problem),
)]
pub(super) async fn of_sandbox(
    State(shared): State<Arc<Shared>>,
    Extension(token): Extension<Token>,
    SandboxId(id): SandboxId,
    RawQuery(query): RawQuery,
) -> Result<Json<SandboxUsage>, Problem> {
    let params =
        Params::read("/api/sandboxes/usage", &token, query.as_deref(), &["from", "to", "interval", "basis"])?;
    let (moment, now_unix_ns) = shared.moment().await?;
    let window = params.window(now_unix_ns)?;
    let rules = params.rules(&shared.site.rules)?;
    let basis = rules.basis.name();
    let question = DrilldownQuery {
        org: token.org,
        sandbox: id.clone(),
        window: window.clone(),
        moment,
        rules,
        interval: params.interval()?,
    };
    let answer = shared
        .readers
        .ask(move |ledger, cancel| {
            let answer = ledger.drilldown(&question, cancel)?;
            answer.map(|answer| Ok((answer, ledger.tags(&question.org, &question.sandbox)?))).transpose()
        })
        .await?;
    let Some((answer, tags)) = answer else { return Err(Problem::no_sandbox(&id)) };
    Ok(Json(SandboxUsage {
        sandbox_id: id,
        window: (&window).into(),
        basis,
        amounts: answer.amount.into(),
        first_started_at: answer.first_started_unix_ns.map(rfc3339),
        last_ended_at: answer.last_ended_unix_ns.map(rfc3339),
        tags: tags.into(),
        points: answers::points(answer.points),
    }))
}
