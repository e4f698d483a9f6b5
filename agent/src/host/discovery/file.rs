//! What `<sandbox>.toml` may say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::section::{Section, section};
use crate::config::wrong_keys;
use crate::process::cpu_max::VCPUS_MILLI_MIN;
use crate::sandbox::terms::Terms;
use crate::size;

section! {
    /// What `<sandbox>.toml` may say. Unknown keys are refused.
    SandboxFile {
        /// The org that the sandbox belongs to.
        org: Option<String> = None,
        /// The plan that it is billed by.
        plan: Option<String> = None,
        /// The tags that it starts with.
        tags: BTreeMap<String, String> = BTreeMap::new(),
        /// The virtio-mem devices that are scaled, by id or QOM path. Empty: all.
        memory_devices: Vec<String> = Vec::new(),
    }
    sections {
        /// How its QEMU is started again.
        launch: LaunchFile = LaunchFile::default(),
        /// What it may be scaled to.
        limits: LimitsFile = LimitsFile::default(),
    }
}

section! {
    /// How a sandbox's QEMU is started again, for a wake or a power-cycle.
    LaunchFile {
        /// The program. Not set: the one that runs.
        qemu: Option<PathBuf> = None,
        /// The arguments, the program's name first. Not set: those that it was started with.
        argv: Option<Vec<String>> = None,
    }
    sections {}
}

section! {
    /// What a sandbox may be scaled to.
    LimitsFile {
        /// The most memory, base and plugged together: `"4GiB"`.
        memory_max: Option<String> = None,
        /// The most CPU time, in vCPUs: `2`, or `"1.5"` in quotes.
        vcpus_max: Option<Vcpus> = None,
        /// The most that its writable disks may have together: `"100GiB"`.
        disk_max: Option<String> = None,
    }
    sections {}
}

/// A number of vCPUs, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "toml::Value")]
pub struct Vcpus(u32);

impl TryFrom<toml::Value> for Vcpus {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        let milli = match &value {
            toml::Value::Integer(number) => size::parse_vcpus_milli(&number.to_string())?,
            toml::Value::String(text) => size::parse_vcpus_milli(text)?,
            // A number with a point would not be exact.
            other => return Err(format!("{other} is no number of vCPUs: write 2, or \"1.5\" in quotes")),
        };
        if milli < VCPUS_MILLI_MIN {
            return Err(format!("{value} is less than the kernel gives: write at least \"0.01\""));
        }
        Ok(Self(milli))
    }
}

impl From<Vcpus> for String {
    fn from(Vcpus(milli): Vcpus) -> Self {
        format!("{}.{:03}", milli / 1000, milli % 1000)
    }
}

impl SandboxFile {
    /// Reads a file. The error says where and what is wrong, and what to write instead.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(problem) = wrong_keys(text, Self::KEYS) {
            let place = problem.place.map_or_else(String::new, |place| format!("{place}: "));
            return Err(format!("{place}{}", problem.message));
        }
        let file: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        Self::limit_bytes("memory_max", file.limits.memory_max.as_deref())?;
        Self::limit_bytes("disk_max", file.limits.disk_max.as_deref())?;
        let LaunchFile { qemu, argv } = &file.launch;
        if qemu.as_ref().is_some_and(|path| !path.is_absolute()) {
            return Err("launch.qemu is no absolute path: write it in full".to_owned());
        }
        if argv.as_ref().is_some_and(Vec::is_empty) {
            return Err("launch.argv is empty: it begins with the program's name".to_owned());
        }
        Ok(file)
    }

    fn limit_bytes(key: &str, text: Option<&str>) -> Result<Option<u64>, String> {
        let parse = |text| size::parse(text).map_err(|why| format!("limits.{key}: {why}"));
        text.map(parse).transpose()
    }

    /// How the sandbox is to be driven.
    pub(in crate::host) fn terms(&self) -> Terms {
        Terms {
            memory_devices: self.memory_devices.clone(),
            qemu: self.launch.qemu.clone(),
            argv: self.launch.argv.clone(),
            // They were read before.
            memory_max_bytes: Self::limit_bytes("memory_max", self.limits.memory_max.as_deref())
                .unwrap_or_default(),
            vcpus_max_milli: self.limits.vcpus_max.map(|Vcpus(milli)| milli),
            disk_max_bytes: Self::limit_bytes("disk_max", self.limits.disk_max.as_deref())
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_how_a_sandbox_is_driven() {
        let text = "memory_devices = [\"vm1\"]\n[launch]\nqemu = \"/opt/qemu\"\nargv = [\"qemu\", \"-S\"]\n\
                    [limits]\nmemory_max = \"4GiB\"\nvcpus_max = \"1.5\"\ndisk_max = \"1TiB\"\n";
        let terms = SandboxFile::parse(text).unwrap().terms();
        assert_eq!(terms.memory_devices, ["vm1"]);
        assert_eq!((terms.qemu, terms.argv.unwrap().len()), (Some("/opt/qemu".into()), 2));
        assert_eq!(terms.memory_max_bytes, Some(4 << 30));
        assert_eq!((terms.vcpus_max_milli, terms.disk_max_bytes), (Some(1500), Some(1 << 40)));
        let whole = SandboxFile::parse("[limits]\nvcpus_max = 2").unwrap();
        assert_eq!(whole.terms().vcpus_max_milli, Some(2000));
        let written = toml::to_string(&whole).unwrap();
        assert_eq!(SandboxFile::parse(&written).unwrap(), whole);
        assert!(SandboxFile::parse("org = \"acme\"").unwrap().terms().is_empty());
    }

    #[test]
    fn what_is_wrong_in_a_section_is_refused_with_its_place_and_what_to_write() {
        for (text, part) in [
            (
                "[limits]\nmemory_mx = \"1GiB\"",
                "2:1: unknown key `limits.memory_mx`: did you mean `limits.memory_max`?",
            ),
            ("memory_max = \"1GiB\"", "did you mean `limits.memory_max`?"),
            ("[limits]\nmemory_max = \"lots\"", "limits.memory_max: "),
            ("[limits]\ndisk_max = \"1GB\"", "limits.disk_max: "),
            ("[limits]\nvcpus_max = 0.5", "\"1.5\" in quotes"),
            ("[limits]\nvcpus_max = \"lots\"", "is no number of vCPUs"),
            ("[limits]\nvcpus_max = -1", "is no number of vCPUs"),
            ("[limits]\nvcpus_max = 0", "at least \"0.01\""),
            ("[launch]\nqemu = \"qemu\"", "write it in full"),
            ("[launch]\nargv = []", "begins with the program's name"),
            ("limits = 1", "expected"),
        ] {
            let why = SandboxFile::parse(text).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }
}
