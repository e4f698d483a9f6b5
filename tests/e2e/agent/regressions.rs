//! Failures that systems which bill sandboxes are known to have had: one test for each that no other test here proves
//! by itself. ARCHITECTURE.md has the whole list, with the test of each.

use dormouse_tests::scripted::Options;
use dormouse_tests::wait;
use serde_json::Value;

use crate::scene::{DEADLINE, Scene, now_unix_ns};

const MIB: u64 = 1 << 20;
const TICK_MS: u64 = 1_000;

/// A scene in which the sandbox `s1` prepays.
async fn prepaid() -> Scene {
    let scene = Scene::with(&format!("[metering]\ntick_ms = {TICK_MS}\n")).await;
    std::fs::write(scene.agent.run_dir().join("s1.toml"), "plan = \"free\"\n").unwrap();
    scene
}

fn number(value: &Value, name: &str) -> i128 {
    value[name].as_i64().unwrap_or_else(|| panic!("{value} has no {name}")).into()
}

/// All of the time from the first slice's start to the last one's end is in them, once.
fn covers_all(slices: &[Value]) {
    let lasted: i128 = slices.iter().map(|slice| number(slice, "duration_ns")).sum();
    let closed: Vec<_> = slices.iter().filter(|slice| !slice["end_unix_ns"].is_null()).collect();
    let (first, last) = (closed.first().unwrap(), closed.last().unwrap());
    let open: i128 = slices
        .iter()
        .filter(|slice| slice["end_unix_ns"].is_null())
        .map(|slice| number(slice, "duration_ns"))
        .sum();
    assert_eq!(lasted - open, number(last, "end_unix_ns") - number(first, "start_unix_ns"), "{slices:?}");
    for pair in slices.windows(2) {
        assert_eq!(pair[0]["end_unix_ns"], pair[1]["start_unix_ns"], "{pair:?}");
    }
}

async fn memory_used(scene: &Scene) -> i128 {
    let usage = scene.does(&["usage", "--org", "default"]).await;
    usage["total"]["memory_byte_nanoseconds"].as_str().unwrap().parse().unwrap()
}

async fn hibernates(scene: &Scene) -> Value {
    scene.does(&["hibernate", "s1", "--method", "mapped-ram"]).await
}

async fn ticks(scene: &Scene, least: usize) -> Vec<Value> {
    let ticks = |slices: &[Value]| slices.iter().filter(|slice| slice["closed_by"] == "tick").count();
    scene.until_slices("s1", |slices| ticks(slices) >= least).await
}

#[tokio::test]
async fn a_tick_is_billed_to_the_nanosecond_and_never_by_whole_seconds() {
    let scene = prepaid().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    ticks(&scene, 3).await;
    scene.does(&["destroy", "s1"]).await;
    qemu.gone().await.unwrap();
    let slices = scene.slices("s1").await;
    covers_all(&slices);
    let of_slice = |slice: &Value| number(slice, "memory_base_bytes") * number(slice, "duration_ns");
    assert_eq!(memory_used(&scene).await, slices.iter().map(of_slice).sum::<i128>());
    let broken = slices.iter().filter(|slice| number(slice, "duration_ns") % 1_000_000_000 != 0).count();
    assert!(broken > 0, "whole seconds only: {slices:?}");
}

#[tokio::test]
async fn memory_is_billed_once_the_guest_has_plugged_it_and_not_once_the_command_has_returned() {
    const PLUGGING_MS: u64 = 1_500;
    let scene = Scene::new().await;
    let _qemu = scene.sandbox("s1", &Options { resize_ms: PLUGGING_MS, ..Options::default() }).await;
    let asked_ns = now_unix_ns();
    scene.does(&["scale", "s1", "--memory", "512MiB"]).await;
    let plugged = |slice: &&Value| slice["memory_plugged_bytes"] == 256 * MIB;
    let slices = scene.until_slices("s1", |slices| slices.iter().any(|slice| plugged(&slice))).await;
    let first = slices.iter().find(plugged).unwrap();
    let after_ns = number(first, "start_unix_ns") - i128::from(asked_ns);
    assert!(
        after_ns >= i128::from(PLUGGING_MS) * 1_000_000,
        "{after_ns} ns after it was asked for: {slices:?}"
    );
}

#[tokio::test]
async fn a_hibernation_is_not_billed_as_running_time() {
    let scene = Scene::new().await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    hibernates(&scene).await;
    let used = memory_used(&scene).await;
    let hibernated = |slices: &[Value]| {
        let last = slices.last().unwrap();
        last["state"] == "hibernated" && number(last, "duration_ns") > 1_000_000_000
    };
    scene.until_slices("s1", hibernated).await;
    assert_eq!(memory_used(&scene).await, used, "more was billed while it was hibernated");
}

#[tokio::test]
async fn a_woken_sandbox_is_billed_for_what_it_holds_and_not_for_what_it_began_with() {
    let scene = Scene::new().await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["scale", "s1", "--memory", "512MiB"]).await;
    hibernates(&scene).await;
    let woken = scene.does(&["wake", "s1"]).await;
    assert_eq!(woken["sandbox"]["memory_plugged_bytes"], 256 * MIB);
    let runs = |slices: &[Value]| slices.last().unwrap()["opened_by"] == "wake";
    let slices = scene.until_slices("s1", runs).await;
    let last = slices.last().unwrap();
    assert_eq!((&last["state"], &last["memory_plugged_bytes"]), (&"running".into(), &(256 * MIB).into()));
}

#[tokio::test]
async fn a_gap_of_many_ticks_is_billed_whole() {
    let mut scene = prepaid().await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    let before = ticks(&scene, 1).await;
    scene.agent.kill9().await.unwrap();
    let gone_ns = now_unix_ns();
    wait::until("four ticks to pass", DEADLINE, async || {
        let passed_ns = now_unix_ns() - gone_ns;
        wait::unless(passed_ns > 4_000_000 * i64::try_from(TICK_MS).unwrap(), || format!("{passed_ns} ns"))
    })
    .await
    .unwrap();
    scene.agent.restart().await.unwrap();
    let slices = ticks(&scene, 3).await;
    covers_all(&slices);
    assert_eq!(slices[0]["duration_ns"], before[0]["duration_ns"], "what was told stays");
    let longest = slices.iter().map(|slice| number(slice, "duration_ns")).max().unwrap();
    assert!(longest > 4_000_000 * i128::from(TICK_MS), "{longest} ns are the longest slice: {slices:?}");
    assert!(slices.iter().all(|slice| slice["state"] == "running"), "{slices:?}");
}

#[tokio::test]
async fn the_numbers_of_slices_go_on_through_a_wake() {
    let mut scene = Scene::new().await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    for _ in 0..2 {
        hibernates(&scene).await;
        scene.agent.kill9().await.unwrap();
        scene.agent.restart().await.unwrap();
        scene.does(&["wake", "s1"]).await;
    }
    let runs = |slices: &[Value]| slices.last().unwrap()["opened_by"] == "wake";
    let slices = scene.until_slices("s1", runs).await;
    let numbers: Vec<_> = slices.iter().map(|slice| number(slice, "seq")).collect();
    assert_eq!(numbers, (1..=i128::try_from(slices.len()).unwrap()).collect::<Vec<_>>());
    assert!(slices.iter().all(|slice| slice["generation"] == slices[0]["generation"]), "{slices:?}");
    scene.audits_clean().await;
}
