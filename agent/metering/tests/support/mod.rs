//! True lives of sandboxes, what an agent learns of them, and a naive oracle.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "for tests; each file uses a part"
)]

use std::cmp::{max, min};
use std::collections::BTreeSet;

use dormouse_metering::{
    BillingState, BootId, Cause, Change, CommandId, Fault, Meter, Observation, OpenSlice, Shape, Slice, Stamp,
};
use proptest::prelude::*;

pub const BOOT: BootId = BootId([1; 16]);
pub const HOUR: u64 = 3_600_000_000_000;
/// 2026-01-01T00:30:00Z
pub const WALL: i64 = 1_767_227_400_000_000_000;
pub const BEGAN: u64 = 1_000_000_000_000;

pub fn at(boottime_ns: u64) -> Stamp {
    Stamp { boot: BOOT, boottime_ns, wall_ns: WALL.wrapping_add_unsigned(boottime_ns), uncertainty_ns: 0 }
}

pub fn seen(at: Stamp, change: Change, cause: Cause) -> Observation {
    Observation { at, change, cause, command: None }
}

pub fn commanded(at: Stamp, change: Change, cause: Cause, command: &str) -> Observation {
    Observation { command: Some(CommandId::new(command)), ..seen(at, change, cause) }
}

pub fn shape(plugged: u64) -> Shape {
    Shape {
        vcpus_milli: 2000,
        memory_base_bytes: 1 << 28,
        memory_plugged_bytes: plugged,
        memory_requested_bytes: plugged,
        disk_bytes: 1 << 35,
    }
}

/// A meter whose life began at boottime `BEGAN`, running, with nothing plugged.
pub fn begun() -> Meter {
    let mut meter = Meter::new();
    let change = Change::Began(shape(0), BillingState::Running);
    meter.observe(seen(at(BEGAN), change, Cause::Attach), &mut |_| {}).unwrap();
    meter
}

pub fn provisional(meter: &Meter) -> (Vec<Slice>, Option<OpenSlice>) {
    let mut slices = Vec::new();
    let open = meter.provisional(&mut |slice| slices.push(slice));
    (slices, open)
}

pub fn states() -> impl Strategy<Value = BillingState> {
    prop::sample::select(vec![
        BillingState::Running,
        BillingState::Running,
        BillingState::Paused,
        BillingState::Hibernated,
        BillingState::Waking,
        BillingState::Faulted(Fault::IoError),
        BillingState::Lost,
        BillingState::Suppressed,
    ])
}

pub fn shapes() -> impl Strategy<Value = Shape> {
    (1..3_u32, 1..3_u64, 0..4_u64, 0..4_u64, 0..3_u64).prop_map(|(vcpus, base, plugged, requested, disk)| {
        Shape {
            vcpus_milli: vcpus * 1000,
            memory_base_bytes: base,
            memory_plugged_bytes: plugged,
            memory_requested_bytes: requested,
            disk_bytes: disk,
        }
    })
}

pub fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0..4_u64).prop_map(Change::Plugged),
        2 => (0..4_u64).prop_map(Change::Requested),
        1 => (1..3_u32).prop_map(|n| Change::Vcpus(n * 1000)),
        1 => (0..3_u64).prop_map(Change::Disk),
        3 => states().prop_map(Change::State),
        2 => (shapes(), states()).prop_map(|(shape, state)| Change::Holds(shape, state)),
        1 => any::<bool>().prop_map(Change::Suppressed),
        1 => Just(Change::Mark),
    ]
}

/// One thing that really happens, and how it is learned.
#[derive(Clone, Debug)]
struct Happening {
    after_ns: u64,
    change: Change,
    /// Of a mark: how far the wall clock is set.
    step_ns: i64,
    /// How far before and after the truth the window reaches; none is an exact stamp.
    window: Option<(u64, u64)>,
    delay_ns: u64,
    by_command: bool,
    /// Whether QEMU's own exact event is seen too, beside the answer to a query; it knows no command.
    told_by_event: bool,
}

fn happenings(steps: std::ops::RangeInclusive<i64>) -> impl Strategy<Value = Happening> {
    let short = || prop_oneof![1..50_u64, 1..3_000_000_000_u64];
    let after = prop_oneof![4 => 1..50_u64, 4 => 1..3_000_000_000_u64, 1 => 1..3 * HOUR];
    let step = prop_oneof![3 => Just(0), 1 => -40..40_i64, 1 => steps.clone()];
    let step = step.prop_map(move |ns| if steps.contains(&ns) { ns } else { 0 });
    let window = prop_oneof![2 => Just(None), 1 => (short(), short()).prop_map(Some)];
    (after, changes(), step, window, short(), any::<(bool, bool)>()).prop_map(
        |(after_ns, change, step_ns, window, delay_ns, (by_command, told_by_event))| Happening {
            after_ns,
            change,
            step_ns,
            window: window.filter(|_| change != Change::Mark),
            delay_ns,
            by_command,
            told_by_event: told_by_event && change != Change::Mark,
        },
    )
}

/// A true life, and its observations.
#[derive(Clone, Debug)]
pub struct History {
    pub began: Observation,
    /// What really happened, with the boottime.
    pub truth: Vec<(u64, Change)>,
    /// What is learned of it, in order of stamps.
    pub stamped: Vec<Observation>,
    /// The same, in order of arrival.
    pub arriving: Vec<Observation>,
}

/// Lives within one boot: with steps of the wall clock in a range, and an end or none.
pub fn histories(steps: std::ops::RangeInclusive<i64>) -> impl Strategy<Value = History> {
    let end = prop_oneof![1 => Just(None), 1 => happenings(0..=0).prop_map(Some)];
    (shapes(), states(), prop::collection::vec(happenings(steps), 0..12), end).prop_map(
        |(shape, state, mut happenings, end)| {
            happenings.extend(end.map(|end| Happening { change: Change::Ended, ..end }));
            history(shape, state, &happenings)
        },
    )
}

pub const ANY_STEP: std::ops::RangeInclusive<i64> = -7_200_000_000_000..=7_200_000_000_000;
pub const FORWARD: std::ops::RangeInclusive<i64> = 0..=7_200_000_000_000;
pub const NO_STEP: std::ops::RangeInclusive<i64> = 0..=0;

fn history(shape: Shape, state: BillingState, happenings: &[Happening]) -> History {
    let mut now = BEGAN;
    let truth: Vec<(u64, Change)> = happenings
        .iter()
        .map(|h| {
            now += h.after_ns;
            (now, h.change)
        })
        .collect();
    let mut taken: BTreeSet<u64> = truth.iter().map(|(at, _)| *at).collect();
    let mut steps: Vec<(u64, i64)> = Vec::new();
    let mut arriving = Vec::new();
    for (index, h) in happenings.iter().enumerate() {
        let (truth_ns, change) = truth[index];
        if change == Change::Mark && h.step_ns != 0 {
            steps.push((truth_ns, h.step_ns));
        }
        let next = truth[index + 1..].iter().find(|(_, later)| shares(&change, later));
        let (before, after) = h.window.unwrap_or((0, 0));
        let mut stamp_ns = min(truth_ns + after, next.map_or(u64::MAX, |(at, _)| at - 1));
        while stamp_ns > truth_ns && taken.contains(&stamp_ns) {
            stamp_ns -= 1;
        }
        taken.insert(stamp_ns);
        let (cause, command) = match change {
            Change::Mark if h.step_ns != 0 => (Cause::ClockStep, None),
            Change::Mark => (Cause::Tick, None),
            _ if h.by_command => (Cause::Scale, Some(CommandId::new(&format!("command-{index}")))),
            _ => (Cause::Resize, None),
        };
        let at = at(stamp_ns).uncertain_by(stamp_ns - truth_ns + min(before, truth_ns - BEGAN));
        if h.told_by_event && h.window.is_some() {
            let arrival_ns = truth_ns + h.delay_ns.wrapping_mul(7) % 3_000_000_000;
            arriving.push((arrival_ns, seen(self::at(truth_ns), change, Cause::Resize)));
        }
        arriving.push((stamp_ns + h.delay_ns, Observation { at, change, cause, command }));
    }
    for (_, observation) in &mut arriving {
        for (_, ns) in steps.iter().filter(|(from, _)| *from <= observation.at.boottime_ns) {
            observation.at.wall_ns += ns;
        }
    }
    arriving.sort_by_key(|(arrival, _)| *arrival);
    let arriving: Vec<Observation> = arriving.into_iter().map(|(_, observation)| observation).collect();
    let mut stamped = arriving.clone();
    stamped.sort_by_key(|observation| (observation.at.boottime_ns, observation.at.uncertainty_ns));
    let began = seen(at(BEGAN), Change::Began(shape, state), Cause::Attach);
    History { began, truth, stamped, arriving }
}

fn shares(a: &Change, b: &Change) -> bool {
    let marks = *a == Change::Mark || *b == Change::Mark;
    *b == Change::Ended && !marks || (0..=SUPPRESSED).any(|c| says(a, c).is_some() && says(b, c).is_some())
}

impl History {
    pub fn meter(&self) -> Meter {
        let mut meter = Meter::new();
        meter.observe(self.began.clone(), &mut |_| {}).unwrap();
        meter
    }

    /// A stamp of the clock as it is at a boottime.
    pub fn stamp(&self, boottime_ns: u64) -> Stamp {
        let last = self.stamped.iter().rfind(|observation| observation.at.boottime_ns <= boottime_ns);
        let anchor = last.unwrap_or(&self.began).at;
        Stamp { uncertainty_ns: 0, ..anchor }.later_by(boottime_ns - anchor.boottime_ns)
    }

    /// The last instant before anything that arrives at or behind `index` can have happened.
    pub fn quiet_ns(&self, index: usize) -> u64 {
        let start = |o: &Observation| o.at.boottime_ns - o.at.uncertainty_ns;
        self.arriving[index..].iter().map(start).min().map_or(BEGAN + 1000 * HOUR, |ns| ns - 1)
    }

    /// All slices, when everything is sealed at once.
    pub fn settled(&self) -> (Vec<Slice>, Option<OpenSlice>) {
        let mut meter = self.meter();
        for observation in &self.arriving {
            meter.observe(observation.clone(), &mut |_| {}).unwrap();
        }
        provisional(&meter)
    }
}

pub const COMPONENTS: usize = 6;

/// Beside the components of what is held: whether all of it but what is lost is free, 0, or not, 1.
const SUPPRESSED: usize = COMPONENTS;

/// What a change says of a component, as a number that grows with what is billed; a state's number tells
/// states apart as well.
pub fn says(change: &Change, component: usize) -> Option<u64> {
    match (component, *change) {
        (SUPPRESSED, Change::Began(..)) => Some(1),
        (SUPPRESSED, Change::Suppressed(suppressed)) => Some(u64::from(!suppressed)),
        (SUPPRESSED, _) => None,
        (_, Change::Began(shape, state) | Change::Holds(shape, state)) => {
            Some(values(&shape, state)[component])
        }
        (0, Change::State(state)) => Some(values(&Shape::default(), state)[0]),
        (1, Change::Vcpus(milli)) => Some(u64::from(milli)),
        (3, Change::Plugged(bytes)) | (4, Change::Requested(bytes)) | (5, Change::Disk(bytes)) => Some(bytes),
        _ => None,
    }
}

pub fn values(shape: &Shape, state: BillingState) -> [u64; COMPONENTS] {
    let rank = match state {
        BillingState::Running => 2,
        BillingState::Lost => 0,
        _ => 1,
    };
    let number = BillingState::ALL.iter().position(|s| *s == state).unwrap() as u64;
    [
        rank * 100 + number,
        shape.vcpus_milli.into(),
        shape.memory_base_bytes,
        shape.memory_plugged_bytes,
        shape.memory_requested_bytes,
        shape.disk_bytes,
    ]
}

/// What must be held at an instant, straight from the definition: up to the last statement on a component its
/// value; of the next ones, as long as their windows have begun, the least.
pub fn oracle(history: &History, at_ns: u64) -> [u64; COMPONENTS] {
    if let Change::Began(shape, _) = history.began.change
        && certain_end(history) == Some(BEGAN)
    {
        return values(&shape, BillingState::Lost);
    }
    billed(std::array::from_fn(|component| {
        let all = [&history.began].into_iter().chain(&history.stamped);
        let mut statements =
            all.filter_map(|o| says(&o.change, component).map(|value| (o.at, value))).peekable();
        let mut known = 0;
        while let Some((_, value)) = statements.next_if(|(at, _)| at.boottime_ns <= at_ns) {
            known = value;
        }
        statements
            .take_while(|(at, _)| at.boottime_ns - at.uncertainty_ns <= at_ns)
            .fold(known, |least, (_, next)| lesser(component, least, next))
    }))
}

/// What is billed where all of it may be free by command: nothing hides that a life was lost.
fn billed(held: [u64; COMPONENTS + 1]) -> [u64; COMPONENTS] {
    let [state, vcpus, base, plugged, requested, disk, billed] = held;
    let lost = values(&Shape::default(), BillingState::Lost)[0];
    let suppressed = values(&Shape::default(), BillingState::Suppressed)[0];
    let state = if billed == 0 && state != lost { suppressed } else { state };
    [state, vcpus, base, plugged, requested, disk]
}

fn lesser(component: usize, known: u64, next: u64) -> u64 {
    if component == 0 && next / 100 == known / 100 { known } else { min(known, next) }
}

/// When the life ends: for the bill, unless nothing of it is certain.
pub fn oracle_end(history: &History) -> Option<u64> {
    let end = history.stamped.iter().find(|last| last.change == Change::Ended)?;
    certain_end(history).map(|certain| if certain == BEGAN { end.at.boottime_ns } else { certain })
}

/// Through when the life is certain to have gone on.
fn certain_end(history: &History) -> Option<u64> {
    let end = history.stamped.iter().find(|last| last.change == Change::Ended)?;
    let others = history
        .stamped
        .iter()
        .filter(|o| !matches!(o.change, Change::Mark | Change::Suppressed(_) | Change::Ended));
    let seen = others.map(|o| o.at.boottime_ns - o.at.uncertainty_ns).max().unwrap_or(BEGAN);
    Some(max(end.at.boottime_ns - end.at.uncertainty_ns, seen))
}

/// What was really held at an instant.
pub fn truth(history: &History, at_ns: u64) -> [u64; COMPONENTS] {
    billed(std::array::from_fn(|component| {
        let all = [(BEGAN, history.began.change)].into_iter().chain(history.truth.iter().copied());
        all.filter(|(at, _)| *at <= at_ns)
            .filter_map(|(_, change)| says(&change, component))
            .next_back()
            .unwrap()
    }))
}

/// Every instant at which anything can begin to differ.
pub fn instants(history: &History) -> BTreeSet<u64> {
    let stamps = history.stamped.iter().map(|o| o.at.boottime_ns);
    let windows = history.stamped.iter().map(|o| o.at.boottime_ns - o.at.uncertainty_ns);
    stamps.chain(windows).chain(history.truth.iter().map(|(at, _)| *at)).chain([BEGAN]).collect()
}

/// The slices with the boottime at which each begins, by adding durations up.
pub fn by_boottime(slices: &[Slice]) -> Vec<(u64, &Slice)> {
    let mut at_ns = BEGAN;
    slices
        .iter()
        .map(|slice| {
            let begins = at_ns;
            at_ns += slice.duration_ns;
            (begins, slice)
        })
        .collect()
}

/// What the slices say is held at an instant; `None` before and after all of them.
pub fn held(slices: &[(u64, &Slice)], open: Option<&OpenSlice>, at_ns: u64) -> Option<[u64; COMPONENTS]> {
    let closed = slices.iter().find(|(from, slice)| *from <= at_ns && at_ns < from + slice.duration_ns);
    let open = open.filter(|open| open.start_boottime_ns <= at_ns);
    closed
        .map(|(_, slice)| values(&slice.shape, slice.state))
        .or(open.map(|open| values(&open.shape, open.state)))
}
