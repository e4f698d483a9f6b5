//! A host sends again what is missing, and the hour closes.

use std::time::Duration;

use dormouse::config::SinkKind;
use dormouse::ingest::{JetStream, Options, Queue, RedisStream, run};
use dormouse::tls::ClientFiles;
use dormouse_ledger::fleet::Missing;
use dormouse_tests::events::{BEGAN_NS, HOUR_NS};
use dormouse_tests::servers::{Kind, Server};
use dormouse_tests::stage::{Stage, host, sink};
use dormouse_tests::{paths, wait};
use tokio::process::Command;

use crate::scene::Scene;

const THROUGH: &str = "2026-01-01T01:00:00Z";

/// Takes the fourth event away from what the server holds, as if it had never come.
async fn lose_the_fourth(server: &Server, kind: Kind) {
    match kind {
        Kind::Nats => {
            let client = async_nats::connect(server.url()).await.unwrap();
            let stream = async_nats::jetstream::new(client).get_stream("DORMOUSE").await.unwrap();
            assert!(stream.delete_message(4).await.unwrap());
        }
        Kind::Redis => {
            let client = redis::Client::open(server.url()).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let range = redis::cmd("XRANGE").arg(&["dormouse:events", "-", "+", "COUNT", "4"]).to_owned();
            let first: redis::streams::StreamRangeReply = range.query_async(&mut connection).await.unwrap();
            let fourth = &first.ids[3].id;
            redis::cmd("XDEL").arg(&["dormouse:events", fourth]).exec_async(&mut connection).await.unwrap();
        }
    }
}

/// Stores what comes until the hour is complete.
async fn ingest_until_complete<Q: Queue>(scene: &Scene, queue: Q) {
    let options = Options { database: scene.database(), batch_max: 100, drain: false };
    let mut ledger = scene.ledger().await;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let complete = async {
        wait::until("the hour to be complete", Duration::from_mins(1), async || {
            let check = ledger.check(BEGAN_NS + HOUR_NS).await.map_err(|error| error.to_string())?;
            wait::unless(check.is_clean(), || format!("{check:?}"))
        })
        .await
        .unwrap();
        stop.send(()).unwrap();
    };
    let (ran, ()) = tokio::join!(run(queue, &options, async { stopped.await.unwrap() }), complete);
    ran.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_dropped_is_sent_again_on_request_and_the_hour_closes() {
    for (kind, sink_kind) in [(Kind::Nats, SinkKind::Nats), (Kind::Redis, SinkKind::Redis)] {
        let (scene, server) = (Scene::new().await, Server::start(kind).await.unwrap());
        let mut stage = Stage::new(vec![sink("fleet", sink_kind, server.url())]);
        stage.commit(10);
        stage.complete(BEGAN_NS + HOUR_NS);
        stage.acknowledged("fleet").await;
        lose_the_fourth(&server, kind).await;
        let nats =
            async || JetStream::connect(&server.url(), &ClientFiles::default(), "fleet").await.unwrap();
        let redis = || RedisStream::new(&server.url(), &ClientFiles::default(), "fleet", "one").unwrap();
        let drain = Options { database: scene.database(), batch_max: 100, drain: true };
        let stored = match kind {
            Kind::Nats => run(nats().await, &drain, std::future::pending()).await,
            Kind::Redis => run(redis(), &drain, std::future::pending()).await,
        };
        assert_eq!(stored.unwrap().stored, 10, "{kind:?}");
        let mut check = Command::new(paths::dormouse().unwrap());
        check.args(["ledger", "check", "--resend", "--through", THROUGH]);
        check.args(["--database", &scene.server.url("postgres")]);
        assert_eq!(check.status().await.unwrap().code(), Some(2), "the hour is open");
        let found = scene.ledger().await.check(BEGAN_NS + HOUR_NS).await.unwrap();
        let (source, holds_open_unix_ns) = (host().source(), Some(BEGAN_NS + HOUR_NS));
        assert_eq!(found.missing, [Missing { source, first_seq: 4, last_seq: 4, holds_open_unix_ns }]);
        match kind {
            Kind::Nats => ingest_until_complete(&scene, nats().await).await,
            Kind::Redis => ingest_until_complete(&scene, redis()).await,
        }
        assert_eq!(check.status().await.unwrap().code(), Some(0), "and now it is closed");
        let hash = "SELECT encode(payload_hash, 'hex') FROM events WHERE host_seq = 4";
        let sent_first = blake3::hash(&stage.events()[3].payload).to_hex();
        assert_eq!(scene.says(hash).await, sent_first.as_str(), "the same bytes");
        assert_eq!(stage.standing().sinks[0].acknowledged_seq, 11, "the cursor stands where it stood");
    }
}
