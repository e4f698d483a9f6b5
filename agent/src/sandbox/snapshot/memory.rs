//! How much of the host's memory a sandbox takes when it is woken. It says nothing of what the host has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};

use super::Manifest;

/// The unit in which `st_blocks` counts, whatever the file system's own is.
const BLOCK_BYTES: u64 = 512;

impl Manifest {
    /// All that the sandbox held, in bytes, but for what files of its RAM hold as they are. Asks the file systems.
    pub fn memory_to_take_bytes(&self) -> u64 {
        let held_bytes: u64 = self.ram.iter().map(|file| held_bytes(&file.path)).sum();
        let shape = self.shape;
        shape.memory_base_bytes.saturating_add(shape.memory_plugged_bytes).saturating_sub(held_bytes)
    }
}

/// What a file holds of the host's memory while nobody uses it: on a disk nothing, in a tmpfs what was written to it. Huge
/// pages are set apart, and are in no figure of what is available.
fn held_bytes(path: &Path) -> u64 {
    // What cannot be asked counts as on a disk: a wake then asks for more.
    let (Ok(folder), Ok(file)) = (statfs(path), fs::metadata(path)) else { return 0 };
    match folder.filesystem_type() {
        TMPFS_MAGIC => file.blocks().saturating_mul(BLOCK_BYTES),
        HUGETLBFS_MAGIC => file.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_a_file_in_a_tmpfs_holds_is_not_taken_again_and_what_a_hole_in_it_is() {
        let mut file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.write_all(&vec![1; 3 << 20]).unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len(), 8 << 20);
        assert_eq!(held_bytes(file.path()), 3 << 20);
        assert_eq!(held_bytes(Path::new("/none")), 0);
        let on_disk = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        assert!(on_disk.metadata().unwrap().blocks() > 0);
        assert_eq!(held_bytes(&on_disk), 0);
    }
}
