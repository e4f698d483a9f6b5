//! What the commands for one sandbox have in common.

use clap::Args;
use dormouse_ledger::SandboxFilter;

use super::duration;
use crate::proto::SandboxKey;

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

/// The org by which a question is narrowed: a sandbox without an org is one of `default`, no sandbox and no org is
/// everything.
pub(super) fn org_of(org: Option<String>, sandbox: Option<&String>) -> String {
    match (org, sandbox) {
        (Some(org), _) => org,
        (None, Some(_)) => "default".to_owned(),
        (None, None) => String::new(),
    }
}

/// The same, for a ledger: what is empty matches all.
pub(super) fn sandbox_filter(org: &str, sandbox: &str) -> SandboxFilter {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SandboxFilter { org: some(org), sandbox: some(sandbox), ..SandboxFilter::default() }
}
