use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use dormouse_metering::Shape;
use nix::unistd::{getgid, getuid};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::process::{CommandLine, Variables};
use crate::sandbox::command::{Method, SandboxKey};
use crate::sandbox::facts::MemoryDevice;

mod digests;
mod syncs;

struct Saved {
    dir: TempDir,
    store: SnapshotStore,
}

impl Saved {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::new(&dir.path().join("snapshots"));
        Self { dir, store }
    }

    fn draft(&self, method: Method) -> Draft {
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        self.store.begin(DraftSpec { key: &key(), generation: 7, ordinal_min: 1, method, uid, gid }).unwrap()
    }

    fn snapshot(&self, method: Method, state: &[u8]) -> Manifest {
        let draft = self.draft(method);
        let mut contents = contents();
        if method != Method::Internal {
            fs::write(draft.state_path(), state).unwrap();
        }
        if method == Method::Shared {
            contents.ram_paths = vec![self.ram("ram0"), self.ram("ram1")];
        }
        draft.complete(contents).unwrap()
    }

    fn ram(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, vec![3; 8192]).unwrap();
        path
    }
}

fn key() -> SandboxKey {
    SandboxKey { org: "acme".to_owned(), sandbox: "sb-1".to_owned() }
}

fn contents() -> Contents {
    Contents {
        created_unix_ns: 1_700_000_000_000_000_000,
        ram_paths: Vec::new(),
        qemu_version: "10.0.2".to_owned(),
        machine_type: Some("pc-q35-10.0".to_owned()),
        command_line: CommandLine {
            exe: PathBuf::from("/usr/bin/qemu-system-x86_64"),
            argv: ["qemu", "-m", "256M"].into_iter().collect(),
            cwd: PathBuf::from("/"),
            env: Variables::default(),
            uid: 64,
            gid: 65,
            groups: vec![66],
        },
        memory_devices: vec![MemoryDevice {
            id: "vm0".to_owned(),
            size_bytes: 1 << 30,
            requested_bytes: 1 << 30,
            max_bytes: 2 << 30,
            block_bytes: 2 << 20,
            address: 0x1_4000_0000,
            node: 0,
        }],
        shape: Shape {
            vcpus_milli: 2000,
            memory_base_bytes: 1 << 28,
            memory_plugged_bytes: 1 << 30,
            memory_requested_bytes: 1 << 30,
            disk_bytes: 9,
        },
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn flip(path: &Path, index: usize, bit: u8) {
    let mut bytes = fs::read(path).unwrap();
    let index = index % bytes.len();
    bytes[index] ^= 1 << bit;
    fs::write(path, bytes).unwrap();
}

fn intact(manifest: &Manifest) {
    check(manifest).unwrap();
}

fn check(manifest: &Manifest) -> Result<(), Damaged> {
    manifest.verify_files()?.verify(&to_the_end)
}

fn damage(manifest: &Manifest) -> String {
    let by_path = load_and_verify(&manifest.path()).unwrap_err();
    let recorded = check(manifest).unwrap_err();
    assert_eq!(by_path.to_string(), recorded.to_string());
    recorded.what.to_string()
}

#[test]
fn every_method_comes_back_as_it_was_written() {
    for method in [Method::Shared, Method::MappedRam, Method::Internal] {
        let saved = Saved::new();
        let manifest = saved.snapshot(method, b"device state");
        assert_eq!(load_and_verify(&manifest.path()).unwrap(), manifest);
        intact(&manifest);
        assert_eq!(manifest.state.is_some(), method != Method::Internal);
        assert_eq!(manifest.ram.len(), if method == Method::Shared { 2 } else { 0 });
        assert_eq!((manifest.ordinal, manifest.generation), (1, 7));
        let expected: &[&str] =
            if method == Method::Internal { &["7-1.json"] } else { &["7-1.json", "7-1.state"] };
        assert_eq!(names(&manifest.folder), expected);
        // The ledger keeps it as JSON.
        let json = serde_json::to_value(&manifest).unwrap();
        assert_eq!(serde_json::from_value::<Manifest>(json).unwrap(), manifest);
    }
}

#[test]
fn guest_memory_is_nobody_else_s_business() {
    let saved = Saved::new();
    let manifest = saved.snapshot(Method::MappedRam, b"memory");
    for path in [manifest.path(), manifest.state_path()] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_state_file_that_was_cut_is_refused() {
    let saved = Saved::new();
    let manifest = saved.snapshot(Method::MappedRam, &vec![5; 20_000]);
    for bytes in [20_000 - 4096, 19_999, 0] {
        let file = OpenOptions::new().write(true).open(manifest.state_path()).unwrap();
        file.set_len(bytes).unwrap();
        assert!(damage(&manifest).contains(&format!("has {bytes} bytes, and had 20000")));
    }
    fs::write(manifest.state_path(), vec![5; 20_001]).unwrap();
    assert!(damage(&manifest).contains("has 20001 bytes"));
    fs::remove_file(manifest.state_path()).unwrap();
    assert!(damage(&manifest).ends_with("7-1.state is not there"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_bit_that_flips_anywhere_in_the_state_is_seen(
        state in prop::collection::vec(any::<u8>(), 1..9000),
        index: prop::sample::Index,
        bit in 0..8u8,
    ) {
        let saved = Saved::new();
        let manifest = saved.snapshot(Method::MappedRam, &state);
        let index = index.index(state.len());
        flip(&manifest.state_path(), index, bit);
        prop_assert!(damage(&manifest).contains("does not match its digest"));
        flip(&manifest.state_path(), index, bit);
        prop_assert!(check(&manifest).is_ok());
    }
}

#[test]
fn a_bit_that_flips_anywhere_in_the_manifest_is_seen() {
    let saved = Saved::new();
    let manifest = saved.snapshot(Method::Shared, b"device state");
    let mut bytes = fs::read(manifest.path()).unwrap();
    assert_eq!(Manifest::from_file(&bytes).unwrap(), manifest);
    for index in 0..bytes.len() {
        for bit in 0..8 {
            bytes[index] ^= 1 << bit;
            assert!(Manifest::from_file(&bytes).is_err(), "byte {index}, bit {bit}");
            bytes[index] ^= 1 << bit;
        }
        assert!(Manifest::from_file(&bytes[..index]).is_err(), "cut at {index}");
    }
}

#[test]
fn a_manifest_that_is_missing_foreign_or_of_the_future_is_refused() {
    let saved = Saved::new();
    let first = saved.snapshot(Method::MappedRam, b"one");
    let second = saved.snapshot(Method::MappedRam, b"two");
    assert_eq!((first.ordinal, second.ordinal), (1, 2));

    fs::copy(first.path(), second.path()).unwrap();
    assert_eq!(damage(&second), "its manifest is not the one that was recorded");

    let future = Manifest { version: 4, ..second.clone() };
    fs::write(second.path(), future.to_file().unwrap()).unwrap();
    assert!(damage(&second).contains("has version 4"));

    fs::write(second.path(), "{}").unwrap();
    assert!(damage(&second).contains("cannot be understood"));

    fs::remove_file(second.path()).unwrap();
    assert_eq!(damage(&second), "it has no manifest");
}

#[test]
fn ram_that_was_changed_cut_or_replaced_is_refused() {
    let saved = Saved::new();
    let manifest = saved.snapshot(Method::Shared, b"device state");
    let path = &manifest.ram[1].path;
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();

    file.set_len(4096).unwrap();
    assert!(damage(&manifest).contains("has 4096 bytes, and had 8192"));
    file.set_len(8192).unwrap();
    assert!(damage(&manifest).contains("was changed after it was saved"));
    file.set_modified(modified).unwrap();
    intact(&manifest);

    let twin = saved.ram("twin");
    OpenOptions::new().write(true).open(&twin).unwrap().set_modified(modified).unwrap();
    fs::rename(twin, path).unwrap();
    assert!(damage(&manifest).contains("was changed after it was saved"));
    fs::remove_file(path).unwrap();
    assert!(damage(&manifest).contains("is not there"));
}

#[test]
fn ram_in_a_folder_and_a_state_of_nothing_cannot_be_completed() {
    let saved = Saved::new();
    let draft = saved.draft(Method::Shared);
    let ram_paths = vec![saved.dir.path().to_owned()];
    let error = draft.complete(Contents { ram_paths, ..contents() }).unwrap_err();
    assert!(matches!(error, SnapshotError::RamNotFile { .. }));
    let error = draft.complete(contents()).unwrap_err();
    assert!(matches!(error, SnapshotError::StateEmpty { .. }));
    draft.abandon().unwrap();
    assert!(names(draft.state_path().parent().unwrap()).is_empty());
}

#[test]
fn what_a_crash_leaves_is_listed_removed_and_never_in_the_way() {
    let saved = Saved::new();
    let draft = saved.draft(Method::MappedRam);
    fs::write(draft.state_path(), b"half a state").unwrap();
    let folder = draft.state_path().parent().unwrap().to_owned();
    fs::write(folder.join("7-1.json.tmp"), b"half").unwrap();
    // Died between the two renames.
    fs::write(folder.join("7-2.state"), b"whole").unwrap();
    // The host went off before the manifest was on the disk, and its name was.
    fs::write(folder.join("7-3.state"), b"whole").unwrap();
    fs::write(folder.join("7-3.json"), [0; 2]).unwrap();
    // Of a later version, or changed since.
    fs::write(folder.join("7-4.json"), br#"{"blake3":"","manifest":{}}"#).unwrap();
    fs::write(folder.join("somebody's notes"), b"").unwrap();

    let manifest = saved.snapshot(Method::MappedRam, b"state");
    assert_eq!(manifest.ordinal, 5);
    let stale = saved.store.stale_drafts().unwrap();
    let found: Vec<_> = stale.iter().map(|draft| (draft.generation, draft.ordinal, draft.bytes)).collect();
    assert_eq!(found, [(7, 1, 16), (7, 2, 5), (7, 3, 7)]);
    assert!(stale.iter().all(|draft| draft.key == key()));
    for draft in stale {
        draft.remove().unwrap();
    }
    assert!(saved.store.stale_drafts().unwrap().is_empty());
    intact(&manifest);
    assert_eq!(names(&folder), ["7-4.json", "7-5.json", "7-5.state", "somebody's notes"]);
}

#[test]
fn a_store_that_was_never_used_has_no_drafts() {
    assert!(Saved::new().store.stale_drafts().unwrap().is_empty());
}

#[test]
fn removing_twice_is_fine_and_leaves_ram_alone() {
    let saved = Saved::new();
    let manifest = saved.snapshot(Method::Shared, b"device state");
    manifest.remove().unwrap();
    manifest.remove().unwrap();
    assert!(!manifest.folder.exists());
    assert!(manifest.ram[0].path.exists());
    assert_eq!(damage(&manifest), "it has no manifest");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let saved = Saved::new();
    for bad in ["..", ".", "", "/etc", "a/b", "a/"] {
        for key in
            [SandboxKey { org: bad.to_owned(), ..key() }, SandboxKey { sandbox: bad.to_owned(), ..key() }]
        {
            let spec = DraftSpec {
                key: &key,
                generation: 1,
                ordinal_min: 1,
                method: Method::MappedRam,
                uid: getuid().as_raw(),
                gid: getgid().as_raw(),
            };
            assert!(matches!(saved.store.begin(spec), Err(SnapshotError::Name { .. })), "{bad:?}");
        }
    }
}

#[test]
fn a_manifest_that_cannot_be_written_leaves_a_draft() {
    let saved = Saved::new();
    let draft = saved.draft(Method::MappedRam);
    fs::write(draft.state_path(), b"state").unwrap();
    // What stands in the way fails the write for root as well.
    let in_the_way = draft.state_path().with_file_name("7-1.json.tmp");
    fs::create_dir(&in_the_way).unwrap();
    let error = draft.complete(contents()).unwrap_err();
    assert!(matches!(error, SnapshotError::Io { doing: "create", .. }), "{error}");
    fs::remove_dir(&in_the_way).unwrap();
    assert!(draft.state_path().exists());
    intact(&draft.complete(contents()).unwrap());
}

#[test]
fn a_read_only_folder_fails_the_save_and_nothing_else() {
    if getuid().is_root() {
        return;
    }
    let saved = Saved::new();
    let draft = saved.draft(Method::MappedRam);
    fs::write(draft.state_path(), b"state").unwrap();
    let folder = draft.state_path().parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o500)).unwrap();
    assert!(matches!(draft.complete(contents()), Err(SnapshotError::Io { .. })));
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    draft.abandon().unwrap();
}

/// A file system of a size of its own, while it lives.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` where mounting is not allowed.
    fn mount(path: &Path, bytes: usize) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}

#[test]
fn a_full_file_system_fails_the_save_and_keeps_what_was_saved_before() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_tmpfs) = Tmpfs::mount(&dir.path().join("small"), 256 * 1024) else { return };
    let saved = Saved { store: SnapshotStore::new(&dir.path().join("small")), dir };
    let before = saved.snapshot(Method::MappedRam, b"before");
    let draft = saved.draft(Method::MappedRam);
    let full = fs::write(draft.state_path(), vec![1; 1024 * 1024]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let error = draft.complete(contents()).unwrap_err();
    let SnapshotError::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    draft.abandon().unwrap();
    intact(&before);
    assert_eq!(names(&before.folder), ["7-1.json", "7-1.state"]);
}

#[test]
fn the_state_file_belongs_to_the_user_that_qemu_runs_as() {
    if !getuid().is_root() {
        return;
    }
    let saved = Saved::new();
    let key = key();
    let method = Method::MappedRam;
    let spec = DraftSpec { key: &key, generation: 1, ordinal_min: 1, method, uid: 64_055, gid: 64_056 };
    let draft = saved.store.begin(spec).unwrap();
    let meta = fs::metadata(draft.state_path()).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (64_055, 64_056));
    let folder = fs::metadata(draft.state_path().parent().unwrap()).unwrap();
    assert_eq!(folder.mode() & 0o777, 0o711);
}
