//! A snapshot that is being written.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::Scope;

use dormouse_metering::Shape;

use super::manifest::{Manifest, RamFile, StateFile, VERSION};
use super::store::DraftSpec;
use super::{SnapshotError, digest, files, joined};
use crate::process::CommandLine;
use crate::sandbox::command::{Method, SandboxKey};
use crate::sandbox::facts::MemoryDevice;

/// A place where QEMU writes a state. Dropping it leaves what is there: see [`Draft::abandon`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    key: SandboxKey,
    generation: i64,
    ordinal: u64,
    method: Method,
    folder: PathBuf,
    state_path: PathBuf,
}

/// What a snapshot is of, apart from where it is.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Now, in nanoseconds since the Unix epoch.
    pub created_unix_ns: i64,
    /// The files that hold the RAM; only `shared` has any.
    pub ram_paths: Vec<PathBuf>,
    /// The QEMU that saved it, `major.minor.micro`.
    pub qemu_version: String,
    /// The machine type with its version, where QEMU was asked for it.
    pub machine_type: Option<String>,
    /// How QEMU was started.
    pub command_line: CommandLine,
    /// The virtio-mem devices.
    pub memory_devices: Vec<MemoryDevice>,
    /// What the sandbox held.
    pub shape: Shape,
}

impl Draft {
    pub(super) fn new(folder: &Path, spec: DraftSpec<'_>, ordinal: u64) -> Self {
        Self {
            key: spec.key.clone(),
            generation: spec.generation,
            ordinal,
            method: spec.method,
            folder: folder.to_owned(),
            state_path: folder.join(format!("{}-{ordinal}.state.tmp", spec.generation)),
        }
    }

    /// One that nothing is behind, for whoever reads only its path and its number.
    #[cfg(test)]
    pub(crate) fn imaginary(spec: DraftSpec<'_>) -> Self {
        Self::new(Path::new("/snapshots"), spec, spec.ordinal_min)
    }

    /// Which of the sandbox's snapshots it will be.
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Where QEMU is to write the state. With `internal` there is no such file.
    pub fn state_path(&self) -> &Path {
        &self.state_path
    }

    /// Makes it a snapshot, durably, in the order that the module describes. QEMU must have finished
    /// writing, and the guest must stand still.
    ///
    /// After an error it is still a draft, and to be abandoned.
    pub fn complete(&self, contents: Contents) -> Result<Manifest, SnapshotError> {
        let (ram, state) = self.synced(&contents.ram_paths)?;
        let manifest = Manifest {
            version: VERSION,
            key: self.key.clone(),
            generation: self.generation,
            ordinal: self.ordinal,
            folder: self.folder.clone(),
            created_unix_ns: contents.created_unix_ns,
            method: self.method,
            state,
            ram,
            qemu_version: contents.qemu_version,
            machine_type: contents.machine_type,
            command_line: contents.command_line,
            memory_devices: contents.memory_devices,
            shape: contents.shape,
        };
        let manifest_tmp = self.file("json.tmp");
        // Fails for a path that is not UTF-8, which JSON cannot hold.
        let text = manifest
            .to_file()
            .map_err(|error| files::failed("put into JSON", &manifest.path())(error.into()))?;
        let written = files::write(&manifest_tmp, &text)?;
        if manifest.state.is_some() {
            files::rename(&self.state_path, &manifest.state_path())?;
        }
        files::rename(&manifest_tmp, &manifest.path())?;
        // Side by side, the two are one commit of the file system's journal.
        std::thread::scope(|scope| {
            let content = scope.spawn(|| written.sync_all());
            files::sync_folder(&self.folder)?;
            joined(content).map_err(files::failed("sync", &manifest.path()))
        })?;
        Ok(manifest)
    }

    /// Removes everything of it, also what a completion that failed has left. What is not there is no error.
    pub fn abandon(&self) -> Result<(), SnapshotError> {
        // A manifest must not outlive its state file.
        ["json", "json.tmp", "state.tmp", "state"].iter().try_for_each(|kind| files::remove(&self.file(kind)))
    }

    /// Whether anything of this name lies there, complete or not.
    pub(super) fn is_taken(&self) -> bool {
        let kinds = ["json", "json.tmp", "state.tmp", "state"];
        kinds.iter().any(|kind| self.file(kind).symlink_metadata().is_ok())
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}-{}.{kind}", self.generation, self.ordinal))
    }

    /// Syncs all that the manifest is to speak of, and the folders that lead to it. None of it waits for another: a disk
    /// makes many syncs at once in little more than the time of one.
    fn synced(&self, ram_paths: &[PathBuf]) -> Result<(Vec<RamFile>, Option<StateFile>), SnapshotError> {
        std::thread::scope(|scope| {
            let ram: Vec<_> = ram_paths.iter().map(|path| scope.spawn(|| synced_ram(path))).collect();
            // The sandbox's folder, the org's and the store's own may be new.
            let above = self.folder.ancestors().skip(1).take(3);
            let above: Vec<_> = above.map(|folder| scope.spawn(|| files::sync_folder(folder))).collect();
            let state = if self.method == Method::Internal { None } else { Some(self.synced_state(scope)) };
            above.into_iter().try_for_each(joined)?;
            let ram = ram.into_iter().map(joined).collect::<Result<_, _>>()?;
            Ok((ram, state.transpose()?))
        })
    }

    /// The digest is taken while the disk is busy.
    fn synced_state<'scope>(&self, scope: &'scope Scope<'scope, '_>) -> Result<StateFile, SnapshotError> {
        let path = &self.state_path;
        let file = files::open(path).map_err(files::failed("open", path))?;
        let twin = file.try_clone().map_err(files::failed("open", path))?;
        let syncing = scope.spawn(move || twin.sync_all());
        let bytes = file.metadata().map_err(files::failed("look at", path))?.len();
        if bytes == 0 {
            return Err(SnapshotError::StateEmpty { path: path.clone() });
        }
        let blake3 =
            digest::digest(VERSION, &file, &digest::to_the_end).map_err(files::failed("read", path))?;
        joined(syncing).map_err(files::failed("sync", path))?;
        Ok(StateFile { name: format!("{}-{}.state", self.generation, self.ordinal), bytes, blake3 })
    }
}

/// Syncing a file syncs what was written to it through a mapping as well.
fn synced_ram(path: &Path) -> Result<RamFile, SnapshotError> {
    let file = File::open(path).map_err(files::failed("open", path))?;
    let meta = file.metadata().map_err(files::failed("look at", path))?;
    if !meta.is_file() {
        // QEMU takes a folder for `mem-path`, and then removes its file's name at once.
        return Err(SnapshotError::RamNotFile { path: path.to_owned() });
    }
    file.sync_all().map_err(files::failed("sync", path))?;
    let meta = file.metadata().map_err(files::failed("look at", path))?;
    Ok(RamFile::of(path, &meta))
}
