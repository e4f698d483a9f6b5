//! From JetStream and Redis into the ledger, through crashes between any two steps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use dormouse::ingest::{JetStream, Options, Queue, QueueError, RedisStream, run};
use dormouse::tls::ClientFiles;
use dormouse_ledger::fleet::{Ingested, Resend};
use dormouse_tests::events::{BEGAN_NS, HOUR_NS, Host, Life, SECOND_NS};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::{paths, wait};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::scene::{Scene, stored};

/// What one host tells of an hour: slices, and that it is complete.
fn hour(host: &str, slices: usize) -> Vec<Vec<u8>> {
    let (mut host, mut life) = (Host::new(host), Life::new("org", "sb"));
    let mut messages: Vec<_> = (0..slices).map(|_| host.slice(&life.lasts(SECOND_NS))).collect();
    messages.push(host.watermark(BEGAN_NS + HOUR_NS));
    messages
}

async fn jetstream(server: &Server, messages: &[Vec<u8>]) {
    let client = async_nats::connect(server.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let subjects = vec!["dormouse.events.>".to_owned()];
    let config = Config { name: "DORMOUSE".to_owned(), subjects, ..Config::default() };
    context.get_or_create_stream(config).await.unwrap();
    for message in messages {
        let sent = context.publish("dormouse.events.cell.h1", message.clone().into()).await.unwrap();
        sent.await.unwrap();
    }
}

async fn redis(server: &Server, messages: &[Vec<u8>]) {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut pipe = redis::pipe();
    for message in messages {
        pipe.cmd("XADD").arg(&["dormouse:events", "*", "event"]).arg(message).ignore();
    }
    pipe.exec_async(&mut connection).await.unwrap();
}

fn options(scene: &Scene, batch_max: usize) -> Options {
    Options { database: scene.database(), batch_max, drain: true }
}

async fn drain<Q: Queue>(queue: Q, options: &Options) -> Ingested {
    run(queue, options, std::future::pending()).await.unwrap()
}

#[tokio::test]
async fn what_is_in_jetstream_is_stored_acknowledged_and_not_delivered_again() {
    let (scene, server) = (Scene::new().await, Server::start(Kind::Nats).await.unwrap());
    jetstream(&server, &hour("h1", 50)).await;
    let queue = async || JetStream::connect(&server.url(), &ClientFiles::default(), "fleet").await.unwrap();
    assert_eq!(drain(queue().await, &options(&scene, 20)).await, stored(51, 50, 0, 0));
    assert_eq!(drain(queue().await, &options(&scene, 20)).await, Ingested::default());
    // Another group has all of it again, and the ledger has it once.
    let other = JetStream::connect(&server.url(), &ClientFiles::default(), "other").await.unwrap();
    assert_eq!(drain(other, &options(&scene, 100)).await, stored(0, 0, 51, 0));
}

#[tokio::test]
async fn what_is_in_redis_is_stored_acknowledged_and_not_delivered_again() {
    let (scene, server) = (Scene::new().await, Server::start(Kind::Redis).await.unwrap());
    redis(&server, &hour("h1", 50)).await;
    let queue = || RedisStream::new(&server.url(), &ClientFiles::default(), "fleet", "one").unwrap();
    assert_eq!(drain(queue(), &options(&scene, 20)).await, stored(51, 50, 0, 0));
    let again = queue().taking_over_after(Duration::ZERO);
    assert_eq!(drain(again, &options(&scene, 20)).await, Ingested::default());
}

/// A queue whose acknowledgements are lost, as those of an instance that dies after its commit.
struct Dying<Q>(Q);

impl<Q: Queue + Send> Queue for Dying<Q>
where
    Q::Receipt: Send,
{
    type Receipt = Q::Receipt;

    async fn receive(&mut self, messages_max: usize) -> Result<Vec<(Vec<u8>, Q::Receipt)>, QueueError> {
        self.0.receive(messages_max).await
    }

    async fn receive_more(&mut self, messages_max: usize) -> Result<Vec<(Vec<u8>, Q::Receipt)>, QueueError> {
        self.0.receive_more(messages_max).await
    }

    async fn acknowledge(&mut self, _: Vec<Q::Receipt>) -> Result<(), QueueError> {
        Ok(())
    }

    async fn ask_again(&mut self, request: &Resend) -> Result<(), QueueError> {
        self.0.ask_again(request).await
    }
}

/// A queue of batches that are there already, which keeps a record of what was asked of it. Who acknowledges says how many
/// events are in the ledger by then.
struct Recorded<'a> {
    scene: &'a Scene,
    batches: VecDeque<Vec<Vec<u8>>>,
    given: usize,
    record: Arc<Mutex<Vec<String>>>,
    first_acknowledged: Option<oneshot::Sender<()>>,
}

impl<'a> Recorded<'a> {
    fn new(scene: &'a Scene, messages: &[Vec<u8>], batch: usize) -> Self {
        let batches = messages.chunks(batch).map(<[_]>::to_vec).collect();
        Self { scene, batches, given: 0, record: Arc::default(), first_acknowledged: None }
    }

    fn note(&self, what: String) {
        self.record.lock().unwrap().push(what);
    }
}

impl Queue for Recorded<'_> {
    type Receipt = usize;

    async fn receive(&mut self, messages_max: usize) -> Result<Vec<(Vec<u8>, usize)>, QueueError> {
        self.receive_more(messages_max).await
    }

    async fn receive_more(&mut self, _: usize) -> Result<Vec<(Vec<u8>, usize)>, QueueError> {
        let Some(batch) = self.batches.pop_front() else { return Ok(Vec::new()) };
        self.given += 1;
        self.note(format!("{} given", self.given));
        Ok(batch.into_iter().map(|message| (message, self.given)).collect())
    }

    async fn acknowledge(&mut self, receipts: Vec<usize>) -> Result<(), QueueError> {
        let events = self.scene.says("SELECT count(*) FROM events").await;
        self.note(format!("{} acknowledged with {events} stored", receipts[0]));
        if let Some(first) = self.first_acknowledged.take() {
            first.send(()).unwrap();
        }
        Ok(())
    }

    async fn ask_again(&mut self, _: &Resend) -> Result<(), QueueError> {
        Ok(())
    }
}

#[tokio::test]
async fn behind_a_full_batch_one_is_read_ahead_and_each_is_acknowledged_once_it_and_no_later_one_is_stored() {
    let scene = Scene::new().await;
    let queue = Recorded::new(&scene, &hour("h1", 50), 17);
    let record = Arc::clone(&queue.record);
    assert_eq!(drain(queue, &options(&scene, 17)).await, stored(51, 50, 0, 0));
    let expected = [
        "1 given",
        "2 given",
        "1 acknowledged with 17 stored",
        "3 given",
        "2 acknowledged with 34 stored",
        "3 acknowledged with 51 stored",
    ];
    assert_eq!(*record.lock().unwrap(), expected);
}

#[tokio::test]
async fn behind_a_batch_that_is_not_full_nothing_is_read_before_it_is_acknowledged() {
    let scene = Scene::new().await;
    let queue = Recorded::new(&scene, &hour("h1", 19), 10);
    let record = Arc::clone(&queue.record);
    drain(queue, &options(&scene, 11)).await;
    let expected = ["1 given", "1 acknowledged with 10 stored", "2 given", "2 acknowledged with 20 stored"];
    assert_eq!(*record.lock().unwrap(), expected);
}

#[tokio::test]
async fn who_is_told_to_stop_stores_what_was_read_ahead_and_asks_for_no_more() {
    let scene = Scene::new().await;
    let mut queue = Recorded::new(&scene, &hour("h1", 39), 10);
    let record = Arc::clone(&queue.record);
    let (first, acknowledged) = oneshot::channel();
    queue.first_acknowledged = Some(first);
    let told = async { acknowledged.await.unwrap() };
    let ingested = run(queue, &options(&scene, 10), told).await.unwrap();
    assert_eq!(ingested, stored(20, 20, 0, 0));
    let expected = ["1 given", "2 given", "1 acknowledged with 10 stored", "2 acknowledged with 20 stored"];
    assert_eq!(*record.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_crash_between_commit_and_acknowledgement_is_harmless() {
    let (scene, server) = (Scene::new().await, Server::start(Kind::Redis).await.unwrap());
    redis(&server, &hour("h1", 50)).await;
    let dying = Dying(RedisStream::new(&server.url(), &ClientFiles::default(), "fleet", "dying").unwrap());
    assert_eq!(drain(dying, &options(&scene, 20)).await, stored(51, 50, 0, 0));
    let before = scene.everything().await;
    let heir = RedisStream::new(&server.url(), &ClientFiles::default(), "fleet", "heir")
        .unwrap()
        .taking_over_after(Duration::ZERO);
    assert_eq!(drain(heir, &options(&scene, 20)).await, stored(0, 0, 51, 0));
    assert_eq!(scene.everything().await, before);
}

#[tokio::test]
async fn an_entry_without_an_event_goes_to_quarantine() {
    let (scene, server) = (Scene::new().await, Server::start(Kind::Redis).await.unwrap());
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let entry = ["dormouse:events", "*", "other", "x"];
    redis::cmd("XADD").arg(&entry).exec_async(&mut connection).await.unwrap();
    let queue = RedisStream::new(&server.url(), &ClientFiles::default(), "fleet", "one").unwrap();
    assert_eq!(drain(queue, &options(&scene, 20)).await, stored(0, 0, 0, 1));
}

#[tokio::test]
async fn a_host_is_asked_on_its_own_subject_to_send_again_what_is_missing() {
    let (scene, server) = (Scene::new().await, Server::start(Kind::Nats).await.unwrap());
    let mut messages = hour("h1", 9);
    let lost: Vec<_> = messages.drain(3..6).collect();
    jetstream(&server, &messages).await;
    let queue = async || JetStream::connect(&server.url(), &ClientFiles::default(), "fleet").await.unwrap();
    drain(queue().await, &options(&scene, 20)).await;
    let mut ledger = scene.ledger().await;
    ledger.request_missing().await.unwrap();
    let host = async_nats::connect(server.url()).await.unwrap();
    let mut asked = host.subscribe("dormouse.resend.cell.h1").await.unwrap();
    host.flush().await.unwrap();
    drain(queue().await, &options(&scene, 20)).await;
    let message = tokio::time::timeout(Duration::from_secs(20), asked.next()).await.unwrap().unwrap();
    let request: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!((&request["first_seq"], &request["last_seq"]), (&4.into(), &6.into()));
    jetstream(&server, &lost).await;
    drain(queue().await, &options(&scene, 20)).await;
    assert!(ledger.check(BEGAN_NS + HOUR_NS).await.unwrap().is_clean());
}

#[tokio::test]
async fn the_command_line_migrates_ingests_and_names_what_holds_an_hour_open() {
    let postgres = Postgres::start(Durability::Volatile).await.unwrap();
    let server = Server::start(Kind::Redis).await.unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = Command::new(paths::dormouse().unwrap());
        command.args(arguments).args(["--json", "--database", &postgres.url("postgres")]);
        let output = command.kill_on_drop(true).output().await.unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let failed: Value = serde_json::from_slice(&output.stderr).unwrap_or_default();
        (output.status.code().unwrap(), said, failed)
    };
    let through = "2026-01-01T01:00:00Z";
    let check = ["ledger", "check", "--through", through];
    let (code, _, failed) = run(&check).await;
    assert_eq!((code, &failed["reason"]), (1, &"FLEET_OLDER".into()), "{failed}");
    let (code, migrated, _) = run(&["ledger", "migrate"]).await;
    assert_eq!((code, &migrated["from"]), (0, &0.into()));
    let messages = hour("h1", 5);
    redis(&server, &[&messages[..2], &messages[3..]].concat()).await;
    let ingest = ["ledger", "ingest", "--drain", "--redis", &server.url()];
    let (code, ingested, failed) = run(&ingest).await;
    assert_eq!((code, &ingested["stored"]), (0, &5.into()), "{failed}");
    let (code, found, _) = run(&check).await;
    assert_eq!(code, 2, "{found}");
    let missing = &found["missing"][0];
    assert_eq!((&missing["first_seq"], &missing["source"]), (&3.into(), &"//dormouse/cell/h1".into()));
    redis(&server, &messages[2..3]).await;
    run(&ingest).await;
    let (code, found, _) = run(&check).await;
    assert_eq!((code, &found["hosts"]), (0, &1.into()), "{found}");
    let (code, ..) = run(&["ledger", "check", "--through", "2026-01-01T02:00:00Z"]).await;
    assert_eq!(code, 2, "nobody has called the next hour complete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_and_postgresql_are_killed_in_the_middle_and_every_event_is_there_once() {
    const HOSTS: usize = 4;
    const SLICES: usize = 3_000;
    let mut postgres = Postgres::start(Durability::Durable).await.unwrap();
    let server = Server::start(Kind::Nats).await.unwrap();
    let mut client = postgres.connect("postgres").await.unwrap();
    dormouse_ledger::fleet::migrate(&mut client, dormouse_ledger::fleet::VERSION).await.unwrap();
    drop(client);
    let instance = || {
        let mut command = Command::new(paths::dormouse().unwrap());
        command.args(["ledger", "ingest", "--batch", "200", "--nats", &server.url()]);
        command.args(["--database", &postgres.url("postgres")]);
        command.stderr(std::process::Stdio::null()).kill_on_drop(true).spawn().unwrap()
    };
    let (mut doomed, _other, _third) = (instance(), instance(), instance());
    let all: Vec<_> = (0..HOSTS).flat_map(|host| hour(&format!("h{host}"), SLICES)).collect();
    let events = all.len();
    let count = async |postgres: &Postgres| -> Result<usize, String> {
        let client = postgres.connect("postgres").await.map_err(|error| error.to_string())?;
        let counted = client.query_one("SELECT count(*) FROM dormouse.events", &[]).await;
        let counted: i64 = counted.map_err(|error| error.to_string())?.get(0);
        Ok(usize::try_from(counted).unwrap())
    };
    let at_least = async |postgres: &Postgres, wanted: usize| {
        wait::until("events in the ledger", Duration::from_mins(3), async || {
            let found = count(postgres).await?;
            wait::unless(found >= wanted, || format!("{found} of {wanted}"))
        })
        .await
        .unwrap();
    };
    let url = server.url();
    let publishing = tokio::spawn(async move {
        let client = async_nats::connect(url).await.unwrap();
        let context = async_nats::jetstream::new(client);
        let subjects = vec!["dormouse.events.>".to_owned()];
        let config = Config { name: "DORMOUSE".to_owned(), subjects, ..Config::default() };
        context.get_or_create_stream(config).await.unwrap();
        for messages in all.chunks(500) {
            let mut sent = Vec::new();
            for message in messages {
                let sending = context.publish("dormouse.events.cell.h", message.clone().into()).await;
                sent.push(sending.unwrap());
            }
            for sent in sent {
                sent.await.unwrap();
            }
        }
    });
    at_least(&postgres, 1_000).await;
    doomed.kill().await.unwrap();
    at_least(&postgres, 2_000).await;
    postgres.kill9().unwrap();
    postgres.restart().await.unwrap();
    publishing.await.unwrap();
    at_least(&postgres, events).await;
    let client = postgres.connect("postgres").await.unwrap();
    let slices: i64 = client.query_one("SELECT count(*) FROM dormouse.slices", &[]).await.unwrap().get(0);
    let complete = "SELECT count(*) FROM dormouse.believed_watermarks WHERE believed";
    let complete: i64 = client.query_one(complete, &[]).await.unwrap().get(0);
    let kept: i64 = client.query_one("SELECT count(*) FROM dormouse.quarantine", &[]).await.unwrap().get(0);
    let counted = (usize::try_from(slices).unwrap(), usize::try_from(complete).unwrap(), kept);
    assert_eq!(counted, (HOSTS * SLICES, HOSTS, 0));
    assert_eq!(count(&postgres).await, Ok(events));
}
