//! What is billed in which state.

use crate::{BillingState, UnknownState};

/// Which dimensions of a sandbox are billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dimensions {
    /// Whether memory is.
    pub memory: bool,
    /// Whether vCPUs are.
    pub vcpu: bool,
    /// Whether disk is.
    pub disk: bool,
}

impl Dimensions {
    /// Everything is billed.
    pub const ALL: Self = Self { memory: true, vcpu: true, disk: true };
    /// Disk alone is billed.
    pub const DISK: Self = Self { memory: false, vcpu: false, disk: true };
    /// Nothing is billed.
    pub const NONE: Self = Self { memory: false, vcpu: false, disk: false };
}

/// The table of what is billed in which state. A fault is billed as `faulted`, whichever it is.
///
/// By default everything while `running`, nothing while `lost`, and disk alone in every other state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    running: Dimensions,
    paused: Dimensions,
    hibernating: Dimensions,
    hibernated: Dimensions,
    waking: Dimensions,
    faulted: Dimensions,
    lost: Dimensions,
    suppressed: Dimensions,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            running: Dimensions::ALL,
            paused: Dimensions::DISK,
            hibernating: Dimensions::DISK,
            hibernated: Dimensions::DISK,
            waking: Dimensions::DISK,
            faulted: Dimensions::DISK,
            lost: Dimensions::NONE,
            suppressed: Dimensions::DISK,
        }
    }
}

impl Policy {
    /// Sets what is billed in the state of this name ([`BillingState::name`]).
    pub fn set(&mut self, state_name: &str, billed: Dimensions) -> Result<(), UnknownState> {
        let row = match state_name {
            "running" => &mut self.running,
            "paused" => &mut self.paused,
            "hibernating" => &mut self.hibernating,
            "hibernated" => &mut self.hibernated,
            "waking" => &mut self.waking,
            "faulted" => &mut self.faulted,
            "lost" => &mut self.lost,
            "suppressed" => &mut self.suppressed,
            _ => return Err(UnknownState),
        };
        *row = billed;
        Ok(())
    }

    /// What is billed in a state.
    pub const fn billed(&self, state: BillingState) -> Dimensions {
        match state {
            BillingState::Running => self.running,
            BillingState::Paused => self.paused,
            BillingState::Hibernating => self.hibernating,
            BillingState::Hibernated => self.hibernated,
            BillingState::Waking => self.waking,
            BillingState::Faulted(_) => self.faulted,
            BillingState::Lost => self.lost,
            BillingState::Suppressed => self.suppressed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_table_is_the_one_of_the_design() {
        let policy = Policy::default();
        for state in BillingState::ALL {
            let billed = match state.name() {
                "running" => Dimensions::ALL,
                "lost" => Dimensions::NONE,
                _ => Dimensions::DISK,
            };
            assert_eq!(policy.billed(state), billed, "{state}");
        }
    }

    #[test]
    fn every_state_can_be_set_by_its_name_and_changes_no_other() {
        for state in BillingState::ALL {
            let mut policy = Policy::default();
            let odd = Dimensions { memory: false, vcpu: true, disk: false };
            policy.set(state.name(), odd).unwrap();
            for other in BillingState::ALL {
                let same = other.name() == state.name();
                assert_eq!(policy.billed(other) == odd, same, "{state} {other}");
            }
        }
    }

    #[test]
    fn an_unknown_name_is_refused_and_changes_nothing() {
        let mut policy = Policy::default();
        assert_eq!(policy.set("asleep", Dimensions::ALL), Err(UnknownState));
        assert_eq!(policy.set("faulted:io-error", Dimensions::ALL), Err(UnknownState));
        assert_eq!(policy, Policy::default());
    }
}
