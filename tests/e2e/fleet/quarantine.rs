//! What cannot be stored without a lie goes to the quarantine, and changes nothing.

use dormouse_ledger::SliceRow;
use dormouse_ledger::fleet::{Event, WhyNot};
use dormouse_tests::events::{BEGAN_NS, Host, Life, SECOND_NS};
use serde_json::json;

use crate::scene::{Scene, store, stored};

const REASONS: &str = "SELECT string_agg(reason || ' ' || times, ', ' ORDER BY reason) FROM quarantine";

#[tokio::test]
async fn m6_the_same_id_with_other_bytes_goes_to_quarantine_and_changes_nothing() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let (mut host, row) = (Host::new("h1"), Life::new("org", "sb").lasts(SECOND_NS));
    let first = host.slice(&row);
    assert_eq!(store(&mut ledger, std::slice::from_ref(&first)).await, stored(1, 1, 0, 0));
    let before = scene.everything().await;
    let dearer = SliceRow { memory_plugged_bytes: 1 << 40, ..row.clone() };
    // Under the number that it had, and under the next one; and within one batch.
    for mut host in [Host::new("h1"), host.clone()] {
        let other = host.slice(&dearer);
        assert_eq!(store(&mut ledger, &[other]).await, stored(0, 0, 0, 1));
        assert_eq!(scene.everything().await, before);
    }
    let mut later = Life::beginning("org", "sb2", BEGAN_NS);
    let row = later.lasts(SECOND_NS);
    let (one, other) = (host.slice(&row), host.slice(&SliceRow { disk_bytes: 7, ..row }));
    assert_eq!(store(&mut ledger, &[one, other]).await, stored(1, 1, 0, 1));
    assert_eq!(scene.says(REASONS).await, "OTHER_PAYLOAD 1, OTHER_PAYLOAD 1, OTHER_PAYLOAD 1");
    assert_eq!(
        scene.says("SELECT disk_bytes FROM slices WHERE sandbox_id = 2").await,
        (10_u64 << 30).to_string()
    );
}

#[tokio::test]
async fn another_event_under_a_number_that_is_taken_goes_to_quarantine() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let first = Host::new("h1").slice(&Life::new("org", "sb").lasts(SECOND_NS));
    store(&mut ledger, &[first]).await;
    // A host that lost its ledger, and counts from 1 again.
    let mut anew = Host::new("h1");
    let mut life = Life::new("org", "other");
    let messages = [anew.slice(&life.lasts(SECOND_NS)), anew.slice(&life.lasts(SECOND_NS))];
    assert_eq!(store(&mut ledger, &messages).await, stored(1, 1, 0, 1));
    assert_eq!(scene.says(REASONS).await, "NUMBER_REUSED 1");
}

#[tokio::test]
async fn a_slice_that_overlaps_another_of_its_sandbox_goes_to_quarantine() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let mut host = Host::new("h1");
    let row = |seq: u64, from_s: i64, to_s: i64| SliceRow {
        seq,
        start_unix_ns: BEGAN_NS + from_s * SECOND_NS,
        end_unix_ns: Some(BEGAN_NS + to_s * SECOND_NS),
        duration_ns: ((to_s - from_s) * SECOND_NS).unsigned_abs(),
        ..Life::new("org", "sb").lasts(SECOND_NS)
    };
    let first = [host.slice(&row(1, 0, 10)), host.slice(&row(2, 20, 30))];
    assert_eq!(store(&mut ledger, &first).await, stored(2, 2, 0, 0));
    // Touching is not overlapping; of the last two the one that came first is kept.
    let next = [
        host.slice(&row(3, 10, 20)),
        host.slice(&row(4, 29, 31)),
        host.slice(&row(5, 40, 50)),
        host.slice(&row(6, 49, 51)),
        host.slice(&row(7, 50, 52)),
    ];
    assert_eq!(store(&mut ledger, &next).await, stored(3, 3, 0, 2));
    assert_eq!(scene.says("SELECT string_agg(seq::text, ' ' ORDER BY seq) FROM slices").await, "1 2 3 5 7");
    assert_eq!(scene.says(REASONS).await, "OVERLAP 1, OVERLAP 1");
    // Another org's sandbox of that name, the same on another host, and one that stands at a wall time.
    let other_org = SliceRow { org: "other".to_owned(), seq: 8, ..row(1, 0, 10) };
    let standing = SliceRow { end_unix_ns: Some(BEGAN_NS + 5 * SECOND_NS), ..row(9, 5, 6) };
    let messages = [host.slice(&other_org), Host::new("h2").slice(&row(1, 5, 15)), host.slice(&standing)];
    assert_eq!(store(&mut ledger, &messages).await, stored(3, 3, 0, 0));
}

#[tokio::test]
async fn what_is_no_event_goes_to_quarantine_once_and_the_rest_is_stored() {
    let scene = Scene::new().await;
    let mut ledger = scene.ledger().await;
    let mut host = Host::new("h1");
    let good = host.slice(&Life::new("org", "sb").lasts(SECOND_NS));
    let text = String::from_utf8(good.clone()).unwrap();
    let altered = text.replace("1073741824", "1073741825").into_bytes();
    let unknown = host.event("x", "dev.dormouse.slice.v9", &json!({}), &json!({}));
    let messages = [b"\xff\x00 no JSON".to_vec(), altered, good, unknown, b"{}".to_vec()];
    assert_eq!(store(&mut ledger, &messages).await, stored(1, 1, 0, 4));
    assert_eq!(store(&mut ledger, &messages).await, stored(0, 0, 1, 4));
    assert_eq!(scene.says(REASONS).await, "ALTERED 2, UNDECODABLE 2, UNDECODABLE 2, UNDECODABLE 2");
    let kept = "SELECT encode(payload, 'hex') FROM quarantine ORDER BY id LIMIT 1";
    assert!(!scene.says(kept).await.is_empty());
}

#[test]
fn what_a_slice_cannot_be_is_not_believed() {
    let row = Life::new("org", "sb").lasts(SECOND_NS);
    let endless =
        SliceRow { duration_ns: i64::MAX.unsigned_abs(), end_unix_ns: Some(BEGAN_NS), ..row.clone() };
    let wrong: [(&str, SliceRow); 10] = [
        ("more than can be added up", SliceRow { memory_base_bytes: 1 << 60, ..endless }),
        ("not final", SliceRow { is_final: false, ..row.clone() }),
        ("open", SliceRow { end_unix_ns: None, ..row.clone() }),
        ("backwards", SliceRow { end_unix_ns: Some(0), ..row.clone() }),
        (
            "across an hour",
            SliceRow { end_unix_ns: Some(BEGAN_NS + 3_601 * SECOND_NS), duration_ns: 0, ..row.clone() },
        ),
        ("longer than itself", SliceRow { duration_ns: 5, ..row.clone() }),
        ("in no state", SliceRow { state: "asleep".to_owned(), ..row.clone() }),
        ("too large", SliceRow { disk_bytes: u64::MAX, ..row.clone() }),
        ("without a cause", SliceRow { closed_by: None, ..row.clone() }),
        ("named NUL", SliceRow { reason: Some("\0".to_owned()), ..row.clone() }),
    ];
    for (what, row) in wrong {
        let rejection = Event::decode(&Host::new("h1").slice(&row)).expect_err(what);
        assert_eq!(rejection.why, WhyNot::Undecodable, "{what}");
    }
    assert!(Event::decode(&Host::new("h1").slice(&row)).is_ok());
    let odd = SliceRow { command_id: Some("tab\t, \\N, \\ and\r\n".to_owned()), ..row };
    assert!(Event::decode(&Host::new("h1").slice(&odd)).is_ok());
}

#[tokio::test]
async fn whatever_characters_a_text_has_it_is_stored_as_it_is() {
    let scene = Scene::new().await;
    let odd = "tab\t, \\N, \\ and\r\n ü \u{1} '\"";
    let row = SliceRow { command_id: Some(odd.to_owned()), ..Life::new("o\\N\t", "sb").lasts(SECOND_NS) };
    let message = Host::new("h1").slice(&row);
    assert_eq!(store(&mut scene.ledger().await, &[message]).await, stored(1, 1, 0, 0));
    assert_eq!(scene.says("SELECT command_id FROM slices").await, odd);
    assert_eq!(scene.says("SELECT org FROM slices").await, "o\\N\t");
}
