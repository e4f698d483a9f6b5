//! The agent ends, however it does, and starts again: guests go on, nothing is lost and nothing is billed twice.

use std::future::Future;
use std::path::PathBuf;

use dormouse_tests::scripted::{Does, Options, Order, Rule, Scripted};
use serde_json::Value;

use crate::scene::{Scene, causes, files_below, now_unix_ns, refusal};

/// Kills the agent once `moment` has come while `command` is under way.
async fn killed_during(scene: &Scene, command: &[&str], moment: impl Future<Output = ()>) {
    let mut cli = Box::pin(scene.agent.cli(command));
    tokio::select! {
        output = &mut cli => panic!("it was over too soon: {output:?}"),
        () = moment => {}
    }
    scene.agent.signal_kill().unwrap();
    let output = cli.await.unwrap();
    assert_eq!(output.code, 69, "{output:?}");
}

async fn restarted(scene: &mut Scene) {
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
}

/// QEMU takes this long over a command, and then does what it was told.
fn slow(command: &str) -> Order {
    Order::Rules(vec![Rule::once(command, [Does::DelayMs(500), Does::Model])])
}

/// One life, told in one generation, of which nothing is lost.
fn goes_on(slices: &[Value], before: &[Value]) {
    let first = |slices: &[Value]| (slices[0]["generation"].clone(), slices[0]["start_unix_ns"].clone());
    assert_eq!(first(slices), first(before));
    assert!(slices.iter().all(|slice| slice["state"] != "lost"), "{slices:?}");
    for pair in slices.windows(2) {
        assert_eq!(pair[0]["end_unix_ns"], pair[1]["start_unix_ns"], "{pair:?}");
    }
}

async fn connected(scene: &Scene) -> Value {
    scene.until("s1", |view| view["connection"] == "connected" && view["operation"].is_null()).await
}

async fn scene_with_sandbox(options: &Options) -> (Scene, Scripted, Vec<Value>) {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", options).await;
    let slices = scene.slices("s1").await;
    (scene, qemu, slices)
}

#[tokio::test]
async fn a_slice_goes_on_through_a_kill_of_the_idle_agent() {
    let (mut scene, qemu, before) = scene_with_sandbox(&Options::default()).await;
    for _ in 0..2 {
        scene.agent.kill9().await.unwrap();
        scene.agent.restart().await.unwrap();
        connected(&scene).await;
    }
    let slices = scene.slices("s1").await;
    assert_eq!(causes(&slices), ["attach"]);
    goes_on(&slices, &before);
    scene.does(&["pause", "s1"]).await;
    assert_eq!(qemu.pids().len(), 1);
    let slices = scene.slices("s1").await;
    assert_eq!(causes(&slices), ["attach", "pause"]);
    // What is billed of it is as long as it was, and not that and what the ledger had of it before.
    let ns = |name: &str| slices[0][name].as_i64().unwrap();
    assert_eq!(ns("duration_ns"), ns("end_unix_ns") - ns("start_unix_ns"));
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_stop_of_the_agent_touches_no_guest() {
    let (mut scene, qemu, before) = scene_with_sandbox(&Options::default()).await;
    let status = scene.agent.stop().await.unwrap();
    assert!(status.success(), "{status}");
    assert!(!scene.agent.socket().exists());
    for command in ["stop", "quit", "system_reset"] {
        assert_eq!(qemu.times_asked(command).await.unwrap(), 0, "{command}");
    }
    scene.agent.restart().await.unwrap();
    connected(&scene).await;
    goes_on(&scene.slices("s1").await, &before);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_scale_that_the_agents_death_cut_short_is_resolved_by_what_is_plugged() {
    let options = Options { resize_ms: 300, ..Options::default() };
    let (mut scene, qemu, before) = scene_with_sandbox(&options).await;
    let scale = ["scale", "s1", "--memory", "512MiB", "--request-id", "r1"];
    let asked = async { qemu.asked("qom-set").await.unwrap() };
    killed_during(&scene, &scale, asked).await;
    restarted(&mut scene).await;
    scene.until("s1", |view| view["memory_bytes"] == 512_u64 << 20).await;
    connected(&scene).await;
    let resolved = scene.agent.cli(&[&scale[..], &["--json"]].concat()).await.unwrap();
    let outcome = resolved.succeeded().unwrap().json().unwrap();
    assert!(outcome["result"] == "done" || outcome["result"] == "partial", "{outcome}");
    assert_eq!(outcome["replayed"], true);
    assert_eq!(qemu.times_asked("qom-set").await.unwrap(), 1);
    let slices = scene
        .until_slices("s1", |slices| slices.last().unwrap()["memory_plugged_bytes"] == 256_u64 << 20)
        .await;
    goes_on(&slices, &before);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_pause_that_the_agents_death_cut_short_is_done_where_the_guest_stands() {
    let (mut scene, qemu, before) = scene_with_sandbox(&Options::default()).await;
    qemu.order(&slow("stop")).await.unwrap();
    let pause = ["pause", "s1", "--request-id", "r1"];
    killed_during(&scene, &pause, async { qemu.asked("stop").await.unwrap() }).await;
    restarted(&mut scene).await;
    let view = connected(&scene).await;
    assert_eq!(view["state"], "paused");
    assert_eq!(scene.does(&pause).await["replayed"], true);
    goes_on(&scene.slices("s1").await, &before);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_hibernation_cut_short_at_any_step_is_called_off_or_done_and_never_both() {
    for step in ["stop", "migrate-set-capabilities", "migrate", "query-migrate", "quit"] {
        let (mut scene, qemu, before) = scene_with_sandbox(&Options::default()).await;
        qemu.order(&slow(step)).await.unwrap();
        let hibernate = ["hibernate", "s1", "--request-id", "r1"];
        killed_during(&scene, &hibernate, async { qemu.asked(step).await.unwrap() }).await;
        restarted(&mut scene).await;
        let view = scene.until("s1", |view| view["operation"].is_null()).await;
        if step == "quit" {
            assert_eq!(view["state"], "hibernated", "{step}");
            assert_eq!(scene.does(&hibernate).await["replayed"], true);
            assert_eq!(qemu.pids(), []);
            scene.does(&["wake", "s1"]).await;
        } else {
            assert_eq!(view["state"], "running", "{step}: {view}");
            let output = scene.agent.cli(&[&hibernate[..], &["--json"]].concat()).await.unwrap();
            let reason = serde_json::from_str::<Value>(&output.stderr).unwrap()["reason"].clone();
            assert!(reason == "SAVE_FAILED" || reason == "INTERRUPTED", "{step}: {output:?}");
            assert_eq!(qemu.pids().len(), 1);
        }
        goes_on(&scene.slices("s1").await, &before);
        // Whatever was left half done is in nobody's way, and on no disk.
        scene.does(&["hibernate", "s1"]).await;
        scene.does(&["wake", "s1"]).await;
        nothing_is_saved(&scene).await;
        scene.audits_clean().await;
    }
}

#[tokio::test]
async fn what_a_save_has_left_whose_agent_and_qemu_were_killed_is_removed_at_the_next_start() {
    let (mut scene, qemu, _) = scene_with_sandbox(&Options::default()).await;
    qemu.order(&slow("query-migrate")).await.unwrap();
    let hibernate = ["hibernate", "s1", "--request-id", "r1"];
    killed_during(&scene, &hibernate, async { qemu.asked("query-migrate").await.unwrap() }).await;
    assert_ne!(saved(&scene), Vec::<PathBuf>::new());
    qemu.kill9().await.unwrap();
    restarted(&mut scene).await;
    nothing_is_saved(&scene).await;
    assert_eq!(scene.last_slice("s1").await["closed_by"], "death");
    scene.audits_clean().await;
}

async fn nothing_is_saved(scene: &Scene) {
    dormouse_tests::wait::until("no snapshot to be left", crate::scene::DEADLINE, async || {
        let saved = saved(scene);
        dormouse_tests::wait::unless(saved.is_empty(), || format!("{saved:?}"))
    })
    .await
    .unwrap();
}

/// Every file of the folder of snapshots.
fn saved(scene: &Scene) -> Vec<PathBuf> {
    files_below(&scene.agent.state_dir().join("snapshots"))
}

#[tokio::test]
async fn a_wake_cut_short_leaves_one_qemu_or_a_snapshot_that_wakes() {
    for step in ["migrate-incoming", "query-migrate", "cont"] {
        let (mut scene, qemu, before) = scene_with_sandbox(&Options::default()).await;
        scene.does(&["scale", "s1", "--memory", "512MiB"]).await;
        scene.does(&["hibernate", "s1"]).await;
        qemu.wakes_with(&[Rule::once(step, [Does::DelayMs(500), Does::Model])]).unwrap();
        let wake = ["wake", "s1", "--request-id", "r1"];
        killed_during(&scene, &wake, async { qemu.asked(step).await.unwrap() }).await;
        restarted(&mut scene).await;
        let view = scene.until("s1", |view| view["operation"].is_null()).await;
        if view["state"] == "hibernated" {
            let output = scene.agent.cli(&[&wake[..], &["--json"]].concat()).await.unwrap();
            refusal(&output, "INTERRUPTED", "ABORTED");
            qemu.gone().await.unwrap();
            scene.does(&["wake", "s1"]).await;
        }
        let view = connected(&scene).await;
        assert_eq!(
            (&view["state"], &view["memory_bytes"]),
            (&"running".into(), &(512_u64 << 20).into()),
            "{step}"
        );
        assert_eq!(qemu.pids().len(), 1, "{step}");
        goes_on(&scene.slices("s1").await, &before);
        scene.audits_clean().await;
    }
}

#[tokio::test]
async fn a_destroy_cut_short_is_carried_to_its_end() {
    let (mut scene, qemu, _) = scene_with_sandbox(&Options::default()).await;
    qemu.order(&slow("quit")).await.unwrap();
    let destroy = ["destroy", "s1", "--request-id", "r1"];
    killed_during(&scene, &destroy, async { qemu.asked("quit").await.unwrap() }).await;
    restarted(&mut scene).await;
    assert_eq!(scene.last_slice("s1").await["closed_by"], "destroy");
    qemu.gone().await.unwrap();
    assert_eq!(scene.does(&destroy).await["replayed"], true);
    scene.audits_clean().await;
}

#[tokio::test]
async fn m5_a_qemu_that_died_unseen_is_billed_to_the_last_proof_of_its_life_and_lost_after() {
    let (mut scene, qemu, _) = scene_with_sandbox(&Options::default()).await;
    scene.does(&["scale", "s1", "--memory", "512MiB"]).await;
    let scaled = scene.slices("s1").await.last().unwrap()["start_unix_ns"].as_i64().unwrap();
    scene.until_proven_after(scaled).await;
    scene.agent.kill9().await.unwrap();
    let killed_at = now_unix_ns();
    qemu.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    scene.until_gone("s1").await;
    let slices = scene.slices("s1").await;
    let lost = slices.last().unwrap();
    assert_eq!((&lost["state"], &lost["opened_by"]), (&"lost".into(), &"proof_ended".into()), "{slices:?}");
    let lost_from = lost["start_unix_ns"].as_i64().unwrap();
    assert!(lost_from <= killed_at, "billed for {} ns after its death", lost_from - killed_at);
    assert!(lost_from > scaled, "{slices:?}");
    let usage = scene.does(&["usage"]).await;
    let billed: i128 = slices
        .iter()
        .filter(|slice| slice["state"] == "running")
        .map(|slice| {
            let bytes = slice["memory_base_bytes"].as_i64().unwrap()
                + slice["memory_plugged_bytes"].as_i64().unwrap();
            i128::from(bytes) * i128::from(slice["duration_ns"].as_i64().unwrap())
        })
        .sum();
    assert_eq!(usage["total"]["memory_byte_nanoseconds"], billed.to_string());
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_command_whose_qemu_died_unseen_says_so() {
    let options = Options { resize_ms: 60_000, ..Options::default() };
    let (mut scene, qemu, _) = scene_with_sandbox(&options).await;
    let scale = ["scale", "s1", "--memory", "512MiB", "--request-id", "r1"];
    let asked = async {
        qemu.asked("qom-set").await.unwrap();
        qemu.freeze();
    };
    killed_during(&scene, &scale, asked).await;
    scene.agent.kill9().await.unwrap();
    qemu.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    scene.until_gone("s1").await;
    let output = scene.agent.cli(&[&scale[..], &["--json"]].concat()).await.unwrap();
    refusal(&output, "QEMU_DIED", "UNAVAILABLE");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_second_agent_on_the_same_ledger_is_refused_and_the_first_goes_on() {
    let scene = Scene::new().await;
    let _qemu = scene.sandbox("s1", &Options::default()).await;
    let rival = scene.agent.rival().await.unwrap();
    assert_eq!(rival.code, 1, "{rival:?}");
    assert!(rival.stderr.contains("another"), "{rival:?}");
    scene.does(&["pause", "s1"]).await;
    scene.audits_clean().await;
}
