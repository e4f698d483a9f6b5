//! A fleet's usage: how fast an org's total and its sandboxes are told from rollups in PostgreSQL, beside one SQL
//! statement that sums clipped intervals over the same rows; and what the upkeep of rollups costs when slices are stored.

use std::ops::Range;

use dormouse::address::LedgerAddress;
use dormouse_ledger::fleet::{Batch, FleetLedger, VERSION, migrate};
use dormouse_ledger::usage::{BreakdownQuery, Cancel, Moment, Rules};
use dormouse_metering::{Basis, Policy};
use dormouse_tests::events::{BEGAN_NS, Host, Life, SECOND_NS};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use tokio::runtime::Runtime;

use crate::alike::{self, Span};
use crate::report::{Goal, Row};
use crate::stopwatch::{Stopwatch, Took};
use crate::usage::told;
use crate::{Error, Size};

const DAY_NS: i64 = 86_400 * SECOND_NS;
const SANDBOXES: usize = 1_000;

/// The sum of the sums is one more row: it tells whether both add up the same.
const CLIPPED: &str = "SELECT sum(amount)::text FROM (SELECT b.sandbox, \
     sum((least(x.end_unix_ns, $3) - greatest(x.start_unix_ns, $2))::numeric \
         * (x.memory_base_bytes + x.memory_plugged_bytes)) AS amount \
     FROM slices x JOIN sandboxes b ON b.id = x.sandbox_id WHERE b.org = $1 AND x.state = 'running' \
     AND x.end_unix_ns > $2 AND x.start_unix_ns < $3 GROUP BY b.sandbox) s";

const UPKEEP: &str = "SELECT sum(total_exec_time) FROM pg_stat_statements WHERE query LIKE 'INSERT INTO usage_kinds%' \
     OR query LIKE '%INSERT INTO usage_hours%'";

/// A million slices of a thousand sandboxes; with `USAGE_SLICES_EACH=10800`, ten million in 90 days.
///
/// # Panics
/// Where what was measured is not what was to be done: a figure for it would be a lie.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut rows = answers(size, &runtime)?;
    for (what, slice_ns) in [("of 20 s", 20 * SECOND_NS), ("of an hour", 3_600 * SECOND_NS)] {
        rows.push(runtime.block_on(upkeep(size, what, slice_ns))?);
    }
    Ok(rows)
}

fn answers(size: Size, runtime: &Runtime) -> Result<Vec<Row>, Error> {
    let wanted = std::env::var("USAGE_SLICES_EACH").ok().and_then(|text| text.parse().ok());
    let (sandboxes, slices_each) = size.pick((10, 40), (SANDBOXES, wanted.unwrap_or(1_000)));
    let _inside = runtime.enter();
    let server = runtime.block_on(Postgres::start(Durability::Volatile))?;
    let span = Span::of(slices_each);
    runtime.block_on(tell(&server, sandboxes, span))?;
    // Neither end lies on an hour.
    let end = BEGAN_NS + i64::from(slices_each) * span.slice_seconds * SECOND_NS - 1_234_567_891;
    let window = BEGAN_NS.max(end - 90 * DAY_NS) + 1_987_654_321..end;
    let moment = Moment { open_until: None, tags_unix_ns: end };
    let rules = Rules { policy: Policy::default(), basis: Basis::Plugged, free_disk_bytes: 20 << 30 };
    let question = BreakdownQuery::by_sandbox("org", window.clone(), moment, rules);
    let mut ledger = LedgerAddress::parse(&server.url("postgres"))?.open()?;
    let (mut by_sandbox, mut memory_byte_ns) = (Vec::new(), 0);
    for _ in 0..size.pick(2, 100) {
        let watch = Stopwatch::start();
        let answer = ledger.breakdown(&question, &Cancel::default())?;
        by_sandbox.push(watch.read());
        assert_eq!(answer.items.len(), 50.min(sandboxes));
        memory_byte_ns = answer.total.quantities.memory_byte_ns;
    }
    let (clipped, sum) = runtime.block_on(clipped(&server, &window, size.pick(1, 3)))?;
    assert_eq!(memory_byte_ns.to_string(), sum, "both are the same exact sum");
    let what = format!("fleet usage: total and by sandbox, of {} slices", sandboxes * slices_each as usize);
    Ok(told(what, &by_sandbox, &clipped, 30.0))
}

/// Many lives that are alike.
async fn tell(server: &Postgres, sandboxes: usize, span: Span) -> Result<(), Error> {
    let mut client = server.connect("postgres").await?;
    migrate(&mut client, VERSION).await?;
    let mut ledger = FleetLedger::open(client).await?;
    let (mut host, mut life) = (Host::new("h1"), Life::new("org", "sb-0"));
    let mut left = span.slices_each;
    while left > 0 {
        let some = left.min(512);
        let slices = (0..some).map(|_| host.slice(&life.lasts(span.slice_seconds * SECOND_NS)));
        ledger.ingest(&Batch::decode(&slices.collect::<Vec<_>>())).await?;
        left -= some;
    }
    alike::copy_in_postgres(&server.connect("postgres").await?, sandboxes).await
}

/// What PostgreSQL itself says that the statements about rollups take, of all the time that storing takes: of the rate
/// without them so much is left. What their pages add to the log, and so to the commit, is not in it.
async fn upkeep(size: Size, what: &str, slice_ns: i64) -> Result<Row, Error> {
    let (sandboxes, slices_each, rounds) = size.pick((5, 2, 2), (1_000, 8, 10));
    let mut server = Postgres::start(Durability::Durable).await?;
    let preload = "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'";
    server.connect("postgres").await?.batch_execute(preload).await?;
    server.kill9()?;
    server.restart().await?;
    let counts = server.connect("postgres").await?;
    counts.batch_execute("CREATE EXTENSION pg_stat_statements").await?;
    let mut client = server.connect("postgres").await?;
    migrate(&mut client, VERSION).await?;
    let mut ledger = FleetLedger::open(client).await?;
    let mut host = Host::new("h1");
    let mut lives: Vec<Life> = (0..sandboxes).map(|life| Life::new("org", &format!("sb-{life}"))).collect();
    let mut left = Vec::new();
    // The first round makes partitions and learns names, and is not counted.
    for round in 0..=rounds {
        let told: Vec<Vec<u8>> = (0..slices_each)
            .flat_map(|_| lives.iter_mut().map(|life| host.slice(&life.lasts(slice_ns))).collect::<Vec<_>>())
            .collect();
        let batch = Batch::decode(&told);
        counts.batch_execute("SELECT pg_stat_statements_reset()").await?;
        let watch = Stopwatch::start();
        ledger.ingest(&batch).await?;
        let all_ms = watch.wall().as_secs_f64() * 1e3;
        if round > 0 {
            let upkeep_ms: f64 = counts.query_one(UPKEEP, &[]).await?.get(0);
            left.push(100.0 * (1.0 - upkeep_ms / all_ms));
        }
    }
    let what = format!("fleet usage: rate of storing slices {what}, of that without rollups");
    Ok(Row::spread(what, "%", left, Some(Goal::AtLeast(75.0))))
}

/// Also what it sums up to, in decimal digits.
async fn clipped(server: &Postgres, window: &Range<i64>, times: usize) -> Result<(Vec<Took>, String), Error> {
    let client = server.connect("postgres").await?;
    client.batch_execute("SET search_path TO dormouse, public").await?;
    let statement = client.prepare(CLIPPED).await?;
    let (mut took, mut sum) = (Vec::new(), String::new());
    for _ in 0..times {
        let watch = Stopwatch::start();
        let row = client.query_one(&statement, &[&"org", &window.start, &window.end]).await?;
        took.push(watch.read());
        sum = row.get(0);
    }
    Ok((took, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleets_usage_is_measured_beside_one_statement() {
        assert_eq!(run(Size::Small).unwrap().len(), 8);
    }
}
