//! What an answer about usage holds: pages, places, rollups, and whose rows are looked at.

use std::ops::Range;

use dormouse_ledger::usage::{
    BreakdownQuery, Cancel, GroupBy, Interval, Item, Moment, Place as Spot, Rules, UsageLedger as _,
};
use dormouse_ledger::{Record, TagSet};
use dormouse_metering::{Basis, Cause, Policy};

use crate::support::{BEGAN, GIB, Life, Place, SECOND, facts, key, stamp};

const HOUR_S: i64 = 3600;

fn query(window: Range<i64>, now_s: i64) -> BreakdownQuery {
    let moment = Moment { open_until: Some(stamp(now_s)), tags_unix_ns: BEGAN + now_s * SECOND };
    let rules = Rules { policy: Policy::default(), basis: Basis::Plugged, free_disk_bytes: 0 };
    BreakdownQuery::by_sandbox("org", window, moment, rules)
}

fn hours(from: i64, to: i64) -> Range<i64> {
    BEGAN + from * HOUR_S * SECOND..BEGAN + to * HOUR_S * SECOND
}

fn named(place: &Place, count: usize) -> (dormouse_ledger::Ledger, Vec<Life>) {
    let ledger = place.open();
    let lives: Vec<Life> = (0..count)
        .map(|number| {
            let mut life = Life::begins(key("org", &format!("sb-{number:02}")));
            life.open.shape.memory_base_bytes = GIB * (1 + number as u64 % 3);
            facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap();
            life
        })
        .collect();
    (ledger, lives)
}

#[test]
fn pages_tell_of_one_moment_while_rows_arrive() {
    let place = Place::new();
    let (ledger, mut lives) = named(&place, 10);
    let mut reader = place.reader();
    let asked = query(hours(0, 5), 4 * HOUR_S);
    let pinned = BreakdownQuery { window: BEGAN..BEGAN + 4 * HOUR_S * SECOND, ..asked };
    let all = reader.breakdown(&pinned, &Cancel::default()).unwrap();
    assert_eq!((all.items.len(), &all.next), (10, &None));
    for limit in 1..5 {
        let (mut items, mut after) = (Vec::<Item>::new(), None::<Spot>);
        loop {
            let page = BreakdownQuery { limit, after, ..pinned.clone() };
            let page = reader.breakdown(&page, &Cancel::default()).unwrap();
            assert_eq!(page.total, all.total);
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
            // Everything goes on: slices close, a sandbox grows, one appears, one is tagged.
            for life in &mut lives {
                let past = HOUR_S - (life.open.start.unix_ns - BEGAN) / SECOND % HOUR_S;
                let mut slice = life.cut(past, Cause::Hour, None);
                slice.end.uncertainty_ns = 0;
                life.open.start.uncertainty_ns = 0;
                facts(&ledger, vec![life.record(vec![slice])]).unwrap();
            }
            let number = lives.len();
            let mut life = Life::begins(key("org", &format!("new-{limit}-{number}")));
            life.open.start.unix_ns = BEGAN + 4 * HOUR_S * SECOND;
            facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap();
        }
        assert_eq!(items, all.items, "pages of {limit}");
    }
}

#[test]
fn points_have_zeros_in_the_gaps() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    let last = life.cut(HOUR_S + 60, Cause::Destroy, Some("req"));
    facts(&ledger, vec![life.seen(), life.end(vec![last])]).unwrap();
    let by_hour = BreakdownQuery { interval: Some(Interval::Hour), ..query(hours(-1, 4), 10 * HOUR_S) };
    let points = place.reader().breakdown(&by_hour, &Cancel::default()).unwrap().points.unwrap();
    let seconds: Vec<_> = points.iter().map(|point| point.amount.duration_ns / 1_000_000_000).collect();
    assert_eq!(seconds, [0, 3600, 60, 0, 0]);
}

#[test]
fn a_question_that_was_cancelled_fails_and_the_next_is_answered() {
    let place = Place::new();
    let (_ledger, _) = named(&place, 3);
    let (mut reader, cancel) = (place.reader(), Cancel::default());
    cancel.cancel();
    let error = reader.breakdown(&query(hours(0, 1), 60), &cancel).unwrap_err();
    assert_eq!(error.reason(), "QUERY_CANCELLED");
    let error = reader.until(&cancel, dormouse_ledger::Reader::audit).unwrap_err();
    assert_eq!(error.reason(), "QUERY_CANCELLED");
    assert_eq!(reader.breakdown(&query(hours(0, 1), 60), &Cancel::default()).unwrap().items.len(), 3);
}

#[test]
fn tags_and_sandboxes_of_another_org_are_not_seen() {
    let place = Place::new();
    let (ledger, _) = named(&place, 2);
    let mut other = Life::begins(key("other", "sb-00"));
    other.key.generation += 1;
    let tags = |org: &str, value: &str| {
        Record::Tags(TagSet {
            org: org.to_owned(),
            sandbox: "sb-00".to_owned(),
            tags: [("team".to_owned(), value.to_owned())].into(),
            at_unix_ns: BEGAN,
        })
    };
    facts(&ledger, vec![other.seen(), other.record(vec![]), tags("other", "theirs"), tags("org", "ours")])
        .unwrap();
    let mut reader = place.reader();
    let by_team = BreakdownQuery { group_by: GroupBy::Tag("team".to_owned()), ..query(hours(0, 1), HOUR_S) };
    let answer = reader.breakdown(&by_team, &Cancel::default()).unwrap();
    let keys: Vec<_> = answer.items.iter().map(|item| item.key.as_str()).collect();
    assert_eq!(keys, ["ours"]);
    assert_eq!(answer.total.duration_ns, i128::from(2 * HOUR_S * SECOND));
    let entries = reader.sandbox_entries("other", "", 10, &Cancel::default()).unwrap();
    assert_eq!(entries.len(), 1);
    let keys = reader.tag_keys("org", "", 10, &Cancel::default()).unwrap();
    assert_eq!((keys.len(), keys[0].sandbox_count, keys[0].value_count), (1, 1, 1));
    assert_eq!(reader.sandbox_entry("other", "sb-01").unwrap(), None);
}

/// A ledger with a life of several hours, in which disk and state change often.
fn rolled_up() -> Place {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    for hour in 0..150_u64 {
        life.open.shape.disk_bytes = hour * 17;
        let slice = life.cut(HOUR_S, Cause::Tick, None);
        facts(&ledger, vec![life.seen(), life.record(vec![slice])]).unwrap();
    }
    place
}

#[test]
fn rollups_begin_anew_before_they_grow_without_bound_and_sums_stay_exact() {
    let place = rolled_up();
    let longest: i64 =
        place.raw().query_row("SELECT max(length(totals)) FROM usage_rollups", [], |row| row.get(0)).unwrap();
    assert!(longest < 4096, "{longest}");
    let mut reader = place.reader();
    let whole = query(hours(0, 150), 0);
    let total = reader.breakdown(&whole, &Cancel::default()).unwrap().total;
    let expected: i128 = (0..150).map(|hour| hour * 17 * i128::from(HOUR_S * SECOND)).sum();
    assert_eq!(total.quantities.disk_byte_ns, expected);
}

#[test]
fn a_rollup_that_is_not_what_its_slices_amount_to_is_found() {
    assert!(rolled_up().reader().audit().unwrap().is_clean());
    for (sql, seq) in [
        (
            "UPDATE usage_rollups SET totals = (SELECT totals FROM usage_rollups WHERE seq = 9) WHERE seq = 10",
            10,
        ),
        ("UPDATE usage_rollups SET seq = 149 WHERE seq = 149; DELETE FROM slices WHERE seq = 150", 150),
        ("UPDATE usage_rollups SET since_unix_ns = NULL WHERE seq = 100", 100),
        ("UPDATE usage_rollups SET seq = 148 WHERE seq = 150", 148),
        ("UPDATE usage_rollups SET totals = x'00' WHERE seq = 3", 0),
    ] {
        let place = rolled_up();
        let conn = place.raw();
        conn.execute_batch("DROP TRIGGER usage_rollups_stay; DROP TRIGGER slices_remain").unwrap();
        conn.execute_batch(sql).unwrap();
        let found = place.reader().audit().unwrap().violations;
        let code = if seq == 0 { "AUDIT_UNREADABLE" } else { "AUDIT_ROLLUP" };
        let is_found = found.iter().any(|it| it.code == code && (seq == 0 || it.seq == Some(seq)));
        assert!(is_found, "{sql}: {found:?}");
    }
}

#[test]
fn an_hour_of_many_slices_is_read_from_a_rollup_among_them() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    let slices: Vec<_> = (0..1_000).map(|_| life.cut(3, Cause::Tick, None)).collect();
    facts(&ledger, vec![life.seen(), life.record(slices)]).unwrap();
    let conn = place.raw();
    let until: Vec<i64> = conn
        .prepare("SELECT until_unix_ns FROM usage_rollups ORDER BY until_unix_ns")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let every_sixteenth: Vec<i64> = (1..=62).map(|count| BEGAN + count * 48 * SECOND).collect();
    assert_eq!(until, every_sixteenth);
    let mut reader = place.reader();
    for end_s in (1..3_000).step_by(7) {
        let window = BEGAN + SECOND / 3..BEGAN + end_s * SECOND;
        let lasted_ns = i128::from(window.end - window.start);
        let told = reader.breakdown(&query(window, HOUR_S), &Cancel::default()).unwrap();
        assert_eq!(told.total.duration_ns, lasted_ns, "to second {end_s}");
    }
    assert!(reader.audit().unwrap().is_clean());
}

#[test]
fn the_rollups_of_a_ledger_from_before_those_among_slices_are_kept() {
    let place = rolled_up();
    let conn = place.raw();
    let all = |conn: &rusqlite::Connection| -> Vec<(i64, i64, Option<i64>, Vec<u8>)> {
        let mut rows = conn
            .prepare("SELECT until_unix_ns, seq, since_unix_ns, totals FROM usage_rollups ORDER BY 1")
            .unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        rows.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let before = all(&conn);
    assert_eq!(before.len(), 150);
    conn.execute_batch(
        "CREATE TABLE usage_hours (sandbox_pk INTEGER NOT NULL, hour_unix_ns INTEGER NOT NULL, seq INTEGER NOT NULL, \
         since_unix_ns INTEGER, totals BLOB NOT NULL, PRIMARY KEY (sandbox_pk, hour_unix_ns)) STRICT, WITHOUT ROWID; \
         CREATE TRIGGER usage_hours_remain BEFORE DELETE ON usage_hours BEGIN SELECT RAISE(ABORT, 'no'); END; \
         INSERT INTO usage_hours SELECT * FROM usage_rollups; DROP TABLE usage_rollups; PRAGMA user_version = 9",
    )
    .unwrap();
    drop(place.open());
    assert_eq!(all(&place.raw()), before);
    assert!(place.reader().audit().unwrap().is_clean());
}

#[test]
fn a_ledger_from_before_the_rollups_answers_the_same_and_gets_them_as_it_goes_on() {
    let place = rolled_up();
    let whole = query(hours(0, 200), 0);
    let before = place.reader().breakdown(&whole, &Cancel::default()).unwrap();
    place
        .raw()
        .execute_batch(
            "ALTER TABLE sandboxes DROP COLUMN open_beneath; DROP TABLE usage_rollups; DROP TABLE tokens; \
             DROP TABLE cursor_key; DROP INDEX tags_by_key; DROP TABLE sink_terms; \
             ALTER TABLE attachments DROP COLUMN plugged_by_device; \
             ALTER TABLE outbox_start DROP COLUMN moved_unix_ns; PRAGMA user_version = 4",
        )
        .unwrap();
    let ledger = place.open();
    assert_eq!(place.reader().breakdown(&whole, &Cancel::default()).unwrap(), before);
    let mut life = Life::begins(key("org", "sb"));
    (0..150).for_each(|_| drop(life.cut(HOUR_S, Cause::Tick, None)));
    let next = life.cut(HOUR_S, Cause::Tick, None);
    facts(&ledger, vec![life.record(vec![next])]).unwrap();
    let rollups: i64 =
        place.raw().query_row("SELECT count(*) FROM usage_rollups", [], |row| row.get(0)).unwrap();
    assert_eq!(rollups, 1);
    let after = place.reader().breakdown(&whole, &Cancel::default()).unwrap();
    assert_eq!(after.total.duration_ns - before.total.duration_ns, i128::from(HOUR_S * SECOND));
    assert!(place.reader().audit().unwrap().is_clean());
}
