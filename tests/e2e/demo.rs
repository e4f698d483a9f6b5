//! `make demo` is a test as well: the whole life of a real guest, as a program reads it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, in its own lines and in those that it shares"
)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dormouse_tests::{process, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
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
    assert_eq!(served_memory(&report).await, report["usage"]["total"]["memory_byte_nanoseconds"]);
    assert!(!folder.path().join("guest").exists());
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

/// What the command that the demo ends with serves to who has its token: the memory of the org, exactly.
async fn served_memory(report: &Value) -> Value {
    let parts: Vec<&str> = report["serve"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let mut serve = Command::new(parts[0]);
    serve.args(&parts[1..]).args(["--listen", "127.0.0.1:0"]).stderr(Stdio::piped()).kill_on_drop(true);
    let mut served = serve.spawn().unwrap();
    let line = BufReader::new(served.stderr.take().unwrap()).lines().next_line().await.unwrap().unwrap();
    let address = line.strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let token = report["token"].as_str().unwrap();
    let request = format!(
        "GET /api/usage HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let usage: Value = serde_json::from_str(body).unwrap();
    usage["total"]["memoryByteNanoseconds"].clone()
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
