//! Sandboxes that the agent itself starts: created, power-cycled, ended in order, and never left over unseen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dormouse_tests::agent::Agent;
use dormouse_tests::console::Console;
use dormouse_tests::paths::{self, QemuVersion};
use dormouse_tests::scripted::{Does, Options, Order, Rule, Scripted};
use dormouse_tests::systemd::UserSystemd;
use dormouse_tests::{accel, process, wait};
use serde_json::{Value, json};

use crate::scene::{DEADLINE, Scene, causes};

/// A booting guest under emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(30);

/// A scripted QEMU that is to be created, and the file of its spec.
fn scripted(scene: &Scene, id: &str, options: &Options) -> (Scripted, String) {
    let qmp = scene.folder().join("guests").join("default").join(format!("{id}.qmp"));
    let qemu = Scripted::to_create(options, id, &qmp, scene.folder()).unwrap();
    let spec = written(scene.folder(), id, &qemu.spec_toml());
    (qemu, spec)
}

fn written(folder: &Path, id: &str, spec: &str) -> String {
    let path = folder.join(format!("{id}.spec.toml"));
    std::fs::write(&path, spec).unwrap();
    path.display().to_string()
}

fn states(slices: &[Value]) -> Vec<&str> {
    slices.iter().map(|slice| slice["state"].as_str().unwrap()).collect()
}

async fn orphans(scene: &Scene) -> Vec<Value> {
    scene.does(&["ls", "--orphans"]).await.as_array().cloned().unwrap()
}

#[tokio::test]
async fn a_created_sandbox_runs_billed_from_its_first_moment_and_outlives_the_agents_stop_and_kill() {
    let mut scene = Scene::new().await;
    let (qemu, spec) = scripted(&scene, "s1", &Options::default());
    let create = ["create", "s1", "--spec", spec.as_str(), "--request-id", "r1"];
    let created = scene.does(&create).await;
    assert_eq!(
        (created["sandbox"]["state"].as_str(), created["replayed"].as_bool()),
        (Some("running"), Some(false))
    );
    let pids = qemu.pids();
    assert_eq!(pids.len(), 1);
    assert_eq!(created["sandbox"]["pid"], pids[0].as_raw());
    let slices = scene.until_slices("s1", |slices| slices.len() == 2).await;
    assert_eq!((states(&slices), causes(&slices)), (vec!["paused", "running"], vec!["create", "create"]));
    assert!(slices.iter().all(|slice| slice["opened_by_command_id"] == "r1"), "{slices:?}");

    assert_eq!(scene.does(&create).await["replayed"], true);
    let again = ["create", "s1", "--spec", spec.as_str()];
    scene.refused(&again, "SANDBOX_EXISTS", "ALREADY_EXISTS").await;
    assert_eq!(qemu.pids(), pids);

    scene.agent.stop().await.unwrap();
    scene.agent.restart().await.unwrap();
    scene.until("s1", |view| view["connection"] == "connected").await;
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    scene.until("s1", |view| view["connection"] == "connected").await;
    assert_eq!(qemu.pids(), pids);
    assert_eq!(orphans(&scene).await, Vec::<Value>::new());

    scene.does(&["hibernate", "s1", "--method", "mapped-ram"]).await;
    qemu.gone().await.unwrap();
    scene.does(&["wake", "s1"]).await;
    let destroy = ["destroy", "s1", "--request-id", "r2"];
    scene.does(&destroy).await;
    assert_eq!(scene.does(&destroy).await["replayed"], true);
    qemu.gone().await.unwrap();
    assert!(slices_end_by(&scene, "destroy").await);
    scene.audits_clean().await;
}

/// The last slice is in the ledger before the command is answered.
async fn slices_end_by(scene: &Scene, cause: &str) -> bool {
    scene.slices("s1").await.last().is_some_and(|last| last["closed_by"] == cause)
}

#[tokio::test]
async fn a_qemu_that_ends_at_its_start_is_reported_in_its_own_words_and_leaves_nothing() {
    let scene = Scene::new().await;
    let qemu = paths::qemu(QemuVersion::V10).unwrap();
    let spec = format!("qemu = \"{}\"\nmemory = \"256MiB\"\nmachine = \"nonesuch\"\n", qemu.display());
    let spec = written(scene.folder(), "s1", &spec);
    let create = ["create", "s1", "--spec", spec.as_str(), "--request-id", "r1"];
    let error = scene.refused(&create, "LAUNCH_FAILED", "INTERNAL").await;
    assert!(error["message"].as_str().unwrap().contains("nonesuch"), "{error}");
    scene.refused(&create, "LAUNCH_FAILED", "INTERNAL").await;
    scene.refused(&["show", "s1"], "SANDBOX_NOT_FOUND", "NOT_FOUND").await;
    assert_eq!(orphans(&scene).await, Vec::<Value>::new());

    for (spec, part) in [
        ("qemu = \"/none/qemu\"\nmemory = \"256MiB\"\n", "no program /none/qemu"),
        ("memory = \"256MiB\"\n[[disks]]\npath = \"/none/disk\"\n", "it is not there"),
        ("memory = \"1MiB\"\n", "blocks of 2MiB"),
    ] {
        let spec = written(scene.folder(), "s2", spec);
        let error =
            scene.refused(&["create", "s2", "--spec", &spec], "INVALID_SPEC", "INVALID_ARGUMENT").await;
        assert!(error["message"].as_str().unwrap().contains(part), "{error}");
    }
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_power_cycle_keeps_the_sandbox_and_bills_no_memory_between_two_qemus() {
    let scene = Scene::new().await;
    let (qemu, spec) = scripted(&scene, "s1", &Options::default());
    let created = scene.does(&["create", "s1", "--spec", &spec]).await;
    scene.does(&["scale", "s1", "--memory", "512MiB"]).await;
    let first = qemu.pids();
    let cycled = scene.does(&["power-cycle", "s1", "--request-id", "p1"]).await;
    assert_eq!(cycled["sandbox"]["generation"], created["sandbox"]["generation"]);
    assert_eq!(cycled["sandbox"]["memory_plugged_bytes"], 0);
    assert_eq!(qemu.pids().len(), 1);
    assert_ne!(qemu.pids(), first);
    let slices =
        scene.until_slices("s1", |slices| states(slices).ends_with(&["running", "paused", "running"])).await;
    // The one before may be a moment without what was plugged: QEMU may have held back that it was given back.
    let grown = |slice: &Value| slice["memory_plugged_bytes"] == 256_u64 << 20 && slice["state"] == "running";
    assert!(slices.iter().any(grown), "{slices:?}");
    let [_, between, after] = &slices[slices.len() - 3..] else { panic!("{slices:?}") };
    assert_eq!(
        (between["memory_plugged_bytes"].as_u64(), &between["opened_by"]),
        (Some(0), &json!("power_cycle"))
    );
    assert_eq!((&after["opened_by"], &after["opened_by_command_id"]), (&json!("power_cycle"), &json!("p1")));
    for pair in slices.windows(2) {
        assert_eq!(pair[0]["end_unix_ns"], pair[1]["start_unix_ns"]);
    }
    scene.does(&["destroy", "s1"]).await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_graceful_destroy_presses_the_power_button_gives_time_and_then_ends_qemu_all_the_same() {
    let scene = Scene::new().await;
    let (qemu, spec) = scripted(&scene, "s1", &Options::default());
    scene.does(&["create", "s1", "--spec", &spec]).await;
    let destroyed = scene.does(&["destroy", "s1", "--graceful=300ms"]).await;
    assert!(destroyed["message"].as_str().unwrap().contains("within 300 ms"), "{destroyed}");
    qemu.gone().await.unwrap();

    // Powered off by its guest.
    scene.does(&["create", "s1", "--spec", &spec]).await;
    let order = async {
        qemu.asked("system_powerdown").await.unwrap();
        qemu.order(&Order::Quit).await.unwrap();
    };
    let (destroyed, ()) = tokio::join!(scene.does(&["destroy", "s1", "--graceful=1h"]), order);
    assert!(destroyed["message"].as_str().unwrap().contains("powered itself off"), "{destroyed}");
    assert!(slices_end_by(&scene, "destroy").await);

    // A hurried destroy overtakes one that waits for the guest, and a QEMU that hangs is killed.
    scene.does(&["create", "s1", "--spec", &spec]).await;
    qemu.order(&Order::Rules(vec![Rule::always("quit", [Does::Hang])])).await.unwrap();
    let hurried = async {
        qemu.asked("system_powerdown").await.unwrap();
        scene.does(&["destroy", "s1"]).await
    };
    let patient = scene.refused(&["destroy", "s1", "--graceful=1h"], "OVERTAKEN", "ABORTED");
    let (_, hurried) = tokio::join!(patient, hurried);
    assert!(hurried["message"].as_str().unwrap().contains("had to be killed"), "{hurried}");
    qemu.gone().await.unwrap();
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_qemu_that_no_sandbox_claims_is_listed_and_ended_only_when_told() {
    let mut scene = Scene::new().await;
    let (qemu, spec) = scripted(&scene, "s1", &Options::default());
    scene.does(&["create", "s1", "--spec", &spec, "--request-id", "r1"]).await;
    // Handed back: the agent started it, and it is nobody's.
    scene.does(&["detach", "s1"]).await;
    let pid = qemu.pids()[0].as_raw();
    for _ in 0..2 {
        let listed = orphans(&scene).await;
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!((listed[0]["pid"].as_i64(), &listed[0]["request_id"]), (Some(pid.into()), &json!("r1")));
        scene.agent.kill9().await.unwrap();
        scene.agent.restart().await.unwrap();
    }
    let ours = std::process::id().to_string();
    scene.refused(&["destroy-orphan", &ours], "ORPHAN_NOT_FOUND", "NOT_FOUND").await;
    assert_eq!(qemu.pids().len(), 1);
    let ended = scene.does(&["destroy-orphan", &pid.to_string(), "--request-id", "r2"]).await;
    assert_eq!(ended["pid"], pid);
    qemu.gone().await.unwrap();
    assert_eq!(orphans(&scene).await, Vec::<Value>::new());
    scene.refused(&["destroy-orphan", &pid.to_string()], "ORPHAN_NOT_FOUND", "NOT_FOUND").await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn under_systemd_a_sandbox_is_a_service_of_its_own_that_outlives_the_agent() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let systemd = UserSystemd::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let by_systemd = "[launch]\nby = \"systemd_user\"\n";
    let agent = Agent::start_within(folder.path(), &systemd.namespace(), by_systemd).await.unwrap();
    let mut scene = Scene::of(agent, folder);
    let (qemu, spec) = scripted(&scene, "s1", &Options::default());
    scene.does(&["create", "s1", "--spec", &spec]).await;
    let pids = qemu.pids();
    assert_eq!(pids.len(), 1);
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", pids[0])).unwrap();
    assert!(group.contains("/dormouse-s1-"), "{group}");

    scene.agent.kill9().await.unwrap();
    assert_eq!(qemu.pids(), pids);
    scene.agent.restart().await.unwrap();
    scene.until("s1", |view| view["connection"] == "connected").await;
    assert_eq!(qemu.pids(), pids);
    scene.does(&["power-cycle", "s1"]).await;
    assert_ne!(qemu.pids(), pids);
    scene.does(&["hibernate", "s1", "--method", "mapped-ram"]).await;
    qemu.gone().await.unwrap();
    scene.does(&["wake", "s1"]).await;
    scene.does(&["destroy", "s1"]).await;
    qemu.gone().await.unwrap();
    assert_eq!(orphans(&scene).await, Vec::<Value>::new());

    // What ends at once is told in its own words here, too.
    let program = paths::qemu(QemuVersion::V10).unwrap();
    let spec = format!("qemu = \"{}\"\nmemory = \"256MiB\"\nmachine = \"nonesuch\"\n", program.display());
    let spec = written(scene.folder(), "s2", &spec);
    let error = scene.refused(&["create", "s2", "--spec", &spec], "LAUNCH_FAILED", "INTERNAL").await;
    assert!(error["message"].as_str().unwrap().contains("nonesuch"), "{error}");
    scene.audits_clean().await;
}

/// A spec of the harness's own guest, with memory in shared files, a disk that is made, and a console at this socket.
async fn real_spec(folder: &Path, console: &Path, marker: &str) -> String {
    let (kernel, initrd) = paths::guest_image().unwrap();
    let accel = accel::probed().await.unwrap();
    let text = |path: PathBuf| Value::from(path.display().to_string());
    let extra = [
        "-name".to_owned(),
        marker.to_owned(),
        "-serial".to_owned(),
        format!("file:{}", folder.join("kernel.log").display()),
        "-chardev".to_owned(),
        format!("socket,id=console,path={},server=on,wait=off", console.display()),
        "-serial".to_owned(),
        "chardev:console".to_owned(),
    ];
    format!(
        "qemu = {}\nmemory = \"256MiB\"\nmemory_max = \"1GiB\"\nmemory_shared = true\nvcpus = 1\naccel = \"{}\"\n\
         cpu = \"{}\"\nkernel = {}\ninitrd = {}\nappend = \"console=ttyS0 quiet panic=-1 mitigations=off\"\n\
         extra_arguments = {}\norg = \"acme\"\nplan = \"free\"\n[tags]\nteam = \"red\"\n\
         [[disks]]\npath = {}\nsize = \"1GiB\"\n",
        text(paths::qemu(QemuVersion::V10).unwrap()),
        accel.name(),
        accel.cpu(),
        text(kernel),
        text(initrd),
        json!(extra),
        text(folder.join("made.qcow2")),
    )
}

/// Kills what a failed test leaves.
struct Killed(String);

impl Drop for Killed {
    fn drop(&mut self) {
        process::kill_with_argument(&self.0);
    }
}

async fn booted(console: &Path) -> Console {
    let mut console = Console::new(console);
    console.ask_every(Duration::from_millis(500), "ping", BOOT).await.unwrap();
    console
}

#[tokio::test]
async fn a_real_guest_is_created_outlives_the_agent_keeps_its_memory_is_power_cycled_and_powers_itself_off() {
    let mut scene = Scene::new().await;
    let console = scene.folder().join("console");
    let marker = Killed(format!("guest=g1-{}", process::nonce()));
    let spec = real_spec(scene.folder(), &console, &marker.0).await;
    let spec = written(scene.folder(), "g1", &spec);
    let created = scene.does(&["create", "g1", "--spec", &spec]).await;
    let sandbox = &created["sandbox"];
    assert_eq!(
        (&sandbox["org"], &sandbox["plan"], &sandbox["tags"]["team"]),
        (&json!("acme"), &json!("free"), &json!("red"))
    );
    assert_eq!(
        (sandbox["memory_max_bytes"].as_u64(), sandbox["disk_bytes"].as_u64()),
        (Some(1 << 30), Some(1 << 30))
    );
    let mut guest = booted(&console).await;
    let pids = process::with_argument(&marker.0);

    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    connected(&scene).await;
    scene.does(&["scale", "g1", "--org", "acme", "--memory", "768MiB"]).await;
    let sum = guest.ask("fill 300", ANSWER + Duration::from_secs(30)).await.unwrap();
    assert_eq!(process::with_argument(&marker.0), pids);

    let hibernated = scene.does(&["hibernate", "g1", "--org", "acme", "--method", "shared"]).await;
    assert_eq!(hibernated["sandbox"]["hibernation_method"], "shared");
    scene.does(&["wake", "g1", "--org", "acme"]).await;
    assert_eq!(guest.ask("sum", ANSWER).await.unwrap(), sum, "memory was lost");

    scene.does(&["power-cycle", "g1", "--org", "acme"]).await;
    booted(&console).await;
    let uptime: u64 = Console::new(&console).ask("uptime", ANSWER).await.unwrap().parse().unwrap();
    assert!(uptime < BOOT.as_secs(), "{uptime}");

    let destroyed = scene.does(&["destroy", "g1", "--org", "acme", "--graceful=1m"]).await;
    assert!(destroyed["message"].as_str().unwrap().contains("powered itself off"), "{destroyed}");
    wait::until("the guest and its memory to be gone", DEADLINE, async || {
        let memory = scene.agent.state_dir().join("memory/acme/g1");
        wait::unless(process::with_argument(&marker.0).is_empty() && !memory.exists(), || {
            "still there".to_owned()
        })
    })
    .await
    .unwrap();
    scene.audits_clean().await;
}

async fn connected(scene: &Scene) {
    wait::until("the sandbox to be found again", DEADLINE, async || {
        let view = scene.does(&["show", "g1", "--org", "acme"]).await;
        wait::unless(view["connection"] == "connected", || view.to_string())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_file_beside_a_socket_says_what_is_scaled_how_far_and_what_is_started_again() {
    let mut scene = Scene::new().await;
    let file = |text: &str| {
        let (new, path) = (scene.folder().join("new"), scene.agent.run_dir().join("s1.toml"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    file("[limits]\nmemory_max = \"512MiB\"\nvcpus_max = \"0.75\"\n");
    let qemu = scene.sandbox("s1", &Options::default()).await;
    assert_eq!(scene.view("s1").await["memory_max_bytes"], 512_u64 << 20);
    let beyond = ["scale", "s1", "--memory", "514MiB"];
    let error = scene.refused(&beyond, "SIZE_OUT_OF_BOUNDS", "INVALID_ARGUMENT").await;
    assert!(error["message"].as_str().unwrap().contains("limits.memory_max"), "{error}");
    let faster = ["scale", "s1", "--vcpus", "0.76"];
    let error = scene.refused(&faster, "SIZE_OUT_OF_BOUNDS", "INVALID_ARGUMENT").await;
    assert!(error["message"].as_str().unwrap().contains("limits.vcpus_max"), "{error}");
    assert_eq!(error["metadata"]["max_vcpus_milli"], "750", "{error}");

    // Changed while QEMU lives, and kept through the agent's death.
    file("memory_devices = [\"none\"]\n[launch]\nqemu = \"/none/qemu\"\n[limits]\nmemory_max = \"1GiB\"\n");
    scene.until("s1", |view| view["memory_max_bytes"] == 1_u64 << 30).await;
    std::fs::remove_file(scene.agent.run_dir().join("s1.toml")).unwrap();
    scene.does(&["ls"]).await;
    scene.refused(&beyond, "NO_MEMORY_DEVICE", "FAILED_PRECONDITION").await;
    scene.does(&["hibernate", "s1", "--method", "mapped-ram"]).await;
    qemu.gone().await.unwrap();
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    let error = scene.refused(&["wake", "s1"], "LAUNCH_FAILED", "INTERNAL").await;
    assert!(error["message"].as_str().unwrap().contains("/none/qemu"), "{error}");
    assert_eq!(scene.view("s1").await["state"], "hibernated");
    scene.audits_clean().await;
}
