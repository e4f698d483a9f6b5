//! Reading ahead: the kernel is told to read the ledger's file as it lies, while the jobs read its pages in the order of its
//! tables.
//!
//! A page that is not in memory is waited for else, one after another and all over the file, by whoever needs it. What is
//! found does not depend on this: SQLite reads every page itself, and where nothing can be told to the kernel nothing is.
//!
//! The file is not opened for it. To close it again would take all of this process's locks off the file, those of
//! SQLite's connections with them: so one of their descriptors is used.

use std::fs::{self, Metadata};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::uio::pread;

/// The kernel reads no more at once than its window for reading ahead, whatever it is told: this much by default.
const STEP_BYTES: i64 = 128 << 10;

/// Not much more than this is being read at any moment: the agent's commits wait for the same disk.
const WINDOW_BYTES: i64 = 4 << 20;

const DESCRIPTORS: &str = "/proc/self/fd";
const MEMINFO: &str = "/proc/meminfo";

/// Tells the kernel to read a file that a connection of this process has open, from its beginning on, and no more than half
/// of what fits into memory. Ends early once there is nothing left to read it for.
pub(super) fn read(path: &Path, is_over: &AtomicBool) {
    let Some(file) = path.metadata().ok() else { return };
    let Some(descriptor) = descriptor_of(&file) else { return };
    // SAFETY: the connection whose descriptor it most likely is stays open while the audit runs. Were it another that is
    // closed meanwhile, then this would fail, or read of another file, of which nothing changes.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let bytes = i64::try_from(file.len()).unwrap_or(i64::MAX).min(memory_bytes().unwrap_or_default() / 2);
    let mut from = 0;
    while from < bytes && !is_over.load(Ordering::Relaxed) {
        let advised =
            posix_fadvise(descriptor, from, STEP_BYTES, PosixFadviseAdvice::POSIX_FADV_WILLNEED).is_ok();
        // Once the first byte of a window is there, what comes before it is.
        let is_window = from % WINDOW_BYTES == 0;
        if !advised || is_window && pread(descriptor, &mut [0], from).is_err() {
            return;
        }
        from += STEP_BYTES;
    }
}

/// A descriptor of this process for a file.
fn descriptor_of(file: &Metadata) -> Option<RawFd> {
    let is_it = |entry: &fs::DirEntry| {
        // Follows the link.
        let open = fs::metadata(entry.path());
        open.is_ok_and(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()))
    };
    let entry = fs::read_dir(DESCRIPTORS).ok()?.flatten().find(is_it)?;
    entry.file_name().to_str()?.parse().ok()
}

/// What can be had without swapping.
fn memory_bytes() -> Option<i64> {
    let meminfo = fs::read_to_string(MEMINFO).ok()?;
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    kib.trim().strip_suffix("kB")?.trim_end().parse::<i64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn the_descriptor_is_that_of_the_file_and_of_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let [ledger, other] = ["ledger", "other"].map(|name| folder.path().join(name));
        fs::write(&ledger, vec![1; 300_000]).unwrap();
        fs::write(&other, "").unwrap();
        let _other = File::open(&other).unwrap();
        let file = ledger.metadata().unwrap();
        assert_eq!(descriptor_of(&file), None);
        let open = File::open(&ledger).unwrap();
        assert_eq!(descriptor_of(&file), Some(std::os::fd::AsRawFd::as_raw_fd(&open)));
        assert!(memory_bytes().unwrap() > 0);
        read(&ledger, &AtomicBool::new(false));
    }
}
