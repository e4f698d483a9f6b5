//! What makes no sense is refused, with its reason, and nothing is disturbed by it.

use std::path::Path;

use dormouse::control;
use dormouse::proto::{AttachRequest, CommandHeader, SandboxKey};
use dormouse_tests::agent::Output;
use dormouse_tests::scripted::{Greets, Options};
use tonic::Code;
use tonic_types::StatusExt;

use crate::scene::{Scene, refusal};

fn attach<'a>(id: &'a str, qmp: &'a Path) -> [&'a str; 4] {
    ["attach", id, "--qmp", qmp.to_str().unwrap()]
}

/// An attach that is refused leaves no trace, and another sandbox as it was.
async fn attach_is_refused(scene: &Scene, id: &str, qmp: &Path, reason: &str, code: &str) {
    let before = scene.shown("bystander").await;
    let error = scene.refused(&attach(id, qmp), reason, code).await;
    assert!(error["message"].as_str().unwrap().contains(qmp.to_str().unwrap()) || reason == "INVALID_ID");
    assert_eq!(scene.shown("bystander").await, before);
    let listed = scene.does(&["ls"]).await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    scene.audits_clean().await;
}

async fn scene_with_bystander() -> (Scene, dormouse_tests::scripted::Scripted) {
    let scene = Scene::new().await;
    let bystander = scene.sandbox("bystander", &Options::default()).await;
    (scene, bystander)
}

#[tokio::test]
async fn an_id_with_a_slash_is_refused_as_an_invalid_id() {
    let (scene, bystander) = scene_with_bystander().await;
    attach_is_refused(&scene, "a/b", bystander.qmp(), "INVALID_ID", "INVALID_ARGUMENT").await;
    for command in ["show", "pause", "wake", "destroy"] {
        scene.refused(&[command, "a/b"], "INVALID_ID", "INVALID_ARGUMENT").await;
    }
}

#[tokio::test]
async fn a_socket_that_is_a_file_or_missing_is_refused() {
    let (scene, _bystander) = scene_with_bystander().await;
    let file = scene.folder().join("no-socket");
    std::fs::write(&file, "text").unwrap();
    attach_is_refused(&scene, "s1", &file, "INVALID_QMP_PATH", "INVALID_ARGUMENT").await;
    attach_is_refused(&scene, "s1", scene.folder(), "INVALID_QMP_PATH", "INVALID_ARGUMENT").await;
    let missing = scene.folder().join("missing");
    attach_is_refused(&scene, "s1", &missing, "QMP_UNREACHABLE", "UNAVAILABLE").await;
}

#[tokio::test]
async fn a_socket_that_never_greets_is_busy() {
    let (scene, _bystander) = scene_with_bystander().await;
    let options = Options { greeting: Greets::Never, ..Options::default() };
    let silent = scene.unattached("silent", &options, scene.folder()).await;
    attach_is_refused(&scene, "silent", silent.qmp(), "QMP_BUSY", "UNAVAILABLE").await;
    assert_eq!(silent.pids().len(), 1, "its process goes on");
}

#[tokio::test]
async fn garbage_instead_of_qmp_is_told_as_such() {
    let (scene, _bystander) = scene_with_bystander().await;
    let options = Options { greeting: Greets::Garbage, ..Options::default() };
    let garbage = scene.unattached("garbage", &options, scene.folder()).await;
    attach_is_refused(&scene, "garbage", garbage.qmp(), "QMP_NOT_SPOKEN", "UNAVAILABLE").await;
    assert_eq!(garbage.pids().len(), 1, "its process goes on");
}

#[tokio::test]
async fn a_command_that_makes_no_sense_leaves_the_sandbox_as_it_was() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let before = scene.shown("s1").await;
    for (arguments, reason, code) in [
        (&["scale", "s1", "--memory", "257MiB"][..], "SIZE_MISALIGNED", "INVALID_ARGUMENT"),
        (&["scale", "s1", "--memory", "4GiB"], "SIZE_OUT_OF_BOUNDS", "INVALID_ARGUMENT"),
        (&["scale", "s1", "--memory", "128MiB"], "SIZE_OUT_OF_BOUNDS", "INVALID_ARGUMENT"),
        (&["wake", "s1"], "WRONG_STATE", "FAILED_PRECONDITION"),
        (&["hibernate", "s1", "--method", "shared"], "METHOD_UNSUITABLE", "FAILED_PRECONDITION"),
        (&["hibernate", "s1", "--method", "internal"], "METHOD_UNSUITABLE", "FAILED_PRECONDITION"),
        (&["attach", "s1", "--qmp", "/another.qmp"], "SANDBOX_EXISTS", "ALREADY_EXISTS"),
        (&["pause", "nobody"], "SANDBOX_NOT_FOUND", "NOT_FOUND"),
        (&["pause", "s1", "--org", "another"], "SANDBOX_NOT_FOUND", "NOT_FOUND"),
    ] {
        scene.refused(arguments, reason, code).await;
        assert_eq!(scene.shown("s1").await, before, "{arguments:?}");
    }
    for command in ["stop", "qom-set", "migrate", "quit"] {
        assert_eq!(qemu.times_asked(command).await.unwrap(), 0, "{command}");
    }
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_second_hibernate_is_refused_and_the_snapshot_wakes() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["scale", "s1", "--memory", "512MiB"]).await;
    scene.does(&["hibernate", "s1"]).await;
    assert_eq!(qemu.pids(), []);
    let before = scene.shown("s1").await;
    scene.refused(&["hibernate", "s1"], "WRONG_STATE", "FAILED_PRECONDITION").await;
    scene.refused(&["scale", "s1", "--memory", "256MiB"], "WRONG_STATE", "FAILED_PRECONDITION").await;
    assert_eq!(scene.shown("s1").await, before);
    let woken = scene.does(&["wake", "s1"]).await;
    assert_eq!(woken["sandbox"]["state"], "running");
    assert_eq!(woken["sandbox"]["memory_bytes"], 512_u64 << 20);
    scene.refused(&["wake", "s1"], "WRONG_STATE", "FAILED_PRECONDITION").await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn to_destroy_twice_is_fine_and_the_second_never_destroys_who_comes_after() {
    let scene = Scene::new().await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let destroyed = scene.does(&["destroy", "s1", "--request-id", "d1"]).await;
    assert_eq!(destroyed["result"], "done");
    assert_eq!(qemu.pids(), []);
    let slices = scene.slices("s1").await;
    assert_eq!(slices.last().unwrap()["closed_by"], "destroy");
    let again = scene.does(&["destroy", "s1", "--request-id", "d2"]).await;
    assert_eq!((&again["result"], &again["replayed"]), (&"unchanged".into(), &false.into()), "{again}");
    assert_eq!(scene.slices("s1").await, slices);
    scene.refused(&["destroy", "nobody"], "SANDBOX_NOT_FOUND", "NOT_FOUND").await;

    let qemu = scene.sandbox("s1", &Options::default()).await;
    for (id, result) in [("d1", "done"), ("d2", "unchanged")] {
        let replayed = scene.does(&["destroy", "s1", "--request-id", id]).await;
        assert_eq!((&replayed["result"], &replayed["replayed"]), (&result.into(), &true.into()));
    }
    scene.refused(&["pause", "s1", "--request-id", "d2"], "REQUEST_ID_REUSED", "ALREADY_EXISTS").await;
    assert_eq!((scene.view("s1").await["state"].as_str(), qemu.pids().len()), (Some("running"), 1));
    scene.audits_clean().await;
}

#[tokio::test]
async fn people_are_told_the_reason_and_what_to_do_next() {
    let scene = Scene::new().await;
    let told: Output = scene.agent.cli(&["wake", "nobody"]).await.unwrap();
    assert_eq!((told.code, told.stdout.as_str()), (1, ""));
    assert!(told.stderr.contains("[SANDBOX_NOT_FOUND]") && told.stderr.contains("next: "), "{told:?}");
    for (arguments, code) in [
        (&["scale", "s1", "--memory", "many"][..], 64),
        (&["hibernate", "s1", "--method", "magic"], 64),
        (&["no-such-command"], 64),
    ] {
        let output = scene.agent.cli(arguments).await.unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (code, ""), "{output:?}");
    }
}

#[tokio::test]
async fn a_program_is_told_the_code_and_the_reason_by_grpc() {
    let scene = Scene::new().await;
    let mut client = control::client(&scene.agent.socket()).await.unwrap();
    let key = SandboxKey { org: "default".to_owned(), sandbox: "a/b".to_owned() };
    let header = CommandHeader { key: Some(key), ..CommandHeader::default() };
    let request =
        AttachRequest { header: Some(header), qmp_path: "/run/a.qmp".to_owned(), ..AttachRequest::default() };
    let status = client.attach(request).await.unwrap_err();
    let told = status.get_details_error_info().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!((told.domain.as_str(), told.reason.as_str()), ("dormouse", "INVALID_ID"));
    assert_eq!(told.metadata["value"], "a/b");
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_an_exit_code_of_its_own() {
    let mut scene = Scene::new().await;
    scene.agent.kill9().await.unwrap();
    let output = scene.agent.cli(&["ls"]).await.unwrap();
    assert_eq!((output.code, output.stdout.as_str()), (69, ""), "{output:?}");
    scene.agent.restart().await.unwrap();
    // A refusal of an agent that runs is none of those.
    let output = scene.agent.cli(&["pause", "nobody", "--json"]).await.unwrap();
    refusal(&output, "SANDBOX_NOT_FOUND", "NOT_FOUND");
}
