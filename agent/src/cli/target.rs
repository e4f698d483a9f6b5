//! What the commands for one sandbox have in common.

use clap::Args;

use super::duration;
use crate::proto::{CommandHeader, SandboxKey};

// No doc comments on these structures: clap would show them as the description of the commands that use them.

#[derive(Args, Debug)]
pub(super) struct Target {
    /// The sandbox's id, unique within its org
    #[arg(value_name = "ID")]
    pub(super) id: String,

    /// The org that the sandbox belongs to
    #[arg(long, default_value = "default")]
    pub(super) org: String,
}

impl Target {
    pub(super) fn key(&self) -> SandboxKey {
        SandboxKey { org: self.org.clone(), sandbox: self.id.clone() }
    }
}

#[derive(Args, Debug)]
pub(super) struct Asked {
    #[command(flatten)]
    pub(super) target: Target,

    /// The idempotency key: repeating it returns the stored outcome. Without one, the agent makes one up
    #[arg(long, value_name = "KEY")]
    pub(super) request_id: Option<String>,

    /// How long to wait (500ms, 30s, 2m). The operation goes on to its end in any case
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_ms)]
    pub(super) deadline: Option<u64>,
}

impl Asked {
    pub(super) fn header(&self) -> CommandHeader {
        CommandHeader {
            key: Some(self.target.key()),
            request_id: self.request_id.clone().unwrap_or_default(),
            deadline_ms: self.deadline.unwrap_or_default(),
        }
    }
}
