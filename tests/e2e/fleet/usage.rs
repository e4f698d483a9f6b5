//! A fleet's usage is answered as a host's is: L2 on both, by the same questions.

use dormouse::address::LedgerAddress;
use dormouse_ledger::fleet::{VERSION, migrate};
use dormouse_ledger::usage::UsageLedger;
use dormouse_ledger::{LedgerError, Reader, SliceQuery};
use dormouse_tests::events::Host;
use dormouse_tests::servers::postgres::{Durability, Postgres};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::runtime::{Builder, Runtime};

use crate::scene::store;
use crate::support::Place;
use crate::usage_suite::{World, check, instant, rules, tell, world};

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
