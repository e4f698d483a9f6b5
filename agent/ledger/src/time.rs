//! Wall time as events write it.

use ::time::UtcDateTime;

/// RFC 3339 in UTC with nine decimals: `2026-03-01T12:00:00.000000000Z`.
pub fn rfc3339(unix_ns: i64) -> String {
    // Every such number lies between the years 1677 and 2262.
    let at = UtcDateTime::from_unix_timestamp_nanos(unix_ns.into()).unwrap_or(UtcDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, ns) = at.as_hms_nano();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn wall_time_is_written_as_rfc_3339_with_nanoseconds() {
        for (unix_ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_709_251_199_000_000_000, "2024-02-29T23:59:59.000000000Z"),
            (1_735_689_600_500_000_000, "2025-01-01T00:00:00.500000000Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
        ] {
            assert_eq!(rfc3339(unix_ns), text);
        }
    }
}
