//! L2: whatever was used, however it is broken down, adds up to the same integers as the slices one by one. What is
//! here is asked of a host's ledger (`usage_sums`), and of a fleet's (`tests/e2e/fleet/usage.rs`).

use std::collections::BTreeMap;
use std::ops::Range;

use dormouse_ledger::usage::{
    Amount, Attribution, BreakdownQuery, Cancel, DrilldownQuery, GroupBy, Interval, Item, Moment, Rules,
    TagFilter, UsageLedger,
};
use dormouse_ledger::{Reader, Record, SandboxFilter, SliceBatch, TagSet, UsageQuery};
use dormouse_metering::{
    Basis, BillingState, Boundary, Cause, Change, Dimensions, Observation, OpenSlice, Policy, Quantities,
    Shape, Slice, Stamp,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{BEGAN, BOOT, GIB, Life, Place, SECOND, facts, key};

pub(crate) const HOUR: i64 = 3600 * SECOND;
const KEY: &str = "team";

/// How one slice goes: how long, in which form, and what comes behind it.
#[derive(Clone, Debug)]
struct Cut {
    duration_ns: u64,
    /// 0: as long by the wall clock; 1: skipped by a step; 2: while the wall clock stood still.
    form: u8,
    shape: Shape,
    state: BillingState,
}

fn cut() -> impl Strategy<Value = Cut> {
    let hour = HOUR.cast_unsigned();
    // To the hour, about it, over several of them, and short.
    let duration =
        prop_oneof![Just(hour), Just(2 * hour), hour - 3..hour + 3, 1..5 * hour, 1..60_000_000_000_u64];
    let form = prop_oneof![8 => Just(0_u8), 1 => Just(1), 1 => Just(2)];
    let memory = || prop_oneof![Just(0), 0..64 * GIB, Just(i64::MAX.cast_unsigned())];
    let shape = (0..64_000_u32, memory(), memory(), memory(), 0..5_u64).prop_map(
        |(vcpus_milli, base, plugged, requested, disks)| Shape {
            vcpus_milli,
            memory_base_bytes: base,
            memory_plugged_bytes: plugged,
            memory_requested_bytes: requested,
            disk_bytes: disks * 10 * GIB + disks,
        },
    );
    (duration, form, shape, proptest::sample::select(&BillingState::ALL[..]))
        .prop_map(|(duration_ns, form, shape, state)| Cut { duration_ns, form, shape, state })
}

fn close(open: &mut OpenSlice, cut: &Cut, is_cut_at_hours: bool) -> Slice {
    let left_ns = (HOUR - open.start.unix_ns.rem_euclid(HOUR)).cast_unsigned();
    let lasts_ns = if is_cut_at_hours { cut.duration_ns.min(left_ns) } else { cut.duration_ns };
    let span_ns = if cut.form == 2 { 0 } else { lasts_ns };
    let duration_ns = if cut.form == 1 { 0 } else { lasts_ns };
    let unix_ns = open.start.unix_ns.saturating_add_unsigned(span_ns);
    let end = Boundary { unix_ns, uncertainty_ns: 0, cause: Cause::Tick, command: None };
    let next = OpenSlice {
        seq: open.seq + 1,
        state: cut.state,
        shape: cut.shape,
        start: end.clone(),
        start_boottime_ns: open.start_boottime_ns + duration_ns,
        ..open.clone()
    };
    let OpenSlice { seq, state, shape, start, .. } = std::mem::replace(open, next);
    Slice { seq, state, shape, duration_ns, start, end }
}

/// A change of a sandbox's tag: which sandbox of which org, when, and to what; `None` takes it away.
type Retag = (usize, i64, Option<u8>);

/// What happens to five lives.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// Whether slices are cut at hours, as every host does, and all that is there is final, as in a fleet.
    pub(crate) is_fleets: bool,
    lives: Vec<Vec<Cut>>,
    ended: u8,
    pending_after_ns: i64,
    retags: Vec<Retag>,
}

impl World {
    /// The changes of tags, in order.
    pub(crate) fn retags(&self) -> impl Iterator<Item = TagSet> {
        self.retags.iter().map(|(index, at_unix_ns, value)| {
            let (org, sandbox) = NAMES[*index];
            TagSet {
                org: org.to_owned(),
                sandbox: sandbox.to_owned(),
                tags: value.map(|value| (KEY.to_owned(), format!("v{value}"))).into_iter().collect(),
                at_unix_ns: *at_unix_ns,
            }
        })
    }
}

/// Two orgs with the same ids. The second `sb` of `a` is another generation.
const NAMES: [(&str, &str); 5] = [("a", "sb"), ("b", "sb"), ("a", "sc"), ("b", "sd"), ("a", "sb")];

pub(crate) fn world(is_fleets: bool) -> impl Strategy<Value = World> {
    let retag = (0..4_usize, BEGAN - HOUR..BEGAN + 20 * HOUR, proptest::option::of(0..3_u8));
    (vec(vec(cut(), 0..36), 5), any::<u8>(), 1..HOUR, vec(retag, 0..8)).prop_map(
        move |(lives, ended, pending_after_ns, mut retags)| {
            retags.sort_by_key(|retag| retag.1);
            World { is_fleets, lives, ended, pending_after_ns, retags }
        },
    )
}

pub(crate) fn tell(place: &Place, world: &World) {
    let ledger = place.open();
    for (index, cuts) in world.lives.iter().enumerate() {
        let (org, sandbox) = NAMES[index];
        let mut life = Life::begins(key(org, sandbox));
        life.key.generation += i64::try_from(index).unwrap();
        // The first of two generations has ended; of others some.
        let ended = index == 0 || (index < 4 && world.ended >> index & 1 == 1);
        facts(&ledger, vec![life.seen(), life.record(vec![])]).unwrap();
        // One unit for each slice or two: rollups are written in different transactions.
        for pair in cuts.chunks(2) {
            let slices = pair.iter().map(|cut| close(&mut life.open, cut, world.is_fleets)).collect();
            facts(&ledger, vec![life.record(slices)]).unwrap();
        }
        if ended {
            let last = close(&mut life.open, &Cut { duration_ns: 7, ..a_cut() }, world.is_fleets);
            facts(&ledger, vec![life.end(vec![last])]).unwrap();
            continue;
        }
        if world.is_fleets {
            continue;
        }
        let (start, after_ns) = (&life.open, world.pending_after_ns);
        let at = Stamp {
            boot: BOOT,
            boottime_ns: start.start_boottime_ns.saturating_add_signed(after_ns),
            wall_ns: start.start.unix_ns + after_ns,
            uncertainty_ns: 0,
        };
        let change = Change::State(BillingState::Paused);
        let pending = vec![Observation { at, change, cause: Cause::Pause, command: None }];
        let (key, open) = (life.key.clone(), Some(life.open.clone()));
        facts(&ledger, vec![Record::Slices(SliceBatch { key, slices: vec![], open, pending, ended })])
            .unwrap();
    }
    for set in world.retags() {
        facts(&ledger, vec![Record::Tags(set)]).unwrap();
    }
}

fn a_cut() -> Cut {
    Cut { duration_ns: 1, form: 0, shape: Shape::default(), state: BillingState::Running }
}

/// The slices one by one, without rollups: what all else is compared with.
fn by_slices(
    reader: &Reader,
    org: &str,
    window: Range<i64>,
    rules: &Rules,
    now: Option<Stamp>,
) -> (Quantities, BTreeMap<String, Quantities>) {
    let usage = reader
        .usage(&UsageQuery {
            sandboxes: SandboxFilter { org: Some(org.to_owned()), ..SandboxFilter::default() },
            window,
            now,
            policy: rules.policy,
            basis: rules.basis,
            free_disk_bytes: rules.free_disk_bytes,
        })
        .unwrap();
    (usage.total, usage.items.into_iter().map(|item| (item.sandbox, item.quantities)).collect())
}

fn add(a: Quantities, b: Quantities) -> Quantities {
    a.checked_add(b).unwrap()
}

fn sum(amounts: impl IntoIterator<Item = Amount>) -> Amount {
    amounts.into_iter().reduce(|a, b| a.checked_add(b).unwrap()).unwrap_or_default()
}

fn query(org: &str, window: Range<i64>, rules: &Rules, moment: Moment) -> BreakdownQuery {
    let all = BreakdownQuery::by_sandbox(org, window, moment, rules.clone());
    BreakdownQuery { limit: usize::MAX, ..all }
}

/// What each value of the tag amounts to by the slices alone, as tags were or as they are.
fn by_tag(
    reader: &Reader,
    org: &str,
    window: &Range<i64>,
    rules: &Rules,
    now: Option<Stamp>,
    attribution: Attribution,
) -> BTreeMap<Option<String>, Quantities> {
    let mut sums = BTreeMap::<_, Quantities>::new();
    for sandbox in ["sb", "sc", "sd"] {
        let spans = reader.tag_history(org, sandbox).unwrap();
        let mut cuts: Vec<i64> =
            spans.iter().flat_map(|span| [Some(span.from_unix_ns), span.to_unix_ns]).flatten().collect();
        cuts.retain(|cut| window.contains(cut));
        cuts.extend([window.start, window.end]);
        cuts.sort_unstable();
        cuts.dedup();
        for cut in cuts.windows(2) {
            let value = match attribution {
                Attribution::Live => spans.iter().find(|span| span.to_unix_ns.is_none()),
                Attribution::AsOf => spans
                    .iter()
                    .find(|span| span.from_unix_ns <= cut[0] && span.to_unix_ns.is_none_or(|to| cut[0] < to)),
            };
            let (_, items) = by_slices(reader, org, cut[0]..cut[1], rules, now);
            if let Some(quantities) = items.get(sandbox) {
                let entry = sums.entry(value.map(|span| span.value.clone())).or_default();
                *entry = add(*entry, *quantities);
            }
        }
    }
    sums
}

/// Holds what a ledger answers against the slices and tags of a host's, one by one.
pub(crate) fn check(
    ledger: &mut dyn UsageLedger,
    reader: &Reader,
    rules: &Rules,
    (window, split): (&Range<i64>, i64),
    now: Option<Stamp>,
) {
    let moment = Moment { open_until: now, tags_unix_ns: BEGAN + 100 * HOUR };
    let never = Cancel::default();
    for org in ["a", "b", "c"] {
        let (total, items) = by_slices(reader, org, window.clone(), rules, now);
        let all = query(org, window.clone(), rules, moment);
        let answer = ledger.breakdown(&all, &never).unwrap();
        assert_eq!(answer.total.quantities, total, "rollups and slices");
        let told: BTreeMap<_, _> =
            answer.items.iter().map(|item| (item.key.clone(), item.amount.quantities)).collect();
        assert_eq!(told, items, "by sandbox");
        assert_eq!(sum(answer.items.iter().map(|item| item.amount)), answer.total);
        for attribution in [Attribution::Live, Attribution::AsOf] {
            let by = BreakdownQuery { group_by: GroupBy::Tag(KEY.to_owned()), attribution, ..all.clone() };
            let tagged = ledger.breakdown(&by, &never).unwrap();
            let untagged = tagged.untagged.unwrap();
            assert_eq!(sum(tagged.items.iter().map(|item| item.amount).chain([untagged])), answer.total);
            let mut told: BTreeMap<_, _> =
                tagged.items.iter().map(|item| (Some(item.key.clone()), item.amount.quantities)).collect();
            if untagged.duration_ns > 0 {
                told.insert(None, untagged.quantities);
            }
            assert_eq!(told, by_tag(reader, org, window, rules, now, attribution), "{attribution:?}");
            for item in &tagged.items {
                let values = vec![item.key.clone()];
                let filters = vec![TagFilter { key: KEY.to_owned(), values }];
                let only = BreakdownQuery { filters, attribution, ..all.clone() };
                assert_eq!(ledger.breakdown(&only, &never).unwrap().total, item.amount, "a filter");
            }
            let filters = vec![TagFilter { key: KEY.to_owned(), values: vec![String::new()] }];
            let absent = BreakdownQuery { filters, attribution, ..all.clone() };
            assert_eq!(ledger.breakdown(&absent, &never).unwrap().total, untagged, "no tag of the key");
        }
        for interval in [Interval::Hour, Interval::Day] {
            let by = BreakdownQuery { interval: Some(interval), ..all.clone() };
            let points = ledger.breakdown(&by, &never).unwrap().points.unwrap();
            assert_eq!(sum(points.iter().map(|point| point.amount)), answer.total, "{interval:?}");
            let tile = points.windows(2).all(|pair| pair[0].window.end == pair[1].window.start);
            let ends = (points.first().unwrap().window.start, points.last().unwrap().window.end);
            assert!(tile && ends == (window.start, window.end));
        }
        let parts = [window.start..split, split..window.end]
            .map(|window| ledger.breakdown(&query(org, window, rules, moment), &never).unwrap().total);
        assert_eq!(sum(parts), answer.total, "a window split at {split}");
        for entry in ledger.sandbox_entries(org, "", 10, &never).unwrap() {
            assert_eq!(entry.lifecycle == "ended", entry.ended_unix_ns.is_some(), "{entry:?}");
        }

        one_by_one(ledger, &answer.items, (org, window, rules, moment));
    }
}

/// Holds what is said of each sandbox by itself against what was said of it among all.
fn one_by_one(
    ledger: &mut dyn UsageLedger,
    items: &[Item],
    (org, window, rules, moment): (&str, &Range<i64>, &Rules, Moment),
) {
    let never = Cancel::default();
    for item in items {
        let one = DrilldownQuery {
            org: org.to_owned(),
            sandbox: item.key.clone(),
            window: window.clone(),
            moment,
            rules: rules.clone(),
            interval: Some(Interval::Hour),
        };
        let one = ledger.drilldown(&one, &never).unwrap().unwrap();
        assert_eq!(one.amount, item.amount, "drilldown");
        assert_eq!(sum(one.points.unwrap().iter().map(|point| point.amount)), item.amount);
        let (first, last) = (one.first_started_unix_ns.unwrap(), one.last_ended_unix_ns.unwrap());
        assert!(window.start <= first && first <= last && last <= window.end);
        // What the clock stood still for lies at its last instant, which is in the window only behind it.
        let within = DrilldownQuery {
            window: first..(last + 1).min(window.end).max(first + 1),
            ..drilldown_of(&item.key, org, rules, moment)
        };
        assert_eq!(ledger.drilldown(&within, &never).unwrap().unwrap().amount, item.amount, "first to last");
    }
}

fn drilldown_of(sandbox: &str, org: &str, rules: &Rules, moment: Moment) -> DrilldownQuery {
    DrilldownQuery {
        org: org.to_owned(),
        sandbox: sandbox.to_owned(),
        window: 0..1,
        moment,
        rules: rules.clone(),
        interval: None,
    }
}

/// An instant, often one at which something happens.
pub(crate) fn instant() -> impl Strategy<Value = i64> {
    prop_oneof![
        (-1..30_i64).prop_map(|hours| BEGAN + hours * HOUR),
        (-1..30_i64, -2..3_i64).prop_map(|(hours, ns)| BEGAN + hours * HOUR + ns),
        BEGAN - HOUR..BEGAN + 30 * HOUR,
    ]
}

pub(crate) fn rules() -> impl Strategy<Value = Rules> {
    let basis =
        proptest::sample::select(&[Basis::Plugged, Basis::Requested, Basis::Greater, Basis::Lesser][..]);
    let billed = (any::<bool>(), any::<bool>(), any::<bool>());
    (basis, 0..40 * GIB, billed).prop_map(|(basis, free_disk_bytes, (memory, vcpu, disk))| {
        let mut policy = Policy::default();
        policy.set("paused", Dimensions { memory, vcpu, disk }).unwrap();
        Rules { policy, basis, free_disk_bytes }
    })
}
