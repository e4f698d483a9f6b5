//! What the ledger's writer does with units, in memory: whole units in order, lost with the agent while they wait,
//! refused or kept waiting while the disk takes nothing.

use std::collections::{BTreeMap, VecDeque};

use dormouse::process::ProcessIdentity;
use dormouse::sandbox::command::{Command, Outcome};
use dormouse::sandbox::machine::Token;
use dormouse::sandbox::refusal::Refusal;
use dormouse::sandbox::snapshot::Manifest;
use dormouse_ledger::{PluggedByDevice, SandboxKey, SliceBatch};
use dormouse_metering::{BillingState, BootId, Observation, OpenSlice, Slice, Stamp};

/// One thing to make durable.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    Seen(SandboxKey, ProcessIdentity, BillingState),
    Attachment(SandboxKey, ProcessIdentity),
    Unheard(SandboxKey, Stamp),
    NobodyHeard(Stamp),
    Lifecycle(SandboxKey, BillingState),
    PluggedByDevice(SandboxKey, PluggedByDevice),
    Slices(SliceBatch),
    Intent(Command, i64),
    Outcome(Command, Result<Outcome, Refusal>),
    Saved(SandboxKey, Box<Manifest>),
    Consumed(SandboxKey, u64),
    Proof(Stamp),
    Anchor(dormouse::clock::Anchor),
    /// The stamp of the end that is told with it, as it was observed.
    Ended(SandboxKey, Stamp),
}

/// Who is told what became of a unit.
#[derive(Clone, Debug)]
pub(crate) enum Waiter {
    Nobody,
    /// Nobody: it is what was seen.
    Observation,
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
    /// When it was handed in.
    pub(crate) at: u64,
    /// Where it is what was seen: of which guest, and since when that may have been so.
    pub(crate) seen: Option<(usize, u64)>,
}

impl Unit {
    /// Since when nobody knows what was so where it does not become durable: of the guest of which it tells, and of any.
    pub(crate) fn tells(&self) -> impl Iterator<Item = (Option<usize>, u64)> {
        [(None, self.at)].into_iter().chain(self.seen.map(|(guest, since)| (Some(guest), since)))
    }

    /// Whether it is committed without waiting for the disk.
    pub(crate) fn is_note(&self) -> bool {
        self.is_fact
            && self.entries.iter().all(|entry| match entry {
                Entry::Slices(batch) => batch.slices.is_empty() && matches!(self.waiter, Waiter::Observation),
                Entry::Unheard(..)
                | Entry::NobodyHeard(_)
                | Entry::PluggedByDevice(..)
                | Entry::Ended(..) => true,
                _ => false,
            })
    }
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
    pub(crate) plugged_by_device: Option<PluggedByDevice>,
    /// When it began: the boot, and boottime.
    pub(crate) began: Option<(BootId, u64)>,
    pub(crate) slices: Vec<Slice>,
    pub(crate) open: Option<OpenSlice>,
    pub(crate) pending: Vec<Observation>,
    pub(crate) ended: bool,
    /// The end as it was observed last.
    pub(crate) end: Option<Stamp>,
    /// Snapshots, and whether they can be woken from.
    pub(crate) snapshots: BTreeMap<u64, (Manifest, bool)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) command: Command,
    /// When it was asked for to be durable.
    pub(crate) asked: u64,
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
    /// The steps of the clock that are known.
    pub(crate) steps: Vec<Stamp>,
    pub(crate) waiting: VecDeque<Unit>,
    pub(crate) violations: Vec<String>,
    /// All that was committed, where the host may lose what was not synced; and how much of it was.
    log: Option<(Vec<Unit>, usize)>,
}

impl Ledger {
    pub(crate) fn new(logs: bool) -> Self {
        Self { log: logs.then(Default::default), ..Self::default() }
    }

    /// It is in the file.
    pub(crate) fn write_down(&mut self, unit: Unit) {
        if let Some((units, _)) = &mut self.log {
            units.push(unit);
        }
    }

    /// What is in the file is on the disk.
    pub(crate) fn synced(&mut self) {
        if let Some((units, synced)) = &mut self.log {
            *synced = units.len();
        }
    }

    /// How many units the file holds that the disk does not.
    pub(crate) fn unsynced(&self) -> usize {
        self.log.as_ref().map_or(0, |(units, synced)| units.len() - synced)
    }

    /// The host is gone, and with it the last so many units of the file. Returns them.
    pub(crate) fn lose(&mut self, count: usize) -> Vec<Unit> {
        let Some((mut units, _)) = self.log.take() else { return Vec::new() };
        let lost = units.split_off(units.len() - count);
        let violations = std::mem::take(&mut self.violations);
        *self = Self { violations, ..Self::new(true) };
        for unit in &units {
            self.apply(unit);
        }
        let synced = units.len();
        self.log = Some((units, synced));
        lost
    }

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
                        let id = command.request_id.clone();
                        let (command, generation) = (command.clone(), *generation);
                        let intent = Intent { command, asked: unit.at, generation, outcome: None };
                        self.order.push(id.clone());
                        self.commands.insert(id, intent);
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
                    began: None,
                    slices: Vec::new(),
                    open: None,
                    pending: Vec::new(),
                    ended: false,
                    end: None,
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
            Entry::PluggedByDevice(key, plugged) => {
                if let Some(row) = self.row(key) {
                    row.plugged_by_device = Some(plugged.clone());
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
            Entry::Anchor(anchor) => self.anchor(anchor),
            Entry::Ended(key, stamp) => {
                if let Some(row) = self.row(key) {
                    row.end = Some(*stamp);
                }
            }
        }
    }

    fn anchor(&mut self, anchor: &dormouse::clock::Anchor) {
        self.anchor = Some(*anchor);
        self.steps.extend((anchor.stepped_ns != 0).then(|| anchor.stamp(anchor.boottime_ns)));
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
        let began = row.open.as_ref().map(|open| (open.boot, open.start_boottime_ns));
        row.began = row.began.or(began);
        row.ended |= batch.ended;
        self.violations.extend(wrong);
    }
}
