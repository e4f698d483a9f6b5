//! A ledger with a life in it and a publisher, and what their servers have received.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use dormouse::clock::Clock;
use dormouse::config::{Config, Sink, SinkKind};
use dormouse::publish::{self, Publisher};
use dormouse_ledger::{
    Class, HostName, Ledger, LedgerError, OutboxRow, OutboxStanding, Record, SandboxKey, SandboxSeen,
    SliceBatch,
};
use dormouse_metering::{BillingState, BootId, Boundary, Cause, OpenSlice, Shape, Slice};
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::wait::{self, unless};
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;
use serde_json::{Value, json};

pub(crate) const DEADLINE: Duration = Duration::from_mins(1);
const SECOND: i64 = 1_000_000_000;
const BEGAN: i64 = 1_767_225_600 * SECOND;

pub(crate) fn host() -> HostName {
    HostName { cell: "cell-a".to_owned(), host: "host-1".to_owned() }
}

/// A sink for a server, impatient enough for a test.
pub(crate) fn sink(name: &str, kind: SinkKind, url: String) -> Sink {
    Sink {
        name: name.to_owned(),
        kind,
        url,
        timeout_ms: 1_000,
        batch_events: 300,
        backoff_min_ms: 10,
        backoff_max_ms: 200,
        ..Sink::default()
    }
}

/// A ledger in a folder of its own, with one sandbox in it, and its publisher.
pub(crate) struct Stage {
    folder: tempfile::TempDir,
    /// Always there, but while it is opened anew.
    ledger: Option<Ledger>,
    pub(crate) publisher: Option<Publisher>,
    config: Config,
    open: OpenSlice,
}

impl Stage {
    pub(crate) fn new(sinks: Vec<Sink>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = open(&folder).unwrap();
        let start = Boundary { unix_ns: BEGAN, uncertainty_ns: 0, cause: Cause::Attach, command: None };
        let shape = Shape { vcpus_milli: 2000, memory_base_bytes: 1 << 30, ..Shape::default() };
        let boot = BootId([7; 16]);
        let open = OpenSlice {
            seq: 1,
            state: BillingState::Running,
            beneath: None,
            shape,
            start,
            boot,
            start_boottime_ns: 1_000,
        };
        let seen = SandboxSeen {
            key: key(),
            plan: "pro".to_owned(),
            attachment: json!({}),
            lifecycle: "running".to_owned(),
            created_unix_ns: BEGAN,
        };
        ledger.writer().write(Class::Fact, vec![Record::SandboxSeen(seen)]).unwrap();
        let mut config = Config { sinks, ..Config::default() };
        // The slices are of another time.
        config.outbox.retention_ms = 3_650 * 86_400_000;
        let mut stage = Self { folder, ledger: Some(ledger), publisher: None, config, open };
        stage.publish();
        stage
    }

    fn publish(&mut self) {
        let (clock, _) = Clock::start(None).unwrap();
        self.publisher = Some(publish::start(&self.config, self.ledger(), &host(), &clock).unwrap());
    }

    /// Starts the publisher again, on the ledger opened anew.
    pub(crate) async fn publish_again(&mut self) {
        drop(self.ledger.take());
        // A server that another test is starting may hold the lock until it is a program of its own.
        let opened = wait::until("the ledger", DEADLINE, async || open(&self.folder)).await;
        self.ledger = Some(opened.unwrap());
        self.publish();
    }

    /// Commits slices, each with its event, one transaction for all.
    pub(crate) fn commit(&mut self, slices: u64) {
        let slices: Vec<Slice> = (0..slices).map(|_| self.cut()).collect();
        let (key, open) = (key(), Some(self.open.clone()));
        let batch = SliceBatch { key, slices, open, pending: Vec::new(), ended: false };
        self.ledger().writer().write(Class::Fact, vec![Record::Slices(batch)]).unwrap();
    }

    fn cut(&mut self) -> Slice {
        let open = &self.open;
        let end = Boundary { unix_ns: open.start.unix_ns + SECOND, cause: Cause::Tick, ..open.start.clone() };
        let slice = Slice {
            seq: open.seq,
            state: open.state,
            shape: open.shape,
            duration_ns: 1_000_000_000,
            start: open.start.clone(),
            end: end.clone(),
        };
        let start_boottime_ns = open.start_boottime_ns + 1_000_000_000;
        self.open = OpenSlice { seq: open.seq + 1, start: end, start_boottime_ns, ..open.clone() };
        slice
    }

    pub(crate) fn events(&self) -> Vec<OutboxRow> {
        self.ledger().reader().unwrap().outbox(0, usize::MAX).unwrap()
    }

    pub(crate) fn standing(&self) -> OutboxStanding {
        self.ledger().reader().unwrap().outbox_standing().unwrap()
    }

    fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().unwrap()
    }

    /// Waits until a sink has acknowledged every event.
    pub(crate) async fn acknowledged(&self, sink: &str) {
        wait::until(sink, DEADLINE, async || {
            let standing = self.standing();
            let sink = standing.sinks.iter().find(|it| it.name == sink).unwrap();
            unless(sink.lag_events == 0, || format!("{sink:?}"))
        })
        .await
        .unwrap();
    }

    /// Waits until a sink says why it takes nothing.
    pub(crate) async fn fails(&self, sink: &str, part: &str) {
        wait::until(sink, DEADLINE, async || {
            let standing = self.standing();
            let sink = standing.sinks.iter().find(|it| it.name == sink).unwrap();
            unless(sink.error.as_deref().is_some_and(|why| why.contains(part)), || format!("{sink:?}"))
        })
        .await
        .unwrap();
    }
}

fn open(folder: &tempfile::TempDir) -> Result<Ledger, LedgerError> {
    Ledger::open(&folder.path().join("ledger.sqlite"), &host())
}

fn key() -> SandboxKey {
    SandboxKey { org: "org".to_owned(), sandbox: "sb".to_owned(), generation: BEGAN }
}

/// The events that a server holds, in the order in which it stored them.
pub(crate) async fn received(server: &Server, kind: Kind) -> Vec<Vec<u8>> {
    match kind {
        Kind::Nats => from_stream(&server.url()).await,
        Kind::Redis => from_redis(&server.url()).await,
    }
}

async fn from_stream(url: &str) -> Vec<Vec<u8>> {
    let context = jetstream::new(async_nats::connect(url).await.unwrap());
    let stream = context.get_stream("DORMOUSE").await.unwrap();
    let (first, last) = (stream.cached_info().state.first_sequence, stream.cached_info().state.last_sequence);
    let mut events = Vec::new();
    for sequence in first..=last {
        let message = stream.get_raw_message(sequence).await.unwrap();
        assert_eq!(message.subject.as_str(), "dormouse.events.cell-a.host-1");
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        let id = format!("{}/{}", event["source"].as_str().unwrap(), event["id"].as_str().unwrap());
        assert_eq!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), id);
        events.push(message.payload.to_vec());
    }
    events
}

async fn from_redis(url: &str) -> Vec<Vec<u8>> {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let range: StreamRangeReply = connection.xrange_all("dormouse:events").await.unwrap();
    range.ids.iter().map(|entry| entry.get("event").unwrap()).collect()
}

/// Every event was delivered, its first delivery in the order of the outbox, and a repeat has the same bytes.
pub(crate) fn assert_delivered(received: &[Vec<u8>], events: &[OutboxRow]) {
    let mut first: Vec<&[u8]> = Vec::new();
    let mut by_id: BTreeMap<String, &[u8]> = BTreeMap::new();
    for bytes in received {
        let id = serde_json::from_slice::<Value>(bytes).unwrap()["id"].as_str().unwrap().to_owned();
        if let Some(known) = by_id.get(&id) {
            assert!(*known == &bytes[..], "{id} was sent again with other bytes");
        } else {
            by_id.insert(id, bytes);
            first.push(bytes);
        }
    }
    assert_eq!(first.len(), events.len(), "events that arrived");
    let place = first.iter().zip(events).position(|(got, event)| *got != &event.payload[..]);
    assert_eq!(place, None, "the place of the first event out of order");
}
