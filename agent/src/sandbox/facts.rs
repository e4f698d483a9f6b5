//! What a survey of a sandbox's QEMU has found.

use dormouse_ledger::PluggedByDevice;
use dormouse_metering::{RunState, Shape, Stamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::process::CommandLine;

/// What QEMU answered when it was asked after connecting, and what the kernel says of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// QEMU's version, `major.minor.micro`.
    pub version: QemuVersion,
    /// QEMU's process id, from the socket's peer.
    pub pid: i32,
    /// The name of its run state, as `query-status` reports it.
    pub run_state: String,
    /// vCPUs, in thousandths.
    pub vcpus_milli: u32,
    /// The limit on its CPU time, in thousandths of a vCPU, where its cgroup is its own and has one; or why the kernel did
    /// not say.
    pub vcpu_limit_milli: Result<Option<u32>, String>,
    /// Memory that is always there, in bytes.
    pub memory_base_bytes: u64,
    /// The virtio-mem devices, in QEMU's order.
    pub memory_devices: Vec<MemoryDevice>,
    /// The memory backends.
    pub backends: Vec<MemoryBackend>,
    /// The disks.
    pub disks: Vec<Disk>,
    /// What this QEMU binary can do.
    pub capabilities: Capabilities,
    /// How the process was started, or why the agent may not know.
    pub command_line: Result<CommandLine, String>,
}

/// A version of QEMU. Ordered as versions are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QemuVersion {
    /// As in 10.0.2.
    pub major: u32,
    /// As in 10.0.2.
    pub minor: u32,
    /// As in 10.0.2.
    pub micro: u32,
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// A virtio-mem device. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryDevice {
    /// The device's id: its QOM path is `/machine/peripheral/<id>`.
    pub id: String,
    /// What is plugged.
    pub size_bytes: u64,
    /// What the guest was asked to have plugged.
    pub requested_bytes: u64,
    /// The most that can be plugged.
    pub max_bytes: u64,
    /// What sizes must be a multiple of.
    pub block_bytes: u64,
    /// Where it lies in the guest's address space.
    pub address: u64,
    /// The NUMA node.
    pub node: u64,
}

/// A memory backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBackend {
    /// The object's id.
    pub id: String,
    /// Whether what the guest writes reaches the file.
    pub share: bool,
    /// The file behind it, where there is one.
    pub path: Option<String>,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A disk with a medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The name of the node at its top.
    pub node: String,
    /// The format of that node: `qcow2`, `raw`.
    pub format: String,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
    /// Its virtual size in bytes.
    pub size_bytes: u64,
}

/// What a QEMU binary can do, as its schema says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `snapshot-save` and `snapshot-load`.
    pub snapshot_jobs: bool,
    /// The migration capability `x-ignore-shared`.
    pub ignore_shared: bool,
    /// The migration capability `mapped-ram`.
    pub mapped_ram: bool,
}

impl Survey {
    /// What the sandbox holds. Where the kernel did not say what limits it, nothing does.
    pub fn shape(&self) -> Shape {
        let limit_milli = self.vcpu_limit_milli.as_ref().ok().copied().flatten();
        Shape {
            vcpus_milli: limit_milli.map_or(self.vcpus_milli, |limit| limit.min(self.vcpus_milli)),
            memory_base_bytes: self.memory_base_bytes,
            memory_plugged_bytes: self.memory_devices.iter().map(|device| device.size_bytes).sum(),
            memory_requested_bytes: self.memory_devices.iter().map(|device| device.requested_bytes).sum(),
            disk_bytes: self.disks.iter().filter(|disk| !disk.read_only).map(|disk| disk.size_bytes).sum(),
        }
    }

    /// What each memory device has plugged at a stamp, in the order of the survey: of one device the shape says it.
    pub fn plugged_by_device(&self, at: Stamp) -> Option<PluggedByDevice> {
        let bytes: Vec<u64> = self.memory_devices.iter().map(|device| device.size_bytes).collect();
        let least_bytes = bytes.clone();
        let (boot, at_boottime_ns) = (at.boot.0, at.boottime_ns);
        (bytes.len() > 1).then_some(PluggedByDevice { bytes, least_bytes, boot, at_boottime_ns })
    }

    /// The run state folded for billing, or `None` for one that this version does not know.
    pub fn folded(&self) -> Option<RunState> {
        RunState::parse(&self.run_state)
    }
}

impl Disk {
    /// Reads the disks with a medium from what `query-block` returns.
    pub fn list(returned: &Value) -> Vec<Self> {
        let read = |device: &Value| {
            let medium = device.get("inserted")?;
            Some(Self {
                node: medium["node-name"].as_str()?.to_owned(),
                format: medium["drv"].as_str().unwrap_or_default().to_owned(),
                read_only: medium["ro"].as_bool().unwrap_or(false),
                size_bytes: medium["image"]["virtual-size"].as_u64().unwrap_or(0),
            })
        };
        let mut disks: Vec<_> =
            returned.as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(read).collect();
        disks.shrink_to_fit();
        disks
    }
}

impl MemoryDevice {
    /// Reads the virtio-mem devices from what `query-memory-devices` returns. A device without an id cannot
    /// be named to QEMU and is left out.
    pub fn list(returned: &Value) -> Vec<Self> {
        let devices = returned.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut devices: Vec<_> = devices
            .iter()
            .filter(|device| device["type"] == "virtio-mem")
            .filter_map(|d| Self::read(&d["data"]))
            .collect();
        // They are kept, and four times as much is made room for as most have.
        devices.shrink_to_fit();
        devices
    }

    fn read(data: &Value) -> Option<Self> {
        Some(Self {
            id: data["id"].as_str()?.to_owned(),
            size_bytes: data["size"].as_u64()?,
            requested_bytes: data["requested-size"].as_u64()?,
            max_bytes: data["max-size"].as_u64()?,
            block_bytes: data["block-size"].as_u64()?,
            address: data["memaddr"].as_u64()?,
            node: data["node"].as_u64().unwrap_or(0),
        })
    }
}
