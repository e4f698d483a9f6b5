//! `make demo` is a test as well: the whole life of a real guest, as a program reads it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, in its own lines and in those that it shares"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dormouse_tests::people::{self, Served};
use dormouse_tests::{process, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::Command;

#[tokio::test]
async fn the_demo_holds_what_it_claims_and_leaves_nothing_but_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["holds"], true, "{report:#}");
    assert_eq!(report["audit"]["clean"], true);
    let states: Vec<&str> =
        report["slices"].as_array().unwrap().iter().filter_map(|slice| slice["state"].as_str()).collect();
    for state in ["running", "paused", "hibernating", "hibernated", "waking"] {
        assert!(states.contains(&state), "{state} is not among {states:?}");
    }
    assert_eq!(processes_of(folder.path()), []);
    assert!(folder.path().join("state/ledger.sqlite").exists());
    assert!(!folder.path().join("guest").exists());
}

#[tokio::test]
async fn a_new_user_tags_the_demos_sandbox_and_reads_equal_sums_in_the_page_by_curl_and_by_each_client() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let memory = &report["usage"]["total"]["memory_byte_nanoseconds"];
    let token = report["token"].as_str().unwrap();
    let served = Served::start(serve(&report)).await.unwrap();

    let page = people::walk(&served.url(), token, "sb-1").await.unwrap();
    let slices: Vec<&str> = page["slices"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for reason in ["it was found", "it was scaled", "it was paused", "it was hibernated", "it was destroyed"]
    {
        assert!(slices.iter().any(|slice| slice.contains(reason)), "{reason}: {slices:#?}");
    }
    assert_eq!((&page["amount"], &page["total"]), (memory, memory), "{page}");

    for tag in ["red & blue", "red"] {
        let answers = people::curl_as_the_readme_does(served.address(), token).await.unwrap();
        let [(_, usage), (line, put)] = answers.as_slice() else { panic!("{answers:?}") };
        assert_eq!(usage["items"][0]["value"], tag, "{usage}");
        assert_eq!(
            (&usage["items"][0]["memoryByteNanoseconds"], &usage["total"]["memoryByteNanoseconds"]),
            (memory, memory)
        );
        assert!(line.contains("-X PUT"), "{line}");
        assert_eq!(put["tags"], json!({"team": "red"}));
    }

    let reader = read_token(&report).await;
    let said = people::clients(&served.url(), [&reader, token], "sb-1").await.unwrap();
    let memory = memory.as_str().unwrap();
    assert_eq!(said, format!("sb-1 {memory} byte-nanoseconds, team=red {memory}"));
}

#[tokio::test]
async fn the_fleet_demo_breaks_each_part_once_and_its_sums_are_equal_and_nothing_runs_on() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path()).arg("--fleet").output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["holds"], true, "{report:#}");
    assert_eq!(report["check"]["missing"], serde_json::json!([]));
    let titles: Vec<&str> =
        report["steps"].as_array().unwrap().iter().filter_map(|step| step["title"].as_str()).collect();
    for part in ["the agent of host-a", "NATS", "PostgreSQL", "the ingest"] {
        assert!(titles.contains(&&*format!("kill -9 of {part}")), "{part} is not in {titles:?}");
    }
    for (host, guest) in [("host-a", "sb-1"), ("host-b", "sb-2")] {
        let root = folder.path().join(host);
        assert_eq!(processes_with(&root, guest), []);
        assert!(root.join("state/ledger.sqlite").exists());
        assert!(!root.join("guest").exists());
    }
}

#[tokio::test]
async fn a_demo_refuses_a_folder_that_no_demo_has_made() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "").unwrap();
    let output = demo(folder.path()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no demo has made it"));
    assert!(precious.exists());
}

#[tokio::test]
async fn a_demo_that_is_interrupted_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = demo(folder.path()).spawn().unwrap();
    wait::until("the guest to be there", Duration::from_mins(1), async || {
        let found = processes_of(folder.path());
        wait::unless(found.len() == 2, || format!("{found:?} of agent and QEMU run"))
    })
    .await
    .unwrap();
    let pid = Pid::from_raw(running.id().unwrap().cast_signed());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(running.wait().await.unwrap().code(), Some(128 + 15));
    assert_eq!(processes_of(folder.path()), []);
}

/// The command that the demo ends with.
fn serve(report: &Value) -> Command {
    let mut parts = report["serve"].as_array().unwrap().iter().filter_map(Value::as_str);
    let mut serve = Command::new(parts.next().unwrap());
    serve.args(parts);
    serve
}

/// A token of the demo's org that may only read.
async fn read_token(report: &Value) -> String {
    let parts: Vec<&str> = report["serve"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let mut create = Command::new(parts[0]);
    create.args(["token", "create", "--org", "default", "--role", "read", "--json", parts[2], parts[3]]);
    let output = create.output().await.unwrap();
    let created: Value = serde_json::from_slice(&output.stdout).unwrap();
    created["token"].as_str().unwrap().to_owned()
}

fn demo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command
        .args(["--json", "--folder"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The agent and the QEMU of a demo in `folder`.
fn processes_of(folder: &Path) -> Vec<Pid> {
    processes_with(folder, "sb-1")
}

/// The agent that has its configuration in a folder, and the QEMU of a guest in its watched folder.
fn processes_with(root: &Path, guest: &str) -> Vec<Pid> {
    let config = root.join("dormouse.toml").display().to_string();
    let qmp = format!("unix:{},server=on,wait=off", root.join(format!("run/{guest}.qmp")).display());
    [config, qmp].iter().flat_map(|argument| process::with_argument(argument)).collect()
}
