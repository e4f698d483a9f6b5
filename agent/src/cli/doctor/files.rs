//! Folders, disks and keys.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::Finding;
use crate::config::Config;
use crate::size::Size;

/// Less than this, and the ledger will soon take no writes: no command is carried out then.
const FREE_BYTES_WRONG: u64 = 256 << 20;
/// Less than this is worth a word.
const FREE_BYTES_LESS: u64 = 2 << 30;

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let snapshots = config.snapshot_dir();
    let mut findings = vec![folder("state folder", &config.state_dir, false)];
    findings.push(folder("watched folder", &config.run_dir, true));
    if let Some(parent) = config.socket.parent() {
        findings.push(folder("folder of the socket", parent, false));
    }
    findings.push(disk("disk of the state folder", &config.state_dir));
    findings.push(disk("disk of the snapshots", &snapshots));
    findings.extend(config.control.tls.key.as_deref().map(key));
    findings
}

/// A folder that the agent must be able to write to, and nobody who has no say.
fn folder(what: &str, path: &Path, sticky_will_do: bool) -> Finding {
    let what = format!("{what} {}", path.display());
    let Ok(metadata) = fs::metadata(path) else {
        return missing(what, path);
    };
    if !metadata.is_dir() {
        return Finding::wrong(what, "it is no folder", "remove it, or configure another");
    }
    let mode = metadata.mode() & 0o7777;
    let open = mode & 0o002 != 0 && !(sticky_will_do && mode & 0o1000 != 0);
    if open {
        return Finding::wrong(what, format!("everybody may write to it (mode {mode:04o})"), "chmod o-w");
    }
    if let Err(errno) = access(path, AccessFlags::W_OK | AccessFlags::X_OK) {
        let next = "run this as the agent's user (sudo -u dormouse), or give the folder to it";
        return Finding::wrong(
            what,
            format!("owner {}, mode {mode:04o}: {}", metadata.uid(), errno.desc()),
            next,
        );
    }
    Finding::well(what, format!("owner {}, mode {mode:04o}", metadata.uid()))
}

/// The agent makes a folder that is not there, if it may.
fn missing(what: String, path: &Path) -> Finding {
    match existing(path) {
        Some(above) if access(above, AccessFlags::W_OK | AccessFlags::X_OK).is_ok() => {
            Finding::well(what, "not there yet: the agent makes it")
        }
        _ => {
            let next = format!("mkdir -p {} and give it to the agent's user", path.display());
            Finding::wrong(what, "it is not there, and cannot be made by this user", next)
        }
    }
}

/// The nearest folder above that is there.
fn existing(path: &Path) -> Option<&Path> {
    path.ancestors().find(|above| above.is_dir())
}

fn disk(what: &str, path: &Path) -> Finding {
    let free =
        existing(path).map(|path| statvfs(path).map(|disk| disk.blocks_available() * disk.fragment_size()));
    let what = format!("{what} {}", path.display());
    match free {
        Some(Ok(free_bytes)) => judge_free(what, free_bytes),
        Some(Err(errno)) => Finding::wrong(what, errno.desc(), "see whether it is mounted"),
        None => Finding::wrong(what, "it is not there", "mount it"),
    }
}

fn judge_free(what: String, free_bytes: u64) -> Finding {
    // In whole MiB: nobody needs more to decide.
    let found = format!("{} free", Size(free_bytes >> 20 << 20));
    match free_bytes {
        0..FREE_BYTES_WRONG => Finding::wrong(what, found, "free some: without it no command is carried out"),
        FREE_BYTES_WRONG..FREE_BYTES_LESS => {
            Finding::less(what, found, "free some, before snapshots fill it")
        }
        _ => Finding::well(what, found),
    }
}

fn key(path: &Path) -> Finding {
    let what = format!("key {}", path.display());
    match fs::metadata(path) {
        Ok(metadata) if metadata.mode() & 0o007 != 0 => {
            let found = format!("everybody may use it (mode {:04o})", metadata.mode() & 0o7777);
            Finding::wrong(what, found, "chmod o= it, and think of making a new one")
        }
        Ok(metadata) => Finding::well(what, format!("mode {:04o}", metadata.mode() & 0o7777)),
        Err(error) => {
            Finding::wrong(what, error.to_string(), "correct control.tls.key, or let the agent read it")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_folder_that_everybody_may_write_to_is_wrong_unless_its_sticky_bit_will_do() {
        let dir = tempfile::tempdir().expect("a folder");
        for (mode, watched, verdict) in [
            (0o755, false, Verdict::Well),
            (0o777, true, Verdict::Wrong),
            (0o1777, true, Verdict::Well),
            (0o1777, false, Verdict::Wrong),
        ] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).expect("a mode");
            assert_eq!(folder("x", dir.path(), watched).verdict, verdict, "{mode:o}");
        }
        let file = dir.path().join("file");
        fs::write(&file, "").expect("a file");
        assert_eq!(folder("x", &file, false).verdict, Verdict::Wrong);
    }

    #[test]
    fn a_disk_is_judged_by_what_is_free() {
        for (free_bytes, verdict) in [(0, Verdict::Wrong), (1 << 30, Verdict::Less), (1 << 40, Verdict::Well)]
        {
            let finding = judge_free("x".to_owned(), free_bytes);
            assert_eq!(finding.verdict, verdict);
            assert_eq!(finding.next.is_empty(), verdict == Verdict::Well);
        }
    }

    #[test]
    fn a_key_that_everybody_may_read_is_wrong() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (mode, verdict) in [(0o600, Verdict::Well), (0o644, Verdict::Wrong)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("a mode");
            assert_eq!(key(file.path()).verdict, verdict);
        }
    }
}
