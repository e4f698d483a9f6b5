//! Whether a snapshot is still what was written.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::manifest::{Manifest, RamFile, StateFile};
use super::{digest, files};

/// How long a manifest may be, in bytes. Arguments of a process are 2 MiB at most.
const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A snapshot that is not what was written. It must not be started.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot {} is damaged: {what}", path.display())]
pub struct Damaged {
    /// Its manifest.
    pub path: PathBuf,
    /// What is wrong.
    pub what: Damage,
}

/// What is wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// There is no manifest.
    #[error("it has no manifest")]
    ManifestMissing,
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The manifest is no manifest.
    #[error("its manifest cannot be understood: {0}")]
    ManifestMalformed(String),
    /// The manifest does not match its own digest.
    #[error("its manifest was changed after it was written")]
    ManifestDigest,
    /// The manifest is of another version.
    #[error("its manifest has version {found}, and this agent knows versions 1 to 3")]
    ManifestVersion {
        /// Its version.
        found: u32,
    },
    /// The manifest is another snapshot's.
    #[error("its manifest is not the one that was recorded")]
    NotRecorded,
    /// A file is not there.
    #[error("{} is not there", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file is longer or shorter.
    #[error("{} has {found} bytes, and had {written}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length when it was written.
        written: u64,
        /// Its length now.
        found: u64,
    },
    /// The state file's content is another.
    #[error("{} does not match its digest", path.display())]
    StateDigest {
        /// The state file.
        path: PathBuf,
    },
    /// A file of RAM was changed, or another one put in its place.
    #[error("RAM in {} was changed after it was saved", path.display())]
    RamChanged {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the manifest at `path` and checks everything that it says. Reads the whole state file.
pub fn load_and_verify(path: &Path) -> Result<Manifest, Damaged> {
    let damaged = |what| Damaged { path: path.to_owned(), what };
    let manifest = load(path).map_err(damaged)?;
    check_files(&manifest, path).map_err(damaged)?.verify(&digest::to_the_end)?;
    Ok(manifest)
}

/// A state file that has its length, and was not read yet: all else of its snapshot is as it was written.
#[derive(Debug)]
pub struct Unread {
    version: u32,
    /// Opened, so that what is read is what was there. `None` where there is no state file.
    state: Option<(StateFile, File, PathBuf)>,
    manifest_path: PathBuf,
}

impl Manifest {
    /// Checks that this manifest, as it was recorded, is the one on disk, and everything that it says but for the digest of
    /// the state file. Takes no longer for a large one.
    pub fn verify_files(&self) -> Result<Unread, Damaged> {
        let path = self.path();
        let checked = load(&path).and_then(|found| {
            if found == *self { check_files(self, &path) } else { Err(Damage::NotRecorded) }
        });
        checked.map_err(|what| Damaged { path, what })
    }
}

impl Unread {
    /// Checks the digest. Reads the whole state file, unless nobody wants it any more.
    pub fn verify(self, wanted: digest::Wanted<'_>) -> Result<(), Damaged> {
        self.check(wanted).map_err(|what| Damaged { path: self.manifest_path, what })
    }

    fn check(&self, wanted: digest::Wanted<'_>) -> Result<(), Damage> {
        let Some((written, file, path)) = &self.state else { return Ok(()) };
        let digest = digest::digest(self.version, file, wanted)
            .map_err(|source| Damage::Unreadable { path: path.clone(), source })?;
        if digest == written.blake3 { Ok(()) } else { Err(Damage::StateDigest { path: path.clone() }) }
    }
}

pub(super) fn load(path: &Path) -> Result<Manifest, Damage> {
    let unreadable = |source| Damage::Unreadable { path: path.to_owned(), source };
    let file = match files::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Damage::ManifestMissing),
        opened => opened.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Manifest::from_file(&bytes)
}

/// The state file lies beside the manifest at `path`, wherever that was moved to.
fn check_files(manifest: &Manifest, path: &Path) -> Result<Unread, Damage> {
    if path.file_name() != manifest.path().file_name() {
        return Err(Damage::NotRecorded);
    }
    manifest.ram.iter().try_for_each(check_ram)?;
    let state = manifest.state.as_ref();
    let state =
        state.map(|state| open_state(state, path.with_file_name(manifest.state_name()))).transpose()?;
    Ok(Unread { version: manifest.version, state, manifest_path: path.to_owned() })
}

fn open_state(written: &StateFile, path: PathBuf) -> Result<(StateFile, File, PathBuf), Damage> {
    let file = opened(files::open(&path), &path)?;
    let meta = file.metadata().map_err(|source| Damage::Unreadable { path: path.clone(), source })?;
    check_length(&path, written.bytes, meta.len())?;
    Ok((written.clone(), file, path))
}

fn check_ram(written: &RamFile) -> Result<(), Damage> {
    let path = &written.path;
    let meta = opened(fs::metadata(path), path)?;
    check_length(path, written.bytes, meta.len())?;
    let same = *written == RamFile::of(path, &meta);
    if same { Ok(()) } else { Err(Damage::RamChanged { path: path.clone() }) }
}

fn check_length(path: &Path, written: u64, found: u64) -> Result<(), Damage> {
    if written == found { Ok(()) } else { Err(Damage::Length { path: path.to_owned(), written, found }) }
}

fn opened<T>(opened: io::Result<T>, path: &Path) -> Result<T, Damage> {
    opened.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Damage::Missing { path: path.to_owned() },
        _ => Damage::Unreadable { path: path.to_owned(), source },
    })
}
