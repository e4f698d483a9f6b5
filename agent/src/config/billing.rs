//! What is billed: which parts of a sandbox's shape count in which billing state.

use dormouse_ledger::usage::Rules;
use dormouse_metering::{Dimensions, Policy};
use serde::{Deserialize, Serialize};

use super::section::{Key, Section, section};

section! {
    /// What is billed.
    Billing {
        /// Which memory is billed: `plugged` (what the guest has), `requested` (what it was asked to have), or the
        /// `greater` or `lesser` of the two. Slices record both; this chooses when usage is computed.
        basis: Basis = Basis::Plugged,
        /// Disk that costs nothing: the overage is what is above it.
        free_disk_bytes: u64 = 20 << 30,
    }
    sections {
        /// Which parts are billed in which state. A state that is given is given whole.
        policy: PolicyTable = PolicyTable::default(),
    }
}

/// Which memory is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// What the guest has.
    Plugged,
    /// What it was asked to have.
    Requested,
    /// The greater of the two.
    Greater,
    /// The lesser of the two.
    Lesser,
}

impl From<Basis> for dormouse_metering::Basis {
    fn from(basis: Basis) -> Self {
        match basis {
            Basis::Plugged => Self::Plugged,
            Basis::Requested => Self::Requested,
            Basis::Greater => Self::Greater,
            Basis::Lesser => Self::Lesser,
        }
    }
}

section! {
    /// Which parts are billed in which state.
    PolicyTable {}
    sections {
        /// The guest runs.
        running: Billed = Billed { memory: true, vcpu: true, disk: true },
        /// It was stopped by command.
        paused: Billed = Billed { memory: false, vcpu: false, disk: true },
        /// Its state is being written to disk.
        hibernating: Billed = Billed { memory: false, vcpu: false, disk: true },
        /// Its state is on disk and there is no QEMU.
        hibernated: Billed = Billed { memory: false, vcpu: false, disk: true },
        /// Its state is being loaded.
        waking: Billed = Billed { memory: false, vcpu: false, disk: true },
        /// QEMU stopped it because of a fault: io-error, internal-error, guest-panicked, watchdog.
        faulted: Billed = Billed { memory: false, vcpu: false, disk: true },
        /// There is no proof that its QEMU existed.
        lost: Billed = Billed { memory: false, vcpu: false, disk: false },
        /// The platform asked for the time not to be billed.
        suppressed: Billed = Billed { memory: false, vcpu: false, disk: true },
    }
}

impl Billing {
    /// The rules that usage is computed by.
    pub fn rules(&self) -> Rules {
        Rules {
            policy: self.policy.policy(),
            basis: self.basis.into(),
            free_disk_bytes: self.free_disk_bytes,
        }
    }
}

impl PolicyTable {
    /// The table as the meter's quantities are computed by it.
    pub fn policy(&self) -> Policy {
        let rows = [
            ("running", self.running),
            ("paused", self.paused),
            ("hibernating", self.hibernating),
            ("hibernated", self.hibernated),
            ("waking", self.waking),
            ("faulted", self.faulted),
            ("lost", self.lost),
            ("suppressed", self.suppressed),
        ];
        let mut policy = Policy::default();
        for (state, Billed { memory, vcpu, disk }) in rows {
            let known = policy.set(state, Dimensions { memory, vcpu, disk });
            debug_assert_eq!(known, Ok(()), "{state} is a billing state");
        }
        policy
    }
}

/// What is billed in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Billed {
    /// Memory.
    pub memory: bool,
    /// vCPUs.
    pub vcpu: bool,
    /// Disk.
    pub disk: bool,
}

impl Section for Billed {
    const KEYS: &'static [Key] = &[
        Key { name: "memory", doc: &[], section: None },
        Key { name: "vcpu", doc: &[], section: None },
        Key { name: "disk", doc: &[], section: None },
    ];
}
