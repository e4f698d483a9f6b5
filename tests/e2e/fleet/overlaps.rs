//! What keeps slices of a sandbox from overlapping, by the table alone: as exact as ranges of nanoseconds are.

use dormouse_ledger::fleet::{VERSION, migrate};
use tokio_postgres::error::SqlState;

use crate::scene::Scene;

/// A slice of which nothing matters but where it lies.
const SLICES: &str = "CREATE FUNCTION lies(sandbox bigint, generation bigint, from_ns bigint, to_ns bigint) RETURNS void \
    LANGUAGE sql AS $$ INSERT INTO slices (sandbox_id, generation, seq, org, state, start_unix_ns, end_unix_ns, \
        duration_ns, memory_base_bytes, memory_plugged_bytes, memory_requested_bytes, vcpus_milli, disk_bytes, opened_by, \
        closed_by, uncertainty_ns) \
        VALUES (sandbox, generation, 1, 'org', 'running', from_ns, to_ns, to_ns - from_ns, 0, 0, 0, 0, 0, 'tick', 'tick', 0) $$; \
    SELECT make_slices_partition(month) FROM unnest('{1767225600000000000, 1769904000000000000}'::bigint[]) AS month";

/// A full hour: the one at which another 1,024 begin.
const HOUR: &str = "1769472000000000000";

/// Every two of the slices that begin and end at the edges of some hours or a nanosecond beside them, of the same sandbox, or
/// of two whose numbers are next to each other: the second, of another generation, is refused where their ranges overlap,
/// and nowhere else. Hours: the last of January 2026, the first of February, and those on both sides of
/// January 27, where another 1,024 hours begin. Says how many were refused.
const COMPARE: &str = "CREATE FUNCTION compare() RETURNS bigint LANGUAGE plpgsql AS $$ \
    DECLARE pair record; refused boolean; refusals bigint := 0; \
    BEGIN \
        FOR pair IN WITH spans AS ( \
            SELECT hour + f AS from_ns, hour + t AS to_ns \
            FROM unnest('{1769468400000000000, 1769472000000000000, 1769900400000000000, \
                1769904000000000000}'::bigint[]) AS hour, \
            unnest('{0, 1, 3599999999999, 3600000000000}'::bigint[]) AS f, \
            unnest('{0, 1, 3599999999999, 3600000000000}'::bigint[]) AS t \
            WHERE f <= t AND f < 3600000000000) \
        SELECT a.from_ns AS a_from, a.to_ns AS a_to, b.from_ns AS b_from, b.to_ns AS b_to, one, other, \
            one = other AND int8range(a.from_ns, a.to_ns) && int8range(b.from_ns, b.to_ns) AS overlap \
        FROM spans a, spans b, (VALUES (7, 7), (7, 8), (9007199254740990, 9007199254740990), \
            (9007199254740991, 9007199254740990)) AS sandboxes (one, other) \
        LOOP \
            BEGIN \
                PERFORM lies(pair.one, 1, pair.a_from, pair.a_to); \
                refused := false; \
                BEGIN \
                    PERFORM lies(pair.other, 2, pair.b_from, pair.b_to); \
                EXCEPTION WHEN exclusion_violation THEN refused := true; \
                END; \
                RAISE EXCEPTION USING ERRCODE = 'DM000'; \
            EXCEPTION WHEN SQLSTATE 'DM000' THEN NULL; \
            END; \
            IF refused <> pair.overlap THEN RAISE EXCEPTION 'refused: %, of %', refused, pair; END IF; \
            refusals := refusals + refused::integer; \
        END LOOP; \
        RETURN refusals; \
    END $$";

#[tokio::test]
async fn slices_are_refused_exactly_where_their_ranges_overlap_to_the_nanosecond_and_as_in_the_version_before()
 {
    let scene = Scene::new().await;
    let mut client = scene.client().await;
    client.batch_execute(SLICES).await.unwrap();
    client.batch_execute(COMPARE).await.unwrap();
    let now = scene.says("SELECT compare()").await;
    migrate(&mut client, VERSION - 1).await.unwrap();
    assert_eq!(scene.says("SELECT compare()").await, now, "as in the version before");
    assert_ne!(now, "0");
}

#[tokio::test]
async fn a_slice_across_an_hour_or_of_a_sandbox_without_an_exact_place_is_refused_by_the_table_itself() {
    let scene = Scene::new().await;
    let client = scene.client().await;
    client.batch_execute(SLICES).await.unwrap();
    for (sandbox, from, to) in [
        ("7", "- 1", "+ 1"),
        ("7", "", "+ 3600000000001"),
        ("9007199254740992", "", "+ 1"),
        ("-1", "", "+ 1"),
    ] {
        let refused =
            client.execute(&format!("SELECT lies({sandbox}, 1, {HOUR} {from}, {HOUR} {to})"), &[]).await;
        let refused = refused.unwrap_err();
        let said = refused.as_db_error().unwrap();
        assert_eq!(
            (said.code(), said.constraint()),
            (&SqlState::CHECK_VIOLATION, Some("slices_have_a_place"))
        );
    }
    let all = format!("SELECT lies(7, 1, {HOUR}, {HOUR} + 3600000000000)");
    client.execute(&all, &[]).await.expect("all of an hour is none too many");
}
