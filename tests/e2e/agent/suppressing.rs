//! Time that is free by command, for a move that the platform makes for itself.

use dormouse_tests::scripted::Options;
use serde_json::Value;

use crate::scene::{Scene, causes, now_unix_ns};

const WHY: &str = "moving to host-7";
const SUPPRESS: [&str; 6] = ["suppress", "s1", "--reason", WHY, "--request-id", "r1"];

/// What was used of memory and of vCPUs so far.
async fn usage(scene: &Scene) -> [u128; 2] {
    let usage = scene.does(&["usage", "--org", "default"]).await;
    ["memory_byte_nanoseconds", "vcpu_milli_nanoseconds"]
        .map(|name| usage["total"][name].as_str().unwrap().parse().unwrap())
}

/// The slices that are suppressed: each must say why.
fn suppressed(slices: &[Value]) -> Vec<&Value> {
    let suppressed: Vec<_> = slices.iter().filter(|slice| slice["state"] == "suppressed").collect();
    assert!(suppressed.iter().all(|slice| slice["reason"] == WHY), "{suppressed:?}");
    suppressed
}

#[tokio::test]
async fn suppressed_time_costs_no_memory_and_no_vcpus_through_pause_hibernation_and_a_killed_agent() {
    let mut scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let done = scene.does(&SUPPRESS).await;
    assert_eq!((&done["result"], &done["sandbox"]["state"]), (&"done".into(), &"running".into()));
    assert_eq!(done["sandbox"]["suppressed_reason"], WHY);
    let before = usage(&scene).await;

    scene.does(&["pause", "s1"]).await;
    scene.does(&["resume", "s1"]).await;
    scene.does(&["hibernate", "s1", "--method", "mapped-ram"]).await;
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    let view = scene.until("s1", |view| view["state"] == "hibernated").await;
    assert_eq!(view["suppressed_reason"], WHY, "it is suppressed in the ledger");
    let woken = scene.does(&["wake", "s1"]).await;
    assert_eq!(woken["sandbox"]["state"], "running");
    assert_eq!(usage(&scene).await, before);

    scene.does(&["unsuppress", "s1"]).await;
    let slices = scene.until_slices("s1", |slices| slices.last().unwrap()["state"] == "running").await;
    assert!(!suppressed(&slices).is_empty());
    assert_eq!(slices.last().unwrap()["opened_by"], "unsuppress");
    assert!(usage(&scene).await > before, "billed again");
    scene.does(&["destroy", "s1"]).await;
    qemu.gone().await.unwrap();
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_suppression_told_again_is_unchanged_and_a_killed_agent_answers_what_it_has_stored() {
    let mut scene = Scene::new().await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    assert_eq!(scene.does(&["unsuppress", "s1"]).await["result"], "unchanged");
    scene.does(&SUPPRESS).await;
    let again = scene.does(&["suppress", "s1", "--reason", "another"]).await;
    assert_eq!(again["result"], "unchanged");
    assert_eq!(again["sandbox"]["suppressed_reason"], WHY, "the first reason stands");
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    assert_eq!(scene.does(&SUPPRESS).await["replayed"], true);
    let other = ["suppress", "s1", "--reason", "another", "--request-id", "r1"];
    scene.refused(&other, "REQUEST_ID_REUSED", "ALREADY_EXISTS").await;
    for reason in ["", "two\nlines"] {
        let wrong = ["suppress", "s1", "--reason", reason];
        scene.refused(&wrong, "INVALID_SUPPRESSION", "INVALID_ARGUMENT").await;
    }
    let slices = scene.until_slices("s1", |slices| slices.len() == 2).await;
    assert_eq!(causes(&slices), ["attach", "suppress"]);
    assert_eq!(slices[1]["opened_by_command_id"], "r1");
    suppressed(&slices);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_suppression_needs_no_qmp_and_hides_no_death() {
    let mut scene = Scene::new().await;
    let hung = scene.sandbox("s1", &Options::default()).await;
    hung.freeze();
    scene.does(&SUPPRESS).await;
    hung.thaw();
    // It is heard again: all that was not would be given up with its end.
    scene.does(&["pause", "s1"]).await;
    hung.kill9().await.unwrap();
    let last = scene.last_slice("s1").await;
    assert_eq!((&last["state"], &last["closed_by"]), (&"suppressed".into(), &"death".into()), "{last}");

    let unseen = scene.sandbox("s2", &Options::default()).await;
    scene.does(&["suppress", "s2", "--reason", WHY]).await;
    scene.until_proven_after(now_unix_ns()).await;
    scene.agent.kill9().await.unwrap();
    unseen.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    let last = scene.last_slice("s2").await;
    assert_eq!((&last["state"], &last["reason"]), (&"lost".into(), &Value::Null), "{last}");
    let slices = scene.slices("s2").await;
    assert_eq!(suppressed(&slices).len(), 1, "{slices:?}");
    scene.audits_clean().await;
}
