//! CPU time is limited by a real kernel, in groups that QEMU has to itself, through scale, hibernation and power-cycle.
//!
//! What stands in for QEMU is started by a program that first puts itself into a new group, as systemd does it for a unit.

use dormouse_tests::in_guest::{Console, Script};
use serde_json::{Value, json};

/// Starts the scripted QEMU in a new group, in which it is alone.
const STARTER: &str = r#"#!/bin/busybox sh
group=/sys/fs/cgroup/guest-$$
mkdir $group
echo $$ >$group/cgroup.procs
exec /agent/scripted-qemu "$@"
"#;

/// What is done in the guest.
const INIT: &str = r#"mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
pid() { d show s1 --json | sed -n 's/^ *"pid": \([0-9]*\).*/\1/p'; }
group() { sed -n 's|^0::|/sys/fs/cgroup|p' "/proc/$(pid)/cgroup"; }
limit() { told "$1" "{\"group\": \"$(group)\", \"cpu_max\": \"$(cat "$(group)/cpu.max")\"}"; }
echo '[launch]
qemu = "/agent/starter"' >/d/run/s1.toml
/agent/starter -name guest=s1 -append "$(cat /agent/script.json)" &
/agent/dormouse agent --config /agent/dormouse.toml >/d/log 2>&1 &
until_is connection '"connected"'
limit at_first
d scale s1 --vcpus 0.05
limit tightest
throttled() { sed -n 's/^nr_throttled //p' "$(group)/cpu.stat"; }
until [ "$(throttled)" -gt 0 ]; do
  d pause s1
  d resume s1
done
told throttled "$(throttled)"
d scale s1 --vcpus 0.5
limit halved
d hibernate s1 --method mapped-ram
d wake s1
limit woken
d power-cycle s1
limit cycled
sleep 1000 &
echo $! >"$(group)/cgroup.procs"
told shared "$(d scale s1 --vcpus 1 --json 2>&1 | one_line)"
kill $!
wait $!
d scale s1 --vcpus 1
limit freed
d destroy s1
told slices "$(d slices s1 --json | one_line)"
told audit "$(d audit --json | one_line)"
"#;

/// The group of QEMU, and what the kernel had in its `cpu.max`.
fn limit(console: &Console, name: &str) -> (String, String) {
    let told = console.told(name).unwrap();
    let text = |field: &str| told[field].as_str().unwrap().to_owned();
    (text("group"), text("cpu_max"))
}

#[tokio::test]
async fn a_real_kernel_limits_cpu_time_in_every_group_that_qemu_comes_to_have_and_that_is_what_is_billed() {
    let folder = tempfile::tempdir().unwrap();
    // The guest's kernel has little more memory than what the sandbox is said to have.
    let script =
        Script { init: INIT, config: "[scale]\nhost_reserve_bytes = 0\n", programs: &[("starter", STARTER)] };
    let console = script.run(folder.path()).await.unwrap();
    let (first, at_first) = limit(&console, "at_first");
    assert_eq!(at_first, "max 100000", "{console}");
    assert_eq!(limit(&console, "tightest"), (first.clone(), "5000 100000".to_owned()), "{console}");
    let throttled = console.told("throttled").unwrap().as_u64().unwrap();
    assert!(throttled > 0, "a twentieth of a vCPU, and the kernel has held nothing back: {console}");
    let half = "50000 100000";
    assert_eq!(limit(&console, "halved"), (first.clone(), half.to_owned()), "{console}");
    let ((second, woken), (third, cycled)) = (limit(&console, "woken"), limit(&console, "cycled"));
    assert!(first != second && second != third && first != third, "{console}");
    assert_eq!((woken.as_str(), cycled.as_str()), (half, half), "{console}");
    let shared = console.told("shared").unwrap();
    let error = shared.get("error").unwrap_or(&shared);
    assert_eq!(error["reason"], "CGROUP_UNSUITABLE", "{console}");
    assert_eq!(limit(&console, "freed"), (third, "max 100000".to_owned()), "{console}");

    let slices = console.told("slices").unwrap();
    let vcpus: Vec<&Value> = slices.as_array().unwrap().iter().map(|slice| &slice["vcpus_milli"]).collect();
    let mut changes = vcpus.clone();
    changes.dedup();
    assert_eq!(changes, [&json!(1000), &json!(50), &json!(500), &json!(1000)], "{vcpus:?}\n{console}");
    assert_eq!(console.told("audit").unwrap()["clean"], true, "{console}");
}
