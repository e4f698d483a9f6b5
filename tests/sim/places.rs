//! What a snapshot needs of the disk and the machine reads nothing of: made once for all histories.

use std::path::PathBuf;
use std::sync::OnceLock;

use dormouse::process::{CommandLine, Variables};
use dormouse::sandbox::command::{Method, SandboxKey};
use dormouse::sandbox::snapshot::{Draft, DraftSpec, SnapshotStore};

const DRAFTS: u64 = 64;

pub(crate) fn command_line() -> CommandLine {
    CommandLine {
        exe: "/usr/bin/qemu-system-x86_64".into(),
        argv: ["qemu-system-x86_64"].into_iter().collect(),
        cwd: PathBuf::new(),
        env: Variables::default(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    }
}

/// A draft by its number.
pub(crate) fn draft(ordinal: u64) -> Draft {
    static MADE: OnceLock<Vec<Draft>> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("no folder for drafts: {error}"));
        let store = SnapshotStore::new(dir.path());
        let key = SandboxKey { org: "acme".to_owned(), sandbox: "sb".to_owned() };
        let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        (1..=DRAFTS)
            .map(|ordinal_min| {
                let spec =
                    DraftSpec { key: &key, generation: 1, ordinal_min, method: Method::Internal, uid, gid };
                store.begin(spec).unwrap_or_else(|error| panic!("no draft: {error}"))
            })
            .collect()
    };
    let drafts = MADE.get_or_init(make);
    let index = usize::try_from(ordinal.clamp(1, DRAFTS) - 1).unwrap_or(0);
    drafts[index].clone()
}
