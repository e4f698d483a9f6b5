//! NATS JetStream: stream `DORMOUSE`, subjects `dormouse.events.<cell>.<host>`, a message is the CloudEvent's bytes.
//!
//! Hosts are asked to send again on `dormouse.resend.<cell>.<host>`, without JetStream: JSON with `first_seq` and
//! `last_seq`, both included; of a cell's or host's name dots become underscores. A request is repeated until its numbers
//! are stored.

use std::time::Duration;

use async_nats::ServerAddr;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{self, Context};
use dormouse_ledger::fleet::Resend;
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::timeout;

use super::{Queue, QueueError, Received};
use crate::tls::ClientFiles;

const STREAM: &str = "DORMOUSE";
const SUBJECTS: &str = "dormouse.events.>";

/// How long the first message of a batch is waited for.
const WAIT: Duration = Duration::from_secs(1);
/// How long the server is waited for to say so.
const END_WAIT: Duration = Duration::from_secs(10);
/// After which time a message that is not acknowledged comes again: longer than a batch takes to be stored.
const ACK_WAIT: Duration = Duration::from_mins(1);
/// How many messages may be under way to all instances together.
const ACK_PENDING_MAX: i64 = 200_000;

/// A durable consumer of the stream, shared with all others of its name.
pub struct JetStream {
    client: async_nats::Client,
    context: Context,
    durable: String,
    consumer: Option<PullConsumer>,
}

impl From<async_nats::Error> for QueueError {
    fn from(error: async_nats::Error) -> Self {
        Self(error.to_string())
    }
}

fn failed(error: impl std::fmt::Display) -> QueueError {
    QueueError(error.to_string())
}

impl JetStream {
    /// Connects, now or whenever there is a server. The stream is the publishers' to make.
    /// Credentials, a user and a password or a token, are in the URL. By TLS where that begins with `tls://`.
    pub async fn connect(url: &str, files: &ClientFiles, durable: &str) -> Result<Self, QueueError> {
        let mut options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        // The client takes none out of a URL by itself.
        let server: ServerAddr = url.parse().map_err(failed)?;
        options = match (server.username(), server.password()) {
            (Some(user), Some(password)) => options.user_and_password(user.to_owned(), password.to_owned()),
            (Some(token), None) => options.token(token.to_owned()),
            (None, _) => options,
        };
        if url.starts_with("tls://") {
            options = options.require_tls(true).tls_client_config(files.config().map_err(failed)?);
        }
        let client = options.connect(server).await.map_err(failed)?;
        let context = jetstream::new(client.clone());
        Ok(Self { client, context, durable: durable.to_owned(), consumer: None })
    }

    async fn consumer(&mut self) -> Result<PullConsumer, QueueError> {
        if let Some(consumer) = &self.consumer {
            return Ok(consumer.clone());
        }
        let stream = self.context.get_stream(STREAM).await.map_err(|error| {
            failed(format!("there is no stream {STREAM} ({error}); the first publisher makes it"))
        })?;
        let config = pull::Config {
            durable_name: Some(self.durable.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: ACK_PENDING_MAX,
            filter_subject: SUBJECTS.to_owned(),
            ..pull::Config::default()
        };
        let consumer = stream.get_or_create_consumer(&self.durable, config).await.map_err(failed)?;
        self.consumer = Some(consumer.clone());
        Ok(consumer)
    }

    /// What is there; where there is nothing, the first message that comes, and what is there behind it. More is not
    /// waited for: it would hold up the first, by as much as it takes to come.
    async fn batch(&mut self, messages_max: usize) -> Received<Acker> {
        let received = self.there(messages_max).await?;
        if !received.is_empty() {
            return Ok(received);
        }
        let consumer = self.consumer().await?;
        let first = consumer.batch().max_messages(1).expires(WAIT).messages().await.map_err(failed)?;
        let mut received = taken(first).await?;
        if !received.is_empty() && messages_max > 1 {
            match self.there(messages_max - 1).await {
                Ok(more) => received.extend(more),
                Err(error) => tracing::debug!(%error, "a batch has its first message only"),
            }
        }
        Ok(received)
    }

    /// What is there.
    async fn there(&mut self, messages_max: usize) -> Received<Acker> {
        let consumer = self.consumer().await?;
        taken(consumer.fetch().max_messages(messages_max).messages().await.map_err(failed)?).await
    }

    /// What was received. After an error the consumer is looked up anew: the server may have come back without it.
    fn received(&mut self, batch: Received<Acker>) -> Received<Acker> {
        if batch.is_err() {
            self.consumer = None;
        }
        batch
    }
}

/// The messages of a batch until its end. That is told by the server, which may be gone: what has come is stored either
/// way.
async fn taken(mut batch: pull::Batch) -> Received<Acker> {
    let mut received = Vec::new();
    while let Ok(Some(message)) = timeout(END_WAIT, batch.next()).await {
        match message {
            Ok(message) => {
                let (message, acker) = message.split();
                received.push((message.payload.to_vec(), acker));
            }
            Err(error) if received.is_empty() => return Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, "a batch was cut short");
                break;
            }
        }
    }
    Ok(received)
}

impl Queue for JetStream {
    type Receipt = Acker;

    async fn receive(&mut self, messages_max: usize) -> Received<Acker> {
        let batch = self.batch(messages_max).await;
        self.received(batch)
    }

    async fn receive_more(&mut self, messages_max: usize) -> Received<Acker> {
        let batch = self.there(messages_max).await;
        self.received(batch)
    }

    async fn acknowledge(&mut self, receipts: Vec<Acker>) -> Result<(), QueueError> {
        for acker in receipts {
            acker.ack().await?;
        }
        self.client.flush().await.map_err(failed)
    }

    async fn ask_again(&mut self, request: &Resend) -> Result<(), QueueError> {
        // A dot in a name would begin another token of the subject.
        let host = request.source.trim_start_matches("//dormouse/").replace('.', "_").replace('/', ".");
        let what = json!({"first_seq": request.first_seq, "last_seq": request.last_seq}).to_string();
        self.client.publish(format!("dormouse.resend.{host}"), what.into()).await.map_err(failed)
    }
}
