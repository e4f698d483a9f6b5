//! Hibernating and waking real guests through the whole agent, beside the same steps driven by hand, beside a guest of
//! eight times the memory, and beside the common way. All of them take turns in one run.
//!
//! By hand there are the QMP commands, the syncs in the same order, and the wait for QEMU's end. Dormouse has beside that
//! the call by gRPC, three durable commits (intent, snapshot, outcome), the questions for the memory, digest and manifest;
//! on a wake their check, two commits and what it asks of every QEMU that it meets.

use std::path::Path;
use std::time::Duration;

use dormouse::config::Config;
use dormouse::proto::{HibernateRequest, HibernationMethod, WakeRequest};
use dormouse_tests::argv::Spec;
use dormouse_tests::guest::Guest;
use tokio::runtime::{Builder, Runtime};

use crate::agent::Agent;
use crate::hand::{Hand, Way};
use crate::report::{Goal, Latencies, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

/// By which Dormouse may be slower than by hand: five per cent, and this.
const OVER_MS_MAX: f64 = 2.0;
const OVER_PART: f64 = 1.05;

/// Who hibernates a guest.
enum By {
    Agent(&'static str),
    Hand(Box<Hand>),
}

/// A guest, how it is hibernated, and what that took.
struct Life {
    guest: Guest,
    by: By,
    hibernated: Vec<Duration>,
    woken: Vec<Duration>,
}

/// By `shared`, beside a large guest and the common way.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let (usual_mib, large_mib) = (size.pick(256, 512), size.pick(512, 4096));
    let lives = [
        ("ours", usual_mib, true, Way::Shared),
        ("hand", usual_mib, false, Way::Shared),
        ("large", large_mib, true, Way::Shared),
        ("common", usual_mib, false, Way::Common),
    ];
    let [ours, hand, large, common] = by_turns(size, lives)?;
    let mut rows = Vec::new();
    rows.extend(beside_hand("shared", usual_mib, &ours, &hand));
    for (what, ours, large) in [("hibernate", &ours.0, &large.0), ("wake", &ours.1, &large.1)] {
        rows.push(row(format!("{what}: shared, {large_mib} MiB, through the agent"), large));
        let times = median_ms(large) / median_ms(ours);
        rows.push(Row::single(
            format!("  in those of {usual_mib} MiB"),
            "times",
            times,
            Some(Goal::AtMost(1.3)),
        ));
    }
    for (what, ours, common, goal) in
        [("hibernate", &ours.0, &common.0, 10.0), ("wake", &ours.1, &common.1, 3.0)]
    {
        rows.push(row(format!("{what}: the common way, {usual_mib} MiB"), common));
        let times = median_ms(common) / median_ms(ours);
        rows.push(Row::single("  in those of shared", "times", times, Some(Goal::AtLeast(goal))));
    }
    Ok(rows)
}

/// By `mapped-ram`.
pub fn run_mapped_ram(size: Size) -> Result<Vec<Row>, Error> {
    let mib = size.pick(256, 512);
    let [ours, hand] =
        by_turns(size, [("ours", mib, true, Way::MappedRam), ("hand", mib, false, Way::MappedRam)])?;
    Ok(beside_hand("mapped-ram", mib, &ours, &hand))
}

/// Hibernates and wakes guests of these names, sizes and ways, by the agent or by hand, in turns. The first turn writes all of
/// a guest's memory, the others what was changed since: it is not counted.
fn by_turns<const COUNT: usize>(
    size: Size,
    guests: [(&'static str, u64, bool, Way); COUNT],
) -> Result<[Times; COUNT], Error> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let folder = crate::folder()?;
    let mut agent = Agent::start(&runtime, folder.path(), Config::default())?;
    let mut lives = Vec::new();
    for (name, mib, by_agent, way) in guests {
        lives.push((Life::begin(&runtime, &mut agent, folder.path(), (name, mib, by_agent))?, way));
    }
    let turns = size.pick(1, 10);
    for turn in 0..turns {
        for (life, way) in &mut lives {
            life.turn(&runtime, &mut agent, *way, turn > 0 || turns == 1)?;
        }
    }
    agent.stop(&runtime);
    Ok(std::array::from_fn(|index| lives[index].0.times()))
}

impl Life {
    fn begin(
        runtime: &Runtime,
        agent: &mut Agent,
        folder: &Path,
        (name, base_mib, by_agent): (&'static str, u64, bool),
    ) -> Result<Self, Error> {
        let spec = Spec { base_mib, virtio_mem_max_mib: 256, ..Spec::default() };
        let place = folder.join(name);
        std::fs::create_dir(&place)?;
        let guest = runtime.block_on(Guest::boot(&spec, name, &place, &place))?;
        let by = if by_agent {
            agent.attach(runtime, name, &guest.places().qmp)?;
            By::Agent(name)
        } else {
            By::Hand(Box::new(Hand::of(&guest, &place)?))
        };
        Ok(Self { guest, by, hibernated: Vec::new(), woken: Vec::new() })
    }

    /// Changes some of the guest's memory, hibernates and wakes it, and asks the guest whether all of it is there.
    fn turn(&mut self, runtime: &Runtime, agent: &mut Agent, way: Way, counts: bool) -> Result<(), Error> {
        let filled = runtime.block_on(self.guest.fill(FILLED_MIB))?;
        let (hibernated, woken) = match &mut self.by {
            By::Agent(name) => by_agent(runtime, agent, name, way)?,
            By::Hand(hand) => (hand.hibernate(way)?, hand.wake(way)?),
        };
        if runtime.block_on(self.guest.sum())? != filled {
            return Err("the guest has lost memory".into());
        }
        if counts {
            self.hibernated.push(hibernated);
            self.woken.push(woken);
        }
        Ok(())
    }

    fn times(&self) -> (Vec<Duration>, Vec<Duration>) {
        (self.hibernated.clone(), self.woken.clone())
    }
}

/// What a guest changes of its memory before each hibernation.
const FILLED_MIB: u64 = 32;

/// From the call to its durable reply.
fn by_agent(
    runtime: &Runtime,
    agent: &mut Agent,
    name: &str,
    way: Way,
) -> Result<(Duration, Duration), Error> {
    let method = match way {
        Way::Shared => HibernationMethod::Shared,
        Way::MappedRam => HibernationMethod::MappedRam,
        Way::Common => HibernationMethod::Internal,
    };
    let request = HibernateRequest { header: Some(agent.header(name)), method: method.into() };
    let watch = Stopwatch::start();
    runtime.block_on(agent.client.hibernate(request))?;
    let hibernated = watch.wall();
    let request = WakeRequest { header: Some(agent.header(name)), cold: false };
    let watch = Stopwatch::start();
    runtime.block_on(agent.client.wake(request))?;
    Ok((hibernated, watch.wall()))
}

type Times = (Vec<Duration>, Vec<Duration>);

fn beside_hand(method: &str, mib: u64, ours: &Times, hand: &Times) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, ours, hand) in [("hibernate", &ours.0, &hand.0), ("wake", &ours.1, &hand.1)] {
        rows.push(row(format!("{what}: {method}, {mib} MiB, through the agent"), ours));
        rows.push(row("  beside: the same QMP steps by hand".to_owned(), hand));
        let over_ms = median_ms(ours) - OVER_PART * median_ms(hand);
        rows.push(Row::single(
            "  over that and 5 %, medians",
            "ms",
            over_ms,
            Some(Goal::AtMost(OVER_MS_MAX)),
        ));
    }
    rows
}

fn row(what: String, times: &[Duration]) -> Row {
    Row::spread(what, "ms", times.iter().map(|time| time.as_secs_f64() * 1e3).collect(), None)
}

fn median_ms(times: &[Duration]) -> f64 {
    Latencies::new(times.to_vec()).p50().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_guests_hibernate_and_wake_beside_those_driven_by_hand_and_keep_their_memory() {
        assert_eq!(run(Size::Small).unwrap().len(), 14);
        assert_eq!(run_mapped_ram(Size::Small).unwrap().len(), 6);
    }
}
