//! A fleet's usage is answered as a host's is: L2 on both, by the same questions.

use std::time::Duration;

use dormouse::address::LedgerAddress;
use dormouse_ledger::fleet::{VERSION, migrate};
use dormouse_ledger::usage::{Cancel, UsageLedger};
use dormouse_ledger::{LedgerError, Reader, SliceQuery};
use dormouse_tests::events::Host;
use dormouse_tests::servers::postgres::{Durability, Postgres};
use dormouse_tests::wait;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::runtime::{Builder, Runtime};

use crate::scene::{Scene, store};
use crate::support::Place;
use crate::usage_suite::{World, check, instant, rules, tell, world};

/// The last version of the schema without rollups.
const BEFORE_USAGE: i32 = 4;

/// What is blocking is asked from the test's own thread; connections are driven by another.
fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The slices of a host's ledger as events, those of each generation from a host of its own.
fn events(reader: &Reader) -> Vec<Vec<u8>> {
    let page = reader.slices(&SliceQuery { limit: usize::MAX, ..SliceQuery::default() }).unwrap();
    let mut hosts: Vec<(i64, Host)> = Vec::new();
    let mut messages = Vec::new();
    for row in page.rows.iter().filter(|row| row.is_final) {
        let known = hosts.iter().position(|(generation, _)| *generation == row.generation);
        let index = known.unwrap_or_else(|| {
            hosts.push((row.generation, Host::new(&format!("h{}", hosts.len()))));
            hosts.len() - 1
        });
        messages.push(hosts[index].1.slice(row));
    }
    messages
}

/// A fleet's ledger in a database of its own, to which a world was told in another order than that of time.
fn fleet(
    runtime: &Runtime,
    server: &Postgres,
    place: &Place,
    world: &World,
    (turn, batch): (usize, usize),
) -> Box<dyn UsageLedger> {
    let mut messages = events(&place.reader());
    let turn = turn % messages.len().max(1);
    messages.rotate_left(turn);
    runtime.block_on(async {
        server
            .connect("postgres")
            .await
            .unwrap()
            .batch_execute("DROP DATABASE IF EXISTS l2 WITH (FORCE)")
            .await
            .unwrap();
        server.create("l2").await.unwrap();
        let mut client = server.connect("l2").await.unwrap();
        migrate(&mut client, VERSION).await.unwrap();
        let mut ledger = dormouse_ledger::fleet::FleetLedger::open(client).await.unwrap();
        for batch in messages.chunks(batch) {
            let ingested = store(&mut ledger, batch).await;
            assert_eq!(ingested.slices, batch.len() as u64, "{ingested:?}");
        }
    });
    let mut fleet = LedgerAddress::parse(&server.url("l2")).unwrap().open().unwrap();
    for set in world.retags() {
        match fleet.set_tags(&set) {
            // A sandbox of which no slice has come is not known to the fleet, and used nothing.
            Ok(_) | Err(LedgerError::UnknownSandbox(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    fleet
}

#[test]
fn l2_holds_in_a_fleets_ledger_by_the_same_questions_as_in_a_hosts() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let server = runtime.block_on(Postgres::start(Durability::Volatile)).unwrap();
    let cases = (world(true), rules(), (instant(), instant(), instant()), (0..70_usize, 1..20_usize));
    let mut runner = TestRunner::new(ProptestConfig { cases: 12, ..ProptestConfig::default() });
    let held = runner.run(&cases, |(world, rules, (one, other, split), order)| {
        let place = Place::new();
        tell(&place, &world);
        let window = one.min(other)..one.max(other).max(one.min(other) + 1);
        let within = (&window, split.clamp(window.start, window.end));
        check(&mut place.reader(), &place.reader(), &rules, within, None);
        let mut fleet = fleet(&runtime, &server, &place, &world, order);
        check(fleet.as_mut(), &place.reader(), &rules, within, None);
        Ok(())
    });
    held.unwrap();
}

#[test]
fn a_question_that_nobody_waits_for_any_more_is_cancelled_in_postgresql() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let scene = runtime.block_on(Scene::new());
    let mut ledger = LedgerAddress::parse(&scene.server.url("postgres")).unwrap().open().unwrap();
    let blocker = runtime.block_on(scene.client());
    runtime.block_on(blocker.batch_execute("BEGIN; LOCK TABLE tags IN ACCESS EXCLUSIVE MODE")).unwrap();
    let asked =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FROM tags%'";
    let cancel = Cancel::default();
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ledger.tag_keys("org", "", 1, &cancel));
        runtime.block_on(until_says(&scene, asked, "1"));
        cancel.cancel();
        asking.join().unwrap()
    });
    assert!(matches!(answer, Err(LedgerError::Cancelled)), "{answer:?}");
    assert!(ledger.is_spent(), "the cancellation may still be on its way to the next question");
    runtime.block_on(until_says(&scene, asked, "0"));
    runtime.block_on(blocker.batch_execute("ROLLBACK")).unwrap();
}

/// Waits until a query says so.
async fn until_says(scene: &Scene, query: &str, what: &str) {
    let says = async || {
        let said = scene.says(query).await;
        wait::unless(said == what, || said.clone())
    };
    wait::until(query, Duration::from_mins(1), says).await.unwrap();
}

#[test]
fn rollups_that_a_migration_makes_are_those_that_storing_would_have_made() {
    let runtime = runtime();
    runtime.block_on(async {
        let scene = Scene::new().await;
        let place = Place::new();
        let mut runner = TestRunner::deterministic();
        let world = world(true).new_tree(&mut runner).unwrap().current();
        tell(&place, &world);
        store(&mut scene.ledger().await, &events(&place.reader())).await;
        let all = "SELECT string_agg(t::text, E'\\n' ORDER BY t::text) FROM (SELECT k.sandbox_id, k.state, \
                   k.disk_bytes, h.hour_unix_ns, h.duration_ns, h.vcpu_milli_ns, h.base_byte_ns, h.plugged_byte_ns, \
                   h.requested_byte_ns, h.greater_byte_ns FROM usage_hours h JOIN usage_kinds k ON k.id = h.kind_id) t";
        let stored = scene.says(all).await;
        assert!(stored.lines().count() > 10, "{stored}");
        let mut client = scene.client().await;
        migrate(&mut client, BEFORE_USAGE).await.unwrap();
        migrate(&mut client, VERSION).await.unwrap();
        assert_eq!(scene.says(all).await, stored);
    });
}
