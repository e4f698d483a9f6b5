//! Requests on NATS: JSON with `first_seq` and `last_seq` on the subject `dormouse.resend.<cell>.<host>`, without
//! JetStream. The client makes a lost connection again by itself, and listens again.

use async_nats::Subscriber;
use dormouse_ledger::HostName;
use futures_util::StreamExt;
use serde::Deserialize;

use super::{Requests, Run};
use crate::config;
use crate::publish::jetstream::{options, tokens};
use crate::publish::sink::{SinkError, chain};

/// How many requests may wait. Those behind them are dropped, and come again.
const WAITING_MAX: usize = 256;

/// The subject on which this host is asked.
pub(in crate::publish) struct Subject {
    config: config::Sink,
    name: String,
    asked: Option<Subscriber>,
}

#[derive(Deserialize)]
struct Request {
    first_seq: u64,
    last_seq: u64,
}

impl Subject {
    /// Connects when the first request is waited for.
    pub(in crate::publish) fn new(config: config::Sink, host: &HostName) -> Self {
        let name = format!("dormouse.resend.{}", tokens(host));
        Self { config, name, asked: None }
    }

    async fn listen(&self) -> Result<Subscriber, SinkError> {
        let unreachable = |error: &dyn std::error::Error| SinkError::Unreachable(chain(error));
        let options = options(&self.config)?.subscription_capacity(WAITING_MAX);
        let client = options.connect(&self.config.url).await.map_err(|error| unreachable(&error))?;
        client.subscribe(self.name.clone()).await.map_err(|error| unreachable(&error))
    }
}

impl Requests for Subject {
    async fn next(&mut self) -> Result<Run, SinkError> {
        loop {
            let asked = match &mut self.asked {
                Some(asked) => asked,
                None => self.asked.insert(self.listen().await?),
            };
            let Some(message) = asked.next().await else {
                self.asked = None;
                return Err(SinkError::Unreachable("the subscription ended".to_owned()));
            };
            let request = serde_json::from_slice::<Request>(&message.payload).ok();
            let run = request.and_then(|Request { first_seq, last_seq }| Run::new(first_seq, last_seq));
            if let Some(run) = run {
                return Ok(run);
            }
            tracing::warn!(subject = self.name, "a request to send again cannot be read");
        }
    }
}
