//! The wall clock of a real kernel is stepped, an hour forward and an hour back, under an agent that runs there: in a
//! guest of its own, so that nobody else's clock is touched.
//!
//! The guest is the one that all tests boot, with a second archive behind its own that brings the agent, the scripted
//! QEMU, the libraries that they are linked with, and another `/init`, which does it all and tells the outcome on the
//! console. It ends with a detach: the scripted QEMU stamps its events by a clock that nobody steps, so that none of
//! them may matter.

#![allow(clippy::unwrap_used, reason = "the functions that tests share are tests, too")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use dormouse_tests::accel;
use dormouse_tests::paths::{self, QemuVersion};
use dormouse_tests::scripted::Options;
use serde_json::{Value, json};

/// Longer than an emulated boot and a dozen command lines take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(4);

const SECOND_NS: i128 = 1_000_000_000;
const HOUR_NS: i128 = 3_600 * SECOND_NS;

const CONFIG: &str =
    "host = \"guest\"\nstate_dir = \"/d/state\"\nrun_dir = \"/d/run\"\nsocket = \"/d/agent.sock\"\n";

/// What `/init` does. Each line waits for what the one before it has brought about.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /d
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /d
mkdir /d/state /d/run
exec >/dev/ttyS0 2>&1
d() { /agent/dormouse --socket /d/agent.sock "$@"; }
uptime() { cut -d ' ' -f 1 /proc/uptime; }
steps() { d slices s1 --json 2>/dev/null | grep -o '"opened_by": *"clock_step"' | wc -l; }
step() {
    before=$(steps)
    date -s "@$(($(date +%s) + $1))" >/dev/null
    while [ "$(steps)" -le "$before" ]; do sleep 0.2; done
}
began=$(uptime)
/agent/scripted-qemu -name guest=s1 -append "$(cat /agent/script.json)" &
/agent/dormouse agent --config /agent/dormouse.toml >/d/log 2>&1 &
until d show s1 --json 2>/dev/null | grep -q '"connection": "connected"'; do sleep 0.2; done
attached=$(uptime)
echo attached
step 3600
echo stepped
step -3600
until [ "$(d slices s1 --json | grep -c '"final": *false')" = 1 ]; do sleep 0.2; done
detaching=$(uptime)
d detach s1
echo "TOLD uptimes [\"$began\", \"$attached\", \"$detaching\", \"$(uptime)\"]"
echo "TOLD slices $(d slices s1 --json | tr -d '\n')"
echo "TOLD audit $(d audit --json | tr -d '\n')"
tail -n 5 /d/log
poweroff -f
"#;

/// A file of a cpio archive in the format `newc`, which the kernel reads.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, contents: &[u8]) {
    let number = u32::try_from(archive.len()).unwrap();
    let (size, name_bytes) = (u32::try_from(contents.len()).unwrap(), u32::try_from(name.len() + 1).unwrap());
    archive.extend_from_slice(b"070701");
    for field in [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_bytes, 0] {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    for part in [[name.as_bytes(), b"\0"].concat().as_slice(), contents] {
        archive.extend_from_slice(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Puts a program without its symbols into the archive, and the libraries that it is linked with.
fn program(archive: &mut Vec<u8>, path: &Path, name: &str, work_dir: &Path) {
    let stripped = work_dir.join(name);
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(path).status().unwrap();
    assert!(status.success(), "strip: {status}");
    entry(archive, &format!("agent/{name}"), PROGRAM, &std::fs::read(&stripped).unwrap());
    let linked = Command::new("ldd").arg(path).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let mut folder = PathBuf::new();
        for part in Path::new(library).parent().unwrap().iter().skip(1) {
            folder.push(part);
            entry(archive, folder.to_str().unwrap(), FOLDER, &[]);
        }
        entry(archive, library.trim_start_matches('/'), PROGRAM, &std::fs::read(library).unwrap());
    }
}

/// The guest's own archive, and behind it one with the agent.
fn archive(base: &Path, work_dir: &Path) -> PathBuf {
    let mut added = Vec::new();
    entry(&mut added, "agent", FOLDER, &[]);
    program(&mut added, &paths::dormouse().unwrap(), "dormouse", work_dir);
    program(&mut added, &paths::scripted_qemu().unwrap(), "scripted-qemu", work_dir);
    let script = json!({ "qmp": "/d/run/s1.qmp", "control": "/d/s1.control", "options": Options::default() });
    entry(&mut added, "agent/script.json", PROGRAM, script.to_string().as_bytes());
    entry(&mut added, "agent/dormouse.toml", PROGRAM, CONFIG.as_bytes());
    entry(&mut added, "init", PROGRAM, INIT.as_bytes());
    entry(&mut added, "TRAILER!!!", 0, &[]);
    let mut whole = std::fs::read(base).unwrap();
    whole.resize(whole.len().next_multiple_of(4), 0);
    whole.append(&mut added);
    let path = work_dir.join("initrd");
    std::fs::write(&path, whole).unwrap();
    path
}

/// What the guest has told under a name.
fn told(console: &str, name: &str) -> Value {
    let line = console.lines().find_map(|line| line.trim().strip_prefix(&format!("TOLD {name} ")));
    let line = line.unwrap_or_else(|| panic!("the guest told no {name}:\n{console}"));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn number(slice: &Value, name: &str) -> i128 {
    slice[name].as_i64().unwrap_or_else(|| panic!("{slice} has no {name}")).into()
}

#[tokio::test]
async fn m8_a_real_clock_that_is_stepped_an_hour_and_back_bills_nothing_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, initrd) = paths::guest_image().unwrap();
    let initrd = archive(&initrd, folder.path());
    let accel = accel::probed().await.unwrap();
    let told_in = folder.path().join("console");
    let mut qemu = tokio::process::Command::new(paths::qemu(QemuVersion::V10).unwrap())
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "1G"])
        .args(["-accel", accel.name(), "-cpu", accel.cpu(), "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", told_in.display()))
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ended = tokio::time::timeout(DEADLINE, qemu.wait()).await;
    let console = String::from_utf8_lossy(&std::fs::read(&told_in).unwrap_or_default()).into_owned();
    ended.unwrap_or_else(|_| panic!("the guest did not end:\n{console}")).unwrap();

    assert_eq!(told(&console, "audit")["clean"], true, "{console}");
    let slices = told(&console, "slices");
    let slices = slices.as_array().unwrap();
    let steps: Vec<_> = slices.iter().filter(|slice| slice["opened_by"] == "clock_step").collect();
    assert!(steps.len() >= 2, "both steps cut: {slices:?}\n{console}");
    assert!(slices.iter().all(|slice| slice["state"] == "running"), "{slices:?}");
    // The hour that was jumped over is there, and lasts nothing.
    let extent = |slice: &Value| number(slice, "end_unix_ns") - number(slice, "start_unix_ns");
    let skipped: i128 = slices.iter().filter(|slice| number(slice, "duration_ns") == 0).map(extent).sum();
    assert!((skipped - HOUR_NS).abs() < 5 * SECOND_NS, "{skipped} ns were jumped over: {slices:?}");
    // All the time between the attach and the detach is billed, by the guest kernel's own count, and no more.
    let uptimes = told(&console, "uptimes");
    let centiseconds = |index: usize| {
        let text = uptimes[index].as_str().unwrap().replace('.', "");
        text.parse::<i128>().unwrap() * SECOND_NS / 100
    };
    let lasted: i128 = slices.iter().map(|slice| number(slice, "duration_ns")).sum();
    assert!(lasted >= centiseconds(2) - centiseconds(1), "{lasted} ns: {uptimes} {slices:?}");
    assert!(lasted <= centiseconds(3) - centiseconds(0), "{lasted} ns: {uptimes} {slices:?}");
}
