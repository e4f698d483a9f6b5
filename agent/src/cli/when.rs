//! Moments as people write them, and as they are shown. Integer arithmetic, UTC.

use super::duration;

const NS_PER_MS: i64 = 1_000_000;
const NS_PER_SECOND: i128 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

const ALLOWED: &str = "write 2026-03-01T12:00:00Z, 2026-03-01, now, \"2h ago\" or -2h";

/// Reads a moment into nanoseconds since the Unix epoch. The error says what is allowed.
pub(super) fn parse(text: &str, now_unix_ns: i64) -> Result<i64, String> {
    let text = text.trim();
    if text == "now" {
        return Ok(now_unix_ns);
    }
    let ago = text.strip_suffix("ago").or_else(|| text.strip_prefix('-'));
    let unix_ns = match ago {
        Some(ago) => before(ago, now_unix_ns),
        None => absolute(text).and_then(|unix_ns| i64::try_from(unix_ns).ok()),
    };
    unix_ns.ok_or_else(|| format!("{text:?} is no moment: {ALLOWED}"))
}

fn before(ago: &str, now_unix_ns: i64) -> Option<i64> {
    let ago_ms = i64::try_from(duration::parse_ms(ago).ok()?).ok()?;
    now_unix_ns.checked_sub(ago_ms.checked_mul(NS_PER_MS)?)
}

/// Reads RFC 3339, or a date alone for its beginning in UTC.
fn absolute(text: &str) -> Option<i128> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let days = days_since_epoch(year, month, day);
    if parts.next().is_some() || civil_date(days) != (year, month, day) {
        return None;
    }
    let of_day_ns = time.map_or(Some(0), time_of_day_ns)?;
    Some(i128::from(days * SECONDS_PER_DAY) * NS_PER_SECOND + of_day_ns)
}

/// Reads `12:00:00.5+01:00`, less its offset.
fn time_of_day_ns(text: &str) -> Option<i128> {
    let (time, offset_seconds) = if let Some(time) = text.strip_suffix(['Z', 'z']) {
        (time, 0)
    } else {
        let (time, offset) = text.split_at(text.rfind(['+', '-'])?);
        let (hours, minutes) = offset[1..].split_once(':')?;
        let seconds = bounded(hours, 23)? * 3_600 + bounded(minutes, 59)? * 60;
        (time, if offset.starts_with('-') { -seconds } else { seconds })
    };
    let (time, fraction) = time.split_once('.').map_or((time, None), |(time, rest)| (time, Some(rest)));
    let mut parts = time.split(':');
    let (hour, minute, second) =
        (bounded(parts.next()?, 23)?, bounded(parts.next()?, 59)?, bounded(parts.next()?, 59)?);
    if parts.next().is_some() {
        return None;
    }
    let fraction_ns = match fraction {
        None => 0,
        Some(places) if places.len() <= 9 => digits(&format!("{places:0<9}"), 9)?,
        Some(_) => return None,
    };
    let seconds = hour * 3_600 + minute * 60 + second - offset_seconds;
    Some(i128::from(seconds) * NS_PER_SECOND + i128::from(fraction_ns))
}

fn bounded(text: &str, max: i64) -> Option<i64> {
    digits(text, 2).filter(|number| *number <= max)
}

fn digits(text: &str, length: usize) -> Option<i64> {
    (text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A moment in UTC, to the millisecond: `2026-03-01T12:00:00.123Z`. What is finer is cut off.
pub(crate) fn rfc3339(unix_ns: i64) -> String {
    let (ms, seconds) =
        ((unix_ns.div_euclid(NS_PER_MS)).rem_euclid(1_000), unix_ns.div_euclid(1_000 * NS_PER_MS));
    let (days, of_day) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Years begin in March
/// here, so that the leap day is the last of its year, and 400 of them make an era of 146,097 days.
fn civil_date(days_since_epoch: i64) -> (i64, i64, i64) {
    let days = days_since_epoch + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_date`]. A date that does not exist gives the day of another one.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_772_366_400_000_000_000; // 2026-03-01T12:00:00Z

    #[test]
    fn moments_are_read_as_people_write_them() {
        for (text, unix_ns) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-03-01T12:00:00Z", NOW),
            ("2026-03-01t13:00:00+01:00", NOW),
            ("2026-03-01 06:30:00-05:30", NOW),
            ("2026-03-01T12:00:00.000000001Z", NOW + 1),
            ("2026-03-01T12:00:00.5Z", NOW + 500_000_000),
            ("2026-03-01", NOW - 12 * 3_600_000_000_000),
            ("2024-02-29", 1_709_164_800_000_000_000),
            ("now", NOW),
            ("2h ago", NOW - 7_200_000_000_000),
            ("-90m", NOW - 5_400_000_000_000),
            ("- 2s", NOW - 2_000_000_000),
        ] {
            assert_eq!(parse(text, NOW), Ok(unix_ns), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused_with_what_is_allowed() {
        for text in [
            "",
            "yesterday",
            "2h",
            "ago",
            "-",
            "-2y",
            "2026-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-3-1",
            "26-03-01",
            "2026-03-01T12:00:00",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:60:00Z",
            "2026-03-01T12:00Z",
            "2026-03-01T12:00:00.Zx",
            "2026-03-01T12:00:00.1234567890Z",
            "9999-01-01",
            "1772366400",
            "-99999999999999d",
            "2026-03-01T12:00:00+1:00",
            "ü026-03-01",
        ] {
            assert!(parse(text, NOW).unwrap_err().contains("2h ago"), "{text}");
        }
    }

    #[test]
    fn moments_are_shown_in_utc_to_the_millisecond() {
        assert_eq!(rfc3339(NOW + 123_999_999), "2026-03-01T12:00:00.123Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(i64::MAX), "2262-04-11T23:47:16.854Z");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_as_the_same_millisecond(ms in 0..i64::MAX / NS_PER_MS) {
            prop_assert_eq!(parse(&rfc3339(ms * NS_PER_MS), NOW), Ok(ms * NS_PER_MS));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[-0-9TZ:.+agou ]{0,30}") {
            let _ = parse(&text, NOW);
        }
    }
}
