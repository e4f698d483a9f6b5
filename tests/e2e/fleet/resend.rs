//! A host sends again what is missing, and the hour closes; or says that it has it no more, and then that is known.

use std::time::Duration;

use dormouse::config::SinkKind;
use dormouse::database::OpenError;
use dormouse::ingest::{JetStream, Options, RedisStream, run};
use dormouse::tls::ClientFiles;
use dormouse_ledger::fleet::{Completeness, Ingested, Lost, Missing};
use dormouse_tests::events::{BEGAN_NS, HOUR_NS};
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::stage::{DEADLINE, Stage, host, sink};
use dormouse_tests::{paths, wait};
use tokio::process::Command;

use crate::scene::{Scene, store};

const THROUGH: &str = "2026-01-01T01:00:00Z";
/// A month after the hosts began.
const LET_GO_NS: i64 = BEGAN_NS + 31 * 24 * HOUR_NS;

/// Takes the n-th event away from what the server holds, as if it had never come.
async fn lose(server: &Server, kind: Kind, nth: usize) {
    match kind {
        Kind::Nats => {
            let client = async_nats::connect(server.url()).await.unwrap();
            let stream = async_nats::jetstream::new(client).get_stream("DORMOUSE").await.unwrap();
            assert!(stream.delete_message(nth as u64).await.unwrap());
        }
        Kind::Redis => {
            let mut connection = redis_of(server).await;
            let range = redis::cmd("XRANGE").arg(&["dormouse:events", "-", "+"]).to_owned();
            let all: redis::streams::StreamRangeReply = range.query_async(&mut connection).await.unwrap();
            let lost = &all.ids[nth - 1].id;
            redis::cmd("XDEL").arg(&["dormouse:events", lost]).exec_async(&mut connection).await.unwrap();
        }
    }
}

async fn redis_of(server: &Server) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Asks the host for events as a fleet's ledger does, of which nobody stores the answer.
async fn ask(server: &Server, kind: Kind, first_seq: u64, last_seq: u64) {
    match kind {
        Kind::Nats => {
            let client = async_nats::connect(server.url()).await.unwrap();
            let request = format!(r#"{{"first_seq":{first_seq},"last_seq":{last_seq}}}"#);
            client.publish("dormouse.resend.cell-a.host-1", request.into()).await.unwrap();
            client.flush().await.unwrap();
        }
        Kind::Redis => {
            let (first, last) = (first_seq.to_string(), last_seq.to_string());
            let source = host().source();
            let request = redis::cmd("XADD")
                .arg(&["dormouse:resend", "*", "source", &source, "first_seq", &first, "last_seq", &last])
                .to_owned();
            request.exec_async(&mut redis_of(server).await).await.unwrap();
        }
    }
}

/// Stores what comes until a look at the ledger finds what is awaited.
async fn ingest_until(
    scene: &Scene,
    server: &Server,
    kind: Kind,
    mut awaited: impl FnMut(&Completeness) -> bool,
) {
    let options = Options { database: scene.database(), batch_max: 100, drain: false };
    let mut ledger = scene.ledger().await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let found = async {
        wait::until("the ledger to be as awaited", Duration::from_mins(1), async || {
            let check = ledger.check(BEGAN_NS + HOUR_NS).await.map_err(|error| error.to_string())?;
            wait::unless(awaited(&check), || format!("{check:?}"))
        })
        .await
        .unwrap();
        stop.send(()).unwrap();
    };
    let stop = async { stopped.await.unwrap() };
    let (ran, ()) = tokio::join!(ingest(server, kind, &options, stop), found);
    ran.unwrap();
}

async fn ingest(
    server: &Server,
    kind: Kind,
    options: &Options,
    stop: impl Future<Output = ()>,
) -> Result<Ingested, OpenError> {
    match kind {
        Kind::Nats => {
            let queue = JetStream::connect(&server.url(), &ClientFiles::default(), "fleet").await.unwrap();
            run(queue, options, stop).await
        }
        Kind::Redis => {
            let queue = RedisStream::new(&server.url(), &ClientFiles::default(), "fleet", "one").unwrap();
            run(queue, options, stop).await
        }
    }
}

/// Stores what is there, and asks for what is not; the numbers of events that were stored.
async fn drain_and_ask(scene: &Scene, server: &Server, kind: Kind) -> u64 {
    let drain = Options { database: scene.database(), batch_max: 100, drain: true };
    let stored = ingest(server, kind, &drain, std::future::pending()).await.unwrap().stored;
    let (code, _) = check(scene, &["--resend"]).await;
    assert_eq!(code, Some(2), "the hour is open");
    stored
}

/// The command line's exit code, and what it says.
async fn check(scene: &Scene, more: &[&str]) -> (Option<i32>, String) {
    let mut check = Command::new(paths::dormouse().unwrap());
    check.args(["ledger", "check", "--through", THROUGH, "--database", &scene.server.url("postgres")]);
    let output = check.args(more).output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

const CARRIERS: [(Kind, SinkKind); 2] = [(Kind::Nats, SinkKind::Nats), (Kind::Redis, SinkKind::Redis)];

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_dropped_is_sent_again_on_request_and_the_hour_closes() {
    for (kind, sink_kind) in CARRIERS {
        let (scene, server) = (Scene::new().await, Server::start(kind).await.unwrap());
        let mut stage = Stage::new(vec![sink("fleet", sink_kind, server.url())]);
        stage.commit(10);
        stage.complete(BEGAN_NS + HOUR_NS);
        stage.acknowledged("fleet").await;
        lose(&server, kind, 4).await;
        assert_eq!(drain_and_ask(&scene, &server, kind).await, 10, "{kind:?}");
        let found = scene.ledger().await.check(BEGAN_NS + HOUR_NS).await.unwrap();
        let (source, holds_open_unix_ns) = (host().source(), Some(BEGAN_NS + HOUR_NS));
        assert_eq!(found.missing, [Missing { source, first_seq: 4, last_seq: 4, holds_open_unix_ns }]);
        ingest_until(&scene, &server, kind, Completeness::is_clean).await;
        assert_eq!(check(&scene, &[]).await.0, Some(0), "and now it is closed");
        let hash = "SELECT encode(payload_hash, 'hex') FROM events WHERE host_seq = 4";
        let sent_first = blake3::hash(&stage.events()[3].payload).to_hex();
        assert_eq!(scene.says(hash).await, sent_first.as_str(), "the same bytes");
        assert_eq!(stage.standing().sinks[0].acknowledged_seq, 11, "the cursor stands where it stood");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_no_longer_keeps_is_named_as_lost_at_its_source_until_somebody_else_has_it() {
    for (kind, sink_kind) in CARRIERS {
        let (scene, server) = (Scene::new().await, Server::start(kind).await.unwrap());
        let mut stage = Stage::new(vec![sink("fleet", sink_kind, server.url())]);
        stage.commit(10);
        stage.complete(BEGAN_NS + HOUR_NS);
        stage.acknowledged("fleet").await;
        let backup = stage.events();
        lose(&server, kind, 4).await;
        lose(&server, kind, if kind == Kind::Nats { 6 } else { 5 }).await;
        stage.let_go(LET_GO_NS);
        // The word of it is lost as well, and the agent starts anew.
        wait::until("the host to answer", DEADLINE, async || {
            ask(&server, kind, 1, 4).await;
            wait::unless(stage.standing().last_seq == 12, || format!("{:?}", stage.standing()))
        })
        .await
        .unwrap();
        stage.acknowledged("fleet").await;
        lose(&server, kind, if kind == Kind::Nats { 12 } else { 10 }).await;
        stage.publisher.take().unwrap().stop().await;
        stage.publish_again().await;
        assert_eq!(drain_and_ask(&scene, &server, kind).await, 9, "{kind:?}");
        ingest_until(&scene, &server, kind, |check| check.missing.is_empty()).await;
        let mut ledger = scene.ledger().await;
        let found = ledger.check(BEGAN_NS + HOUR_NS).await.unwrap();
        let lost = |seq| Lost {
            source: host().source(),
            first_seq: seq,
            last_seq: seq,
            holds_open_unix_ns: Some(BEGAN_NS + HOUR_NS),
            since_unix_ns: LET_GO_NS,
        };
        assert_eq!(found.lost, [lost(4), lost(6)]);
        assert_eq!(
            (found.silent.len(), ledger.open_requests().await.unwrap()),
            (1, vec![]),
            "nobody is asked"
        );
        assert_eq!(ledger.request_missing().await.unwrap(), 0, "what is lost is not asked for");
        let (code, said) = check(&scene, &[]).await;
        let named = "event 4 is lost, and not kept by the host since 2026-02-01T00:00:00.000Z: \
             the hour until 2026-01-01T01:00:00.000Z stays open: LOST_AT_SOURCE";
        assert!(code == Some(2) && said.contains(named), "{said}");
        assert_eq!(stage.standing().last_seq, 12, "it is told once");
        // Out of a backup of the host's ledger.
        store(&mut ledger, &[backup[3].payload.clone(), backup[5].payload.clone()]).await;
        let (code, said) = check(&scene, &[]).await;
        assert_eq!(code, Some(0), "{said}");
    }
}
