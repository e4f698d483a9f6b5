//! Servers are stopped, killed and paused while events are committed.

use dormouse::config::SinkKind;
use dormouse_tests::servers::{Kind, Server};
use nix::sys::signal::Signal;

use crate::received::{assert_delivered, received};
use dormouse_tests::stage::{Stage, sink};

const KINDS: [(Kind, SinkKind); 2] = [(Kind::Nats, SinkKind::Nats), (Kind::Redis, SinkKind::Redis)];

/// Commits `units` times 100 slices; between the units other tasks get their turn.
async fn load(stage: &mut Stage, units: u64) {
    for _ in 0..units {
        stage.commit(100);
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_reaches_a_server_that_is_stopped_killed_and_paused_under_load_first_in_order() {
    for (kind, sink_kind) in KINDS {
        let mut server = Server::start(kind).await.unwrap();
        let mut stage = Stage::new(vec![sink("sink", sink_kind, server.url())]);
        load(&mut stage, 20).await;
        server.kill9().await.unwrap();
        load(&mut stage, 20).await;
        stage.fails("sink", "SINK_UNREACHABLE").await;
        server.restart().await.unwrap();
        load(&mut stage, 20).await;
        server.signal(Signal::SIGSTOP).unwrap();
        load(&mut stage, 20).await;
        stage.fails("sink", "SINK_").await;
        server.signal(Signal::SIGCONT).unwrap();
        load(&mut stage, 20).await;
        server.stop().await.unwrap();
        load(&mut stage, 20).await;
        server.restart().await.unwrap();
        stage.acknowledged("sink").await;
        assert_delivered(&received(&server, kind).await, &stage.events());
        assert_eq!(stage.standing().sinks[0].error, None, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_down_delays_no_other_and_no_commit() {
    let mut nats = Server::start(Kind::Nats).await.unwrap();
    let redis = Server::start(Kind::Redis).await.unwrap();
    let sinks = vec![sink("nats", SinkKind::Nats, nats.url()), sink("redis", SinkKind::Redis, redis.url())];
    let mut stage = Stage::new(sinks);
    nats.kill9().await.unwrap();
    load(&mut stage, 30).await;
    stage.acknowledged("redis").await;
    let down = &stage.standing().sinks[0];
    assert_eq!((down.name.as_str(), down.lag_events), ("nats", 3_000));
    assert_delivered(&received(&redis, Kind::Redis).await, &stage.events());
    nats.restart().await.unwrap();
    stage.acknowledged("nats").await;
    assert_delivered(&received(&nats, Kind::Nats).await, &stage.events());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_starts_again_goes_on_where_it_was() {
    for (kind, sink_kind) in KINDS {
        let server = Server::start(kind).await.unwrap();
        let mut stage = Stage::new(vec![sink("sink", sink_kind, server.url())]);
        load(&mut stage, 5).await;
        stage.acknowledged("sink").await;
        stage.publisher.take().unwrap().stop().await;
        load(&mut stage, 5).await;
        stage.publish_again().await;
        stage.acknowledged("sink").await;
        let received = received(&server, kind).await;
        assert_delivered(&received, &stage.events());
        assert_eq!(received.len(), 1_000, "what was acknowledged is not sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_from_the_environment_are_asked_for_and_wrong_ones_are_told() {
    // Any two variables that are set while tests run, and whose values are known.
    let user = std::env::var("CARGO_PKG_NAME").unwrap();
    let password = std::env::var("CARGO_PKG_VERSION").unwrap();
    for (kind, sink_kind, arguments) in [
        (Kind::Nats, SinkKind::Nats, vec!["--user", &user, "--pass", &password]),
        (Kind::Redis, SinkKind::Redis, vec!["--requirepass", &password]),
    ] {
        let server = Server::start_with(kind, &arguments).await.unwrap();
        let named = |name: &str| Some(name.to_owned());
        let right = sink("right", sink_kind, server.url());
        let user_env = if kind == Kind::Nats { named("CARGO_PKG_NAME") } else { None };
        let right = dormouse::config::Sink {
            user_env: user_env.clone(),
            password_env: named("CARGO_PKG_VERSION"),
            ..right
        };
        let wrong = dormouse::config::Sink {
            name: "wrong".to_owned(),
            user_env,
            password_env: named("CARGO_PKG_NAME"),
            ..right.clone()
        };
        let missing = dormouse::config::Sink {
            name: "missing".to_owned(),
            password_env: named("DORMOUSE_NOT_SET"),
            ..right.clone()
        };
        let mut stage = Stage::new(vec![right, wrong, missing]);
        stage.commit(1);
        stage.acknowledged("right").await;
        stage.fails("wrong", "SINK_").await;
        stage.fails("missing", "DORMOUSE_NOT_SET is not set [SINK_MISCONFIGURED]").await;
    }
}
