//! `GET /api/tags`, and `GET` and `PUT /api/sandboxes/{id}/tags`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, RawQuery, State};
use axum::http::StatusCode;
use dormouse_ledger::{TagSet, Token};
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::Shared;
use super::admit::may_write;
use super::answers::{Keys, Tags};
use super::problem::{Problem, Reason};
use super::query::Params;
use super::sandboxes::{Behind, SandboxId};

/// The keys that the org's sandboxes are tagged with, in order.
#[utoipa::path(
    get,
    path = "/api/tags",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 500, description = "Default: 50."),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before."),
    ),
    responses((status = 200, body = Keys), Problem),
)]
pub(super) async fn keys(
    State(shared): State<Arc<Shared>>,
    Extension(token): Extension<Token>,
    RawQuery(query): RawQuery,
) -> Result<Json<Keys>, Problem> {
    let params = Params::read("/api/tags", &token, query.as_deref(), &["limit", "cursor"])?;
    let (limit, after) = (params.limit()?, shared.place::<Behind>(&params)?);
    let mut keys = shared
        .readers
        .ask(move |ledger, cancel| {
            let after = after.map_or_else(String::new, |behind| behind.0);
            ledger.tag_keys(&token.org, &after, limit + 1, cancel)
        })
        .await?;
    let next = Behind::page(&mut keys, limit, |key| &key.key);
    let items = keys.into_iter().map(Into::into).collect();
    Ok(Json(Keys { items, next_cursor: shared.cursor(&params, next)? }))
}

/// The tags of one sandbox.
#[utoipa::path(
    get,
    path = "/api/sandboxes/{id}/tags",
    params(("id" = String, Path)),
    responses((status = 200, body = Tags), Problem),
)]
pub(super) async fn of_sandbox(
    State(shared): State<Arc<Shared>>,
    Extension(token): Extension<Token>,
    SandboxId(id): SandboxId,
    RawQuery(query): RawQuery,
) -> Result<Json<Tags>, Problem> {
    Params::read("/api/sandboxes/tags", &token, query.as_deref(), &[])?;
    let wanted = id.clone();
    let found = shared
        .readers
        .ask(move |ledger, _| {
            let known = ledger.sandbox_entry(&token.org, &wanted)?;
            known.map(|_| ledger.tags(&token.org, &wanted)).transpose()
        })
        .await?;
    found.map(|tags| Json(tags.into())).ok_or_else(|| Problem::no_sandbox(&id))
}

/// Replaces all the tags of one sandbox. `{}` clears them; the same tags again change nothing.
#[utoipa::path(
    put,
    path = "/api/sandboxes/{id}/tags",
    params(("id" = String, Path)),
    request_body(content = BTreeMap<String, String>, description = "At most 50 tags. Keys: 1 to 128 of [A-Za-z0-9_.:-], not beginning with `dm:`. Values: at most 256 characters."),
    responses((status = 200, body = Tags), Problem),
)]
pub(super) async fn replace(
    State(shared): State<Arc<Shared>>,
    Extension(token): Extension<Token>,
    SandboxId(id): SandboxId,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Tags>, Problem> {
    may_write(&token)?;
    Params::read("/api/sandboxes/tags", &token, query.as_deref(), &[])?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Reason::BodyTooLarge, "a body has at most 256 KiB: 50 tags take less")
        }
        _ => invalid_body("it could not be read to its end"),
    })?;
    let TagMap(tags) = serde_json::from_slice(&body).map_err(|error| invalid_body(&error.to_string()))?;
    let set = TagSet { org: token.org, sandbox: id, tags, at_unix_ns: shared.site.clock.now().wall_ns };
    // A change is not given up half-way: it ends by itself, and soon.
    let tags = shared.readers.ask(move |ledger, _| ledger.set_tags(&set)).await?;
    Ok(Json(tags.into()))
}

fn invalid_body(why: &str) -> Problem {
    let detail = format!("the body must be a JSON object of strings, as {{\"team\":\"a\"}}: {why}");
    Problem::new(Reason::InvalidBody, detail)
}

/// An object of strings, each key once.
struct TagMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for TagMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;

        impl<'de> Visitor<'de> for Once {
            type Value = TagMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<TagMap, A::Error> {
                let mut tags = BTreeMap::new();
                while let Some((key, value)) = entries.next_entry::<String, String>()? {
                    if tags.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("key {key:?} is given twice")));
                    }
                    tags.insert(key, value);
                }
                Ok(TagMap(tags))
            }
        }

        deserializer.deserialize_map(Once)
    }
}
