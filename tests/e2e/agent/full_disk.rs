//! When nothing can be made durable nothing is changed; when it can again, nothing is missing.

use std::path::Path;

use dormouse_tests::scripted::{Options, Order};
use dormouse_tests::wait;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::Uid;

use crate::scene::{DEADLINE, Scene, causes, now_unix_ns};

/// A small file system of its own, gone with this value.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mounted(path: &'a Path) -> Option<Self> {
        let mounted = mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("size=2M"));
        mounted.ok().map(|()| Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // The agent may still be there: it goes when the agent does.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_ledger_changes_nothing_and_goes_on_when_there_is_space() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let Some(_disk) = SmallDisk::mounted(&state) else {
        assert!(!Uid::effective().is_root(), "root cannot mount a tmpfs here");
        eprintln!("only root can mount a small file system: not tested");
        return;
    };
    let scene = Scene::in_folder(folder, "").await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let before = scene.shown("s1").await;

    let ballast = state.join("ballast");
    fill(&ballast);
    // What is committed already may still have room: it is used up by asking.
    let error = loop {
        let output = scene.agent.cli(&["pause", "s1", "--json"]).await.unwrap();
        if output.code != 0 {
            break crate::scene::refusal(&output, "LEDGER_UNWRITABLE", "UNAVAILABLE");
        }
        scene.agent.cli(&["resume", "s1", "--json"]).await.unwrap();
    };
    assert_eq!(error["metadata"]["ledger_reason"], "LEDGER_UNWRITABLE");
    let asked = qemu.times_asked("stop").await.unwrap();
    scene.refused(&["pause", "s1"], "LEDGER_UNWRITABLE", "UNAVAILABLE").await;
    assert_eq!(qemu.times_asked("stop").await.unwrap(), asked, "QEMU was told without an intent");
    assert_eq!(qemu.pids().len(), 1);

    // What others do meanwhile is kept until it can be written, also past the moment from which it is final.
    for (run_state, event) in [("paused", "STOP"), ("running", "RESUME")] {
        let order = Order::Become { run_state: run_state.to_owned(), event: event.to_owned() };
        qemu.order(&order).await.unwrap();
        scene.until("s1", |view| view["state"] == run_state).await;
    }
    let told_ns = now_unix_ns();
    wait::until("what was told to be final", DEADLINE, async || {
        let passed_ns = now_unix_ns() - told_ns;
        wait::unless(passed_ns > 3_000_000_000, || format!("{passed_ns} ns"))
    })
    .await
    .unwrap();

    std::fs::remove_file(&ballast).unwrap();
    scene.until_proven_after(now_unix_ns()).await;
    scene.does(&["pause", "s1"]).await;
    let slices = scene.slices("s1").await;
    assert_eq!(slices[0]["start_unix_ns"], before.slices[0]["start_unix_ns"]);
    let causes = causes(&slices);
    assert!(causes.ends_with(&["stop", "continue", "pause"]), "{causes:?}");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_full_folder_for_snapshots_leaves_the_guest_running_and_billed() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = folder.path().join("snapshots");
    std::fs::create_dir(&snapshots).unwrap();
    let Some(_disk) = SmallDisk::mounted(&snapshots) else {
        assert!(!Uid::effective().is_root(), "root cannot mount a tmpfs here");
        eprintln!("only root can mount a small file system: not tested");
        return;
    };
    let more = format!("[hibernation]\ndir = {:?}\n", snapshots.display().to_string());
    let scene = Scene::in_folder(folder, &more).await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let ballast = snapshots.join("ballast");
    fill(&ballast);
    let error = scene.refused(&["hibernate", "s1"], "SAVE_FAILED", "INTERNAL").await;
    assert!(error["message"].as_str().unwrap().contains("No space left on device"), "{error}");
    assert_eq!((&scene.view("s1").await["state"], qemu.pids().len()), (&"running".into(), 1));
    std::fs::remove_file(&ballast).unwrap();
    scene.does(&["hibernate", "s1"]).await;
    scene.does(&["wake", "s1"]).await;
    scene.audits_clean().await;
}

fn fill(ballast: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(ballast).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0; 1]).is_ok() {}
}
