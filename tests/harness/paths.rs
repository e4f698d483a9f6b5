//! Where the things are that make targets build: the guest, the two QEMUs, the dormouse binary.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The version of QEMU that a guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QemuVersion {
    /// The installed one, of the backports suite: 10.0 on Debian 12.
    V10,
    /// The stable suite's 7.2, unpacked under target/.
    V72,
}

/// The kernel and the initramfs of the guest.
pub fn guest_image() -> Result<(PathBuf, PathBuf)> {
    let folder = workspace().join("target/guest");
    let kernel = present(folder.join("vmlinuz"), "make guest")?;
    let initrd = present(folder.join("initrd.cpio.gz"), "make guest")?;
    Ok((kernel, initrd))
}

/// The program to start for a guest of `version`.
pub fn qemu(version: QemuVersion) -> Result<PathBuf> {
    match version {
        QemuVersion::V10 => in_path("qemu-system-x86_64"),
        QemuVersion::V72 => present(workspace().join("target/qemu-7.2/qemu-system-x86_64"), "make qemu72"),
    }
}

/// The installed qemu-img, which every version of QEMU can use the images of.
pub fn qemu_img() -> Result<PathBuf> {
    in_path("qemu-img")
}

/// The dormouse binary of the profile that the running test was built with.
pub fn dormouse() -> Result<PathBuf> {
    built("dormouse", "cargo build -p dormouse")
}

/// The scripted QEMU of the same profile.
pub fn scripted_qemu() -> Result<PathBuf> {
    built("scripted-qemu", "cargo build -p dormouse-tests")
}

/// The staged host of the same profile.
pub fn staged_host() -> Result<PathBuf> {
    built("staged-host", "cargo build -p dormouse-tests")
}

/// A binary of the profile that the running program was built with.
fn built(name: &str, remedy: &'static str) -> Result<PathBuf> {
    let running = std::env::current_exe()
        .map_err(|source| Error::Io { what: "finding the running program".to_owned(), source })?;
    // target/PROFILE/deps/TEST for a test, target/PROFILE/NAME for a binary such as the demo.
    let folder =
        running.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap_or(Path::new("."));
    present(folder.join(name), remedy)
}

/// The folder of the workspace's Cargo.toml.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn in_path(program: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.exists())
        .ok_or(Error::Missing { path: program.into(), remedy: "make deps" })
}

fn present(path: PathBuf, remedy: &'static str) -> Result<PathBuf> {
    path.canonicalize().map_err(|_| Error::Missing { path, remedy })
}
