//! The fleet's sums are the hosts' own, to the last byte-nanosecond.

use dormouse_ledger::{
    Class, HostName, Ledger, Record, SandboxFilter, SandboxKey, SandboxSeen, SliceBatch, UsageQuery,
};
use dormouse_metering::{
    Basis, BillingState, BootId, Boundary, Cause, OpenSlice, Policy, Quantities, Shape, Slice,
};
use dormouse_tests::events::{BEGAN_NS, HOUR_NS};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::scene::{Scene, store};

const DAYS: i64 = 40;

/// How long a slice lasts at most, how its wall time relates to that, what is held, and in which state.
type Cut = (u64, u8, u32, [u64; 3], usize);

fn cut() -> impl Strategy<Value = Cut> {
    let amounts = [0..1_u64 << 42, 0..1 << 42, 0..1 << 62];
    (1..HOUR_NS.unsigned_abs(), 0..10_u8, any::<u32>(), amounts, 0..BillingState::ALL.len())
}

fn close(open: &mut OpenSlice, (lasts_ns, form, vcpus_milli, amounts, state): Cut) -> Slice {
    // 8: skipped by a step of the clock; 9: while the clock stood still.
    let left_ns = HOUR_NS.unsigned_abs() - open.start.unix_ns.unsigned_abs() % HOUR_NS.unsigned_abs();
    let lasts_ns = lasts_ns.min(left_ns);
    let span_ns = if form == 9 { 0 } else { lasts_ns };
    let end = Boundary {
        unix_ns: open.start.unix_ns.saturating_add_unsigned(span_ns),
        uncertainty_ns: lasts_ns % 7,
        cause: Cause::Tick,
        command: None,
    };
    let [memory_base_bytes, memory_plugged_bytes, disk_bytes] = amounts;
    let shape =
        Shape { vcpus_milli, memory_base_bytes, memory_plugged_bytes, memory_requested_bytes: 3, disk_bytes };
    let next = OpenSlice {
        beneath: None,
        seq: open.seq + 1,
        state: BillingState::ALL[state],
        shape,
        start: end.clone(),
        boot: open.boot,
        start_boottime_ns: 0,
    };
    let before = std::mem::replace(open, next);
    let duration_ns = if form == 8 { 0 } else { lasts_ns };
    let OpenSlice { seq, state, shape, start, .. } = before;
    Slice { seq, state, shape, duration_ns, start, end }
}

/// Lets a host's own ledger record lives; returns its sums, and its events as they lie in its outbox.
fn record(host: &str, lives: Vec<Vec<Cut>>) -> (Quantities, Vec<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let name = HostName { cell: "cell".to_owned(), host: host.to_owned() };
    let ledger = Ledger::open(&folder.path().join("ledger.sqlite"), &name).unwrap();
    for (index, cuts) in lives.into_iter().enumerate() {
        let key = SandboxKey {
            org: format!("org-{}", index % 2),
            sandbox: format!("sb-{index}"),
            generation: BEGAN_NS,
        };
        let seen = Record::SandboxSeen(SandboxSeen {
            key: key.clone(),
            plan: "pro".to_owned(),
            attachment: serde_json::json!({}),
            lifecycle: "running".to_owned(),
            created_unix_ns: BEGAN_NS,
        });
        let start = Boundary { unix_ns: BEGAN_NS, uncertainty_ns: 0, cause: Cause::Attach, command: None };
        let (state, boot) = (BillingState::Running, BootId([7; 16]));
        let mut open = OpenSlice {
            seq: 1,
            state,
            beneath: None,
            shape: Shape::default(),
            start,
            boot,
            start_boottime_ns: 0,
        };
        let slices = cuts.into_iter().map(|cut| close(&mut open, cut)).collect();
        let batch = SliceBatch { key, slices, open: Some(open), pending: Vec::new(), ended: false };
        ledger.writer().write(Class::Fact, vec![seen, Record::Slices(batch)]).unwrap();
    }
    let query = UsageQuery {
        sandboxes: SandboxFilter::default(),
        window: BEGAN_NS..BEGAN_NS + DAYS * 24 * HOUR_NS,
        now: None,
        policy: Policy::default(),
        basis: Basis::Plugged,
        free_disk_bytes: 0,
    };
    let reader = ledger.reader().unwrap();
    let total = reader.usage(&query).unwrap().total;
    (total, reader.outbox(0, usize::MAX).unwrap().into_iter().map(|row| row.payload).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn the_sums_of_the_fleet_are_the_hosts_own_to_the_last_digit(
        hosts in vec(vec(vec(cut(), 0..300), 1..4), 1..4), batch in 1..400_usize
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let scene = Scene::new().await;
            let mut ledger = scene.ledger().await;
            let (mut sums, mut messages) = (Quantities::default(), Vec::new());
            for (index, lives) in hosts.into_iter().enumerate() {
                let (total, events) = record(&format!("h{index}"), lives);
                sums = sums.checked_add(total).unwrap();
                messages.extend(events);
            }
            let mut slices = 0;
            for batch in messages.chunks(batch) {
                slices += store(&mut ledger, batch).await.slices;
            }
            assert_eq!(slices, messages.len() as u64);
            let query = "SELECT format('%s %s %s', coalesce(sum(memory_byte_ns), 0), \
                         coalesce(sum(vcpu_milli_ns), 0), coalesce(sum(disk_byte_ns), 0)) FROM slice_quantities";
            let own = format!("{} {} {}", sums.memory_byte_ns, sums.vcpu_milli_ns, sums.disk_byte_ns);
            assert_eq!(scene.says(query).await, own);
        });
    }
}
