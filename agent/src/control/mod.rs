//! The control plane's face: gRPC (`dormouse.control.v1`) on a unix socket.
//!
//! A call goes `service` -> `validate` (nothing wrong enters) -> [`Host`] -> `convert` -> reply; a refusal becomes
//! a status in `status`. Questions about the past go to the ledger, beside the host, in
//! `questions`. Nothing here
//! decides anything about a sandbox, and nothing here knows QEMU.

mod client;
mod convert;
mod host;
mod outbox;
mod questions;
mod service;
mod socket;
mod status;
mod validate;
mod watch;

use std::future::Future;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

pub use client::{channel, client};
pub(crate) use convert::{audit, slice_row, usage};
pub use host::Host;
pub(crate) use outbox::outbox;
pub use questions::Questions;
pub use socket::{SocketError, bind};
pub use status::{ERROR_DOMAIN, status_of};

use crate::clock::Clock;
use crate::config::Config;
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
}

/// Serves commands and questions on `listener` until `shutdown` completes; then takes no more, ends the streams,
/// and returns once the calls under way are answered. Also serves the standard health and reflection services.
///
/// The error is the transport's: the listener failed, which it does not do by itself.
pub async fn serve<H: Host>(
    listener: UnixListener,
    serving: Serving<H>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let (stopping, stopped) = tokio::sync::watch::channel(false);
    let control = ControlServer::new(service::Service::new(serving, stopped));
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_serving::<ControlServer<service::Service<H>>>().await;
    let shutdown = async move {
        shutdown.await;
        health_reporter.set_not_serving::<ControlServer<service::Service<H>>>().await;
        stopping.send_replace(true);
    };
    let mut server = Server::builder().add_service(control).add_service(health);
    // The descriptors are compiled in; a damaged one costs the reflection service, not the agent.
    match reflection().build_v1() {
        Ok(reflection) => server = server.add_service(reflection),
        Err(error) => tracing::error!(%error, "there is no reflection service"),
    }
    server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown).await
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
