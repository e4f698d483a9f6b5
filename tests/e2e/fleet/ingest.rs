//! Each event is stored once, whatever is sent how often, by how many, and in which order.

use dormouse_ledger::fleet::Batch;
use dormouse_tests::events::{BEGAN_NS, HOUR_NS, Host, Life, SECOND_NS};

use crate::scene::{Scene, store, stored};

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
