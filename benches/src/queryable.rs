//! From a scale command to the slice that it has closed, found in the fleet's ledger: an agent, NATS, the ingest and
//! PostgreSQL, all of them real, and nothing between but what is between them in a fleet.
//!
//! Most of it is `metering.lateness_ms`, for which a slice stays open in case that QEMU tells of something before its end.

use std::time::Duration;

use dormouse::config::{Config, Sink, SinkKind};
use dormouse::database::Database;
use dormouse::ingest::{self, JetStream, Options};
use dormouse::tls::ClientFiles;
use dormouse_ledger::fleet::{VERSION, migrate};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::wait;
use tokio::runtime::Builder;

use crate::agent::Agent;
use crate::command::{SANDBOX, scale, scripted};
use crate::report::{Goal, Latencies, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

/// Far more than any slice takes, which is looked for every 20 ms.
const DEADLINE: Duration = Duration::from_mins(1);

const SLICE: &str =
    "SELECT EXISTS (SELECT FROM dormouse.slices WHERE command_id = $1 AND closed_by = 'scale')";

/// A hundred commands, one after the other.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let folder = crate::folder()?;
    let qmp = folder.path().join("queried.qmp");
    // QEMU is another process in real life: it has a runtime of its own.
    let qemu_runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _qemu = {
        let _entered = qemu_runtime.enter();
        scripted(&qmp)?
    };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (nats, postgres) = runtime.block_on(async {
        let postgres = Postgres::start(Durability::Durable).await?;
        migrate(&mut postgres.connect("postgres").await?, VERSION).await?;
        Ok::<_, Error>((Server::start(Kind::Nats).await?, postgres))
    })?;
    let sink = Sink { kind: SinkKind::Nats, url: nats.url(), ..Sink::default() };
    let config = Config { sinks: vec![sink], ..Config::default() };
    let mut agent = Agent::start(&runtime, folder.path(), config)?;
    agent.attach(&runtime, SANDBOX, &qmp)?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (url, database) = (nats.url(), Database { url: postgres.url("postgres"), ..Database::default() });
    let ingesting = runtime.spawn(async move {
        let queue = JetStream::connect(&url, &ClientFiles::default(), "fleet").await?;
        let options = Options { database, batch_max: 1_000, drain: false };
        let stopped = async {
            let _ = stopped.await;
        };
        ingest::run(queue, &options, stopped).await?;
        Ok::<_, Error>(())
    });
    let client = runtime.block_on(postgres.connect("postgres"))?;
    let mut times = Vec::new();
    for turn in 0..size.pick(2, 100) {
        let watch = Stopwatch::start();
        scale(&mut agent, &runtime, turn)?;
        let request_id = agent.last_request_id();
        runtime.block_on(wait::until("the slice in the fleet's ledger", DEADLINE, async || {
            let row = client.query_one(SLICE, &[&request_id]).await.map_err(|error| error.to_string())?;
            wait::unless(row.get(0), || "there is none".to_owned())
        }))?;
        times.push(watch.wall());
    }
    agent.stop(&runtime);
    // One that has ended before says so below.
    let _ = stop.send(());
    runtime.block_on(ingesting)??;
    let times = Latencies::new(times);
    let p99_ms = times.p99().as_secs_f64() * 1e3;
    Ok(vec![
        Row::latency("queryable: scale command to its slice in the fleet's ledger", &times),
        Row::single("  of it the 99th percentile", "ms", p99_ms, Some(Goal::AtMost(2_000.0))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_from_a_command_into_the_fleets_ledger_is_measured() {
        assert_eq!(run(Size::Small).unwrap().len(), 2);
    }
}
