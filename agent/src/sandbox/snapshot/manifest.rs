//! What is in a snapshot, and how it is written down.
//!
//! The file is `{"blake3": "...", "manifest": {...}}`: the digest is of the very bytes of the manifest.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dormouse_metering::Shape;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::verify::Damage;
use super::{SnapshotError, files};
use crate::process::CommandLine;
use crate::sandbox::command::{Method, SandboxKey};
use crate::sandbox::facts::MemoryDevice;

/// The version of the manifest that is written. Those before are understood as well.
pub(super) const VERSION: u32 = 3;

/// What is in a snapshot and what waking from it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of this format: 3. With 2 the state file's digest is the BLAKE3 of its blocks of 64 KiB that are not zeros
    /// alone, each behind its offset (8 bytes, little-endian); with 1 that of every byte.
    pub version: u32,
    /// Whose state it is.
    pub key: SandboxKey,
    /// The sandbox's generation.
    pub generation: i64,
    /// Which of the sandbox's snapshots, from 1.
    pub ordinal: u64,
    /// The folder that it was put in.
    pub folder: PathBuf,
    /// When it was completed, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i64,
    /// How it was saved.
    pub method: Method,
    /// The state file; `internal` has none.
    pub state: Option<StateFile>,
    /// The files that hold the RAM; only `shared` has any.
    pub ram: Vec<RamFile>,
    /// The QEMU that saved it, `major.minor.micro`.
    pub qemu_version: String,
    /// The machine type with its version, where QEMU was asked for it.
    pub machine_type: Option<String>,
    /// How QEMU was started.
    pub command_line: CommandLine,
    /// The virtio-mem devices. QEMU exits at load when their geometry differs.
    pub memory_devices: Vec<MemoryDevice>,
    /// What the sandbox held.
    #[serde(with = "ShapeFields")]
    pub shape: Shape,
}

/// A state file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// Its name in the snapshot's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The BLAKE3, in hexadecimal digits, of the BLAKE3s (32 bytes) of its spans of 1 MiB; of a span that of its blocks of
    /// 64 KiB. Both without those that are zeros alone, and each behind its offset in the file (8 bytes, little-endian).
    pub blake3: String,
}

/// A file that holds RAM, as it was when it had been synced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RamFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since the Unix epoch.
    pub modified_unix_ns: i64,
    /// Its inode.
    pub inode: u64,
}

/// The metering crate has no serde: it is std only.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Shape", deny_unknown_fields)]
struct ShapeFields {
    vcpus_milli: u32,
    memory_base_bytes: u64,
    memory_plugged_bytes: u64,
    memory_requested_bytes: u64,
    disk_bytes: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    blake3: String,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Manifest {
    /// The manifest's own file.
    pub fn path(&self) -> PathBuf {
        self.folder.join(format!("{}-{}.json", self.generation, self.ordinal))
    }

    /// The state file. With `internal` there is nothing.
    pub fn state_path(&self) -> PathBuf {
        self.folder.join(self.state_name())
    }

    /// Removes the snapshot, the manifest first and durably: a state file alone is only a draft. What is not
    /// there is no error. Files of RAM are QEMU's and stay.
    pub fn remove(&self) -> Result<(), SnapshotError> {
        if !self.folder.exists() {
            return Ok(());
        }
        files::remove(&self.path())?;
        files::sync_folder(&self.folder)?;
        files::remove(&self.state_path())?;
        // Others of the sandbox may still be there: then it stays.
        let _ = std::fs::remove_dir(&self.folder);
        Ok(())
    }

    pub(super) fn state_name(&self) -> String {
        format!("{}-{}.state", self.generation, self.ordinal)
    }

    /// What the manifest's file says.
    pub(super) fn to_file(&self) -> Result<String, serde_json::Error> {
        let manifest = serde_json::to_string_pretty(self)?;
        let digest = blake3::hash(manifest.as_bytes()).to_hex();
        Ok(format!("{{\"blake3\":\"{digest}\",\"manifest\":{manifest}}}"))
    }

    /// Reads what [`Manifest::to_file`] wrote, byte by byte.
    pub(super) fn from_file(bytes: &[u8]) -> Result<Self, Damage> {
        let malformed = |error: serde_json::Error| Damage::ManifestMalformed(error.to_string());
        let sealed: Sealed<'_> = serde_json::from_slice(bytes).map_err(malformed)?;
        let digest = blake3::hash(sealed.manifest.get().as_bytes()).to_hex();
        if digest.as_str() != sealed.blake3 {
            return Err(Damage::ManifestDigest);
        }
        let Versioned { version } = serde_json::from_str(sealed.manifest.get()).map_err(malformed)?;
        if !(1..=VERSION).contains(&version) {
            return Err(Damage::ManifestVersion { found: version });
        }
        serde_json::from_str(sealed.manifest.get()).map_err(malformed)
    }
}

impl RamFile {
    pub(super) fn of(path: &Path, meta: &Metadata) -> Self {
        let seconds_ns = meta.mtime().saturating_mul(1_000_000_000);
        let modified_unix_ns = seconds_ns.saturating_add(meta.mtime_nsec());
        Self { path: path.to_owned(), bytes: meta.len(), modified_unix_ns, inode: meta.ino() }
    }
}
