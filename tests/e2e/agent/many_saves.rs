//! Many sandboxes told to hibernate at once: so many are saved at a time, and nobody is lost or held up by a sick one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dormouse::control;
use dormouse::proto::{CommandHeader, HibernateRequest, SandboxKey, WakeRequest, command_reply};
use dormouse_tests::scripted::{Does, Options, Order, Rule};
use dormouse_tests::{paths, process, wait};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::scene::{DEADLINE, Scene, causes};

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

async fn all_are(scene: &Scene, wanted: impl Fn(&Value) -> bool) {
    wait::until("all of them to be as wanted", 4 * DEADLINE, async || {
        let listed = scene.does(&["ls"]).await;
        let those = listed.as_array().unwrap().iter().filter(|view| wanted(view)).count();
        wait::unless(those == CROWD, || format!("{those} are"))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a hundred QEMUs take all cores for a minute, and the guests of the tests beside it starve"]
async fn a_hundred_real_qemus_told_to_hibernate_at_once_all_do_and_all_wake() {
    let scene = Scene::new().await;
    let crowd = Crowd::start(&scene.agent.run_dir(), scene.folder());
    all_are(&scene, |view| view["connection"] == "connected").await;
    let client = control::client(&scene.agent.socket()).await.unwrap();
    let (started, logged) = (tokio::time::Instant::now(), scene.agent.log().len());
    let mut told = JoinSet::new();
    for number in 0..CROWD {
        let (mut client, name) = (client.clone(), format!("sb-{number}"));
        let request =
            HibernateRequest { header: Some(header(&name, "hibernate")), ..HibernateRequest::default() };
        told.spawn(async move { client.hibernate(request).await });
    }
    for reply in told.join_all().await {
        let reply = reply.unwrap_or_else(|status| panic!("{status}\n{}", scene.agent.log())).into_inner();
        assert_eq!(reply.result(), command_reply::Result::Done, "{reply:?}");
        assert_eq!(reply.sandbox.unwrap().hibernation_method, "shared");
    }
    println!("{CROWD} hibernated in {:?}", started.elapsed());
    all_are(&scene, |view| view["state"] == "hibernated").await;
    assert_eq!(process::with_argument(&crowd.marker), []);
    let log = scene.agent.log();
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
    all_are(&scene, |view| view["state"] == "running").await;
    assert_eq!(process::with_argument(&crowd.marker).len(), CROWD);
    scene.audits_clean().await;
}

#[tokio::test]
async fn whoever_waits_for_a_turn_to_be_saved_runs_on_and_its_caller_is_told_so() {
    let scene = Scene::with("[hibernation]\nat_once = 1\n").await;
    let slow = scene.sandbox("slow", &Options { save_ms: 3_000, ..Options::default() }).await;
    let next = scene.sandbox("next", &Options::default()).await;
    let saved = scene.agent.cli(&["hibernate", "slow", "--json"]);
    let meanwhile = async {
        slow.asked("migrate").await.unwrap();
        let hasty = ["hibernate", "next", "--request-id", "r1", "--deadline", "200ms"];
        let error = scene.refused(&hasty, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
        assert!(error["message"].as_str().unwrap().contains("waiting for its turn to be saved"), "{error}");
        let view = scene.view("next").await;
        assert_eq!(
            (&view["state"], next.times_asked("stop").await.unwrap()),
            (&"running".into(), 0),
            "{view}"
        );
        // Nobody else's: what another monitor does meanwhile is what it is.
        for (run_state, event) in [("paused", "STOP"), ("running", "RESUME")] {
            let order = Order::Become { run_state: run_state.to_owned(), event: event.to_owned() };
            next.order(&order).await.unwrap();
            scene.until("next", |view| view["state"] == run_state).await;
        }
        scene.does(&["hibernate", "next", "--request-id", "r1"]).await
    };
    let (slow_saved, next_saved) = tokio::join!(saved, meanwhile);
    slow_saved.unwrap().succeeded().unwrap();
    assert_eq!(next_saved["sandbox"]["state"], "hibernated", "{next_saved}");
    assert_eq!(causes(&scene.slices("next").await), ["attach", "stop", "continue", "hibernate", "hibernate"]);
    scene.audits_clean().await;
}

#[tokio::test]
async fn one_that_hangs_while_it_is_saved_holds_the_others_up_no_longer_than_its_turn() {
    let scene = Scene::with("[hibernation]\nat_once = 1\n").await;
    let hangs = Rule::always("query-migrate", [Does::Hang]);
    let sick = scene.sandbox("sick", &Options { rules: vec![hangs], ..Options::default() }).await;
    let wells = ["w1", "w2", "w3"];
    let mut scripted = Vec::new();
    for well in wells {
        scripted.push(scene.sandbox(well, &Options::default()).await);
    }
    let hibernate = ["hibernate", "sick", "--deadline", "100ms"];
    scene.refused(&hibernate, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED").await;
    sick.asked("query-migrate").await.unwrap();
    let started = tokio::time::Instant::now();
    for well in wells {
        assert_eq!(scene.does(&["hibernate", well]).await["sandbox"]["state"], "hibernated");
    }
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
    let view = scene.view("sick").await;
    assert_eq!((&view["state"], sick.pids().len()), (&"hibernating".into(), 1), "{view}");
    // One that waits, is destroyed, and leaves its turn to the next.
    scene.does(&["destroy", "sick"]).await;
    scene.does(&["wake", "w1"]).await;
    assert_eq!(scene.does(&["hibernate", "w1"]).await["result"], "done");
    scene.audits_clean().await;
}
