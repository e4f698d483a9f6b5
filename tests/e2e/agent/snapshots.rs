//! A snapshot that is not what was written is never loaded, and one that is wakes whatever was tried before.

use std::path::{Path, PathBuf};

use dormouse_tests::scripted::{Does, Options, Order, Rule};

use crate::scene::{Scene, causes, files_below};

/// The one file of the hibernated guest's state.
fn state_file(folder: &Path) -> PathBuf {
    file_of("state", folder)
}

fn file_of(kind: &str, folder: &Path) -> PathBuf {
    let mut found = files_below(folder);
    found.retain(|path| path.extension().is_some_and(|extension| extension == kind));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[tokio::test]
async fn a_state_file_that_was_cut_or_grew_is_never_started_and_wakes_once_it_is_mended() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["hibernate", "s1"]).await;
    let path = state_file(&scene.agent.state_dir());
    let whole = std::fs::read(&path).unwrap();
    let before = scene.shown("s1").await;
    let longer = [whole.as_slice(), b"\0"].concat();
    for damaged in [&whole[..whole.len() - 1], &[], &longer] {
        std::fs::write(&path, damaged).unwrap();
        scene.refused(&["wake", "s1"], "SNAPSHOT_DAMAGED", "DATA_LOSS").await;
        assert_eq!(qemu.pids(), [], "it was started");
        assert_eq!(scene.shown("s1").await, before);
    }
    std::fs::remove_file(&path).unwrap();
    scene.refused(&["wake", "s1"], "SNAPSHOT_DAMAGED", "DATA_LOSS").await;
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(scene.does(&["wake", "s1"]).await["sandbox"]["state"], "running");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_bit_that_flipped_in_a_state_file_is_loaded_by_no_qemu_and_billed_to_nobody() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    assert_eq!(scene.does(&["hibernate", "s1"]).await["sandbox"]["hibernation_method"], "mapped-ram");
    let path = state_file(&scene.agent.state_dir());
    let whole = std::fs::read(&path).unwrap();
    let slices_before = scene.slices("s1").await.len();
    // A QEMU that was told to load would refuse, and that would be the reason.
    let refuses = || Does::Refuse("it is to be told nothing".to_owned());
    let loading = ["migrate-set-capabilities", "migrate-incoming", "cont"];
    qemu.wakes_with(&loading.map(|told| Rule::always(told, [refuses()]))).unwrap();
    for byte in [0, whole.len() / 2, whole.len() - 1] {
        let mut flipped = whole.clone();
        flipped[byte] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        scene.refused(&["wake", "s1"], "SNAPSHOT_DAMAGED", "DATA_LOSS").await;
        assert_eq!(qemu.pids(), [], "its QEMU is still there");
        assert_eq!(scene.view("s1").await["state"], "hibernated");
    }
    let slices = scene.slices("s1").await;
    for slice in &slices[slices_before..] {
        assert!(["waking", "hibernated"].contains(&slice["state"].as_str().unwrap()), "{slice}");
    }
    std::fs::write(&path, &whole).unwrap();
    qemu.wakes_with(&[]).unwrap();
    assert_eq!(scene.does(&["wake", "s1"]).await["sandbox"]["state"], "running");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_snapshot_without_its_manifest_is_never_started_and_wakes_once_that_is_back() {
    let mut scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["hibernate", "s1"]).await;
    let before = scene.shown("s1").await;
    let manifest = file_of("json", &scene.agent.state_dir());
    let aside = scene.folder().join("manifest");
    std::fs::rename(&manifest, &aside).unwrap();
    let error = scene.refused(&["wake", "s1"], "SNAPSHOT_DAMAGED", "DATA_LOSS").await;
    assert!(error["message"].as_str().unwrap().contains("it has no manifest"), "{error}");
    assert_eq!(qemu.pids(), [], "it was started");
    assert_eq!(scene.shown("s1").await, before);
    // Nor is it taken for what a save has left that was never completed.
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    scene.refused(&["wake", "s1"], "SNAPSHOT_DAMAGED", "DATA_LOSS").await;
    std::fs::rename(&aside, &manifest).unwrap();
    assert_eq!(scene.does(&["wake", "s1"]).await["sandbox"]["state"], "running");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_wake_that_qemu_fails_leaves_the_snapshot_usable_and_bills_nothing() {
    fails_and_then_wakes(&["wake", "s1"], "migrate-incoming").await;
}

#[tokio::test]
async fn a_cold_start_that_fails_leaves_a_snapshot_that_wakes() {
    fails_and_then_wakes(&["wake", "s1", "--cold"], "cont").await;
}

/// A wake for which QEMU refuses this leaves the sandbox hibernated, and the next one finds all that it had.
async fn fails_and_then_wakes(wake: &[&str], refused: &str) {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["scale", "s1", "--memory", "512MiB"]).await;
    scene.does(&["hibernate", "s1"]).await;
    qemu.wakes_with(&[Rule::always(refused, [Does::Refuse("no such file".to_owned())])]).unwrap();
    let error = scene.refused(wake, "QEMU_FAILED", "INTERNAL").await;
    assert!(error["message"].as_str().unwrap().contains("no such file"), "{error}");
    qemu.gone().await.unwrap();
    assert_eq!(scene.view("s1").await["state"], "hibernated");
    qemu.wakes_with(&[]).unwrap();
    let woken = scene.does(&["wake", "s1"]).await;
    assert_eq!(woken["sandbox"]["memory_bytes"], 512_u64 << 20);
    let slices = scene.slices("s1").await;
    let mut states: Vec<_> = slices.iter().map(|slice| slice["state"].as_str().unwrap()).collect();
    // What a QEMU that begins anew holds is told while it is not yet billed.
    states.dedup();
    assert_eq!(states[states.len() - 5..], ["hibernated", "waking", "hibernated", "waking", "running"]);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_save_that_fails_leaves_the_guest_running_and_billed() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let failed = serde_json::json!({ "status": "failed", "error-desc": "No space left on device" });
    let full = Rule::always("query-migrate", [Does::Return(failed)]);
    qemu.order(&Order::Rules(vec![full])).await.unwrap();
    let error = scene.refused(&["hibernate", "s1"], "SAVE_FAILED", "INTERNAL").await;
    assert!(error["message"].as_str().unwrap().contains("No space left on device"), "{error}");
    let view = scene.view("s1").await;
    assert_eq!((&view["state"], &view["hibernation_method"]), (&"running".into(), &serde_json::Value::Null));
    assert_eq!(causes(&scene.slices("s1").await), ["attach", "hibernate", "hibernate_failed"]);
    qemu.order(&Order::Rules(Vec::new())).await.unwrap();
    scene.does(&["hibernate", "s1"]).await;
    scene.does(&["wake", "s1"]).await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_hibernated_sandbox_outlives_its_agent_and_can_be_destroyed() {
    let mut scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["hibernate", "s1"]).await;
    let before = scene.shown("s1").await;
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    let after = scene.shown("s1").await;
    assert_eq!(after.slices, before.slices);
    scene.does(&["wake", "s1"]).await;
    scene.does(&["hibernate", "s1"]).await;
    let path = state_file(&scene.agent.state_dir());
    scene.does(&["destroy", "s1"]).await;
    dormouse_tests::wait::until("the snapshot to be gone", crate::scene::DEADLINE, async || {
        dormouse_tests::wait::unless(!path.exists(), || "it is there")
    })
    .await
    .unwrap();
    assert_eq!(qemu.pids(), []);
    scene.audits_clean().await;
}
