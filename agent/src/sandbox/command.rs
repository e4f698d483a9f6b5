//! What can be asked of a sandbox, and what comes of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::spec::SandboxSpec;
use super::terms::Terms;

/// A sandbox's name. Sandbox ids are unique within an org only, so the two never part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxKey {
    /// The org that the sandbox belongs to.
    pub org: String,
    /// The sandbox's id within the org.
    pub sandbox: String,
}

impl fmt::Display for SandboxKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.sandbox)
    }
}

/// One command, as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The sandbox it is for.
    pub key: SandboxKey,
    /// Chosen by the caller, unique within the org: a repeat returns the stored outcome.
    pub request_id: String,
    /// How long the caller waits. The operation itself goes on to its end.
    pub deadline_ms: Option<u64>,
    /// Who asked, as far as the transport knows.
    pub asked_by: String,
    /// What is asked.
    pub request: Request,
}

/// What is asked of a sandbox. Its JSON is the payload by which a reused request id is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Request {
    /// Take a QEMU that listens on `qmp_path` under the agent's care.
    Attach {
        /// Absolute path of the QMP socket.
        qmp_path: PathBuf,
        /// The plan that the sandbox is billed by.
        plan: String,
        /// The tags that it starts with.
        tags: BTreeMap<String, String>,
        /// How it is to be driven, where whoever asks says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        terms: Option<Box<Terms>>,
    },
    /// Hand the sandbox back; its QEMU goes on.
    Detach,
    /// Change what it holds.
    Scale(Scaling),
    /// Stop the guest.
    Pause {
        /// Have the kernel write its memory out, too, as far as it will.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        reclaim: bool,
    },
    /// Continue the guest.
    Resume {
        /// Have the kernel read its memory back first, as far as it will.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        prefetch: bool,
    },
    /// Write the state to disk and end QEMU.
    Hibernate {
        /// How to save.
        method: MethodChoice,
    },
    /// Start QEMU again and continue the guest where it was.
    Wake {
        /// Have it begin anew instead: what its memory held is given up.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cold: bool,
    },
    /// Reset the guest.
    Reboot,
    /// Let its time be free from now on, whatever becomes of its guest, for a move that the platform makes for itself.
    Suppress {
        /// Why, for whoever reads the bill.
        reason: String,
    },
    /// Let its time be billed again.
    Unsuppress,
    /// End the sandbox and its QEMU.
    Destroy {
        /// How long the guest may take to power itself off, before its QEMU is told to quit. `None`: it is not asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        graceful_ms: Option<u64>,
    },
    /// Start a sandbox.
    Create {
        /// What it is made of.
        spec: Box<SandboxSpec>,
        /// The plan that it is billed by.
        plan: String,
        /// The tags that it starts with.
        tags: BTreeMap<String, String>,
    },
    /// End QEMU and start it again with the same arguments.
    PowerCycle,
}

impl Request {
    /// The command's name: on the wire, in the ledger and as a cause.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Attach { .. } => "attach",
            Self::Detach => "detach",
            Self::Scale(_) => "scale",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Hibernate { .. } => "hibernate",
            Self::Wake { .. } => "wake",
            Self::Reboot => "reboot",
            Self::Suppress { .. } => "suppress",
            Self::Unsuppress => "unsuppress",
            Self::Destroy { .. } => "destroy",
            Self::Create { .. } => "create",
            Self::PowerCycle => "power_cycle",
        }
    }
}

/// What a sandbox is to hold. What is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// Base and plugged memory together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// CPU time, in thousandths of a vCPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus_milli: Option<u32>,
    /// The sizes of disks in bytes, by the names of their nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disks: BTreeMap<String, u64>,
    /// Take memory away also where the guest says that it needs it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

impl Scaling {
    /// Of memory alone.
    pub fn of_memory(memory_bytes: u64) -> Self {
        Self { memory_bytes: Some(memory_bytes), ..Self::default() }
    }
}

/// How a hibernation is to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodChoice {
    /// The cheapest that the sandbox allows.
    Auto,
    /// This one, or a refusal that says why not.
    #[serde(untagged)]
    Named(Method),
}

/// A way to save a sandbox's state. See the module `sandbox::hibernation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// RAM stays in its files, only device state is written.
    Shared,
    /// Migration to a file at fixed offsets.
    MappedRam,
    /// `snapshot-save` into a qcow2 image.
    Internal,
}

impl Method {
    /// The method's name, as the command line and the ledger write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::MappedRam => "mapped-ram",
            Self::Internal => "internal",
        }
    }
}

/// How a command came out, once it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was reached.
    pub result: CommandResult,
    /// What a person would want to know about it.
    pub message: String,
}

/// What a command reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum CommandResult {
    /// What was asked.
    Done,
    /// Part of it: memory went only so far, or a dimension of a scale failed after another was done. The message says
    /// which and why; the shape has what each came to.
    Partial {
        /// Base and plugged memory together, in bytes.
        achieved_bytes: u64,
    },
    /// It was so already.
    Unchanged,
}
