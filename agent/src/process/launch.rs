//! Starts a QEMU that outlives the agent.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::libc;
use nix::unistd::{Gid, Uid};
use tokio::sync::watch;

use super::{CommandLine, Instance, Marker, Process, ProcessError, argv, systemd};

/// How much of what QEMU wrote is kept for an error, in bytes: its last words say why it ended.
const LOG_TAIL_BYTES_MAX: u64 = 4096;

/// What to start, and where its output goes.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// Program, arguments, working directory, environment and user. Nothing of the agent's environment is
    /// handed down: it may hold secrets.
    pub command: CommandLine,
    /// Standard output and standard error are appended to this file.
    pub log_path: PathBuf,
    /// What it is started for: by this it is found again.
    pub marker: Marker,
    /// Whose systemd starts it as a service; `None` is the agent itself, in a session of its own.
    pub instance: Option<Instance>,
}

/// A QEMU that was started. Dropping this does nothing to it.
#[derive(Clone, Debug)]
pub struct Launched {
    /// The process.
    pub process: Process,
    log_path: PathBuf,
    log_from_bytes: u64,
    ended: watch::Receiver<Option<String>>,
}

/// Why QEMU does not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is not even a program's name.
    #[error("the command line is empty")]
    Empty,
    /// Only root may start a process as another user.
    #[error("the sandbox runs as user {uid}, group {gid}, and the agent may not become that user")]
    ForeignUser {
        /// Whom it was to run as.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The log file cannot be opened.
    #[error("cannot open the log {}", path.display())]
    Log {
        /// The log file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start {} in {}", exe.display(), cwd.display())]
    Spawn {
        /// The program.
        exe: PathBuf,
        /// The working directory.
        cwd: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// systemd has not started it.
    #[error("systemd did not start QEMU: {what}")]
    Service {
        /// What systemd said.
        what: String,
    },
    /// It was started and cannot be held.
    #[error("QEMU was started and cannot be held")]
    Process(#[source] ProcessError),
    /// It was started and has ended.
    #[error("QEMU ended ({how}); its last words:\n{log_tail}")]
    Ended {
        /// How it ended, in words.
        how: String,
        /// The end of what it wrote since it was started.
        log_tail: String,
    },
}

/// Starts QEMU with nothing open but `/dev/null` and its log: in a session of its own, or as a service of systemd.
///
/// It belongs to no process group, terminal or descriptor of the agent, and lives on when the agent ends (in a session
/// of its own within a systemd unit: with `KillMode=process`). A child is waited for when it dies, while the agent
/// lives. `-daemonize` is left out: QEMU stays where its end is seen.
pub async fn launch(spec: &LaunchSpec) -> Result<Launched, LaunchError> {
    let (log, log_from_bytes) = open_log(&spec.log_path)
        .map_err(|source| LaunchError::Log { path: spec.log_path.clone(), source })?;
    let (tell, ended) = watch::channel(None);
    let process = match spec.instance {
        None => {
            let child = spawn(spec, log)?;
            let pid = child.id().cast_signed();
            // As the child is not waited for yet, its pid is its own even if it has ended already.
            let process = Process::open_child(pid).map_err(LaunchError::Process)?;
            forget_oom_score(pid);
            tokio::spawn(wait_for(process.clone(), child, tell));
            process
        }
        Some(instance) => {
            let started = systemd::start(instance, spec).await;
            let log_tail = || log_tail(&spec.log_path, log_from_bytes).unwrap_or_default();
            let ended = || LaunchError::Ended { how: "at once".to_owned(), log_tail: log_tail() };
            let process = match started.map(|pid| pid.map(Process::open)) {
                Ok(None | Some(Err(ProcessError::Gone { .. }))) => return Err(ended()),
                // To systemd it is a service that failed, if it ended soon enough; QEMU has said why.
                Err(LaunchError::Service { .. }) if !log_tail().is_empty() => return Err(ended()),
                Err(error) => return Err(error),
                Ok(Some(opened)) => opened.map_err(LaunchError::Process)?,
            };
            tokio::spawn(await_end(process.clone(), tell));
            process
        }
    };
    Ok(Launched { process, log_path: spec.log_path.clone(), log_from_bytes, ended })
}

impl Launched {
    /// Waits until it has ended, and says how: always [`LaunchError::Ended`].
    pub async fn ended(&self) -> LaunchError {
        let mut ended = self.ended.clone();
        let how = match ended.wait_for(Option::is_some).await.map(|how| how.clone()) {
            Ok(Some(how)) => how,
            // The runtime is going down: nobody will know.
            Ok(None) | Err(_) => std::future::pending().await,
        };
        LaunchError::Ended { how, log_tail: self.log_tail() }
    }

    /// Waits for `ready`, but no longer than QEMU lives.
    pub async fn unless_ended<T>(&self, ready: impl Future<Output = T>) -> Result<T, LaunchError> {
        tokio::select! {
            ready = ready => Ok(ready),
            ended = self.ended() => Err(ended),
        }
    }

    /// The end of what it has written since it was started, at most 4 KiB.
    pub fn log_tail(&self) -> String {
        let tail = log_tail(&self.log_path, self.log_from_bytes);
        tail.unwrap_or_else(|error| format!("(cannot read {}: {error})", self.log_path.display()))
    }
}

/// Opens the log, and says how long it is already.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    let log =
        OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let length = log.metadata()?.len();
    Ok((log, length))
}

fn log_tail(path: &Path, from_bytes: u64) -> io::Result<String> {
    let mut log = File::open(path)?;
    let from_bytes = log.metadata()?.len().saturating_sub(LOG_TAIL_BYTES_MAX).max(from_bytes);
    log.seek(SeekFrom::Start(from_bytes))?;
    let mut tail = Vec::new();
    log.take(LOG_TAIL_BYTES_MAX).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).trim_end().to_owned())
}

fn spawn(spec: &LaunchSpec, log: File) -> Result<Child, LaunchError> {
    let line = &spec.command;
    let words = argv::without(&line.argv, &["daemonize"]);
    let (name, args) = words.split_first().ok_or(LaunchError::Empty)?;
    let failed = |source| LaunchError::Spawn { exe: line.exe.clone(), cwd: line.cwd.clone(), source };
    let become_user = credentials(line)?;
    let mut command = Command::new(&line.exe);
    command
        .arg0(name)
        .args(args)
        .current_dir(&line.cwd)
        .env_clear()
        .envs(line.env.iter())
        .envs([spec.marker.variable()])
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log);
    // SAFETY: the closure runs in the forked child, where it allocates nothing, takes no lock and makes
    // system calls only.
    unsafe { command.pre_exec(move || leave_the_agent(become_user.as_ref())) };
    command.spawn().map_err(failed)
}

/// Whom the child has to become.
struct Credentials {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

fn credentials(line: &CommandLine) -> Result<Option<Credentials>, LaunchError> {
    let (uid, gid) = (Uid::from_raw(line.uid), Gid::from_raw(line.gid));
    if uid == Uid::effective() && gid == Gid::effective() {
        return Ok(None);
    }
    if !Uid::effective().is_root() {
        return Err(LaunchError::ForeignUser { uid: line.uid, gid: line.gid });
    }
    let groups = line.groups.iter().copied().map(Gid::from_raw).collect();
    Ok(Some(Credentials { uid, gid, groups }))
}

/// In the forked child: a session of its own, no descriptors of the agent, and the user it is to run as.
fn leave_the_agent(become_user: Option<&Credentials>) -> io::Result<()> {
    nix::unistd::setsid()?;
    // What the agent opens is close-on-exec by itself; this is for what it was started with. Marking them
    // keeps the descriptor by which std reports that exec failed. A kernel or a filter that does not know
    // the call leaves it at that.
    // SAFETY: the call takes three integers and touches no memory of ours.
    let _ = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if let Some(credentials) = become_user {
        nix::unistd::setgroups(&credentials.groups)?;
        nix::unistd::setgid(credentials.gid)?;
        nix::unistd::setuid(credentials.uid)?;
    }
    Ok(())
}

/// The agent may be protected from the kernel's out-of-memory killer. A guest must not inherit that.
fn forget_oom_score(pid: i32) {
    if let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "0") {
        tracing::debug!(pid, %error, "QEMU keeps the agent's oom_score_adj");
    }
}

/// Waits for the child once it has died, so that no zombie stays.
async fn wait_for(process: Process, mut child: Child, tell: watch::Sender<Option<String>>) {
    process.exited().await;
    match child.wait() {
        Ok(status) => tell.send_replace(Some(status.to_string())),
        Err(error) => {
            tracing::error!(pid = process.pid(), %error, "QEMU died and cannot be waited for");
            None
        }
    };
}

/// Tells when a service's process has ended. systemd alone learns how.
async fn await_end(process: Process, tell: watch::Sender<Option<String>>) {
    process.exited().await;
    tell.send_replace(Some("systemd's journal says how".to_owned()));
}
