//! Every sandbox's meter, and what of it is to be written when. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_ledger::{Record, SandboxKey, SliceBatch};
use dormouse_metering::meter::PENDING_MAX;
use dormouse_metering::{
    BillingState, Cause, Change, Meter, Observation, OpenSlice, Refused, Shape, Stamp, hour,
};

/// For how long a process that quits may still be there when its guest is not.
const QUITTING_NS: u64 = 100_000_000;

/// Whether a sandbox's QEMU is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// It is, or there is none to hear.
    Clear,
    /// It is, but may hold something back.
    Behind,
    /// It cannot be asked, or events were missed and all is asked again.
    Lost,
}
/// How long after its stamp the beginning of a life may be told, at the most: an attach is looked into first.
const BEGINNING_NS_MAX: u64 = 30_000_000_000;

/// One sandbox's meter.
#[derive(Debug)]
struct Account {
    meter: Meter,
    prepaid: bool,
}

/// The meters of every sandbox on the host.
#[derive(Debug)]
pub struct Accounts {
    by_key: BTreeMap<SandboxKey, Account>,
    /// Those with something pending.
    unsettled: BTreeSet<SandboxKey>,
    /// Those whose QEMU cannot be asked now. What it did meanwhile comes to light only when it answers again, so
    /// that nothing of them becomes final until then.
    out_of_sight: BTreeMap<SandboxKey, Sight>,
    /// Those of which nothing is durable yet: the ledger does not know them.
    unborn: BTreeSet<SandboxKey>,
    /// How long after its stamp an event of QEMU may still arrive, in nanoseconds.
    lateness_ns: u64,
    /// The wall time of the next hour at which every open slice is cut.
    next_hour_ns: i64,
    /// When it was looked for last what time has made final.
    looked: Option<Stamp>,
    /// The last hour that was told to be complete.
    complete_hour_ns: Option<i64>,
    /// Through when every open sandbox's process was verified to exist.
    proof: Option<Stamp>,
    /// The last step of the clock that is known.
    stepped: Option<Stamp>,
}

impl Accounts {
    /// No accounts yet.
    pub fn new(lateness_ns: u64, now: Stamp, proof: Option<Stamp>) -> Self {
        Self {
            by_key: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            out_of_sight: BTreeMap::new(),
            unborn: BTreeSet::new(),
            lateness_ns,
            next_hour_ns: hour::next_boundary(now.wall_ns),
            looked: None,
            complete_hour_ns: None,
            proof,
            stepped: None,
        }
    }

    /// Takes up a life where the ledger left it, out of sight until its QEMU is found again.
    pub fn resume(
        &mut self,
        key: SandboxKey,
        open: Option<OpenSlice>,
        pending: Vec<Observation>,
        prepaid: bool,
    ) -> Result<(), Refused> {
        let meter = Meter::resume(open, pending)?;
        self.unsettled.insert(key.clone());
        self.out_of_sight.insert(key.clone(), Sight::Lost);
        self.by_key.insert(key, Account { meter, prepaid });
        Ok(())
    }

    /// Takes an observation, and says what is to be written.
    pub fn observe(
        &mut self,
        key: &SandboxKey,
        prepaid: bool,
        mut observation: Observation,
        now: Stamp,
    ) -> Result<Option<Record>, Refused> {
        self.bound_by_proof(key, &mut observation);
        // With its QEMU gone, nothing that is stamped before can still arrive.
        let last_word = matches!(observation.change, Change::Ended | Change::State(BillingState::Hibernated));
        if matches!(observation.change, Change::Began(..)) {
            self.unborn.insert(key.clone());
        }
        let account =
            self.by_key.entry(key.clone()).or_insert_with(|| Account { meter: Meter::new(), prepaid });
        let mut slices = Vec::new();
        account.meter.observe(observation, &mut |slice| slices.push(slice))?;
        if last_word {
            account.meter.seal(now, &mut |slice| slices.push(slice));
        }
        if self.unborn.contains(key) {
            // It may have begun before a step that was noticed since.
            self.mark_step(std::slice::from_ref(key));
        }
        let record = self.by_key.get(key).map(|account| account.record(key, slices));
        self.settle(key);
        Ok(record)
    }

    /// The latest hour, not told before, up to which everything of this host is cut and final.
    pub fn complete_hour(&mut self, now: Stamp) -> Option<i64> {
        let through = now.earlier_by(self.lateness_ns.saturating_add(BEGINNING_NS_MAX));
        let hour_ns = hour::next_boundary(through.wall_ns).saturating_sub(hour::HOUR_NS);
        // What is pending comes behind the start of the open slice, whatever its stamp.
        let is_cut =
            |account: &Account| account.meter.open().is_none_or(|open| open.start.unix_ns >= hour_ns);
        if self.complete_hour_ns.is_some_and(|told| told >= hour_ns) || !self.by_key.values().all(is_cut) {
            return None;
        }
        self.complete_hour_ns = Some(hour_ns);
        self.complete_hour_ns
    }

    /// What time alone has made final: the records to write, one for each sandbox concerned.
    ///
    /// Nothing, where this agent or its host was held up for as long as an event may be late: what QEMU has told
    /// meanwhile is then still to be read.
    pub fn seal(&mut self, now: Stamp) -> Vec<Record> {
        let looked = self.looked.replace(now);
        let away_ns = looked.map_or(0, |looked| now.boottime_ns.saturating_sub(looked.boottime_ns));
        if away_ns > self.lateness_ns {
            return Vec::new();
        }
        let through = now.earlier_by(self.lateness_ns);
        let every_hour = through.wall_ns >= self.next_hour_ns;
        if every_hour {
            self.next_hour_ns = hour::next_boundary(through.wall_ns);
        }
        let keys: Vec<SandboxKey> = if every_hour {
            self.by_key.keys().cloned().collect()
        } else {
            self.unsettled.iter().cloned().collect()
        };
        let mut records = Vec::new();
        for key in keys {
            if self.out_of_sight.contains_key(&key) || self.unborn.contains(&key) {
                self.unsettled.insert(key);
                continue;
            }
            let Some(account) = self.by_key.get_mut(&key) else { continue };
            let before = (account.meter.open().map(|open| open.seq), account.meter.pending().len());
            let mut slices = Vec::new();
            account.meter.seal(through, &mut |slice| slices.push(slice));
            let after = (account.meter.open().map(|open| open.seq), account.meter.pending().len());
            if !slices.is_empty() || before != after {
                records.push(account.record(&key, slices));
            }
            self.settle(&key);
        }
        records
    }

    /// Cuts the slices of running prepaid sandboxes, so that their credit can be debited while they run.
    pub fn tick(&mut self, now: Stamp) -> Vec<Record> {
        let running = |account: &Account| {
            account.prepaid
                && !account.meter.is_suppressed()
                && matches!(account.meter.holding(), Some((_, BillingState::Running)))
        };
        let billed =
            self.by_key.iter().filter(|(key, account)| running(account) && !self.unborn.contains(*key));
        let keys: Vec<SandboxKey> = billed.map(|(key, _)| key.clone()).collect();
        self.mark(&keys, now, Cause::Tick)
    }

    /// Cuts every slice where the wall clock was stepped.
    pub fn clock_stepped(&mut self, at: Stamp) -> Vec<Record> {
        self.next_hour_ns = self.next_hour_ns.min(hour::next_boundary(at.wall_ns));
        self.stepped = Some(at);
        let keys: Vec<SandboxKey> = self.by_key.keys().cloned().collect();
        self.mark(&keys, at, Cause::ClockStep)
    }

    /// Takes up the steps that the ledger knows of, oldest first, and cuts what had begun before one and was not told of it.
    pub fn resume_steps(&mut self, steps: &[Stamp]) -> Vec<Record> {
        let keys: Vec<SandboxKey> = self.by_key.keys().cloned().collect();
        let mut records = Vec::new();
        for at in steps {
            self.stepped = Some(*at);
            records.extend(self.mark_step(&keys));
        }
        records
    }

    /// Cuts what goes on though the host was booted since the ledger was told of it last: at the last proof of the boot before,
    /// and now. Between the two there is nothing but the wall clock to go by, which may have been set back. What was told later
    /// than the proof is cut there by itself, but not beneath a suppression.
    ///
    /// Of one that was being woken nobody knows whether its guest ran, through when: that is not certain.
    pub fn resume_boot(&mut self, now: Stamp) -> Vec<Record> {
        let marks = |(key, account): (&SandboxKey, &Account)| {
            let (_, state) = account.meter.holding()?;
            let goes_on = matches!(state, BillingState::Hibernated | BillingState::Waking);
            let last = account.meter.last_told().filter(|last| goes_on && last.boot != now.boot)?;
            let in_doubt = |at: Stamp| match state {
                BillingState::Waking => at.uncertain_by(ns_between(last, at)),
                _ => at,
            };
            let proof = self.proof.filter(|at| at.boot == last.boot && at.boottime_ns > last.boottime_ns);
            let beneath = Some(last.uncertain_by(0)).filter(|_| account.meter.is_suppressed());
            let at = proof.or(beneath).into_iter().chain([now]).map(in_doubt);
            Some(at.map(|at| (key.clone(), at)).collect::<Vec<_>>())
        };
        let marks: Vec<_> = self.by_key.iter().filter_map(marks).flatten().collect();
        marks.into_iter().flat_map(|(key, at)| self.mark(&[key], at, Cause::HostBoot)).collect()
    }

    /// Whether the sandbox's QEMU is heard. True when it was lost with this, and the ledger is to know.
    pub fn sight(&mut self, key: &SandboxKey, sight: Sight) -> bool {
        let before = match sight {
            Sight::Clear => self.out_of_sight.remove(key),
            Sight::Behind | Sight::Lost => self.out_of_sight.insert(key.clone(), sight),
        };
        sight == Sight::Lost && before != Some(Sight::Lost)
    }

    /// Every open sandbox's process was verified to exist at this stamp.
    pub fn proven(&mut self, at: Stamp) {
        self.proof = Some(at);
    }

    /// What a sandbox holds and is billed as, as far as is known.
    pub fn holding(&self, key: &SandboxKey) -> Option<(Shape, BillingState)> {
        self.by_key.get(key)?.meter.holding()
    }

    /// A life that has begun is durable: what it was marked with before is to be written.
    pub fn born(&mut self, key: &SandboxKey) -> Option<Record> {
        self.unborn.remove(key);
        let account = self.by_key.get(key)?;
        let is_mark = |item: &Observation| item.change == Change::Mark;
        account.meter.pending().iter().any(is_mark).then(|| account.record(key, Vec::new()))
    }

    /// A life that could not begin, because nothing of it became durable.
    pub fn forget(&mut self, key: &SandboxKey) {
        self.by_key.remove(key);
        self.unsettled.remove(key);
        self.out_of_sight.remove(key);
        self.unborn.remove(key);
    }

    /// Cuts those at the last step that began before it and do not know of it.
    fn mark_step(&mut self, keys: &[SandboxKey]) -> Vec<Record> {
        let Some(at) = self.stepped else { return Vec::new() };
        let is_mark = |item: &Observation| item.change == Change::Mark && item.at == at;
        let is_untold = |meter: &Meter| {
            let began = |open: &OpenSlice| open.boot == at.boot && open.start_boottime_ns < at.boottime_ns;
            let is_before =
                |item: &Observation| item.at.boot == at.boot && item.at.boottime_ns < at.boottime_ns;
            let lived = meter.open().is_some_and(began) || meter.pending().iter().any(is_before);
            lived && !meter.pending().iter().any(is_mark)
        };
        let untold = |key: &&SandboxKey| self.by_key.get(*key).is_some_and(|known| is_untold(&known.meter));
        let keys: Vec<SandboxKey> = keys.iter().filter(untold).cloned().collect();
        self.mark(&keys, at, Cause::ClockStep)
    }

    fn mark(&mut self, keys: &[SandboxKey], at: Stamp, cause: Cause) -> Vec<Record> {
        let mark = Observation { at, change: Change::Mark, cause, command: None };
        keys.iter()
            .filter_map(|key| {
                let account = self.by_key.get_mut(key)?;
                // What the ledger does not know yet is written once it does: nothing of it may be final before.
                let is_unborn = self.unborn.contains(key);
                if is_unborn && account.meter.pending().len() == PENDING_MAX {
                    return None;
                }
                let mut slices = Vec::new();
                account.meter.observe(mark.clone(), &mut |slice| slices.push(slice)).ok()?;
                self.unsettled.insert(key.clone());
                (!is_unborn).then(|| account.record(key, slices))
            })
            .collect()
    }

    /// A process cannot have ended before it was last verified to exist.
    fn bound_by_proof(&self, key: &SandboxKey, observation: &mut Observation) {
        let Some(proof) = self.proof.filter(|proof| proof.boot == observation.at.boot) else { return };
        let exits = observation.change == Change::Ended && observation.cause != Cause::Detach;
        // A guest that is not heard may have stood for long before its process ended.
        let heard = !self.out_of_sight.contains_key(key);
        if heard && exits && proof.boottime_ns < observation.at.boottime_ns {
            let since_proof_ns = observation.at.boottime_ns - proof.boottime_ns + QUITTING_NS;
            observation.at.uncertainty_ns = observation.at.uncertainty_ns.min(since_proof_ns);
        }
    }

    fn settle(&mut self, key: &SandboxKey) {
        let Some(account) = self.by_key.get(key) else { return };
        if account.meter.has_ended() {
            self.forget(key);
        } else if account.meter.pending().is_empty() {
            self.unsettled.remove(key);
        } else {
            self.unsettled.insert(key.clone());
        }
    }
}

impl Account {
    fn record(&self, key: &SandboxKey, slices: Vec<dormouse_metering::Slice>) -> Record {
        Record::Slices(SliceBatch {
            key: key.clone(),
            slices,
            open: self.meter.open().cloned(),
            pending: self.meter.pending().to_vec(),
            ended: self.meter.has_ended(),
        })
    }
}

/// How long it is from one moment to a later one, of another boot by the wall clock.
fn ns_between(from: Stamp, to: Stamp) -> u64 {
    if from.boot == to.boot {
        return to.boottime_ns.saturating_sub(from.boottime_ns);
    }
    u64::try_from(to.wall_ns.saturating_sub(from.wall_ns)).unwrap_or(0)
}
