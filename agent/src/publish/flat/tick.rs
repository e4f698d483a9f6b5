//! A `usage_tick`: what one slice adds to what its life amounts to, in whole seconds and whole cents. Pure.
//!
//! Each is the difference of two floored running totals, so that a life's ticks add up to its totals, floored once, and
//! no fraction is lost or told twice. Seconds are counted apart by what is billed in them: a second of which half was
//! hibernated is told in a running tick once the other half has run.

use dormouse_ledger::SliceRow;
use dormouse_ledger::usage::LifeTotals;
use dormouse_metering::{BillingState, Dimensions};
use serde::Serialize;

use super::terms::Terms;
use crate::publish::sink::SinkError;

const SECOND_NS: u128 = 1_000_000_000;
const MIB: u128 = 1 << 20;

/// The payload of a `usage_tick`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Tick {
    pub(super) cost_cents: u64,
    pub(super) interval_s: u64,
    /// Memory that is billed, in MiB, rounded down; 0 where none is.
    pub(super) memory_mb: u64,
    /// vCPUs that are billed, a part of one counted as one; 0 where none are.
    pub(super) cpu_count: u32,
}

/// The tick of a slice, by what its life amounts to before and behind it. `None` where nothing of it is billed.
pub(super) fn of(
    slice: &SliceRow,
    before: &LifeTotals,
    behind: &LifeTotals,
    terms: &Terms,
) -> Result<Option<Tick>, SinkError> {
    let state = BillingState::ALL.into_iter().find(|state| state.name() == slice.state);
    let billed = state.map_or(Dimensions::NONE, |state| terms.rules.policy.billed(state));
    if billed == Dimensions::NONE {
        return Ok(None);
    }
    let seconds = |totals: &LifeTotals| -> Result<u128, SinkError> {
        Ok(totals.billed_as_ns(&terms.rules, billed)? / SECOND_NS)
    };
    let cents = |totals: &LifeTotals| terms.prices.cents(&totals.amount(&terms.rules)?.quantities);
    let memory_bytes = terms.rules.basis.memory_bytes(&slice.shape());
    Ok(Some(Tick {
        cost_cents: difference(cents(behind)?, cents(before)?)?,
        interval_s: difference(seconds(behind)?, seconds(before)?)?,
        memory_mb: if billed.memory { difference(memory_bytes / MIB, 0)? } else { 0 },
        cpu_count: if billed.vcpu { slice.vcpus_milli.div_ceil(1000) } else { 0 },
    }))
}

fn difference(behind: u128, before: u128) -> Result<u64, SinkError> {
    let more = behind.checked_sub(before).and_then(|more| u64::try_from(more).ok());
    more.ok_or_else(|| SinkError::NoEvents("a tick is too large to be told".to_owned()))
}
