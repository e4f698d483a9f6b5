//! Lives to measure with: sandboxes whose slices are told to a ledger, every one of the same making.

use dormouse::process::ProcessIdentity;
use dormouse_ledger::{Class, HostName, Ledger, LedgerError, Record, SandboxKey, SandboxSeen, SliceBatch};
use dormouse_metering::{
    BillingState, BootId, Boundary, Cause, Change, Observation, OpenSlice, Shape, Slice, Stamp,
};
use serde_json::{Value, json};

const BOOT: BootId = BootId([7; 16]);
const SECOND_NS: i64 = 1_000_000_000;
/// 2026-01-01T00:00:00Z.
const BEGAN: i64 = 1_767_225_600 * SECOND_NS;
const GIB: u64 = 1 << 30;

pub(crate) fn host() -> HostName {
    HostName { cell: "cell-a".to_owned(), host: "host-1".to_owned() }
}

/// One sandbox's life, told slice by slice: 20 s each, as a prepaid org's are.
#[derive(Clone)]
pub(crate) struct Life {
    pub(crate) key: SandboxKey,
    pub(crate) open: OpenSlice,
}

impl Life {
    /// Runs with 1 GiB and two vCPUs since the first hour of 2026. A thousand sandboxes share an org.
    pub(crate) fn begun(number: u32) -> Self {
        Self::begun_at(number, Stamp { boot: BOOT, boottime_ns: 1_000, wall_ns: BEGAN, uncertainty_ns: 0 })
    }

    /// The same, since another moment.
    pub(crate) fn begun_at(number: u32, at: Stamp) -> Self {
        let key = SandboxKey {
            org: format!("org-{:05}", number / 1000),
            sandbox: format!("sandbox-{number:08}"),
            generation: at.wall_ns,
        };
        let start = Boundary { unix_ns: at.wall_ns, uncertainty_ns: 0, cause: Cause::Attach, command: None };
        let shape = Shape { vcpus_milli: 2000, memory_base_bytes: GIB, ..Shape::default() };
        let (state, boot, start_boottime_ns) = (BillingState::Running, at.boot, at.boottime_ns);
        Self { key, open: OpenSlice { seq: 1, state, beneath: None, shape, start, boot, start_boottime_ns } }
    }

    /// The sandbox's first record.
    pub(crate) fn seen(&self) -> Record {
        Record::SandboxSeen(SandboxSeen {
            key: self.key.clone(),
            plan: "free".to_owned(),
            attachment: self.attachment(),
            lifecycle: "running".to_owned(),
            created_unix_ns: self.key.generation,
        })
    }

    /// As the sandbox's actor keeps it. The process lives: it is this one.
    fn attachment(&self) -> Value {
        let process = ProcessIdentity::of(std::process::id().cast_signed()).ok();
        json!({
            "qmp_path": format!("/run/dormouse/sandboxes/{}.qmp", self.key.sandbox),
            "pid": std::process::id(),
            "start_time_ticks": process.map_or(1, |process| process.start_time_ticks),
            "boot": process.map_or(BOOT, |process| process.boot).to_string(),
            "qemu_version": { "major": 10, "minor": 0, "micro": 2 },
        })
    }

    /// Closes the open slice after 20 s with other memory than before, and opens the next.
    pub(crate) fn cut(&mut self) -> Slice {
        self.cut_after(20)
    }

    /// The same, after so many seconds.
    pub(crate) fn cut_after(&mut self, seconds: i64) -> Slice {
        let (open, duration_ns) = (&self.open, seconds * SECOND_NS);
        let end_ns = open.start.unix_ns + duration_ns;
        let end = Boundary { unix_ns: end_ns, uncertainty_ns: 0, cause: Cause::Tick, command: None };
        let duration_ns = duration_ns.unsigned_abs();
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
            shape: Shape { memory_plugged_bytes: (open.seq % 4) * GIB, ..open.shape },
            start: end,
            start_boottime_ns: open.start_boottime_ns + duration_ns,
            ..open.clone()
        };
        slice
    }

    /// The record of slices that became final, with what is open behind them.
    pub(crate) fn record(&self, slices: Vec<Slice>, pending: Vec<Observation>) -> Record {
        let (key, open) = (self.key.clone(), Some(self.open.clone()));
        Record::Slices(SliceBatch { key, slices, open, pending, ended: false })
    }

    /// An observation that is not final yet.
    pub(crate) fn pending(&self) -> Observation {
        let open = &self.open;
        let at = Stamp {
            boot: open.boot,
            boottime_ns: open.start_boottime_ns,
            wall_ns: open.start.unix_ns,
            uncertainty_ns: 0,
        };
        let change = Change::Plugged(2 * GIB);
        Observation { at: at.later_by(1_000_000), change, cause: Cause::Resize, command: None }
    }
}

/// Tells a ledger the beginning of many lives, and of each so many slices, round by round, 64 in a unit.
pub(crate) fn tell(ledger: &Ledger, lives: &mut [Life], slices_each: u32) -> Result<(), LedgerError> {
    let writer = ledger.writer();
    for some in lives.chunks(256) {
        writer.write(Class::Fact, some.iter().map(Life::seen).collect())?;
    }
    let mut left = slices_each;
    while left > 0 || slices_each == 0 {
        let round = left.min(16);
        for some in lives.chunks_mut(64) {
            let records = some.iter_mut().map(|life| {
                let slices = (0..round).map(|_| life.cut()).collect();
                life.record(slices, Vec::new())
            });
            writer.write(Class::Fact, records.collect())?;
        }
        left -= round;
        if left == 0 {
            break;
        }
    }
    Ok(())
}
