//! A real systemd of the test's own: that of a user, with the bus by which it is asked, in a mount namespace where `/run`
//! is theirs. Needs root.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::{Error, Result, wait};

const START_DEADLINE: Duration = Duration::from_secs(20);

/// `systemd --user` says that it is not to run where the host was not booted by systemd, which it sees by a folder.
const STAGE: &str = "set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/user/0
export XDG_RUNTIME_DIR=/run/user/0 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/0/bus
dbus-daemon --session --address=unix:path=/run/user/0/bus --nofork --nopidfile &
exec /lib/systemd/systemd --user --log-target=console --log-level=warning";

/// A systemd that runs until it is dropped, and its services with it.
#[derive(Debug)]
pub struct UserSystemd {
    _stage: Child,
    pid: i32,
}

impl UserSystemd {
    /// Starts one; returns when it can be asked.
    pub async fn start() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "bash", "-c", STAGE]).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let stage = command.spawn().map_err(Error::io("starting", &PathBuf::from("unshare")))?;
        let pid = stage.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let systemd = Self { _stage: stage, pid };
        wait::until("systemd to answer", START_DEADLINE, async || {
            let question = ["systemctl", "--user", "is-system-running"];
            let output = systemd.enter().args(question).output().await.map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let up = ["running", "degraded"].contains(&said.trim());
            wait::unless(up, || format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
        })
        .await?;
        Ok(systemd)
    }

    /// The mount namespace in which it can be asked.
    pub fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/mnt", self.pid).into()
    }

    /// A command line that goes on in its namespace.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount={}", self.namespace().display()))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command.env("XDG_RUNTIME_DIR", "/run/user/0");
        command.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/0/bus");
        command
    }
}

impl Drop for UserSystemd {
    fn drop(&mut self) {
        // Asked to end, systemd ends its services.
        let _ = killpg(Pid::from_raw(self.pid), Signal::SIGTERM);
    }
}
