//! Usage: how fast an org's total and its sandboxes are told from rollups, beside one SQL statement that sums clipped
//! intervals over the same rows; and what the upkeep of rollups costs when slices are committed.

use std::path::Path;
use std::time::Duration;

use dormouse_ledger::usage::{
    Attribution, BreakdownQuery, Cancel, GroupBy, Interval, Moment, Rules, Sort, UsageLedger as _,
};
use dormouse_ledger::{Class, Ledger, Reader};
use dormouse_metering::{Basis, Policy};
use rusqlite::Connection;

use crate::life::{self, Life};
use crate::report::{Goal, Latencies, Row};
use crate::stopwatch::{Stopwatch, Took};
use crate::{Error, Size};

const DAY_NS: i64 = 86_400_000_000_000;
const SANDBOXES: u32 = 1_000;

/// A slice every quarter of an hour: 96 of a sandbox in a day.
const SLICE_SECONDS: i64 = 900;

/// In whole MiB and microseconds, so that 64 bits hold the sum.
const CLIPPED: &str = "SELECT s.sandbox, sum((min(x.end_unix_ns, ?3) - max(x.start_unix_ns, ?2)) / 1000 \
     * ((x.memory_base_bytes + x.memory_plugged_bytes) >> 20)) FROM slices x JOIN sandboxes s ON s.pk = x.sandbox_pk \
     WHERE s.org = ?1 AND x.state = 'running' AND x.end_unix_ns > ?2 AND x.start_unix_ns < ?3 GROUP BY s.sandbox";

/// A million slices of a thousand sandboxes; with `USAGE_SLICES_EACH=10000`, ten million.
///
/// # Panics
/// Where what was measured is not what was to be done: a figure for it would be a lie.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let mut rows = answers(size)?;
    rows.extend(upkeep(size)?);
    Ok(rows)
}

fn answers(size: Size) -> Result<Vec<Row>, Error> {
    let wanted = std::env::var("USAGE_SLICES_EACH").ok().and_then(|text| text.parse().ok());
    let (sandboxes, slices_each) = size.pick((10, 40), (SANDBOXES, wanted.unwrap_or(1_000)));
    let folder = crate::folder()?;
    let path = folder.path().join("ledger.sqlite");
    let mut lives: Vec<Life> = (0..sandboxes).map(Life::begun).collect();
    let began = lives[0].open.start.unix_ns;
    tell(&Ledger::open(&path, &life::host())?, &mut lives, slices_each, SLICE_SECONDS)?;
    // Neither end lies on an hour.
    let end = lives[0].open.start.unix_ns - 1_234_567_891;
    let window = began.max(end - 90 * DAY_NS) + 1_987_654_321..end;
    let question = BreakdownQuery {
        org: lives[0].key.org.clone(),
        window,
        moment: Moment { open_until: None, tags_unix_ns: end },
        rules: Rules { policy: Policy::default(), basis: Basis::Plugged, free_disk_bytes: 20 << 30 },
        group_by: GroupBy::Sandbox,
        filters: Vec::new(),
        attribution: Attribution::Live,
        sort: Sort::Memory,
        interval: None,
        limit: 50,
        after: None,
    };
    let mut reader = Reader::open(&path)?;
    let mut ask = |question: &BreakdownQuery, times: usize| -> Result<Vec<Duration>, Error> {
        let mut took = Vec::new();
        for _ in 0..times {
            let watch = Stopwatch::start();
            let answer = reader.breakdown(question, &Cancel::default())?;
            took.push(watch.wall());
            assert_eq!(answer.items.len(), 50.min(usize::try_from(sandboxes)?));
        }
        Ok(took)
    };
    let by_sandbox = ask(&question, size.pick(2, 100))?;
    let by_day = BreakdownQuery { interval: Some(Interval::Day), ..question.clone() };
    let by_day = ask(&by_day, size.pick(1, 5))?;
    let clipped = clipped(&path, &question, size.pick(1, 3))?;
    let faster = Latencies::new(clipped.clone()).p50().as_secs_f64()
        / Latencies::new(by_sandbox.clone()).p50().as_secs_f64();
    let ms = |times: Vec<Duration>| times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let what = format!("usage: total and by sandbox, of {} slices", sandboxes * slices_each);
    Ok(vec![
        Row::spread(what, "ms", ms(by_sandbox), Some(Goal::AtMost(20.0))),
        Row::spread("  with a point for each day", "ms", ms(by_day), None),
        Row::spread("  beside: one SQL statement over clipped intervals", "ms", ms(clipped), None),
        Row::single("  times faster than that", "", faster, Some(Goal::AtLeast(100.0))),
    ])
}

fn clipped(path: &Path, question: &BreakdownQuery, times: usize) -> Result<Vec<Duration>, Error> {
    let conn = Connection::open(path)?;
    let mut statement = conn.prepare(CLIPPED)?;
    let mut took = Vec::new();
    for _ in 0..times {
        let watch = Stopwatch::start();
        let mut rows = statement.query((&question.org, question.window.start, question.window.end))?;
        while let Some(row) = rows.next()? {
            assert!(std::hint::black_box(row.get::<_, i64>(1)?) > 0);
        }
        took.push(watch.wall());
    }
    Ok(took)
}

/// Tells so many slices of each life, 16 of each of 64 in a unit.
fn tell(ledger: &Ledger, lives: &mut [Life], slices_each: u32, seconds: i64) -> Result<(), Error> {
    let writer = ledger.writer();
    for some in lives.chunks(256) {
        writer.write(Class::Fact, some.iter().map(Life::seen).collect())?;
    }
    for begun in (0..slices_each).step_by(16) {
        cut(ledger, lives, 16.min(slices_each - begun), seconds)?;
    }
    Ok(())
}

fn cut(ledger: &Ledger, lives: &mut [Life], slices_each: u32, seconds: i64) -> Result<(), Error> {
    for some in lives.chunks_mut(64) {
        let records = some.iter_mut().map(|life| {
            let slices = (0..slices_each).map(|_| life.cut_after(seconds)).collect();
            life.record(slices, Vec::new())
        });
        ledger.writer().write(Class::Fact, records.collect())?;
    }
    Ok(())
}

/// The same lives in three ledgers: their slices reach no hour, an hour every fourth time, and an hour each. They are
/// committed in turn, one slice of each life at a time.
fn upkeep(size: Size) -> Result<Vec<Row>, Error> {
    let (sandboxes, cuts, rounds) = size.pick((8, 1, 2), (512, 16, 7));
    let folder = crate::folder()?;
    let mut ledgers = Vec::new();
    for (name, seconds) in [("none", 20), ("some", SLICE_SECONDS), ("each", 3_600)] {
        let mut lives: Vec<Life> = (0..sandboxes).map(Life::begun).collect();
        let ledger = Ledger::open(&folder.path().join(name), &life::host())?;
        tell(&ledger, &mut lives, 4, seconds)?;
        ledgers.push((ledger, lives, seconds));
    }
    let (mut wall, mut processor) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..rounds {
        let mut took: Vec<Took> = Vec::new();
        for (ledger, lives, seconds) in &mut ledgers {
            let watch = Stopwatch::start();
            (0..cuts).try_for_each(|_| cut(ledger, lives, 1, *seconds))?;
            took.push(watch.read());
        }
        for (at, with) in took[1..].iter().enumerate() {
            wall[at].push(100.0 * took[0].wall.as_secs_f64() / with.wall.as_secs_f64());
            processor[at].push(100.0 * took[0].cpu.as_secs_f64() / with.cpu.as_secs_f64());
        }
    }
    let goal = Some(Goal::AtLeast(75.0));
    let ([some, each], [some_cpu, each_cpu]) = (wall, processor);
    Ok(vec![
        Row::spread(
            "usage: commit rate with a rollup for every fourth slice, of that without",
            "%",
            some,
            goal,
        ),
        Row::spread("  by processor time", "%", some_cpu, None),
        Row::spread("  with a rollup for each slice", "%", each, goal),
        Row::spread("  by processor time", "%", each_cpu, None),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_and_the_upkeep_of_rollups_are_measured() {
        assert_eq!(run(Size::Small).unwrap().len(), 8);
    }
}
