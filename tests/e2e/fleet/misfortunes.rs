//! Three hosts on three ways into one ledger, and a real agent beside them, while all that lies between and they themselves
//! are killed and paused at random.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dormouse::config::{Sink, SinkKind};
use dormouse_ledger::{Reader, SLICE_EVENT, SliceRow};
use dormouse_tests::events::{BEGAN_NS, HOUR_NS, SECOND_NS};
use dormouse_tests::servers::network::Network;
use dormouse_tests::servers::postgres::{Durability, Postgres};
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::stage::sink;
use dormouse_tests::staged_host::{Identity, Order, StagedHost};
use dormouse_tests::{paths, wait};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};

use crate::real_agent::RealAgent;

/// What an instance that was killed had not acknowledged comes again after a minute.
const DEADLINE: Duration = Duration::from_mins(6);
/// How many kinds of misfortune there are.
const KINDS: u64 = 14;
const ROUNDS: u64 = 28;
/// The latest moment of a commit or a command at which a host is killed.
const KILLED_WITHIN_US: u64 = 60_000;
const SUMS: &str = "SELECT format('%s events, %s byte-ns', (SELECT count(*) FROM dormouse.events), \
     (SELECT sum(memory_byte_ns) FROM dormouse.slice_quantities))";

/// How many numbers are stored: what can be asked often.
const STORED: &str = "SELECT coalesce(sum(upper(run) - lower(run)), 0)::bigint \
     FROM dormouse.sources CROSS JOIN unnest(received) AS run";

/// How much there is of a run.
#[derive(Clone, Copy)]
struct Size {
    /// Events of all hosts, at the least.
    events: u64,
    /// Slices that one host commits at once.
    unit_slices: u64,
    /// Events that a sink is given, and an instance stores, at once.
    batch_events: u64,
}

/// All that may suffer.
struct Fleet {
    size: Size,
    nats: Server,
    redis: Server,
    postgres: Postgres,
    /// One from NATS, one from Redis.
    ingests: [Child; 2],
    hosts: [StagedHost; 3],
    agent: RealAgent,
}

/// A server that can be cut off, where this machine permits that.
async fn server(kind: Kind) -> Server {
    match Network::new() {
        Ok(network) => Server::start_in(kind, network).await.unwrap(),
        Err(error) => {
            eprintln!("{kind:?} is not cut off, because no network can be made here: {error}");
            Server::start(kind).await.unwrap()
        }
    }
}

fn ingest(size: Size, postgres: &Postgres, kind: Kind, server: &Server) -> Child {
    let queue = if kind == Kind::Nats { "--nats" } else { "--redis" };
    let mut command = Command::new(paths::dormouse().unwrap());
    // Not a multiple of what comes at once.
    let batch = (size.batch_events * 7 / 3).to_string();
    command.args(["ledger", "ingest", "--batch", &batch, queue, &server.url()]);
    command.args(["--database", &postgres.url("postgres")]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

impl Fleet {
    async fn new(size: Size) -> Self {
        let postgres = Postgres::start(Durability::Durable).await.unwrap();
        let (nats, redis) = (server(Kind::Nats).await, server(Kind::Redis).await);
        let mut client = postgres.connect("postgres").await.unwrap();
        dormouse_ledger::fleet::migrate(&mut client, dormouse_ledger::fleet::VERSION).await.unwrap();
        let host = |name: &str, kind, url| {
            let sink = Sink { batch_events: size.batch_events, ..sink("fleet", kind, url) };
            let (name, unit_slices) = (name.to_owned(), size.unit_slices);
            StagedHost::start(Identity { name, sink, unit_slices }).unwrap()
        };
        let hosts = [
            host("by-nats", SinkKind::Nats, nats.url()),
            host("by-redis", SinkKind::Redis, redis.url()),
            host("straight", SinkKind::Postgres, postgres.url("postgres")),
        ];
        let agent = RealAgent::start(&nats.url()).await;
        let ingests =
            [ingest(size, &postgres, Kind::Nats, &nats), ingest(size, &postgres, Kind::Redis, &redis)];
        Self { size, nats, redis, postgres, ingests, hosts, agent }
    }

    /// Starts instances again that ended, as their supervisor would: one that finds no database when it starts does.
    fn supervise(&mut self) {
        for (at, kind) in [Kind::Nats, Kind::Redis].into_iter().enumerate() {
            if self.ingests[at].try_wait().unwrap().is_some() {
                self.ingests[at] = ingest(self.size, &self.postgres, kind, self.server(at));
            }
        }
    }

    async fn tell(&mut self, order: Order) {
        for host in &mut self.hosts {
            host.tell(order).await.unwrap();
        }
    }

    /// All hosts do something, side by side, and the real agent is given a command.
    async fn all(&mut self, order: Order) {
        self.tell(order).await;
        self.agent.commanded().await;
        for host in &mut self.hosts {
            host.done().await.unwrap();
        }
    }

    /// Something goes wrong, `units` are committed by each host meanwhile, and it is over.
    async fn suffers(&mut self, misfortune: u64, random: u64, units: u64) {
        let commit = Order::Commit(units);
        match misfortune % KINDS {
            0 => {
                self.nats.kill9().await.unwrap();
                self.all(commit).await;
                self.nats.restart().await.unwrap();
            }
            1 => {
                self.nats.signal(Signal::SIGSTOP).unwrap();
                self.all(commit).await;
                self.nats.signal(Signal::SIGCONT).unwrap();
            }
            2 => {
                self.redis.kill9().await.unwrap();
                self.all(commit).await;
                self.redis.restart().await.unwrap();
            }
            3 => {
                self.redis.signal(Signal::SIGSTOP).unwrap();
                self.all(commit).await;
                self.redis.signal(Signal::SIGCONT).unwrap();
            }
            4 => {
                self.postgres.kill9().unwrap();
                self.all(commit).await;
                self.postgres.restart().await.unwrap();
            }
            5 => {
                self.postgres.signal(Signal::SIGSTOP).unwrap();
                self.all(commit).await;
                self.postgres.signal(Signal::SIGCONT).unwrap();
            }
            kind @ (6 | 7) => {
                self.ingests[usize::from(kind == 7)].kill().await.unwrap();
                self.all(commit).await;
                self.supervise();
            }
            8 => self.is_cut_off(0, commit).await,
            9 => self.is_cut_off(1, commit).await,
            kind @ (10 | 11) => {
                // In order; or in the middle of whatever it does, and without a word of how far it came.
                self.all(Order::StopPublisher { in_order: kind == 10 }).await;
                self.all(commit).await;
                self.all(Order::Publish).await;
            }
            12 => self.hosts_are_killed(commit, random).await,
            _ => {
                self.tell(commit).await;
                self.agent.is_killed_in_a_command(moment(random)).await;
                self.agent.commanded().await;
                for host in &mut self.hosts {
                    host.done().await.unwrap();
                }
            }
        }
    }

    /// Somewhere while they commit and publish: what was not durable was never told, and what was is told all the same.
    async fn hosts_are_killed(&mut self, commit: Order, random: u64) {
        for (at, host) in (0..).zip(&mut self.hosts) {
            host.tell(commit).await.unwrap();
            tokio::time::sleep(moment(random >> (8 * at))).await;
            host.kill9().await.unwrap();
            host.restart().unwrap();
        }
        self.all(commit).await;
    }

    /// Nothing reaches NATS or Redis until their host has given up a batch.
    async fn is_cut_off(&mut self, host: usize, commit: Order) {
        let cut = if let Some(network) = self.server(host).network() {
            network.cut().unwrap();
            true
        } else {
            false
        };
        self.all(commit).await;
        if cut {
            let reader = self.hosts[host].reader().unwrap();
            wait::until("the sink to fail", DEADLINE, async || {
                let standing = reader.outbox_standing().unwrap();
                let fails = standing.sinks[0].error.as_deref().is_some_and(|why| why.contains("SINK_"));
                wait::unless(fails, || format!("{standing:?}"))
            })
            .await
            .unwrap();
        }
        if let Some(network) = self.server(host).network() {
            network.mend().unwrap();
        }
    }

    fn server(&self, host: usize) -> &Server {
        if host == 0 { &self.nats } else { &self.redis }
    }

    fn readers(&self) -> Vec<Reader> {
        let staged = self.hosts.iter().map(|host| host.reader().unwrap());
        staged.chain([self.agent.reader()]).collect()
    }

    /// How many events there are on all hosts.
    fn told(&self) -> u64 {
        self.readers().iter().map(|reader| reader.outbox_standing().unwrap().last_seq).sum()
    }

    /// What the hosts' own outboxes add up to, in the words of [`SUMS`].
    fn own_sums(&self) -> String {
        const EVENTS_AT_ONCE: usize = 20_000;
        let (mut events, mut memory_byte_ns) = (0, 0_i128);
        for reader in self.readers() {
            let mut after = 0;
            loop {
                let batch = reader.outbox(after, EVENTS_AT_ONCE).unwrap();
                let Some(last) = batch.last() else { break };
                after = last.host_seq;
                events += batch.len();
                for event in batch.iter().filter(|event| event.event_type == SLICE_EVENT) {
                    let told: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
                    let row: SliceRow = serde_json::from_value(told["data"].clone()).unwrap();
                    if row.state == "running" {
                        let bytes = i128::from(row.memory_base_bytes) + i128::from(row.memory_plugged_bytes);
                        memory_byte_ns += bytes * i128::from(row.duration_ns);
                    }
                }
            }
        }
        format!("{events} events, {memory_byte_ns} byte-ns")
    }

    /// The end of the hour that the last slice of a staged host lies in. Each lasts a second.
    fn last_hour_ns(&self) -> i64 {
        let events = |host: &StagedHost| host.reader().unwrap().outbox_standing().unwrap().last_seq;
        let events = self.hosts.iter().map(events).max().unwrap();
        BEGAN_NS + (i64::try_from(events).unwrap() * SECOND_NS / HOUR_NS + 1) * HOUR_NS
    }

    /// Waits until every event of every host is stored.
    async fn is_whole(&mut self) {
        wait::until("every event to be in the ledger", DEADLINE, async || {
            self.supervise();
            let client = self.postgres.connect("postgres").await.map_err(|error| error.to_string())?;
            let row = client.query_one(STORED, &[]).await.map_err(|error| error.to_string())?;
            let (stored, told) = (row.get::<_, i64>(0), self.told());
            wait::unless(u64::try_from(stored) == Ok(told), || format!("{stored} of {told} events"))
        })
        .await
        .unwrap();
    }
}

/// A moment in which somebody is killed, counted from when he began.
fn moment(random: u64) -> Duration {
    Duration::from_micros(random % KILLED_WITHIN_US)
}

async fn every_event_of(size: Size, seed: u64) {
    let mut fleet = Fleet::new(size).await;
    let units = (size.events / (ROUNDS * 3 * size.unit_slices)).max(1);
    let mut random = seed;
    for round in 0..ROUNDS {
        // Numerical Recipes' generator: the seed tells which history it was. First there is one of each kind.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let misfortune = if round < KINDS { round } else { random >> 24 };
        fleet.suffers(misfortune, random >> 20, units).await;
        fleet.supervise();
    }
    // What was killed before it was durable.
    while fleet.told() < size.events {
        fleet.all(Order::Commit(1)).await;
    }
    let hour_ns = fleet.last_hour_ns();
    fleet.all(Order::Complete(hour_ns)).await;
    fleet.is_whole().await;
    let through = dormouse_ledger::rfc3339(hour_ns);
    let mut check = Command::new(Path::new(&paths::dormouse().unwrap()));
    check.args(["ledger", "check", "--through", &through, "--database", &fleet.postgres.url("postgres")]);
    // The real agent calls its last full hour complete some seconds after it has started.
    wait::until("the check to be clean", DEADLINE, async || {
        let found = check.output().await.map_err(|error| error.to_string())?;
        wait::unless(found.status.success(), || format!("{found:?}"))
    })
    .await
    .unwrap();
    fleet.agent.ends().await;
    fleet.is_whole().await;
    let client = fleet.postgres.connect("postgres").await.unwrap();
    let found: String = client.query_one(SUMS, &[]).await.unwrap().get(0);
    assert_eq!(found, fleet.own_sums(), "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_and_paused_every_event_is_in_the_ledger_once_and_the_sums_are_equal() {
    every_event_of(Size { events: 20_000, unit_slices: 100, batch_events: 300 }, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a million events: minutes in a release build, for make soak"]
async fn through_a_million_events_of_misfortunes_every_event_is_in_the_ledger_once() {
    every_event_of(Size { events: 1_000_000, unit_slices: 500, batch_events: 3_000 }, 2).await;
}
