//! NATS `JetStream`: every event a message on `dormouse.events.<cell>.<host>`, with its source and id as `Nats-Msg-Id`, so
//! that the server drops what it is sent again within the stream's duplicate window.
//!
//! All events of a batch are in flight at once; each is acknowledged by itself, once the stream has stored it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{ContextBuilder, GetStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config as StreamConfig, StorageType};
use async_nats::{ConnectOptions, Event};
use bytes::Bytes;
use dormouse_ledger::{HostName, OutboxRow};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::access::{self, Credentials};
use super::sink::{Delivered, Sink, SinkError, chain};
use crate::config;

const STREAM: &str = "DORMOUSE";
const SUBJECTS: &str = "dormouse.events.>";

/// How long the server remembers ids.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(5);

/// A client makes a lost connection again by itself, and then sends what it held behind what was lost. It is to be gone
/// by then.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// A stream of `JetStream`.
pub(super) struct JetStream {
    config: config::Sink,
    /// What makes ids unique for the server, so that it drops what it has; `None` where it is to take all of it.
    source: Option<String>,
    subject: String,
    connection: Option<Connection>,
}

impl JetStream {
    /// The sink of a host's events; connects when there are some.
    pub(super) fn new(config: config::Sink, host: &HostName) -> Self {
        let subject = format!("dormouse.events.{}", tokens(host));
        Self { config, source: Some(host.source()), subject, connection: None }
    }

    /// The sink of what is sent again because it was lost behind the server: to the server it is new.
    pub(super) fn again(config: config::Sink, host: &HostName) -> Self {
        Self { source: None, ..Self::new(config, host) }
    }
}

impl Sink for JetStream {
    async fn deliver(&mut self, events: &[OutboxRow]) -> Delivered {
        // Whatever goes wrong before it is put back: the connection ends.
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => match Connection::open(&self.config).await {
                Ok(connection) => connection,
                Err(failure) => return Delivered::failed(failure),
            },
        };
        let mut lost = connection.lost.clone();
        let mut stored = 0;
        let publish = connection.publish(self.source.as_deref(), &self.subject, events, &mut stored);
        let published = tokio::select! {
            published = publish => published,
            _ = lost.wait_for(|lost| *lost) => Err(SinkError::Unreachable("the connection was lost".to_owned())),
        };
        let failure = published.err();
        if failure.is_none() {
            self.connection = Some(connection);
        }
        Delivered { stored, failure }
    }
}

/// A connection, on a runtime of its own: dropping it ends the client's tasks at once, with what they held.
struct Connection {
    context: Context,
    stream: String,
    lost: watch::Receiver<bool>,
    _runtime: OwnRuntime,
}

struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Connection {
    async fn open(config: &config::Sink) -> Result<Self, SinkError> {
        let (tell, lost) = watch::channel(false);
        let options = once(options(config)?, tell);
        let (url, stream) = (config.url.clone(), config.stream.clone().unwrap_or_else(|| STREAM.to_owned()));
        let (name, inflight_max) =
            (stream.clone(), usize::try_from(config.batch_events).unwrap_or(usize::MAX));
        let timeout = Duration::from_millis(config.timeout_ms);
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("nats").enable_all().build();
        let runtime = runtime.map_err(|error| SinkError::Unreachable(error.to_string()))?;
        let opening = runtime.spawn(async move {
            let client = options.connect(url).await.map_err(|error| SinkError::Unreachable(chain(&error)))?;
            let context = ContextBuilder::new().timeout(timeout).max_ack_inflight(inflight_max).build(client);
            find_or_create(&context, name).await.map(|()| context)
        });
        let runtime = OwnRuntime(Some(runtime));
        let context = opening.await.map_err(|error| SinkError::Unreachable(error.to_string()))??;
        Ok(Self { context, stream, lost, _runtime: runtime })
    }

    /// Publishes events, and counts those from the first that the stream has stored.
    async fn publish(
        &self,
        source: Option<&str>,
        subject: &str,
        events: &[OutboxRow],
        stored: &mut usize,
    ) -> Result<(), SinkError> {
        let mut acknowledgements = Vec::with_capacity(events.len());
        for event in events {
            let mut message = PublishMessage::build().payload(Bytes::copy_from_slice(&event.payload));
            if let Some(source) = source {
                message = message.message_id(format!("{source}/{}", event.event_id));
            }
            let sent = self.context.send_publish(subject.to_owned(), message).await;
            acknowledgements.push(sent.map_err(|error| failure(&error))?);
        }
        for (acknowledgement, event) in acknowledgements.into_iter().zip(events) {
            let acknowledged = acknowledgement.await.map_err(|error| failure(&error))?;
            if acknowledged.stream != self.stream {
                let (host_seq, other) = (event.host_seq, acknowledged.stream);
                return Err(SinkError::Refused(format!("stream {other} has taken event {host_seq}")));
            }
            *stored += 1;
        }
        Ok(())
    }
}

/// A connection that ends when it is lost, and tells so.
fn once(options: ConnectOptions, tell: watch::Sender<bool>) -> ConnectOptions {
    let attempts = AtomicUsize::new(0);
    options
        .reconnect_delay_callback(move |_| {
            let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
            if is_first { Duration::ZERO } else { NEVER }
        })
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed) {
                tell.send_replace(true);
            }
            std::future::ready(())
        })
}

/// A host's name as the last tokens of a subject. A dot would begin another.
pub(super) fn tokens(host: &HostName) -> String {
    let token = |name: &str| name.replace('.', "_");
    format!("{}.{}", token(&host.cell), token(&host.host))
}

/// How a server is spoken to that a sink names.
pub(super) fn options(config: &config::Sink) -> Result<ConnectOptions, SinkError> {
    let mut options =
        ConnectOptions::new().name("dormouse").connection_timeout(Duration::from_millis(config.timeout_ms));
    options = match access::credentials(config)? {
        Credentials::None => options,
        Credentials::Password(user, password) => {
            options.user_and_password(user.unwrap_or_default(), password)
        }
        Credentials::Token(token) => options.token(token),
    };
    if config.url.starts_with("tls://") {
        options = options.require_tls(true).tls_client_config(access::files(config).config()?);
    }
    Ok(options)
}

/// The stream must be there and take our subjects; where there is none, it is created.
async fn find_or_create(context: &Context, name: String) -> Result<(), SinkError> {
    match context.get_stream(&name).await {
        Ok(stream) => {
            let subjects = &stream.cached_info().config.subjects;
            if subjects.iter().any(|subject| subject == SUBJECTS || subject == "dormouse.>") {
                return Ok(());
            }
            let subjects = subjects.join(", ");
            Err(SinkError::Misconfigured(format!("stream {name} is for {subjects}, not for {SUBJECTS}")))
        }
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                let config = StreamConfig {
                    name,
                    subjects: vec![SUBJECTS.to_owned()],
                    storage: StorageType::File,
                    duplicate_window: DUPLICATE_WINDOW,
                    ..StreamConfig::default()
                };
                let created = context.create_stream(config).await;
                created.map(drop).map_err(|error| SinkError::Refused(chain(&error)))
            }
            _ => Err(SinkError::Unreachable(chain(&error))),
        },
    }
}

fn failure(error: &PublishError) -> SinkError {
    match error.kind() {
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => SinkError::Unreachable(chain(error)),
        _ => SinkError::Refused(chain(error)),
    }
}
