//! Pages for people: an org's sandboxes, the timeline of each as a picture, usage by tag over time, the outbox's lag.
//!
//! ```text
//!   request ─▶ headed ─▶ bounded ─▶ session (cookie ─▶ token ─▶ its limits) ─▶ a page
//!     page: asks what the API asks (the handlers of `/api`, in this process) ─▶ picture (pure) ─▶ HTML
//! ```
//!
//! The pages know nothing that the API does not tell: no question to the ledger is put here but where the sinks
//! stand. They are whole without JavaScript, which the browser is told to run none of, and ask no other host for
//! anything. What is drawn stands beside it as a table. Only the form for tags changes anything.

mod bars;
mod fields;
mod frame;
mod home;
mod outbox;
mod picture;
mod questions;
mod sandbox;
mod session;
mod tags;
mod timeline;
mod usage;
mod words;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};

use super::Shared;
use super::problem::Problem;

use frame::Refusal;

/// Nothing but this site's own style and icon; forms go nowhere else; nobody frames it.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

/// Every page, its style, and signing in and out.
pub(super) fn routes(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let admit = middleware::from_fn_with_state(Arc::clone(shared), session::admit);
    let bounded = middleware::from_fn_with_state(Arc::clone(shared), bounded);
    Router::new()
        .route("/", get(home::page))
        .route("/sandboxes/{id}", get(sandbox::page))
        .route("/sandboxes/{id}/tags", post(tags::replace))
        .route("/usage", get(usage::page))
        .route("/outbox", get(outbox::page))
        .route_layer(admit)
        .route("/sign-in", get(session::form).post(session::sign_in))
        .route("/sign-out", post(session::sign_out))
        .route("/style.css", get(async || typed("text/css", include_str!("style.css"))))
        .route("/icon.svg", get(async || typed("image/svg+xml", include_str!("icon.svg"))))
        .layer(bounded)
        .layer(middleware::map_response(headed))
}

fn typed(kind: &'static str, body: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind)], body)
}

/// A page is given up at the same deadline as an answer of the API.
async fn bounded(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(shared.site.limits.deadline, next.run(request)).await;
    answer.unwrap_or_else(|_| Refusal::from(Problem::deadline()).into_response())
}

/// What a browser may do with a page.
async fn headed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let told: [(HeaderName, &'static str); 3] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        // `no-referrer` would have forms come from an origin that is not told.
        (REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in told {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
