//! What pages ask: the API's own questions, in this process, for the org of the session's token.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, FromRequestParts, RawQuery, State};
use axum::http::request::Parts;
use dormouse_ledger::usage::Rules;
use dormouse_ledger::{OutboxStanding, Role, Token};

use super::super::answers::{KeyInUse, Sandbox, SandboxUsage, Sandboxes, Slice, Tags, Usage};
use super::super::problem::{Problem, Reason};
use super::super::sandboxes::SandboxId;
use super::super::{Shared, sandboxes, tags, usage};
use super::frame::Refusal;

/// As many as a page of the API has at the most.
const SLICES_A_PAGE: &str = "500";
/// A picture of more slices would show nothing more.
const SLICE_PAGES_MAX: usize = 10;

/// Asks for whoever is signed in.
pub(super) struct Questions {
    shared: Arc<Shared>,
    /// The session's token.
    pub(super) token: Token,
}

/// Parameters of a question.
pub(super) type Params<'a> = &'a [(&'a str, &'a str)];

/// Writes parameters as addresses have them.
pub(super) fn query(params: Params<'_>) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish()
}

impl FromRequestParts<Arc<Shared>> for Questions {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let token = Extension::<Token>::from_request_parts(parts, shared).await;
        let Ok(Extension(token)) = token else {
            return Err(Problem::new(Reason::Bug, "the page stands behind no session").into());
        };
        Ok(Self { shared: Arc::clone(shared), token })
    }
}

impl Questions {
    fn shared(&self) -> State<Arc<Shared>> {
        State(Arc::clone(&self.shared))
    }

    fn token(&self) -> Extension<Token> {
        Extension(self.token.clone())
    }

    /// What is billed where a question does not say.
    pub(super) fn rules(&self) -> &Rules {
        &self.shared.site.rules
    }

    /// Whether the session may change tags.
    pub(super) fn may_tag(&self) -> bool {
        self.token.role == Role::Write
    }

    /// Until when open slices count, in nanoseconds since the Unix epoch.
    pub(super) async fn now_unix_ns(&self) -> Result<i64, Problem> {
        Ok(self.shared.moment().await?.1)
    }

    /// `GET /api/sandboxes`.
    pub(super) async fn sandboxes(&self, params: Params<'_>) -> Result<Sandboxes, Problem> {
        let query = RawQuery(Some(query(params)));
        Ok(sandboxes::list(self.shared(), self.token(), query).await?.0)
    }

    /// `GET /api/sandboxes/{id}`.
    pub(super) async fn sandbox(&self, id: &str) -> Result<Sandbox, Problem> {
        let id = SandboxId(id.to_owned());
        Ok(sandboxes::one(self.shared(), self.token(), id, RawQuery(None)).await?.0)
    }

    /// `GET /api/sandboxes/{id}/usage`.
    pub(super) async fn usage_of(&self, id: &str, params: Params<'_>) -> Result<SandboxUsage, Problem> {
        let (id, query) = (SandboxId(id.to_owned()), RawQuery(Some(query(params))));
        Ok(usage::of_sandbox(self.shared(), self.token(), id, query).await?.0)
    }

    /// `GET /api/usage`.
    pub(super) async fn usage(&self, params: Params<'_>) -> Result<Usage, Problem> {
        Ok(usage::usage(self.shared(), self.token(), RawQuery(Some(query(params)))).await?.0)
    }

    /// `GET /api/tags`: the first 500 keys.
    pub(super) async fn tag_keys(&self) -> Result<Vec<KeyInUse>, Problem> {
        let query = RawQuery(Some(query(&[("limit", "500")])));
        Ok(tags::keys(self.shared(), self.token(), query).await?.0.items)
    }

    /// `PUT /api/sandboxes/{id}/tags`.
    pub(super) async fn replace_tags(&self, id: &str, body: Bytes) -> Result<Tags, Problem> {
        let id = SandboxId(id.to_owned());
        let Json(tags) = tags::replace(self.shared(), self.token(), id, RawQuery(None), Ok(body)).await?;
        Ok(tags)
    }

    /// `GET /api/sandboxes/{id}/slices`, page after page; and whether there are more than are read here.
    pub(super) async fn slices(&self, id: &str, from: &str, to: &str) -> Result<(Vec<Slice>, bool), Problem> {
        let (mut slices, mut cursor) = (Vec::new(), None);
        for _ in 0..SLICE_PAGES_MAX {
            let mut params = vec![("from", from), ("to", to), ("limit", SLICES_A_PAGE)];
            params.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let (id, query) = (SandboxId(id.to_owned()), RawQuery(Some(query(&params))));
            let page = sandboxes::slices(self.shared(), self.token(), id, query).await?.0;
            slices.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok((slices, cursor.is_some()))
    }

    /// Where the sinks of the host stand.
    pub(super) async fn outbox(&self) -> Result<OutboxStanding, Problem> {
        self.shared.readers.ask(|reader, _| reader.outbox_standing()).await
    }
}
