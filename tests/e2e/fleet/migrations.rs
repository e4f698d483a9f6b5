//! The schema goes up and down.

use dormouse_ledger::fleet::{FleetError, FleetLedger, VERSION, migrate};
use dormouse_tests::events::{BEGAN_NS, HOUR_NS, Host, Life, SECOND_NS};
use dormouse_tests::servers::postgres::{Durability, Postgres};

use crate::scene::{Scene, store, stored};

/// All that the schema consists of, as PostgreSQL tells it; the stamps of the migrations left out.
const SHAPE: &str = "SELECT string_agg(line, E'\\n' ORDER BY line) FROM ( \
    SELECT format('%s.%s %s %s', table_name, column_name, data_type, is_nullable) AS line \
        FROM information_schema.columns WHERE table_schema = 'dormouse' \
    UNION ALL SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint \
        WHERE connamespace = 'dormouse'::regnamespace \
    UNION ALL SELECT format('%s %s', relname, relkind) FROM pg_class \
        WHERE relnamespace = 'dormouse'::regnamespace \
    UNION ALL SELECT format('%s %s', tgname, tgrelid::regclass) FROM pg_trigger WHERE NOT tgisinternal) shape";

#[tokio::test]
async fn the_schema_goes_up_and_down_and_up_again_and_is_the_same() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    let mut shapes = vec![scene.says(SHAPE).await];
    for version in (0..VERSION).rev() {
        migrate(&mut client, version).await.unwrap();
        shapes.push(scene.says(SHAPE).await);
    }
    let tables = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'S') \
                  AND relnamespace = 'dormouse'::regnamespace";
    assert_eq!(scene.says(tables).await, "migrations", "nothing but the list of migrations is left");
    for version in 1..=VERSION {
        assert_eq!(scene.says(SHAPE).await, shapes.pop().unwrap(), "before {version}");
        migrate(&mut client, version).await.unwrap();
    }
    assert_eq!(scene.says(SHAPE).await, shapes.pop().unwrap());
    let mut life = Life::new("org", "sb");
    let message = Host::new("h1").slice(&life.lasts(SECOND_NS));
    assert_eq!(store(&mut scene.ledger().await, &[message]).await, stored(1, 1, 0, 0), "and it works");
}

#[tokio::test]
async fn what_is_there_goes_down_and_up_with_its_partitions() {
    let scene = Scene::new().await;
    let before = scene.says(SHAPE).await;
    let message = Host::new("h1").slice(&Life::new("org", "sb").lasts(SECOND_NS));
    store(&mut scene.ledger().await, &[message]).await;
    assert_ne!(scene.says(SHAPE).await, before);
    let mut client = scene.client().await;
    migrate(&mut client, 0).await.unwrap();
    migrate(&mut client, VERSION).await.unwrap();
    assert_eq!(scene.says(SHAPE).await, before);
}

#[tokio::test]
async fn slices_stay_and_do_not_overlap_on_either_side_of_a_step() {
    let scene = Scene::new().await;
    let (mut host, mut life) = (Host::new("h1"), Life::new("org", "sb"));
    store(&mut scene.ledger().await, &[host.slice(&life.lasts(SECOND_NS))]).await;
    let (mut client, before) = (scene.client().await, scene.everything().await);
    let again = "INSERT INTO slices SELECT sandbox_id, generation, seq + 1, org, host_id, api_key_id, state, reason, \
        start_unix_ns, end_unix_ns, duration_ns, memory_base_bytes, memory_plugged_bytes, \
        memory_requested_bytes, vcpus_milli, disk_bytes, opened_by, closed_by, command_id, \
        opened_by_command_id, uncertainty_ns FROM slices";
    for version in [VERSION, VERSION - 1, VERSION] {
        migrate(&mut client, version).await.unwrap();
        let refused = client.execute(again, &[]).await.unwrap_err();
        let constraint = refused.as_db_error().and_then(|said| said.constraint()).unwrap();
        assert_eq!(constraint, "slices_2026_01_no_overlap", "version {version}");
    }
    assert_eq!(scene.everything().await, before);
    let next = host.slice(&life.lasts(SECOND_NS));
    assert_eq!(store(&mut scene.ledger().await, &[next]).await, stored(1, 1, 0, 0), "and it goes on");
}

#[tokio::test]
async fn two_who_migrate_at_once_do_it_one_after_the_other() {
    let server = Postgres::start(Durability::Volatile).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(server.connect("postgres").await.unwrap());
    }
    let migrating = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { migrate(&mut client, VERSION).await.unwrap() }));
    let mut before = Vec::new();
    for task in migrating.collect::<Vec<_>>() {
        before.push(task.await.unwrap());
    }
    before.sort_unstable();
    assert_eq!(before, [0, VERSION, VERSION, VERSION], "one did it all");
}

#[tokio::test]
async fn a_schema_of_another_version_is_refused_with_what_to_do() {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    migrate(&mut client, VERSION - 1).await.unwrap();
    let older = FleetLedger::open(scene.client().await).await.err().unwrap();
    assert!(matches!(older, FleetError::Older { found, .. } if found == VERSION - 1), "{older}");
    assert!(older.to_string().contains("`dormouse ledger migrate`"), "{older}");
    migrate(&mut client, VERSION).await.unwrap();
    let newer = "INSERT INTO migrations (number, name, up_hash) VALUES ($1, 'later', '\\x00')";
    client.execute(newer, &[&(VERSION + 1)]).await.unwrap();
    let newer = FleetLedger::open(scene.client().await).await.err().unwrap();
    assert!(matches!(newer, FleetError::Newer { .. }), "{newer}");
    assert!(matches!(migrate(&mut client, VERSION).await, Err(FleetError::Newer { .. })));
    client.batch_execute("UPDATE migrations SET up_hash = '\\x00' WHERE number = 2").await.unwrap();
    let changed = migrate(&mut client, VERSION).await.unwrap_err();
    assert_eq!(changed.reason(), "FLEET_MIGRATION_CHANGED");
}

#[tokio::test]
async fn a_partition_is_made_for_each_month_that_a_slice_starts_in() {
    let scene = Scene::new().await;
    let mut host = Host::new("h1");
    let month_ends = BEGAN_NS + 31 * 24 * HOUR_NS;
    let mut life = Life::beginning("org", "sb", month_ends - SECOND_NS);
    let messages = [host.slice(&life.lasts(SECOND_NS)), host.slice(&life.lasts(SECOND_NS))];
    assert_eq!(store(&mut scene.ledger().await, &messages).await, stored(2, 2, 0, 0));
    let found = "SELECT string_agg(tableoid::regclass || ' ' || seq, ', ' ORDER BY seq) FROM slices";
    assert_eq!(scene.says(found).await, "slices_2026_01 1, slices_2026_02 2");
}
