//! Three hosts on three ways into one ledger, while all that lies between is killed and paused at random.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dormouse::config::SinkKind;
use dormouse_ledger::{HostName, SLICE_EVENT, SliceRow};
use dormouse_tests::events::{BEGAN_NS, HOUR_NS, SECOND_NS};
use dormouse_tests::servers::network::Network;
use dormouse_tests::servers::postgres::{Durability, Postgres};
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::stage::{Stage, sink};
use dormouse_tests::{paths, wait};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};

/// Slices that one host commits at once.
const UNIT: u64 = 100;
/// What an instance that was killed had not acknowledged comes again after a minute.
const DEADLINE: Duration = Duration::from_mins(6);
/// How many kinds of misfortune there are.
const KINDS: u64 = 12;
const SUMS: &str = "SELECT format('%s events, %s byte-ns', (SELECT count(*) FROM dormouse.events), \
     (SELECT sum(memory_byte_ns) FROM dormouse.slice_quantities))";

/// How many numbers are stored: what can be asked often.
const STORED: &str = "SELECT coalesce(sum(upper(run) - lower(run)), 0)::bigint \
     FROM dormouse.sources CROSS JOIN unnest(received) AS run";

/// All that may suffer.
struct Fleet {
    nats: Server,
    redis: Server,
    postgres: Postgres,
    /// One from NATS, one from Redis.
    ingests: [Child; 2],
    hosts: [Stage; 3],
}

fn ingest(postgres: &Postgres, kind: Kind, server: &Server) -> Child {
    let queue = if kind == Kind::Nats { "--nats" } else { "--redis" };
    let mut command = Command::new(paths::dormouse().unwrap());
    command.args(["ledger", "ingest", "--batch", "700", queue, &server.url()]);
    command.args(["--database", &postgres.url("postgres")]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
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

impl Fleet {
    async fn new() -> Self {
        let postgres = Postgres::start(Durability::Durable).await.unwrap();
        let (nats, redis) = (server(Kind::Nats).await, server(Kind::Redis).await);
        let mut client = postgres.connect("postgres").await.unwrap();
        dormouse_ledger::fleet::migrate(&mut client, dormouse_ledger::fleet::VERSION).await.unwrap();
        let host = |name: &str, kind, url| {
            let host = HostName { cell: "cell".to_owned(), host: name.to_owned() };
            Stage::of(host, vec![sink("fleet", kind, url)])
        };
        let hosts = [
            host("by-nats", SinkKind::Nats, nats.url()),
            host("by-redis", SinkKind::Redis, redis.url()),
            host("straight", SinkKind::Postgres, postgres.url("postgres")),
        ];
        let ingests = [ingest(&postgres, Kind::Nats, &nats), ingest(&postgres, Kind::Redis, &redis)];
        Self { nats, redis, postgres, ingests, hosts }
    }

    /// Starts instances again that ended, as their supervisor would: one that finds no database when it starts does.
    fn supervise(&mut self) {
        let Self { nats, redis, postgres, ingests: [by_nats, by_redis], .. } = self;
        if by_nats.try_wait().unwrap().is_some() {
            *by_nats = ingest(postgres, Kind::Nats, nats);
        }
        if by_redis.try_wait().unwrap().is_some() {
            *by_redis = ingest(postgres, Kind::Redis, redis);
        }
    }

    async fn commit(&mut self, units: u64) {
        for _ in 0..units {
            for host in &mut self.hosts {
                host.commit(UNIT);
            }
            // What was committed may set out.
            tokio::task::yield_now().await;
        }
    }

    /// Something goes wrong, `units` are committed meanwhile, and it is over.
    async fn suffers(&mut self, misfortune: u64, units: u64) {
        match misfortune % KINDS {
            0 => {
                self.nats.kill9().await.unwrap();
                self.commit(units).await;
                self.nats.restart().await.unwrap();
            }
            1 => {
                self.nats.signal(Signal::SIGSTOP).unwrap();
                self.commit(units).await;
                self.nats.signal(Signal::SIGCONT).unwrap();
            }
            2 => {
                self.redis.kill9().await.unwrap();
                self.commit(units).await;
                self.redis.restart().await.unwrap();
            }
            3 => {
                self.redis.signal(Signal::SIGSTOP).unwrap();
                self.commit(units).await;
                self.redis.signal(Signal::SIGCONT).unwrap();
            }
            4 => {
                self.postgres.kill9().unwrap();
                self.commit(units).await;
                self.postgres.restart().await.unwrap();
            }
            5 => {
                self.ingests[0].kill().await.unwrap();
                self.commit(units).await;
                self.ingests[0] = ingest(&self.postgres, Kind::Nats, &self.nats);
            }
            6 => {
                self.ingests[1].kill().await.unwrap();
                self.commit(units).await;
                self.ingests[1] = ingest(&self.postgres, Kind::Redis, &self.redis);
            }
            7 => {
                self.postgres.signal(Signal::SIGSTOP).unwrap();
                self.commit(units).await;
                self.postgres.signal(Signal::SIGCONT).unwrap();
            }
            8 => self.is_cut_off(0, units).await,
            9 => self.is_cut_off(1, units).await,
            10 => {
                for host in &mut self.hosts {
                    host.publisher.take().unwrap().stop().await;
                }
                self.publishers_were_away(units).await;
            }
            _ => {
                for host in &mut self.hosts {
                    // In the middle of whatever they do, and without a word of how far they came.
                    drop(host.publisher.take());
                }
                self.publishers_were_away(units).await;
            }
        }
    }

    async fn publishers_were_away(&mut self, units: u64) {
        self.commit(units).await;
        for host in &mut self.hosts {
            host.publish_again().await;
        }
    }

    /// Nothing reaches NATS or Redis until their host has given up a batch.
    async fn is_cut_off(&mut self, host: usize, units: u64) {
        let cut = if let Some(network) = self.server(host).network() {
            network.cut().unwrap();
            true
        } else {
            false
        };
        self.commit(units).await;
        if cut {
            self.hosts[host].fails("fleet", "SINK_").await;
        }
        if let Some(network) = self.server(host).network() {
            network.mend().unwrap();
        }
    }

    fn server(&self, host: usize) -> &Server {
        if host == 0 { &self.nats } else { &self.redis }
    }

    /// What the hosts' own outboxes add up to, in the words of [`SUMS`].
    fn own_sums(&self) -> String {
        let (mut events, mut memory_byte_ns) = (0, 0_i128);
        for event in self.hosts.iter().flat_map(Stage::events) {
            events += 1;
            if event.event_type == SLICE_EVENT {
                let told: serde_json::Value = serde_json::from_slice(&event.payload).unwrap();
                let row: SliceRow = serde_json::from_value(told["data"].clone()).unwrap();
                let bytes = i128::from(row.memory_base_bytes) + i128::from(row.memory_plugged_bytes);
                memory_byte_ns += bytes * i128::from(row.duration_ns);
            }
        }
        format!("{events} events, {memory_byte_ns} byte-ns")
    }
}

async fn every_event_of(events: u64, seed: u64) {
    let mut fleet = Fleet::new().await;
    let (rounds, hosts) = (24, 3);
    let units = (events / (rounds * hosts * UNIT)).max(1);
    let mut random = seed;
    for round in 0..rounds {
        // Numerical Recipes' generator: the seed tells which history it was. First there is one of each kind.
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let misfortune = if round < KINDS { round } else { random >> 24 };
        fleet.suffers(misfortune, units).await;
        fleet.supervise();
    }
    let lasted_ns = i64::try_from(rounds * units * UNIT).unwrap() * SECOND_NS;
    let hour_ns = BEGAN_NS + (lasted_ns / HOUR_NS + 1) * HOUR_NS;
    for host in &fleet.hosts {
        host.complete(hour_ns);
    }
    let told: usize = fleet.hosts.iter().map(|host| host.events().len()).sum();
    wait::until("every event to be in the ledger", DEADLINE, async || {
        fleet.supervise();
        let client = fleet.postgres.connect("postgres").await.map_err(|error| error.to_string())?;
        let row = client.query_one(STORED, &[]).await.map_err(|error| error.to_string())?;
        let stored: i64 = row.get(0);
        wait::unless(usize::try_from(stored) == Ok(told), || format!("{stored} of {told} events"))
    })
    .await
    .unwrap();
    let client = fleet.postgres.connect("postgres").await.unwrap();
    let found: String = client.query_one(SUMS, &[]).await.unwrap().get(0);
    assert_eq!(found, fleet.own_sums(), "seed {seed}");
    let through = dormouse_ledger::rfc3339(hour_ns);
    let mut check = Command::new(Path::new(&paths::dormouse().unwrap()));
    check.args(["ledger", "check", "--through", &through, "--database", &fleet.postgres.url("postgres")]);
    assert_eq!(check.status().await.unwrap().code(), Some(0), "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_and_paused_every_event_is_in_the_ledger_once_and_the_sums_are_equal() {
    every_event_of(20_000, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a million events: half an hour, for make soak"]
async fn through_a_million_events_of_misfortunes_every_event_is_in_the_ledger_once() {
    every_event_of(1_000_000, 2).await;
}
