//! A fleet's usage: how fast an org's total and its sandboxes are told from rollups in PostgreSQL, beside one SQL
//! statement that sums clipped intervals over the same rows.

use std::ops::Range;
use std::time::Duration;

use dormouse::address::LedgerAddress;
use dormouse_ledger::fleet::{Batch, FleetLedger, VERSION, migrate};
use dormouse_ledger::usage::{Attribution, BreakdownQuery, Cancel, GroupBy, Moment, Rules, Sort};
use dormouse_metering::{Basis, Policy};
use dormouse_tests::events::{BEGAN_NS, Host, Life, SECOND_NS};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use tokio::runtime::Runtime;

use crate::report::{Goal, Latencies, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

const DAY_NS: i64 = 86_400 * SECOND_NS;
const SANDBOXES: usize = 1_000;

/// A slice every quarter of an hour: 96 of a sandbox in a day.
const SLICE_NS: i64 = 900 * SECOND_NS;

const CLIPPED: &str = "SELECT b.sandbox, sum((least(x.end_unix_ns, $3) - greatest(x.start_unix_ns, $2))::numeric \
     * (x.memory_base_bytes + x.memory_plugged_bytes)) FROM slices x JOIN sandboxes b ON b.id = x.sandbox_id \
     WHERE b.org = $1 AND x.state = 'running' AND x.end_unix_ns > $2 AND x.start_unix_ns < $3 GROUP BY b.sandbox";

/// A million slices of a thousand sandboxes; with `USAGE_SLICES_EACH=10000`, ten million.
///
/// # Panics
/// Where what was measured is not what was to be done: a figure for it would be a lie.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let wanted = std::env::var("USAGE_SLICES_EACH").ok().and_then(|text| text.parse().ok());
    let (sandboxes, slices_each) = size.pick((10, 40), (SANDBOXES, wanted.unwrap_or(1_000)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _inside = runtime.enter();
    let server = runtime.block_on(Postgres::start(Durability::Volatile))?;
    runtime.block_on(tell(&server, sandboxes, slices_each))?;
    // Neither end lies on an hour.
    let end = BEGAN_NS + i64::try_from(slices_each)? * SLICE_NS - 1_234_567_891;
    let window = BEGAN_NS.max(end - 90 * DAY_NS) + 1_987_654_321..end;
    let question = BreakdownQuery {
        org: "org".to_owned(),
        window: window.clone(),
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
    let mut ledger = LedgerAddress::parse(&server.url("postgres"))?.open()?;
    let mut by_sandbox = Vec::new();
    for _ in 0..size.pick(2, 100) {
        let watch = Stopwatch::start();
        let answer = ledger.breakdown(&question, &Cancel::default())?;
        by_sandbox.push(watch.wall());
        assert_eq!(answer.items.len(), 50.min(sandboxes));
    }
    let clipped = clipped(&runtime, &server, (&window, sandboxes), size.pick(1, 3))?;
    let faster = Latencies::new(clipped.clone()).p50().as_secs_f64()
        / Latencies::new(by_sandbox.clone()).p50().as_secs_f64();
    let ms = |times: Vec<Duration>| times.into_iter().map(|time| time.as_secs_f64() * 1e3).collect();
    let what = format!("fleet usage: total and by sandbox, of {} slices", sandboxes * slices_each);
    Ok(vec![
        Row::spread(what, "ms", ms(by_sandbox), Some(Goal::AtMost(30.0))),
        Row::spread("  beside: one SQL statement over clipped intervals", "ms", ms(clipped), None),
        Row::single("  times faster than that", "", faster, Some(Goal::AtLeast(100.0))),
    ])
}

/// Stores so many slices of each sandbox, in the order of time.
async fn tell(server: &Postgres, sandboxes: usize, slices_each: usize) -> Result<(), Error> {
    let mut client = server.connect("postgres").await?;
    migrate(&mut client, VERSION).await?;
    let mut ledger = FleetLedger::open(client).await?;
    let mut host = Host::new("h1");
    let mut lives: Vec<Life> = (0..sandboxes).map(|life| Life::new("org", &format!("sb-{life}"))).collect();
    for _ in 0..slices_each {
        let messages: Vec<Vec<u8>> = lives.iter_mut().map(|life| host.slice(&life.lasts(SLICE_NS))).collect();
        ledger.ingest(&Batch::decode(&messages)).await?;
    }
    server.connect("postgres").await?.batch_execute("VACUUM ANALYZE").await?;
    Ok(())
}

fn clipped(
    runtime: &Runtime,
    server: &Postgres,
    (window, sandboxes): (&Range<i64>, usize),
    times: usize,
) -> Result<Vec<Duration>, Error> {
    runtime.block_on(async {
        let client = server.connect("postgres").await?;
        client.batch_execute("SET search_path TO dormouse, public").await?;
        let statement = client.prepare(CLIPPED).await?;
        let mut took = Vec::new();
        for _ in 0..times {
            let watch = Stopwatch::start();
            let rows = client.query(&statement, &[&"org", &window.start, &window.end]).await?;
            took.push(watch.wall());
            assert_eq!(rows.len(), sandboxes);
        }
        Ok(took)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleets_usage_is_measured_beside_one_statement() {
        assert_eq!(run(Size::Small).unwrap().len(), 3);
    }
}
