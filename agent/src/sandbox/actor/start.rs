//! Starts QEMU: for a wake, a create or a power-cycle. What takes time is done in a task of its own.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::unistd::{Gid, Uid};
use ractor::ActorRef;
use tokio::process::Command;

use super::act::with_cause;
use super::{Message, State};
use crate::failpoint;
use crate::process::{CommandLine, LaunchSpec, Launched, launch, wake_argv};
use crate::sandbox::command::SandboxKey;
use crate::sandbox::launching::Launching;
use crate::sandbox::machine::{Answer, Input, Launch, Start, Token};
use crate::sandbox::refusal::{Reason, Refusal};
use crate::sandbox::spec::{DiskSpec, Places, SandboxSpec, argv};

/// How much of what qemu-img says is kept, in characters.
const WORDS_CHARS_MAX: usize = 1000;

/// What to start.
pub(super) enum Wanted {
    Wake(Box<Launch>),
    Anew(Box<Start>),
}

impl State {
    pub(super) fn start(&self, wanted: Wanted, token: Token, myself: &ActorRef<Message>) {
        let key = self.machine.core().key.clone();
        let request_id = self.machine.underway().map(|(command, _)| command.request_id.clone());
        let launching = self.environment.launching.clone();
        let myself = myself.clone();
        tokio::spawn(async move {
            let launched = start(&launching, &key, &request_id.unwrap_or_default(), wanted).await;
            // Where the actor is gone, the process is found again by what it was started for.
            let _ = myself.cast(Message::Launched(token, launched.map(Box::new)));
        });
    }

    pub(super) fn launched(
        &mut self,
        token: Token,
        launched: Result<Box<Launched>, Refusal>,
        myself: &ActorRef<Message>,
    ) {
        let answer = match launched {
            Ok(launched) => {
                let process = launched.process.clone();
                let identity = process.identity();
                self.launched = Some(launched);
                self.hold(process, myself);
                Answer::Launched(identity)
            }
            Err(refusal) => Answer::Failed(refusal),
        };
        self.feed(Input::Answer(token, answer), myself);
    }

    /// Removes the memory of a sandbox that is no more. That of one whose QEMU goes on is in use.
    pub(super) fn remove_memory(&self) {
        let core = self.machine.core();
        if core.process.is_none() {
            let folder = self.environment.launching.memory_of(&core.key);
            tokio::task::spawn_blocking(move || remove_folder(&folder));
        }
    }
}

async fn start(
    launching: &Launching,
    key: &SandboxKey,
    request_id: &str,
    wanted: Wanted,
) -> Result<Launched, Refusal> {
    let command = match wanted {
        Wanted::Wake(wake) => {
            let added: Vec<&str> = wake.arguments.iter().map(String::as_str).collect();
            let line = wake.manifest.command_line;
            CommandLine { argv: wake_argv(&line.argv, &added), ..line }
        }
        Wanted::Anew(start) => match *start {
            Start::Again(line) => CommandLine { argv: wake_argv(&line.argv, &["-S"]), ..line },
            Start::New(spec) => made_ready(launching, key, &spec).await?,
        },
    };
    let spec = LaunchSpec {
        command,
        log_path: launching.log_of(key),
        marker: launching.marker(key, request_id),
        instance: launching.instance,
    };
    failpoint::reach("before QEMU is started");
    let launched = launch(&spec).await;
    failpoint::reach("QEMU is started");
    launched.map_err(|error| Refusal::new(Reason::LaunchFailed, with_cause(&error)))
}

/// Makes what a sandbox needs on the host, and says how it is started.
async fn made_ready(
    launching: &Launching,
    key: &SandboxKey,
    spec: &SandboxSpec,
) -> Result<CommandLine, Refusal> {
    let qmp = launching.qmp_path(key)?;
    let memory = launching.memory_of(key);
    let program = program(spec.qemu.as_deref().unwrap_or(&launching.qemu))?;
    make_folder(qmp.parent().unwrap_or(&qmp))?;
    if spec.memory_shared {
        // Whatever is there is of a sandbox that is no more, and nobody else's to see.
        remove_folder(&memory);
        make_folder(&memory)?;
    }
    for disk in &spec.disks {
        make_disk(disk).await?;
    }
    let name = format!("{}/{}", key.org, key.sandbox);
    let mut words = argv(spec, &Places { program: program.clone(), qmp, memory }, &name);
    words.push("-S".to_owned());
    let path = std::env::var("PATH").map(|path| ("PATH".to_owned(), path));
    Ok(CommandLine {
        exe: program,
        argv: words.into(),
        cwd: "/".into(),
        env: path.into_iter().collect(),
        uid: Uid::effective().as_raw(),
        gid: Gid::effective().as_raw(),
        groups: nix::unistd::getgroups().unwrap_or_default().iter().map(|group| group.as_raw()).collect(),
    })
}

/// The program of that name.
fn program(name: &str) -> Result<PathBuf, Refusal> {
    let is_program = |path: &Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let found = if name.contains('/') {
        Some(PathBuf::from(name)).filter(|path| path.is_absolute() && is_program(path))
    } else {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| is_program(path))
    };
    found.ok_or_else(|| {
        let message = format!("there is no program {name}: install it, or give its full path in `qemu`");
        Refusal::new(Reason::InvalidSpec, message).with("field", "qemu")
    })
}

/// A folder that nobody else may look into.
fn make_folder(folder: &Path) -> Result<(), Refusal> {
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(folder).map_err(|error| {
        Refusal::new(Reason::LaunchFailed, format!("cannot make the folder {}: {error}", folder.display()))
    })
}

fn remove_folder(folder: &Path) {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "a sandbox's memory was not removed");
        }
        _ => {}
    }
}

/// Makes the disk's image where there is none. An image that is there is never touched.
async fn make_disk(disk: &DiskSpec) -> Result<(), Refusal> {
    let refuse = |why: String| {
        let message = format!("the disk {}: {why}", disk.path.display());
        Err(Refusal::new(Reason::InvalidSpec, message).with("path", disk.path.display()))
    };
    if disk.path.exists() {
        return Ok(());
    }
    let Some(size_bytes) = disk.size_bytes else {
        return refuse("it is not there; give a size to have it made".to_owned());
    };
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", disk.format.as_str()])
        .arg(&disk.path)
        .arg(size_bytes.to_string())
        .stdin(Stdio::null())
        .output()
        .await;
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            refuse(format!("qemu-img: {}", said.trim().chars().take(WORDS_CHARS_MAX).collect::<String>()))
        }
        Err(error) => refuse(format!("qemu-img: {error}")),
    }
}
