//! The publisher: takes the ledger's events to every configured sink.
//!
//! ```text
//!   ledger's writer ── commit ──▶ head ─┬─▶ worker ── batch ──▶ NATS JetStream
//!                                       ├─▶ worker ── batch ──▶ Redis
//!   ledger's readers ── events ─────────┴─▶ worker ── batch ──▶ HTTP, PostgreSQL
//!                                             │
//!   ledger's writer ◀── what is acknowledged ─┘
//! ```
//!
//! - [`cursor`] decides, and is pure: when a batch is sent, how long a failed sink is left alone, what is saved.
//! - `worker` executes, one for each sink, each with a reader and a place in the outbox of its own: a sink that is down
//!   delays no other, and costs the disk that its events take and nothing else.
//! - `jetstream`, `redis`, `postgres` and `http` are the sinks; `access` reads their credentials and certificates. Another kind is
//!   another implementation of `sink::Sink`, and a line in `start`.
//! - `flat` makes other entries of events for a Redis sink that wants them.
//! - [`resend`] answers requests to send events again: by a connection of its own, and without any cursor moving.
//! - `retention` lets go of events that every sink has.
//!
//! An event reaches a sink at least once, its first delivery in the order of the outbox, and always with the same id and
//! bytes. Nothing here changes an event, waits for metering, or is waited for by it.

mod access;
pub mod cursor;
mod flat;
mod http;
mod jetstream;
mod line;
mod postgres;
mod redis;
pub mod resend;
mod retention;
mod sink;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dormouse_ledger::{Class, HostName, Ledger, LedgerError, Record, SinkNames};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::config::{self, Config, SinkForm, SinkKind};
use cursor::Standing;
use worker::Worker;

/// How long the workers may take to end.
const STOP: Duration = Duration::from_secs(2);

/// The publisher at work.
pub struct Publisher {
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Starts a worker for every sink of the configuration, and lets the ledger know which sinks there are. Must be called
/// within a tokio runtime.
pub fn start(
    config: &Config,
    ledger: &Ledger,
    host: &HostName,
    clock: &Clock,
) -> Result<Publisher, LedgerError> {
    configure(config, ledger, clock)?;
    for sink in config.sinks.iter().filter(|sink| sink.form == SinkForm::Flat) {
        flat::agree(ledger, sink, &config.billing)?;
    }
    let (tell_head, head) = watch::channel(0);
    let tell_head = Arc::new(tell_head);
    let told = Arc::clone(&tell_head);
    ledger.writer().listen(Box::new(move |host_seq| told.send_modify(|head| *head = host_seq.max(*head))));
    // Read behind that: no event comes between the two unheard.
    let standing = ledger.reader()?.outbox_standing()?;
    tell_head.send_modify(|head| *head = standing.last_seq.max(*head));
    let (stopping, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for sink in &config.sinks {
        let Some(known) = standing.sinks.iter().find(|known| known.name == sink.name) else { continue };
        let saved = Standing { acknowledged_seq: known.acknowledged_seq, error: known.error.clone() };
        let common = Common { config: sink.clone(), ledger, clock, head: &head, stopped: &stopped };
        match sink.kind {
            SinkKind::Nats => {
                let requests = resend::Subject::new(sink.clone(), host);
                let again = jetstream::JetStream::again(sink.clone(), host);
                tasks.spawn(resend::run(requests, common.answering(again)?));
                tasks.spawn(common.worker(jetstream::JetStream::new(sink.clone(), host))?.run(saved))
            }
            SinkKind::Redis => {
                let requests = resend::Stream::new(sink.clone(), host);
                tasks.spawn(resend::run(requests, common.answering(common.redis(host)?)?));
                let stream = common.redis(host)?;
                tasks.spawn(common.worker(stream)?.run(saved))
            }
            SinkKind::Postgres => {
                tasks.spawn(common.worker(postgres::Postgres::new(sink.clone()))?.run(saved))
            }
            SinkKind::Http => tasks.spawn(common.worker(http::Http::new(sink.clone()))?.run(saved)),
        };
    }
    let retention = Duration::from_millis(config.outbox.retention_ms);
    tasks.spawn(retention::run(ledger.reader()?, ledger.writer(), clock.clone(), retention, stopped));
    Ok(Publisher { stopping, tasks })
}

/// Makes the sinks of the configuration those of the ledger. Where they are, nothing is written, so that an agent starts on
/// a full disk.
fn configure(config: &Config, ledger: &Ledger, clock: &Clock) -> Result<(), LedgerError> {
    let names: BTreeSet<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
    let standing = ledger.reader()?.outbox_standing()?;
    if names == standing.sinks.iter().map(|sink| sink.name.as_str()).collect() {
        return Ok(());
    }
    let names = names.into_iter().map(str::to_owned).collect();
    let sinks = SinkNames { names, at_unix_ns: clock.now().wall_ns };
    ledger.writer().write(Class::Intent, vec![Record::Sinks(sinks)]).map(drop)
}

impl Publisher {
    /// Ends the workers, once they have saved how far they came. What is not sent yet is sent after the next start.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP, ended).await.is_err() {
            tracing::warn!("a sink's standing was not saved: some events will be sent again");
        }
    }
}

/// What every worker gets.
struct Common<'a> {
    config: config::Sink,
    ledger: &'a Ledger,
    clock: &'a Clock,
    head: &'a watch::Receiver<u64>,
    stopped: &'a watch::Receiver<bool>,
}

impl Common<'_> {
    fn redis(&self, host: &HostName) -> Result<redis::RedisStream, LedgerError> {
        let flat = match self.config.form {
            SinkForm::Cloudevents => None,
            SinkForm::Flat => Some(flat::Flat::new(self.ledger.reader()?, host, &self.config.name)?),
        };
        Ok(redis::RedisStream::new(self.config.clone(), host, flat))
    }

    fn answering<S: sink::Sink>(&self, again: S) -> Result<resend::Answering<S>, LedgerError> {
        Ok(resend::Answering {
            sink: self.config.name.clone(),
            line: line::Line::new(again, self.ledger.reader()?, &self.config),
            reader: self.ledger.reader()?,
            writer: self.ledger.writer(),
            clock: self.clock.clone(),
            stopping: self.stopped.clone(),
        })
    }

    fn worker<S>(self, sink: S) -> Result<Worker<S>, LedgerError> {
        Ok(Worker {
            config: self.config,
            sink,
            reader: self.ledger.reader()?,
            writer: self.ledger.writer(),
            clock: self.clock.clone(),
            head: self.head.clone(),
            stopping: self.stopped.clone(),
        })
    }
}
