//! A snapshot that is not what was written is never loaded, and one that is wakes whatever was tried before.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dormouse_tests::scripted::{Does, Options, Order, Rule};
use dormouse_tests::wait;
use nix::errno::Errno;
use nix::libc;
use serde_json::json;

use crate::scene::{DEADLINE, Scene, causes, files_below};

/// Sooner than the kernel writes anything out by itself, which is after half a minute.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);

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
async fn ram_in_files_goes_to_the_disk_while_qemu_still_writes_the_state() {
    let scene = Scene::new().await;
    let ram = scene.folder().join("ram");
    std::fs::write(&ram, vec![1; 1 << 20]).unwrap();
    let memory = json!([{ "id": "ram0", "size": 1 << 20, "share": true }]);
    let rules = vec![
        Rule::always("query-memdev", [Does::Return(memory)]),
        Rule::always("qom-get", [Does::Return(json!(ram))]),
    ];
    let save_ms = u64::try_from(2 * DEADLINE.as_millis()).unwrap();
    let qemu = scene.sandbox("s1", &Options { rules, save_ms, ..Options::default() }).await;
    // In its place: what was cut short before is written out by the file system as soon as it is closed.
    File::options().write(true).open(&ram).unwrap().write_all(&vec![2; 1 << 20]).unwrap();
    let Some(1..) = unwritten_pages(&ram) else {
        eprintln!("this kernel or this file system does not say what is not written yet: not tested");
        return;
    };
    let hibernate = ["hibernate", "s1", "--method", "shared", "--deadline", "100ms"];
    scene.refused(&hibernate, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
    qemu.asked("migrate").await.unwrap();
    wait::until("the RAM to be written", WRITTEN_WITHIN, async || {
        let pages = unwritten_pages(&ram);
        wait::unless(pages == Some(0), || format!("{pages:?} pages are not"))
    })
    .await
    .unwrap();
    let view = scene.view("s1").await;
    assert_eq!(view["operation"]["step"], "saving", "{view}");
    scene.does(&["destroy", "s1"]).await;
}

/// How much of a file is in memory alone; `None` where the kernel has no such call (before 6.5).
fn unwritten_pages(path: &Path) -> Option<u64> {
    /// The same on every architecture.
    const SYS_CACHESTAT: libc::c_long = 451;
    let file = File::open(path).unwrap();
    // From the beginning to the end; cached, dirty, being written, and two that say nothing of this.
    let (whole, mut pages) = ([0_u64; 2], [0_u64; 5]);
    // SAFETY: the call reads two integers and writes five, which live until it returns.
    let called =
        unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), whole.as_ptr(), pages.as_mut_ptr(), 0) };
    match Errno::result(called) {
        Err(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM) => None,
        called => {
            called.unwrap();
            Some(pages[1] + pages[2])
        }
    }
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
    wait::until("the snapshot to be gone", DEADLINE, async || wait::unless(!path.exists(), || "it is there"))
        .await
        .unwrap();
    assert_eq!(qemu.pids(), []);
    scene.audits_clean().await;
}
