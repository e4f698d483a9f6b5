//! Whatever a life was like, its ticks add up to what it amounts to, floored once, and are the same when told again.

use std::collections::BTreeMap;
use std::path::Path;

use dormouse_ledger::usage::LifeTotals;
use dormouse_ledger::{
    Class, HostName, Ledger, LifecycleEvent, OutboxRow, Record, SandboxKey, SandboxSeen, SliceBatch, SliceRow,
};
use dormouse_metering::{
    BillingState, BootId, Boundary, Cause, CommandId, Dimensions, OpenSlice, Shape, Slice, Stamp,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::terms::Terms;
use super::*;
use crate::config::{self, Billing};

const SECOND: u64 = 1_000_000_000;
const HOUR: i64 = 3_600_000_000_000;
const BEGAN: i64 = 1_767_225_600_000_000_000;
const GIB: u64 = 1 << 30;
const BOOT: BootId = BootId([7; 16]);

fn host() -> HostName {
    HostName { cell: "cell".to_owned(), host: "h1".to_owned() }
}

fn life(sandbox: &str) -> SandboxKey {
    SandboxKey { org: "org".to_owned(), sandbox: sandbox.to_owned(), generation: BEGAN }
}

fn sink(vcpu_hour_microcents: u64) -> config::Sink {
    config::Sink {
        memory_gib_hour_microcents: 1_620_000,
        vcpu_hour_microcents,
        disk_gib_hour_microcents: 9_999,
        ..config::Sink::default()
    }
}

/// How long a slice lasts, in which state, and with how much memory in MiB and disk in GiB.
type Cut = (u64, BillingState, u64, u64);

fn cut() -> impl Strategy<Value = Cut> {
    let duration = prop_oneof![1..3 * SECOND, 1..7_200 * SECOND, Just(20 * SECOND), Just(1)];
    (duration, proptest::sample::select(&BillingState::ALL[..]), 0..70_000_u64, 0..40_u64)
}

/// A sandbox's life as it is told to a ledger.
struct Teller<'a> {
    ledger: &'a Ledger,
    key: SandboxKey,
    open: OpenSlice,
}

impl<'a> Teller<'a> {
    fn begins(ledger: &'a Ledger, sandbox: &str, command: Option<&str>) -> Self {
        let key = life(sandbox);
        let seen = SandboxSeen {
            key: key.clone(),
            plan: "free".to_owned(),
            attachment: json!({}),
            lifecycle: "running".to_owned(),
            created_unix_ns: BEGAN,
        };
        let command = command.map(CommandId::new);
        let start = Boundary { unix_ns: BEGAN, uncertainty_ns: 0, cause: Cause::Attach, command };
        let shape = Shape { vcpus_milli: 1_500, memory_base_bytes: GIB, ..Shape::default() };
        let (state, boot) = (BillingState::Running, BOOT);
        let open = OpenSlice { seq: 1, state, beneath: None, shape, start, boot, start_boottime_ns: 1_000 };
        let teller = Self { ledger, key, open };
        teller.record(vec![Record::SandboxSeen(seen), teller.slices(Vec::new(), false)]);
        teller
    }

    fn record(&self, records: Vec<Record>) {
        self.ledger.writer().write(Class::Fact, records).expect("it is stored");
    }

    fn slices(&self, slices: Vec<Slice>, ended: bool) -> Record {
        let open = (!ended).then(|| self.open.clone());
        Record::Slices(SliceBatch { key: self.key.clone(), slices, open, pending: Vec::new(), ended })
    }

    /// Closes the open slice after a time, cut at the hours in it.
    fn cut(&mut self, (duration_ns, state, memory_mib, disk_gib): Cut) -> Vec<Slice> {
        let (mut slices, mut left_ns) = (Vec::new(), duration_ns);
        while left_ns > 0 {
            let to_hour_ns = HOUR - self.open.start.unix_ns.rem_euclid(HOUR);
            let duration_ns = left_ns.min(to_hour_ns.unsigned_abs());
            left_ns -= duration_ns;
            let unix_ns = self.open.start.unix_ns.saturating_add_unsigned(duration_ns);
            let end = Boundary { unix_ns, uncertainty_ns: 0, cause: Cause::Tick, command: None };
            let OpenSlice { seq, shape, start, .. } = self.open.clone();
            slices.push(Slice { seq, state: self.open.state, shape, start, duration_ns, end: end.clone() });
            (self.open.seq, self.open.start) = (seq + 1, end);
            self.open.start_boottime_ns += duration_ns;
        }
        self.open.state = state;
        self.open.shape.memory_plugged_bytes = memory_mib << 20;
        self.open.shape.disk_bytes = disk_gib * GIB;
        slices
    }

    fn happened(&self, kind: &str, command: &str, detail: Value) {
        let at = Stamp { boot: BOOT, boottime_ns: 1, wall_ns: BEGAN, uncertainty_ns: 0 };
        let (key, kind) = (self.key.clone(), kind.to_owned());
        let command = Some(CommandId::new(command));
        self.record(vec![Record::Lifecycle(LifecycleEvent { key, kind, command, detail, at })]);
    }
}

fn open(folder: &Path) -> Ledger {
    Ledger::open(&folder.join("ledger.sqlite"), &host()).expect("a ledger")
}

fn events(ledger: &Ledger) -> Vec<OutboxRow> {
    ledger.reader().and_then(|reader| reader.outbox(0, usize::MAX)).expect("its events")
}

/// What is told of events by whoever has just started, and knows nothing but the ledger.
fn told(ledger: &Ledger, events: &[OutboxRow]) -> Vec<Vec<u8>> {
    let flat = Flat::new(ledger.reader().expect("a reader"), &host(), "flat").expect("its terms");
    flat.shared.entries(events).expect("they are told")
}

fn read(entries: &[Vec<u8>]) -> Vec<Value> {
    entries.iter().map(|entry| serde_json::from_slice(entry).expect("JSON")).collect()
}

/// The sums of ticks, by life: cents, and seconds by whether vCPUs are billed in them.
type Sums = BTreeMap<String, (u64, BTreeMap<bool, u64>)>;

fn told_sums(entries: &[Vec<u8>]) -> Sums {
    let mut sums = Sums::new();
    for entry in read(entries).iter().filter(|entry| entry["type"] == "usage_tick") {
        let number = |name: &str| entry["payload"][name].as_u64().expect("a number");
        let of = entry["sandbox_id"].as_str().expect("a sandbox").to_owned();
        let (cents, seconds) = sums.entry(of).or_default();
        *cents += number("cost_cents");
        // By default memory and vCPUs are billed together, or not at all.
        *seconds.entry(number("cpu_count") > 0).or_default() += number("interval_s");
    }
    sums
}

fn exact_sums(events: &[OutboxRow], terms: &Terms) -> Sums {
    let mut lives: BTreeMap<String, LifeTotals> = BTreeMap::new();
    for event in events.iter().filter(|event| event.event_type == SLICE_EVENT) {
        let slice: SliceRow = Told::read(event).and_then(|told| told.data()).expect("a slice");
        lives.entry(slice.sandbox.clone()).or_default().add(&slice).expect("it fits");
    }
    let sums = lives.into_iter().map(|(sandbox, life)| {
        let amount = life.amount(&terms.rules).expect("it fits");
        let cents = terms.prices.cents(&amount.quantities).expect("it fits");
        let mut seconds = BTreeMap::new();
        for (running, billed) in [(true, Dimensions::ALL), (false, Dimensions::DISK)] {
            let ns = life.billed_as_ns(&terms.rules, billed).expect("it fits");
            seconds.insert(running, u64::try_from(ns / u128::from(SECOND)).expect("it fits"));
        }
        (sandbox, (u64::try_from(cents).expect("it fits"), seconds))
    });
    sums.collect()
}

fn nonzero(mut sums: Sums) -> Sums {
    for (_, seconds) in sums.values_mut() {
        seconds.retain(|_, seconds| *seconds > 0);
    }
    sums.retain(|_, (cents, seconds)| *cents > 0 || !seconds.is_empty());
    sums
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn ticks_add_up_to_their_lives_floored_once_and_are_the_same_bytes_however_they_are_told(
        cuts in vec((0..3_usize, cut()), 1..60), batch in 1..20_usize,
    ) {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = open(folder.path());
        agree(&ledger, &config::Sink { name: "flat".to_owned(), ..sink(2_250_000) }, &Billing::default())
            .expect("it is agreed");
        let mut lives = ["a", "b", "c"].map(|sandbox| Teller::begins(&ledger, sandbox, None));
        for (at, cut) in cuts {
            let slices = lives[at].cut(cut);
            lives[at].record(vec![lives[at].slices(slices, false)]);
        }
        let events = events(&ledger);
        let at_once = told(&ledger, &events);
        // Each batch by someone who has just started, at any place between two events.
        let in_batches: Vec<_> = events.chunks(batch).flat_map(|events| told(&ledger, events)).collect();
        prop_assert_eq!(&at_once, &in_batches);
        let agreed = Agreed::read(&ledger.reader().expect("a reader"), "flat").expect("its terms");
        let exact = exact_sums(&events, agreed.at(1).expect("terms"));
        prop_assert_eq!(nonzero(told_sums(&at_once)), nonzero(exact));
    }
}

#[test]
fn prices_that_change_change_nothing_that_was_told_and_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    let named = |price| config::Sink { name: "flat".to_owned(), ..sink(price) };
    agree(&ledger, &named(2_250_000), &Billing::default()).expect("it is agreed");
    let mut sandbox = Teller::begins(&ledger, "a", None);
    let hours = |teller: &mut Teller<'_>, count: u64| {
        let slices = teller.cut((count * 3_600 * SECOND, BillingState::Running, 0, 0));
        teller.record(vec![teller.slices(slices, false)]);
    };
    hours(&mut sandbox, 3);
    let (first, before) = (events(&ledger), told(&ledger, &events(&ledger)));
    agree(&ledger, &named(4_500_000), &Billing::default()).expect("it is agreed");
    agree(&ledger, &named(9_000_000), &Billing::default()).expect("it is agreed before any event");
    assert_eq!(told(&ledger, &first), before);
    hours(&mut sandbox, 1);
    let all = told(&ledger, &events(&ledger));
    assert_eq!(all[..3], before[..]);
    // 1.62 for memory and 1.5 times 2.25 for vCPUs are 4.995; 1.62 and 13.5 are 15.12.
    let cents: Vec<_> = read(&all).iter().map(|tick| tick["payload"]["cost_cents"].clone()).collect();
    assert_eq!(cents, [4, 5, 5, 15]);
}

#[test]
fn a_life_is_told_from_created_to_stopped_each_once_and_what_failed_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = open(folder.path());
    agree(&ledger, &config::Sink { name: "flat".to_owned(), ..sink(0) }, &Billing::default())
        .expect("it is agreed");
    let mut sandbox = Teller::begins(&ledger, "a", Some("req-1"));
    let done = || json!({"outcome": {"result": {"result": "done"}, "message": "so it is"}});
    sandbox.happened("attach", "req-1", done());
    sandbox.happened("attach", "req-2", done());
    sandbox.happened("scale", "req-3", json!({"refusal": {"reason": "NO"}}));
    sandbox.happened(
        "scale",
        "req-4",
        json!({"outcome": {"result": {"result": "unchanged"}, "message": ""}}),
    );
    sandbox.happened("scale", "req-5", done());
    sandbox.happened("pause", "req-6", done());
    sandbox.happened("hibernate", "req-7", done());
    sandbox.happened("wake", "req-8", done());
    let lasts = |teller: &mut Teller<'_>, state| teller.cut((90 * SECOND / 60, state, 512, 30));
    let slices =
        [lasts(&mut sandbox, BillingState::Lost), lasts(&mut sandbox, BillingState::Paused)].concat();
    sandbox.record(vec![sandbox.slices(slices, false)]);
    let last = lasts(&mut sandbox, BillingState::Running);
    sandbox.record(vec![sandbox.slices(last, true)]);
    let entries = told(&ledger, &events(&ledger));
    let names: Vec<_> = read(&entries).iter().map(|entry| entry["type"].clone()).collect();
    assert_eq!(names, ["created", "scaled", "hibernated", "woke", "usage_tick", "usage_tick", "stopped"]);
    let expected = format!(
        "{{\"id\":\"a:{BEGAN}:1\",\"type\":\"usage_tick\",\"sandbox_id\":\"a\",\"org_id\":\"org\",\"plan\":\"free\",\
         \"worker_id\":\"h1\",\"cell_id\":\"cell\",\"payload\":{{\"cost_cents\":0,\"cpu_count\":2,\"interval_s\":1,\
         \"memory_mb\":1024}},\"timestamp\":\"2026-01-01T00:00:01.500000000Z\"}}"
    );
    assert_eq!(str::from_utf8(&entries[4]).expect("text"), expected);
    // Lost time is not billed; while it is paused, its disk alone is.
    let paused = &read(&entries)[5]["payload"];
    assert_eq!(*paused, json!({"cost_cents": 0, "interval_s": 1, "memory_mb": 0, "cpu_count": 0}));
}
