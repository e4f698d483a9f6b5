//! A real guest lives its whole life through the command line, on both versions of QEMU.

use dormouse_tests::argv::{Backend, Spec};
use dormouse_tests::guest::Guest;
use serde_json::Value;

use crate::scene::{Scene, causes};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Less than the plugged memory, and more than the base.
const FILLED_MIB: u64 = 300;

async fn guest(scene: &Scene, spec: &Spec) -> Guest {
    let run_dir = scene.agent.run_dir();
    std::fs::write(
        run_dir.join("g1.toml"),
        "org = \"acme\"\nplan = \"pro\"\ntags = { team = \"storage\" }\n",
    )
    .unwrap();
    Guest::boot(spec, "g1", &run_dir, scene.folder()).await.unwrap()
}

/// A command for the sandbox of the org that its file names.
async fn does(scene: &Scene, arguments: &[&str]) -> Value {
    scene.does(&[arguments, &["--org", "acme"]].concat()).await
}

async fn slices(scene: &Scene) -> Vec<Value> {
    does(scene, &["slices", "g1"]).await.as_array().unwrap().clone()
}

async fn hibernates_and_wakes(scene: &Scene, guest: &mut Guest, method: &str, taken: &str) {
    let sum = guest.sum().await.unwrap();
    let hibernated = does(scene, &["hibernate", "g1", "--method", method]).await;
    assert_eq!(hibernated["sandbox"]["state"], "hibernated");
    assert_eq!(hibernated["sandbox"]["hibernation_method"], taken, "{hibernated}");
    assert_eq!(guest.pids(), []);
    let woken = does(scene, &["wake", "g1"]).await;
    assert_eq!(woken["sandbox"]["state"], "running");
    assert_eq!(woken["sandbox"]["memory_plugged_bytes"], GIB);
    assert_eq!(guest.sum().await.unwrap(), sum, "{method} lost memory");
}

/// What the slices hold is what the usage bills.
async fn usage_is_of_the_slices(scene: &Scene, slices: &[Value]) {
    let number = |slice: &Value, name: &str| i128::from(slice[name].as_i64().unwrap());
    let memory: i128 = slices
        .iter()
        .filter(|slice| slice["state"] == "running")
        .map(|slice| {
            let bytes = number(slice, "memory_base_bytes") + number(slice, "memory_plugged_bytes");
            bytes * number(slice, "duration_ns")
        })
        .sum();
    let usage = scene.does(&["usage", "--org", "acme"]).await;
    assert_eq!(usage["total"]["memory_byte_nanoseconds"], memory.to_string());
}

#[tokio::test]
async fn on_qemu_10_a_guest_lives_its_whole_life_with_its_memory_whole_and_its_bill_exact() {
    let scene = Scene::new().await;
    let mut guest = guest(&scene, &Spec::default()).await;
    let view = does(&scene, &["show", "g1"]).await;
    assert_eq!((&view["org"], &view["plan"]), (&"acme".into(), &"pro".into()));
    assert_eq!(view["tags"], serde_json::json!({ "team": "storage" }));

    let scaled = does(&scene, &["scale", "g1", "--memory", "1280MiB"]).await;
    assert_eq!(scaled["sandbox"]["memory_plugged_bytes"], GIB);
    assert_eq!(guest.monitor().plugged_bytes().await.unwrap(), GIB);
    guest.fill(FILLED_MIB).await.unwrap();
    assert_eq!(does(&scene, &["pause", "g1"]).await["sandbox"]["state"], "paused");
    assert_eq!(guest.monitor().run_state().await.unwrap(), "paused");
    does(&scene, &["resume", "g1"]).await;
    for (method, taken) in
        [("auto", "shared"), ("shared", "shared"), ("mapped-ram", "mapped-ram"), ("internal", "internal")]
    {
        hibernates_and_wakes(&scene, &mut guest, method, taken).await;
    }
    guest.free().await.unwrap();
    does(&scene, &["scale", "g1", "--memory", "512MiB"]).await;
    assert_eq!(guest.monitor().plugged_bytes().await.unwrap(), 256 * MIB);
    does(&scene, &["reboot", "g1"]).await;
    let destroyed = does(&scene, &["destroy", "g1"]).await;
    assert_eq!(destroyed["result"], "done");
    assert_eq!(guest.pids(), []);

    let slices = slices(&scene).await;
    assert_eq!(slices.last().unwrap()["closed_by"], "destroy");
    for pair in slices.windows(2) {
        assert_eq!(pair[0]["end_unix_ns"], pair[1]["start_unix_ns"]);
        assert_eq!(pair[0]["closed_by"], pair[1]["opened_by"]);
    }
    let causes = causes(&slices);
    for cause in ["attach", "scale", "pause", "resume", "hibernate", "wake"] {
        assert!(causes.contains(&cause), "{cause} is not among {causes:?}");
    }
    usage_is_of_the_slices(&scene, &slices).await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn on_qemu_7_2_auto_is_internal_and_says_why_and_nothing_else_is_taken() {
    let scene = Scene::new().await;
    let mut guest = guest(&scene, &Spec { backend: Backend::SharedFiles, ..Spec::default() }.on_7_2()).await;
    does(&scene, &["scale", "g1", "--memory", "1280MiB"]).await;
    guest.fill(FILLED_MIB).await.unwrap();
    let before = slices(&scene).await.len();
    for method in ["shared", "mapped-ram"] {
        let hibernate = ["hibernate", "g1", "--org", "acme", "--method", method];
        let error = scene.refused(&hibernate, "METHOD_UNSUITABLE", "FAILED_PRECONDITION").await;
        assert!(error["message"].as_str().unwrap().contains("7.2"), "{error}");
        assert_eq!(guest.monitor().run_state().await.unwrap(), "running");
    }
    assert_eq!(slices(&scene).await.len(), before);
    let sum = guest.sum().await.unwrap();
    let hibernated = does(&scene, &["hibernate", "g1"]).await;
    assert_eq!(hibernated["sandbox"]["hibernation_method"], "internal");
    let why = hibernated["message"].as_str().unwrap();
    assert!(why.contains("not shared") && why.contains("not mapped-ram"), "{why}");
    does(&scene, &["wake", "g1"]).await;
    assert_eq!(guest.sum().await.unwrap(), sum, "internal lost memory");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_real_guest_outlives_the_agents_kills_and_its_own_panic_is_not_billed() {
    let mut scene = Scene::new().await;
    let mut guest = guest(&scene, &Spec { disk: false, ..Spec::default() }).await;
    does(&scene, &["scale", "g1", "--memory", "1280MiB"]).await;
    let pids = guest.pids();
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    connected(&scene).await;
    assert_eq!(guest.pids(), pids);

    killed_while_saving(&mut scene, &guest).await;
    connected(&scene).await;
    let view = does(&scene, &["show", "g1"]).await;
    if view["state"] == "hibernated" {
        does(&scene, &["wake", "g1"]).await;
    }
    guest.sum().await.unwrap();
    assert!(slices(&scene).await.iter().all(|slice| slice["state"] != "lost"));

    guest.panic().await.unwrap();
    dormouse_tests::wait::until("the fault to be seen", crate::scene::DEADLINE, async || {
        let view = does(&scene, &["show", "g1"]).await;
        let faulted = view["state"] == "faulted" && view["state_reason"] == "guest-panicked";
        dormouse_tests::wait::unless(faulted, || view.to_string())
    })
    .await
    .unwrap();
    guest.kill9().await.unwrap();
    dormouse_tests::wait::until("its end to be seen", crate::scene::DEADLINE, async || {
        let last = slices(&scene).await.pop().unwrap();
        let ended = last["closed_by"] == "death" && last["state"] == "faulted";
        dormouse_tests::wait::unless(ended, || last.to_string())
    })
    .await
    .unwrap();
    usage_is_of_the_slices(&scene, &slices(&scene).await).await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_real_guest_begins_anew_only_when_that_is_asked_for_and_what_is_written_over_is_given_up_first() {
    let scene = Scene::new().await;
    let mut guest = guest(&scene, &Spec::default()).await;
    does(&scene, &["scale", "g1", "--memory", "1280MiB"]).await;
    does(&scene, &["hibernate", "g1", "--method", "shared"]).await;
    let (wake, cold) = (["wake", "g1", "--org", "acme"], ["wake", "g1", "--org", "acme", "--cold"]);
    let disk = guest.places().disk.clone();
    let aside = disk.with_extension("aside");
    std::fs::rename(&disk, &aside).unwrap();
    scene.refused(&wake, "LAUNCH_FAILED", "INTERNAL").await;
    scene.refused(&cold, "LAUNCH_FAILED", "INTERNAL").await;
    std::fs::rename(&aside, &disk).unwrap();
    scene.refused(&wake, "SNAPSHOT_DAMAGED", "DATA_LOSS").await;
    assert_eq!(guest.pids(), []);

    let woken = scene.does(&cold).await;
    assert!(woken["message"].as_str().unwrap().contains("from the beginning"), "{woken}");
    assert_eq!(woken["sandbox"]["state"], "running");
    assert_eq!(woken["sandbox"]["memory_plugged_bytes"], 0);
    guest.booted().await.unwrap();
    does(&scene, &["scale", "g1", "--memory", "1280MiB"]).await;
    guest.fill(FILLED_MIB).await.unwrap();
    for method in ["shared", "internal"] {
        hibernates_and_wakes(&scene, &mut guest, method, method).await;
    }
    does(&scene, &["destroy", "g1"]).await;
    usage_is_of_the_slices(&scene, &slices(&scene).await).await;
    scene.audits_clean().await;
}

async fn connected(scene: &Scene) {
    dormouse_tests::wait::until("the sandbox to be found again", crate::scene::DEADLINE, async || {
        let view = does(scene, &["show", "g1"]).await;
        let settled = view["operation"].is_null() && view["connection"] != "connecting";
        dormouse_tests::wait::unless(settled, || view.to_string())
    })
    .await
    .unwrap();
}

/// Kills the agent as soon as a mapped-ram save has begun to write, and starts it again.
async fn killed_while_saving(scene: &mut Scene, guest: &Guest) {
    let run_state = guest.monitor().clone();
    let hibernate = ["hibernate", "g1", "--org", "acme", "--method", "mapped-ram"];
    let mut cli = Box::pin(scene.agent.cli(&hibernate));
    let stopped = dormouse_tests::wait::until("the save to begin", crate::scene::DEADLINE, async || {
        let state = run_state.run_state().await.map_err(|error| error.to_string())?;
        dormouse_tests::wait::unless(state != "running", || state.clone())
    });
    tokio::select! {
        _ = &mut cli => {}
        stopped = stopped => stopped.unwrap(),
    }
    scene.agent.signal_kill().unwrap();
    drop(cli);
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
}
