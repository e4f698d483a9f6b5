//! An hour is complete when every event of it is there, and not before.

use dormouse_ledger::fleet::{Completeness, Missing, Silent};
use dormouse_tests::events::{BEGAN_NS, HOUR_NS, Host, Life, SECOND_NS};

use crate::scene::{Scene, store};

const HOURS: i64 = 3;

/// The events of a host through some hours, each with the end of the hour that it belongs to. A watermark is of the
/// hour that it closes.
fn hours(host: &mut Host) -> Vec<(i64, Vec<u8>)> {
    let mut life = Life::new("org", "sb");
    let mut told = Vec::new();
    for hour in 1..=HOURS {
        let end_ns = BEGAN_NS + hour * HOUR_NS;
        for _ in 0..3 {
            told.push((end_ns, host.slice(&life.lasts(HOUR_NS / 3))));
        }
        told.push((end_ns, host.watermark(end_ns)));
    }
    told
}

/// The end of the last hour that is complete by the look of it, of one host.
async fn complete_through(scene: &Scene) -> i64 {
    let mut ledger = scene.ledger().await;
    for hour in (1..=HOURS).rev() {
        let through_ns = BEGAN_NS + hour * HOUR_NS;
        if ledger.check(through_ns).await.unwrap().silent.is_empty() {
            return through_ns;
        }
    }
    BEGAN_NS
}

#[tokio::test]
async fn hours_are_complete_once_all_is_there() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    for host in ["h1", "h2"] {
        let mut told: Vec<_> = hours(&mut Host::new(host)).into_iter().map(|(_, bytes)| bytes).collect();
        // Whatever comes last.
        told.reverse();
        store(&mut ledger, &told).await;
    }
    let check = ledger.check(BEGAN_NS + HOURS * HOUR_NS).await.unwrap();
    assert!(check.is_clean() && check.hosts == 2, "{check:?}");
    let next = ledger.check(BEGAN_NS + (HOURS + 1) * HOUR_NS).await.unwrap();
    assert!(!next.is_clean() && next.silent.len() == 2 && next.missing.is_empty(), "{next:?}");
}

#[tokio::test]
async fn whichever_single_message_is_dropped_its_hour_stays_open_until_it_comes() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    for dropped in 0..hours(&mut Host::new("x")).len() {
        let client = scene.client().await;
        let empty = "TRUNCATE slices, events, watermarks, resend_requests, sandboxes, sources, hosts CASCADE";
        client.batch_execute(empty).await.unwrap();
        drop(std::mem::replace(&mut ledger, scene.ledger().await));
        let mut told = hours(&mut Host::new("h1"));
        let (end_ns, lost) = told.remove(dropped);
        let told: Vec<_> = told.into_iter().map(|(_, bytes)| bytes).collect();
        store(&mut ledger, &told).await;
        let number = i64::try_from(dropped).unwrap() + 1;
        let is_last = dropped == told.len();
        let is_watermark = (dropped + 1) % 4 == 0;
        assert_eq!(complete_through(&scene).await, end_ns - HOUR_NS, "event {number} was dropped");
        let check = ledger.check(BEGAN_NS + HOURS * HOUR_NS).await.unwrap();
        let source = "//dormouse/cell/h1".to_owned();
        if is_last {
            let silent =
                Silent { source, complete_through_unix_ns: Some(end_ns - HOUR_NS), awaited_seq: number };
            assert_eq!((check.silent, check.missing), (vec![silent], vec![]), "the next number is named");
        } else {
            // A lost watermark is missing in the hour behind it: its own is open because nobody has closed it.
            let holds_open_unix_ns = Some(if is_watermark { end_ns + HOUR_NS } else { end_ns });
            let missing = Missing { source, first_seq: number, last_seq: number, holds_open_unix_ns };
            assert_eq!(check.missing, [missing], "event {number} is named");
        }
        store(&mut ledger, &[lost]).await;
        assert_eq!(complete_through(&scene).await, BEGAN_NS + HOURS * HOUR_NS);
        assert!(ledger.check(BEGAN_NS + HOURS * HOUR_NS).await.unwrap().is_clean());
    }
}

#[tokio::test]
async fn what_is_in_quarantine_holds_its_hour_open() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let mut host = Host::new("h1");
    let mut life = Life::new("org", "sb");
    let good = host.slice(&life.lasts(SECOND_NS));
    let altered = String::from_utf8(host.slice(&life.lasts(SECOND_NS))).unwrap().replace("running", "paused");
    let messages = [good, altered.into_bytes(), host.watermark(BEGAN_NS + HOUR_NS)];
    store(&mut ledger, &messages).await;
    let Completeness { missing, silent, quarantined, .. } = ledger.check(BEGAN_NS + HOUR_NS).await.unwrap();
    assert_eq!((missing[0].first_seq, missing[0].last_seq), (2, 2));
    assert_eq!((silent.len(), quarantined[0].reason.as_str(), quarantined[0].messages), (1, "ALTERED", 1));
}

#[tokio::test]
async fn what_is_missing_is_asked_for_once_until_it_is_there() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let told: Vec<_> = hours(&mut Host::new("h1")).into_iter().map(|(_, bytes)| bytes).collect();
    store(&mut ledger, &[&told[..2], &told[4..7], &told[8..]].concat()).await;
    assert_eq!(ledger.request_missing().await.unwrap(), 2);
    assert_eq!(ledger.request_missing().await.unwrap(), 0, "asked for already");
    let open: Vec<_> =
        ledger.open_requests().await.unwrap().iter().map(|it| (it.first_seq, it.last_seq)).collect();
    assert_eq!(open, [(3, 4), (8, 8)]);
    store(&mut ledger, &told[2..3]).await;
    let open: Vec<_> =
        ledger.open_requests().await.unwrap().iter().map(|it| (it.first_seq, it.last_seq)).collect();
    assert_eq!(open, [(4, 4), (8, 8)], "what came is not asked for any more");
    store(&mut ledger, &told[3..4]).await;
    assert_eq!(ledger.open_requests().await.unwrap()[0].first_seq, 8);
    store(&mut ledger, &told).await;
    assert!(ledger.open_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_host_that_was_removed_is_not_waited_for_but_what_it_left_out_is_named() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let told: Vec<_> = hours(&mut Host::new("h1")).into_iter().map(|(_, bytes)| bytes).collect();
    store(&mut ledger, &told[1..]).await;
    scene.client().await.batch_execute("DELETE FROM hosts").await.unwrap();
    let check = ledger.check(BEGAN_NS + HOURS * HOUR_NS).await.unwrap();
    assert_eq!((check.silent.len(), check.missing.len()), (0, 1));
}
