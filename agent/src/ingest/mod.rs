//! From the queue to the fleet's ledger: receive, store, and only then acknowledge.
//!
//! ```text
//!   JetStream or Redis ──receive──▶ Batch (pure) ──▶ FleetLedger::ingest, one transaction ──▶ acknowledge
//!            ▲                                                                                    │
//!            └──────────── whatever was not acknowledged comes again, to this one or another ◀────┘
//! ```
//!
//! A batch that is full has more behind it: that is received and read while PostgreSQL stores the batch. One batch ahead and no
//! more; they are stored in the order in which they came.
//!
//! A crash between commit and acknowledgement is harmless: what comes again is stored already. So is a queue or a
//! database that is away: nothing is acknowledged meanwhile, and both are tried again until they are back.
//!
//! Any number of these may run beside each other. What they agree on with the publishers is in `jetstream` and
//! `redis`. Requests to send again, which `dormouse ledger check --resend` leaves in the database, go back the same
//! way.

mod backoff;
mod jetstream;
mod redis;

use std::time::Duration;

use dormouse_ledger::fleet::{Batch, FleetLedger, Ingested, Resend};

use crate::database::{Database, OpenError};
use backoff::Backoff;
pub use jetstream::JetStream;
pub use redis::RedisStream;

/// How often hosts are reminded of what they are asked to send again.
const REMIND_EVERY: Duration = Duration::from_secs(15);

/// Why messages cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("the queue: {0}")]
pub struct QueueError(String);

/// Messages, each with what it is acknowledged by.
pub type Received<R> = Result<Vec<(Vec<u8>, R)>, QueueError>;

/// What brings messages.
pub trait Queue {
    /// What a message is acknowledged by.
    type Receipt;

    /// Waits a moment for messages, and returns those that came, each with its receipt. None is an answer, too.
    /// After an error it may be called again.
    fn receive(&mut self, messages_max: usize) -> impl Future<Output = Received<Self::Receipt>> + Send;

    /// The same of what is there already: nothing is waited for.
    fn receive_more(&mut self, messages_max: usize) -> impl Future<Output = Received<Self::Receipt>> + Send;

    /// Says that messages are stored. Lost acknowledgements are harmless.
    fn acknowledge(
        &mut self,
        receipts: Vec<Self::Receipt>,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Asks a host to send events again.
    fn ask_again(&mut self, request: &Resend) -> impl Future<Output = Result<(), QueueError>> + Send;
}

/// How to go about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the database is reached.
    pub database: Database,
    /// How many messages are stored in one transaction at most.
    pub batch_max: usize,
    /// Whether to end once the queue has been empty for a moment.
    pub drain: bool,
}

/// Stores what comes until `stop`, or, draining, until nothing comes any more; returns the sums.
pub async fn run<Q: Queue>(
    mut queue: Q,
    options: &Options,
    stop: impl Future<Output = ()>,
) -> Result<Ingested, OpenError> {
    let mut ledger = options.database.open().await?;
    let (mut sums, mut backoff) = (Ingested::default(), Backoff::default());
    let mut remind = tokio::time::interval(REMIND_EVERY);
    let mut stop = std::pin::pin!(stop);
    // The first comes at once.
    remind.tick().await;
    remind_hosts(&mut ledger, &mut queue).await;
    let mut stopped = false;
    let mut ahead: Option<Read<Q::Receipt>> = None;
    loop {
        // Only between batches: messages that are dropped halfway come again a minute later.
        tokio::select! {
            biased;
            () = &mut stop, if !stopped => stopped = true,
            _ = remind.tick() => remind_hosts(&mut ledger, &mut queue).await,
            () = std::future::ready(()) => {}
        }
        let read = match ahead.take() {
            Some(read) => read,
            None if stopped => return Ok(sums),
            None => match queue.receive(options.batch_max).await {
                Ok(messages) => Read::of(messages).await,
                Err(error) => {
                    tracing::warn!(%error, "nothing can be received; it is tried again");
                    backoff.wait().await;
                    continue;
                }
            },
        };
        backoff = Backoff::default();
        let count = read.batch.messages_count();
        if count == 0 && options.drain {
            return Ok(sums);
        }
        if count == 0 {
            continue;
        }
        // Boxed: together they are larger than what a caller should have to move.
        let stored = Box::pin(store(&mut ledger, &options.database, &read.batch));
        let ingested = if count < options.batch_max || stopped {
            stored.await?
        } else {
            let (ingested, next) = tokio::join!(stored, Box::pin(read_ahead(&mut queue, options.batch_max)));
            ahead = next;
            ingested?
        };
        sums = sums.plus(ingested);
        tracing::info!(?ingested, "stored");
        if let Err(error) = queue.acknowledge(read.receipts).await {
            tracing::warn!(%error, "what is stored could not be acknowledged, and will come again");
        }
    }
}

/// Messages that were read, with what they are acknowledged by.
struct Read<R> {
    batch: Batch<'static>,
    receipts: Vec<R>,
}

impl<R> Read<R> {
    /// Read in a thread of its own, beside what waits for PostgreSQL.
    async fn of(messages: Vec<(Vec<u8>, R)>) -> Self {
        let (payloads, receipts): (Vec<_>, Vec<_>) = messages.into_iter().unzip();
        let batch = match tokio::task::spawn_blocking(|| Batch::from(payloads)).await {
            Ok(batch) => batch,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        };
        Self { batch, receipts }
    }
}

/// What is there behind a batch, if anything is. What fails here is tried again, and said, in its own turn.
async fn read_ahead<Q: Queue>(queue: &mut Q, messages_max: usize) -> Option<Read<Q::Receipt>> {
    match queue.receive_more(messages_max).await {
        Ok(messages) if messages.is_empty() => None,
        Ok(messages) => Some(Read::of(messages).await),
        Err(error) => {
            tracing::debug!(%error, "nothing can be received ahead");
            None
        }
    }
}

/// Stores a batch, however long the database is away. It is not stopped in between: it is stored, or it comes again.
async fn store(
    ledger: &mut FleetLedger,
    database: &Database,
    batch: &Batch<'_>,
) -> Result<Ingested, OpenError> {
    let mut backoff = Backoff::default();
    loop {
        let error = match ledger.ingest(batch).await {
            Ok(ingested) => return Ok(ingested),
            Err(error) if error.is_disconnected() => error,
            Err(error) => return Err(error.into()),
        };
        tracing::warn!(%error, "the database is away; it is tried again");
        loop {
            backoff.wait().await;
            match database.open().await {
                Ok(reopened) => {
                    *ledger = reopened;
                    break;
                }
                Err(OpenError::Ledger(error)) if !error.is_disconnected() => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "still away"),
            }
        }
    }
}

/// Asks hosts for what is missing. What fails here is tried again at the next turn.
async fn remind_hosts<Q: Queue>(ledger: &mut FleetLedger, queue: &mut Q) {
    let open = match ledger.open_requests().await {
        Ok(open) => open,
        Err(error) => return tracing::warn!(%error, "the open requests cannot be read"),
    };
    for request in &open {
        if let Err(error) = queue.ask_again(request).await {
            tracing::warn!(%error, source = request.source, "a host could not be asked to send again");
        }
    }
}
