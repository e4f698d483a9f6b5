//! Judges slices by integers of the demo's own: what `dormouse` says of itself proves nothing.
//!
//! Every judgement is `Ok` with the evidence, or `Err` with what is wrong.

use std::time::Duration;

use dormouse::calendar::duration;
use dormouse::size::Size;
use dormouse_ledger::SliceRow;

/// Disk that costs nothing, by the default configuration.
const FREE_DISK_BYTES: i128 = 20 << 30;

/// Evidence, or what is wrong.
pub(crate) type Judgement = Result<String, String>;

/// A stretch of time in which nothing but disk is billed, and what the demo's own clock says of it.
#[derive(Debug)]
pub(crate) struct Bracket {
    /// What it is.
    pub(crate) what: String,
    /// The command that begins it.
    pub(crate) from_id: String,
    /// From its answer until the next command was asked for.
    pub(crate) at_least: Duration,
    /// From when it was asked for until the next command was answered.
    pub(crate) at_most: Duration,
}

/// Quantities in their smallest units.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bill {
    /// Byte-nanoseconds.
    pub(crate) memory: i128,
    /// Thousandths of a vCPU times nanoseconds.
    pub(crate) vcpu: i128,
    /// Byte-nanoseconds.
    pub(crate) disk: i128,
    /// Byte-nanoseconds above what is free.
    pub(crate) disk_overage: i128,
}

impl Bill {
    /// By the default policy: disk is billed in every state but `lost`, memory and vCPUs while the guest runs.
    pub(crate) fn of(slices: &[SliceRow]) -> Self {
        let mut bill = Self { memory: 0, vcpu: 0, disk: 0, disk_overage: 0 };
        for slice in slices {
            let lasted = i128::from(slice.duration_ns);
            if slice.state == "running" {
                let memory = i128::from(slice.memory_base_bytes) + i128::from(slice.memory_plugged_bytes);
                bill.memory += memory * lasted;
                bill.vcpu += i128::from(slice.vcpus_milli) * lasted;
            }
            if slice.state != "lost" {
                let disk = i128::from(slice.disk_bytes);
                bill.disk += disk * lasted;
                bill.disk_overage += (disk - FREE_DISK_BYTES).max(0) * lasted;
            }
        }
        bill
    }

    /// Compares each quantity with the integer that `usage` has for it.
    pub(crate) fn compared(&self, usage: impl Fn(&str) -> String) -> Judgement {
        for (member, own) in [
            ("memory_byte_nanoseconds", self.memory),
            ("vcpu_milli_nanoseconds", self.vcpu),
            ("disk_byte_nanoseconds", self.disk),
            ("disk_overage_byte_nanoseconds", self.disk_overage),
        ] {
            let told = usage(member);
            if told != own.to_string() {
                return Err(format!("{member} is {told}, and the slices add up to {own}"));
            }
        }
        let Self { memory, vcpu, .. } = self;
        Ok(format!("{memory} byte-nanoseconds of memory, {vcpu} milli-nanoseconds of vCPU"))
    }
}

/// One life, numbered from 1, in which each slice begins where and why its predecessor ended, and nothing is lost.
pub(crate) fn tiles(slices: &[SliceRow]) -> Judgement {
    let (Some(first), Some(last)) = (slices.first(), slices.last()) else {
        return Err("there are no slices".to_owned());
    };
    for (expected, slice) in (1..).zip(slices) {
        if slice.generation != first.generation || slice.seq != expected {
            return Err(format!("slice {expected} is {} of generation {}", slice.seq, slice.generation));
        }
        if slice.state == "lost" {
            return Err(format!("slice {expected} is lost"));
        }
    }
    for pair in slices.windows(2) {
        let (earlier, later) = (&pair[0], &pair[1]);
        if earlier.end_unix_ns != Some(later.start_unix_ns) {
            return Err(format!("slice {} does not begin where its predecessor ended", later.seq));
        }
        if earlier.closed_by.as_ref() != Some(&later.opened_by) {
            return Err(format!("slice {} was not opened by what closed its predecessor", later.seq));
        }
        if earlier.command_id != later.opened_by_command_id {
            return Err(format!(
                "slice {} was not opened by the command that closed its predecessor",
                later.seq
            ));
        }
    }
    let end_ns = last.end_unix_ns.ok_or("the last slice is still open")?;
    let lasted = slices.iter().map(|slice| i128::from(slice.duration_ns)).sum::<i128>();
    if lasted != i128::from(end_ns) - i128::from(first.start_unix_ns) {
        return Err(format!("the slices last {lasted} ns together, and the life does not"));
    }
    Ok(format!("{} slices, {lasted} ns, no gap, no overlap, none lost", slices.len()))
}

/// The slice that was open `before` goes on in `after`, and nothing has come between or changed.
pub(crate) fn goes_on(before: &[SliceRow], after: &[SliceRow], absent: Duration) -> Judgement {
    let (Some(was), Some(is)) = (before.last(), after.last()) else {
        return Err("there are no slices".to_owned());
    };
    unchanged(before, after)?;
    if before.len() != after.len() || is.end_unix_ns.is_some() {
        return Err(format!("there were {} slices, and now there are {}", before.len(), after.len()));
    }
    let since = is.duration_ns.saturating_sub(was.duration_ns);
    if u128::from(since) < absent.as_nanos() {
        return Err(format!("slice {} grew by {} only", is.seq, duration(since)));
    }
    Ok(format!("slice {}: {} then, {} now", is.seq, duration(was.duration_ns), duration(is.duration_ns)))
}

/// What was closed `before` is the same in `after`, and what was open began at the same instant.
fn unchanged(before: &[SliceRow], after: &[SliceRow]) -> Result<(), String> {
    let place =
        |slice: &SliceRow| (slice.generation, slice.seq, slice.start_unix_ns, slice.opened_by.clone());
    let closing = |slice: &SliceRow| (slice.end_unix_ns, slice.closed_by.clone(), slice.duration_ns);
    for was in before {
        let Some(is) = after.iter().find(|is| place(is) == place(was)) else {
            return Err(format!("slice {} is not what it was", was.seq));
        };
        if was.end_unix_ns.is_some() && closing(was) != closing(is) {
            return Err(format!(
                "slice {} ended with {:?}, and now {:?}",
                was.seq,
                closing(was),
                closing(is)
            ));
        }
    }
    Ok(())
}

/// Memory went down from what it was `before` to `memory_bytes`, never up, and every cut names one of the commands. One
/// that was made while no agent was there to see it is the resync's.
pub(crate) fn scaled_down(
    before: &[SliceRow],
    after: &[SliceRow],
    memory_bytes: u64,
    command_ids: &[String],
) -> Judgement {
    unchanged(before, after)?;
    let cuts = &after[before.len().min(after.len())..];
    let is_ours = |cut: &&SliceRow| match &cut.opened_by_command_id {
        Some(id) => command_ids.contains(id),
        None => cut.opened_by == "resync",
    };
    if let Some(foreign) = cuts.iter().find(|cut| !is_ours(cut)) {
        return Err(format!(
            "slice {} was opened by {}, and not by the command",
            foreign.seq, foreign.opened_by
        ));
    }
    let memory = |slice: &SliceRow| slice.memory_base_bytes + slice.memory_plugged_bytes;
    let from = &after[before.len().saturating_sub(1)..];
    let sizes: Vec<u64> = from.iter().map(memory).collect();
    let shown = sizes.iter().map(|bytes| Size(*bytes).to_string()).collect::<Vec<_>>().join(" → ");
    if sizes.is_sorted_by(|a, b| a >= b) && sizes.last() == Some(&memory_bytes) {
        Ok(shown)
    } else {
        Err(format!("the slices say {shown}"))
    }
}

impl Bracket {
    /// The unbilled time from its command on is as long as the demo's own clock allows.
    pub(crate) fn judge(&self, slices: &[SliceRow]) -> Judgement {
        let from = slices.iter().skip_while(|slice| {
            slice.opened_by_command_id.as_ref() != Some(&self.from_id) || slice.state == "running"
        });
        let unbilled_ns: u64 = from.take_while(|slice| slice.state != "running").map(|s| s.duration_ns).sum();
        let (least_ns, most_ns) = (self.at_least.as_nanos(), self.at_most.as_nanos());
        let (least, most) = (whole(self.at_least), whole(self.at_most));
        let found = format!("{}, which is between {least} and {most}", duration(unbilled_ns));
        if (least_ns..=most_ns).contains(&u128::from(unbilled_ns)) {
            Ok(found)
        } else {
            Err(format!("{}, which is not between {least} and {most}", duration(unbilled_ns)))
        }
    }
}

fn whole(time: Duration) -> String {
    duration(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// Slices of a second each, of states and plugged GiB, the last one closed.
    fn life(slices: &[(&str, u64)]) -> Vec<SliceRow> {
        let row = |(seq, (state, plugged_gib)): (u64, &(&str, u64))| SliceRow {
            org: "default".to_owned(),
            sandbox: "sb-1".to_owned(),
            generation: 1,
            seq,
            state: (*state).to_owned(),
            reason: None,
            start_unix_ns: seq.cast_signed() * SECOND,
            end_unix_ns: Some((seq.cast_signed() + 1) * SECOND),
            duration_ns: SECOND.unsigned_abs(),
            memory_base_bytes: 1 << 30,
            memory_plugged_bytes: plugged_gib << 30,
            memory_requested_bytes: 0,
            vcpus_milli: 1_500,
            disk_bytes: 21 << 30,
            opened_by: format!("cause-{seq}"),
            closed_by: Some(format!("cause-{}", seq + 1)),
            command_id: Some(format!("command-{}", seq + 1)),
            opened_by_command_id: Some(format!("command-{seq}")),
            uncertainty_ns: 0,
            is_final: true,
        };
        (1..).zip(slices).map(row).collect()
    }

    /// The same, and the last one is still open.
    fn open(slices: &[(&str, u64)]) -> Vec<SliceRow> {
        let mut life = life(slices);
        if let Some(last) = life.last_mut() {
            (last.end_unix_ns, last.closed_by, last.command_id) = (None, None, None);
        }
        life
    }

    #[test]
    fn the_bill_is_memory_and_vcpus_while_it_runs_and_disk_unless_it_is_lost() {
        let bill = Bill::of(&life(&[("running", 1), ("paused", 1), ("lost", 1), ("running", 0)]));
        let gb_second = (1_i128 << 30) * 1_000_000_000;
        let expected = Bill {
            memory: 3 * gb_second,
            vcpu: 3_000 * 1_000_000_000,
            disk: 63 * gb_second,
            disk_overage: 3 * gb_second,
        };
        assert_eq!(bill, expected);
        assert!(bill.compared(|_| "0".to_owned()).unwrap_err().starts_with("memory_byte_nanoseconds is 0"));
    }

    #[test]
    fn a_gap_a_loss_a_missing_number_and_a_broken_chain_are_seen() {
        let whole = life(&[("running", 0), ("paused", 0), ("running", 0)]);
        assert!(tiles(&whole).is_ok());
        let broken = |damage: fn(&mut SliceRow)| {
            let mut slices = whole.clone();
            damage(&mut slices[1]);
            tiles(&slices).unwrap_err()
        };
        assert!(broken(|slice| slice.start_unix_ns += 1).contains("does not begin where"));
        assert!(broken(|slice| slice.state = "lost".to_owned()).contains("is lost"));
        assert!(broken(|slice| slice.seq = 7).contains("slice 2 is 7"));
        assert!(broken(|slice| slice.opened_by = "other".to_owned()).contains("opened by what closed"));
        assert!(broken(|slice| slice.duration_ns += 1).contains("last 3000000001 ns together"));
    }

    #[test]
    fn an_open_slice_goes_on_only_where_it_is_the_same_and_longer() {
        let before = open(&[("running", 0), ("running", 1)]);
        let mut after = before.clone();
        after[1].duration_ns *= 3;
        let two_seconds = Duration::from_secs(2);
        assert_eq!(goes_on(&before, &after, two_seconds), Ok("slice 2: 1.000s then, 3.000s now".to_owned()));
        assert!(goes_on(&before, &after, two_seconds * 2).is_err(), "time was lost");
        assert!(goes_on(&before, &life(&[("running", 0), ("running", 1)]), two_seconds).is_err(), "it ended");
        after[0].duration_ns -= 1;
        assert!(goes_on(&before, &after, two_seconds).is_err(), "what was closed has changed");
    }

    #[test]
    fn a_scale_down_that_goes_up_again_or_names_another_command_is_seen() {
        let (before, ours) = (open(&[("running", 3)]), ["command-2", "command-3"].map(str::to_owned));
        let after = |gib| open(&[("running", 3), ("running", gib), ("running", 1)]);
        let shown = scaled_down(&before, &after(2), 2 << 30, &ours);
        assert_eq!(shown, Ok("4GiB → 3GiB → 2GiB".to_owned()));
        assert!(scaled_down(&before, &after(0), 2 << 30, &ours).is_err());
        assert!(scaled_down(&before, &after(2), 2 << 30, &ours[..1]).is_err());
    }

    #[test]
    fn unbilled_time_is_held_against_the_clock() {
        let slices =
            life(&[("running", 0), ("hibernating", 0), ("hibernated", 0), ("running", 0), ("paused", 0)]);
        let judge = |at_least_s, at_most_s| {
            let (at_least, at_most) = (Duration::from_secs(at_least_s), Duration::from_secs(at_most_s));
            let bracket = Bracket { what: String::new(), from_id: "command-2".to_owned(), at_least, at_most };
            bracket.judge(&slices)
        };
        assert_eq!(judge(1, 3), Ok("2.000s, which is between 1.000s and 3.000s".to_owned()));
        assert!(judge(3, 4).is_err());
        assert!(judge(0, 1).is_err());
    }
}
