//! Requests in Redis: the stream `dormouse:resend`, in which all hosts are asked. Of its entries those count whose
//! `source` is this host.

use std::time::Duration;

use dormouse_ledger::HostName;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};
use redis::{AsyncConnectionConfig, RedisError, cmd};

use super::{Requests, Run};
use crate::config;
use crate::publish::redis::{client, failure};
use crate::publish::sink::SinkError;

const STREAM: &str = "dormouse:resend";

/// How long one look at the stream waits for something new.
const WAIT: Duration = Duration::from_secs(1);

/// How many entries are taken at once.
const ENTRIES_MAX: usize = 256;

/// The stream in which hosts are asked.
pub(in crate::publish) struct Stream {
    config: config::Sink,
    source: String,
    connection: Option<MultiplexedConnection>,
    /// The last entry that was looked at.
    after: Option<String>,
    /// Requests to this host that were read and not returned yet, the last first.
    waiting: Vec<Run>,
}

impl Stream {
    /// Connects when the first request is waited for. What was asked before that is asked again.
    pub(in crate::publish) fn new(config: config::Sink, host: &HostName) -> Self {
        Self { config, source: host.source(), connection: None, after: None, waiting: Vec::new() }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, SinkError> {
        let timeout = Duration::from_millis(self.config.timeout_ms);
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout + WAIT));
        let connected = client(&self.config)?.get_multiplexed_async_connection_with_config(&settings).await;
        connected.map_err(|error| failure(&error))
    }

    /// The entries behind the last one that was looked at.
    async fn look(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(String, Vec<StreamId>), RedisError> {
        let Some(after) = self.after.clone() else {
            let last: StreamRangeReply =
                cmd("XREVRANGE").arg(&[STREAM, "+", "-", "COUNT", "1"]).query_async(connection).await?;
            let last = last.ids.into_iter().next().map_or_else(|| "0-0".to_owned(), |entry| entry.id);
            return Ok((last, Vec::new()));
        };
        let new: Option<StreamReadReply> = cmd("XREAD")
            .arg("COUNT")
            .arg(ENTRIES_MAX)
            .arg("BLOCK")
            .arg(WAIT.as_millis().to_string())
            .arg(&["STREAMS", STREAM, &after])
            .query_async(connection)
            .await?;
        let entries: Vec<_> =
            new.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids).collect();
        let last = entries.last().map_or(after, |entry| entry.id.clone());
        Ok((last, entries))
    }

    fn request(&self, entry: &StreamId) -> Option<Run> {
        let number = |name| entry.get::<u64>(name);
        let is_ours = entry.get::<String>("source").as_ref() == Some(&self.source);
        is_ours.then(|| Run::new(number("first_seq")?, number("last_seq")?)).flatten()
    }
}

impl Requests for Stream {
    async fn next(&mut self) -> Result<Run, SinkError> {
        loop {
            if let Some(run) = self.waiting.pop() {
                return Ok(run);
            }
            // Whatever goes wrong before it is put back: the connection ends.
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let (after, entries) = self.look(&mut connection).await.map_err(|error| failure(&error))?;
            self.waiting = entries.iter().rev().filter_map(|entry| self.request(entry)).collect();
            (self.after, self.connection) = (Some(after), Some(connection));
        }
    }
}
