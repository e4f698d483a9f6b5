//! Memory, CPU time and disks of real guests: reached in one command, refused with a reason, and billed as what is so.

use std::path::{Path, PathBuf};

use dormouse_tests::argv::{Backend, Spec};
use dormouse_tests::guest::Guest;
use dormouse_tests::scripted::{Options, Scripted};
use serde_json::{Value, json};

use crate::scene::Scene;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

async fn boot(scene: &Scene, spec: Spec) -> Guest {
    let guest = Guest::boot(&spec, "g1", &scene.agent.run_dir(), scene.folder()).await.unwrap();
    scene.until("g1", |view| view["connection"] == "connected").await;
    guest
}

/// A folder that stands in for the cgroup of a process.
struct Group(PathBuf);

impl Group {
    fn of(pid: i32, root: &Path) -> Self {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let path = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let group = Self(root.join(path));
        std::fs::create_dir_all(&group.0).unwrap();
        group.has("cgroup.type", "domain\n");
        group.has("cgroup.procs", &format!("{pid}\n"));
        group.has("cpu.max", "max 100000\n");
        group
    }

    fn has(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).unwrap();
    }
}

async fn disk_bytes(guest: &Guest) -> u64 {
    let block = guest.monitor().execute("query-block", json!({})).await.unwrap();
    block[0]["inserted"]["image"]["virtual-size"].as_u64().unwrap()
}

/// How much each memory device has plugged.
async fn plugged(guest: &Guest) -> Vec<(String, u64)> {
    let devices = guest.monitor().execute("query-memory-devices", json!({})).await.unwrap();
    let one = |device: &Value| {
        let data = &device["data"];
        (data["id"].as_str().unwrap().to_owned(), data["size"].as_u64().unwrap() / MIB)
    };
    let mut sizes: Vec<_> = devices.as_array().unwrap().iter().map(one).collect();
    sizes.sort();
    sizes
}

#[tokio::test]
async fn one_command_scales_memory_vcpus_and_a_disk_of_a_real_guest_and_each_is_billed() {
    let groups = tempfile::tempdir().unwrap();
    let mut scene = Scene::with(&format!("[scale]\ncgroup_dir = {:?}\n", groups.path())).await;
    let guest = boot(&scene, Spec::default()).await;
    let group = Group::of(guest.pids()[0].as_raw(), groups.path());
    let scale = ["scale", "g1", "--memory", "768MiB", "--vcpus", "0.5", "--disk", "disk0=2GiB"];
    let scaled = scene.does(&[&scale[..], &["--request-id", "all"]].concat()).await;
    assert_eq!(scaled["result"], "done", "{scaled}");
    let sandbox = &scaled["sandbox"];
    assert_eq!(sandbox["memory_plugged_bytes"], 512 * MIB);
    assert_eq!((&sandbox["vcpus_milli"], &sandbox["disk_bytes"]), (&json!(500), &json!(2 * GIB)));
    assert_eq!(sandbox["disks"][0]["node"], "disk0");
    assert_eq!(guest.monitor().plugged_bytes().await.unwrap(), 512 * MIB);
    assert_eq!(disk_bytes(&guest).await, 2 * GIB);
    assert_eq!(std::fs::read_to_string(group.0.join("cpu.max")).unwrap(), "50000 100000");

    let slices = scene.slices("g1").await;
    let (first, last) = (&slices[0], slices.last().unwrap());
    for (slice, vcpus, disk, memory) in [(first, 1000, GIB, 0), (last, 500, 2 * GIB, 512 * MIB)] {
        assert_eq!(slice["vcpus_milli"], vcpus, "{slice}");
        assert_eq!((&slice["disk_bytes"], &slice["memory_plugged_bytes"]), (&json!(disk), &json!(memory)));
    }
    // A full hour may have begun meanwhile, and cuts as well.
    for slice in slices[1..].iter().filter(|slice| slice["opened_by"] != "hour") {
        assert_eq!((&slice["opened_by"], &slice["opened_by_command_id"]), (&json!("scale"), &json!("all")));
    }

    // What is so is read again: when the agent comes back, somebody else has given it less.
    group.has("cpu.max", "25000 100000\n");
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    scene.until("g1", |view| view["connection"] == "connected" && view["vcpus_milli"] == 250).await;
    // What cannot be read is as it was, and not all that there is.
    std::fs::remove_file(group.0.join("cpu.max")).unwrap();
    std::fs::create_dir(group.0.join("cpu.max")).unwrap();
    scene.agent.kill9().await.unwrap();
    scene.agent.restart().await.unwrap();
    scene.until("g1", |view| view["connection"] == "connected" && view["vcpus_milli"] == 250).await;
    std::fs::remove_dir(group.0.join("cpu.max")).unwrap();
    group.has("cpu.max", "25000 100000\n");
    scene.does(&["scale", "g1", "--vcpus", "1"]).await;
    assert_eq!(std::fs::read_to_string(group.0.join("cpu.max")).unwrap(), "max 100000");
    scene.audits_clean().await;
}

/// A program that puts itself into a group as a new one, with others in it or without, and becomes a scripted QEMU.
fn starter(scene: &Scene, group: &Group, others: &str) -> PathBuf {
    let path = scene.folder().join("starter");
    let (group, qemu) = (group.0.display(), dormouse_tests::paths::scripted_qemu().unwrap());
    let script = format!(
        "#!/bin/sh\necho max 100000 >'{group}/cpu.max'\nprintf '%s\\n' $$ {others} >'{group}/cgroup.procs'\n\
         exec '{}' \"$@\"\n",
        qemu.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn a_limit_on_cpu_time_outlives_hibernation_and_power_cycle_and_is_billed_only_where_it_is_so() {
    let groups = tempfile::tempdir().unwrap();
    let scene = Scene::with(&format!("[scale]\ncgroup_dir = {:?}\n", groups.path())).await;
    let starter_path = scene.folder().join("starter");
    let file = format!("[launch]\nqemu = {starter_path:?}\n");
    std::fs::write(scene.agent.run_dir().join("s1.toml"), file).unwrap();
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let group = Group::of(qemu.pids()[0].as_raw(), groups.path());
    let cpu_max = || std::fs::read_to_string(group.0.join("cpu.max")).unwrap();
    starter(&scene, &group, "");
    scene.does(&["scale", "s1", "--vcpus", "0.5"]).await;

    scene.does(&["hibernate", "s1", "--method", "mapped-ram"]).await;
    let woken = scene.does(&["wake", "s1"]).await;
    assert_eq!(
        (cpu_max().as_str(), &woken["sandbox"]["vcpus_milli"]),
        ("50000 100000", &json!(500)),
        "{woken}"
    );
    let cycled = scene.does(&["power-cycle", "s1"]).await;
    assert_eq!(
        (cpu_max().as_str(), &cycled["sandbox"]["vcpus_milli"]),
        ("50000 100000", &json!(500)),
        "{cycled}"
    );
    let slices = scene.until_slices("s1", |slices| slices.last().unwrap()["state"] == "running").await;
    let limited = slices.iter().skip_while(|slice| slice["vcpus_milli"] != 500);
    assert!(
        limited.clone().count() > 4 && limited.clone().all(|slice| slice["vcpus_milli"] == 500),
        "{slices:?}"
    );

    // Where it cannot be set again the guest has all of it, which is what is billed, from before it runs on.
    scene.does(&["hibernate", "s1", "--method", "mapped-ram"]).await;
    starter(&scene, &group, "1");
    let woken = scene.does(&["wake", "s1"]).await;
    assert!(woken["message"].as_str().unwrap().contains("also holds process 1"), "{woken}");
    assert_eq!((cpu_max().as_str(), woken["sandbox"]["vcpus_milli"].as_u64()), ("max 100000\n", Some(1000)));
    let last =
        scene.until_slices("s1", |slices| slices.last().unwrap()["state"] == "running").await.pop().unwrap();
    assert_eq!((&last["opened_by"], &last["vcpus_milli"]), (&json!("wake"), &json!(1000)));
    scene.does(&["destroy", "s1"]).await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn cpu_time_is_limited_only_in_a_group_of_its_own_and_disks_never_shrink() {
    let groups = tempfile::tempdir().unwrap();
    let scene = Scene::with(&format!("[scale]\ncgroup_dir = {:?}\n", groups.path())).await;
    let guest = boot(&scene, Spec::default()).await;
    let scale = ["scale", "g1", "--vcpus", "0.5"];
    let before = scene.shown("g1").await;
    scene.refused(&scale, "CGROUP_UNSUITABLE", "FAILED_PRECONDITION").await;
    let pid = guest.pids()[0].as_raw();
    let group = Group::of(pid, groups.path());
    group.has("cgroup.procs", &format!("{pid}\n1\n"));
    let error = scene.refused(&scale, "CGROUP_UNSUITABLE", "FAILED_PRECONDITION").await;
    assert!(error["message"].as_str().unwrap().contains("also holds process 1"), "{error}");
    for (arguments, reason, code) in [
        (["--vcpus", "2"], "SIZE_OUT_OF_BOUNDS", "INVALID_ARGUMENT"),
        (["--disk", "disk0=512MiB"], "DISK_WOULD_SHRINK", "INVALID_ARGUMENT"),
        (["--disk", "disk0=1073742000"], "SIZE_MISALIGNED", "INVALID_ARGUMENT"),
        (["--disk", "disk0=1000TiB"], "SIZE_OUT_OF_BOUNDS", "INVALID_ARGUMENT"),
        (["--disk", "disk7=2GiB"], "NO_DISK", "FAILED_PRECONDITION"),
    ] {
        scene.refused(&[&["scale", "g1"][..], &arguments[..]].concat(), reason, code).await;
    }
    assert_eq!(scene.shown("g1").await, before);
    assert_eq!(disk_bytes(&guest).await, GIB);
    assert_eq!(std::fs::read_to_string(group.0.join("cpu.max")).unwrap(), "max 100000\n");
    scene.audits_clean().await;
}

#[tokio::test]
async fn two_memory_devices_with_blocks_of_their_own_take_one_size_together() {
    let scene = Scene::new().await;
    let second = words(&[
        "-m",
        "256M,slots=2,maxmem=4352M",
        "-object",
        "memory-backend-ram,id=vmem1,size=1G,reserve=off",
        "-device",
        "virtio-mem-pci,memdev=vmem1,id=vm1,block-size=64M",
    ]);
    let guest = boot(&scene, Spec { extra: second, disk: false, ..Spec::default() }).await;
    let grown = scene.does(&["scale", "g1", "--memory", "1380MiB"]).await;
    assert_eq!(grown["result"], "done", "{grown}");
    assert_eq!(plugged(&guest).await, [("vm0".to_owned(), 100), ("vm1".to_owned(), 1024)]);
    let shrunk = scene.does(&["scale", "g1", "--memory", "322MiB"]).await;
    assert_eq!(shrunk["result"], "done", "{shrunk}");
    assert_eq!(plugged(&guest).await, [("vm0".to_owned(), 66), ("vm1".to_owned(), 0)]);
    scene.refused(&["scale", "g1", "--memory", "323MiB"], "SIZE_MISALIGNED", "INVALID_ARGUMENT").await;
    let last = scene.slices("g1").await.pop().unwrap();
    assert_eq!(last["memory_plugged_bytes"], 66 * MIB);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_host_that_has_not_the_memory_lets_nothing_grow() {
    let scene = Scene::with("[scale]\nhost_reserve_bytes = 4611686018427387904\n").await;
    let qemu = scene.sandbox("s1", &Options::default()).await;
    let before = scene.shown("s1").await;
    let scale = ["scale", "s1", "--memory", "512MiB"];
    let error = scene.refused(&scale, "HOST_MEMORY_SHORT", "RESOURCE_EXHAUSTED").await;
    assert_eq!(error["metadata"]["wanted_bytes"], (256 * MIB).to_string(), "{error}");
    assert_eq!(scene.shown("s1").await, before);
    assert_eq!(qemu.times_asked("qom-set").await.unwrap(), 0);
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_host_that_has_not_the_memory_starts_no_qemu() {
    let mut scene = Scene::new().await;
    let sleeper = scene.sandbox("s1", &Options::default()).await;
    scene.does(&["hibernate", "s1", "--method", "mapped-ram"]).await;
    sleeper.gone().await.unwrap();
    scene.agent.reconfigure("[scale]\nhost_reserve_bytes = 4611686018427387904\n").await.unwrap();
    let before = scene.shown("s1").await;
    let wake = ["wake", "s1", "--request-id", "w1"];
    let error = scene.refused(&wake, "HOST_MEMORY_SHORT", "RESOURCE_EXHAUSTED").await;
    for figure in ["available_bytes", "promised_bytes", "reserve_bytes"] {
        assert!(
            error["metadata"][figure].as_str().is_some_and(|text| text.parse::<u64>().is_ok()),
            "{error}"
        );
    }
    assert_eq!(error["metadata"]["wanted_bytes"], (256 * MIB).to_string(), "{error}");
    assert_eq!(scene.shown("s1").await, before);

    let qmp = scene.folder().join("guests").join("default").join("s2.qmp");
    let qemu = Scripted::to_create(&Options::default(), "s2", &qmp, scene.folder()).unwrap();
    let spec = scene.folder().join("s2.spec.toml");
    std::fs::write(&spec, qemu.spec_toml()).unwrap();
    let create = ["create", "s2", "--spec", spec.to_str().unwrap()];
    let error = scene.refused(&create, "HOST_MEMORY_SHORT", "RESOURCE_EXHAUSTED").await;
    assert_eq!(error["metadata"]["wanted_bytes"], (256 * MIB).to_string(), "{error}");
    scene.refused(&["show", "s2"], "SANDBOX_NOT_FOUND", "NOT_FOUND").await;
    assert_eq!((sleeper.pids().len(), qemu.pids().len()), (0, 0));

    // With the memory it wakes: the refusal has cost nothing.
    scene.agent.reconfigure("").await.unwrap();
    scene.does(&["wake", "s1"]).await;
    scene.does(&create).await;
    // One that runs needs no more to be started again.
    scene.agent.reconfigure("[scale]\nhost_reserve_bytes = 4611686018427387904\n").await.unwrap();
    scene.until("s2", |view| view["connection"] == "connected").await;
    scene.does(&["power-cycle", "s2"]).await;
    scene.does(&["destroy", "s2"]).await;
    scene.audits_clean().await;
}

#[tokio::test]
async fn a_real_guest_is_asked_what_it_uses_before_memory_is_taken_from_it() {
    let scene = Scene::with("[scale]\nguest_reserve_bytes = 67108864\n").await;
    let balloon = words(&["-device", "virtio-balloon-pci,id=balloon0"]);
    let mut guest = boot(&scene, Spec { extra: balloon, disk: false, ..Spec::default() }).await;
    scene.does(&["scale", "g1", "--memory", "1280MiB"]).await;
    let filled = guest.fill(300).await.unwrap();
    let shrink = ["scale", "g1", "--memory", "256MiB"];
    let error = scene.refused(&shrink, "GUEST_NEEDS_MEMORY", "FAILED_PRECONDITION").await;
    let floor: u64 = error["metadata"]["min_bytes"].as_str().unwrap().parse().unwrap();
    assert!((364 * MIB..1024 * MIB).contains(&floor), "{error}");
    assert_eq!(guest.monitor().plugged_bytes().await.unwrap(), GIB);
    assert_eq!(scene.does(&["scale", "g1", "--memory", "1GiB"]).await["result"], "done");
    assert_eq!(guest.sum().await.unwrap(), filled);
    guest.free().await.unwrap();
    assert_eq!(scene.does(&shrink).await["result"], "done");
    let polling = json!({"path": "/machine/peripheral/balloon0", "property": "guest-stats-polling-interval"});
    assert_eq!(guest.monitor().execute("qom-get", polling).await.unwrap(), 0);
    scene.audits_clean().await;
}

/// What a process has in memory, in bytes.
fn resident_bytes(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_real_guest_that_is_paused_with_reclaim_keeps_its_memory_and_what_was_reclaimed_is_measured() {
    for backend in [Backend::SharedFiles, Backend::Ram] {
        let scene = Scene::new().await;
        let mut guest = boot(&scene, Spec { backend, disk: false, ..Spec::default() }).await;
        scene.does(&["scale", "g1", "--memory", "768MiB"]).await;
        let filled = guest.fill(200).await.unwrap();
        let pid = guest.pids()[0].as_raw();
        let before = resident_bytes(pid);
        let paused = scene.does(&["pause", "g1", "--reclaim"]).await;
        let (message, after) = (paused["message"].as_str().unwrap().to_owned(), resident_bytes(pid));
        assert_eq!((&paused["result"], &paused["sandbox"]["state"]), (&json!("done"), &json!("paused")));
        let told = message.split("is paused; ").nth(1).unwrap().split(' ').next().unwrap();
        let told = dormouse::size::parse(told).unwrap();
        // QEMU itself goes on, so the figures are not of the same moment.
        assert!(before.saturating_sub(after).abs_diff(told) < 16 * MIB, "{before} {after}: {message}");
        println!("{backend:?}: {message}");
        let again = scene.does(&["pause", "g1", "--reclaim"]).await;
        assert_eq!(again["result"], "unchanged", "{again}");
        let resumed = scene.does(&["resume", "g1", "--prefetch"]).await;
        assert_eq!((&resumed["result"], &resumed["sandbox"]["state"]), (&json!("done"), &json!("running")));
        assert_eq!(guest.sum().await.unwrap(), filled);
        assert_eq!(scene.does(&["resume", "g1", "--prefetch"]).await["result"], "unchanged");
        scene.audits_clean().await;
    }
}
