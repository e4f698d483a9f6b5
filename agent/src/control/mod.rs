//! The control plane's face: gRPC (`dormouse.control.v1`) on a unix socket, and over mutual TLS where it is configured.
//!
//! A connection comes in through `entrance`, which establishes who is at its other end; `gate` holds every call
//! against the rules of `access` and tells `denials` of those that may not. Health and reflection stand behind it,
//! too.
//!
//! A call goes `service` -> `validate` (nothing wrong enters) -> [`Host`] -> `convert` -> reply; a refusal becomes
//! a status in `status`. Questions about the past go to the ledger, beside the host, in
//! `questions`. Nothing here
//! decides anything about a sandbox, and nothing here knows QEMU.

mod access;
mod certificates;
mod client;
mod connection;
mod convert;
mod denials;
mod entrance;
mod gate;
mod host;
mod outbox;
mod questions;
mod service;
mod socket;
mod status;
mod tls;
mod validate;
mod watch;

use std::future::Future;
use std::sync::Arc;

use std::time::Duration;

use dormouse_ledger::Writer;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

pub use access::AccessError;
pub use certificates::Certificates;
pub use client::{channel, client};
pub(crate) use convert::{audit, slice_row, tags, usage};
pub use entrance::{Entrance, EntranceError};
pub use host::Host;
pub(crate) use outbox::outbox;
pub use questions::Questions;
pub use socket::SocketError;
pub(crate) use status::code_name;
pub use status::{ERROR_DOMAIN, status_of};
pub use tls::TlsError;

use denials::Denials;
use gate::{Gate, REQUEST_BYTES_MAX};

use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::proto;
use crate::proto::control_server::ControlServer;

/// What the service answers with.
pub struct Serving<H> {
    /// The sandboxes.
    pub host: H,
    /// Default deadlines, plans, the billing policy, and the place of the ledger.
    pub config: Arc<Config>,
    /// The host's clock.
    pub clock: Clock,
    /// Where denials are written.
    pub ledger: Writer,
    /// Where calls and denials are counted.
    pub metrics: Arc<Metrics>,
}

/// How many calls one connection may have under way at once; a client lets further ones wait by itself.
const STREAMS_MAX: u32 = 1_024;

/// How long a connection is kept before a client is asked to make a new one: a certificate is looked at again then.
const CONNECTION_AGE: Duration = Duration::from_hours(1);

/// How often a connection that says nothing is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The most that the headers of a call may have, in bytes.
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// Serves commands and questions to those who come in through `entrance` until `shutdown` completes; then takes no
/// more, ends the streams, and returns once the calls under way are answered. Also serves the standard health and
/// reflection services, behind the same gate.
///
/// The error is the transport's: the listener failed, which it does not do by itself.
pub async fn serve<H: Host>(
    entrance: Entrance,
    serving: Serving<H>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let (stopping, stopped) = tokio::sync::watch::channel(false);
    let denials = Denials::new(serving.ledger.clone(), serving.clock.clone(), Arc::clone(&serving.metrics));
    let gate = Gate::new(denials.clone(), serving.config.control.requests_max, serving.clock.clone());
    let service = service::Service::new(serving, denials.clone(), stopped);
    let control = ControlServer::new(service).max_decoding_message_size(REQUEST_BYTES_MAX);
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<ControlServer<service::Service<H>>>().await;
    let shutdown = async move {
        shutdown.await;
        health_reporter.set_not_serving::<ControlServer<service::Service<H>>>().await;
        stopping.send_replace(true);
    };
    let mut server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .max_connection_age(CONNECTION_AGE)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
        .layer(gate)
        .add_service(control)
        .add_service(health.max_decoding_message_size(REQUEST_BYTES_MAX));
    // The descriptors are compiled in; a damaged one costs the reflection service, not the agent.
    match reflection().build_v1() {
        Ok(reflection) => {
            server = server.add_service(reflection.max_decoding_message_size(REQUEST_BYTES_MAX));
        }
        Err(error) => tracing::error!(%error, "there is no reflection service"),
    }
    let connections = ReceiverStream::new(entrance.connections(&denials));
    let ended = tokio::select! {
        ended = server.serve_with_incoming_shutdown(connections, shutdown) => ended,
        // It never ends by itself.
        () = denials.write_counts() => Ok(()),
    };
    denials.end_window();
    ended
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod who_may;
