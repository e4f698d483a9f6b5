//! A host without its sandboxes: a ledger that is given a life, and its publisher at work on real sinks.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test that cannot go on fails there")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use dormouse::clock::Clock;
use dormouse::config::{Config, Sink, SinkKind};
use dormouse::publish::{self, Publisher};
use dormouse_ledger::{
    Class, HostName, Ledger, LedgerError, OutboxRow, OutboxStanding, Record, SandboxFilter, SandboxKey,
    SandboxSeen, SliceBatch, Watermark,
};
use dormouse_metering::{BillingState, BootId, Boundary, Cause, OpenSlice, Shape, Slice};
use serde_json::json;

use crate::events::{BEGAN_NS, SECOND_NS};
use crate::wait::{self, unless};

/// How long a sink may take to be as a test wants it.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// What the ledger is called in its folder.
pub const LEDGER: &str = "ledger.sqlite";

/// The host of a stage that has no other.
pub fn host() -> HostName {
    HostName { cell: "cell-a".to_owned(), host: "host-1".to_owned() }
}

/// A sink for a server, impatient enough for a test.
pub fn sink(name: &str, kind: SinkKind, url: String) -> Sink {
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
#[allow(missing_debug_implementations, reason = "a publisher has none")]
pub struct Stage {
    host: HostName,
    folder: PathBuf,
    /// What removes the folder, where it is the stage's own.
    own: Option<tempfile::TempDir>,
    /// Always there, but while it is opened anew.
    ledger: Option<Ledger>,
    /// The publisher, unless it was stopped.
    pub publisher: Option<Publisher>,
    config: Config,
    open: OpenSlice,
}

impl Stage {
    /// A stage whose publisher publishes to these sinks.
    pub fn new(sinks: Vec<Sink>) -> Self {
        Self::of(host(), sinks)
    }

    /// The same of another host.
    pub fn of(host: HostName, sinks: Vec<Sink>) -> Self {
        let own = tempfile::tempdir().unwrap();
        let mut stage = Self::in_folder(own.path(), host, sinks);
        stage.own = Some(own);
        stage
    }

    /// The same in a folder that outlives it: one that was there before goes on where it stopped.
    pub fn in_folder(folder: &Path, host: HostName, sinks: Vec<Sink>) -> Self {
        let ledger = open(folder, &host).unwrap();
        let start = Boundary { unix_ns: BEGAN_NS, uncertainty_ns: 0, cause: Cause::Attach, command: None };
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
            created_unix_ns: BEGAN_NS,
        };
        let known = ledger.reader().unwrap().sandboxes(&SandboxFilter::default()).unwrap().pop();
        let open = if let Some(known) = known {
            known.open.unwrap_or(open)
        } else {
            ledger.writer().write(Class::Fact, vec![Record::SandboxSeen(seen)]).unwrap();
            open
        };
        let mut config = Config { sinks, ..Config::default() };
        // The slices are of another time.
        config.outbox.retention_ms = 3_650 * 86_400_000;
        let (folder, ledger) = (folder.to_owned(), Some(ledger));
        let mut stage = Self { host, folder, own: None, ledger, publisher: None, config, open };
        stage.publish();
        stage
    }

    fn publish(&mut self) {
        let (clock, _) = Clock::start(None).unwrap();
        self.publisher = Some(publish::start(&self.config, self.ledger(), &self.host, &clock).unwrap());
    }

    /// Starts the publisher again, on the ledger opened anew.
    pub async fn publish_again(&mut self) {
        drop(self.ledger.take());
        // A server that another test is starting may hold the lock until it is a program of its own.
        let opened = wait::until("the ledger", DEADLINE, async || open(&self.folder, &self.host)).await;
        self.ledger = Some(opened.unwrap());
        self.publish();
    }

    /// Commits slices, each with its event, one transaction for all.
    pub fn commit(&mut self, slices: u64) {
        let slices: Vec<Slice> = (0..slices).map(|_| self.cut()).collect();
        let (key, open) = (key(), Some(self.open.clone()));
        let batch = SliceBatch { key, slices, open, pending: Vec::new(), ended: false };
        self.ledger().writer().write(Class::Fact, vec![Record::Slices(batch)]).unwrap();
    }

    /// Commits that the hour which ends then is complete.
    pub fn complete(&self, hour_unix_ns: i64) {
        let watermark = Watermark { hour_unix_ns, at_unix_ns: hour_unix_ns };
        self.ledger().writer().write(Class::Fact, vec![Record::Watermark(watermark)]).unwrap();
    }

    /// Lets go of everything that every sink has, as if it were old.
    pub fn let_go(&self, at_unix_ns: i64) {
        let retain = Record::Retain { before_unix_ns: i64::MAX, at_unix_ns };
        self.ledger().writer().write(Class::Fact, vec![retain]).unwrap();
    }

    fn cut(&mut self) -> Slice {
        let open = &self.open;
        let end =
            Boundary { unix_ns: open.start.unix_ns + SECOND_NS, cause: Cause::Tick, ..open.start.clone() };
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

    /// Every event that is kept.
    pub fn events(&self) -> Vec<OutboxRow> {
        self.ledger().reader().unwrap().outbox(0, usize::MAX).unwrap()
    }

    /// Where the outbox and its sinks stand.
    pub fn standing(&self) -> OutboxStanding {
        self.ledger().reader().unwrap().outbox_standing().unwrap()
    }

    fn ledger(&self) -> &Ledger {
        self.ledger.as_ref().unwrap()
    }

    /// Waits until a sink has acknowledged every event.
    pub async fn acknowledged(&self, sink: &str) {
        wait::until(sink, DEADLINE, async || {
            let standing = self.standing();
            let sink = standing.sinks.iter().find(|it| it.name == sink).unwrap();
            unless(sink.lag_events == 0, || format!("{sink:?}"))
        })
        .await
        .unwrap();
    }

    /// Waits until a sink says why it takes nothing.
    pub async fn fails(&self, sink: &str, part: &str) {
        wait::until(sink, DEADLINE, async || {
            let standing = self.standing();
            let sink = standing.sinks.iter().find(|it| it.name == sink).unwrap();
            unless(sink.error.as_deref().is_some_and(|why| why.contains(part)), || format!("{sink:?}"))
        })
        .await
        .unwrap();
    }
}

fn open(folder: &Path, host: &HostName) -> Result<Ledger, LedgerError> {
    Ledger::open(&folder.join(LEDGER), host)
}

fn key() -> SandboxKey {
    SandboxKey { org: "org".to_owned(), sandbox: "sb".to_owned(), generation: BEGAN_NS }
}
