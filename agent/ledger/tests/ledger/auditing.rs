//! The audit finds what is planted, names it, and never stops at damage.

use dormouse_ledger::{AuditReport, Class, Ledger, LedgerError, Reader, Record, SliceQuery};
use dormouse_metering::Cause;
use rusqlite::Connection;

use crate::support::{Life, Place, facts, host, key, stamp, written};

/// The triggers that would refuse what is planted.
fn drop_triggers(conn: &Connection) {
    let mut statement = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'").unwrap();
    let names: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(statement);
    for name in names {
        conn.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
}

/// The codes that an audit finds after some SQL, with the slices they name.
fn planted(sql: &str) -> Vec<(&'static str, Option<u64>)> {
    let (place, _) = written();
    let conn = place.raw();
    drop_triggers(&conn);
    conn.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON").unwrap();
    conn.execute_batch(sql).unwrap();
    let report = place.reader().audit().unwrap();
    assert_eq!(report.violations_total, report.violations.len() as u64);
    report.violations.iter().map(|violation| (violation.code, violation.seq)).collect()
}

/// A violation of a slice that is also one of its event, which still tells the truth.
fn with_event(code: &'static str, seq: u64) -> [(&'static str, Option<u64>); 2] {
    [(code, Some(seq)), ("AUDIT_EVENT_DIFFERS", Some(seq))]
}

#[test]
fn a_ledger_as_it_was_written_is_clean() {
    let (place, _) = written();
    let report = place.reader().audit().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.sandboxes, report.slices, report.events), (1, 3, 3));
}

#[test]
fn an_audit_beside_a_busy_writer_sees_one_moment() {
    let (place, mut life) = written();
    let ledger = place.open();
    let (mut slices, writer) = (3, ledger.writer());
    for _ in 0..50 {
        for _ in 0..100 {
            let slice = life.cut(1, Cause::Tick, None);
            let done = Box::new(|result: Result<_, _>| drop(result.unwrap()));
            writer.submit(Class::Fact, vec![life.record(vec![slice])], done).unwrap();
        }
        let report = place.reader().audit().unwrap();
        assert!(report.is_clean() && report.slices == report.events, "{report:?}");
        assert!(report.slices >= slices, "an audit sees at least what the one before it saw");
        slices = report.slices;
    }
}

#[test]
fn a_gap_an_overlap_and_a_wrong_duration_are_found() {
    let found = planted(
        "UPDATE slices SET start_unix_ns = start_unix_ns + 5, duration_ns = duration_ns - 5 WHERE seq = 2",
    );
    assert_eq!(found, with_event("AUDIT_GAP", 2));
    let found = planted(
        "UPDATE slices SET start_unix_ns = start_unix_ns - 5, duration_ns = duration_ns + 5 WHERE seq = 2",
    );
    assert_eq!(found, with_event("AUDIT_OVERLAP", 2));
    let found = planted("UPDATE slices SET duration_ns = duration_ns + 5 WHERE seq = 3");
    assert_eq!(found, with_event("AUDIT_DURATION", 3));
}

#[test]
fn a_missing_slice_and_its_orphaned_event_are_found() {
    let found = planted("DELETE FROM slices WHERE seq = 2");
    assert_eq!(
        found,
        [
            ("AUDIT_EVENT_EXTRA", Some(2)),
            ("AUDIT_SEQ", Some(3)),
            ("AUDIT_GAP", Some(3)),
            ("AUDIT_CAUSE", Some(3)),
            ("AUDIT_COMMAND", Some(3))
        ]
    );
}

#[test]
fn a_broken_chain_of_causes_commands_or_uncertainties_is_found() {
    assert_eq!(planted("UPDATE slices SET opened_by = 'scale' WHERE seq = 2"), with_event("AUDIT_CAUSE", 2));
    let found = planted("UPDATE slices SET opened_command = 'req-2' WHERE seq = 2");
    assert_eq!(found, with_event("AUDIT_COMMAND", 2));
    let found = planted("UPDATE slices SET start_uncertainty_ns = 0 WHERE seq = 3");
    assert_eq!(found, with_event("AUDIT_UNCERTAINTY", 3));
}

#[test]
fn a_command_that_no_slice_may_name_is_found() {
    assert_eq!(
        planted("DELETE FROM commands WHERE request_id = 'req-2'"),
        [("AUDIT_COMMAND_UNKNOWN", Some(2))]
    );
}

#[test]
fn another_shape_on_a_slice_than_in_its_event_is_found() {
    let found = planted("UPDATE slices SET memory_base_bytes = memory_base_bytes + 1 WHERE seq = 1");
    assert_eq!(found, [("AUDIT_EVENT_DIFFERS", Some(1))]);
}

#[test]
fn an_open_slice_that_does_not_follow_is_found() {
    let found =
        planted("UPDATE sandboxes SET standing_hash = NULL, open_start_unix_ns = open_start_unix_ns + 1");
    assert_eq!(found, [("AUDIT_GAP", Some(4))]);
    assert_eq!(planted("UPDATE sandboxes SET standing_hash = NULL, open_seq = 9"), [("AUDIT_SEQ", Some(9))]);
}

#[test]
fn a_life_that_neither_goes_on_nor_has_ended_is_found() {
    let ended = "UPDATE sandboxes SET open_seq = NULL, open_state = NULL, open_vcpus_milli = NULL, \
        open_memory_base_bytes = NULL, open_memory_plugged_bytes = NULL, open_memory_requested_bytes = NULL, \
        open_disk_bytes = NULL, open_start_unix_ns = NULL, open_start_uncertainty_ns = NULL, open_opened_by = NULL, \
        open_boot = NULL, open_start_boottime_ns = NULL, standing_hash = NULL";
    assert_eq!(planted(ended), [("AUDIT_LIFE", None)]);
    assert_eq!(planted(&format!("{ended}, ended_unix_ns = 5")), [("AUDIT_LIFE", None)]);
    assert_eq!(planted("UPDATE sandboxes SET ended_unix_ns = 5"), [("AUDIT_LIFE", None)]);
}

#[test]
fn l1_a_missing_a_changed_and_a_forged_event_are_found() {
    assert_eq!(
        planted("DELETE FROM outbox WHERE host_seq = 2"),
        [("AUDIT_OUTBOX_GAP", Some(3)), ("AUDIT_EVENT_MISSING", Some(2))]
    );
    let found = planted("DELETE FROM outbox WHERE host_seq = 1");
    assert_eq!(found, [("AUDIT_OUTBOX_GAP", Some(2)), ("AUDIT_EVENT_MISSING", Some(1))]);
    let found = planted(
        "UPDATE outbox SET payload = cast(replace(cast(payload AS TEXT), 'pause', 'pausf') AS BLOB) WHERE host_seq = 1",
    );
    assert_eq!(found, [("AUDIT_OUTBOX_HASH", Some(1)), ("AUDIT_EVENT_DIFFERS", Some(1))]);
    assert_eq!(
        planted("UPDATE outbox SET prev_hash = zeroblob(32) WHERE host_seq = 3"),
        [("AUDIT_OUTBOX_HASH", Some(3))]
    );
    assert_eq!(
        planted("UPDATE outbox SET event_id = 'other' WHERE host_seq = 3"),
        [("AUDIT_OUTBOX_HASH", Some(3)), ("AUDIT_EVENT_EXTRA", Some(3)), ("AUDIT_EVENT_DIFFERS", Some(3))]
    );
    for changed in ["org = 'other'", "sandbox = 'other'", "event_unix_ns = event_unix_ns + 1"] {
        assert_eq!(
            planted(&format!("UPDATE outbox SET {changed} WHERE host_seq = 3")),
            [("AUDIT_OUTBOX_HASH", Some(3))],
            "{changed}"
        );
    }
}

/// Rewrites the bytes of the last event, and its own hash with them, so that the chain holds.
fn last_event_rewritten(rewrite: impl FnOnce(String) -> String) -> Vec<(&'static str, Option<u64>)> {
    let (place, _) = written();
    let conn = place.raw();
    drop_triggers(&conn);
    let text = "SELECT cast(payload AS TEXT) FROM outbox WHERE host_seq = 3";
    let payload = rewrite(conn.query_row(text, [], |row| row.get(0)).unwrap()).into_bytes();
    let hash = *blake3::hash(&payload).as_bytes();
    let update = "UPDATE outbox SET payload = ?1, payload_hash = ?2 WHERE host_seq = 3";
    assert_eq!(conn.execute(update, (payload, hash)).unwrap(), 1);
    let report = place.reader().audit().unwrap();
    report.violations.iter().map(|violation| (violation.code, violation.seq)).collect()
}

#[test]
fn an_event_whose_data_do_not_have_the_hash_that_it_says_is_found_though_the_chain_holds() {
    let wrong = last_event_rewritten(|text| {
        let at = text.find("\"payloadhash\":\"").unwrap() + 15;
        format!("{}{}{}", &text[..at], "0".repeat(64), &text[at + 64..])
    });
    assert_eq!(wrong, [("AUDIT_OUTBOX_HASH", Some(3))]);
    // The same data with the same hash, written otherwise around them: read, and found to hold.
    assert_eq!(last_event_rewritten(|text| text.replacen("{\"specversion\"", "{ \"specversion\"", 1)), []);
}

#[test]
fn an_event_rewritten_with_its_own_hash_breaks_the_chain_behind_it() {
    let (place, _) = written();
    let conn = place.raw();
    drop_triggers(&conn);
    let payload: Vec<u8> =
        conn.query_row("SELECT payload FROM outbox WHERE host_seq = 1", [], |row| row.get(0)).unwrap();
    let forged = String::from_utf8(payload).unwrap().replace("running", "paused_");
    let hash = *blake3::hash(forged.as_bytes()).as_bytes();
    conn.execute(
        "UPDATE outbox SET payload = ?1, payload_hash = ?2 WHERE host_seq = 1",
        (forged.as_bytes(), hash),
    )
    .unwrap();
    let codes: Vec<_> =
        place.reader().audit().unwrap().violations.iter().map(|it| (it.code, it.seq)).collect();
    assert!(codes.contains(&("AUDIT_OUTBOX_HASH", Some(2))), "{codes:?}");
    assert!(codes.contains(&("AUDIT_EVENT_DIFFERS", Some(1))), "{codes:?}");
}

#[test]
fn a_value_that_means_nothing_is_found_and_the_next_sandbox_is_still_looked_at() {
    let (place, _) = written();
    {
        let ledger = place.open();
        let mut other = Life::begins(key("org", "sc"));
        let slice = other.cut(4, Cause::Pause, Some("req-none"));
        facts(&ledger, vec![other.seen(), other.record(vec![slice])]).unwrap();
    }
    let conn = place.raw();
    drop_triggers(&conn);
    conn.execute_batch("PRAGMA ignore_check_constraints = ON; UPDATE slices SET state = 'asleep' WHERE sandbox_pk = 1 AND seq = 2").unwrap();
    let report = place.reader().audit().unwrap();
    let has = |code: &str, sandbox: &str| {
        report.violations.iter().any(|it| it.code == code && it.sandbox.as_deref() == Some(sandbox))
    };
    assert!(has("AUDIT_UNREADABLE", "sb"), "{report:?}");
    assert!(has("AUDIT_COMMAND_UNKNOWN", "sc"), "{report:?}");
}

#[test]
fn a_reference_to_nothing_is_found() {
    let found = planted("INSERT INTO pending VALUES (77, 0, '{}')");
    assert_eq!(found, [("AUDIT_INTEGRITY", None)]);
    let found = planted("UPDATE slices SET sandbox_pk = 77 WHERE seq = 3");
    assert!(found.contains(&("AUDIT_INTEGRITY", None)), "{found:?}");
}

/// A ledger with enough in it to have pages of every kind.
fn large() -> (Place, Vec<u8>) {
    let place = Place::new();
    let ledger = place.open();
    for number in 0..4 {
        let mut life = Life::begins(key("org", &format!("sb-{number}")));
        let slices = (0..60).map(|_| life.cut(7, Cause::Tick, None)).collect();
        let tags = dormouse_ledger::TagSet {
            org: "org".to_owned(),
            sandbox: life.key.sandbox.clone(),
            tags: [("team".to_owned(), "a".to_owned())].into(),
            at_unix_ns: 5,
        };
        facts(&ledger, vec![life.seen(), life.record(slices), Record::Tags(tags)]).unwrap();
    }
    drop(ledger);
    let bytes = std::fs::read(place.path()).unwrap();
    (place, bytes)
}

/// What opening and auditing a damaged file says. It may say anything but nothing, and must not panic.
fn verdict(bytes: &[u8]) -> Result<AuditReport, LedgerError> {
    verdict_of(&laid_out(bytes))
}

fn laid_out(bytes: &[u8]) -> Place {
    let place = Place::new();
    std::fs::write(place.path(), bytes).unwrap();
    std::fs::write(place.path().with_extension("sqlite.lock"), "1\nopened\n").unwrap();
    place
}

fn verdict_of(place: &Place) -> Result<AuditReport, LedgerError> {
    drop(Ledger::open(&place.path(), &host())?);
    Reader::open(&place.path())?.audit()
}

fn is_damage(verdict: &Result<AuditReport, LedgerError>) -> bool {
    match verdict {
        Ok(report) => !report.is_clean(),
        Err(error) => [
            "LEDGER_CORRUPT",
            "LEDGER_NEWER",
            "LEDGER_OLDER",
            "LEDGER_OTHER_HOST",
            "LEDGER_LOST",
            "LEDGER_REJECTED",
        ]
        .contains(&error.reason()),
    }
}

#[test]
fn a_file_cut_short_anywhere_is_reported() {
    let (_place, bytes) = large();
    assert!(verdict(&bytes).unwrap().is_clean());
    for length in
        [0].into_iter().chain((1..bytes.len()).step_by(4096)).chain((200..bytes.len()).step_by(29_989))
    {
        let verdict = verdict(&bytes[..length]);
        assert!(is_damage(&verdict), "cut to {length} of {}: {verdict:?}", bytes.len());
    }
}

#[test]
fn a_page_that_is_no_page_any_more_is_reported_whichever_it_is() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    facts(&ledger, vec![life.seen()]).unwrap();
    for _ in 0..5 {
        let slices = (0..100).map(|_| life.cut(3, Cause::Tick, None)).collect();
        facts(&ledger, vec![life.record(slices)]).unwrap();
    }
    drop(ledger);
    let unused: i64 = place.raw().query_row("PRAGMA freelist_count", [], |row| row.get(0)).unwrap();
    assert_eq!(unused, 0, "a page that nobody reads may be anything");
    let bytes = std::fs::read(place.path()).unwrap();
    let audited = |bytes: &[u8]| Reader::open(&laid_out(bytes).path())?.audit();
    assert!(audited(&bytes).unwrap().is_clean());
    let pages = bytes.len() / 4096;
    assert!(pages > 150, "{pages}");
    for page in 1..pages {
        let mut damaged = bytes.clone();
        damaged[page * 4096..][..8].fill(0x5a);
        assert!(is_damage(&audited(&damaged)), "page {} of {pages}", page + 1);
    }
}

#[test]
fn a_bit_flipped_in_any_slice_or_event_is_reported() {
    let (_place, bytes) = large();
    for host_seq in (1..=240).step_by(16) {
        let needle = format!("\"hostseq\":\"{host_seq}\"");
        let mut damaged = bytes.clone();
        // Splitting pages leaves copies behind that nothing reads: all of them are hit.
        let places: Vec<usize> =
            (0..bytes.len() - 400).filter(|at| bytes[*at..].starts_with(needle.as_bytes())).collect();
        assert!(!places.is_empty());
        for at in places {
            damaged[at + host_seq] ^= 1 << (host_seq % 7);
        }
        assert!(is_damage(&verdict(&damaged)), "event {host_seq}");
    }
}

/// All that a bill is made of: the slices, final, pending and open, as of a moment, and the events that tell them.
fn billed(reader: &Reader) -> impl PartialEq + std::fmt::Debug + use<> {
    let query = SliceQuery { limit: usize::MAX, now: Some(stamp(1_000_000)), ..SliceQuery::default() };
    let events = reader.outbox(0, usize::MAX).unwrap();
    (reader.slices(&query).unwrap().rows, reader.recovery().unwrap().unfinished, events)
}

#[test]
fn a_flipped_bit_is_refused_or_reported_or_changes_nothing_that_is_billed() {
    let (place, bytes) = large();
    let whole = billed(&place.reader());
    // Every other one is aimed at the page on which the open slices lie.
    let root = "SELECT rootpage - 1 FROM sqlite_schema WHERE name = 'sandboxes'";
    let open: u32 = place.raw().query_row(root, [], |row| row.get(0)).unwrap();
    let (mut flipped, mut reported, mut random) = (0, 0, 88_172_645_463_325_252_u64);
    for _ in 0..400 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let anywhere = random % bytes.len() as u64;
        let at = if flipped % 2 == 0 { anywhere } else { u64::from(open) * 4096 + random % 4096 };
        let at = usize::try_from(at).unwrap();
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (random >> 60 & 7);
        flipped += 1;
        let damaged = laid_out(&damaged);
        if is_damage(&verdict_of(&damaged)) {
            reported += 1;
        } else {
            assert_eq!(billed(&damaged.reader()), whole, "a bit at {at}");
        }
    }
    // The rest lies in free space, in indices' slack, or in text that no bill is made of.
    assert!(reported * 4 > flipped, "{reported} of {flipped} reported");
}

#[test]
fn a_bit_flipped_in_an_open_slice_or_in_what_is_pending_keeps_the_agent_from_starting_and_is_reported() {
    for changed in [
        "UPDATE sandboxes SET open_memory_plugged_bytes = open_memory_plugged_bytes + 1",
        "UPDATE sandboxes SET open_start_boottime_ns = open_start_boottime_ns + 1",
        "INSERT INTO pending VALUES (1, 0, '{\"boot\":\"07070707-0707-0707-0707-070707070707\",\"boottime_ns\":1,\
         \"wall_ns\":1,\"cause\":\"tick\",\"change\":\"mark\"}')",
    ] {
        let (place, _) = written();
        place.raw().execute_batch(changed).unwrap();
        assert_eq!(Ledger::open(&place.path(), &host()).err().map(|error| error.reason()), None);
        assert_eq!(place.reader().recovery().unwrap_err().reason(), "LEDGER_CORRUPT", "{changed}");
        let report = place.reader().audit().unwrap();
        assert!(report.violations.iter().any(|violation| violation.code == "AUDIT_STANDING"), "{report:?}");
        assert!(report.violations.iter().all(|violation| violation.sandbox.is_some()), "{report:?}");
    }
}
