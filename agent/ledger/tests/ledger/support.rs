//! A ledger in a folder of its own, and a sandbox whose life can be told to it.

use std::path::PathBuf;

use dormouse_ledger::{
    Class, CommandIntent, CommandOutcome, Committed, HostName, Ledger, LedgerError, OutcomeStatus, Reader,
    Record, SandboxKey, SandboxSeen, SliceBatch,
};
use dormouse_metering::{BillingState, BootId, Boundary, Cause, CommandId, OpenSlice, Shape, Slice, Stamp};
use serde_json::json;

pub(crate) const BOOT: BootId = BootId([7; 16]);
pub(crate) const SECOND: i64 = 1_000_000_000;
/// 2026-01-01T00:00:00Z, where the tests' lives begin.
pub(crate) const BEGAN: i64 = 1_767_225_600 * SECOND;
pub(crate) const GIB: u64 = 1 << 30;

pub(crate) fn host() -> HostName {
    HostName { cell: "cell-a".to_owned(), host: "host-1".to_owned() }
}

pub(crate) fn key(org: &str, sandbox: &str) -> SandboxKey {
    SandboxKey { org: org.to_owned(), sandbox: sandbox.to_owned(), generation: BEGAN }
}

pub(crate) fn stamp(seconds: i64) -> Stamp {
    let boottime_ns = u64::try_from(seconds * SECOND).unwrap() + 1_000;
    Stamp { boot: BOOT, boottime_ns, wall_ns: BEGAN + seconds * SECOND, uncertainty_ns: 0 }
}

/// A folder with a ledger that is not open yet.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("ledger.sqlite")
    }

    pub(crate) fn open(&self) -> Ledger {
        Ledger::open(&self.path(), &host()).unwrap()
    }

    pub(crate) fn reader(&self) -> Reader {
        Reader::open(&self.path()).unwrap()
    }

    /// The file itself, as any program may open it.
    pub(crate) fn raw(&self) -> rusqlite::Connection {
        let conn = rusqlite::Connection::open(self.path()).unwrap();
        conn.pragma_update(None, "foreign_keys", true).unwrap();
        conn
    }
}

/// Writes a unit of facts.
pub(crate) fn facts(ledger: &Ledger, records: Vec<Record>) -> Result<Committed, LedgerError> {
    ledger.writer().write(Class::Fact, records)
}

/// One sandbox's life, told slice by slice.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) key: SandboxKey,
    pub(crate) open: OpenSlice,
}

impl Life {
    /// It begins running with 1 GiB and 2 vCPUs.
    pub(crate) fn begins(key: SandboxKey) -> Self {
        let start = Boundary { unix_ns: BEGAN, uncertainty_ns: 0, cause: Cause::Attach, command: None };
        let shape = Shape { vcpus_milli: 2000, memory_base_bytes: GIB, ..Shape::default() };
        let (boot, start_boottime_ns) = (BOOT, stamp(0).boottime_ns);
        Self {
            key,
            open: OpenSlice {
                seq: 1,
                state: BillingState::Running,
                beneath: None,
                shape,
                start,
                boot,
                start_boottime_ns,
            },
        }
    }

    pub(crate) fn seen(&self) -> Record {
        Record::SandboxSeen(SandboxSeen {
            key: self.key.clone(),
            plan: "pro".to_owned(),
            attachment: json!({"qmp": "/run/qmp.sock", "argv": ["qemu-system-x86_64"]}),
            lifecycle: "running".to_owned(),
            created_unix_ns: self.key.generation,
        })
    }

    /// Closes the open slice after `seconds` and opens the next.
    pub(crate) fn cut(&mut self, seconds: i64, cause: Cause, command: Option<&str>) -> Slice {
        let duration_ns = u64::try_from(seconds * SECOND).unwrap();
        let (open, command) = (&self.open, command.map(CommandId::new));
        let end =
            Boundary { unix_ns: open.start.unix_ns + seconds * SECOND, uncertainty_ns: 5, cause, command };
        let slice = Slice {
            seq: open.seq,
            state: open.state,
            shape: open.shape,
            duration_ns,
            start: open.start.clone(),
            end: end.clone(),
        };
        self.open = OpenSlice {
            beneath: None,
            seq: open.seq + 1,
            start: end,
            start_boottime_ns: open.start_boottime_ns + duration_ns,
            ..open.clone()
        };
        slice
    }

    /// The record of slices that became final, with what is open behind them.
    pub(crate) fn record(&self, slices: Vec<Slice>) -> Record {
        let (key, open) = (self.key.clone(), Some(self.open.clone()));
        Record::Slices(SliceBatch { key, slices, open, pending: Vec::new(), ended: false })
    }

    /// The record of the last slices of the life.
    pub(crate) fn end(&self, slices: Vec<Slice>) -> Record {
        let key = self.key.clone();
        Record::Slices(SliceBatch { key, slices, open: None, pending: Vec::new(), ended: true })
    }
}

/// A request to pause `org/sb`.
pub(crate) fn intent(request_id: &str) -> CommandIntent {
    CommandIntent {
        org: "org".to_owned(),
        request_id: request_id.to_owned(),
        sandbox: "sb".to_owned(),
        generation: Some(BEGAN),
        kind: "pause".to_owned(),
        payload: json!({"reason": "idle"}),
        asked_by: "control".to_owned(),
        deadline_unix_ns: Some(BEGAN + SECOND),
        at: stamp(0),
    }
}

/// What became of it.
pub(crate) fn outcome(request_id: &str, status: OutcomeStatus) -> CommandOutcome {
    CommandOutcome {
        org: "org".to_owned(),
        request_id: request_id.to_owned(),
        status,
        reason: None,
        detail: json!({"took_ms": 3}),
        at: stamp(1),
    }
}

/// A ledger of one life with three closed slices, the first two cut by commands, and its closed file.
pub(crate) fn written() -> (Place, Life) {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    let slices = vec![
        life.cut(10, Cause::Pause, Some("req-1")),
        life.cut(5, Cause::Resume, Some("req-2")),
        life.cut(7, Cause::Tick, None),
    ];
    let intents = ["req-1", "req-2"].map(|request_id| Record::Intent(intent(request_id)));
    facts(&ledger, intents.into()).unwrap();
    facts(&ledger, vec![life.seen(), life.record(slices)]).unwrap();
    (place, life)
}
