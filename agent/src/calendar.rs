//! Moments as RFC 3339 writes them, and durations in words.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const US_NS: u64 = 1_000;
const MS_NS: u64 = 1_000_000;

/// Reads RFC 3339, or a date alone for its beginning in UTC, into nanoseconds since the Unix epoch.
pub(crate) fn parse(text: &str) -> Option<i64> {
    if text.len() == "2026-03-01".len() {
        return parse(&format!("{text}T00:00:00Z"));
    }
    // The library rounds down what is finer than a nanosecond, and a leap second.
    let decimals = text.split_once('.').map_or("", |(_, decimals)| decimals);
    if decimals.bytes().take_while(u8::is_ascii_digit).count() > 9 || text.get(16..19) == Some(":60") {
        return None;
    }
    i64::try_from(OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos()).ok()
}

/// A duration in words: what is finer than what is shown is cut off.
pub fn duration(duration_ns: u64) -> String {
    let (us, ms) = (duration_ns / US_NS, duration_ns / MS_NS);
    let seconds = ms / 1_000;
    match seconds {
        0 if duration_ns < US_NS => format!("{duration_ns}ns"),
        0 if ms == 0 => format!("{us}us"),
        0 => format!("{ms}.{:03}ms", us % 1_000),
        1..60 => format!("{seconds}.{:03}s", ms % 1_000),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// How far a time may be from the truth, from a millisecond on: QEMU's stamps have a microsecond of their own.
pub fn uncertain(uncertainty_ns: u64) -> Option<String> {
    (uncertainty_ns >= MS_NS).then(|| format!("±{}", duration(uncertainty_ns)))
}
