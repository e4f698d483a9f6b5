//! Watermarks, what they prove, and the schemas of all events.

use std::os::unix::fs::PermissionsExt;

use dormouse_ledger::{
    LifecycleEvent, OutboxRow, Record, SinkNames, SinkProgress, Verification, VerifyReport, WATERMARK_EVENT,
    Watermark,
};
use dormouse_metering::{Cause, CommandId};
use serde_json::{Value, json};

use crate::support::{BEGAN, Life, Place, SECOND, facts, stamp, written};

const HOUR: i64 = 3_600 * SECOND;

fn watermark(hours: i64) -> Record {
    let hour_unix_ns = BEGAN + hours * HOUR;
    Record::Watermark(Watermark { hour_unix_ns, at_unix_ns: hour_unix_ns + 31 * SECOND })
}

/// Two hours of a life, each with its watermark, and a lifecycle event.
fn two_hours() -> (Place, Life, Vec<OutboxRow>) {
    let (place, mut life) = written();
    let ledger = place.open();
    facts(&ledger, vec![watermark(1)]).unwrap();
    let event = LifecycleEvent {
        key: life.key.clone(),
        kind: "scale".to_owned(),
        command: Some(CommandId::new("req-1")),
        detail: json!({"outcome": {"result": "done"}}),
        at: stamp(30),
    };
    let slice = life.cut(20, Cause::Tick, None);
    facts(&ledger, vec![Record::Lifecycle(event), life.record(vec![slice]), watermark(2)]).unwrap();
    drop(ledger);
    let events = place.reader().outbox(0, 100).unwrap();
    (place, life, events)
}

fn verify<'a>(lines: impl IntoIterator<Item = &'a [u8]>, key: Option<&str>) -> VerifyReport {
    let mut verification = Verification::new(key.map(str::to_owned));
    lines.into_iter().for_each(|line| verification.line(line));
    verification.report()
}

fn codes(report: &VerifyReport) -> Vec<(&'static str, u64)> {
    report.anomalies.iter().map(|anomaly| (anomaly.code, anomaly.line)).collect()
}

fn payloads(events: &[OutboxRow]) -> Vec<Vec<u8>> {
    events.iter().map(|event| event.payload.clone()).collect()
}

fn lines(payloads: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    payloads.iter().map(Vec::as_slice)
}

#[test]
fn a_watermark_is_told_once_and_signs_for_everything_before_it() {
    let (place, _, events) = two_hours();
    let told: Vec<_> = events.iter().filter(|event| event.event_type == WATERMARK_EVENT).collect();
    assert_eq!(told.iter().map(|event| event.host_seq).collect::<Vec<_>>(), [4, 7]);
    assert_eq!((&told[0].org, &told[0].sandbox), (&None, &None));
    let ledger = place.open();
    facts(&ledger, vec![watermark(2), watermark(1)]).unwrap();
    assert_eq!(place.reader().outbox(0, 100).unwrap().len(), 7, "neither is later than the last");
    assert!(place.reader().audit().unwrap().is_clean());
    let report = verify(lines(&payloads(&events)), None);
    assert_eq!((report.events, report.watermarks, report.signed_through_seq), (7, 2, Some(6)));
    assert!(report.anomalies.is_empty(), "{report:?}");
}

#[test]
fn what_is_changed_dropped_or_signed_by_another_is_an_anomaly() {
    let (_, _, events) = two_hours();
    let whole = payloads(&events);
    let text = |at: usize| String::from_utf8(whole[at].clone()).unwrap();
    let with = |at: usize, text: String| {
        let mut changed = whole.clone();
        changed[at] = text.into_bytes();
        codes(&verify(lines(&changed), None))
    };
    assert_eq!(with(1, text(1).replace("2000", "2001")), [("VERIFY_DATA", 2), ("VERIFY_CHAIN", 3)]);
    assert_eq!(with(1, text(1).replace("host-1", "host-2")), [("VERIFY_SOURCE", 2), ("VERIFY_CHAIN", 3)]);
    assert_eq!(with(1, "{}".to_owned()), [("VERIFY_EVENT", 2), ("VERIFY_GAP", 3)]);
    let mut dropped = whole.clone();
    dropped.remove(2);
    assert_eq!(codes(&verify(lines(&dropped), None)), [("VERIFY_GAP", 3)]);
    // Who rewrites the whole chain behind a change still lacks the key.
    let mut data: Value = serde_json::from_str::<Value>(&text(6)).unwrap()["data"].clone();
    let (old, host_seq) = (data.to_string(), data["host_seq"].as_u64().unwrap());
    data["hour_unix_ns"] = json!(data["hour_unix_ns"].as_i64().unwrap() + HOUR);
    assert_eq!(host_seq, 6);
    let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
    let written = serde_json::from_slice::<Box<serde_json::value::RawValue>>(&whole[6]).unwrap();
    let hour = |data: &str| data.replace(&(BEGAN + 2 * HOUR).to_string(), &(BEGAN + 3 * HOUR).to_string());
    let at = written.get().find("\"data\":").unwrap() + "\"data\":".len();
    let old_data = &written.get()[at..written.get().len() - 1];
    assert_ne!(old, hour(old_data));
    let forged = text(6).replace(old_data, &hour(old_data)).replace(&hash(old_data), &hash(&hour(old_data)));
    assert_eq!(with(6, forged), [("VERIFY_SIGNATURE", 7)]);
    let other_key = "00".repeat(32);
    let by_another = codes(&verify(lines(&whole), Some(&other_key)));
    assert_eq!(by_another, [("VERIFY_SIGNATURE", 4), ("VERIFY_SIGNATURE", 7)]);
    let part = codes(&verify(lines(&whole[3..]), None));
    assert!(part.is_empty(), "a record may begin anywhere: {part:?}");
}

#[test]
fn the_host_key_is_made_once_and_readable_by_the_agent_alone() {
    let (place, _, events) = two_hours();
    let path = place.folder.path().join("host.key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let keys = verify(lines(&payloads(&events)), None).keys;
    assert_eq!(keys.len(), 1, "the ledger was opened twice");
    std::fs::write(&path, b"short").unwrap();
    let error = dormouse_ledger::Ledger::open(&place.path(), &crate::support::host()).err().unwrap();
    assert!(error.to_string().contains("host.key holds no key"), "{error}");
}

#[test]
fn every_event_is_as_its_schema_says() {
    let (place, _, mut events) = two_hours();
    let ledger = place.open();
    let names = SinkNames { names: vec!["nats".to_owned()], at_unix_ns: BEGAN };
    let progress =
        SinkProgress { sink: "nats".to_owned(), acknowledged_seq: 3, at_unix_ns: BEGAN, error: None };
    let gone = vec![
        Record::Sinks(names),
        Record::SinkProgress(progress),
        Record::Retain { before_unix_ns: i64::MAX, at_unix_ns: BEGAN },
        Record::TellRetention { at_unix_ns: BEGAN },
    ];
    facts(&ledger, gone).unwrap();
    events.extend(place.reader().outbox(7, 1).unwrap());
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/schemas");
    let mut seen = std::collections::BTreeSet::new();
    for event in events {
        let name = event.event_type.strip_prefix("dev.dormouse.").unwrap().to_owned();
        let schema: Value =
            serde_json::from_slice(&std::fs::read(format!("{folder}/{name}.json")).unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let event: Value = serde_json::from_slice(&event.payload).unwrap();
        let errors: Vec<String> = validator.iter_errors(&event).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {event}");
        let mut more = event.clone();
        more["data"]["surprise"] = json!(1);
        assert!(!validator.is_valid(&more), "{name} lets anything in");
        seen.insert(name);
    }
    assert_eq!(seen.len(), std::fs::read_dir(folder).unwrap().count(), "{seen:?}");
}
