//! Usage: how fast an org's total and its sandboxes are told from rollups, beside one SQL statement that sums clipped
//! intervals over the same rows; and what the upkeep of rollups costs when slices are committed.

use std::path::Path;
use std::time::Duration;

use dormouse_ledger::usage::{BreakdownQuery, Cancel, Interval, Moment, Rules, UsageLedger as _};
use dormouse_ledger::{Class, Ledger, Reader};
use dormouse_metering::{Basis, Policy};
use rusqlite::Connection;

use crate::alike::{self, Span};
use crate::life::{self, Life};
use crate::report::{Goal, Latencies, Row};
use crate::stopwatch::{Stopwatch, Took};
use crate::{Error, Size};

const DAY_NS: i64 = 86_400_000_000_000;
const SANDBOXES: u32 = 1_000;

/// A slice every quarter of an hour: 96 of a sandbox in a day.
const SLICE_SECONDS: i64 = 900;

/// In whole MiB and microseconds, so that 64 bits hold the sum. The window is of whole microseconds, so it is exact.
const CLIPPED: &str = "SELECT s.sandbox, sum((min(x.end_unix_ns, ?3) - max(x.start_unix_ns, ?2)) / 1000 \
     * ((x.memory_base_bytes + x.memory_plugged_bytes) >> 20)) FROM slices x JOIN sandboxes s ON s.pk = x.sandbox_pk \
     WHERE s.org = ?1 AND x.state = 'running' AND x.end_unix_ns > ?2 AND x.start_unix_ns < ?3 GROUP BY s.sandbox";

/// A million slices of a thousand sandboxes; with `USAGE_SLICES_EACH=10800` ten million in 90 days, with 108000 a
/// hundred million.
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
    let open = load(&path, sandboxes, Span::of(slices_each))?;
    // Neither end lies on an hour.
    let (began, end) = (open.key.generation, open.open.start.unix_ns - 1_234_567_000);
    let window = began.max(end - 90 * DAY_NS) + 1_987_654_000..end;
    let moment = Moment { open_until: Some(open.pending().at), tags_unix_ns: end };
    let rules = Rules { policy: Policy::default(), basis: Basis::Plugged, free_disk_bytes: 20 << 30 };
    let question = BreakdownQuery::by_sandbox(open.key.org, window, moment, rules);
    let mut reader = Reader::open(&path)?;
    let mut memory_byte_ns = 0;
    let mut ask = |question: &BreakdownQuery, times: usize| -> Result<Vec<Took>, Error> {
        let mut took = Vec::new();
        for _ in 0..times {
            let watch = Stopwatch::start();
            let answer = reader.breakdown(question, &Cancel::default())?;
            took.push(watch.read());
            assert_eq!(answer.items.len(), 50.min(usize::try_from(sandboxes)?));
            memory_byte_ns = answer.total.quantities.memory_byte_ns;
        }
        Ok(took)
    };
    let by_sandbox = ask(&question, size.pick(2, 100))?;
    let by_day = BreakdownQuery { interval: Some(Interval::Day), ..question.clone() };
    let by_day = ask(&by_day, size.pick(1, 5))?;
    let (clipped, mib_us) = clipped(&path, &question, size.pick(1, 3))?;
    assert_eq!(memory_byte_ns, mib_us * 1_000 * (1 << 20), "both are the same exact sum");
    let what = format!("usage: total and by sandbox, of {} slices", sandboxes * slices_each);
    let mut rows = told(what, &by_sandbox, &clipped, 20.0);
    rows.insert(2, Row::spread("  with a point for each day", "ms", ms(&by_day, |took| took.wall), None));
    Ok(rows)
}

fn ms(times: &[Took], which: fn(&Took) -> Duration) -> Vec<f64> {
    times.iter().map(|took| which(took).as_secs_f64() * 1e3).collect()
}

/// How long answers took, beside the one statement.
pub(crate) fn told(what: String, answers: &[Took], clipped: &[Took], at_most_ms: f64) -> Vec<Row> {
    let least = |times: &[Took]| ms(times, |took| took.wall).into_iter().fold(f64::INFINITY, f64::min);
    let p50 =
        |times: &[Took]| Latencies::new(times.iter().map(|took| took.wall).collect()).p50().as_secs_f64();
    let wall = |times: &[Took]| ms(times, |took| took.wall);
    let goal = Some(Goal::AtLeast(100.0));
    vec![
        Row::spread(what, "ms", wall(answers), Some(Goal::AtMost(at_most_ms))),
        Row::spread("  processor time of this process", "ms", ms(answers, |took| took.cpu), None),
        Row::spread("  beside: one SQL statement over clipped intervals", "ms", wall(clipped), None),
        Row::spread("  processor time of this process", "ms", ms(clipped, |took| took.cpu), None),
        Row::single("  times faster than that", "", p50(clipped) / p50(answers), goal),
        Row::single("  the same, least to least", "", least(clipped) / least(answers), None),
    ]
}

/// Also what it sums up to.
fn clipped(path: &Path, question: &BreakdownQuery, times: usize) -> Result<(Vec<Took>, i128), Error> {
    let conn = Connection::open(path)?;
    let mut statement = conn.prepare(CLIPPED)?;
    let (mut took, mut sum) = (Vec::new(), 0);
    for _ in 0..times {
        let watch = Stopwatch::start();
        let mut rows = statement.query((&question.org, question.window.start, question.window.end))?;
        sum = 0;
        while let Some(row) = rows.next()? {
            sum += i128::from(row.get::<_, i64>(1)?);
        }
        took.push(watch.read());
    }
    Ok((took, sum))
}

/// Many lives that are alike; how the first, and so each, stands then.
pub(crate) fn load(path: &Path, sandboxes: u32, span: Span) -> Result<Life, Error> {
    let mut lives: Vec<Life> = (0..sandboxes).map(Life::begun).collect();
    let ledger = Ledger::open(path, &life::host())?;
    tell(&ledger, &mut lives, 0, 0)?;
    for begun in (0..span.slices_each).step_by(512) {
        cut(&ledger, &mut lives[..1], 512.min(span.slices_each - begun), span.slice_seconds)?;
    }
    drop(ledger);
    alike::copy_in_sqlite(&Connection::open(path)?)?;
    Ok(lives.swap_remove(0))
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
        assert_eq!(run(Size::Small).unwrap().len(), 11);
    }
}
