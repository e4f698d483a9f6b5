//! QEMU is killed during each operation at each step: whoever asked is told, the life ends or goes on as what is so, and
//! nothing is left half done.

use dormouse_tests::agent::Output;
use dormouse_tests::scripted::{Does, Options, Order, Rule, Scripted};
use serde_json::Value;

use crate::scene::{Scene, refusal};

/// What QEMU is asked in the course of each command, in order.
const STEPS: [(&[&str], &[&str]); 5] = [
    (&["pause"], &["query-memory-devices", "stop"]),
    (&["resume"], &["cont"]),
    (&["scale", "--memory", "512MiB"], &["qom-set", "query-memory-devices"]),
    (&["reboot"], &["system_reset"]),
    (
        &["hibernate"],
        &["query-memory-devices", "stop", "migrate-set-capabilities", "migrate", "query-migrate"],
    ),
];

/// Tells a sandbox something, kills its QEMU once that is asked for this, and returns what came of it.
async fn killed_at(scene: &Scene, qemu: &Scripted, id: &str, command: &[&str], step: &str) -> Output {
    let before = qemu.times_asked(step).await.unwrap_or_default();
    let words = [&command[..1], &[id], &command[1..], &["--json"]].concat();
    let kill = async {
        dormouse_tests::wait::until("QEMU to be asked", crate::scene::DEADLINE, async || {
            let times = qemu.times_asked(step).await.map_err(|error| error.to_string())?;
            dormouse_tests::wait::unless(times > before, || format!("not asked {step}"))
        })
        .await
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        qemu.kill9().await.unwrap();
    };
    let (output, ()) = tokio::join!(scene.agent.cli(&words), kill);
    output.unwrap()
}

/// What a caller is told of depends on what the kernel tells first, the end of the connection or that of the process.
fn is_told(output: &Output, reasons: &[&str]) {
    let error: Value = serde_json::from_str(&output.stderr).unwrap_or_else(|_| panic!("{output:?}"));
    let reason = error["reason"].as_str().unwrap_or_default();
    assert!(output.code == 1 && reasons.contains(&reason), "{output:?}");
}

async fn hangs_at(qemu: &Scripted, step: &str) {
    qemu.order(&Order::Rules(vec![Rule::always(step, [Does::Hang])])).await.unwrap();
}

#[tokio::test]
async fn a_qemu_killed_during_any_operation_at_any_step_ends_its_sandbox_and_its_caller_is_told() {
    let scene = Scene::new().await;
    for (command, steps) in STEPS {
        for step in steps {
            let id = format!("{}-{step}", command[0]);
            let qemu = scene.sandbox(&id, &Options::default()).await;
            if command[0] == "resume" {
                scene.does(&["pause", &id]).await;
            }
            hangs_at(&qemu, step).await;
            let output = killed_at(&scene, &qemu, &id, command, step).await;
            is_told(&output, &["QEMU_DIED", "OUTCOME_UNKNOWN", "QMP_UNREACHABLE"]);
            let last = scene.last_slice(&id).await;
            assert_eq!(last["closed_by"], "death", "{id}: {last}");
        }
    }
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_qemu_killed_when_it_was_told_to_quit_has_done_what_it_was_told() {
    let scene = Scene::new().await;
    for (command, ends) in [("hibernate", false), ("destroy", true)] {
        let qemu = scene.sandbox(command, &Options::default()).await;
        hangs_at(&qemu, "quit").await;
        let output = killed_at(&scene, &qemu, command, &[command], "quit").await;
        let done: Value = output.succeeded().unwrap().json().unwrap();
        assert_eq!(done["result"], "done", "{done}");
        if ends {
            assert_eq!(scene.last_slice(command).await["closed_by"], "destroy");
        } else {
            assert_eq!(scene.view(command).await["state"], "hibernated");
            scene.does(&["wake", command]).await;
        }
    }
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_qemu_killed_while_it_wakes_leaves_a_snapshot_that_wakes() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["scale", "s1", "--memory", "512MiB"]).await;
    scene.does(&["hibernate", "s1"]).await;
    for step in
        ["query-status", "query-block", "migrate-set-capabilities", "migrate-incoming", "query-migrate"]
    {
        qemu.wakes_with(&[Rule::always(step, [Does::Hang])]).unwrap();
        let output = killed_at(&scene, &qemu, "s1", &["wake"], step).await;
        is_told(&output, &["LAUNCH_FAILED", "QMP_UNREACHABLE"]);
        assert_eq!(scene.view("s1").await["state"], "hibernated", "{step}");
        assert_eq!(qemu.pids(), [], "{step}");
    }
    qemu.wakes_with(&[]).unwrap();
    let woken = scene.does(&["wake", "s1"]).await;
    assert_eq!(woken["sandbox"]["memory_bytes"], 512_u64 << 20);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_qemu_killed_when_its_woken_guest_was_told_to_go_on_ends_its_sandbox() {
    // The guest may have run, and written to its disks: the snapshot is no longer what it was.
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["hibernate", "s1"]).await;
    qemu.wakes_with(&[Rule::always("cont", [Does::Hang])]).unwrap();
    let output = killed_at(&scene, &qemu, "s1", &["wake"], "cont").await;
    refusal(&output, "QEMU_DIED", "UNAVAILABLE");
    assert_eq!(scene.last_slice("s1").await["closed_by"], "death");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_qemu_killed_while_it_is_attached_is_not_attached_and_leaves_nothing() {
    let scene = Scene::new().await;
    for step in ["query-status", "query-memory-devices", "query-block"] {
        let options = Options { rules: vec![Rule::always(step, [Does::Hang])], ..Options::default() };
        let qemu = scene.unattached(step, &options, scene.folder()).await;
        let attach = ["attach", "--qmp", qemu.qmp().to_str().unwrap()];
        let output = killed_at(&scene, &qemu, step, &attach, step).await;
        assert_eq!((output.code, output.stdout.as_str()), (1, ""), "{output:?}");
        assert_eq!(scene.does(&["ls"]).await, Value::Array(Vec::new()), "{step}");
    }
    scene.audits_clean().await;
}
