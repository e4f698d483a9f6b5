//! What the kernel can do.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::Finding;
use crate::process::Process;

pub(super) fn findings() -> Vec<Finding> {
    vec![pidfd(), process_madvise(), timerfd(), cgroup2(), pressure()]
}

fn pidfd() -> Finding {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    match Process::open(own) {
        Ok(_) => Finding::well("pidfd", "processes can be held by descriptor"),
        Err(error) => Finding::wrong("pidfd", error.to_string(), "use a kernel of 5.3 or later"),
    }
}

/// The call is made on no process at all: a kernel that has it says so.
fn process_madvise() -> Finding {
    // SAFETY: the descriptor is none and the vector is empty, so the kernel touches no memory.
    let _ = unsafe { libc::syscall(libc::SYS_process_madvise, -1, std::ptr::null::<libc::iovec>(), 0, 0, 0) };
    if Errno::last() == Errno::ENOSYS {
        let next = "use a kernel of 5.10 or later to reclaim the memory of paused guests";
        return Finding::less("process_madvise", "the kernel has no such call", next);
    }
    Finding::well("process_madvise", "memory of paused guests can be reclaimed")
}

fn timerfd() -> Finding {
    match TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC) {
        Ok(_) => Finding::well("timerfd", "steps of the wall clock are noticed"),
        Err(errno) => Finding::wrong("timerfd", errno.desc(), "use a kernel with CONFIG_TIMERFD"),
    }
}

fn cgroup2() -> Finding {
    match statfs("/sys/fs/cgroup") {
        Ok(found) if found.filesystem_type() == CGROUP2_SUPER_MAGIC => {
            Finding::well("cgroup v2", "mounted on /sys/fs/cgroup")
        }
        Ok(_) | Err(_) => Finding::less(
            "cgroup v2",
            "/sys/fs/cgroup is another file system",
            "boot with systemd.unified_cgroup_hierarchy=1 to limit the vCPUs of guests",
        ),
    }
}

fn pressure() -> Finding {
    match fs::read_to_string("/proc/pressure/memory") {
        Ok(_) => Finding::well("PSI", "memory pressure is known"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::less(
            "PSI",
            "the kernel tells no memory pressure",
            "boot with psi=1, or use a kernel with CONFIG_PSI",
        ),
        Err(error) => Finding::less("PSI", error.to_string(), "let the agent read /proc/pressure/memory"),
    }
}
