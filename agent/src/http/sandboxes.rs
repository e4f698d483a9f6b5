//! `GET /api/sandboxes`, `/api/sandboxes/{id}` and `/api/sandboxes/{id}/slices`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, FromRequestParts, Path, RawQuery, State};
use axum::http::request::Parts;
use dormouse_ledger::Token;
use dormouse_ledger::usage::{SandboxEntry, SlicePlace, SlicesOf};
use serde::{Deserialize, Serialize};

use super::Shared;
use super::answers::{Sandbox, Sandboxes, Slices};
use super::problem::Problem;
use super::query::{Params, invalid};

/// The id in a request's path.
pub(super) struct SandboxId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for SandboxId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id)).map_err(|_| invalid("id", "is not UTF-8, percent-encoded"))
    }
}

/// A place in a list behind an item.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Behind(pub(super) String);

impl Behind {
    /// Takes the item that shows that there are more off a page that was read one too long.
    pub(super) fn page<T>(items: &mut Vec<T>, limit: usize, key: impl Fn(&T) -> &str) -> Option<Self> {
        if items.len() <= limit {
            return None;
        }
        items.truncate(limit);
        items.last().map(|item| Self(key(item).to_owned()))
    }
}

/// The org's sandboxes, by id, those that have ended too.
#[utoipa::path(
    get,
    path = "/api/sandboxes",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 500, description = "Default: 50."),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before."),
    ),
    responses((status = 200, body = Sandboxes), Problem),
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(token): Extension<Token>,
    RawQuery(query): RawQuery,
) -> Result<Json<Sandboxes>, Problem> {
    let params = Params::read("/api/sandboxes", &token, query.as_deref(), &["limit", "cursor"])?;
    let (limit, after) = (params.limit()?, shared.place::<Behind>(&params)?);
    let (items, next) = shared
        .readers
        .ask(move |ledger, cancel| {
            let after = after.map_or_else(String::new, |behind| behind.0);
            let mut entries = ledger.sandbox_entries(&token.org, &after, limit + 1, cancel)?;
            let next = Behind::page(&mut entries, limit, |entry| &entry.sandbox);
            let with_tags = |entry: SandboxEntry| {
                ledger.tags(&token.org, &entry.sandbox).map(|tags| Sandbox::new(entry, tags))
            };
            Ok((entries.into_iter().map(with_tags).collect::<Result<_, _>>()?, next))
        })
        .await?;
    Ok(Json(Sandboxes { items, next_cursor: shared.cursor(&params, next)? }))
}

/// One sandbox.
#[utoipa::path(
    get,
    path = "/api/sandboxes/{id}",
    params(("id" = String, Path)),
    responses((status = 200, body = Sandbox), Problem),
)]
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    Extension(token): Extension<Token>,
    SandboxId(id): SandboxId,
    RawQuery(query): RawQuery,
) -> Result<Json<Sandbox>, Problem> {
    Params::read("/api/sandboxes/one", &token, query.as_deref(), &[])?;
    let wanted = id.clone();
    let found = shared
        .readers
        .ask(move |ledger, _| {
            let entry = ledger.sandbox_entry(&token.org, &wanted)?;
            entry.map(|entry| Ok(Sandbox::new(entry, ledger.tags(&token.org, &wanted)?))).transpose()
        })
        .await?;
    found.map(Json).ok_or_else(|| Problem::no_sandbox(&id))
}

/// The slices of one sandbox, oldest first; what is not final yet comes last.
#[utoipa::path(
    get,
    path = "/api/sandboxes/{id}/slices",
    params(
        ("id" = String, Path),
        ("from" = Option<String>, Query, format = DateTime, description = "Only slices with time from here on, whole. Default where there is a `to`: 30 days before it."),
        ("to" = Option<String>, Query, format = DateTime, description = "Exclusive. Without `from` and `to`: all slices. A window has at most 90 days."),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 500, description = "Default: 50."),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before."),
    ),
    responses((status = 200, body = Slices), Problem),
)]
pub(super) async fn slices(
    State(shared): State<Arc<Shared>>,
    Extension(token): Extension<Token>,
    SandboxId(id): SandboxId,
    RawQuery(query): RawQuery,
) -> Result<Json<Slices>, Problem> {
    let path = format!("/api/sandboxes/slices\0{id}");
    let params = Params::read(&path, &token, query.as_deref(), &["from", "to", "limit", "cursor"])?;
    let (limit, after) = (params.limit()?, shared.place::<SlicePlace>(&params)?);
    let (moment, now_unix_ns) = shared.moment().await?;
    let has_window = params.get("from").or(params.get("to")).is_some();
    let window = if has_window { Some(params.window(now_unix_ns)?) } else { None };
    let open_until = moment.open_until;
    let asked = SlicesOf { org: token.org, sandbox: id.clone(), window, after, limit: limit + 1, open_until };
    let rows = shared.readers.ask(move |ledger, cancel| ledger.slices_of(&asked, cancel)).await?;
    let Some(mut rows) = rows else { return Err(Problem::no_sandbox(&id)) };
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(SlicePlace::behind);
    let items = rows.into_iter().map(Into::into).collect();
    Ok(Json(Slices { items, next_cursor: shared.cursor(&params, next)? }))
}
