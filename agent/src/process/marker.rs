//! What the agent started a process for, in that process's own environment.
//!
//! It is there from the moment of the exec, whenever the agent is killed, and whoever is the parent: so a QEMU that was
//! started and not yet recorded is found again. Another user's environment cannot be read; neither could such a process
//! be ended.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::identity::Stat;
use super::{ProcessIdentity, StatError};

/// The environment variable that holds it.
const VARIABLE: &str = "DORMOUSE_STARTED";

/// What a process was started for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Which agent: its state folder, as one host may have several.
    pub agent: PathBuf,
    /// The org of the sandbox.
    pub org: String,
    /// The sandbox.
    pub sandbox: String,
    /// The command that asked for it.
    pub request_id: String,
}

/// A process that an agent has started, and that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Which process.
    pub identity: ProcessIdentity,
    /// What it was started for.
    pub marker: Marker,
}

impl Marker {
    /// The variable's name, and its value for this.
    pub(super) fn variable(&self) -> (&'static str, String) {
        // Strings only: it has a JSON form.
        (VARIABLE, serde_json::to_string(self).unwrap_or_default())
    }

    fn of_environ(environ: &[u8]) -> Option<Self> {
        let value = |entry: &[u8]| {
            let text = std::str::from_utf8(entry).ok()?;
            serde_json::from_str(text.strip_prefix(VARIABLE)?.strip_prefix('=')?).ok()
        };
        environ.split(|byte| *byte == 0).find_map(value)
    }
}

/// Every process that the agent with this state folder has started and that lives. What such a process has itself
/// started is left out. Reads all of `/proc`, and so blocks.
pub fn started_by(agent: &Path) -> std::io::Result<Vec<Started>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // One that ends meanwhile is not there; of another user's nothing is known.
        if let Ok(Some((started, parent_pid))) = look_at(pid)
            && started.marker.agent == agent
        {
            found.push((started, parent_pid));
        }
    }
    let pids: Vec<i32> = found.iter().map(|(started, _)| started.identity.pid).collect();
    found.retain(|(_, parent_pid)| !pids.contains(parent_pid));
    Ok(found.into_iter().map(|(started, _)| started).collect())
}

fn look_at(pid: i32) -> Result<Option<(Started, i32)>, StatError> {
    let Ok(environ) = std::fs::read(format!("/proc/{pid}/environ")) else { return Ok(None) };
    let Some(marker) = Marker::of_environ(&environ) else { return Ok(None) };
    let Stat { zombie, parent_pid, .. } = Stat::of(pid)?;
    let identity = ProcessIdentity::of(pid)?;
    // Read once more: the pid may have come to be another's in between.
    let same = std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|again| again == environ);
    Ok((same && !zombie).then_some((Started { identity, marker }, parent_pid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            agent: "/var/lib/dormouse".into(),
            org: "acme".to_owned(),
            sandbox: "sb-1".to_owned(),
            request_id: "r \"1\"".to_owned(),
        }
    }

    #[test]
    fn what_is_written_into_an_environment_is_read_from_it() {
        let (name, value) = marker().variable();
        let environ = format!("PATH=/bin\0{name}={value}\0X=1\0");
        assert_eq!(Marker::of_environ(environ.as_bytes()), Some(marker()));
        assert_eq!(Marker::of_environ(b"PATH=/bin\0DORMOUSE_STARTED_NOT=1\0"), None);
        assert_eq!(Marker::of_environ(b"DORMOUSE_STARTED=\xff"), None);
    }
}
