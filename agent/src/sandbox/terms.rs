//! What the file beside a sandbox's socket says of how the sandbox is to be driven.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::facts::MemoryDevice;
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
}

impl Terms {
    /// Whether they say nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
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
            argv: self.argv.clone().unwrap_or(line.argv),
            ..line
        }
    }

    /// Why it may not have so much memory.
    pub fn memory_beyond(&self, memory_bytes: u64) -> Option<Refusal> {
        let max_bytes = self.memory_max_bytes.filter(|max_bytes| memory_bytes > *max_bytes)?;
        let message = format!(
            "{} is more than the {} that limits.memory_max of its file allows",
            Size(memory_bytes),
            Size(max_bytes)
        );
        Some(Refusal::new(Reason::SizeOutOfBounds, message).with("max_bytes", max_bytes))
    }
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

    #[test]
    fn without_terms_everything_is_as_qemu_says() {
        let terms = Terms::default();
        assert!(terms.is_empty() && terms.may_scale(&device("vm0")));
        assert_eq!(terms.memory_beyond(u64::MAX), None);
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
    fn more_than_the_limit_is_refused_with_the_limit() {
        let terms = Terms { memory_max_bytes: Some(1 << 30), ..Terms::default() };
        assert_eq!(terms.memory_beyond(1 << 30), None);
        let refusal = terms.memory_beyond((1 << 30) + 1).unwrap();
        assert_eq!(
            (refusal.reason, refusal.metadata["max_bytes"].as_str()),
            (Reason::SizeOutOfBounds, "1073741824")
        );
    }
}
