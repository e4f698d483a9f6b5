//! From a host straight into PostgreSQL.

use dormouse::config::SinkKind;
use dormouse_ledger::fleet::{VERSION, migrate};
use dormouse_tests::events::{BEGAN_NS, HOUR_NS};
use dormouse_tests::servers::postgres::{Durability, Postgres};
use dormouse_tests::stage::{Stage, sink};

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_queue_writes_into_the_fleets_ledger_once_that_has_its_schema() {
    let server = Postgres::start(Durability::Volatile).await.unwrap();
    let mut stage = Stage::new(vec![sink("straight", SinkKind::Postgres, server.url("postgres"))]);
    stage.commit(700);
    stage.complete(BEGAN_NS + HOUR_NS);
    stage.fails("straight", "`dormouse ledger migrate` [SINK_MISCONFIGURED]").await;
    migrate(&mut server.connect("postgres").await.unwrap(), VERSION).await.unwrap();
    stage.acknowledged("straight").await;
    let scene = Scene { server };
    assert_eq!(scene.says("SELECT count(*) FROM slices").await, "700");
    let check = scene.ledger().await.check(BEGAN_NS + HOUR_NS).await.unwrap();
    assert!(check.is_clean() && check.hosts == 1, "{check:?}");
    // A publisher that starts again goes on.
    stage.publisher.take().unwrap().stop().await;
    stage.publish_again().await;
    stage.commit(1);
    stage.acknowledged("straight").await;
    assert_eq!(scene.says("SELECT count(*) FROM events").await, "702");
}
