//! What the file beside a sandbox's socket says of how the sandbox is to be driven.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::command::Scaling;
use super::facts::{Disk, MemoryDevice};
use super::refusal::{Reason, Refusal};
use crate::process::CommandLine;
use crate::size::Size;

/// How a sandbox is to be driven, where it is not as QEMU says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// The memory devices that are scaled, by id or QOM path. Empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub memory_devices: Vec<String>,
    /// The program that it is woken and power-cycled with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu: Option<PathBuf>,
    /// The arguments that it is woken and power-cycled with, the program first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// The most memory that it may be scaled to, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// The most CPU time that it may be scaled to, in thousandths of a vCPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus_max_milli: Option<u32>,
    /// The most that its writable disks together may be scaled to, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_max_bytes: Option<u64>,
}

impl Terms {
    /// Those that say nothing.
    pub fn none() -> &'static Self {
        static NONE: Terms = Terms {
            memory_devices: Vec::new(),
            qemu: None,
            argv: None,
            memory_max_bytes: None,
            vcpus_max_milli: None,
            disk_max_bytes: None,
        };
        &NONE
    }

    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        self == Self::none()
    }

    /// Whether a memory device is one of those that are scaled.
    pub fn may_scale(&self, device: &MemoryDevice) -> bool {
        let path = format!("/machine/peripheral/{}", device.id);
        let named = |name: &String| *name == device.id || *name == path;
        self.memory_devices.is_empty() || self.memory_devices.iter().any(named)
    }

    /// How it is started again.
    pub fn applied(&self, line: CommandLine) -> CommandLine {
        CommandLine {
            exe: self.qemu.clone().unwrap_or(line.exe),
            argv: self.argv.as_ref().map_or(line.argv, |argv| argv.iter().collect()),
            ..line
        }
    }

    /// Why it may not have so much memory or CPU time.
    pub fn beyond(&self, asked: &Scaling) -> Option<Refusal> {
        let memory = asked.memory_bytes.zip(self.memory_max_bytes).filter(|(asked, max)| asked > max);
        let memory =
            memory.map(|(asked, max)| refused("memory", Size(asked), Size(max)).with("max_bytes", max));
        let vcpus = asked.vcpus_milli.zip(self.vcpus_max_milli).filter(|(asked, max)| asked > max);
        let vcpus = vcpus.map(|(asked, max)| {
            let thousandths = |milli| format!("{milli} thousandths of a vCPU");
            refused("vcpus", thousandths(asked), thousandths(max)).with("max_vcpus_milli", max)
        });
        memory.or(vcpus)
    }

    /// Why its disks may not have these sizes, by node, where they have those.
    pub fn disks_beyond(&self, asked: &BTreeMap<String, u64>, disks: &[Disk]) -> Option<Refusal> {
        let to_have = |disk: &Disk| asked.get(&disk.node).copied().unwrap_or(disk.size_bytes);
        let writable = disks.iter().filter(|disk| !disk.read_only);
        let together_bytes = writable.map(to_have).fold(0, u64::saturating_add);
        let max_bytes = self.disk_max_bytes.filter(|max_bytes| together_bytes > *max_bytes)?;
        Some(refused("disk", Size(together_bytes), Size(max_bytes)).with("max_bytes", max_bytes))
    }
}

fn refused(limit: &str, asked: impl fmt::Display, max: impl fmt::Display) -> Refusal {
    let together = if limit == "disk" { " of writable disks together" } else { "" };
    let message =
        format!("{asked}{together} is more than the {max} that limits.{limit}_max of its file allows");
    Refusal::new(Reason::SizeOutOfBounds, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str) -> MemoryDevice {
        MemoryDevice {
            id: id.to_owned(),
            size_bytes: 0,
            requested_bytes: 0,
            max_bytes: 1 << 30,
            block_bytes: 2 << 20,
            address: 0,
            node: 0,
        }
    }

    fn disk(node: &str, size_bytes: u64) -> Disk {
        Disk { node: node.to_owned(), format: "raw".to_owned(), read_only: false, size_bytes }
    }

    #[test]
    fn without_terms_everything_is_as_qemu_says() {
        let terms = Terms::default();
        assert!(terms.is_empty() && terms.may_scale(&device("vm0")));
        let most = Scaling { vcpus_milli: Some(u32::MAX), ..Scaling::of_memory(u64::MAX) };
        assert_eq!(terms.beyond(&most), None);
        assert_eq!(terms.disks_beyond(&[("d0".to_owned(), u64::MAX)].into(), &[disk("d0", 1)]), None);
        assert_eq!(serde_json::to_string(&terms).unwrap(), "{}");
    }

    #[test]
    fn devices_are_named_by_id_or_by_path() {
        let memory_devices = vec!["vm0".to_owned(), "/machine/peripheral/vm2".to_owned()];
        let terms = Terms { memory_devices, ..Terms::default() };
        let scaled: Vec<bool> = ["vm0", "vm1", "vm2"].map(|id| terms.may_scale(&device(id))).to_vec();
        assert_eq!(scaled, [true, false, true]);
    }

    #[test]
    fn more_than_a_limit_is_refused_with_the_limit() {
        let terms = Terms {
            memory_max_bytes: Some(1 << 30),
            vcpus_max_milli: Some(1500),
            disk_max_bytes: Some(100),
            ..Terms::default()
        };
        let vcpus = |milli| Scaling { vcpus_milli: Some(milli), ..Scaling::default() };
        assert_eq!(terms.beyond(&Scaling::of_memory(1 << 30)), None);
        assert_eq!(terms.beyond(&vcpus(1500)), None);
        for (asked, figure, max) in [
            (Scaling::of_memory((1 << 30) + 1), "max_bytes", "1073741824"),
            (vcpus(1501), "max_vcpus_milli", "1500"),
        ] {
            let refusal = terms.beyond(&asked).unwrap();
            assert_eq!((refusal.reason, refusal.metadata[figure].as_str()), (Reason::SizeOutOfBounds, max));
        }
    }

    #[test]
    fn disks_are_limited_together_and_those_that_cannot_be_written_do_not_count() {
        let terms = Terms { disk_max_bytes: Some(100), ..Terms::default() };
        let disks = [disk("d0", 10), disk("d1", 20), Disk { read_only: true, ..disk("d2", 1000) }];
        let asked = |bytes| [("d0".to_owned(), bytes)].into();
        assert_eq!(terms.disks_beyond(&asked(80), &disks), None);
        let refusal = terms.disks_beyond(&asked(81), &disks).unwrap();
        assert_eq!(
            (refusal.reason, refusal.metadata["max_bytes"].as_str()),
            (Reason::SizeOutOfBounds, "100")
        );
        assert!(refusal.message.contains("limits.disk_max"), "{}", refusal.message);
        assert!(terms.disks_beyond(&asked(u64::MAX), &disks).is_some());
    }
}
