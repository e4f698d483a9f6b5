//! What the ledger's writer does with units, in memory: whole units in order, lost with the agent while they wait,
//! refused or kept waiting while the disk takes nothing.

use std::collections::{BTreeMap, VecDeque};

use dormouse::process::ProcessIdentity;
use dormouse::sandbox::command::{Command, Outcome};
use dormouse::sandbox::machine::Token;
use dormouse::sandbox::refusal::Refusal;
use dormouse::sandbox::snapshot::Manifest;
use dormouse_ledger::{SandboxKey, SliceBatch};
use dormouse_metering::{BillingState, Observation, OpenSlice, Slice, Stamp};

/// One thing to make durable.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Seen(SandboxKey, ProcessIdentity, BillingState),
    Attachment(SandboxKey, ProcessIdentity),
    Unheard(SandboxKey, Stamp),
    NobodyHeard(Stamp),
    Lifecycle(SandboxKey, BillingState),
    PluggedByDevice(SandboxKey, Vec<u64>),
    Slices(SliceBatch),
    Intent(Command, i64),
    Outcome(Command, Result<Outcome, Refusal>),
    Saved(SandboxKey, Box<Manifest>),
    Consumed(SandboxKey, u64),
    Proof(Stamp),
    Anchor(dormouse::clock::Anchor),
}

/// Who is told what became of a unit.
#[derive(Clone, Debug)]
pub(crate) enum Waiter {
    Nobody,
    Proof,
    Durable((usize, u64), Token),
    Recorded((usize, u64), Token, SandboxKey),
}

#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) is_fact: bool,
    pub(crate) entries: Vec<Entry>,
    pub(crate) waiter: Waiter,
    pub(crate) number: u64,
}

/// What became of a unit.
#[derive(Debug)]
pub(crate) enum Became {
    Applied,
    Repeat(Option<Result<Outcome, Refusal>>),
    Reused,
}

/// A generation of a sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) process: ProcessIdentity,
    pub(crate) lifecycle: BillingState,
    /// Since when its QEMU is not heard.
    pub(crate) unheard: Option<Stamp>,
    /// What each of several memory devices had.
    pub(crate) plugged_by_device: Option<Vec<u64>>,
    /// When the life began, in boottime.
    pub(crate) began_ns: Option<u64>,
    pub(crate) slices: Vec<Slice>,
    pub(crate) open: Option<OpenSlice>,
    pub(crate) pending: Vec<Observation>,
    pub(crate) ended: bool,
    /// Snapshots, and whether they can be woken from.
    pub(crate) snapshots: BTreeMap<u64, (Manifest, bool)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) command: Command,
    pub(crate) generation: i64,
    pub(crate) outcome: Option<Result<Outcome, Refusal>>,
}

/// The ledger: what is durable, and what waits.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) rows: BTreeMap<SandboxKey, Row>,
    pub(crate) commands: BTreeMap<String, Intent>,
    pub(crate) order: Vec<String>,
    pub(crate) proof: Option<Stamp>,
    pub(crate) anchor: Option<dormouse::clock::Anchor>,
    pub(crate) waiting: VecDeque<Unit>,
    pub(crate) violations: Vec<String>,
}

impl Ledger {
    pub(crate) fn next_generation(&self, sandbox: &str, wall_ns: i64) -> i64 {
        let of_it = self.rows.keys().filter(|key| key.sandbox == sandbox);
        let latest = of_it.map(|key| key.generation).max();
        latest.map_or(wall_ns, |latest| wall_ns.max(latest + 1))
    }

    pub(crate) fn apply(&mut self, unit: &Unit) -> Became {
        for entry in &unit.entries {
            if let Entry::Intent(command, generation) = entry {
                match self.commands.get(&command.request_id) {
                    Some(known)
                        if known.command.request == command.request && known.command.key == command.key =>
                    {
                        return Became::Repeat(known.outcome.clone());
                    }
                    Some(_) => return Became::Reused,
                    None => {
                        let intent =
                            Intent { command: command.clone(), generation: *generation, outcome: None };
                        self.order.push(command.request_id.clone());
                        self.commands.insert(command.request_id.clone(), intent);
                    }
                }
            } else {
                self.record(entry);
            }
        }
        Became::Applied
    }

    fn row(&mut self, key: &SandboxKey) -> Option<&mut Row> {
        if !self.rows.contains_key(key) {
            self.violations.push(format!("the ledger knows no {key}"));
        }
        self.rows.get_mut(key)
    }

    fn record(&mut self, entry: &Entry) {
        match entry {
            Entry::Intent(..) => {}
            Entry::Seen(key, process, lifecycle) => {
                let row = Row {
                    process: *process,
                    lifecycle: *lifecycle,
                    unheard: None,
                    plugged_by_device: None,
                    began_ns: None,
                    slices: Vec::new(),
                    open: None,
                    pending: Vec::new(),
                    ended: false,
                    snapshots: BTreeMap::new(),
                };
                self.rows.insert(key.clone(), row);
            }
            Entry::Attachment(key, process) => {
                if let Some(row) = self.row(key) {
                    (row.process, row.unheard) = (*process, None);
                }
            }
            Entry::Unheard(key, since) => {
                if let Some(row) = self.row(key) {
                    row.unheard.get_or_insert(*since);
                }
            }
            Entry::NobodyHeard(since) => {
                for row in self.rows.values_mut().filter(|row| !row.ended) {
                    row.unheard.get_or_insert(*since);
                }
            }
            Entry::Lifecycle(key, state) => {
                if let Some(row) = self.row(key) {
                    row.lifecycle = *state;
                }
            }
            Entry::PluggedByDevice(key, bytes) => {
                if let Some(row) = self.row(key) {
                    row.plugged_by_device = Some(bytes.clone());
                }
            }
            Entry::Slices(batch) => self.slices(batch),
            Entry::Outcome(command, result) => self.outcome(command, result),
            Entry::Saved(key, manifest) => {
                if let Some(row) = self.row(key) {
                    row.snapshots.insert(manifest.ordinal, (*manifest.clone(), true));
                }
            }
            Entry::Consumed(key, ordinal) => {
                if let Some(snapshot) = self.row(key).and_then(|row| row.snapshots.get_mut(ordinal)) {
                    snapshot.1 = false;
                }
            }
            Entry::Proof(stamp) => {
                let older = |had: &Stamp| had.boot == stamp.boot && had.boottime_ns > stamp.boottime_ns;
                if !self.proof.as_ref().is_some_and(older) {
                    self.proof = Some(*stamp);
                }
            }
            Entry::Anchor(anchor) => self.anchor = Some(*anchor),
        }
    }

    fn outcome(&mut self, command: &Command, result: &Result<Outcome, Refusal>) {
        let id = &command.request_id;
        match self.commands.get_mut(id) {
            None => self.violations.push(format!("the outcome of {id}, which was never intended")),
            Some(intent) => match &intent.outcome {
                Some(had) if had != result => {
                    self.violations.push(format!("M6: {id} came out as {had:?}, and now as {result:?}"));
                }
                _ => intent.outcome = Some(result.clone()),
            },
        }
    }

    fn slices(&mut self, batch: &SliceBatch) {
        let Some(row) = self.row(&batch.key) else { return };
        let mut wrong = Vec::new();
        for slice in &batch.slices {
            let index = usize::try_from(slice.seq - 1).unwrap_or(usize::MAX);
            match row.slices.get(index) {
                Some(stored) if stored != slice => {
                    wrong.push(format!("M6: slice {} of {} was stored otherwise", slice.seq, batch.key));
                }
                Some(_) => {}
                None if index == row.slices.len() => row.slices.push(slice.clone()),
                None => wrong.push(format!("slice {} of {} comes out of order", slice.seq, batch.key)),
            }
        }
        if row.ended && !batch.slices.is_empty() {
            wrong.push(format!("{} is billed after its end", batch.key));
        }
        (row.open, row.pending) = (batch.open.clone(), batch.pending.clone());
        row.began_ns = row.began_ns.or(row.open.as_ref().map(|open| open.start_boottime_ns));
        row.ended |= batch.ended;
        self.violations.extend(wrong);
    }
}
