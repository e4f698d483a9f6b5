//! Prepaid credit goes down by what is stored, and crossing zero is told once.

use std::time::Duration;

use dormouse_ledger::SliceRow;
use dormouse_tests::events::{Host, Life, SECOND_NS};
use tokio_postgres::{AsyncMessage, NoTls};

use crate::scene::{Scene, store, stored};

/// A second of the tests' sandbox costs 2 vCPUs at 1 for each milli-vCPU-nanosecond, and 10 GiB of disk at a price so
/// small that no floating point would hold it beside the rest.
const ACCOUNT: &str = "INSERT INTO credit_accounts (org, balance, per_vcpu_milli_ns, per_disk_byte_ns) \
    VALUES ('prepaid', 6000000000000.00000000002, 1, 0.000000000000000000000000000001)";

async fn balance(scene: &Scene) -> String {
    scene.says("SELECT balance::text FROM credit_accounts").await
}

async fn halts(scene: &Scene) -> String {
    let halts = "SELECT coalesce(string_agg(type || ' ' || org, ', '), '') FROM fleet_outbox";
    scene.says(halts).await
}

#[tokio::test]
async fn the_balance_goes_down_by_what_is_stored_and_crossing_zero_is_told_once() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    scene.client().await.batch_execute(ACCOUNT).await.unwrap();
    let (mut host, mut life, mut other) =
        (Host::new("h1"), Life::new("prepaid", "sb"), Life::new("postpaid", "other"));
    let mut sent = Vec::new();
    for tick in 1..=4_u32 {
        let messages = vec![host.slice(&life.lasts(SECOND_NS)), host.slice(&other.lasts(SECOND_NS))];
        store(&mut ledger, &messages).await;
        sent.extend(messages);
        let exact = format!(
            "SELECT (balance = 6000000000000.00000000002 - {tick} * (2000000000000 + 10737418240::numeric \
             * 1000000000 * 0.000000000000000000000000000001))::text FROM credit_accounts"
        );
        assert_eq!(scene.says(&exact).await, "true", "after tick {tick}");
        // The third second is a hair dearer than what is left.
        assert_eq!(halts(&scene).await.is_empty(), tick < 3, "after tick {tick}");
    }
    assert_eq!(halts(&scene).await, "dev.dormouse.credit.halt.v1 prepaid");
    let before = scene.everything().await;
    store(&mut ledger, &sent).await;
    assert_eq!(scene.everything().await, before, "a replay changes nothing");
}

#[tokio::test]
async fn whoever_pays_again_is_halted_again() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let client = scene.client().await;
    client.batch_execute(ACCOUNT).await.unwrap();
    let (mut host, mut life) = (Host::new("h1"), Life::new("prepaid", "sb"));
    store(&mut ledger, &[host.slice(&life.lasts(10 * SECOND_NS))]).await;
    client.batch_execute("UPDATE credit_accounts SET balance = 1").await.unwrap();
    store(&mut ledger, &[host.slice(&life.lasts(SECOND_NS))]).await;
    assert_eq!(scene.says("SELECT count(*) FROM fleet_outbox").await, "2");
}

#[tokio::test]
async fn what_is_free_by_the_table_of_states_is_free_of_debit_and_what_is_refused_too() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    scene.client().await.batch_execute(ACCOUNT).await.unwrap();
    let before = balance(&scene).await;
    let (mut host, mut life) = (Host::new("h1"), Life::new("prepaid", "sb"));
    let row = SliceRow { state: "lost".to_owned(), ..life.lasts(SECOND_NS) };
    let overlapping = SliceRow { seq: 9, state: "running".to_owned(), ..row.clone() };
    let messages = [host.slice(&row), host.slice(&overlapping)];
    assert_eq!(store(&mut ledger, &messages).await, stored(1, 1, 0, 1));
    assert_eq!(balance(&scene).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_hosts_at_once_debit_one_account_and_halt_it_once() {
    const INSTANCES: usize = 4;
    let scene = Scene::new().await;
    let account = "INSERT INTO credit_accounts (org, balance, per_vcpu_milli_ns) \
                   VALUES ('a', 100000000000000, 1), ('b', 100000000000000, 1)";
    scene.client().await.batch_execute(account).await.unwrap();
    let mut tasks = Vec::new();
    for instance in 0..INSTANCES {
        let mut ledger = scene.ledger().await;
        tasks.push(tokio::spawn(async move {
            let mut host = Host::new(&format!("h{instance}"));
            let mut lives = [Life::new("a", "sa"), Life::new("b", "sb")];
            for _ in 0..50 {
                let mut messages: Vec<_> =
                    lives.iter_mut().map(|life| host.slice(&life.lasts(SECOND_NS))).collect();
                messages.rotate_left(instance % 2);
                store(&mut ledger, &messages).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let balances = "SELECT string_agg(balance::text, ' ') FROM credit_accounts";
    assert_eq!(scene.says(balances).await, "-300000000000000 -300000000000000");
    assert_eq!(scene.says("SELECT count(*) FROM fleet_outbox").await, "2");
}

#[tokio::test]
async fn a_halt_wakes_whoever_listens() {
    let scene = Scene::new().await;
    scene.client().await.batch_execute(ACCOUNT).await.unwrap();
    let url = scene.server.url("postgres");
    let (listener, mut connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let (send, mut woken) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(note) = message {
                let _ = send.send(note.payload().to_owned());
            }
        }
    });
    listener.batch_execute("LISTEN dormouse_fleet").await.unwrap();
    let message = Host::new("h1").slice(&Life::new("prepaid", "sb").lasts(60 * SECOND_NS));
    store(&mut scene.ledger().await, &[message]).await;
    let id = tokio::time::timeout(Duration::from_secs(20), woken.recv()).await.unwrap().unwrap();
    assert_eq!(scene.says("SELECT id::text FROM fleet_outbox").await, id);
}
