//! Amounts, times and reasons as people read them. Nothing is computed in floating point.

use dormouse_ledger::usage::Rules;
use dormouse_metering::{BillingState, Dimensions, GbSeconds, VcpuSeconds};

use super::super::answers::Amounts;
use crate::calendar;

const DECIMALS: usize = 3;

/// An exact integer as an answer tells it. Answers hold nothing else.
pub(super) fn integer(text: &str) -> i128 {
    text.parse().unwrap_or_default()
}

/// A moment as an answer tells it, in nanoseconds since the Unix epoch.
pub(super) fn unix_ns(rfc3339: &str) -> i64 {
    calendar::parse(rfc3339).unwrap_or_default()
}

/// Memory, disk overage and vCPUs of an answer, with three decimals.
pub(super) fn amounts(amounts: &Amounts) -> [String; 3] {
    [
        gb_seconds(integer(&amounts.memory_byte_nanoseconds)),
        gb_seconds(integer(&amounts.disk_overage_byte_nanoseconds)),
        grouped(&format!("{:.DECIMALS$}", VcpuSeconds(integer(&amounts.vcpu_milli_nanoseconds)))),
    ]
}

/// Memory or disk in GB-seconds, with three decimals.
pub(super) fn gb_seconds(byte_ns: i128) -> String {
    grouped(&format!("{:.DECIMALS$}", GbSeconds(byte_ns)))
}

/// Memory in GB-seconds, for a label in a picture: with no more decimals than it takes.
pub(super) fn gb_seconds_label(byte_ns: i128) -> String {
    let exact = GbSeconds(byte_ns);
    let is_round = byte_ns == 0 || byte_ns >= 100 * (1 << 30) * 1_000_000_000;
    let decimals = if is_round { 0 } else { 2 };
    grouped(&format!("{exact:.decimals$}"))
}

/// A decimal with thin spaces between thousands.
pub(super) fn grouped(decimal: &str) -> String {
    let (whole, fraction) = decimal.split_once('.').map_or((decimal, None), |(w, f)| (w, Some(f)));
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    fraction.map_or(text.clone(), |fraction| format!("{text}.{fraction}"))
}

/// `2026-03-01T12:00:00.123456789Z` as `2026-03-01 12:00:00.123`.
pub(super) fn moment(rfc3339: &str) -> String {
    rfc3339.get(..23).unwrap_or(rfc3339).replace('T', " ")
}

/// The same to the minute.
pub(super) fn minute(rfc3339: &str) -> String {
    rfc3339.get(..16).unwrap_or(rfc3339).replace('T', " ")
}

/// vCPUs from thousandths.
pub(super) fn vcpus(milli: u32) -> String {
    match milli % 1_000 {
        0 => (milli / 1_000).to_string(),
        rest => format!("{}.{}", milli / 1_000, format!("{rest:03}").trim_end_matches('0')),
    }
}

/// The billing state that an answer names.
pub(super) fn state(name: &str, reason: Option<&str>) -> Option<BillingState> {
    reason.map_or_else(|| name.to_owned(), |reason| format!("{name}:{reason}")).parse().ok()
}

/// What is billed in a state; of one that is not known, nothing is said to be.
pub(super) fn billed(rules: &Rules, state: Option<BillingState>) -> Dimensions {
    state.map_or(Dimensions::NONE, |state| rules.policy.billed(state))
}

/// What is billed, in words.
pub(super) fn billed_in_words(billed: Dimensions) -> String {
    let parts = [(billed.memory, "memory"), (billed.vcpu, "vCPU"), (billed.disk, "disk")];
    let parts: Vec<_> = parts.into_iter().filter(|(is_billed, _)| *is_billed).map(|(_, name)| name).collect();
    match parts.as_slice() {
        [] => "nothing".to_owned(),
        [only] => format!("{only} only"),
        [first, second] => format!("{first} and {second}"),
        _ => "everything".to_owned(),
    }
}

/// Why time in a state is what it is for the bill.
pub(super) fn why_of_state(state: BillingState) -> &'static str {
    match state {
        BillingState::Running => "the guest runs",
        BillingState::Paused => "the guest was stopped by command",
        BillingState::Hibernating => "the guest's state is being written to disk",
        BillingState::Hibernated => "the guest's state is on disk, and there is no QEMU",
        BillingState::Waking => "the guest's state is being loaded",
        BillingState::Faulted(_) => "QEMU stopped the guest because of a fault",
        BillingState::Lost => "there is no proof that the guest existed",
        BillingState::Suppressed => "the platform asked for this time not to be billed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_in_groups_and_exactly() {
        for (plain, text) in [
            ("0", "0"),
            ("999.250", "999.250"),
            ("1000", "1\u{202f}000"),
            ("2592000.000", "2\u{202f}592\u{202f}000.000"),
        ] {
            assert_eq!(grouped(plain), text);
        }
        assert_eq!((vcpus(2_000), vcpus(1_500), vcpus(250)), ("2".into(), "1.5".into(), "0.25".into()));
    }

    #[test]
    fn every_state_and_what_is_billed_in_it_is_told_in_words() {
        for state in BillingState::ALL {
            let fault = state.fault().map(dormouse_metering::Fault::as_str);
            assert_eq!(super::state(state.name(), fault), Some(state));
        }
        assert_eq!(billed_in_words(Dimensions::ALL), "everything");
        assert_eq!(billed_in_words(Dimensions::DISK), "disk only");
        assert_eq!(billed_in_words(Dimensions::NONE), "nothing");
        assert_eq!(billed_in_words(Dimensions { memory: true, vcpu: false, disk: true }), "memory and disk");
    }
}
