//! Storing slices in the fleet's ledger, beside a bare COPY of the very same rows into the very same table.
//!
//! One instance, and then two who take batches in turn, as they come from hosts that all talk at once: of `dormouse ledger
//! ingest` all but the queue, which is in memory. The comparison has as many connections, batches as large, and a database of its own with the same schema: all indexes and
//! constraints of `slices`, but nothing that would notice a repetition. The two write in turn, a round each.

use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use dormouse::database::Database;
use dormouse::ingest::{self, Options, Queue, QueueError, Received};
use dormouse_ledger::fleet::{Resend, VERSION, migrate};
use dormouse_tests::events::{BEGAN_NS, Host, Life, SECOND_NS};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use futures_util::{SinkExt, TryStreamExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::report::{Goal, Row};
use crate::stopwatch::{self, Stopwatch};
use crate::{Error, Size, alike};

const ROUNDS: usize = 5;
const HOSTS: usize = 20;
const SLICE_NS: i64 = 20 * SECOND_NS;

/// Batches of 16,384 slices, as many as an instance stores at once.
pub fn run(size: Size) -> Result<Vec<Row>, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (lives, per_life, batch) = (size.pick(5, 500), size.pick(2, 10), size.pick(50, 16_384));
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

/// Hosts, each with so many sandboxes.
pub(crate) fn hosts(lives: usize) -> Vec<(Host, Vec<Life>)> {
    let host = |host| {
        let lives = (0..lives).map(|life| Life::new("org", &format!("sandbox-{host}-{life}")));
        (Host::new(&format!("host-{host}")), lives.collect())
    };
    (0..HOSTS).map(host).collect()
}

/// What the hosts tell in one round, host by host in turn, as messages.
pub(crate) fn told(hosts: &mut [(Host, Vec<Life>)], per_life: usize) -> Vec<Vec<u8>> {
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
    let mut copiers = Vec::new();
    for database in ["ledger", "plain"] {
        server.create(database).await?;
        migrate(&mut connect(&server, database).await?, VERSION).await?;
    }
    let mut ingest = Ingest::start(instances, &server, batch);
    for _ in 0..instances {
        copiers.push(connect(&server, "plain").await?);
    }
    let mut hosts = hosts(lives);
    let looks_on = connect(&server, "plain").await?;
    let (mut by_ledger, mut by_copy, mut ratios) = (Seen::default(), Seen::default(), Vec::new());
    // The first round makes partitions and learns names, and is not counted.
    for round in 0..=rounds {
        let messages = told(&mut hosts, per_life);
        let slices = f64::from(u32::try_from(messages.len())?);
        let batches: Vec<Vec<Vec<u8>>> = messages.chunks(batch).map(<[_]>::to_vec).collect();
        let (before, watch) = (server_cpu(&looks_on).await?, Stopwatch::start());
        ingest.stores(batches).await?;
        let ledger =
            Took { server_cpu: server_cpu(&looks_on).await?.saturating_sub(before), own: watch.read() };
        if round == 0 {
            prepare(&server).await?;
        }
        let lasts_ns = SLICE_NS * i64::try_from(per_life)?;
        let begins_ns = BEGAN_NS + lasts_ns * i64::try_from(round)?;
        let rows = stored_by(&server, begins_ns..begins_ns + lasts_ns, batch).await?;
        let (before, watch) = (server_cpu(&looks_on).await?, Stopwatch::start());
        copiers = copy(copiers, &rows).await?;
        let plain =
            Took { server_cpu: server_cpu(&looks_on).await?.saturating_sub(before), own: watch.read() };
        if round > 0 {
            by_ledger.add(slices, &ledger);
            by_copy.add(slices, &plain);
            ratios.push(100.0 * plain.own.wall.as_secs_f64() / ledger.own.wall.as_secs_f64());
        }
    }
    ingest.end().await?;
    let goal = Some(Goal::AtLeast(40_000.0));
    let mut rows = by_ledger.rows(format!("fleet: ingest by {instances}"), goal);
    rows.extend(by_copy.rows("  beside: bare COPY of the same rows".to_owned(), None));
    rows.push(Row::spread("  of the bare COPY's rate", "%", ratios, Some(Goal::AtLeast(60.0))));
    Ok(rows)
}

/// What a round took.
struct Took {
    server_cpu: Duration,
    own: stopwatch::Took,
}

/// What was seen in all rounds.
#[derive(Default)]
struct Seen {
    slices_per_s: Vec<f64>,
    server_us: Vec<f64>,
    own_us: Vec<f64>,
}

impl Seen {
    fn add(&mut self, slices: f64, took: &Took) {
        self.slices_per_s.push(slices / took.own.wall.as_secs_f64());
        self.server_us.push(took.server_cpu.as_secs_f64() * 1e6 / slices);
        self.own_us.push(took.own.cpu.as_secs_f64() * 1e6 / slices);
    }

    fn rows(self, what: String, goal: Option<Goal>) -> Vec<Row> {
        vec![
            Row::spread(what, "slices/s", self.slices_per_s, goal),
            Row::spread("  processor time for a slice: PostgreSQL's", "us", self.server_us, None),
            Row::spread("  and this program's", "us", self.own_us, None),
        ]
    }
}

pub(crate) async fn connect(server: &Postgres, database: &str) -> Result<Client, Error> {
    let client = server.connect(database).await?;
    client.batch_execute("SET search_path TO dormouse, public").await?;
    Ok(client)
}

/// Instances, each with a queue of its own.
pub(crate) struct Ingest {
    queues: Vec<UnboundedSender<Vec<Vec<u8>>>>,
    acknowledged: UnboundedReceiver<()>,
    instances: Vec<JoinHandle<Result<(), Error>>>,
}

impl Ingest {
    pub(crate) fn start(instances: usize, server: &Postgres, batch_max: usize) -> Self {
        let (tells, acknowledged) = unbounded_channel();
        let (mut queues, mut running) = (Vec::new(), Vec::new());
        for _ in 0..instances {
            let (queue, batches) = unbounded_channel();
            let database = Database { url: server.url("ledger"), ..Database::default() };
            let options = Options { database, batch_max, drain: true };
            let in_memory = InMemory { batches, tells: tells.clone() };
            queues.push(queue);
            running.push(tokio::spawn(async move {
                ingest::run(in_memory, &options, std::future::pending()).await?;
                Ok(())
            }));
        }
        Self { queues, acknowledged, instances: running }
    }

    /// Each instance takes its share of the batches in turn. Returns once all of them are acknowledged.
    pub(crate) async fn stores(&mut self, batches: Vec<Vec<Vec<u8>>>) -> Result<(), Error> {
        let count = batches.len();
        for (queue, batch) in self.queues.iter().cycle().zip(batches) {
            queue.send(batch)?;
        }
        for _ in 0..count {
            self.acknowledged.recv().await.ok_or("the instances have ended")?;
        }
        Ok(())
    }

    pub(crate) async fn end(self) -> Result<(), Error> {
        drop(self.queues);
        all(self.instances).await.map(drop)
    }
}

/// A queue that costs next to nothing.
struct InMemory {
    batches: UnboundedReceiver<Vec<Vec<u8>>>,
    /// Of each batch that is acknowledged.
    tells: UnboundedSender<()>,
}

impl Queue for InMemory {
    type Receipt = ();

    async fn receive(&mut self, _: usize) -> Received<()> {
        let batch = self.batches.recv().await.unwrap_or_default();
        Ok(batch.into_iter().map(|message| (message, ())).collect())
    }

    async fn receive_more(&mut self, _: usize) -> Received<()> {
        let batch = self.batches.try_recv().unwrap_or_default();
        Ok(batch.into_iter().map(|message| (message, ())).collect())
    }

    async fn acknowledge(&mut self, _: Vec<()>) -> Result<(), QueueError> {
        // Nobody waits for it any more once the bench has failed.
        let _ = self.tells.send(());
        Ok(())
    }

    async fn ask_again(&mut self, _: &Resend) -> Result<(), QueueError> {
        Ok(())
    }
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
    let ledger = connect(server, "ledger").await?;
    let columns = alike::columns(&ledger, "slices", "").await?;
    let Range { start, end } = time_ns;
    let query = format!(
        "COPY (SELECT {columns} FROM slices WHERE start_unix_ns >= {start} AND start_unix_ns < {end} ORDER BY ctid) TO STDOUT"
    );
    let rows = ledger.copy_out(&query).await?;
    let rows: Vec<Bytes> = rows.try_collect().await?;
    Ok(rows.chunks(batch).map(|rows| Bytes::from(rows.concat())).collect())
}

/// Processor time so far of all that PostgreSQL has running, by the scheduler's own count: other load does not add to it.
pub(crate) async fn server_cpu(client: &Client) -> Result<Duration, Error> {
    let mut sum_ns = 0;
    for row in client.query("SELECT pid FROM pg_stat_activity", &[]).await? {
        let pid: i32 = row.get(0);
        // One that has just ended has nothing to say.
        let said = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        sum_ns += said.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleets_ledger_is_measured_beside_a_bare_copy() {
        assert_eq!(run(Size::Small).unwrap().len(), 14);
    }
}
