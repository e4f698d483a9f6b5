//! Moments as RFC 3339 writes them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
