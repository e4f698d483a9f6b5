//! Request ids, deadlines, and one operation at a time.

use std::time::Duration;

use dormouse_tests::scripted::{Does, Options, Order, Rule, Scripted};
use serde_json::Value;

use crate::scene::{Scene, refusal};

/// A sandbox whose guest takes this long to plug memory.
async fn slow_to_resize(scene: &Scene, resize_ms: u64) -> Scripted {
    scene.sandbox("s1", &Options { resize_ms, ..Options::default() }).await
}

#[tokio::test]
async fn a_request_told_again_is_answered_with_what_was_done_and_does_nothing() {
    let mut scene = Scene::new().await;
    let qemu = slow_to_resize(&scene, 20).await;
    let scale = ["scale", "s1", "--memory", "512MiB", "--request-id", "r1"];
    let first = scene.does(&scale).await;
    assert_eq!((&first["result"], &first["replayed"]), (&"done".into(), &false.into()));
    let shown = scene.shown("s1").await;
    let again = scene.does(&scale).await;
    assert_eq!((&again["result"], &again["replayed"]), (&"done".into(), &true.into()));
    assert_eq!(again["message"], first["message"]);
    assert_eq!(scene.shown("s1").await, shown);

    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    assert_eq!(scene.does(&scale).await["replayed"], true);
    assert_eq!(qemu.times_asked("qom-set").await.unwrap(), 1);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_request_told_again_is_answered_whatever_stands_in_its_way_now() {
    let scene = Scene::new().await;
    let qemu = slow_to_resize(&scene, 60_000).await;
    let pause = ["pause", "s1", "--request-id", "r1"];
    scene.does(&pause).await;
    assert_eq!(scene.does(&pause).await["replayed"], true);
    scene.does(&["resume", "s1"]).await;
    let scale = ["scale", "s1", "--memory", "512MiB", "--json"];
    let meanwhile = async {
        qemu.asked("qom-set").await.unwrap();
        assert_eq!(scene.does(&pause).await["replayed"], true);
        scene.does(&["destroy", "s1"]).await
    };
    let (overtaken, _) = tokio::join!(scene.agent.cli(&scale), meanwhile);
    refusal(&overtaken.unwrap(), "OVERTAKEN", "ABORTED");
    assert_eq!(scene.does(&pause).await["replayed"], true);
    assert_eq!(scene.slices("s1").await.iter().filter(|slice| slice["opened_by"] == "pause").count(), 1);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_request_id_that_was_used_for_something_else_is_refused() {
    let scene = Scene::new().await;
    let _qemu = slow_to_resize(&scene, 20).await;
    let _other = scene.sandbox("s2", &Options::default()).await;
    scene.does(&["scale", "s1", "--memory", "512MiB", "--request-id", "r1"]).await;
    let before = scene.shown("s1").await;
    for command in [
        &["scale", "s1", "--memory", "1GiB"][..],
        &["pause", "s1"],
        &["scale", "s2", "--memory", "512MiB"],
        &["destroy", "s1"],
    ] {
        let command = [command, &["--request-id", "r1"]].concat();
        scene.refused(&command, "REQUEST_ID_REUSED", "ALREADY_EXISTS").await;
    }
    assert_eq!(scene.shown("s1").await, before);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_command_beside_another_is_aborted_and_the_same_one_joins_it() {
    let scene = Scene::new().await;
    let qemu = slow_to_resize(&scene, 1_000).await;
    let scale = ["scale", "s1", "--memory", "512MiB", "--request-id", "r1", "--json"];
    let rival = async {
        qemu.asked("qom-set").await.unwrap();
        let error = scene.refused(&["pause", "s1"], "OPERATION_UNDER_WAY", "ABORTED").await;
        assert_eq!(error["metadata"]["operation"], "scale");
        let view = scene.view("s1").await;
        assert_eq!(view["operation"]["request_id"], "r1");
        let reused = ["scale", "s1", "--memory", "1GiB", "--request-id", "r1"];
        scene.refused(&reused, "REQUEST_ID_REUSED", "ALREADY_EXISTS").await;
        scene.does(&scale[..6]).await
    };
    let (first, joined) = tokio::join!(scene.agent.cli(&scale), rival);
    let first: Value = first.unwrap().succeeded().unwrap().json().unwrap();
    assert_eq!(first["sandbox"]["memory_bytes"], 512_u64 << 20);
    assert_eq!((&joined["result"], &joined["message"]), (&first["result"], &first["message"]));
    assert_eq!(qemu.times_asked("qom-set").await.unwrap(), 1);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_deadline_ends_the_waiting_and_not_the_operation() {
    let scene = Scene::new().await;
    let qemu = slow_to_resize(&scene, 700).await;
    let scale = ["scale", "s1", "--memory", "512MiB", "--request-id", "r1"];
    let hasty = [&scale[..], &["--deadline", "100ms"]].concat();
    let error = scene.refused(&hasty, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
    assert_eq!(error["metadata"]["request_id"], "r1");
    let done = scene.does(&scale).await;
    assert_eq!(done["result"], "done");
    assert_eq!(scene.view("s1").await["memory_bytes"], 512_u64 << 20);
    assert_eq!(scene.does(&scale).await["replayed"], true);
    assert_eq!(qemu.times_asked("qom-set").await.unwrap(), 1);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_destroy_overtakes_what_is_under_way_and_says_so() {
    let scene = Scene::new().await;
    let qemu = slow_to_resize(&scene, 60_000).await;
    let scale = ["scale", "s1", "--memory", "512MiB", "--json"];
    let overtake = async {
        qemu.asked("qom-set").await.unwrap();
        scene.does(&["destroy", "s1"]).await
    };
    let (overtaken, destroyed) = tokio::join!(scene.agent.cli(&scale), overtake);
    refusal(&overtaken.unwrap(), "OVERTAKEN", "ABORTED");
    assert_eq!(destroyed["result"], "done");
    assert_eq!(qemu.pids(), []);
    assert_eq!(scene.slices("s1").await.last().unwrap()["closed_by"], "destroy");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_destroy_does_not_overtake_an_attach() {
    let scene = Scene::new().await;
    let slow = Rule::once("query-block", [Does::DelayMs(1_000), Does::Model]);
    let options = Options { rules: vec![slow], ..Options::default() };
    let qemu = scene.unattached("s1", &options, scene.folder()).await;
    let attach = ["attach", "s1", "--qmp", qemu.qmp().to_str().unwrap(), "--json"];
    let rival = async {
        qemu.asked("query-block").await.unwrap();
        scene.refused(&["destroy", "s1"], "OPERATION_UNDER_WAY", "ABORTED").await
    };
    let (attached, _) = tokio::join!(scene.agent.cli(&attach), rival);
    attached.unwrap().succeeded().unwrap();
    assert_eq!(scene.view("s1").await["state"], "running");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_guest_that_gives_back_only_part_is_a_partial_result_and_billed_for_what_it_holds() {
    let scene = Scene::new().await;
    let options = Options { unplug_floor_bytes: 128 << 20, ..Options::default() };
    let _qemu = scene.sandbox("s1", &options).await;
    scene.does(&["scale", "s1", "--memory", "768MiB"]).await;
    let partial = scene.does(&["scale", "s1", "--memory", "256MiB"]).await;
    assert_eq!(partial["result"], "partial", "{partial}");
    assert_eq!(partial["sandbox"]["memory_plugged_bytes"], 128_u64 << 20);
    let last = scene.slices("s1").await.pop().unwrap();
    assert_eq!(last["memory_plugged_bytes"], 128_u64 << 20);
    assert_eq!(last["memory_requested_bytes"], 0);
    scene.audits_clean().await;
}

#[tokio::test]
async fn s1_a_hung_qemu_delays_no_other_sandbox_and_can_be_destroyed() {
    let scene = Scene::new().await;
    let hung = scene.sandbox("hung", &Options::default()).await;
    let _well = scene.sandbox("well", &Options::default()).await;
    hung.order(&Order::Rules(vec![Rule::always("stop", [Does::Hang])])).await.unwrap();
    let pause = ["pause", "hung", "--deadline", "100ms"];
    scene.refused(&pause, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
    hung.freeze();
    let started = tokio::time::Instant::now();
    for command in ["pause", "resume", "pause", "resume"] {
        scene.does(&[command, "well"]).await;
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // SIGKILL ends even what stands still.
    let destroyed = scene.does(&["destroy", "hung"]).await;
    assert!(destroyed["message"].as_str().unwrap().contains("killed"), "{destroyed}");
    assert_eq!(hung.pids(), []);
    scene.audits_clean().await;
}
