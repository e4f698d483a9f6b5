//! Where sinks stand is durable, and only what every sink has may go.

use dormouse_ledger::{
    Committed, Ledger, LedgerError, RETENTION_EVENT, Record, SinkNames, SinkProgress, SinkTerms, Verification,
};
use dormouse_metering::Cause;
use serde_json::{Value, json};

use crate::support::{BEGAN, Life, Place, SECOND, facts, key};

/// When events are let go.
const LATER: i64 = 3_600 * SECOND;

fn configured(names: &[&str]) -> Record {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    Record::Sinks(SinkNames { names, at_unix_ns: BEGAN })
}

fn reached(sink: &str, acknowledged_seq: u64, error: Option<&str>) -> Record {
    let error = error.map(str::to_owned);
    Record::SinkProgress(SinkProgress {
        sink: sink.to_owned(),
        acknowledged_seq,
        at_unix_ns: BEGAN + SECOND,
        error,
    })
}

/// A ledger of `slices` events, one second after the other, sent to `sinks`.
fn ledger(place: &Place, slices: usize, sinks: &[&str]) -> (Ledger, Life) {
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    let slices = (0..slices).map(|_| life.cut(1, Cause::Tick, None)).collect();
    facts(&ledger, vec![life.seen(), life.record(slices), configured(sinks)]).unwrap();
    (ledger, life)
}

fn retain(ledger: &Ledger) -> Result<Committed, LedgerError> {
    facts(ledger, vec![Record::Retain { before_unix_ns: i64::MAX, at_unix_ns: BEGAN + LATER }])
}

#[test]
fn where_a_sink_stands_survives_and_lag_age_and_error_are_told() {
    let place = Place::new();
    let (ledger, _) = ledger(&place, 5, &["nats", "redis"]);
    facts(&ledger, vec![reached("nats", 3, Some("refused"))]).unwrap();
    drop(ledger);
    let standing = place.reader().outbox_standing().unwrap();
    assert_eq!((standing.retained_after_seq, standing.last_seq), (0, 5));
    let [nats, redis] = &standing.sinks[..] else { panic!("{standing:?}") };
    assert_eq!((nats.acknowledged_seq, nats.lag_events, nats.since_unix_ns), (3, 2, BEGAN + SECOND));
    assert_eq!((nats.error.as_deref(), nats.error_unix_ns), (Some("refused"), Some(BEGAN + SECOND)));
    assert_eq!(nats.oldest_unix_ns, Some(BEGAN + 4 * SECOND));
    assert_eq!((redis.acknowledged_seq, redis.lag_events, redis.error.as_deref()), (0, 5, None));
}

#[test]
fn what_a_sink_acknowledged_is_never_taken_back_nor_beyond_what_there_is() {
    let place = Place::new();
    let (ledger, _) = ledger(&place, 5, &["nats"]);
    facts(&ledger, vec![reached("nats", 3, None)]).unwrap();
    for (record, why) in [
        (reached("nats", 2, None), "stays acknowledged"),
        (reached("nats", 6, None), "no event that there is not"),
        (reached("redis", 1, None), "no sink redis"),
    ] {
        let error = facts(&ledger, vec![record]).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn only_what_every_sink_has_and_what_is_old_enough_goes_and_the_chain_goes_on() {
    let place = Place::new();
    let (ledger, mut life) = ledger(&place, 5, &["nats", "redis"]);
    retain(&ledger).unwrap();
    assert_eq!(place.reader().outbox(0, 10).unwrap().len(), 5, "no sink has anything");
    facts(&ledger, vec![reached("nats", 5, None), reached("redis", 3, None)]).unwrap();
    facts(&ledger, vec![Record::Retain { before_unix_ns: BEGAN + 3 * SECOND, at_unix_ns: BEGAN + LATER }])
        .unwrap();
    let kept: Vec<_> = place.reader().outbox(0, 10).unwrap().iter().map(|event| event.host_seq).collect();
    assert_eq!(kept, [3, 4, 5], "the third took place at the moment before which events may go");
    retain(&ledger).unwrap();
    assert_eq!(place.reader().outbox(0, 10).unwrap().len(), 2, "one sink lacks the fourth");
    facts(&ledger, vec![reached("redis", 5, None)]).unwrap();
    retain(&ledger).unwrap();
    assert_eq!(place.reader().outbox(0, 10).unwrap().len(), 1, "the last one stays");
    drop(ledger);
    let ledger = place.open();
    let slice = life.cut(1, Cause::Tick, None);
    facts(&ledger, vec![life.record(vec![slice])]).unwrap();
    let events = place.reader().outbox(0, 10).unwrap();
    assert_eq!((events[1].host_seq, events[1].prev_hash), (6, events[0].payload_hash));
    let report = place.reader().audit().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.slices, report.events), (6, 2));
}

#[test]
fn through_which_number_events_are_gone_is_told_once_in_an_event_that_is_signed() {
    let place = Place::new();
    let (ledger, mut life) = ledger(&place, 5, &["nats"]);
    let tell =
        |second: i64| facts(&ledger, vec![Record::TellRetention { at_unix_ns: BEGAN + second * SECOND }]);
    let last = || place.reader().outbox(0, 10).unwrap().pop().unwrap();
    tell(10).unwrap();
    assert_eq!((place.reader().retention_told().unwrap(), last().host_seq), (None, 5), "all are kept");
    facts(&ledger, vec![reached("nats", 4, None)]).unwrap();
    retain(&ledger).unwrap();
    tell(4_000).unwrap();
    tell(5_000).unwrap();
    assert_eq!((place.reader().retention_told().unwrap(), last().host_seq), (Some(6), 6), "told once");
    assert_eq!((last().event_type.as_str(), last().event_id.as_str()), (RETENTION_EVENT, "retention:4"));
    let told: Value = serde_json::from_slice(&last().payload).unwrap();
    let data = &told["data"];
    assert_eq!(
        (data["through_seq"].as_u64(), data["since_unix_ns"].as_i64()),
        (Some(4), Some(BEGAN + LATER))
    );
    let slice = life.cut(1, Cause::Tick, None);
    facts(&ledger, vec![life.record(vec![slice]), reached("nats", 6, None)]).unwrap();
    retain(&ledger).unwrap();
    assert_eq!(
        place.reader().retention_told().unwrap(),
        None,
        "more is gone than was told, and the word as well"
    );
    tell(6_000).unwrap();
    assert_eq!(
        (place.reader().retention_told().unwrap(), last().event_id.as_str()),
        (Some(8), "retention:6")
    );
    assert!(place.reader().audit().unwrap().is_clean());
    let verify = |payloads: [Vec<u8>; 2]| {
        let mut verification = Verification::new(None);
        for payload in &payloads {
            verification.line(payload);
        }
        let report = verification.report();
        let codes: Vec<_> = report.anomalies.iter().map(|anomaly| anomaly.code).collect();
        (codes, report.signed_through_seq)
    };
    let [slice, word] = <[_; 2]>::try_from(place.reader().outbox(0, 10).unwrap()).unwrap();
    assert_eq!(verify([slice.payload.clone(), word.payload.clone()]), (vec![], Some(7)));
    let forged = String::from_utf8(word.payload).unwrap().replace("\"through_seq\":6", "\"through_seq\":5");
    let forged = verify([slice.payload, forged.into_bytes()]);
    assert_eq!(forged, (vec!["VERIFY_DATA", "VERIFY_SIGNATURE"], None));
}

#[test]
fn without_a_sink_everything_is_kept_and_a_sink_that_is_gone_keeps_nothing() {
    let place = Place::new();
    let (ledger, _) = ledger(&place, 5, &[]);
    retain(&ledger).unwrap();
    assert_eq!(place.reader().outbox(0, 10).unwrap().len(), 5);
    facts(&ledger, vec![configured(&["nats", "gone"]), reached("nats", 4, None)]).unwrap();
    retain(&ledger).unwrap();
    assert_eq!(place.reader().outbox(0, 10).unwrap().len(), 5);
    facts(&ledger, vec![configured(&["nats", "late"])]).unwrap();
    facts(&ledger, vec![configured(&["nats"])]).unwrap();
    retain(&ledger).unwrap();
    assert_eq!(place.reader().outbox(0, 10).unwrap().len(), 1);
    facts(&ledger, vec![configured(&["nats", "late"])]).unwrap();
    let standing = place.reader().outbox_standing().unwrap();
    assert_eq!((standing.sinks[0].name.as_str(), standing.sinks[0].acknowledged_seq), ("late", 4));
}

#[test]
fn an_event_that_a_sink_lacks_cannot_be_deleted_by_anyone() {
    let place = Place::new();
    let (ledger, _) = ledger(&place, 5, &["nats"]);
    facts(&ledger, vec![reached("nats", 3, None)]).unwrap();
    let refused = |sql: &str| place.raw().execute_batch(sql).unwrap_err().to_string();
    assert!(refused("DELETE FROM outbox WHERE host_seq = 1").contains("before every sink has it"));
    let start = "UPDATE outbox_start SET hash = (SELECT payload_hash FROM outbox WHERE host_seq = 4), through_seq = 4";
    assert!(refused(start).contains("until every sink has it"));
    assert!(refused("UPDATE outbox_start SET through_seq = 2").contains("an event that it held"));
    assert!(refused("DELETE FROM outbox_start").contains("never forgotten"));
}

#[test]
fn the_listener_is_told_of_every_commit_that_brings_events_and_of_no_other() {
    let place = Place::new();
    let (ledger, mut life) = ledger(&place, 2, &["nats"]);
    let (tell, told) = std::sync::mpsc::channel();
    assert!(ledger.writer().listen(Box::new(move |host_seq| tell.send(host_seq).unwrap())));
    assert!(!ledger.writer().listen(Box::new(|_| panic!("there is one already"))));
    facts(&ledger, vec![reached("nats", 1, None)]).unwrap();
    let slice = life.cut(1, Cause::Tick, None);
    facts(&ledger, vec![life.record(vec![slice])]).unwrap();
    assert_eq!(told.recv(), Ok(3));
    assert!(told.try_recv().is_err());
}

#[test]
fn a_batch_ends_where_it_holds_enough_bytes_and_always_gets_on() {
    let place = Place::new();
    let (_ledger, _) = ledger(&place, 5, &[]);
    let reader = place.reader();
    let sizes = |bytes_max| reader.outbox_batch(1, 3, bytes_max).unwrap().len();
    let one = reader.outbox(1, 1).unwrap()[0].payload.len();
    assert_eq!((sizes(usize::MAX), sizes(one + 1), sizes(1)), (3, 2, 1));
}

#[test]
fn terms_hold_for_the_events_that_come_and_are_never_changed_once_there_are_some() {
    let place = Place::new();
    let (ledger, mut life) = ledger(&place, 5, &["flat"]);
    let agree = |price: u64| {
        let terms = SinkTerms { sink: "flat".to_owned(), terms: json!({"price": price}) };
        facts(&ledger, vec![Record::SinkTerms(terms)])
    };
    for price in [1, 1, 2, 3] {
        agree(price).unwrap();
    }
    let slice = life.cut(1, Cause::Tick, None);
    facts(&ledger, vec![life.record(vec![slice])]).unwrap();
    agree(3).unwrap();
    agree(1).unwrap();
    let found = place.reader().sink_terms("flat").unwrap();
    assert_eq!(found, [(1, json!({"price": 1})), (6, json!({"price": 3})), (7, json!({"price": 1}))]);
    for change in ["UPDATE sink_terms SET terms = '{}' WHERE from_seq = 6", "DELETE FROM sink_terms"] {
        place.raw().execute(change, []).unwrap_err();
    }
}
