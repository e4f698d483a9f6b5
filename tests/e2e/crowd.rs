//! A hundred sandboxes told to hibernate at once: so many are saved at a time, none is lost, and all wake.
//!
//! It has a program of its own, because a hundred QEMUs take all cores: guests of tests beside it would starve.

#![allow(clippy::unwrap_used, reason = "what the test starts it with is part of the test")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dormouse::control;
use dormouse::proto::{CommandHeader, HibernateRequest, SandboxKey, WakeRequest, command_reply};
use dormouse_tests::agent::Agent;
use dormouse_tests::{paths, process, wait};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// For all of them to be as wanted.
const DEADLINE: Duration = Duration::from_mins(2);

/// QEMU is given up sooner than by default: one that is held up by the others shows.
const IMPATIENT: &str = "[qmp]\ngreeting_ms = 500\nreply_ms = 1500\nreconnect_max_ms = 200\n";

/// How many are told at once.
const CROWD: usize = 100;

/// How many are woken at once: each starts a QEMU.
const WAKES_AT_ONCE: usize = 8;

/// Longer than all of them take one after the other on a busy machine.
const CROWD_MS: u64 = 300_000;

/// Real QEMUs that run their firmware and no guest. Dropping this ends those that a wake has started, too.
struct Crowd {
    marker: String,
    _first: Vec<Child>,
}

impl Crowd {
    fn start(run_dir: &Path, folder: &Path) -> Self {
        let marker = format!("guest=crowd-{}", process::nonce());
        let start = |number: usize| {
            let memory = folder.join(format!("{number}.ram"));
            let qmp = run_dir.join(format!("sb-{number}.qmp"));
            let arguments = [
                ("-accel", "tcg".to_owned()),
                ("-cpu", "qemu64".to_owned()),
                ("-display", "none".to_owned()),
                ("-m", "32M".to_owned()),
                ("-machine", "q35,memory-backend=ram0".to_owned()),
                ("-name", marker.clone()),
                (
                    "-object",
                    format!("memory-backend-file,id=ram0,size=32M,share=on,mem-path={}", memory.display()),
                ),
                ("-qmp", format!("unix:{},server=on,wait=off", qmp.display())),
            ];
            Command::new(paths::qemu(paths::QemuVersion::V10).unwrap())
                .args(["-nodefaults", "-no-user-config"])
                .args(arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]))
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        Self { _first: (0..CROWD).map(start).collect(), marker }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        process::kill_with_argument(&self.marker);
    }
}

fn header(sandbox: &str, request: &str) -> CommandHeader {
    let key = Some(SandboxKey { org: "default".to_owned(), sandbox: sandbox.to_owned() });
    CommandHeader { key, request_id: format!("{sandbox}-{request}"), deadline_ms: CROWD_MS }
}

async fn all_are(agent: &Agent, wanted: impl Fn(&Value) -> bool) {
    wait::until("all of them to be as wanted", DEADLINE, async || {
        let listed = agent.json(&["ls"]).await.map_err(|error| error.to_string())?;
        let those = listed.as_array().unwrap().iter().filter(|view| wanted(view)).count();
        wait::unless(those == CROWD, || format!("{those} are"))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_real_qemus_told_to_hibernate_at_once_all_do_and_all_wake() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start_with(folder.path(), IMPATIENT).await.unwrap();
    let crowd = Crowd::start(&agent.run_dir(), folder.path());
    all_are(&agent, |view| view["connection"] == "connected").await;
    let client = control::client(&agent.socket()).await.unwrap();
    let (started, logged) = (tokio::time::Instant::now(), agent.log().len());
    let mut told = JoinSet::new();
    for number in 0..CROWD {
        let (mut client, name) = (client.clone(), format!("sb-{number}"));
        let request =
            HibernateRequest { header: Some(header(&name, "hibernate")), ..HibernateRequest::default() };
        told.spawn(async move { client.hibernate(request).await });
    }
    for reply in told.join_all().await {
        let reply = reply.unwrap_or_else(|status| panic!("{status}\n{}", agent.log())).into_inner();
        assert_eq!(reply.result(), command_reply::Result::Done, "{reply:?}");
        assert_eq!(reply.sandbox.unwrap().hibernation_method, "shared");
    }
    println!("{CROWD} hibernated in {:?}", started.elapsed());
    all_are(&agent, |view| view["state"] == "hibernated").await;
    assert_eq!(process::with_argument(&crowd.marker), []);
    let log = agent.log();
    for of_a_timeout in ["deadline", "timed out", "QMP is not as it should be"] {
        assert!(!log[logged..].contains(of_a_timeout), "{log}");
    }

    futures_util::stream::iter(0..CROWD)
        .for_each_concurrent(WAKES_AT_ONCE, |number| {
            let (mut client, name) = (client.clone(), format!("sb-{number}"));
            let request = WakeRequest { header: Some(header(&name, "wake")), cold: false };
            async move { drop(client.wake(request).await.unwrap()) }
        })
        .await;
    all_are(&agent, |view| view["state"] == "running").await;
    assert_eq!(process::with_argument(&crowd.marker).len(), CROWD);
    let audit = agent.json(&["audit"]).await.unwrap();
    assert_eq!(audit["clean"], true, "{audit}");
}
