//! What a window amounts to: exactly, whatever is open, pending or clipped.

use dormouse_ledger::{Ledger, Record, SandboxFilter, SliceBatch, SliceQuery, UsageQuery};
use dormouse_metering::{
    Basis, BillingState, Cause, Change, CommandId, Meter, Observation, Policy, Quantities, Shape, Stamp,
};

use crate::support::{BEGAN, GIB, Life, Place, SECOND, facts, key, stamp};

const NS_PER_S: u64 = 1_000_000_000;

fn query(window: std::ops::Range<i64>, now: Option<Stamp>) -> UsageQuery {
    UsageQuery {
        sandboxes: SandboxFilter::default(),
        window,
        now,
        policy: Policy::default(),
        basis: Basis::Plugged,
        free_disk_bytes: 20 * GIB,
    }
}

fn observation(seconds: i64, change: Change, cause: Cause, command: Option<&str>) -> Observation {
    Observation { at: stamp(seconds), change, cause, command: command.map(CommandId::new) }
}

/// Keeps what a meter asks to be kept, as the agent does.
fn keep(ledger: &Ledger, life: &Life, meter: &Meter, slices: Vec<dormouse_metering::Slice>) {
    let batch = SliceBatch {
        key: life.key.clone(),
        slices,
        open: meter.open().cloned(),
        pending: meter.pending().to_vec(),
        ended: meter.has_ended(),
    };
    facts(ledger, vec![life.seen(), Record::Slices(batch)]).unwrap();
}

/// Runs from 0 s, is paused at 10 s (final), resumed at 15 s (pending).
fn half_final(ledger: &Ledger, life: &Life) -> Meter {
    let shape = Shape { vcpus_milli: 2000, memory_base_bytes: GIB, disk_bytes: 30 * GIB, ..Shape::default() };
    let (mut meter, mut slices) = (Meter::new(), Vec::new());
    let mut observe = |meter: &mut Meter, it| meter.observe(it, &mut |slice| slices.push(slice)).unwrap();
    observe(&mut meter, observation(0, Change::Began(shape, BillingState::Running), Cause::Attach, None));
    observe(&mut meter, observation(10, Change::State(BillingState::Paused), Cause::Pause, Some("req-1")));
    observe(&mut meter, observation(15, Change::State(BillingState::Running), Cause::Resume, Some("req-2")));
    meter.seal(stamp(12), &mut |slice| slices.push(slice));
    assert_eq!((slices.len(), meter.pending().len()), (1, 1));
    keep(ledger, life, &meter, slices);
    meter
}

#[test]
fn usage_counts_final_pending_and_open_time_to_the_nanosecond() {
    let place = Place::new();
    let ledger = place.open();
    let life = Life::begins(key("org", "sb"));
    half_final(&ledger, &life);
    let reader = place.reader();
    let day = BEGAN..BEGAN + 86_400 * SECOND;
    let usage = reader.usage(&query(day.clone(), Some(stamp(20)))).unwrap();
    let gib_s = i128::from(GIB) * i128::from(SECOND);
    assert_eq!(usage.total.memory_byte_ns, 15 * gib_s, "10 s before the pause, 5 s after it");
    assert_eq!(usage.total.vcpu_milli_ns, 15 * 2000 * i128::from(SECOND));
    assert_eq!(usage.total.disk_byte_ns, 20 * 30 * gib_s, "disk is billed while paused");
    assert_eq!(usage.total.disk_overage_byte_ns, 20 * 10 * gib_s);
    let usage = reader.usage(&query(day, None)).unwrap();
    assert_eq!(usage.total.memory_byte_ns, 10 * gib_s, "without a moment, what is final");
    let window = BEGAN + 9 * SECOND..BEGAN + 16 * SECOND + 1;
    let usage = reader.usage(&query(window, Some(stamp(20)))).unwrap();
    assert_eq!(usage.total.memory_byte_ns, 2 * gib_s + i128::from(GIB), "clipped at both ends");
    let before = BEGAN - 5 * SECOND..BEGAN;
    assert!(reader.usage(&query(before, Some(stamp(20)))).unwrap().items.is_empty());
}

#[test]
fn what_was_observed_after_the_moment_of_a_question_does_not_count() {
    let place = Place::new();
    let ledger = place.open();
    half_final(&ledger, &Life::begins(key("org", "sb")));
    let usage = place.reader().usage(&query(BEGAN..BEGAN + 86_400 * SECOND, Some(stamp(12)))).unwrap();
    let gib_s = i128::from(GIB) * i128::from(SECOND);
    assert_eq!(usage.total.memory_byte_ns, 10 * gib_s);
    assert_eq!(usage.total.disk_byte_ns, 12 * 30 * gib_s);
    let rows = place.reader().slices(&SliceQuery { limit: 9, now: Some(stamp(12)), ..SliceQuery::default() });
    let last = rows.unwrap().rows.pop().unwrap();
    assert_eq!((last.seq, last.state.as_str(), last.duration_ns), (2, "paused", 2 * NS_PER_S));
}

#[test]
fn slices_tell_what_is_final_what_is_provisional_and_what_is_open() {
    let place = Place::new();
    let ledger = place.open();
    let life = Life::begins(key("org", "sb"));
    half_final(&ledger, &life);
    let ask = |now: Option<Stamp>| {
        place.reader().slices(&SliceQuery { limit: 10, now, ..SliceQuery::default() }).unwrap().rows
    };
    let rows: Vec<_> = ask(Some(stamp(20)))
        .into_iter()
        .map(|row| {
            (
                row.seq,
                row.state,
                row.duration_ns / NS_PER_S,
                row.end_unix_ns.is_some(),
                row.is_final,
                row.command_id,
            )
        })
        .collect();
    let expected = [
        (1, "running".to_owned(), 10, true, true, Some("req-1".to_owned())),
        (2, "paused".to_owned(), 5, true, false, Some("req-2".to_owned())),
        (3, "running".to_owned(), 5, false, false, None),
    ];
    assert_eq!(rows, expected);
    assert_eq!(ask(None).len(), 1);
    let at_once = ask(Some(stamp(15)));
    assert_eq!((at_once.len(), at_once[2].duration_ns, at_once[2].end_unix_ns), (3, 0, None));
}

#[test]
fn an_open_slice_is_told_hour_by_hour_as_it_will_be_cut() {
    let place = Place::new();
    let ledger = place.open();
    let life = Life::begins(key("org", "sb"));
    half_final(&ledger, &life);
    let now = stamp(2 * 3600 + 30);
    let rows = place
        .reader()
        .slices(&SliceQuery { limit: 10, now: Some(now), ..SliceQuery::default() })
        .unwrap()
        .rows;
    let ends: Vec<_> = rows.iter().map(|row| row.end_unix_ns.map(|end| (end - BEGAN) / SECOND)).collect();
    assert_eq!(ends, [Some(10), Some(15), Some(3600), Some(7200), None]);
    assert_eq!(rows[4].duration_ns, 30 * NS_PER_S);
    let usage = place.reader().usage(&query(BEGAN..BEGAN + 86_400 * SECOND, Some(now))).unwrap();
    assert_eq!(usage.total.disk_byte_ns, i128::from(30 * GIB) * i128::from(7230 * SECOND));
}

#[test]
fn a_window_has_the_slices_with_time_in_it_page_by_page() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    // Three hours and a half of ticks, one of them an instant; the last is open.
    let slices = (1..22).map(|tick| life.cut(if tick == 9 { 0 } else { 600 }, Cause::Tick, None)).collect();
    facts(&ledger, vec![life.seen(), life.record(slices)]).unwrap();
    let reader = place.reader();
    let ask = |window, after, limit| {
        let now = Some(stamp(13_000));
        reader.slices(&SliceQuery { window, after, limit, now, ..SliceQuery::default() }).unwrap()
    };
    let all = ask(None, None, 100).rows;
    assert!(all.len() > 21, "{}", all.len());
    let edges = [-1, 0, 1, 599, 600, 4_799, 4_800, 4_801, 7_200, 10_900, 12_500, 14_000];
    for (index, from) in edges.iter().enumerate() {
        for to in &edges[index + 1..] {
            let window = BEGAN + from * SECOND..BEGAN + to * SECOND;
            let has_time = |row: &&dormouse_ledger::SliceRow| {
                let end = row.end_unix_ns.unwrap_or(i64::MAX);
                row.start_unix_ns < window.end && (end > window.start || row.start_unix_ns >= window.start)
            };
            let expected: Vec<_> = all.iter().filter(has_time).cloned().collect();
            for limit in [1, 2, 100] {
                let (mut rows, mut after) = (Vec::new(), None);
                loop {
                    let page = ask(Some(window.clone()), after, limit);
                    rows.extend(page.rows);
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(rows, expected, "from {from} until {to}, {limit} at once");
            }
        }
    }
}

#[test]
fn pages_follow_each_other_without_a_hole_or_a_repetition() {
    let place = Place::new();
    let ledger = place.open();
    for (org, sandbox, cuts) in [("a", "sb", 5), ("a", "sc", 1), ("b", "sd", 4)] {
        let mut life = Life::begins(key(org, sandbox));
        let slices = (0..cuts).map(|_| life.cut(1, Cause::Tick, None)).collect();
        facts(&ledger, vec![life.seen(), life.record(slices)]).unwrap();
    }
    let page = |limit: usize, after| {
        place
            .reader()
            .slices(&SliceQuery { limit, after, now: Some(stamp(60)), ..SliceQuery::default() })
            .unwrap()
    };
    let all = page(100, None);
    assert_eq!((all.rows.len(), &all.next), (13, &None));
    for limit in 1..14 {
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let next = page(limit, after);
            rows.extend(next.rows);
            after = next.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(rows, all.rows, "pages of {limit}");
    }
    let of_b = SandboxFilter { org: Some("b".to_owned()), ..SandboxFilter::default() };
    let rows = place
        .reader()
        .slices(&SliceQuery { sandboxes: of_b, limit: 100, ..SliceQuery::default() })
        .unwrap()
        .rows;
    assert!(rows.len() == 4 && rows.iter().all(|row| row.org == "b"));
}

#[test]
fn l2_windows_that_tile_and_sandboxes_add_up_to_the_total_exactly() {
    let place = Place::new();
    let ledger = place.open();
    for (number, (org, sandbox)) in (0_u32..).zip([("a", "sb"), ("b", "sb"), ("b", "sc")]) {
        let mut life = Life::begins(key(org, sandbox));
        // Ids that are equal in two orgs must differ in their generation.
        life.key.generation += i64::from(number);
        life.open.shape.memory_plugged_bytes = 3 + u64::from(number);
        let slices = (0..40).map(|cut| life.cut(1 + cut % 7, Cause::Tick, None)).collect();
        facts(&ledger, vec![life.seen(), life.record(slices)]).unwrap();
    }
    let reader = place.reader();
    let now = Some(stamp(500));
    let end = BEGAN + 600 * SECOND;
    let all = reader.usage(&query(BEGAN..end, now)).unwrap();
    let add = |a: Quantities, b: Quantities| a.checked_add(b).unwrap();
    assert_eq!(all.items.len(), 3);
    assert_eq!(all.items.iter().map(|item| item.quantities).reduce(add), Some(all.total));
    for step in [1_234_567_891, 7 * SECOND, 100 * SECOND + 1] {
        let windows =
            (BEGAN..end).step_by(usize::try_from(step).unwrap()).map(|from| from..end.min(from + step));
        let sum = windows.map(|window| reader.usage(&query(window, now)).unwrap().total).reduce(add);
        assert_eq!(sum, Some(all.total), "windows of {step} ns");
    }
    let of_b = SandboxFilter { org: Some("b".to_owned()), ..SandboxFilter::default() };
    let b = reader.usage(&UsageQuery { sandboxes: of_b, ..query(BEGAN..end, now) }).unwrap();
    assert_eq!(add(b.total, all.items[0].quantities), all.total);
}

#[test]
fn a_clock_that_stood_still_at_an_hour_bills_that_time_once() {
    let place = Place::new();
    let ledger = place.open();
    let mut life = Life::begins(key("org", "sb"));
    let first = life.cut(10, Cause::ClockStep, None);
    let mut still = life.cut(0, Cause::Tick, None);
    still.duration_ns = 4 * NS_PER_S;
    facts(&ledger, vec![life.seen(), life.record(vec![first, still])]).unwrap();
    let (cut, reader) = (BEGAN + 10 * SECOND, place.reader());
    let memory = |window| reader.usage(&query(window, None)).unwrap().total.memory_byte_ns;
    let gib_s = i128::from(GIB) * i128::from(SECOND);
    assert_eq!(memory(BEGAN..cut), 10 * gib_s);
    assert_eq!(memory(cut..cut + 1), 4 * gib_s);
}
