//! What is synced, and when: no crash of a host can be had in a test, so the system calls are looked at.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::libc::{self, c_int};

use super::*;

/// What was synced in this process, in order, under the names that it had then.
static SYNCED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Stands before the C library's, which the standard library calls for `sync_all`: it notes, and then does, the same.
// SAFETY: it has the signature and the effect of the one that it stands before.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    let path = fs::read_link(format!("/proc/self/fd/{fd}"));
    // SAFETY: the call takes an integer and touches no memory of ours.
    let synced = Errno::result(unsafe { libc::syscall(libc::SYS_fsync, fd) });
    if let (Ok(path), Ok(_)) = (path, synced) {
        SYNCED.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    }
    // A failure is in `errno` already.
    if synced.is_ok() { 0 } else { -1 }
}

fn synced_below(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let synced = SYNCED.lock().unwrap();
    let below = synced.iter().filter_map(|path| path.strip_prefix(&folder).ok());
    below.map(|path| path.display().to_string()).collect()
}

#[test]
fn all_that_a_manifest_speaks_of_is_on_the_disk_before_it_is_and_it_is_with_its_folder_before_anyone_is_told()
{
    for (method, files) in [
        (Method::Shared, ["ram0", "ram1", "snapshots/acme/sb-1/7-1.state.tmp"].as_slice()),
        (Method::MappedRam, &["snapshots/acme/sb-1/7-1.state.tmp"]),
        (Method::Internal, &[]),
    ] {
        let saved = Saved::new();
        saved.snapshot(method, b"device state");
        let mut synced = synced_below(saved.dir.path());
        let mut last = synced.split_off(synced.len() - 2);
        last.sort();
        assert_eq!(last, ["snapshots/acme/sb-1", "snapshots/acme/sb-1/7-1.json"], "{method:?}");
        synced.sort();
        // The folders that lead to it may be new as well.
        let mut expected = [&["", "snapshots", "snapshots/acme"], files].concat();
        expected.sort_unstable();
        assert_eq!(synced, expected, "{method:?}");
    }
}
