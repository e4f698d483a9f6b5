//! Storing slices in the fleet's ledger, beside a bare COPY of the very same rows into the very same table.
//!
//! One instance, and then two who take batches in turn, as they come from hosts that all talk at once. The comparison
//! has as many connections, batches as large, and a database of its own with the same schema: all indexes and
//! constraints of `slices`, but nothing that would notice a repetition. The two write in turn, a round each.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use dormouse_ledger::fleet::{Batch, FleetLedger, VERSION, migrate};
use dormouse_tests::events::{BEGAN_NS, Host, Life, SECOND_NS};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use futures_util::{SinkExt, TryStreamExt};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::report::{Goal, Row};
use crate::stopwatch::Stopwatch;
use crate::{Error, Size};

const ROUNDS: usize = 5;
const HOSTS: usize = 20;
const SLICE_NS: i64 = 20 * SECOND_NS;

/// Batches of 8,192 slices.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (lives, per_life, batch) = (size.pick(5, 500), size.pick(2, 10), size.pick(50, 8_192));
    let mut rows = Vec::new();
    for instances in [1, 2] {
        let amount = Amount { lives, per_life, batch, rounds: size.pick(2, ROUNDS) };
        rows.extend(runtime.block_on(measure(instances, &amount))?);
    }
    Ok(rows)
}

/// How much is told.
struct Amount {
    lives: usize,
    per_life: usize,
    batch: usize,
    rounds: usize,
}

/// What the hosts tell in one round, host by host in turn, as messages.
fn told(hosts: &mut [(Host, Vec<Life>)], per_life: usize) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for _ in 0..per_life {
        let lives = hosts.first().map_or(0, |(_, lives)| lives.len());
        for life in 0..lives {
            for (host, of_host) in &mut *hosts {
                messages.push(host.slice(&of_host[life].lasts(SLICE_NS)));
            }
        }
    }
    messages
}

async fn measure(instances: usize, amount: &Amount) -> Result<Vec<Row>, Error> {
    let Amount { lives, per_life, batch, rounds } = *amount;
    // Not beside the workspace, which the user that PostgreSQL runs as may not be able to enter.
    let server = Postgres::start(Durability::Durable).await?;
    let (mut ledgers, mut copiers) = (Vec::new(), Vec::new());
    for database in ["ledger", "plain"] {
        server.create(database).await?;
        migrate(&mut connect(&server, database).await?, VERSION).await?;
    }
    for _ in 0..instances {
        ledgers.push(FleetLedger::open(connect(&server, "ledger").await?).await?);
        copiers.push(connect(&server, "plain").await?);
    }
    let mut hosts: Vec<(Host, Vec<Life>)> = (0..HOSTS)
        .map(|host| {
            let lives = (0..lives).map(|life| Life::new("org", &format!("sandbox-{host}-{life}")));
            (Host::new(&format!("host-{host}")), lives.collect())
        })
        .collect();
    let (mut by_ledger, mut by_copy, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first round makes partitions and learns names, and is not counted.
    for round in 0..=rounds {
        let messages: Vec<Arc<[Vec<u8>]>> = told(&mut hosts, per_life).chunks(batch).map(Arc::from).collect();
        let slices = messages.iter().map(|batch| batch.len()).sum::<usize>();
        let rate = |watch: &Stopwatch| {
            f64::from(u32::try_from(slices).unwrap_or(u32::MAX)) / watch.wall().as_secs_f64()
        };
        let watch = Stopwatch::start();
        ledgers = ingest(ledgers, &messages).await?;
        let ledger = rate(&watch);
        if round == 0 {
            prepare(&server).await?;
        }
        let lasts_ns = SLICE_NS * i64::try_from(per_life)?;
        let begins_ns = BEGAN_NS + lasts_ns * i64::try_from(round)?;
        let rows = stored_by(&server, begins_ns..begins_ns + lasts_ns, batch).await?;
        let watch = Stopwatch::start();
        copiers = copy(copiers, &rows).await?;
        let plain = rate(&watch);
        if round > 0 {
            by_ledger.push(ledger);
            by_copy.push(plain);
            ratios.push(100.0 * ledger / plain);
        }
    }
    Ok(vec![
        Row::spread(
            format!("fleet: ingest by {instances}"),
            "slices/s",
            by_ledger,
            Some(Goal::AtLeast(40_000.0)),
        ),
        Row::spread("  beside: bare COPY of the same rows", "slices/s", by_copy, None),
        Row::spread("  of the bare COPY's rate", "%", ratios, Some(Goal::AtLeast(60.0))),
    ])
}

async fn connect(server: &Postgres, database: &str) -> Result<Client, Error> {
    let client = server.connect(database).await?;
    client.batch_execute("SET search_path TO dormouse, public").await?;
    Ok(client)
}

/// Each instance takes every second batch.
async fn ingest(ledgers: Vec<FleetLedger>, messages: &[Arc<[Vec<u8>]>]) -> Result<Vec<FleetLedger>, Error> {
    let instances = ledgers.len();
    let tasks = ledgers.into_iter().enumerate().map(|(instance, mut ledger)| {
        let own: Vec<_> = messages.iter().skip(instance).step_by(instances).cloned().collect();
        tokio::spawn(async move {
            for batch in own {
                ledger.ingest(&Batch::decode(&batch)).await?;
            }
            Ok(ledger)
        })
    });
    all(tasks.collect()).await
}

async fn copy(copiers: Vec<Client>, rows: &[Bytes]) -> Result<Vec<Client>, Error> {
    let instances = copiers.len();
    let tasks = copiers.into_iter().enumerate().map(|(instance, client)| {
        let own: Vec<_> = rows.iter().skip(instance).step_by(instances).cloned().collect();
        tokio::spawn(async move {
            for batch in own {
                let mut sink = pin!(client.copy_in("COPY slices FROM STDIN").await?);
                sink.send(batch).await?;
                sink.finish().await?;
            }
            Ok(client)
        })
    });
    all(tasks.collect()).await
}

async fn all<T>(tasks: Vec<JoinHandle<Result<T, Error>>>) -> Result<Vec<T>, Error> {
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await??);
    }
    Ok(done)
}

/// Makes the other database ready for rows that refer to hosts of this one.
async fn prepare(server: &Postgres) -> Result<(), Error> {
    let (ledger, plain) = (connect(server, "ledger").await?, connect(server, "plain").await?);
    let first: i64 = ledger.query_one("SELECT min(start_unix_ns) FROM slices", &[]).await?.get(0);
    plain.execute("SELECT make_slices_partition($1)", &[&first]).await?;
    plain.execute("INSERT INTO hosts (source) SELECT n::text FROM generate_series(1, 1000) n", &[]).await?;
    Ok(())
}

/// The rows that lie in a time, as the ledger has stored them, in batches.
async fn stored_by(server: &Postgres, time_ns: Range<i64>, batch: usize) -> Result<Vec<Bytes>, Error> {
    let Range { start, end } = time_ns;
    let query = format!(
        "COPY (SELECT * FROM slices WHERE start_unix_ns >= {start} AND start_unix_ns < {end} ORDER BY ctid) TO STDOUT"
    );
    let rows = connect(server, "ledger").await?.copy_out(&query).await?;
    let rows: Vec<Bytes> = rows.try_collect().await?;
    Ok(rows.chunks(batch).map(|rows| Bytes::from(rows.concat())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleets_ledger_is_measured_beside_a_bare_copy() {
        assert_eq!(run(Size::Small).unwrap().len(), 6);
    }
}
