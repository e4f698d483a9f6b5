//! Whether a slice costs as much to store in a large ledger of a fleet as in a small one: by PostgreSQL's processor time, which
//! other load on the machine does not add to as it does to wall time.
//!
//! All slices lie in one month, and so in one partition; each is stored as any other, by one instance.

use dormouse_ledger::fleet::{VERSION, migrate};
use dormouse_tests::servers::postgres::{Durability, Postgres};

use crate::fleet::{Ingest, connect, hosts, server_cpu, told};
use crate::report::{Goal, Row};
use crate::{Error, Size};

/// Of how many parts the ledger is made, and behind which of them it is told what a slice of that part has cost.
const PARTS: usize = 20;
const TOLD: [usize; 4] = [1, 5, 10, PARTS];
/// Slices of a sandbox that are told at a time, so that not all of a part is in memory.
const AT_A_TIME: usize = 5;
const BATCH: usize = 16_384;

/// A million slices of 10,000 sandboxes, each of 20 s; as many as `FLEET_ROWS` says, of which 20 million are about 13 GB.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let wanted = std::env::var("FLEET_ROWS").ok().and_then(|text| text.parse().ok());
    let lives = size.pick(1, 500);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(grow(lives, size.pick(400, wanted.unwrap_or(1_000_000))))
}

async fn grow(lives: usize, slices: usize) -> Result<Vec<Row>, Error> {
    let server = Postgres::start(Durability::Durable).await?;
    server.create("ledger").await?;
    let mut client = connect(&server, "ledger").await?;
    migrate(&mut client, VERSION).await?;
    let mut ingest = Ingest::start(1, &server, BATCH);
    let mut hosts = hosts(lives);
    let each = slices / PARTS / (hosts.len() * lives);
    let (mut rows, mut costs_us, mut stored) = (Vec::new(), Vec::new(), 0);
    for part in 1..=PARTS {
        let (before, stored_before) = (server_cpu(&client).await?, stored);
        for begun in (0..each).step_by(AT_A_TIME) {
            let messages = told(&mut hosts, AT_A_TIME.min(each - begun));
            stored += messages.len();
            ingest.stores(messages.chunks(BATCH).map(<[_]>::to_vec).collect()).await?;
        }
        let slices = u32::try_from(stored - stored_before)?;
        let took = server_cpu(&client).await?.saturating_sub(before);
        if TOLD.contains(&part) {
            let what = format!("fleet_growth: PostgreSQL's processor time for a slice, through {stored}");
            let each_us = took.as_secs_f64() * 1e6 / f64::from(slices);
            rows.push(Row::single(what, "us", each_us, None));
            costs_us.push(each_us);
        }
    }
    ingest.end().await?;
    let times = costs_us.last().zip(costs_us.first()).map_or(f64::NAN, |(last, first)| last / first);
    rows.push(Row::single("  the last, of the first", "times", times, Some(Goal::AtMost(1.2))));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_slice_is_measured_as_the_ledger_grows() {
        assert_eq!(run(Size::Small).unwrap().len(), 5);
    }
}
