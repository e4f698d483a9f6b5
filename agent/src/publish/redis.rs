//! Redis Streams: every event an entry of one stream, its bytes in the field `event`, a batch at a time in one
//! transaction. Or, in the flat form, the entries that are made of it.
//!
//! What Redis has answered is as durable as it is configured to make it: `appendonly yes`, and `appendfsync always`
//! where a loss of power must lose nothing.

use std::time::Duration;

use dormouse_ledger::{HostName, OutboxRow};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, ServerErrorKind,
};

use super::access::{self, Credentials};
use super::flat::Flat;
use super::sink::{Delivered, Sink, SinkError, chain};
use crate::config;

const STREAM: &str = "dormouse:events";

/// A stream of Redis.
pub(super) struct RedisStream {
    config: config::Sink,
    stream: String,
    /// Makes other entries of events, where the sink wants them.
    flat: Option<Flat>,
    connection: Option<MultiplexedConnection>,
}

impl RedisStream {
    /// The sink of a host's events; connects when there are some.
    pub(super) fn new(config: config::Sink, host: &HostName, flat: Option<Flat>) -> Self {
        let usual = || if flat.is_some() { format!("events:{}", host.cell) } else { STREAM.to_owned() };
        let stream = config.stream.clone().unwrap_or_else(usual);
        Self { config, stream, flat, connection: None }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, SinkError> {
        let timeout = Some(Duration::from_millis(self.config.timeout_ms));
        let settings =
            AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
        let client = client(&self.config)?;
        client.get_multiplexed_async_connection_with_config(&settings).await.map_err(|error| failure(&error))
    }

    async fn entries(&self, events: &[OutboxRow]) -> Result<Pipeline, SinkError> {
        let mut pipeline = Pipeline::with_capacity(events.len());
        pipeline.atomic();
        let mut add = |entry: &[u8]| {
            // With room for all that it holds: else it grows again and again, for each event.
            let mut command = Cmd::with_capacity(5, "XADD*event".len() + self.stream.len() + entry.len());
            command.arg("XADD").arg(&self.stream).arg("*").arg("event").arg(entry);
            pipeline.add_command(command);
        };
        match &self.flat {
            None => events.iter().for_each(|event| add(&event.payload)),
            Some(flat) => flat.entries(events).await?.iter().for_each(|entry| add(entry)),
        }
        Ok(pipeline)
    }
}

impl Sink for RedisStream {
    async fn deliver(&mut self, events: &[OutboxRow]) -> Delivered {
        let entries = match self.entries(events).await {
            Ok(entries) => entries,
            Err(failure) => return Delivered::failed(failure),
        };
        if entries.is_empty() {
            return Delivered::all(events);
        }
        // Whatever goes wrong before it is put back: the connection ends.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => connection,
                Err(failure) => return Delivered::failed(failure),
            },
        };
        match entries.query_async::<()>(&mut connection).await {
            Ok(()) => {
                self.connection = Some(connection);
                Delivered::all(events)
            }
            Err(error) => Delivered::failed(failure(&error)),
        }
    }
}

/// How a server is spoken to that a sink names.
pub(super) fn client(config: &config::Sink) -> Result<Client, SinkError> {
    let wrong = |error: RedisError| SinkError::Misconfigured(chain(&error));
    let mut address = config.url.as_str().into_connection_info().map_err(wrong)?;
    if let Credentials::Password(user, password) = access::credentials(config)? {
        let mut login = address.redis_settings().clone().set_password(password);
        if let Some(user) = user {
            login = login.set_username(user);
        }
        address = address.set_redis_settings(login);
    }
    if !config.url.starts_with("rediss://") {
        return Client::open(address).map_err(wrong);
    }
    Client::build_with_tls(address, access::files(config).redis()?).map_err(wrong)
}

pub(super) fn failure(error: &RedisError) -> SinkError {
    let is_answer = matches!(error.kind(), ErrorKind::Server(kind) if kind != ServerErrorKind::BusyLoading);
    if is_answer { SinkError::Refused(chain(error)) } else { SinkError::Unreachable(chain(error)) }
}
