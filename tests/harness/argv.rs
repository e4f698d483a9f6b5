//! What a guest is made of, and the QEMU command line that makes it.

use std::path::{Path, PathBuf};

use crate::accel::Accel;
use crate::paths::QemuVersion;

/// Where the guest's RAM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Anonymous memory of the QEMU process.
    Ram,
    /// Files, mapped shared: what `shared` hibernation needs.
    SharedFiles,
}

/// What a guest is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Which QEMU runs it.
    pub version: QemuVersion,
    /// Where its RAM is.
    pub backend: Backend,
    /// Memory that it boots with. The kernel needs 256.
    pub base_mib: u64,
    /// The most that virtio-mem `vm0` can plug, in blocks of 2 MiB.
    pub virtio_mem_max_mib: u64,
    /// Whether it has a qcow2 disk (`disk0`, 1 GiB, virtio-blk), which `internal` hibernation writes into.
    pub disk: bool,
    /// Virtual processors.
    pub vcpus: u32,
    /// Arguments of QEMU after all others.
    pub extra: Vec<String>,
}

impl Default for Spec {
    /// The guest of the demo. Every method of hibernation is open to it.
    fn default() -> Self {
        Self {
            version: QemuVersion::V10,
            backend: Backend::SharedFiles,
            base_mib: 256,
            virtio_mem_max_mib: 2048,
            disk: true,
            vcpus: 1,
            extra: Vec::new(),
        }
    }
}

impl Spec {
    /// The same on QEMU 7.2.
    #[must_use]
    pub fn on_7_2(self) -> Self {
        Self { version: QemuVersion::V72, ..self }
    }
}

/// The sockets and files of one guest.
#[derive(Clone, Debug)]
pub struct Places {
    /// QMP for Dormouse: `<run_dir>/<id>.qmp`.
    pub qmp: PathBuf,
    /// QMP for the harness.
    pub monitor: PathBuf,
    /// The guest's second serial port, which answers questions.
    pub console: PathBuf,
    /// The guest's first serial port: kernel messages.
    pub log: PathBuf,
    /// What the first QEMU of this guest printed.
    pub stderr: PathBuf,
    /// The qcow2 image.
    pub disk: PathBuf,
    /// Folder of the RAM files.
    pub memory: PathBuf,
}

/// The arguments for a guest. `marker` is one of them, after `-name`, and says whose process it is.
pub fn arguments(
    spec: &Spec,
    places: &Places,
    accel: Accel,
    (kernel, initrd): &(PathBuf, PathBuf),
    marker: &str,
) -> Vec<String> {
    let Spec { base_mib, virtio_mem_max_mib, vcpus, .. } = spec;
    let Places { qmp, monitor, console, log, disk, .. } = places;
    let socket = |path: &Path| format!("unix:{},server=on,wait=off", path.display());
    let mut options = vec![
        ("-name", marker.to_owned()),
        ("-display", "none".to_owned()),
        ("-accel", accel.name().to_owned()),
        ("-cpu", accel.cpu().to_owned()),
        ("-machine", "q35,memory-backend=ram0".to_owned()),
        ("-smp", vcpus.to_string()),
        ("-m", format!("{base_mib}M,slots=1,maxmem={}M", base_mib + virtio_mem_max_mib)),
        ("-object", backend(spec, &places.memory, "ram0", *base_mib)),
        ("-object", backend(spec, &places.memory, "vmem0", *virtio_mem_max_mib)),
        ("-device", "virtio-mem-pci,memdev=vmem0,id=vm0,block-size=2M".to_owned()),
        // Without the action a panic ends QEMU, and a guest that has panicked could never be seen.
        ("-device", "pvpanic-pci".to_owned()),
        ("-action", "panic=pause".to_owned()),
        ("-kernel", kernel.display().to_string()),
        ("-initrd", initrd.display().to_string()),
        // Nobody trusts this guest with secrets, and the last two shorten an emulated boot by a second.
        ("-append", "console=ttyS0 quiet panic=-1 mitigations=off init_on_alloc=0".to_owned()),
        ("-serial", "chardev:log".to_owned()),
        ("-chardev", format!("file,id=log,path={},append=on", log.display())),
        ("-serial", "chardev:console".to_owned()),
        ("-chardev", format!("socket,id=console,path={},server=on,wait=off", console.display())),
        ("-qmp", socket(qmp)),
        ("-qmp", socket(monitor)),
    ];
    if spec.disk {
        // A node name of its own: those that QEMU invents change at each start, and a snapshot is loaded by node name.
        let node = format!("driver=qcow2,node-name=disk0,file.driver=file,file.filename={}", disk.display());
        options.push(("-blockdev", node));
        options.push(("-device", "virtio-blk-pci,drive=disk0,id=vd0".to_owned()));
    }
    let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    let flags = ["-nodefaults", "-no-user-config"].map(str::to_owned);
    flags.into_iter().chain(options).chain(spec.extra.iter().cloned()).collect()
}

fn backend(spec: &Spec, folder: &Path, id: &str, size_mib: u64) -> String {
    match spec.backend {
        Backend::Ram => format!("memory-backend-ram,id={id},size={size_mib}M,reserve=off"),
        Backend::SharedFiles => {
            let file = folder.join(format!("{id}.ram"));
            format!("memory-backend-file,id={id},size={size_mib}M,mem-path={},share=on", file.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_arguments(spec: &Spec) -> Vec<String> {
        let path = PathBuf::from("/p");
        let places = Places {
            qmp: path.clone(),
            monitor: path.clone(),
            console: path.clone(),
            log: path.clone(),
            stderr: path.clone(),
            disk: path.clone(),
            memory: path.clone(),
        };
        arguments(spec, &places, Accel::Tcg, &(path.clone(), path), "guest=a")
    }

    #[test]
    fn the_marker_is_an_argument_of_its_own() {
        assert!(some_arguments(&Spec::default()).contains(&"guest=a".to_owned()));
    }

    #[test]
    fn a_guest_without_a_disk_has_no_block_device() {
        let arguments = some_arguments(&Spec { disk: false, ..Spec::default() });
        assert!(!arguments.contains(&"-blockdev".to_owned()));
    }
}
