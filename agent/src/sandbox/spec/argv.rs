//! A spec as QEMU's arguments.

use std::path::{Path, PathBuf};

use super::{DiskSpec, SandboxSpec};

const MIB: u64 = 1 << 20;

/// What a sandbox has on the host, beside what its spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The QEMU program, in full.
    pub program: PathBuf,
    /// The QMP socket that is the agent's own.
    pub qmp: PathBuf,
    /// The folder of its memory's files, where it has any.
    pub memory: PathBuf,
}

/// QEMU's arguments, the program first. `name` is what QEMU calls the guest.
///
/// Everything has a name of its own (`ram0`, `vm0`, `disk0`, `vd0`): those that QEMU makes up change with each start, and
/// a snapshot is loaded by them.
pub fn argv(spec: &SandboxSpec, places: &Places, name: &str) -> Vec<String> {
    let pluggable_bytes = spec.memory_max_bytes.saturating_sub(spec.memory_bytes);
    let mut options = vec![
        ("-name", name.to_owned()),
        ("-display", "none".to_owned()),
        ("-machine", format!("{},memory-backend=ram0", spec.machine)),
        ("-smp", spec.vcpus.to_string()),
        ("-m", memory(spec.memory_bytes, pluggable_bytes)),
        ("-object", backend(spec, places, "ram0", spec.memory_bytes)),
    ];
    match &spec.accel {
        Some(accel) => options.push(("-accel", accel.clone())),
        // QEMU takes the first that it can.
        None => options.extend([("-accel", "kvm".to_owned()), ("-accel", "tcg".to_owned())]),
    }
    options.extend(spec.cpu.clone().map(|cpu| ("-cpu", cpu)));
    if pluggable_bytes > 0 {
        let device = "virtio-mem-pci,memdev=vmem0,id=vm0,block-size=2M".to_owned();
        options.push(("-object", backend(spec, places, "vmem0", pluggable_bytes)));
        options.push(("-device", device));
    }
    for (index, disk) in spec.disks.iter().enumerate() {
        options.push(("-blockdev", node(disk, index)));
        options.push(("-device", format!("virtio-blk-pci,drive=disk{index},id=vd{index}")));
    }
    let file = |path: &Path| path.display().to_string();
    options.extend(spec.kernel.as_deref().map(|path| ("-kernel", file(path))));
    options.extend(spec.initrd.as_deref().map(|path| ("-initrd", file(path))));
    options.extend(spec.append.clone().map(|append| ("-append", append)));
    // Without it a panic ends QEMU, and a guest that has panicked could never be seen.
    options.push(("-action", "panic=pause".to_owned()));
    options.push(("-device", "pvpanic-pci".to_owned()));
    options.push(("-qmp", format!("unix:{},server=on,wait=off", value(&places.qmp))));
    let first = [file(&places.program), "-nodefaults".to_owned(), "-no-user-config".to_owned()];
    let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    first.into_iter().chain(options).chain(spec.extra_arguments.iter().cloned()).collect()
}

fn memory(base_bytes: u64, pluggable_bytes: u64) -> String {
    let base_mib = base_bytes / MIB;
    if pluggable_bytes == 0 {
        return format!("{base_mib}M");
    }
    format!("{base_mib}M,slots=1,maxmem={}M", (base_bytes + pluggable_bytes) / MIB)
}

fn backend(spec: &SandboxSpec, places: &Places, id: &str, bytes: u64) -> String {
    let mib = bytes / MIB;
    if spec.memory_shared {
        let file = places.memory.join(format!("{id}.ram"));
        return format!("memory-backend-file,id={id},size={mib}M,mem-path={},share=on", value(&file));
    }
    // What a virtio-mem device has not plugged is not to count as taken.
    format!("memory-backend-ram,id={id},size={mib}M,reserve=off")
}

fn node(disk: &DiskSpec, index: usize) -> String {
    let read_only = if disk.read_only { ",read-only=on" } else { "" };
    format!(
        "driver={},node-name=disk{index}{read_only},file.driver=file,file.filename={}",
        disk.format.as_str(),
        value(&disk.path)
    )
}

/// A path as the value of an option: there a comma is written twice.
fn value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
