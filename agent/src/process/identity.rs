//! Which process it is: `/proc/<pid>/stat`.

use std::io;

use dormouse_metering::BootId;

use crate::clock::{ClockError, boot_id};

/// What tells one process from every other that ever had its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessIdentity {
    /// The boot that it runs in.
    pub boot: BootId,
    /// Its process id.
    pub pid: i32,
    /// When it was started, in clock ticks since the boot (field 22 of `/proc/<pid>/stat`).
    pub start_time_ticks: u64,
}

/// Why a process's identity is not known.
#[derive(Debug, thiserror::Error)]
pub enum StatError {
    /// There is no process of that pid.
    #[error("there is no process {pid}")]
    Gone {
        /// The pid.
        pid: i32,
    },
    /// `/proc` cannot be read.
    #[error("cannot read /proc/{pid}/stat")]
    Read {
        /// The pid.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// `/proc` says something else than proc(5) describes.
    #[error("/proc/{pid}/stat is not as proc(5) describes: {line:?}")]
    Malformed {
        /// The pid.
        pid: i32,
        /// What it says.
        line: String,
    },
    /// The kernel does not say which boot this is.
    #[error(transparent)]
    Boot(#[from] ClockError),
}

/// What is read of `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// Dead, but not yet waited for by its parent.
    pub(super) zombie: bool,
    /// Field 4.
    pub(super) parent_pid: i32,
    /// Field 22.
    pub(super) start_time_ticks: u64,
}

impl ProcessIdentity {
    /// The identity of the process that has `pid` now. A zombie has one, too.
    pub fn of(pid: i32) -> Result<Self, StatError> {
        look_at(pid).map(|(identity, _)| identity)
    }
}

/// The identity of the process that has `pid` now, and whether it is a zombie.
pub(super) fn look_at(pid: i32) -> Result<(ProcessIdentity, bool), StatError> {
    let Stat { zombie, start_time_ticks, .. } = Stat::of(pid)?;
    Ok((ProcessIdentity { boot: boot_id()?, pid, start_time_ticks }, zombie))
}

impl Stat {
    /// Reads the process that has `pid` now.
    pub(super) fn of(pid: i32) -> Result<Self, StatError> {
        let line = match std::fs::read(format!("/proc/{pid}/stat")) {
            Ok(line) => String::from_utf8_lossy(&line).into_owned(),
            // ESRCH: it went between the opening and the reading.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(nix::libc::ESRCH) =>
            {
                return Err(StatError::Gone { pid });
            }
            Err(source) => return Err(StatError::Read { pid, source }),
        };
        Self::parse(&line).ok_or(StatError::Malformed { pid, line })
    }

    /// Reads one line of proc(5)'s `stat`. The second field, the program's name in parentheses, may itself
    /// hold spaces and parentheses: what follows begins after the last one.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        // The state is field 3, the parent field 4, the start time field 22.
        let parent_pid = fields.next()?.parse().ok()?;
        let start_time_ticks = fields.nth(17)?.parse().ok()?;
        Some(Self { zombie: matches!(state, "Z" | "X" | "x"), parent_pid, start_time_ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "S 1 77 77 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 2000";

    #[test]
    fn the_start_time_is_the_22nd_field_whatever_the_name_holds() {
        for name in ["qemu", "a b", "x) S 1 2", "((", "))", ""] {
            let stat = Stat::parse(&format!("77 ({name}) {REST}")).unwrap();
            assert_eq!(stat, Stat { zombie: false, parent_pid: 1, start_time_ticks: 98_765 });
        }
    }

    #[test]
    fn a_zombie_is_seen_by_its_state() {
        assert!(Stat::parse(&format!("77 (S) {}", REST.replacen('S', "Z", 1))).unwrap().zombie);
    }

    #[test]
    fn a_line_that_is_cut_short_says_nothing() {
        assert_eq!(Stat::parse("77 (qemu) S 1 77"), None);
        assert_eq!(Stat::parse("77 qemu"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
