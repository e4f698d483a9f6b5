//! What happens to a QEMU by itself or at somebody else's hand, while the agent watches.

use std::time::Duration;

use dormouse_tests::scripted::{Does, Options, Order, Rule};
use dormouse_tests::wait;
use serde_json::{Value, json};

use crate::scene::{DEADLINE, Scene, causes, now_unix_ns};

/// How late a lost connection may be noticed on a busy machine.
const NOTICED_NS_MAX: i64 = 1_000_000_000;

fn become_(run_state: &str, event: &str) -> Order {
    Order::Become { run_state: run_state.to_owned(), event: event.to_owned() }
}

#[tokio::test]
async fn a_killed_qemu_ends_its_sandbox_within_milliseconds() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["scale", "s1", "--memory", "512MiB"]).await;
    qemu.kill9().await.unwrap();
    let last = scene.last_slice("s1").await;
    assert_eq!((&last["closed_by"], &last["state"]), (&"death".into(), &"running".into()));
    // The billing ends with the last sign of life, and says how long before the death that may have been.
    assert!(last["uncertainty_ns"].as_u64().unwrap() <= 1_500_000_000, "{last}");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_qemu_that_somebody_else_quits_ends_by_its_own_word() {
    let scene = Scene::new().await;
    // A size that it held back until then is lost with it, and would not be certain since it was attached.
    let no_devices = Rule::always("query-memory-devices", [Does::Return(json!([]))]);
    let qemu = scene.sandbox("s1", &Options { rules: vec![no_devices], ..Options::default() }).await;
    qemu.order(&Order::Quit).await.unwrap();
    let last = scene.last_slice("s1").await;
    assert_eq!(last["closed_by"], "shutdown");
    assert!(last["uncertainty_ns"].as_u64().unwrap() < 1_000_000, "{last}");
    scene.audits_clean().await;
}

#[tokio::test]
async fn another_monitors_stop_and_cont_are_billed_as_what_they_are() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    qemu.order(&become_("paused", "STOP")).await.unwrap();
    scene.until("s1", |view| view["state"] == "paused").await;
    qemu.order(&become_("running", "RESUME")).await.unwrap();
    scene.until("s1", |view| view["state"] == "running").await;
    let slices = scene.until_slices("s1", |slices| slices.len() == 3).await;
    assert_eq!(causes(&slices), ["attach", "stop", "continue"]);
    assert!(slices.iter().all(|slice| slice["command_id"].is_null()), "{slices:?}");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_guest_that_faults_is_shown_and_billed_as_faulted_with_the_reason() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    qemu.order(&become_("io-error", "STOP")).await.unwrap();
    let view = scene.until("s1", |view| view["state"] == "faulted").await;
    assert_eq!(view["state_reason"], "io-error");
    scene.refused(&["pause", "s1"], "WRONG_STATE", "FAILED_PRECONDITION").await;
    scene.does(&["resume", "s1"]).await;
    let slices = scene.slices("s1").await;
    assert_eq!(causes(&slices), ["attach", "fault", "resume"]);
    assert_eq!(slices[1]["reason"], "io-error");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_socket_closed_in_the_middle_of_a_line_is_connected_again_and_the_slice_goes_on() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let before = scene.slices("s1").await;
    qemu.order(&Order::Raw("{\"timestamp\": {\"seconds\": 17".to_owned())).await.unwrap();
    qemu.order(&Order::Disconnect).await.unwrap();
    scene.until("s1", |view| view["connection"] == "connecting" || view["connection"] == "connected").await;
    // What happened while nobody listened is found out.
    scene.until("s1", |view| view["connection"] == "connected").await;
    scene.does(&["pause", "s1"]).await;
    let slices = scene.slices("s1").await;
    assert_eq!(causes(&slices), ["attach", "pause"]);
    assert_eq!(slices[0]["start_unix_ns"], before[0]["start_unix_ns"]);
    assert_eq!(qemu.pids().len(), 1);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_size_that_qemu_told_before_it_was_surveyed_takes_nothing_from_what_the_survey_found() {
    let scene = Scene::new().await;
    // As by a QEMU that hung with that event, and has gone on since.
    let stale = json!({"timestamp": {"seconds": 1, "microseconds": 0}, "event": "MEMORY_DEVICE_SIZE_CHANGE",
        "data": {"id": "vm0", "size": 0, "qom-path": "/machine/peripheral/vm0"}});
    let plugged = 256_u64 << 20;
    let devices = json!([{"type": "virtio-mem", "data": {"id": "vm0", "size": plugged, "requested-size": plugged,
        "max-size": 1_u64 << 30, "block-size": 2 << 20, "memaddr": 1_u64 << 32, "node": 0}}]);
    let rules = vec![
        Rule::once(
            "query-memory-devices",
            [Does::Raw(format!("{stale}\r\n")), Does::Return(devices.clone())],
        ),
        Rule::always("query-memory-devices", [Does::Return(devices)]),
    ];
    let qemu = scene.sandbox("s1", &Options { rules, ..Options::default() }).await;
    wait::until("QEMU to be asked whether it holds a size back", DEADLINE, async || {
        let times = qemu.times_asked("query-memory-devices").await.map_err(|error| error.to_string())?;
        wait::unless(times == 2, || format!("it was asked {times} times"))
    })
    .await
    .unwrap();
    scene.does(&["pause", "s1"]).await;
    let slices = scene.slices("s1").await;
    assert_eq!(causes(&slices), ["attach", "pause"]);
    assert_eq!(slices[0]["memory_plugged_bytes"], plugged);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_stop_that_was_missed_shows_when_the_connection_is_back() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    // The end of a connection is seen a little late: it has run for longer than that.
    scene.until_proven_after(now_unix_ns()).await;
    // Told in one breath: nobody is connected when it stops.
    qemu.order(&Order::Disconnect).await.unwrap();
    qemu.order(&become_("paused", "STOP")).await.unwrap();
    let stopped_at = now_unix_ns() + NOTICED_NS_MAX;
    scene.until("s1", |view| view["state"] == "paused").await;
    stopped_by(&scene, stopped_at).await;
}

#[tokio::test]
async fn a_stop_while_the_agent_was_down_is_not_billed_as_running() {
    let mut scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    scene.until_proven_after(now_unix_ns()).await;
    scene.agent.kill9().await.unwrap();
    qemu.order(&become_("paused", "STOP")).await.unwrap();
    let stopped_at = now_unix_ns();
    scene.agent.restart().await.unwrap();
    scene.until("s1", |view| view["state"] == "paused").await;
    stopped_by(&scene, stopped_at).await;
}

/// Nothing after this moment is billed as running, and how long before it may have been is on the slice.
/// A loss of the connection is noticed as late as the machine is busy, so that the moment has that much room.
async fn stopped_by(scene: &Scene, stopped_at: i64) {
    let slices = scene.until_slices("s1", |slices| slices.last().unwrap()["state"] == "paused").await;
    let running = &slices[slices.len() - 2];
    assert_eq!(running["closed_by"], "resync", "{slices:?}");
    assert!(running["end_unix_ns"].as_i64().unwrap() <= stopped_at, "stopped at {stopped_at}: {slices:?}");
    assert!(running["uncertainty_ns"].as_u64().unwrap() > 0, "{slices:?}");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_storm_of_events_loses_no_change_and_delays_nobody() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let _other = scene.sandbox("s2", &Options::default()).await;
    let storm = |event: &str, count| Order::Storm { event: event.to_owned(), count };
    qemu.order(&storm("RTC_CHANGE", 100_000)).await.unwrap();
    scene.does(&["pause", "s2"]).await;
    qemu.order(&storm("RESUME", 5_000)).await.unwrap();
    qemu.order(&become_("paused", "STOP")).await.unwrap();
    scene.does(&["resume", "s2"]).await;
    scene.until("s1", |view| view["state"] == "paused").await;
    scene.does(&["resume", "s1"]).await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn another_client_on_the_socket_is_waited_for() {
    let scene = Scene::new().await;
    let qemu = scene.unattached("s1", &Options::default(), scene.folder()).await;
    let other = tokio::net::UnixStream::connect(qemu.qmp()).await.unwrap();
    let attach = ["attach", "s1", "--qmp", qemu.qmp().to_str().unwrap()];
    scene.refused(&attach, "QMP_BUSY", "UNAVAILABLE").await;
    drop(other);
    scene.does(&attach).await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_megabyte_of_garbage_and_replies_to_nobody_disturb_no_command() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let before = scene.slices("s1").await;
    let garbage = "\u{1}{[\"garbage\u{fffd}".repeat(80);
    for told in [
        format!("{}\n", garbage.repeat(1024)),
        format!("{garbage}\n").repeat(1024),
        "{\"return\": {}, \"id\": 987654321}\n".to_owned(),
        "{\"return\": {\"status\": \"paused\"}}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n".to_owned(),
    ] {
        qemu.order(&Order::Raw(told)).await.unwrap();
        assert_eq!(scene.does(&["pause", "s1"]).await["result"], "done");
        assert_eq!(scene.does(&["resume", "s1"]).await["result"], "done");
    }
    let slices = scene.slices("s1").await;
    assert_eq!(slices[0]["start_unix_ns"], before[0]["start_unix_ns"]);
    assert_eq!(causes(&slices)[1..], ["pause", "resume"].repeat(4));
    assert_eq!(scene.view("s1").await["connection"], "connected");
    // A thousand bad lines are a dozen in the log, which is everybody's.
    let told = scene.agent.log().matches("QMP is not as it should be").count();
    assert!((1..20).contains(&told), "{told}");
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_qemu_that_is_stopped_for_a_minute_is_not_dead_and_loses_and_doubles_nothing() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let _other = scene.sandbox("s2", &Options::default()).await;
    let before = scene.slices("s1").await;
    qemu.freeze();
    scene.refused(&["pause", "s1", "--deadline", "1s"], "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
    let until = tokio::time::Instant::now() + Duration::from_mins(1);
    while tokio::time::Instant::now() < until {
        scene.does(&["pause", "s2"]).await;
        scene.does(&["resume", "s2"]).await;
        let listed = scene.does(&["ls"]).await;
        assert_eq!(listed.as_array().map(Vec::len), Some(2), "it was taken for dead: {listed}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    qemu.thaw();
    scene.until("s1", |view| view["connection"] == "connected" && view["operation"].is_null()).await;
    scene.does(&["pause", "s1"]).await;
    scene.does(&["resume", "s1"]).await;
    let slices = scene.slices("s1").await;
    let same = |name: &str| slices.iter().all(|slice| slice[name] == before[0][name]);
    assert!(same("generation") && slices[0]["start_unix_ns"] == before[0]["start_unix_ns"], "{slices:?}");
    assert!(slices.iter().all(|slice| slice["state"] != "lost"), "{slices:?}");
    assert!(slices.windows(2).all(|pair| pair[0]["end_unix_ns"] == pair[1]["start_unix_ns"]), "{slices:?}");
    scene.audits_clean().await;
}

#[tokio::test]
async fn two_agents_on_one_host_never_bill_the_same_qemu() {
    let (scene, rival) = (Scene::new().await, Scene::new().await);
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let before = scene.shown("s1").await;
    // One that finds it in its own folder, and one that is told.
    std::os::unix::fs::symlink(qemu.qmp(), rival.agent.run_dir().join("s1.qmp")).unwrap();
    let attach = ["attach", "s1", "--qmp", qemu.qmp().to_str().unwrap()];
    rival.refused(&attach, "QMP_BUSY", "UNAVAILABLE").await;
    assert_eq!(rival.does(&["ls"]).await, Value::Array(Vec::new()));
    assert_eq!(rival.does(&["slices"]).await, Value::Array(Vec::new()));
    assert_eq!(scene.shown("s1").await, before);
    scene.does(&["pause", "s1"]).await;
    scene.audits_clean().await;
}
