//! What is written is what is read.

use crate::support::{BEGAN, Life, Place, SECOND, facts, key, stamp};
use dormouse_ledger::{
    AttachmentUpdate, Class, Committed, PluggedByDevice, Record, SandboxFilter, SliceBatch, SliceQuery,
};
use dormouse_metering::{Cause, Change, Observation};

#[test]
fn a_life_is_read_as_it_was_written() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    facts(&ledger, vec![life.seen(), life.record(Vec::new())]).unwrap();
    let first = life.cut(10, Cause::Pause, Some("req-1"));
    let second = life.cut(5, Cause::Resume, None);
    let committed =
        ledger.writer().write(Class::Fact, vec![life.record(vec![first.clone(), second])]).unwrap();
    assert_eq!(committed, Committed::Applied { host_seq: 2 });

    let reader = ledger.reader().unwrap();
    let sandboxes = reader.sandboxes(&SandboxFilter::default()).unwrap();
    assert_eq!(sandboxes[0].open.as_ref(), Some(&life.open));
    let page =
        reader.slices(&SliceQuery { limit: 10, now: Some(stamp(20)), ..SliceQuery::default() }).unwrap();
    assert_eq!(page.rows.len(), 3);
    let row = serde_json::to_value(&page.rows[0]).unwrap();
    assert_eq!(row["command_id"], "req-1");
    assert_eq!(row["closed_by"], "pause");
    assert_eq!(row["end_unix_ns"], BEGAN + 10 * SECOND);
    assert_eq!(row["final"], true);
    let open = serde_json::to_value(&page.rows[2]).unwrap();
    assert_eq!(open["end_unix_ns"], serde_json::Value::Null);
    assert_eq!(open["duration_ns"], 5 * SECOND);
    assert_eq!(reader.recovery().unwrap().host_seq, 2);
}

#[test]
fn what_is_pending_is_read_as_it_was_told_last_and_what_stays_is_not_written_again() {
    let place = Place::new();
    let ledger = place.open();
    let life = Life::begins(key("org", "sb"));
    facts(&ledger, vec![life.seen()]).unwrap();
    let tell = |seconds: &[i64]| {
        let seen = |seconds: &i64| Observation {
            at: stamp(*seconds),
            change: Change::Mark,
            cause: Cause::Pause,
            command: None,
        };
        let pending: Vec<_> = seconds.iter().map(seen).collect();
        let (key, open) = (life.key.clone(), Some(life.open.clone()));
        let batch = SliceBatch { key, slices: vec![], open, pending: pending.clone(), ended: false };
        facts(&ledger, vec![Record::Slices(batch)]).unwrap();
        assert_eq!(place.reader().sandboxes(&SandboxFilter::default()).unwrap()[0].pending, pending);
        let raw = place.raw();
        let mut places = raw.prepare("SELECT ord FROM pending ORDER BY ord").unwrap();
        places.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect::<Vec<i64>>()
    };
    assert_eq!(tell(&[1, 2, 3]), [0, 1, 2]);
    assert_eq!(tell(&[3, 4, 5]), [2, 3, 4], "the third stays where it is");
    assert_eq!(tell(&[3, 9, 4, 5]), [2, 3, 4, 5], "one came late");
    assert_eq!(tell(&[4, 5]), [4, 5]);
    assert_eq!(tell(&[5, 5, 4]), [5, 6, 7]);
    assert_eq!(tell(&[7, 5, 4]), [0, 1, 2], "nothing stays");
    assert_eq!(tell(&[]), Vec::<i64>::new());
    assert_eq!(tell(&[1]), [0]);
    assert_eq!(ledger.reader().unwrap().audit().unwrap().violations, []);
}

#[test]
fn what_each_memory_device_had_is_read_as_it_was_told_last_however_qemu_is_found_again() {
    let place = Place::new();
    let ledger = place.open();
    let life = Life::begins(key("org", "sb"));
    facts(&ledger, vec![life.seen(), life.record(Vec::new())]).unwrap();
    let known = || ledger.reader().unwrap().recovery().unwrap().sandboxes.remove(0).plugged_by_device;
    assert_eq!(known(), None);
    for bytes in [vec![512 << 20, 0], vec![0, 512 << 20]] {
        let plugged = PluggedByDevice { bytes, least_bytes: vec![0, 0], boot: [7; 16], at_boottime_ns: 7 };
        let told = Record::PluggedByDevice(key("org", "sb"), plugged.clone());
        facts(&ledger, vec![told, life.record(Vec::new())]).unwrap();
        let update = AttachmentUpdate {
            key: key("org", "sb"),
            attachment: Some(serde_json::json!({"pid": 7})),
            lifecycle: None,
            plan: None,
        };
        facts(&ledger, vec![Record::Attachment(update)]).unwrap();
        assert_eq!(known(), Some(plugged));
    }
}
