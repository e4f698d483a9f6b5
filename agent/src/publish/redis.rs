//! Redis Streams: every event an entry of one stream, its bytes in the field `event`, a batch at a time in one
//! transaction.
//!
//! What Redis has answered is as durable as it is configured to make it: `appendonly yes`, and `appendfsync always`
//! where a loss of power must lose nothing.

use std::time::Duration;

use dormouse_ledger::OutboxRow;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, Pipeline, RedisError, ServerErrorKind,
};

use super::access::{self, Credentials};
use super::sink::{Delivered, Sink, SinkError, chain};
use crate::config;

const STREAM: &str = "dormouse:events";

/// A stream of Redis.
pub(super) struct RedisStream {
    config: config::Sink,
    connection: Option<MultiplexedConnection>,
}

impl RedisStream {
    /// The sink of a host's events; connects when there are some.
    pub(super) fn new(config: config::Sink) -> Self {
        Self { config, connection: None }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, SinkError> {
        let timeout = Some(Duration::from_millis(self.config.timeout_ms));
        let settings =
            AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
        let client = client(&self.config)?;
        client.get_multiplexed_async_connection_with_config(&settings).await.map_err(|error| failure(&error))
    }

    fn entries(&self, events: &[OutboxRow]) -> Pipeline {
        let stream = self.config.stream.as_deref().unwrap_or(STREAM);
        let mut pipeline = Pipeline::with_capacity(events.len());
        pipeline.atomic();
        for event in events {
            pipeline.cmd("XADD").arg(stream).arg("*").arg("event").arg(&event.payload[..]).ignore();
        }
        pipeline
    }
}

impl Sink for RedisStream {
    async fn deliver(&mut self, events: &[OutboxRow]) -> Delivered {
        // Whatever goes wrong before it is put back: the connection ends.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => connection,
                Err(failure) => return Delivered::failed(failure),
            },
        };
        match self.entries(events).query_async::<()>(&mut connection).await {
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
