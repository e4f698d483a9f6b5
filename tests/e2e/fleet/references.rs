//! What slices refer to may vanish at any moment, and takes no bill with it.

use std::time::Duration;

use dormouse_ledger::fleet::Batch;
use dormouse_tests::events::{Host, Life, SECOND_NS};
use dormouse_tests::wait;

use crate::scene::{Scene, store, stored};

/// How often it is tried.
const TIMES: usize = 1_000;

/// A row that is gone by the time the slices come to refer to it.
const BLOCKED: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND state = 'active'";

#[tokio::test]
async fn a_key_that_vanishes_is_forgotten_and_its_slices_and_all_others_are_stored() {
    let scene = Scene::new().await;
    let (mut ledger, mut client) = (scene.ledger().await, scene.client().await);
    client.batch_execute("INSERT INTO api_keys VALUES ('stays', 'org'), ('goes', 'org')").await.unwrap();
    let (mut host, mut life) = (Host::new("h1"), Life::new("org", "sb"));
    let messages = [
        host.slice_of_key(&life.lasts(SECOND_NS), "stays"),
        host.slice_of_key(&life.lasts(SECOND_NS), "goes"),
        host.slice_of_key(&life.lasts(SECOND_NS), "never was"),
        host.slice(&life.lasts(SECOND_NS)),
    ];
    let deletion = client.transaction().await.unwrap();
    deletion.execute("DELETE FROM api_keys WHERE id = 'goes'", &[]).await.unwrap();
    let storing = tokio::spawn(async move { store(&mut ledger, &messages).await });
    until_somebody_waits(&scene).await;
    deletion.commit().await.unwrap();
    assert_eq!(storing.await.unwrap(), stored(4, 4, 0, 0));
    let found = "SELECT string_agg(seq || ' ' || coalesce(api_key_id, '-') || ' ' || (host_id IS NOT NULL), ', ' \
                 ORDER BY seq) FROM slices";
    assert_eq!(scene.says(found).await, "1 stays true, 2 - true, 3 - true, 4 - true");
}

#[tokio::test]
async fn a_host_and_a_key_that_vanish_together_are_both_forgotten() {
    let scene = Scene::new().await;
    let (mut ledger, mut client) = (scene.ledger().await, scene.client().await);
    client.batch_execute("INSERT INTO api_keys VALUES ('goes', 'org')").await.unwrap();
    let (mut host, mut other) = (Host::new("h1"), Host::new("h2"));
    let (mut life, mut elsewhere) = (Life::new("org", "sb"), Life::new("org", "sb"));
    store(&mut ledger, &[host.slice(&life.lasts(SECOND_NS)), other.slice(&elsewhere.lasts(SECOND_NS))]).await;
    let messages =
        [host.slice_of_key(&life.lasts(SECOND_NS), "goes"), other.slice(&elsewhere.lasts(SECOND_NS))];
    let deletion = client.transaction().await.unwrap();
    deletion.batch_execute("DELETE FROM api_keys; DELETE FROM hosts WHERE source LIKE '%/h1'").await.unwrap();
    let storing = tokio::spawn(async move {
        let stored = store(&mut ledger, &messages).await;
        (ledger, stored)
    });
    until_somebody_waits(&scene).await;
    deletion.commit().await.unwrap();
    let (mut ledger, ingested) = storing.await.unwrap();
    assert_eq!(ingested, stored(2, 2, 0, 0));
    let found = "SELECT string_agg(coalesce(host_id::text, '-'), ' ' ORDER BY sandbox_id, seq) FROM slices";
    assert_eq!(scene.says(found).await, "- - 2 2", "what was stored before has forgotten it too");
    let next = host.slice(&life.lasts(SECOND_NS));
    assert_eq!(store(&mut ledger, &[next]).await, stored(1, 1, 0, 0), "a host that is gone may still send");
    assert_eq!(scene.says("SELECT count(*) FROM hosts").await, "1", "and does not come back by itself");
}

#[tokio::test]
async fn a_reference_that_is_not_known_here_goes_up_unchanged() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let client = scene.client().await;
    let constraint = "CREATE TABLE orgs (org text PRIMARY KEY); \
                      ALTER TABLE slices ADD CONSTRAINT slices_org_fkey FOREIGN KEY (org) REFERENCES orgs";
    client.batch_execute(constraint).await.unwrap();
    let messages = [Host::new("h1").slice(&Life::new("org", "sb").lasts(SECOND_NS))];
    let error = ledger.ingest(&Batch::decode(&messages)).await.unwrap_err();
    assert_eq!(error.reason(), "FLEET_DATABASE");
    assert!(error.to_string().contains("[23503] (constraint slices_org_fkey)"), "{error}");
    assert_eq!(scene.says("SELECT count(*) FROM slices").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_times_a_key_and_a_host_vanish_meanwhile_and_no_slice_and_no_debit_is_lost() {
    const SLICES: i64 = 3;
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let client = scene.client().await;
    let account = "INSERT INTO credit_accounts (org, balance, per_memory_byte_ns) VALUES ('org', 0, 1)";
    client.batch_execute(account).await.unwrap();
    let mut stored_slices = 0;
    for time in 0..TIMES {
        let (mut host, key) = (Host::new(&format!("h{time}")), format!("key-{time}"));
        let mut life = Life::new("org", "sb");
        client.execute("INSERT INTO api_keys VALUES ($1, 'org')", &[&key]).await.unwrap();
        // So that the host is there to vanish.
        stored_slices += store(&mut ledger, &[host.slice(&life.lasts(SECOND_NS))]).await.slices;
        let messages: Vec<_> = (1..SLICES).map(|_| host.slice_of_key(&life.lasts(SECOND_NS), &key)).collect();
        let storing = async { store(&mut ledger, &messages).await.slices };
        let deleting = async {
            // A little later each time, so that all moments have their turn.
            tokio::time::sleep(Duration::from_micros((time % 50) as u64 * 100)).await;
            client.execute("DELETE FROM api_keys WHERE id = $1", &[&key]).await.unwrap();
            client.execute("DELETE FROM hosts WHERE source = $1", &[&host.source()]).await.unwrap();
        };
        stored_slices += tokio::join!(storing, deleting).0;
    }
    assert_eq!(stored_slices, TIMES as u64 * SLICES.unsigned_abs());
    assert_eq!(scene.says("SELECT count(*) FROM slices").await, stored_slices.to_string());
    let dangling = "SELECT count(*) FROM slices WHERE api_key_id IS NOT NULL OR host_id IS NOT NULL";
    assert_eq!(scene.says(dangling).await, "0", "all are gone in the end");
    let debited =
        "SELECT (balance + (SELECT sum(memory_byte_ns) FROM slice_quantities))::text FROM credit_accounts";
    assert_eq!(scene.says(debited).await, "0", "debited is what is stored");
}

async fn until_somebody_waits(scene: &Scene) {
    wait::until("the ledger to wait for the deletion", Duration::from_secs(20), async || {
        let waiting = scene.says(BLOCKED).await;
        wait::unless(waiting != "0", || format!("{waiting} wait"))
    })
    .await
    .unwrap();
}
