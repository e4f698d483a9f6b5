//! Wall time as events write it.

use ::time::UtcDateTime;

const SECOND_NS: i64 = 1_000_000_000;

/// RFC 3339 in UTC with nine decimals: `2026-03-01T12:00:00.000000000Z`.
pub fn rfc3339(unix_ns: i64) -> String {
    // Every such number lies between the years 1677 and 2262.
    let at =
        UtcDateTime::from_unix_timestamp(unix_ns.div_euclid(SECOND_NS)).unwrap_or(UtcDateTime::UNIX_EPOCH);
    let ns = u32::try_from(unix_ns.rem_euclid(SECOND_NS)).unwrap_or_default();
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.as_hms();
    let [month, day, hour, minute, second] = [month.into(), day, hour, minute, second].map(u32::from);
    // By hand: the audit writes one for each event, and `format!` takes several times as long.
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    for (mut number, behind) in
        [(year.unsigned_abs(), 4), (month, 7), (day, 10), (hour, 13), (minute, 16), (second, 19), (ns, 29)]
    {
        for digit in text[..behind].iter_mut().rev() {
            if number == 0 {
                break;
            }
            *digit += (number % 10).to_le_bytes()[0];
            number /= 10;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
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
