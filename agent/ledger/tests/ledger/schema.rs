//! What the schema refuses, whoever writes: here it is plain SQL.

use dormouse_ledger::{Ledger, Reader};
use dormouse_metering::BillingState;
use rusqlite::Connection;

use crate::support::{BEGAN, Life, Place, SECOND, facts, host, key, written};

/// A copy of the last slice with one column changed, as slice 4 behind the third.
fn insert_fourth(conn: &Connection, changed: &str, value: &str) -> Result<usize, rusqlite::Error> {
    let columns = [
        ("sandbox_pk", "sandbox_pk"),
        ("seq", "seq + 1"),
        ("state", "state"),
        ("fault", "fault"),
        ("vcpus_milli", "vcpus_milli"),
        ("memory_base_bytes", "memory_base_bytes"),
        ("memory_plugged_bytes", "memory_plugged_bytes"),
        ("memory_requested_bytes", "memory_requested_bytes"),
        ("disk_bytes", "disk_bytes"),
        ("duration_ns", "1000000000"),
        ("start_unix_ns", "end_unix_ns"),
        ("start_uncertainty_ns", "end_uncertainty_ns"),
        ("opened_by", "closed_by"),
        ("opened_command", "closed_command"),
        ("end_unix_ns", "end_unix_ns + 1000000000"),
        ("end_uncertainty_ns", "0"),
        ("closed_by", "'stop'"),
        ("closed_command", "NULL"),
        ("host_seq", "host_seq + 1"),
    ];
    assert!(changed.is_empty() || columns.iter().any(|(name, _)| *name == changed));
    let names = columns.map(|(name, _)| name).join(", ");
    let values = columns.map(|(name, same)| if name == changed { value } else { same }).join(", ");
    let verb = if changed.is_empty() && value == "REPLACE" { "REPLACE" } else { "INSERT" };
    conn.execute(&format!("{verb} INTO slices ({names}) SELECT {values} FROM slices WHERE seq = 3"), [])
}

fn refusal<T: std::fmt::Debug>(result: Result<T, rusqlite::Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn the_next_slice_is_accepted_when_it_begins_where_its_predecessor_ended() {
    let (place, _) = written();
    assert_eq!(insert_fourth(&place.raw(), "", "").unwrap(), 1);
}

#[test]
fn a_gap_is_refused() {
    let (place, _) = written();
    let error = refusal(insert_fourth(&place.raw(), "start_unix_ns", "end_unix_ns + 1"));
    assert!(error.contains("dormouse: a slice begins where its predecessor ended"), "{error}");
}

#[test]
fn an_overlap_is_refused() {
    let (place, _) = written();
    let error = refusal(insert_fourth(&place.raw(), "start_unix_ns", "end_unix_ns - 1"));
    assert!(error.contains("dormouse: a slice begins where its predecessor ended"), "{error}");
}

#[test]
fn a_boundary_with_two_uncertainties_is_refused() {
    let (place, _) = written();
    let error = refusal(insert_fourth(&place.raw(), "start_uncertainty_ns", "6"));
    assert!(error.contains("dormouse: a slice begins where"), "{error}");
}

#[test]
fn a_broken_cause_chain_is_refused() {
    let (place, _) = written();
    for (column, value) in [("opened_by", "'scale'"), ("opened_command", "'req-9'")] {
        let error = refusal(insert_fourth(&place.raw(), column, value));
        assert!(error.contains("dormouse: a slice is opened by what closed its predecessor"), "{error}");
    }
}

#[test]
fn a_number_out_of_turn_is_refused() {
    let (place, _) = written();
    for seq in ["0", "1", "3", "5"] {
        refusal(insert_fourth(&place.raw(), "seq", seq));
    }
    let error = refusal(insert_fourth(&place.raw(), "seq", "5"));
    assert!(error.contains("dormouse: a slice has the number after its predecessor's"), "{error}");
    let conn = place.raw();
    conn.execute(
        "INSERT INTO sandboxes (org, sandbox, generation, plan, lifecycle, created_unix_ns) \
                  VALUES ('org', 'other', 1, '', 'running', 1)",
        [],
    )
    .unwrap();
    let other = "(SELECT pk FROM sandboxes WHERE sandbox = 'other')";
    let error = refusal(insert_fourth(&conn, "sandbox_pk", other));
    assert!(error.contains("the first has 1"), "{error}");
}

#[test]
fn a_slice_is_never_changed_replaced_or_deleted() {
    let (place, _) = written();
    let conn = place.raw();
    let error = refusal(conn.execute("UPDATE slices SET duration_ns = duration_ns WHERE seq = 1", []));
    assert!(error.contains("dormouse: a slice is never changed"), "{error}");
    let error = refusal(conn.execute("DELETE FROM slices WHERE seq = 3", []));
    assert!(error.contains("dormouse: a slice is never deleted"), "{error}");
    let error = refusal(conn.execute("REPLACE INTO slices SELECT * FROM slices WHERE seq = 3", []));
    assert!(error.contains("dormouse: a slice has the number"), "{error}");
}

#[test]
fn a_slice_that_runs_backwards_or_lasts_what_it_did_not_is_refused() {
    let (place, _) = written();
    let conn = place.raw();
    for (column, value) in [
        ("end_unix_ns", "start_unix_ns - 1"),
        ("duration_ns", "-1"),
        ("duration_ns", "999999999"),
        ("state", "'asleep'"),
        ("state", "'faulted'"),
        ("fault", "'io-error'"),
        ("disk_bytes", "-1"),
        ("disk_bytes", "'much'"),
        ("closed_by", "''"),
        ("sandbox_pk", "77"),
    ] {
        refusal(insert_fourth(&conn, column, value));
    }
}

#[test]
fn a_slice_of_a_sandbox_that_is_not_there_is_refused_whoever_looks_at_references() {
    for foreign_keys in [true, false] {
        let (place, _) = written();
        let conn = place.raw();
        conn.pragma_update(None, "foreign_keys", foreign_keys).unwrap();
        let first = "INSERT INTO slices SELECT 77, 1, state, fault, vcpus_milli, memory_base_bytes, \
             memory_plugged_bytes, memory_requested_bytes, disk_bytes, duration_ns, start_unix_ns, \
             start_uncertainty_ns, opened_by, opened_command, end_unix_ns, end_uncertainty_ns, closed_by, \
             closed_command, 99 FROM slices WHERE seq = 1";
        let error = refusal(conn.execute(first, []));
        assert!(error.contains("dormouse: a slice is of a sandbox that is there"), "{error}");
        conn.execute_batch("DROP TRIGGER slices_tile").unwrap();
        assert_eq!(conn.execute(first, []).is_err(), foreign_keys);
    }
}

#[test]
fn no_check_of_what_is_written_with_each_slice_makes_a_table_of_its_own() {
    let (place, _) = written();
    let conn = place.raw();
    let closing = format!("INSERT INTO slices VALUES ({})", ["1"; 19].join(", "));
    for statement in [
        closing.as_str(),
        "UPDATE sandboxes SET open_state = 'running', open_fault = NULL, open_seq = 1, open_start_unix_ns = 1 WHERE pk = 1",
        "UPDATE commands SET outcome_status = 'done' WHERE org = 'org' AND request_id = 'req-1'",
        "INSERT INTO outbox VALUES (1, '1', '1', NULL, NULL, 1, x'', x'', x'')",
    ] {
        let mut program = conn.prepare(&format!("EXPLAIN {statement}")).unwrap();
        let steps: Vec<String> =
            program.query_map([], |row| row.get("opcode")).unwrap().collect::<Result<_, _>>().unwrap();
        assert!(steps.iter().any(|step| step == "Program"), "{statement}: its triggers are asked");
        let is_made = |step: &&String| ["OpenEphemeral", "OpenAutoindex"].contains(&step.as_str());
        assert_eq!(steps.iter().find(is_made), None, "{statement}");
    }
}

#[test]
fn the_two_exceptions_of_a_stepped_clock_are_accepted() {
    let (place, _) = written();
    assert_eq!(insert_fourth(&place.raw(), "duration_ns", "0").unwrap(), 1, "wall time that a step skipped");
    let (place, _) = written();
    assert_eq!(
        insert_fourth(&place.raw(), "end_unix_ns", "end_unix_ns").unwrap(),
        1,
        "time while it stood still"
    );
}

#[test]
fn every_billing_state_has_a_place_in_the_schema() {
    for state in BillingState::ALL {
        let (place, _) = written();
        let conn = place.raw();
        let fault = state.fault().map(dormouse_metering::Fault::as_str);
        let open = "UPDATE sandboxes SET open_state = ?1, open_fault = ?2";
        conn.execute(open, (state.name(), fault)).unwrap();
        conn.execute_batch("DROP TRIGGER slices_stay").unwrap();
        conn.execute("UPDATE slices SET state = ?1, fault = ?2", (state.name(), fault)).unwrap();
    }
}

#[test]
fn an_open_slice_that_does_not_follow_the_last_closed_one_is_refused() {
    let (place, _) = written();
    let conn = place.raw();
    for change in [
        "open_seq = 5",
        "open_start_unix_ns = open_start_unix_ns + 1",
        "open_opened_by = 'scale'",
        "open_opened_command = 'req-9'",
        "open_start_uncertainty_ns = 0",
        "open_state = NULL",
        "generation = generation + 1",
    ] {
        refusal(conn.execute(&format!("UPDATE sandboxes SET {change}"), []));
    }
}

#[test]
fn a_life_that_has_ended_takes_no_slice_and_stays_ended() {
    let (place, mut life) = written();
    let last = life.cut(1, dormouse_metering::Cause::Death, None);
    facts(&place.open(), vec![life.end(vec![last])]).unwrap();
    let conn = place.raw();
    let ended: i64 = conn.query_row("SELECT ended_unix_ns FROM sandboxes", [], |row| row.get(0)).unwrap();
    assert_eq!(ended, BEGAN + 23 * SECOND);
    refusal(conn.execute("UPDATE sandboxes SET ended_unix_ns = NULL", []));
    refusal(conn.execute("UPDATE sandboxes SET ended_unix_ns = ended_unix_ns + 1", []));
    let error = refusal(conn.execute(
        "INSERT INTO slices SELECT sandbox_pk, 5, state, fault, vcpus_milli, memory_base_bytes, memory_plugged_bytes, \
         memory_requested_bytes, disk_bytes, 1, end_unix_ns, end_uncertainty_ns, closed_by, closed_command, \
         end_unix_ns + 1, 0, 'stop', NULL, 99 FROM slices WHERE seq = 4",
        [],
    ));
    assert!(error.contains("dormouse: a life that has ended has no more slices"), "{error}");
}

#[test]
fn what_was_recorded_of_commands_events_anchors_and_sandboxes_is_never_changed_or_deleted() {
    let (place, _) = written();
    let conn = place.raw();
    for statement in [
        "UPDATE commands SET payload = '{}'",
        "DELETE FROM commands",
        "UPDATE outbox SET payload = x'00'",
        "DELETE FROM outbox WHERE host_seq = 3",
        "DELETE FROM sandboxes",
        "INSERT INTO outbox SELECT 9, 'id', type, org, sandbox, event_unix_ns, payload, payload_hash, payload_hash \
         FROM outbox WHERE host_seq = 3",
        "INSERT INTO outbox SELECT 4, 'id', type, org, sandbox, event_unix_ns, payload, payload_hash, prev_hash \
         FROM outbox WHERE host_seq = 3",
    ] {
        let error = refusal(conn.execute(statement, []));
        assert!(error.contains("dormouse: "), "{statement}: {error}");
    }
}
#[test]
fn an_empty_file_is_migrated_and_a_second_opening_changes_nothing() {
    let place = Place::new();
    std::fs::write(place.path(), b"").unwrap();
    drop(place.open());
    let schema = |conn: &Connection| -> Vec<String> {
        let mut statement = conn.prepare("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY 1").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let before = schema(&place.raw());
    drop(place.open());
    assert_eq!(before, schema(&place.raw()));
    let version: i64 = place.raw().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let migrations = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    assert_eq!(version, i64::try_from(migrations.count()).unwrap());
    assert!(place.reader().audit().unwrap().is_clean());
}

#[test]
fn what_a_ledger_of_version_10_says_of_each_memory_device_is_read_as_it_is() {
    let place = Place::new();
    let life = Life::begins(key("org", "sb"));
    facts(&place.open(), vec![life.seen(), life.record(Vec::new())]).unwrap();
    let old = place.raw();
    old.execute("UPDATE attachments SET plugged_by_device = '[512,256]'", []).unwrap();
    old.pragma_update(None, "user_version", 10).unwrap();
    drop(old);
    let ledger = place.open();
    let read = ledger.reader().unwrap().recovery().unwrap().sandboxes.remove(0).plugged_by_device.unwrap();
    assert_eq!((read.bytes, read.least_bytes, read.at_boottime_ns), (vec![512, 256], vec![512, 256], 0));
}

#[test]
fn a_ledger_of_a_newer_version_is_refused_and_left_alone() {
    let (place, _) = written();
    place.raw().pragma_update(None, "user_version", 1_000).unwrap();
    let error = Ledger::open(&place.path(), &host()).err().unwrap();
    assert_eq!(error.reason(), "LEDGER_NEWER");
    assert!(error.to_string().contains("install a newer dormouse"), "{error}");
    assert_eq!(Reader::open(&place.path()).err().unwrap().reason(), "LEDGER_NEWER");
}

#[test]
fn another_program_s_database_is_refused_and_left_alone() {
    let place = Place::new();
    place.raw().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = Ledger::open(&place.path(), &host()).err().unwrap();
    assert_eq!(error.reason(), "LEDGER_CORRUPT");
    let objects: i64 =
        place.raw().query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(objects, 1);
}
