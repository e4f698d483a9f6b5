//! `process_madvise(2)`, which nix does not have: the one place that hands the kernel another process's addresses.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// Gives advice about `length_bytes` at `start` of the process behind `pidfd`; returns for how many it was taken.
pub(super) fn process_madvise(
    pidfd: BorrowedFd<'_>,
    start: usize,
    length_bytes: usize,
    advice: libc::c_int,
) -> Result<usize, Errno> {
    let range = libc::iovec { iov_base: std::ptr::without_provenance_mut(start), iov_len: length_bytes };
    // SAFETY: the descriptor is open, and the one `iovec` lives through the call, which only reads it. The address in it
    // is one of the other process and is never followed here. The advice that is given changes no content.
    let taken = unsafe {
        libc::syscall(libc::SYS_process_madvise, pidfd.as_raw_fd(), &raw const range, 1_usize, advice, 0_u32)
    };
    Errno::result(taken).map(|bytes| usize::try_from(bytes).unwrap_or(0))
}
