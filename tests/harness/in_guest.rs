//! An agent that runs inside a guest, under a kernel of its own: for what no test may do to the kernel that it shares with
//! others, and for what that kernel cannot do.
//!
//! The guest is the one that all tests boot, with a second archive behind its own that brings the agent, the scripted
//! QEMU, the libraries that they are linked with, and another `/init`, which does it all and tells the outcome on the
//! console. Its first lines are `PROLOGUE`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::paths::{self, QemuVersion};
use crate::scripted::Options;
use crate::{Error, Result, accel};

/// Longer than an emulated boot and a dozen command lines take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(4);

/// What every `/init` begins with. `d` is the command line of the agent, `until_is NAME VALUE` waits until `show` says so of
/// the sandbox `s1`, `told NAME JSON` tells the test something, and `one_line` is for that. The scripted QEMU is started as
/// `/agent/scripted-qemu`, with `/agent/script.json`.
const PROLOGUE: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /d
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /d
mkdir /d/state /d/run
exec >/dev/ttyS0 2>&1
d() { /agent/dormouse --socket /d/agent.sock "$@"; }
until_is() { until d show s1 --json 2>/dev/null | grep -q "\"$1\": $2"; do sleep 0.2; done; }
one_line() { tr -d '\n'; }
told() { echo "TOLD $1 $2"; }
"#;

/// What every `/init` ends with.
const EPILOGUE: &str = "tail -n 5 /d/log\npoweroff -f\n";

const CONFIG: &str =
    "host = \"guest\"\nstate_dir = \"/d/state\"\nrun_dir = \"/d/run\"\nsocket = \"/d/agent.sock\"\n";

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// What is to be done in the guest.
#[derive(Clone, Copy, Debug)]
pub struct Script<'a> {
    /// The lines of `/init`. Each waits for what the one before it has brought about.
    pub init: &'a str,
    /// More lines of the agent's configuration.
    pub config: &'a str,
    /// Programs in `/agent`, by name.
    pub programs: &'a [(&'a str, &'a str)],
}

/// What the guest has said on its console.
#[derive(Clone, Debug)]
pub struct Console(String);

impl Script<'_> {
    /// Boots the guest, and returns when it has powered itself off.
    pub async fn run(self, work_dir: &Path) -> Result<Console> {
        let (kernel, initrd) = paths::guest_image()?;
        let initrd = self.archive(&initrd, work_dir).await?;
        let accel = accel::probed().await?;
        let told_in = work_dir.join("guest.log");
        let program = paths::qemu(QemuVersion::V10)?;
        let mut qemu = Command::new(&program)
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
            .map_err(Error::io("starting", &program))?;
        let ended = tokio::time::timeout(DEADLINE, qemu.wait()).await;
        let console = String::from_utf8_lossy(&std::fs::read(&told_in).unwrap_or_default()).into_owned();
        let what = "the guest to power itself off".to_owned();
        ended
            .map_err(|_| Error::Deadline { what, after: DEADLINE, last: console.clone() })?
            .map_err(Error::io("waiting for", &program))?;
        Ok(Console(console))
    }

    /// The guest's own archive, and behind it one with the agent.
    async fn archive(&self, base: &Path, work_dir: &Path) -> Result<PathBuf> {
        let mut added = Vec::new();
        entry(&mut added, "agent", FOLDER, &[]);
        program(&mut added, &paths::dormouse()?, "dormouse", work_dir).await?;
        program(&mut added, &paths::scripted_qemu()?, "scripted-qemu", work_dir).await?;
        let script =
            json!({ "qmp": "/d/run/s1.qmp", "control": "/d/s1.control", "options": Options::default() });
        entry(&mut added, "agent/script.json", PROGRAM, script.to_string().as_bytes());
        entry(&mut added, "agent/dormouse.toml", PROGRAM, [CONFIG, self.config].concat().as_bytes());
        for (name, text) in self.programs {
            entry(&mut added, &format!("agent/{name}"), PROGRAM, text.as_bytes());
        }
        entry(&mut added, "init", PROGRAM, [PROLOGUE, self.init, EPILOGUE].concat().as_bytes());
        entry(&mut added, "TRAILER!!!", 0, &[]);
        let mut whole = read(base)?;
        whole.resize(whole.len().next_multiple_of(4), 0);
        whole.append(&mut added);
        let path = work_dir.join("initrd");
        std::fs::write(&path, whole).map_err(Error::io("writing", &path))?;
        Ok(path)
    }
}

impl Console {
    /// What the guest has told under a name.
    pub fn told(&self, name: &str) -> Result<Value> {
        let line = self.0.lines().find_map(|line| line.trim().strip_prefix(&format!("TOLD {name} ")));
        let answer = || format!("it told no {name}, or no JSON:\n{}", self.0);
        let nonsense = || Error::Nonsense { from: "the guest".to_owned(), answer: answer() };
        serde_json::from_str(line.ok_or_else(nonsense)?).map_err(|_| nonsense())
    }
}

impl std::fmt::Display for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file of a cpio archive in the format `newc`, which the kernel reads. Nothing here is as large as its numbers hold.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, contents: &[u8]) {
    let (number, size, name_bytes) = (archive.len(), contents.len(), name.len() + 1);
    archive.extend_from_slice(b"070701");
    for field in [number, mode as usize, 0, 0, 1, 0, size, 0, 0, 0, 0, name_bytes, 0] {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    for part in [[name.as_bytes(), b"\0"].concat().as_slice(), contents] {
        archive.extend_from_slice(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
}

/// Puts a program without its symbols into the archive, and the libraries that it is linked with.
async fn program(archive: &mut Vec<u8>, path: &Path, name: &str, work_dir: &Path) -> Result<()> {
    let stripped = work_dir.join(name);
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(path).status().await;
    let status = status.map_err(Error::io("stripping", path))?;
    if !status.success() {
        return Err(Error::Ended { what: "strip".to_owned(), how: status.to_string() });
    }
    entry(archive, &format!("agent/{name}"), PROGRAM, &read(&stripped)?);
    let linked = Command::new("ldd").arg(path).output().await.map_err(Error::io("asking ldd of", path))?;
    let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let mut folder = PathBuf::new();
        for part in Path::new(library).parent().into_iter().flat_map(Path::iter).skip(1) {
            folder.push(part);
            entry(archive, &folder.to_string_lossy(), FOLDER, &[]);
        }
        entry(archive, library.trim_start_matches('/'), PROGRAM, &read(Path::new(library))?);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::io("reading", path))
}
