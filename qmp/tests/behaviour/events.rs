//! Events: as sent, and as the schema of the qapi crates has them.

use dormouse_qmp::message::Message;
use dormouse_qmp::{Decoded, Event, qapi_qmp};
use serde_json::{Value, json};

fn event(line: &Value) -> Event {
    let Ok(Some(Message::Event(event))) = Message::parse(line.to_string().as_bytes()) else {
        panic!("{line}")
    };
    event
}

fn stamped(timestamp: &Value) -> Option<i64> {
    event(&json!({ "event": "STOP", "timestamp": timestamp })).timestamp_unix_ns
}

#[test]
fn a_timestamp_is_nanoseconds_since_the_unix_epoch() {
    let stamp = stamped(&json!({ "seconds": 1_795_223_921, "microseconds": 393_096 }));
    assert_eq!(stamp, Some(1_795_223_921_393_096_000));
}

#[test]
fn a_timestamp_of_minus_one_is_none_and_the_event_is_decoded_all_the_same() {
    assert_eq!(stamped(&json!({ "seconds": -1, "microseconds": -1 })), None);
    assert_eq!(stamped(&json!({ "seconds": 7, "microseconds": -1 })), None);
    let stop = event(&json!({ "event": "STOP", "timestamp": { "seconds": -1, "microseconds": -1 } }));
    let Decoded::Known(stop) = stop.decode() else { panic!() };
    assert!(matches!(*stop, qapi_qmp::Event::STOP { .. }));
}

#[test]
fn a_timestamp_that_is_no_time_is_none() {
    for timestamp in [
        json!(null),
        json!(7),
        json!({ "seconds": "1", "microseconds": 0 }),
        json!({ "seconds": 1 }),
        json!({ "seconds": 1, "microseconds": 1_000_000 }),
        json!({ "seconds": u64::MAX, "microseconds": 0 }),
        json!({ "seconds": i64::MAX, "microseconds": 0 }),
    ] {
        assert_eq!(stamped(&timestamp), None, "{timestamp}");
    }
}

#[test]
fn a_known_event_has_its_data_typed() {
    let data = json!({ "size": 1 << 30, "qom-path": "/machine/peripheral/vm0", "id": "vm0" });
    let size_change = event(&json!({ "event": "MEMORY_DEVICE_SIZE_CHANGE", "data": data }));
    let decoded = size_change.decode();
    assert!(!decoded.asks_for_resync());
    let Decoded::Known(known) = decoded else { panic!() };
    let qapi_qmp::Event::MEMORY_DEVICE_SIZE_CHANGE { data, .. } = *known else { panic!() };
    assert_eq!((data.id.as_deref(), data.size), (Some("vm0"), 1 << 30));
}

#[test]
fn an_unknown_event_is_handed_on_raw_and_asks_for_a_resync() {
    let unknown = event(&json!({ "event": "FROM_QEMU_11", "data": { "new": [1, 2] } }));
    assert_eq!((unknown.name.as_str(), &unknown.data), ("FROM_QEMU_11", &json!({ "new": [1, 2] })));
    assert!(matches!(unknown.decode(), Decoded::Unknown));
    assert!(unknown.decode().asks_for_resync());
}

#[test]
fn a_known_event_with_an_unknown_value_is_handed_on_raw_and_asks_for_a_resync() {
    for data in [json!({ "guest": false, "reason": "solar-flare" }), json!({ "guest": 7 }), Value::Null] {
        let shutdown = event(&json!({ "event": "SHUTDOWN", "data": data }));
        assert_eq!(shutdown.data, data);
        let decoded = shutdown.decode();
        assert!(matches!(decoded, Decoded::Undecodable { .. }), "{decoded:?}");
        assert!(decoded.asks_for_resync());
    }
}

#[test]
fn a_known_event_with_a_member_more_is_known() {
    let shutdown = json!({ "guest": false, "reason": "host-qmp-quit", "from-qemu-11": true });
    let decoded = event(&json!({ "event": "SHUTDOWN", "data": shutdown })).decode();
    assert!(matches!(decoded, Decoded::Known(_)), "{decoded:?}");
}
