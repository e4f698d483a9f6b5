//! Redis Streams: stream `dormouse:events`, whose field `event` is the CloudEvent's bytes.
//!
//! Hosts are asked to send again in the stream `dormouse:resend`, which keeps the last few thousand requests: fields
//! `source`, `first_seq` and `last_seq`, both included. A request is repeated until its numbers are stored.

use std::collections::HashMap;
use std::time::Duration;

use dormouse_ledger::fleet::Resend;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamReadReply};
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisError, Value, cmd};

use super::{Queue, QueueError, Received};
use crate::tls::ClientFiles;

const STREAM: &str = "dormouse:events";
const FIELD: &str = "event";
const RESEND: &str = "dormouse:resend";
const RESEND_KEPT: usize = 4_096;

/// How long a batch is waited for.
const WAIT: Duration = Duration::from_secs(1);
/// What another has not acknowledged for so long is taken over: longer than a batch takes to be stored.
const IDLE: Duration = Duration::from_mins(1);

/// A consumer of the stream, in a group with all others of its group's name.
pub struct RedisStream {
    client: Client,
    group: String,
    consumer: String,
    idle: Duration,
    connection: Option<MultiplexedConnection>,
}

impl From<RedisError> for QueueError {
    fn from(error: RedisError) -> Self {
        Self(error.to_string())
    }
}

impl RedisStream {
    /// Prepares to connect. Credentials are in the URL; by TLS where that begins with `rediss://`. `consumer` must be no
    /// other running one's.
    pub fn new(url: &str, files: &ClientFiles, group: &str, consumer: &str) -> Result<Self, QueueError> {
        let client = if url.starts_with("rediss://") {
            let certificates = files.redis().map_err(|error| QueueError(error.to_string()))?;
            Client::build_with_tls(url, certificates)?
        } else {
            Client::open(url)?
        };
        let (group, consumer) = (group.to_owned(), consumer.to_owned());
        Ok(Self { client, group, consumer, idle: IDLE, connection: None })
    }

    /// Takes over what another has not acknowledged for this long, instead of a minute.
    #[must_use]
    pub fn taking_over_after(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    async fn connection(&mut self) -> Result<MultiplexedConnection, QueueError> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        // Waiting for messages is no time-out.
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(WAIT * 10));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let group = cmd("XGROUP").arg(&["CREATE", STREAM, &self.group, "0", "MKSTREAM"]).to_owned();
        match group.exec_async(&mut connection).await {
            Err(error) if error.code() != Some("BUSYGROUP") => return Err(error.into()),
            _ => {}
        }
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// First what others left behind, then what is new.
    async fn batch(&mut self, messages_max: usize) -> Result<Vec<StreamId>, QueueError> {
        let mut connection = self.connection().await?;
        let left: StreamAutoClaimReply = cmd("XAUTOCLAIM")
            .arg(&[STREAM, &self.group, &self.consumer])
            .arg(self.idle.as_millis().to_string())
            .arg("0")
            .arg("COUNT")
            .arg(messages_max)
            .query_async(&mut connection)
            .await?;
        if !left.claimed.is_empty() {
            return Ok(left.claimed);
        }
        self.new_entries(messages_max, Some(WAIT)).await
    }

    /// What is new, or comes while it is waited for.
    async fn new_entries(
        &mut self,
        messages_max: usize,
        wait: Option<Duration>,
    ) -> Result<Vec<StreamId>, QueueError> {
        let mut connection = self.connection().await?;
        let mut read = cmd("XREADGROUP");
        read.arg(&["GROUP", &self.group, &self.consumer, "COUNT"]).arg(messages_max);
        if let Some(wait) = wait {
            read.arg("BLOCK").arg(wait.as_millis().to_string());
        }
        read.arg(&["STREAMS", STREAM, ">"]);
        let new: Option<StreamReadReply> = read.query_async(&mut connection).await?;
        Ok(new.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids).collect())
    }

    /// The events of what was received. After an error it is connected anew.
    fn received(&mut self, batch: Result<Vec<StreamId>, QueueError>) -> Received<String> {
        if batch.is_err() {
            self.connection = None;
        }
        Ok(batch?.into_iter().map(|entry| (event(&entry.map), entry.id)).collect())
    }
}

/// The event of an entry. One without is kept in the quarantine as the names of the fields that it has instead.
fn event(fields: &HashMap<String, Value>) -> Vec<u8> {
    let event = fields.get(FIELD).and_then(|value| Vec::<u8>::from_redis_value_ref(value).ok());
    event.unwrap_or_else(|| format!("an entry with {:?}", fields.keys()).into_bytes())
}

impl Queue for RedisStream {
    type Receipt = String;

    async fn receive(&mut self, messages_max: usize) -> Received<String> {
        let batch = self.batch(messages_max).await;
        self.received(batch)
    }

    async fn receive_more(&mut self, messages_max: usize) -> Received<String> {
        let batch = self.new_entries(messages_max, None).await;
        self.received(batch)
    }

    async fn acknowledge(&mut self, receipts: Vec<String>) -> Result<(), QueueError> {
        let mut connection = self.connection().await?;
        cmd("XACK").arg(&[STREAM, &self.group]).arg(receipts).exec_async(&mut connection).await?;
        Ok(())
    }

    async fn ask_again(&mut self, request: &Resend) -> Result<(), QueueError> {
        let mut connection = self.connection().await?;
        let asked = cmd("XADD")
            .arg(&[RESEND, "MAXLEN", "~"])
            .arg(RESEND_KEPT)
            .arg("*")
            .arg(&["source", &request.source])
            .arg("first_seq")
            .arg(request.first_seq)
            .arg("last_seq")
            .arg(request.last_seq)
            .exec_async(&mut connection)
            .await;
        Ok(asked?)
    }
}
