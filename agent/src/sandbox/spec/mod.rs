//! What a sandbox is to be made of, and the QEMU command line that makes it.
//!
//! Pure: nothing here looks at the host. [`argv()`] makes the arguments; who starts QEMU with them adds `-S`, so that
//! the guest runs once its life is durable and not before.

mod argv;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use argv::{Places, argv};

/// What memory comes in, in bytes: the block of virtio-mem.
pub const MEMORY_BLOCK_BYTES: u64 = 2 << 20;

/// Bounds: beyond them a slip is likelier than a wish.
const VCPUS_MAX: u32 = 1024;
const DISKS_MAX: usize = 32;
const EXTRA_MAX: usize = 256;
const WORD_BYTES_MAX: usize = 8192;

/// What a sandbox is to be made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The QEMU program: an absolute path, or a name that is looked up in `PATH`. `None`: as configured.
    pub qemu: Option<String>,
    /// The machine type, with its options.
    pub machine: String,
    /// The processor model. `None`: QEMU's default.
    pub cpu: Option<String>,
    /// The accelerator. `None`: KVM, and TCG where there is none.
    pub accel: Option<String>,
    /// Memory that it boots with, in bytes.
    pub memory_bytes: u64,
    /// The most that it can be scaled to, in bytes; the same as `memory_bytes` where it has no virtio-mem device.
    pub memory_max_bytes: u64,
    /// Whether its memory is in files that are mapped shared: what `shared` hibernation needs.
    pub memory_shared: bool,
    /// Virtual processors.
    pub vcpus: u32,
    /// Its disks, in order.
    pub disks: Vec<DiskSpec>,
    /// The kernel; `None` boots from the disks.
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub append: Option<String>,
    /// Arguments of QEMU after all others.
    pub extra_arguments: Vec<String>,
}

/// A disk, attached by virtio-blk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// The image, or a block device.
    pub path: PathBuf,
    /// How it is to be read.
    pub format: DiskFormat,
    /// Where there is no image, one of this size is made, in bytes. `None`: there has to be one.
    pub size_bytes: Option<u64>,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
}

/// The format of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// A file that can hold snapshots: what `internal` hibernation needs.
    Qcow2,
    /// Bytes as the guest sees them.
    Raw,
}

impl DiskFormat {
    /// The name, as QEMU has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }

    /// Reads what `as_str` wrote.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Qcow2, Self::Raw].into_iter().find(|format| format.as_str() == name)
    }
}

impl SandboxSpec {
    /// Says what is wrong with it, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        self.check_memory()?;
        if self.vcpus == 0 || self.vcpus > VCPUS_MAX {
            return Err(format!("vcpus is {}: write 1 to {VCPUS_MAX}", self.vcpus));
        }
        if self.disks.len() > DISKS_MAX || self.extra_arguments.len() > EXTRA_MAX {
            return Err(format!("at most {DISKS_MAX} disks and {EXTRA_MAX} extra arguments can be given"));
        }
        let disks = self.disks.iter().map(|disk| ("a disk's path", disk.path.as_path()));
        let boot = [("kernel", self.kernel.as_deref()), ("initrd", self.initrd.as_deref())];
        let boot = boot.into_iter().filter_map(|(name, path)| Some((name, path?)));
        for (name, path) in disks.chain(boot) {
            check_path(name, path)?;
        }
        if self.disks.iter().any(|disk| disk.size_bytes.is_some_and(|bytes| bytes == 0 || bytes % 512 != 0)) {
            return Err("a disk's size is a multiple of 512 bytes, and not 0".to_owned());
        }
        if self.kernel.is_none() && (self.initrd.is_some() || self.append.is_some()) {
            return Err("initrd and append go with a kernel: give one, or leave them out".to_owned());
        }
        let named = [&self.qemu, &self.cpu, &self.accel, &self.append].into_iter().flatten();
        for word in named.chain([&self.machine]).chain(&self.extra_arguments) {
            check_word(word)?;
        }
        Ok(())
    }

    fn check_memory(&self) -> Result<(), String> {
        let Self { memory_bytes, memory_max_bytes, .. } = *self;
        let aligned = |bytes: u64| bytes.is_multiple_of(MEMORY_BLOCK_BYTES);
        if memory_bytes == 0 || !aligned(memory_bytes) || !aligned(memory_max_bytes) {
            return Err(
                "memory comes in blocks of 2MiB: give memory and memory_max as multiples of it, memory \
                        not 0"
                    .to_owned(),
            );
        }
        if memory_max_bytes < memory_bytes {
            return Err(
                "memory_max is less than memory: give the same for a sandbox that is never scaled".to_owned()
            );
        }
        Ok(())
    }
}

fn check_path(name: &str, path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err(format!("{name} {} is not absolute: write it in full", path.display()));
    }
    check_word(&path.to_string_lossy())
}

/// QEMU reads options that begin with `{` as JSON, and no argument holds a NUL.
fn check_word(word: &str) -> Result<(), String> {
    if word.is_empty() || word.len() > WORD_BYTES_MAX || word.contains('\0') {
        let shown: String = word.chars().take(60).collect();
        return Err(format!(
            "{shown:?} is empty, longer than {WORD_BYTES_MAX} bytes, or has a NUL character"
        ));
    }
    Ok(())
}

#[cfg(test)]
pub(in crate::sandbox) mod tests;
