//! Every event carries the hash of the one before it, and who carries another is named.

use dormouse_tests::events::{BEGAN_NS, HOUR_NS, Host, Life, SECOND_NS};

use crate::scene::{Scene, store};

const EVENTS: usize = 12;

/// What a host tells of an hour, in order.
fn told(name: &str) -> Vec<Vec<u8>> {
    let (mut host, mut life) = (Host::new(name), Life::new("org", "sb"));
    let mut told: Vec<_> = (1..EVENTS).map(|_| host.slice(&life.lasts(SECOND_NS))).collect();
    told.push(host.watermark(BEGAN_NS + HOUR_NS));
    told
}

/// The same numbers in some order: forwards, backwards, and by steps that meet every one once.
fn orders() -> [Vec<usize>; 4] {
    let by = |step: usize| (0..EVENTS).map(|at| at * step % EVENTS).collect();
    [by(1), (0..EVENTS).rev().collect(), by(5), by(7)]
}

#[tokio::test]
async fn a_chain_that_holds_is_clean_in_whatever_order_it_comes_and_leaves_one_end() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    for (number, order) in orders().iter().enumerate() {
        let told = told(&format!("h{number}"));
        for places in order.chunks(1 + number) {
            let batch: Vec<_> = places.iter().map(|place| told[*place].clone()).collect();
            store(&mut ledger, &batch).await;
            // What is told again is no link.
            store(&mut ledger, &batch).await;
        }
    }
    let check = ledger.check(BEGAN_NS + HOUR_NS).await.unwrap();
    assert!(check.is_clean(), "{check:?}");
    let ends = "SELECT string_agg(format('%s %s', host_seq, is_first), ', ') FROM chain_ends";
    assert_eq!(scene.says(ends).await, ["12 f"; 4].join(", "));
}

#[tokio::test]
async fn an_event_that_carries_another_hash_is_named_wherever_it_is_and_in_whatever_order_it_comes() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let mut expected = Vec::new();
    for (number, order) in orders().iter().enumerate() {
        // Not of the watermark: that is not believed then.
        for forged in 0..EVENTS - 1 {
            let name = format!("h-{number}-{forged:02}");
            let mut told = told(&name);
            let text = String::from_utf8(told[forged].clone()).unwrap();
            let (before, rest) = text.split_once("\"prevhash\":\"").unwrap();
            told[forged] = format!("{before}\"prevhash\":\"{}{}", "ab".repeat(32), &rest[64..]).into_bytes();
            for places in order.chunks(1 + number * 2) {
                let batch: Vec<_> = places.iter().map(|place| told[*place].clone()).collect();
                store(&mut ledger, &batch).await;
            }
            // The one behind it carries the hash of what its host has told.
            let seq = i64::try_from(forged).unwrap() + 1;
            expected.extend([seq, seq + 1].map(|seq| (format!("//dormouse/cell/{name}"), seq)));
        }
    }
    let check = ledger.check(BEGAN_NS + HOUR_NS).await.unwrap();
    let broken: Vec<_> = check.broken.iter().map(|link| (link.source.clone(), link.host_seq)).collect();
    assert_eq!(broken, expected);
    assert!(!check.is_clean() && check.missing.is_empty() && check.quarantined.is_empty(), "{check:?}");
}
