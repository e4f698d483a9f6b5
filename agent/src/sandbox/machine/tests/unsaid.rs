//! What an agent that was killed knew, and the ledger does not.

use dormouse_metering::{BillingState, Cause, Change};
use serde_json::json;

use super::driver::{at, identity};
use super::recovery::{PROVEN, SECOND, SIZES, TOLD, asleep, left, qemu, seen, settled, window};
use crate::sandbox::command::Request;
use crate::sandbox::machine::LastSign;

#[test]
fn a_size_that_a_qemu_told_after_an_interrupted_wake_was_found_may_have_been_on_its_way_since_then() {
    let unfinished = asleep(BillingState::Waking, Some(Request::Wake { cold: false }));
    let mut driver = settled(unfinished, qemu("running", 512));
    let found_ns = driver.now_ns;
    driver.now_ns += SECOND / 2;
    driver.event("MEMORY_DEVICE_SIZE_CHANGE", json!({"id": "vm0", "size": 0}));
    let less = driver.observed.iter().rfind(|seen| seen.change == Change::Plugged(0)).expect("less");
    assert!(window(less.at).0 <= found_ns, "{less:?}");
}

#[test]
fn between_two_qemus_nothing_is_billed_though_the_agent_that_ended_the_one_did_not_live_to_say_so() {
    let mut recovered = left(BillingState::Running, Some(Request::PowerCycle));
    (recovered.core.started, recovered.core.process) = (true, Some(identity(200)));
    let mut another = qemu("running", 0);
    another.pid = 200;
    let driver = settled(recovered, another);
    let states = seen(&driver).into_iter().filter(|(change, ..)| matches!(change, Change::State(_)));
    let states: Vec<_> = states.map(|(change, (since, _), cause)| (change, since, cause)).collect();
    let paused = (Change::State(BillingState::Paused), TOLD, Cause::PowerCycle);
    assert_eq!(states, [paused, (Change::State(BillingState::Running), TOLD, Cause::Resync)]);
}

#[test]
fn what_may_have_been_plugged_at_an_end_that_nobody_saw_comes_behind_what_was_told_of_the_memory_last() {
    let told_last = PROVEN + SECOND;
    let mut recovered = left(BillingState::Running, None);
    recovered.last_sign = recovered.last_sign.map(|sign| LastSign { memory: Some(at(told_last)), ..sign });
    let less = seen(&settled(recovered, None));
    let unplugged = (Change::Plugged(0), (SIZES, told_last), Cause::ProofEnded);
    assert!(less.contains(&unplugged), "{less:?}");
}
