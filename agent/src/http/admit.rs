//! Who asks: every request carries a token, keeps within its limits, and ends by its deadline.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dormouse_ledger::{Role, Token};

use super::Shared;
use super::problem::{Problem, Reason};

const SCHEME: &str = "bearer";

/// Lets a request through to its handler, with the token that it carries.
pub(super) async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let deadline = shared.site.limits.deadline;
    match tokio::time::timeout(deadline, answer(shared, request, next)).await {
        Ok(answer) => answer.unwrap_or_else(IntoResponse::into_response),
        Err(_) => Problem::deadline().into_response(),
    }
}

async fn answer(shared: Arc<Shared>, request: Request, next: Next) -> Result<Response, Problem> {
    let presented = bearer(request.headers())?.to_owned();
    let token = shared.readers.ask(move |ledger, _| ledger.bearer(&presented)).await?;
    let Some(token) = token else { return Err(unauthenticated("the token is not known, or was revoked")) };
    with_token(&shared, token, request, next).await
}

/// Lets a request through to its handler for a token that is valid, if it does not ask too much.
pub(super) async fn with_token(
    shared: &Shared,
    token: Token,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let now_ns = shared.site.clock.now().boottime_ns;
    let _presence = shared.traffic.enter(&token.id, &shared.site.limits, now_ns)?;
    request.extensions_mut().insert(token);
    Ok(next.run(request).await)
}

fn unauthenticated(detail: &str) -> Problem {
    let detail = format!("{detail}: send `Authorization: Bearer TOKEN`, from `dormouse token create`");
    Problem::new(Reason::Unauthenticated, detail)
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(unauthenticated("the request carries no token, or more than one"));
    };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) => Ok(token.trim()),
        _ => Err(unauthenticated("the request carries no bearer token")),
    }
}

/// Refuses a change to a token that may only ask.
pub(super) fn may_write(token: &Token) -> Result<(), Problem> {
    match token.role {
        Role::Write => Ok(()),
        Role::Read => {
            let detail = "the token may only read: use one that was created with --role write";
            Err(Problem::new(Reason::PermissionDenied, detail))
        }
    }
}
