//! What must be billed, by another method than the meter's: the true step functions, instant by instant.
//!
//! For every instant of a life: what is billed is never more than what was held, not by a byte. QEMU cuts its
//! stamps to microseconds, and the clock places them at the end of the microsecond with the rest as uncertainty, so
//! even there nothing is allowed. Where less is billed than was held, the instant lies in the recorded uncertainty of
//! a boundary, or in a slice that is called lost and whose QEMU is dead at its end.

use dormouse_ledger::SandboxKey;
use dormouse_metering::audit::audit;
use dormouse_metering::{BillingState, Cause, Meter, Slice};

use crate::known::Bounds;
use crate::ledger::Row;
use crate::suppressed::Stretch;
use crate::world::{Truth, World};

/// A stretch that is billed: from, to, state and memory.
struct Billed {
    from: u64,
    to: u64,
    state: BillingState,
    memory: u64,
    vcpus: u32,
}

impl World {
    /// Checks the whole history.
    pub(crate) fn judge(&mut self) {
        for ((_, id), _) in std::mem::take(&mut self.asked) {
            self.violation(format!("{id} was never answered"));
        }
        for number in 0..self.guests.len() {
            let sandbox = self.guests[number].key.sandbox.clone();
            let rows: Vec<(SandboxKey, Row)> = self
                .ledger
                .rows
                .iter()
                .filter(|(key, _)| key.sandbox == sandbox)
                .map(|(key, row)| (key.clone(), row.clone()))
                .collect();
            for (key, row) in rows {
                let mut found = Vec::new();
                self.judge_life(number, &key, &row, &mut found);
                for what in found {
                    self.violation(what);
                }
            }
        }
    }

    fn judge_life(&self, number: usize, key: &SandboxKey, row: &Row, found: &mut Vec<String>) {
        let name = &key.to_string();
        let Some((slices, open_from)) = all_slices(row, found) else { return };
        audit(&slices, None, &mut |violation| found.push(format!("{name}: {violation}")));
        let Some((spans, last)) = self.spans((number, name), row, (&slices, open_from.as_ref()), found)
        else {
            return;
        };
        for (slice, (from, to)) in slices.iter().zip(&spans) {
            let (seq, state, plugged) = (slice.seq, slice.state, slice.shape.memory_plugged_bytes >> 20);
            let (start, end) = (slice.start.cause, slice.end.cause);
            self.trace(|| {
                format!("{name} {seq}: {state} {plugged} MiB from {from} to {to}, {start} to {end}")
            });
        }
        let mut at = spans.first().map_or(last, |(from, _)| *from);
        let suppressed = self.suppressed_stretches(key);
        let proven = |at: u64| self.proven_through_gap(key, at).unwrap_or(u64::MAX);
        let mut billed = Vec::new();
        // A window that reaches behind the last final cut has no boundary of its own.
        let of_guest = self.windows.iter().filter(|(guest, ..)| *guest == number);
        let mut windows: Vec<(u64, u64)> = of_guest.map(|(_, from, to)| (*from, *to)).collect();
        let window = |boundary: usize, at: u64, uncertainty_ns: u64| {
            (earlier((&slices, &spans), (boundary, at), uncertainty_ns), at + uncertainty_ns)
        };
        for (index, (slice, (from, to))) in slices.iter().zip(spans.iter().copied()).enumerate() {
            windows.push(window(index, from, slice.start.uncertainty_ns));
            billed.extend(nothing(at, from, proven(at), &suppressed));
            billed.push(stretch(from, to, slice.state, slice.shape));
            at = to;
            windows.push(window(index + 1, at, slice.end.uncertainty_ns));
        }
        if let Some(open) = open_from {
            billed.extend(nothing(at, last, proven(at), &suppressed));
            at = last;
            windows.push(window(slices.len(), at, open.start.uncertainty_ns));
            billed.push(stretch(at, self.now, open.state, open.shape));
        } else {
            let detached = slices.last().is_some_and(|last| last.end.cause == Cause::Detach);
            let until = self.next_life(number, at).min(self.now);
            if !detached && at < until {
                billed.extend(nothing(at, until, 0, &[]));
            }
        }
        billed.retain(|one| one.from < one.to);
        for one in &together(billed) {
            self.compare(number, key, one, (&windows, &suppressed), found);
        }
    }

    fn next_life(&self, number: usize, after: u64) -> u64 {
        let sandbox = &self.guests[number].key.sandbox;
        let rows = self.ledger.rows.iter().filter(|(key, _)| key.sandbox == *sandbox);
        let begins = rows.filter_map(|(_, row)| {
            let (slices, open) = all_slices(row, &mut Vec::new())?;
            let (spans, began) = self.spans((number, ""), row, (&slices, open.as_ref()), &mut Vec::new())?;
            Some(spans.first().map_or(began, |(from, _)| *from))
        });
        let quit = self.guests[number]
            .truth
            .iter()
            .filter(|truth| truth.at >= after && !truth.lives)
            .map(|truth| truth.at);
        // What another QEMU does later is not of this life.
        begins.chain(quit).filter(|at| *at >= after).min().unwrap_or(u64::MAX)
    }

    /// Through when a life has to be billed by what the next agent found that was started after this.
    fn proven_through_gap(&self, key: &SandboxKey, at: u64) -> Option<u64> {
        self.proven.get(key)?.iter().find(|(found, _)| at < *found).map(|(_, through)| *through)
    }

    fn compare(
        &self,
        number: usize,
        key: &SandboxKey,
        billed: &Billed,
        (windows, suppressed): (&[(u64, u64)], &[Stretch]),
        found: &mut Vec<String>,
    ) {
        let (truths, name) = (&self.guests[number].truth, key.to_string());
        let first = truths.partition_point(|truth| truth.at <= billed.from).saturating_sub(1);
        for (index, truth) in truths.iter().enumerate().skip(first) {
            let until = truths.get(index + 1).map_or(u64::MAX, |next| next.at).min(billed.to);
            let from = truth.at.max(billed.from);
            if truth.at >= billed.to {
                break;
            }
            if from >= until {
                continue;
            }
            if let Some(what) = suppressed.iter().find_map(|stretch| mistaken(stretch, billed, (from, until)))
            {
                found.push(format!("{name}: {what} from {from} to {until}: billed {}", billed.state));
            }
            let proven = self.proven_through_gap(key, from).is_some_and(|through| from < through);
            if proven && billed.state == BillingState::Lost && truth.runs {
                found.push(format!("{name}: lost from {from} to {until}, though it was proven to live"));
            }
            let mut bounds = Bounds::exactly(truth);
            if (bounds.memory_most(), bounds.vcpus_most()) != (billed.memory, billed.vcpus) {
                bounds = self.bounds(number, truth, from, until);
            }
            if let Some(what) = differs(truth, bounds, billed, (from, until), windows) {
                let (state, memory) = (billed.state, billed.memory >> 20);
                found.push(format!(
                    "{name}: {what} for {} ns from {from}: billed {state} {memory} MiB in [{}, {}), true {truth:?}",
                    until - from, billed.from, billed.to
                ));
            }
        }
    }
}

/// So long before a boundary, by the time of the life itself: across a boot that is as long as the wall clocks of both say.
fn earlier((slices, spans): (&[Slice], &[(u64, u64)]), (boundary, at): (usize, u64), ns: u64) -> u64 {
    let (mut left_ns, mut at) = (ns, at);
    for (slice, (from, _)) in slices.iter().zip(spans).take(boundary).rev() {
        if left_ns == 0 {
            return at;
        }
        if left_ns <= slice.duration_ns {
            return from + (slice.duration_ns - left_ns);
        }
        (left_ns, at) = (left_ns - slice.duration_ns, *from);
    }
    at.saturating_sub(left_ns)
}

/// What is wrong with what is billed in an interval, where it is known whether it is suppressed.
fn mistaken(stretch: &Stretch, billed: &Billed, (from, until): (u64, u64)) -> Option<&'static str> {
    if stretch.from.max(from) >= stretch.to.min(until) {
        return None;
    }
    match stretch.suppressed? {
        true if billed.memory > 0 || billed.vcpus > 0 => Some("OVER-BILLED though it is suppressed"),
        false if billed.state == BillingState::Suppressed => Some("suppressed though it is to be billed"),
        _ => None,
    }
}

/// What is billed alike, whatever cuts it.
fn together(billed: Vec<Billed>) -> Vec<Billed> {
    let mut stretches: Vec<Billed> = Vec::new();
    for one in billed {
        let alike = |last: &&mut Billed| {
            (last.state, last.memory, last.vcpus, last.to) == (one.state, one.memory, one.vcpus, one.from)
        };
        match stretches.last_mut().filter(alike) {
            Some(last) => last.to = one.to,
            None => stretches.push(one),
        }
    }
    stretches
}

fn differs(
    truth: &Truth,
    bounds: Bounds,
    billed: &Billed,
    (from, until): (u64, u64),
    windows: &[(u64, u64)],
) -> Option<&'static str> {
    if billed.memory > bounds.memory_most() || billed.vcpus > bounds.vcpus_most() {
        return Some("OVER-BILLED");
    }
    if billed.state != BillingState::Lost && !truth.exists {
        return Some("OVER-BILLED disk");
    }
    let free = matches!(billed.state, BillingState::Lost | BillingState::Suppressed);
    if billed.memory >= bounds.memory_least() && billed.vcpus >= bounds.vcpus_least() || free {
        return None;
    }
    (!covered(from, until, windows)).then_some("under-billed without a word")
}

/// Whether the windows together cover an interval.
fn covered(mut from: u64, until: u64, windows: &[(u64, u64)]) -> bool {
    while from < until {
        let reach = windows.iter().filter(|(start, _)| *start <= from).map(|(_, end)| *end).max();
        match reach {
            Some(end) if end > from => from = end,
            _ => return false,
        }
    }
    true
}

/// Where no slice lies: what was not suppressed is lost from when it was not proven to live on, and was not to be billed before.
fn nothing(from: u64, to: u64, proven: u64, suppressed: &[Stretch]) -> Vec<Billed> {
    let free = suppressed.iter().filter(|stretch| stretch.suppressed != Some(false));
    let free = free.map(|stretch| (stretch.from, stretch.to, BillingState::Suppressed));
    let proven = proven.clamp(from, to);
    let mut parts = Vec::new();
    let mut at = from;
    for (start, end, state) in free.chain([(to, to, BillingState::Lost)]) {
        let (start, end) = (start.clamp(at, to), end.clamp(at, to));
        let ends =
            [(proven.clamp(at, start), BillingState::Hibernated), (start, BillingState::Lost), (end, state)];
        for (to, state) in ends {
            parts.push(Billed { from: at, to, state, memory: 0, vcpus: 0 });
            at = to;
        }
    }
    parts
}

fn stretch(from: u64, to: u64, state: BillingState, shape: dormouse_metering::Shape) -> Billed {
    let runs = state == BillingState::Running;
    let memory = if runs { shape.memory_base_bytes + shape.memory_plugged_bytes } else { 0 };
    Billed { from, to, state, memory, vcpus: if runs { shape.vcpus_milli } else { 0 } }
}

/// The closed slices, with what is pending as if it were final, and the open one behind them.
fn all_slices(
    row: &Row,
    found: &mut Vec<String>,
) -> Option<(Vec<Slice>, Option<dormouse_metering::OpenSlice>)> {
    let mut slices = row.slices.clone();
    if row.ended {
        return Some((slices, None));
    }
    match Meter::resume(row.open.clone(), row.pending.iter().cloned()) {
        Ok(meter) => {
            let open = meter.provisional(&mut |slice| slices.push(slice));
            Some((slices, open))
        }
        Err(refused) => {
            found.push(format!("what is pending cannot be: {refused}"));
            None
        }
    }
}
