//! The folder of all snapshots of a host.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Gid, Uid};

use super::draft::Draft;
use super::verify::{self, Damage};
use super::{SnapshotError, files};
use crate::sandbox::command::{Method, SandboxKey};

/// Others may pass through to the file that is theirs, and see no names.
const FOLDER_MODE: u32 = 0o711;

/// Where snapshots are kept. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    dir: Arc<Path>,
}

/// What a draft is to be.
#[derive(Clone, Copy, Debug)]
pub struct DraftSpec<'a> {
    /// Whose state.
    pub key: &'a SandboxKey,
    /// The sandbox's generation.
    pub generation: i64,
    /// The first ordinal that the ledger has not used.
    pub ordinal_min: u64,
    /// How it is saved.
    pub method: Method,
    /// The user that QEMU runs as, who writes the state file.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What is left of a save that was not completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleDraft {
    /// Whose state it was to be.
    pub key: SandboxKey,
    /// The sandbox's generation.
    pub generation: i64,
    /// Which of its snapshots.
    pub ordinal: u64,
    /// The length of its files.
    pub bytes: u64,
    files: Vec<PathBuf>,
}

impl SnapshotStore {
    /// The store in the folder `dir` (an absolute path), which is made when it is needed. Where QEMUs run as
    /// other users than the agent, they must be able to pass through it.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.into() }
    }

    /// Makes a place for a snapshot: an empty state file that QEMU's user may write.
    ///
    /// Takes the first ordinal from `ordinal_min` on of which nothing lies here: leftovers are neither
    /// overwritten nor in the way.
    pub fn begin(&self, spec: DraftSpec<'_>) -> Result<Draft, SnapshotError> {
        let folder = self.folder(spec.key)?;
        self.make(&folder, spec.uid)?;
        let mut ordinal = spec.ordinal_min;
        loop {
            let draft = Draft::new(&folder, spec, ordinal);
            if !draft.is_taken() && claim(&draft, spec)? {
                return Ok(draft);
            }
            ordinal = ordinal.saturating_add(1);
        }
    }

    /// What saves have left that were not completed: drafts, and state files without a manifest, or with one that the host's
    /// end has cut short.
    ///
    /// To be asked when nothing is being saved, or to be compared with what is.
    pub fn stale_drafts(&self) -> Result<Vec<StaleDraft>, SnapshotError> {
        let mut drafts = BTreeMap::new();
        for (org, org_path) in entries(&self.dir)? {
            for (sandbox, folder) in entries(&org_path)? {
                let key = SandboxKey { org: org.clone(), sandbox };
                for (name, path) in entries(&folder)? {
                    add_stale(&mut drafts, &key, &name, path);
                }
            }
        }
        Ok(drafts.into_values().collect())
    }

    fn folder(&self, key: &SandboxKey) -> Result<PathBuf, SnapshotError> {
        for part in [&key.org, &key.sandbox] {
            let mut components = Path::new(part).components();
            let first = components.next();
            // `a/` is one component as well.
            if !matches!(first, Some(Component::Normal(name)) if name == part.as_str()) {
                return Err(SnapshotError::Name { part: part.clone() });
            }
        }
        Ok(self.dir.join(&key.org).join(&key.sandbox))
    }

    /// Makes the folder and those above it. They become durable with the snapshot.
    fn make(&self, folder: &Path, uid: u32) -> Result<(), SnapshotError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(FOLDER_MODE).create(folder).map_err(files::failed("make", folder))?;
        // The sandbox's folder, the org's and the store's own.
        for made in folder.ancestors().take(3) {
            // The agent's umask may have taken away what QEMU's user needs.
            if *made != *self.dir && Uid::from_raw(uid) != Uid::effective() {
                let passage = Permissions::from_mode(FOLDER_MODE);
                fs::set_permissions(made, passage).map_err(files::failed("open to others", made))?;
            }
        }
        Ok(())
    }
}

/// Makes the state file, and says whether this draft was the first to do so.
fn claim(draft: &Draft, spec: DraftSpec<'_>) -> Result<bool, SnapshotError> {
    if spec.method == Method::Internal {
        return Ok(true);
    }
    let path = draft.state_path();
    let file = match files::create_new(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(files::failed("create", path)(error)),
    };
    if Uid::from_raw(spec.uid) != Uid::effective() || Gid::from_raw(spec.gid) != Gid::effective() {
        let given = fchown(&file, Some(spec.uid), Some(spec.gid));
        if let Err(source) = given {
            files::remove(path)?;
            return Err(files::failed("give to QEMU's user", path)(source));
        }
    }
    Ok(true)
}

impl StaleDraft {
    /// Removes its files. What is not there any more is no error.
    pub fn remove(&self) -> Result<(), SnapshotError> {
        self.files.iter().try_for_each(|path| files::remove(path))
    }
}

/// The names in a folder that are UTF-8, as all names of the store are. A folder that is not there is empty.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, SnapshotError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(files::failed("list", folder)(error)),
    };
    let entries: Vec<fs::DirEntry> =
        entries.collect::<io::Result<_>>().map_err(files::failed("list", folder))?;
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    Ok(entries.into_iter().filter_map(named).collect())
}

type Stale = BTreeMap<(SandboxKey, i64, u64), StaleDraft>;

fn add_stale(drafts: &mut Stale, key: &SandboxKey, name: &str, path: PathBuf) {
    let Some((stem, kind)) = name.split_once('.') else { return };
    let Some((generation, ordinal)) = parse(stem) else { return };
    let stale = match kind {
        "state.tmp" | "json.tmp" => true,
        "state" | "json" => is_unwritten(&path.with_extension("json")),
        _ => false,
    };
    if !stale {
        return;
    }
    let bytes = fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
    let draft = drafts.entry((key.clone(), generation, ordinal)).or_insert_with(|| StaleDraft {
        key: key.clone(),
        generation,
        ordinal,
        bytes: 0,
        files: Vec::new(),
    });
    draft.bytes += bytes;
    draft.files.push(path);
}

/// Whether a manifest was never wholly written: it is not there, or it is no JSON. One that was changed later is something else.
fn is_unwritten(manifest: &Path) -> bool {
    matches!(verify::load(manifest), Err(Damage::ManifestMissing | Damage::ManifestMalformed(_)))
}

/// `<generation>-<ordinal>`. A generation before 1970 begins with a dash of its own.
fn parse(stem: &str) -> Option<(i64, u64)> {
    let (generation, ordinal) = stem.rsplit_once('-')?;
    Some((generation.parse().ok()?, ordinal.parse().ok()?))
}
