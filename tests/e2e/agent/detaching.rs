//! Handing a sandbox back: its QEMU goes on, and nobody takes it again unasked.

use dormouse_tests::scripted::Options;
use dormouse_tests::wait;

use crate::scene::{DEADLINE, Scene};

/// Discovery tells of sockets in their order, so that a sandbox found later shows that the first was looked at.
async fn discovery_has_passed(scene: &Scene, id: &str) {
    drop(scene.sandbox(id, &Options::default()).await);
    scene.until_gone(id).await;
}

#[tokio::test]
async fn a_detach_leaves_qemu_alone_and_discovery_does_not_take_it_again() {
    let mut scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let detached = scene.does(&["detach", "s1"]).await;
    assert_eq!(detached["result"], "done");
    assert_eq!(qemu.pids().len(), 1);
    scene.refused(&["show", "s1"], "SANDBOX_NOT_FOUND", "NOT_FOUND").await;
    scene.refused(&["destroy", "s1"], "SANDBOX_NOT_FOUND", "NOT_FOUND").await;
    let slices = scene.slices("s1").await;
    assert_eq!(slices.last().unwrap()["closed_by"], "detach");

    // Its file says something new: discovery looks at it again.
    std::fs::write(scene.agent.run_dir().join("s1.toml"), "plan = \"other\"\n").unwrap();
    wait_for_log(&scene, 1).await;
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    wait_for_log(&scene, 2).await;
    discovery_has_passed(&scene, "s2").await;
    scene.refused(&["show", "s1"], "SANDBOX_NOT_FOUND", "NOT_FOUND").await;
    for command in ["stop", "quit"] {
        assert_eq!(qemu.times_asked(command).await.unwrap(), 0, "{command}");
    }

    let path = qemu.qmp().to_str().unwrap().to_owned();
    scene.does(&["attach", "s1", "--qmp", &path]).await;
    let view = scene.view("s1").await;
    assert_eq!(view["state"], "running");
    assert_ne!(view["generation"], slices[0]["generation"]);
    scene.audits_clean().await;
}

#[tokio::test]
async fn another_qemu_on_the_socket_of_a_detached_sandbox_is_attached() {
    let scene = Scene::new().await;
    let first = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["detach", "s1"]).await;
    first.kill9().await.unwrap();
    let _second = scene.sandbox("s1", &Options::default()).await;
    scene.audits_clean().await;
}

async fn wait_for_log(scene: &Scene, times: usize) {
    wait::until("discovery to leave the sandbox alone", DEADLINE, async || {
        let told = scene.agent.log().matches("was detached and is left alone").count();
        wait::unless(told >= times, || format!("told {told} times"))
    })
    .await
    .unwrap();
}
