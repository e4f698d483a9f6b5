//! Several memory devices: the shape says what all have together, and one may give back what another gets.

use std::path::PathBuf;

use dormouse_ledger::PluggedByDevice;
use dormouse_metering::{Cause, Change, Observation, Shape, Stamp};
use serde_json::json;

use super::driver::{BASE, BOOT, Driver, MIB, Qemu, at, attach, device, identity, key};
use crate::sandbox::facts::Survey;
use crate::sandbox::machine::{Core, Input, LastSign, Phase, Recovered, Sandbox, Settings};

/// When the last sign is that the ledger has of it.
const SIGN: Stamp = at(990_000_000_000);

/// What the ledger has of two devices, in MiB, the least since the last sign, and so long after that.
fn plugged(mib: [u64; 2], least_mib: [u64; 2], after_ns: u64) -> PluggedByDevice {
    let bytes = |mib: [u64; 2]| mib.map(|mib| mib * MIB).to_vec();
    let at_boottime_ns = SIGN.boottime_ns + after_ns;
    PluggedByDevice { bytes: bytes(mib), least_bytes: bytes(least_mib), boot: BOOT.0, at_boottime_ns }
}

/// What is told of the memory by an agent that is started with this in the ledger, 10 s after the last sign, and finds
/// the two devices so.
fn found_again(in_ledger: Option<[u64; 2]>, mib: [u64; 2]) -> Vec<Observation> {
    found_after(in_ledger.map(|mib| plugged(mib, mib, 0)), mib)
}

fn found_after(plugged_by_device: Option<PluggedByDevice>, mib: [u64; 2]) -> Vec<Observation> {
    let mut qemu = Qemu::new(100);
    qemu.devices = vec![device("vm0", mib[0]), device("vm1", mib[1])];
    let mut core = Core::new(key(), PathBuf::from("/run/dormouse/sb-1.qmp"), Settings::default());
    (core.phase, core.generation, core.process) = (Phase::Attached, 7, Some(identity(100)));
    core.shape = Shape { memory_plugged_bytes: 512 * MIB, memory_base_bytes: BASE, ..qemu.survey().shape() };
    let recovered = Recovered {
        core,
        unfinished: Vec::new(),
        saved: None,
        ran: true,
        last_sign: Some(LastSign { at: SIGN, told: SIGN, sizes: SIGN, memory: None }),
        plugged_by_device,
    };
    let (sandbox, actions) = Sandbox::recover_from(recovered, at(1_000_000_000_000), true);
    let mut driver = Driver::of(sandbox, Some(qemu));
    driver.take(actions);
    driver.settle();
    driver.observed.retain(|seen| matches!(seen.change, Change::Plugged(_)));
    for seen in &driver.observed {
        assert_eq!(
            (seen.cause, seen.at.boottime_ns - seen.at.uncertainty_ns),
            (Cause::Resync, SIGN.boottime_ns)
        );
    }
    driver.observed
}

fn bytes(observed: &[Observation]) -> Vec<Change> {
    observed.iter().map(|seen| seen.change).collect()
}

#[test]
fn what_one_device_gave_back_before_another_got_as_much_while_no_agent_was_there_is_not_billed() {
    assert_eq!(found_again(Some([512, 0]), [512, 0]), []);
    let moved = found_again(Some([512, 0]), [0, 512]);
    assert_eq!(bytes(&moved), [Change::Plugged(0), Change::Plugged(512 * MIB)]);
    let partly = found_again(Some([384, 128]), [256, 256]);
    assert_eq!(bytes(&partly), [Change::Plugged(384 * MIB), Change::Plugged(512 * MIB)]);
}

#[test]
fn what_each_had_at_the_least_while_that_was_uncertain_is_not_billed_where_one_had_changed_before_the_agent_was_there()
 {
    let recorded = |after_ns| Some(plugged([256, 256], [256, 0], after_ns));
    // The first may have given its memory back before the second had any.
    let found = |after_ns, mib| bytes(&found_after(recorded(after_ns), mib));
    assert_eq!(found(1_000, [0, 512]), [Change::Plugged(0), Change::Plugged(512 * MIB)]);
    assert_eq!(found(1_000, [256, 256]), [], "what was told of it stands");
    // No more than the least in all, and all the same less than they had between.
    assert_eq!(found(1_000, [256, 512]), [Change::Plugged(256 * MIB), Change::Plugged(768 * MIB)]);
    // Of another boot: nothing of it is uncertain in this one.
    let before = PluggedByDevice { boot: [1; 16], ..plugged([256, 256], [256, 0], 20_000_000_000) };
    let told = [Change::Plugged(256 * MIB), Change::Plugged(512 * MIB)];
    assert_eq!(bytes(&found_after(Some(before), [0, 512])), told);
    // Known since.
    assert_eq!(found(0, [0, 512]), [Change::Plugged(256 * MIB), Change::Plugged(512 * MIB)]);
}

#[test]
fn of_devices_of_which_the_ledger_does_not_say_what_each_had_nothing_is_billed_until_they_are_found() {
    let unsaid = [Change::Plugged(0), Change::Plugged(512 * MIB)];
    assert_eq!(bytes(&found_again(None, [512, 0])), unsaid);
    // Of another time than what all had.
    assert_eq!(bytes(&found_again(Some([256, 0]), [512, 0])), unsaid);
}

#[test]
fn the_ledger_is_told_what_each_device_has_where_there_are_several_and_the_memory_is_spoken_of() {
    let survey = |mib: &[u64]| {
        let devices = mib.iter().map(|mib| device("vm", *mib)).collect();
        Survey { memory_devices: devices, ..Qemu::new(100).survey() }
    };
    let told = |mib: &[u64], change| {
        let mut driver = Driver::attached();
        driver.sandbox.core.survey = Some(survey(mib));
        let seen = Observation { at: SIGN, change, cause: Cause::Resize, command: None };
        driver.sandbox.core().plugged_by_device(&seen)
    };
    assert_eq!(told(&[128, 64], Change::Plugged(0)), Some(plugged([128, 64], [128, 64], 0)));
    assert_eq!(told(&[128, 64], Change::Mark), None);
    assert_eq!(told(&[128], Change::Plugged(0)), None);
}

#[test]
fn the_ledger_is_told_what_each_device_had_at_the_least_while_what_is_told_is_uncertain() {
    let mut driver = of_two([256, 512]);
    told(&mut driver, "vm1", 128);
    driver.observed.clear();
    told(&mut driver, "vm0", 512);
    let [.., seen] = driver.observed.as_slice() else { panic!("{:?}", driver.observed) };
    let plugged = driver.sandbox.core().plugged_by_device(seen).unwrap();
    assert_eq!(plugged.bytes, [512 * MIB, 128 * MIB]);
    assert_eq!(plugged.least_bytes, [256 * MIB, 128 * MIB]);
    assert_eq!(plugged.at_boottime_ns, seen.at.boottime_ns);
}

/// Attached with two devices that have this, and nothing observed yet.
fn of_two(mib: [u64; 2]) -> Driver {
    let mut driver = Driver::new();
    driver.qemu.as_mut().unwrap().devices = vec![device("vm0", mib[0]), device("vm1", mib[1])];
    driver.execute("attach", attach()).unwrap();
    driver.observed.clear();
    driver
}

fn told(driver: &mut Driver, id: &str, mib: u64) -> u64 {
    driver.now_ns += 100_000_000;
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": id, "size": mib * MIB}));
    let stamped_ns = driver.now_ns - 500_000;
    driver.now_ns += 1_000_000;
    stamped_ns
}

/// What is billed of the memory in the end at a moment, in MiB.
fn billed(driver: &Driver, at_ns: u64) -> u64 {
    let plugged = |seen: &Observation| match seen.change {
        Change::Plugged(bytes) => Some((seen.at, bytes / MIB)),
        _ => None,
    };
    let told: Vec<(Stamp, u64)> = driver.observed.iter().filter_map(plugged).collect();
    let by_then = told.iter().filter(|(at, _)| at.boottime_ns <= at_ns).max_by_key(|(at, _)| at.boottime_ns);
    let since = |at: &Stamp| at.boottime_ns - at.uncertainty_ns;
    let uncertain = told.iter().filter(|(at, _)| since(at) <= at_ns && at_ns < at.boottime_ns);
    by_then.into_iter().chain(uncertain).map(|(_, mib)| *mib).min().unwrap()
}

#[test]
fn what_one_device_gave_back_before_an_event_told_that_another_got_as_much_is_not_billed() {
    let mut driver = of_two([0, 0]);
    let first_ns = told(&mut driver, "vm1", 526);
    let second_ns = told(&mut driver, "vm0", 282);
    let third_ns = told(&mut driver, "vm1", 512);
    // At some time since the first event it had given that back, and before the second the other had nothing.
    assert_eq!(billed(&driver, first_ns + 1), 512);
    assert!(billed(&driver, second_ns + 1) <= 794);
    assert_eq!(billed(&driver, third_ns + 1), 794);
}

#[test]
fn what_one_device_gave_back_is_not_billed_though_all_had_less_before() {
    let mut driver = of_two([0, 0]);
    let got_ns = told(&mut driver, "vm1", 476);
    driver.qemu.as_mut().unwrap().devices = vec![device("vm0", 512), device("vm1", 304)];
    driver.feed(Input::Gap);
    driver.settle();
    assert_eq!(billed(&driver, got_ns + 1), 304);
    assert_eq!(billed(&driver, driver.now_ns), 816);
}
