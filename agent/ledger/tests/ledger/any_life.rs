//! Whatever is written is read back equal, and passes the audit.

use std::collections::{BTreeMap, BTreeSet};

use dormouse_ledger::{CommandIntent, Record, SandboxFilter, SliceBatch, SliceQuery, SliceRow};
use dormouse_metering::{
    BillingState, BootId, Boundary, Cause, Change, CommandId, Observation, OpenSlice, Shape, Slice, Stamp,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{BEGAN, Life, Place, facts, intent, key};

/// What SQLite can hold.
const MOST: u64 = i64::MAX as u64;

fn cause() -> impl Strategy<Value = Cause> {
    proptest::sample::select(Cause::ALL)
}

fn state() -> impl Strategy<Value = BillingState> {
    proptest::sample::select(&BillingState::ALL[..])
}

fn shape() -> impl Strategy<Value = Shape> {
    (any::<u32>(), 0..=MOST, 0..=MOST, 0..=MOST, 0..=MOST).prop_map(
        |(vcpus_milli, base, plugged, requested, disk)| Shape {
            vcpus_milli,
            memory_base_bytes: base,
            memory_plugged_bytes: plugged,
            memory_requested_bytes: requested,
            disk_bytes: disk,
        },
    )
}

fn command() -> impl Strategy<Value = CommandId> {
    (0..9_u8).prop_map(|number| CommandId::new(&format!("req-{number}")))
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (shape(), state()).prop_map(|(shape, state)| Change::Began(shape, state)),
        (shape(), state()).prop_map(|(shape, state)| Change::Holds(shape, state)),
        any::<u64>().prop_map(Change::Plugged),
        any::<u64>().prop_map(Change::Requested),
        any::<u32>().prop_map(Change::Vcpus),
        any::<u64>().prop_map(Change::Disk),
        state().prop_map(Change::State),
        any::<bool>().prop_map(Change::Suppressed),
        Just(Change::Mark),
        Just(Change::Ended),
    ]
}

fn observation() -> impl Strategy<Value = Observation> {
    let at = (any::<[u8; 16]>(), any::<u64>(), any::<i64>(), any::<u64>()).prop_map(
        |(boot, boottime_ns, wall_ns, uncertainty_ns)| Stamp {
            boot: BootId(boot),
            boottime_ns,
            wall_ns,
            uncertainty_ns,
        },
    );
    (at, change(), cause(), proptest::option::of(command()))
        .prop_map(|(at, change, cause, command)| Observation { at, change, cause, command })
}

/// A cut: how long the slice before it lasted, and what comes behind it.
#[derive(Clone, Debug)]
struct Cut {
    duration_ns: u64,
    /// 0: as long by the wall clock; 1: skipped by a step; 2: while the wall clock stood still.
    form: u8,
    uncertainty_ns: u64,
    cause: Cause,
    command: CommandId,
    shape: Shape,
    state: BillingState,
}

fn cut() -> impl Strategy<Value = Cut> {
    // Short, so that few cross an hour: that the audit would rightly tell.
    let form = prop_oneof![8 => Just(0_u8), 1 => Just(1), 1 => Just(2)];
    (1..1_000_000_u64, form, 0..=MOST, cause(), command(), shape(), state()).prop_map(
        |(duration_ns, form, uncertainty_ns, cause, command, shape, state)| Cut {
            duration_ns,
            form,
            uncertainty_ns,
            cause,
            command,
            shape,
            state,
        },
    )
}

fn close(open: &mut OpenSlice, cut: Cut) -> Slice {
    let span_ns = if cut.form == 2 { 0 } else { cut.duration_ns };
    let duration_ns = if cut.form == 1 { 0 } else { cut.duration_ns };
    let end = Boundary {
        unix_ns: open.start.unix_ns.saturating_add_unsigned(span_ns),
        uncertainty_ns: cut.uncertainty_ns,
        cause: cut.cause,
        command: Some(cut.command),
    };
    let next = OpenSlice {
        beneath: None,
        seq: open.seq + 1,
        state: cut.state,
        shape: cut.shape,
        start: end.clone(),
        boot: open.boot,
        start_boottime_ns: open.start_boottime_ns + duration_ns,
    };
    let before = std::mem::replace(open, next);
    let OpenSlice { seq, state, shape, start, .. } = before;
    Slice { seq, state, shape, duration_ns, start, end }
}

/// One unit: of which sandbox, its cuts, and what is pending behind them.
type Unit = (usize, Vec<Cut>, Vec<Observation>);

fn tell(units: Vec<Unit>) {
    let place = Place::new();
    let ledger = place.open();
    let mut lives =
        [("org", "sb"), ("org", "sc"), ("org-2", "sd")].map(|(org, sandbox)| Life::begins(key(org, sandbox)));
    let intents =
        lives.iter().flat_map(|life| (0..9).map(|number| (life.key.org.clone(), format!("req-{number}"))));
    let intents: BTreeSet<_> = intents.collect();
    let intents = intents
        .into_iter()
        .map(|(org, request_id)| Record::Intent(CommandIntent { org, ..intent(&request_id) }));
    facts(&ledger, intents.collect()).unwrap();
    for life in &lives {
        facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap();
    }
    let (mut rows, mut pending_now) = (BTreeMap::<_, Vec<SliceRow>>::new(), BTreeMap::new());
    for (index, cuts, pending) in units {
        let life = &mut lives[index];
        let slices: Vec<_> = cuts.into_iter().map(|cut| close(&mut life.open, cut)).collect();
        let rows = rows.entry(life.key.clone()).or_default();
        for slice in &slices {
            let mut row = SliceRow::closed(&life.key, slice, true);
            let was_suppressed = rows.iter().chain([&row]).any(|row| row.opened_by == "suppress");
            if row.state == "suppressed" && was_suppressed {
                // What every command of this test gives as its reason.
                row.reason = Some("idle".to_owned());
            }
            rows.push(row);
        }
        pending_now.insert(life.key.clone(), pending.clone());
        let (key, open) = (life.key.clone(), Some(life.open.clone()));
        facts(&ledger, vec![Record::Slices(SliceBatch { key, slices, open, pending, ended: false })])
            .unwrap();
    }
    let reader = place.reader();
    for (life, row) in lives.iter().zip(reader.sandboxes(&SandboxFilter::default()).unwrap()) {
        assert_eq!((&row.key, row.open.as_ref()), (&life.key, Some(&life.open)));
        assert_eq!(row.pending, pending_now.remove(&life.key).unwrap_or_default());
    }
    let read = reader.slices(&SliceQuery { limit: usize::MAX, ..SliceQuery::default() }).unwrap().rows;
    assert_eq!(read, rows.into_values().flatten().collect::<Vec<_>>());
    let events = reader.outbox(0, usize::MAX).unwrap();
    assert_eq!(events.len(), read.len());
    // What is pending here is no meter's: all else must hold.
    let faults: Vec<_> =
        reader.audit().unwrap().violations.into_iter().filter(|it| it.code != "AUDIT_LIFE").collect();
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(read.iter().filter(|row| row.start_unix_ns < BEGAN).count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_is_read_back_equal(
        units in vec((0..3_usize, vec(cut(), 0..5), vec(observation(), 0..4)), 0..12)
    ) {
        tell(units);
    }
}
