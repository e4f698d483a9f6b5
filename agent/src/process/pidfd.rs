//! A process, held so that its pid cannot come to mean another one.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::identity::{self, ProcessIdentity, StatError};

/// Between two looks at a process that cannot be watched.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A process, held by a pidfd. Cheap to clone. Dropping it does nothing to the process.
#[derive(Clone, Debug)]
pub struct Process {
    identity: ProcessIdentity,
    pidfd: Arc<OwnedFd>,
}

/// Why a process cannot be held or signalled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// No such process: it has died, or its pid belongs to another one by now.
    #[error("process {pid} is gone")]
    Gone {
        /// The pid.
        pid: i32,
    },
    /// Its identity cannot be read.
    #[error(transparent)]
    Stat(StatError),
    /// The kernel refused.
    #[error("{call} of process {pid} failed")]
    Kernel {
        /// The system call.
        call: &'static str,
        /// The pid.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Process {
    /// Takes hold of the process that has `pid` now.
    ///
    /// A zombie counts as gone.
    pub fn open(pid: i32) -> Result<Self, ProcessError> {
        let pidfd = pidfd_open(pid)?;
        let (identity, zombie) = identity::look_at(pid).map_err(|error| gone_or(error, pid))?;
        // Still there after that: so it is what was looked at, and no other that came to have its pid.
        if zombie || pidfd_send_signal(&pidfd, 0) == Err(Errno::ESRCH) {
            return Err(ProcessError::Gone { pid });
        }
        Ok(Self { identity, pidfd: Arc::new(pidfd) })
    }

    /// Takes hold of a child that was not waited for yet: it may be a zombie, but its pid is its own.
    pub(super) fn open_child(pid: i32) -> Result<Self, ProcessError> {
        let pidfd = pidfd_open(pid)?;
        // Read only now: whoever has the pid while the pidfd is open and alive is who the pidfd names.
        let identity = ProcessIdentity::of(pid).map_err(|error| gone_or(error, pid))?;
        Ok(Self { identity, pidfd: Arc::new(pidfd) })
    }

    /// Takes hold of that very process. `Ok(None)` where it is gone, died with its boot, is a zombie, or
    /// where its pid belongs to another process by now.
    pub fn find_by(identity: ProcessIdentity) -> Result<Option<Self>, ProcessError> {
        match Self::open(identity.pid) {
            Ok(process) => Ok((process.identity == identity).then_some(process)),
            Err(ProcessError::Gone { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Which process it is.
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// Its pidfd, for calls that take one.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it lives. A zombie does not. Takes no descriptor beside its own: an agent that has none left takes nobody for
    /// dead.
    pub fn is_alive(&self) -> bool {
        let mut watched = [PollFd::new(self.pidfd(), PollFlags::POLLIN)];
        // Readable once it has died. It fails only where a signal came, and the descriptor was not ready then.
        !poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Waits until it has died. Known at once, whether or not its parent waits for it. Who waits for many asks
    /// [`super::Ends`].
    pub async fn exited(&self) {
        // A descriptor of its own: none can be watched twice.
        let Ok(watched) = self.pidfd.try_clone().and_then(watched) else {
            // There is no descriptor left, or no room in the kernel.
            while self.is_alive() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            return;
        };
        // The descriptor stays readable once the process has died. It fails to be watched only when the
        // runtime is going down, and then nobody is told anything any more.
        if watched.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends it by SIGKILL, and never another that came to have its pid. To have died already is no error.
    pub fn kill(&self) -> Result<(), ProcessError> {
        match pidfd_send_signal(&self.pidfd, libc::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(kernel("pidfd_send_signal", self.pid(), errno)),
        }
    }
}

fn gone_or(error: StatError, pid: i32) -> ProcessError {
    match error {
        StatError::Gone { .. } => ProcessError::Gone { pid },
        other => ProcessError::Stat(other),
    }
}

fn kernel(call: &'static str, pid: i32, errno: Errno) -> ProcessError {
    ProcessError::Kernel { call, pid, source: errno.into() }
}

fn watched(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor for as long as it lives, and the `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

/// `pidfd_open(2)`, which nix does not have. The descriptor is close-on-exec by itself.
fn pidfd_open(pid: i32) -> Result<OwnedFd, ProcessError> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match Errno::result(fd) {
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(narrow(fd)) }),
        // EINVAL: a pid that no process can have, or a thread's id.
        Err(Errno::ESRCH | Errno::EINVAL) => Err(ProcessError::Gone { pid }),
        Err(errno) => Err(kernel("pidfd_open", pid, errno)),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "file descriptors are C ints; syscall(2) widens them")]
fn narrow(fd: libc::c_long) -> libc::c_int {
    fd as libc::c_int
}

/// `pidfd_send_signal(2)`, which nix does not have.
fn pidfd_send_signal(pidfd: &OwnedFd, signal: libc::c_int) -> Result<(), Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, and a null `info` is what the call documents for a plain signal.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) };
    Errno::result(sent).map(drop)
}
