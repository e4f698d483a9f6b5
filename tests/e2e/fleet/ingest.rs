//! Each event is stored once, whatever is sent how often, by how many, and in which order.

use std::time::Duration;

use dormouse_ledger::fleet::Batch;
use dormouse_tests::events::{BEGAN_NS, HOUR_NS, Host, Life, SECOND_NS};
use dormouse_tests::wait;

use crate::scene::{Scene, store, stored};

const DEADLINE: Duration = Duration::from_mins(1);

/// What `hosts` hosts tell of `lives` sandboxes each, `slices` slices each, with an hour that is complete.
fn told(hosts: usize, lives: usize, slices: usize) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for host in 0..hosts {
        let mut host = Host::new(&format!("h{host}"));
        let mut lives: Vec<Life> = (0..lives).map(|life| Life::new("org", &format!("sb{life}"))).collect();
        for life in &mut lives {
            messages.push(host.lifecycle("org", "sb", "attached"));
            messages.extend((0..slices).map(|_| host.slice(&life.lasts(SECOND_NS))));
        }
        messages.push(host.watermark(BEGAN_NS + HOUR_NS));
    }
    messages
}

#[tokio::test]
async fn what_is_sent_again_is_stored_once() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let messages = told(2, 3, 10);
    assert_eq!(messages.len(), 68);
    assert_eq!(store(&mut ledger, &messages).await, stored(68, 60, 0, 0));
    let before = scene.everything().await;
    assert_eq!(store(&mut ledger, &messages).await, stored(0, 0, 68, 0));
    // In other batches, in another order, each twice, and by somebody who knows nothing yet.
    let mut ledger = scene.ledger().await;
    let mut again: Vec<_> = messages.iter().chain(&messages).cloned().collect();
    again.reverse();
    let mut repeated = 0;
    for batch in again.chunks(50) {
        repeated += store(&mut ledger, batch).await.repeated;
    }
    assert_eq!(repeated, 136);
    assert_eq!(scene.everything().await, before);
    assert_eq!(scene.says("SELECT count(*) FROM quarantine").await, "0");
}

#[tokio::test]
async fn a_batch_of_old_and_new_stores_the_new() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let messages = told(1, 2, 20);
    store(&mut ledger, &messages[..25]).await;
    assert_eq!(store(&mut ledger, &messages[10..]).await, stored(18, 18 - 1, 15, 0));
    assert_eq!(scene.says("SELECT received::text FROM sources").await, "{[1,44)}");
}

#[tokio::test]
async fn a_batch_that_fails_leaves_nothing_behind() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let messages = told(1, 1, 5);
    store(&mut ledger, &messages[..2]).await;
    let before = scene.everything().await;
    let client = scene.client().await;
    let constraint = "ALTER TABLE slices ADD CONSTRAINT no_fifth CHECK (seq < 5)";
    client.batch_execute(constraint).await.unwrap();
    let error = ledger.ingest(&Batch::decode(&messages)).await.unwrap_err();
    assert!(error.to_string().contains("(constraint no_fifth)"), "it goes up unchanged: {error}");
    assert_eq!(scene.everything().await, before);
    client.batch_execute("ALTER TABLE slices DROP CONSTRAINT no_fifth").await.unwrap();
    assert_eq!(store(&mut ledger, &messages).await, stored(5, 4, 2, 0), "and it may be given again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_at_once_store_each_event_once_and_none_waits_for_ever() {
    const INSTANCES: usize = 4;
    let scene = Scene::new().await;
    let messages = told(5, 4, 60);
    let instances = (0..INSTANCES).map(|instance| {
        let mut own = messages.clone();
        // Each has all of it, in an order of its own, as if everything were delivered to everyone.
        let length = own.len();
        own.rotate_left(instance * length / INSTANCES);
        if instance % 2 == 1 {
            own.reverse();
        }
        own
    });
    let mut tasks = Vec::new();
    for own in instances {
        let mut ledger = scene.ledger().await;
        tasks.push(tokio::spawn(async move {
            let mut stored_slices = 0;
            for batch in own.chunks(37) {
                stored_slices += store(&mut ledger, batch).await.slices;
            }
            stored_slices
        }));
    }
    let mut slices = 0;
    for task in tasks {
        slices += task.await.unwrap();
    }
    assert_eq!(slices, 5 * 4 * 60);
    assert_eq!(scene.says("SELECT count(*) FROM slices").await, "1200");
    assert_eq!(scene.says("SELECT count(*) FROM events").await, messages.len().to_string());
    assert_eq!(scene.says("SELECT count(*) FROM quarantine").await, "0");
    let whole = format!("SELECT bool_and(received = '{{[1,{}]}}'::int8multirange)::text FROM sources", 245);
    assert_eq!(scene.says(&whole).await, "true");
    let rolled_up =
        "SELECT (SELECT sum(duration_ns) FROM usage_hours) = (SELECT sum(duration_ns) FROM slices)";
    assert_eq!(scene.says(rolled_up).await, "t");
    let chain =
        "SELECT format('%s %s', (SELECT count(*) FROM broken_links), (SELECT count(*) FROM chain_ends))";
    assert_eq!(scene.says(chain).await, "0 5", "every link holds, and the five chains end once each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_are_stored_side_by_side_and_only_what_adds_up_waits() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let messages = told(1, 1, 20);
    store(&mut ledger, &messages[..10]).await;
    let mut other = scene.client().await;
    // Somebody who adds up, and takes his time.
    let tx = other.transaction().await.unwrap();
    tx.execute("SELECT FROM sources FOR UPDATE", &[]).await.unwrap();
    let rest = messages[10..].to_vec();
    let storing = tokio::spawn(async move { store(&mut ledger, &rest).await });
    wait::until("the slices to be stored but for what adds up", DEADLINE, async || {
        let waits = "SELECT string_agg(query, ';') FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let waits = scene.says(waits).await;
        wait::unless(waits.starts_with("SELECT FROM sources"), || waits.clone())
    })
    .await
    .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(storing.await.unwrap(), stored(12, 11, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_another_stores_meanwhile_under_another_event_is_kept_apart() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let messages = told(1, 1, 3);
    store(&mut ledger, &messages[..2]).await;
    let mut other = scene.client().await;
    let tx = other.transaction().await.unwrap();
    tx.execute("SELECT FROM sources FOR UPDATE", &[]).await.unwrap();
    let rest = messages[2..].to_vec();
    let storing = tokio::spawn(async move { store(&mut ledger, &rest).await });
    wait::until("the slices to be stored but for what adds up", DEADLINE, async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let waits = scene.says(waits).await;
        wait::unless(waits == "1", || waits.clone())
    })
    .await
    .unwrap();
    tx.execute("UPDATE sources SET received = received + '{[4,4]}'", &[]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(storing.await.unwrap(), stored(2, 1, 0, 1));
    assert_eq!(scene.says("SELECT string_agg(reason, ' ') FROM quarantine").await, "NUMBER_REUSED");
}

#[tokio::test]
async fn what_is_stored_is_never_changed_or_deleted() {
    let scene = Scene::new().await;
    store(&mut scene.ledger().await, &told(1, 1, 2)).await;
    let client = scene.client().await;
    for change in [
        "UPDATE slices SET duration_ns = 0",
        "UPDATE slices SET memory_plugged_bytes = 1, host_id = NULL",
        "DELETE FROM slices",
        "UPDATE events SET host_seq = 9",
        "DELETE FROM events",
        "DELETE FROM lifecycle",
        "DELETE FROM watermarks",
    ] {
        let error = client.batch_execute(change).await.unwrap_err();
        let said = error.as_db_error().unwrap().message();
        assert!(said.contains("dormouse: "), "{change}: {said}");
    }
    client.batch_execute("UPDATE slices SET host_id = NULL").await.unwrap();
}
