//! A ledger on a disk that hangs, whose writes neither succeed nor fail, or that turns read-only.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dormouse_tests::scripted::{Does, Options, Order, Rule};
use dormouse_tests::wait;
use nix::mount::{MntFlags, umount2};
use nix::unistd::Uid;
use serde_json::Value;
use tempfile::TempDir;

use crate::scene::{DEADLINE, Scene, causes};

/// An ext4 of its own on a file, which can be made to hang or to turn read-only. Gone with this value.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mounted(image: &Path, at: &'a Path) -> Option<Self> {
        std::fs::File::create(image).and_then(|file| file.set_len(32 << 20)).unwrap();
        let (image, place) = (image.to_str().unwrap(), at.to_str().unwrap());
        let made =
            run("mkfs.ext4", &["-q", image]) && run("mount", &["-o", "loop,errors=remount-ro", image, place]);
        made.then_some(Self(at))
    }

    /// From now on every write to it waits, until what is returned is dropped.
    fn hang(&self) -> Hanging<'_> {
        assert!(run("fsfreeze", &["--freeze", self.0.to_str().unwrap()]));
        Hanging(self.0)
    }

    /// Turns it read-only as the kernel does after an error, until it is mounted anew. False where the kernel cannot be
    /// told to.
    fn turn_read_only(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        let place = self.0.to_str().unwrap();
        let device = mounts.lines().find(|line| line.split(' ').nth(1) == Some(place)).unwrap();
        let device = device.split(' ').next().unwrap().trim_start_matches("/dev/");
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").is_ok()
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // The agent may still be there: it goes when the agent does.
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

struct Hanging<'a>(&'a Path);

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        run("fsfreeze", &["--unfreeze", self.0.to_str().unwrap()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// A scene whose ledger is on a disk that can be made to hang; `None` where nobody may mount one.
async fn scene_on_disk(state: &Path, folder: TempDir) -> Option<(Scene, Disk<'_>)> {
    std::fs::create_dir(state).unwrap();
    let Some(disk) = Disk::mounted(&folder.path().join("disk"), state) else {
        assert!(!Uid::effective().is_root(), "root cannot mount a file here");
        eprintln!("only root can mount a file system: not tested");
        return None;
    };
    Some((Scene::in_folder(folder, "").await, disk))
}

#[tokio::test]
async fn an_outcome_that_hangs_is_unknown_at_the_deadline_and_show_waits_for_no_disk() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let Some((scene, disk)) = scene_on_disk(&state, folder).await else { return };
    let qemu = scene.sandbox("s1", &Options::default()).await;
    qemu.order(&Order::Rules(vec![Rule::once("stop", [Does::DelayMs(1_000), Does::Model])])).await.unwrap();

    let pause = ["pause", "s1", "--request-id", "r1", "--deadline", "4s"];
    let hangs = async {
        qemu.asked("stop").await.unwrap();
        disk.hang()
    };
    let (_, hanging) = tokio::join!(scene.refused(&pause, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED"), hangs);
    // Neither does it begin again, nor is anything else told than before.
    scene.refused(&pause, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
    let asked = tokio::time::Instant::now();
    let shown = scene.does(&["show", "s1"]).await;
    assert!(asked.elapsed() < Duration::from_secs(8), "it took {:?}", asked.elapsed());
    assert_eq!((&shown["state"], &shown["operation"]["kind"]), (&"paused".into(), &"pause".into()));

    drop(hanging);
    let done = scene.does(&["pause", "s1", "--request-id", "r1"]).await;
    assert_eq!(done["result"], "done");
    assert_eq!(qemu.times_asked("stop").await.unwrap(), 1);
    scene.audits_clean().await;
    drop(scene);
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_no_answer_and_qemu_hears_nothing_before_the_intent_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let Some((scene, disk)) = scene_on_disk(&state, folder).await else { return };
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let other = scene.sandbox("s2", &Options::default()).await;
    let asked = qemu.times_asked("stop").await.unwrap();

    let hanging = disk.hang();
    let command = ["pause", "s1", "--request-id", "r1", "--deadline", "2s"];
    scene.refused(&command, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
    assert_eq!(qemu.times_asked("stop").await.unwrap(), asked, "QEMU was told without an intent");
    // What the agent knows by itself is told, and what the guests do is seen.
    other.order(&Order::Become { run_state: "paused".into(), event: "STOP".into() }).await.unwrap();
    wait::until("the stop of s2 to be listed", DEADLINE, async || {
        let listed = scene.agent.json(&["ls"]).await.map_err(|error| error.to_string())?;
        let sandboxes = listed.as_array().cloned().unwrap_or_default();
        let seen = sandboxes.iter().any(|view| view["sandbox"] == "s2" && view["state"] == "paused");
        wait::unless(seen, || listed.to_string())
    })
    .await
    .unwrap();
    assert_eq!(qemu.pids().len(), 1, "guests run on");

    drop(hanging);
    scene.until("s1", |view| view["state"] == "paused").await;
    // The same request again: the outcome that is stored, and nothing is done twice.
    scene.does(&["pause", "s1", "--request-id", "r1"]).await;
    assert_eq!(qemu.times_asked("stop").await.unwrap(), asked + 1);
    let slices = scene.until_slices("s2", |slices| slices.len() == 2).await;
    assert_eq!(causes(&slices), ["attach", "stop"], "what happened meanwhile is there");
    scene.audits_clean().await;
}

#[tokio::test]
async fn to_destroy_what_has_died_waits_until_its_end_is_durable_and_is_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let Some((scene, disk)) = scene_on_disk(&state, folder).await else { return };
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let hanging = disk.hang();
    qemu.kill9().await.unwrap();
    wait::until("the end of s1 to be known", DEADLINE, async || {
        let listed = scene.agent.json(&["ls"]).await.map_err(|error| error.to_string())?;
        wait::unless(listed == Value::Array(Vec::new()), || listed.to_string())
    })
    .await
    .unwrap();
    let destroy = ["destroy", "s1", "--request-id", "d1", "--deadline", "2s"];
    scene.refused(&destroy, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;

    drop(hanging);
    let told = scene.does(&["destroy", "s1", "--request-id", "d1"]).await;
    assert_eq!(told["result"], "unchanged", "{told}");
    assert_eq!(scene.slices("s1").await.last().unwrap()["closed_by"], "death");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_state_folder_that_turns_read_only_changes_nothing_and_no_agent_starts_on_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let Some((mut scene, disk)) = scene_on_disk(&state, folder).await else { return };
    let qemu = scene.sandbox("s1", &Options::default()).await;
    if !disk.turn_read_only() {
        eprintln!("this kernel cannot be told to turn a file system read-only: not tested");
        return;
    }
    for command in ["pause", "hibernate", "destroy"] {
        scene.refused(&[command, "s1"], "LEDGER_UNWRITABLE", "UNAVAILABLE").await;
    }
    for command in ["stop", "migrate", "quit"] {
        assert_eq!(qemu.times_asked(command).await.unwrap(), 0, "QEMU was told {command} without an intent");
    }
    assert_eq!(scene.view("s1").await["state"], "running");
    scene.agent.kill9().await.unwrap();
    let error = scene.agent.restart().await.unwrap_err().to_string();
    assert!(error.contains("Read-only") || error.contains("readonly"), "{error}");
    assert_eq!(qemu.pids().len(), 1, "the guest runs on");
}
