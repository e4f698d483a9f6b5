//! Usage and tags over HTTP: who used what, for people's own programs.
//!
//! ```text
//!   connection (bounded heads, bounded time) ─▶ route ─▶ admit: token, its limits, the deadline ─▶ handler
//!     handler: query (nothing wrong enters) ─▶ ask (a reader of its own, cancelled when nobody waits) ─▶ answers
//! ```
//!
//! Every request speaks for one org: that of its bearer token. Nothing here adds up anything; `dormouse_ledger::usage`
//! does, and its integers are in every answer beside the numbers that people read. What goes wrong is told as a
//! problem (RFC 9457) with a stable reason. Sandboxes, QEMU and commands are not known here.

mod admit;
mod answers;
mod ask;
mod connections;
mod cursors;
mod openapi;
mod pages;
mod problem;
mod query;
mod sandboxes;
mod tags;
mod traffic;
mod usage;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Router, middleware};
use dormouse_ledger::LedgerError;
use dormouse_ledger::usage::{CursorKey, Rules};
use tokio::net::TcpListener;

use crate::address::LedgerAddress;
use crate::clock::Clock;
use crate::config::Config;

pub use openapi::document;
pub use problem::Reason;

use ask::Readers;
use traffic::Traffic;

/// Fifty tags with the longest values, every character escaped.
const BODY_BYTES_MAX: usize = 256 << 10;

/// How long a request may take, from its head to its answer.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Until when open slices count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenUntil {
    /// Until this moment: whoever serves is the agent itself.
    Now,
    /// Until the ledger knows of them: a host's, until the agent last proved that the guests exist. A fleet's knows of
    /// none that is open.
    Known,
}

/// What a token may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many requests in a second; as many may come at once.
    pub requests_per_second: u64,
    /// How many that are not answered yet.
    pub requests_at_once: u64,
    /// How long one may take.
    pub deadline: Duration,
}

/// What is served.
#[derive(Clone, Debug)]
pub struct Site {
    /// The ledger.
    pub ledger: LedgerAddress,
    /// What is billed, and how, where a request does not say.
    pub rules: Rules,
    /// The clock.
    pub clock: Clock,
    /// Until when open slices count.
    pub open_until: OpenUntil,
    /// What a token may ask for.
    pub limits: Limits,
}

impl Site {
    /// What a configuration says of a ledger.
    pub fn new(ledger: LedgerAddress, config: &Config, clock: Clock, open_until: OpenUntil) -> Self {
        let (billing, http) = (&config.billing, &config.http);
        Self {
            ledger,
            rules: billing.rules(),
            clock,
            open_until,
            limits: Limits {
                requests_per_second: http.requests_per_second,
                requests_at_once: http.requests_at_once,
                deadline: DEADLINE,
            },
        }
    }
}

/// What all requests share.
struct Shared {
    site: Site,
    cursor_key: CursorKey,
    readers: Readers,
    traffic: Traffic,
}

/// Serves until `shutdown` completes; then takes no more, and returns once what was asked is answered.
///
/// Fails at once if the ledger cannot be read.
pub async fn serve(
    listener: TcpListener,
    site: Site,
    shutdown: impl Future<Output = ()>,
) -> Result<(), LedgerError> {
    let cursor_key = site.ledger.ask(|ledger| ledger.cursor_key()).await?;
    let readers = Readers::new(site.ledger.clone());
    let shared = Arc::new(Shared { site, cursor_key, readers, traffic: Traffic::default() });
    connections::serve(listener, routes(shared), shutdown).await;
    Ok(())
}

fn routes(shared: Arc<Shared>) -> Router {
    let admit = middleware::from_fn_with_state(Arc::clone(&shared), admit::admit);
    let pages = pages::routes(&shared);
    Router::new()
        .route("/api/usage", get(usage::usage))
        .route("/api/tags", get(tags::keys))
        .route("/api/sandboxes", get(sandboxes::list))
        .route("/api/sandboxes/{id}", get(sandboxes::one))
        .route("/api/sandboxes/{id}/usage", get(usage::of_sandbox))
        .route("/api/sandboxes/{id}/slices", get(sandboxes::slices))
        .route("/api/sandboxes/{id}/tags", get(tags::of_sandbox).put(tags::replace))
        .route_layer(admit)
        .route("/api/openapi.json", get(openapi::serve))
        .merge(pages)
        .fallback(problem::no_such_resource)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::map_response(answers::mark_as_private))
        .with_state(shared)
}

#[cfg(test)]
mod tests;
