//! Units: whole or not at all, told once or twice.

use std::collections::BTreeMap;
use std::sync::mpsc;

use dormouse_ledger::{
    Anchor, AttachmentUpdate, Class, Committed, LifecycleEvent, OutcomeStatus, Record, SandboxFilter,
    SandboxSeen, Snapshot, SnapshotState, TagSet,
};
use dormouse_metering::{BootId, Cause, CommandId};
use serde_json::json;

use crate::support::{BEGAN, Life, Place, SECOND, facts, intent, key, outcome, stamp, written};

#[test]
fn a_unit_that_breaks_a_rule_fails_alone_and_leaves_nothing() {
    let place = Place::new();
    let ledger = place.open();
    let mut good = Life::begins(key("org", "good"));
    let mut bad = Life::begins(key("org", "bad"));
    facts(&ledger, vec![good.seen(), bad.seen(), good.record(vec![]), bad.record(vec![])]).unwrap();
    let slice = bad.cut(5, Cause::Tick, None);
    let whole = bad.cut(5, Cause::Tick, None);
    let mut gap = whole.clone();
    gap.start.unix_ns += 1;
    gap.duration_ns -= 1;
    let first = good.cut(1, Cause::Tick, None);
    let first = good.record(vec![first]);
    let second = good.cut(1, Cause::Tick, None);
    // The writer is held up until all are queued, so that they share a transaction.
    let (queued, all_queued) = mpsc::channel::<()>();
    let held_up = Box::new(move |_| assert!(all_queued.recv().is_err(), "nothing is sent"));
    ledger.writer().submit(Class::Fact, Vec::new(), held_up).unwrap();
    let (answer, answered) = mpsc::channel();
    for record in [first, bad.record(vec![slice.clone(), gap]), good.record(vec![second])] {
        let answer = answer.clone();
        let done = Box::new(move |result| answer.send(result).unwrap());
        ledger.writer().submit(Class::Fact, vec![record], done).unwrap();
    }
    drop(queued);
    let answers: Vec<_> = answered.iter().take(3).collect();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!(error.reason(), "LEDGER_REJECTED");
    assert!(error.to_string().contains("begins where its predecessor ended"), "{error}");
    let report = place.reader().audit().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.slices, report.events), (2, 2));
    // Of the one that was refused nothing is remembered, of the others all: each goes on.
    let third = good.cut(1, Cause::Tick, None);
    facts(&ledger, vec![bad.record(vec![slice, whole]), good.record(vec![third])]).unwrap();
    assert_eq!(place.reader().audit().unwrap().slices, 5);
}

#[test]
fn an_event_carries_the_plan_that_its_sandbox_has_when_it_is_committed() {
    let (place, mut life) = written();
    let ledger = place.open();
    let plans = ["", "team", "team", "scale"].map(str::to_owned);
    for plan in &plans {
        let slice = life.cut(1, Cause::Tick, None);
        let (key, attachment, lifecycle) = (life.key.clone(), None, None);
        let plan = (!plan.is_empty()).then(|| plan.clone());
        let update = AttachmentUpdate { key, attachment, lifecycle, plan };
        facts(&ledger, vec![Record::Attachment(update), life.record(vec![slice])]).unwrap();
    }
    let events = place.reader().outbox(3, 9).unwrap();
    let told: Vec<serde_json::Value> =
        events.iter().map(|event| serde_json::from_slice(&event.payload).unwrap()).collect();
    assert_eq!(told.iter().map(|event| &event["plan"]).collect::<Vec<_>>(), ["pro", "team", "team", "scale"]);
}

#[test]
fn m6_a_slice_told_again_adds_nothing_and_another_in_its_place_is_refused() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    let slice = life.cut(10, Cause::Tick, None);
    let unit = || vec![life.seen(), life.record(vec![slice.clone()])];
    facts(&ledger, unit()).unwrap();
    assert_eq!(facts(&ledger, unit()).unwrap(), Committed::Applied { host_seq: 1 });
    let mut other = slice.clone();
    other.shape.disk_bytes += 1;
    assert_eq!(facts(&ledger, vec![life.record(vec![other])]).unwrap_err().reason(), "LEDGER_CONFLICT");
    let report = place.reader().audit().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.slices, report.events), (1, 1));
}

#[test]
fn m6_a_request_told_again_is_answered_with_what_is_stored_and_does_nothing() {
    let (place, mut life) = written();
    let ledger = place.open();
    let writer = ledger.writer();
    facts(&ledger, vec![Record::Outcome(outcome("req-1", OutcomeStatus::Done))]).unwrap();
    let slice = life.cut(1, Cause::Tick, None);
    let unit = vec![Record::Intent(intent("req-1")), life.record(vec![slice])];
    let Committed::Repeat(known) = writer.write(Class::Intent, unit).unwrap() else { panic!("applied") };
    assert_eq!(known.request_id, "req-1");
    assert_eq!(known.outcome.unwrap().status, OutcomeStatus::Done);
    assert_eq!(place.reader().audit().unwrap().slices, 3);
    // Another org's request may have the same id.
    let other_org = dormouse_ledger::CommandIntent { org: "org-2".to_owned(), ..intent("req-1") };
    assert!(matches!(
        writer.write(Class::Intent, vec![Record::Intent(other_org)]),
        Ok(Committed::Applied { .. })
    ));
}

#[test]
fn m6_a_request_id_used_for_another_command_is_refused() {
    let (place, _) = written();
    let ledger = place.open();
    for other in [
        dormouse_ledger::CommandIntent { payload: json!({"reason": "other"}), ..intent("req-1") },
        dormouse_ledger::CommandIntent { kind: "resume".to_owned(), ..intent("req-1") },
        dormouse_ledger::CommandIntent { sandbox: "sb-2".to_owned(), ..intent("req-1") },
    ] {
        let error = ledger.writer().write(Class::Intent, vec![Record::Intent(other)]).unwrap_err();
        assert_eq!(error.reason(), "REQUEST_ID_REUSED");
    }
}

#[test]
fn an_intent_is_unfinished_until_its_outcome_and_only_unknown_is_replaced() {
    let place = Place::new();
    let ledger = place.open();
    let unfinished = || place.reader().recovery().unwrap().unfinished.len();
    let orphan = vec![Record::Outcome(outcome("req-1", OutcomeStatus::Done))];
    assert_eq!(facts(&ledger, orphan).unwrap_err().reason(), "UNKNOWN_COMMAND");
    ledger.writer().write(Class::Intent, vec![Record::Intent(intent("req-1"))]).unwrap();
    assert_eq!(unfinished(), 1);
    for (status, accepted) in [
        (OutcomeStatus::Unknown, true),
        (OutcomeStatus::Partial, true),
        (OutcomeStatus::Partial, true),
        (OutcomeStatus::Failed, false),
    ] {
        let told = facts(&ledger, vec![Record::Outcome(outcome("req-1", status))]);
        assert_eq!(told.is_ok(), accepted, "{status:?}");
        assert_eq!(unfinished(), 0);
    }
    let command = place.reader().command("org", "req-1").unwrap().unwrap();
    assert_eq!(command.outcome.unwrap().status, OutcomeStatus::Partial);
    assert_eq!((command.asked_at, command.payload), (stamp(0), json!({"reason": "idle"})));
    assert_eq!(place.reader().command("org-2", "req-1").unwrap(), None);
}

fn tag_set(tags: &[(&str, &str)], seconds: i64) -> Record {
    let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Record::Tags(TagSet {
        org: "org".to_owned(),
        sandbox: "sb".to_owned(),
        tags,
        at_unix_ns: BEGAN + seconds * SECOND,
    })
}

#[test]
fn tags_are_replaced_as_a_whole_and_what_they_were_is_kept_with_its_times() {
    let place = Place::new();
    let ledger = place.open();
    let untagged = facts(&ledger, vec![tag_set(&[("team", "a")], 1)]);
    assert_eq!(untagged.unwrap_err().reason(), "UNKNOWN_SANDBOX");
    facts(&ledger, vec![Life::begins(key("org", "sb")).seen()]).unwrap();
    let now = || place.reader().tags("org", "sb").unwrap();
    assert_eq!((now().tags, now().updated_unix_ns), (BTreeMap::new(), None));
    facts(&ledger, vec![tag_set(&[("team", "a"), ("env", "prod")], 1)]).unwrap();
    facts(&ledger, vec![tag_set(&[("env", "prod"), ("team", "a")], 2)]).unwrap();
    assert_eq!(now().updated_unix_ns, Some(BEGAN + SECOND), "a no-op changes no time");
    facts(&ledger, vec![tag_set(&[("team", "b"), ("env", "prod")], 3)]).unwrap();
    facts(&ledger, vec![tag_set(&[], 4)]).unwrap();
    assert_eq!((now().tags, now().updated_unix_ns), (BTreeMap::new(), Some(BEGAN + 4 * SECOND)));
    let spans: Vec<_> = place
        .reader()
        .tag_history("org", "sb")
        .unwrap()
        .into_iter()
        .map(|span| (span.key, span.value, span.from_unix_ns - BEGAN, span.to_unix_ns.unwrap() - BEGAN))
        .collect();
    let expected = [("env", "prod", 1, 4), ("team", "a", 1, 3), ("team", "b", 3, 4)];
    assert_eq!(
        spans,
        expected.map(|(key, value, from, to)| (key.to_owned(), value.to_owned(), from * SECOND, to * SECOND))
    );
    let refused = facts(&ledger, vec![tag_set(&[("dm:x", "")], 5)]).unwrap_err();
    assert_eq!(refused.reason(), "INVALID_TAG");
}

#[test]
fn tags_set_while_the_clock_is_behind_still_follow_those_before_them() {
    let place = Place::new();
    let ledger = place.open();
    facts(&ledger, vec![Life::begins(key("org", "sb")).seen()]).unwrap();
    facts(&ledger, vec![tag_set(&[("team", "a")], 100)]).unwrap();
    facts(&ledger, vec![tag_set(&[("team", "b")], 40)]).unwrap();
    let spans = place.reader().tag_history("org", "sb").unwrap();
    assert_eq!(spans[0].to_unix_ns, Some(BEGAN + 100 * SECOND));
    assert_eq!((spans[1].from_unix_ns, spans[1].to_unix_ns), (BEGAN + 100 * SECOND, None));
}

#[test]
fn of_a_sandbox_one_generation_lives_at_a_time_and_the_next_is_later() {
    let place = Place::new();
    let ledger = place.open();
    let seen = |org: &str, generation: i64| {
        let mut life = Life::begins(key(org, "sb"));
        life.key.generation = generation;
        life.seen()
    };
    facts(&ledger, vec![seen("org", BEGAN)]).unwrap();
    assert!(facts(&ledger, vec![seen("org", BEGAN + 5)]).is_err(), "the first still lives");
    let first = Life::begins(key("org", "sb"));
    facts(&ledger, vec![first.end(vec![])]).unwrap();
    assert!(facts(&ledger, vec![seen("org", BEGAN - 5)]).is_err(), "earlier than the first");
    assert!(facts(&ledger, vec![seen("org-2", BEGAN)]).is_err(), "events would share their ids");
    let reader = place.reader();
    assert_eq!(reader.next_generation("sb", BEGAN - 5).unwrap(), BEGAN + 1);
    assert_eq!(reader.next_generation("sb", BEGAN + 9).unwrap(), BEGAN + 9);
    assert_eq!(reader.next_generation("other", BEGAN).unwrap(), BEGAN);
    facts(&ledger, vec![seen("org", BEGAN + 5), seen("org-2", BEGAN + 6)]).unwrap();
    let of_org = SandboxFilter { org: Some("org".to_owned()), ..SandboxFilter::default() };
    assert_eq!(reader.sandboxes(&of_org).unwrap().len(), 2);
    let live = SandboxFilter { live_only: true, ..SandboxFilter::default() };
    assert_eq!(reader.sandboxes(&live).unwrap().len(), 2);
}

#[test]
fn an_attachment_changes_only_what_it_names() {
    let (place, life) = written();
    let ledger = place.open();
    let key = life.key.clone();
    let update = AttachmentUpdate {
        key: key.clone(),
        attachment: None,
        lifecycle: Some("paused".to_owned()),
        plan: None,
    };
    facts(&ledger, vec![Record::Attachment(update)]).unwrap();
    let update = AttachmentUpdate {
        key,
        attachment: Some(json!({"pid": 7})),
        lifecycle: None,
        plan: Some("free".to_owned()),
    };
    facts(&ledger, vec![Record::Attachment(update)]).unwrap();
    let row = place.reader().sandboxes(&SandboxFilter::default()).unwrap().remove(0);
    assert_eq!(
        (row.lifecycle.as_str(), row.plan.as_str(), row.attachment),
        ("paused", "free", json!({"pid": 7}))
    );
    assert_eq!(row.open, Some(life.open));
}

#[test]
fn a_snapshot_is_consumed_once_and_keeps_its_manifest() {
    let (place, life) = written();
    let ledger = place.open();
    let snapshot = Snapshot {
        key: life.key.clone(),
        ordinal: 1,
        method: "shared".to_owned(),
        path: "/var/lib/dormouse/sb/1".to_owned(),
        manifest: json!({"digest": "ab"}),
        state: SnapshotState::Complete,
        created_unix_ns: BEGAN,
    };
    let consumed = Snapshot { state: SnapshotState::Consumed, ..snapshot.clone() };
    let forged = Snapshot { manifest: json!({"digest": "cd"}), ..snapshot.clone() };
    for (told, accepted) in
        [(&snapshot, true), (&forged, false), (&consumed, true), (&consumed, true), (&snapshot, false)]
    {
        assert_eq!(facts(&ledger, vec![Record::Snapshot(told.clone())]).is_ok(), accepted, "{told:?}");
    }
    assert_eq!(place.reader().snapshots(&life.key).unwrap(), vec![consumed]);
}

#[test]
fn the_proof_of_life_never_goes_back_within_a_boot_and_the_last_anchor_counts_and_all_steps_of_its_boot() {
    let place = Place::new();
    let ledger = place.open();
    let read = || place.reader().recovery().unwrap();
    assert!(read().proof.is_none() && read().anchor.is_none());
    let anchor = Anchor { boot: crate::support::BOOT, boottime_ns: 5, wall_ns: BEGAN, stepped_ns: 0 };
    let stepped = Anchor { boottime_ns: 9, stepped_ns: -3, ..anchor };
    facts(
        &ledger,
        vec![Record::Anchor(anchor), Record::ProofOfLife(stamp(10)), Record::ProofOfLife(stamp(9))],
    )
    .unwrap();
    assert_eq!(read().proof, Some(stamp(10)));
    let rebooted = dormouse_metering::Stamp { boot: BootId([8; 16]), ..stamp(1) };
    facts(&ledger, vec![Record::Anchor(stepped), Record::ProofOfLife(rebooted)]).unwrap();
    assert_eq!((read().proof, read().anchor), (Some(rebooted), Some(stepped)));
    let again = Anchor { boottime_ns: 12, wall_ns: BEGAN + 1, stepped_ns: 1, ..anchor };
    facts(&ledger, vec![Record::Anchor(again)]).unwrap();
    let at = |anchor: Anchor| {
        let Anchor { boot, boottime_ns, wall_ns, .. } = anchor;
        dormouse_metering::Stamp { boot, boottime_ns, wall_ns, uncertainty_ns: 0 }
    };
    assert_eq!(read().steps, [at(stepped), at(again)]);
    facts(&ledger, vec![Record::Anchor(Anchor { boot: BootId([8; 16]), ..anchor })]).unwrap();
    assert_eq!(read().steps, []);
}

#[test]
fn a_number_beyond_sqlite_s_integers_is_refused_by_name() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    life.open.shape.disk_bytes = u64::MAX;
    let error = facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap_err();
    assert_eq!(error.reason(), "OUT_OF_RANGE");
    assert!(error.to_string().starts_with("disk_bytes"), "{error}");
}

#[test]
fn a_sandbox_is_seen_once_and_another_creation_of_it_is_refused() {
    let (place, life) = written();
    let ledger = place.open();
    facts(&ledger, vec![life.seen()]).unwrap();
    let Record::SandboxSeen(seen) = life.seen() else { unreachable!() };
    let other = SandboxSeen { created_unix_ns: BEGAN + 1, ..seen };
    assert_eq!(facts(&ledger, vec![Record::SandboxSeen(other)]).unwrap_err().reason(), "LEDGER_CONFLICT");
}

#[test]
fn events_are_frozen_cloudevents_in_one_chain() {
    let (place, life) = written();
    let ledger = place.open();
    let event = LifecycleEvent {
        key: life.key.clone(),
        kind: "paused".to_owned(),
        command: Some(CommandId::new("req-1")),
        detail: json!({"by": "control"}),
        at: stamp(22),
    };
    facts(&ledger, vec![Record::Lifecycle(event)]).unwrap();
    let events = place.reader().outbox(0, 100).unwrap();
    assert_eq!(events.iter().map(|event| event.host_seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(place.reader().outbox(2, 1).unwrap(), events[2..3]);
    let json = |index: usize| serde_json::from_slice::<serde_json::Value>(&events[index].payload).unwrap();
    let first = json(0);
    assert_eq!(first["specversion"], "1.0");
    assert_eq!(first["id"], format!("sb:{BEGAN}:1"));
    assert_eq!(first["source"], "//dormouse/cell-a/host-1");
    assert_eq!(first["type"], "dev.dormouse.slice.v1");
    assert_eq!(first["time"], "2026-01-01T00:00:10.000000000Z");
    assert_eq!((&first["org"], &first["hostseq"]), (&json!("org"), &json!("1")));
    assert_eq!(first["data"]["command_id"], "req-1");
    assert_eq!(first["data"]["final"], true);
    assert_eq!(json(1)["prevhash"], blake3::hash(&events[0].payload).to_hex().as_str());
    assert_eq!(
        (json(3)["type"].clone(), json(3)["id"].clone()),
        (json!("dev.dormouse.lifecycle.v1"), json!(format!("sb:{BEGAN}:lifecycle-4")))
    );
    assert_eq!(json(3)["data"]["kind"], "paused");
}
