//! Moments as people write them, and as they are shown.

use super::duration;
use crate::calendar;

const NS_PER_MS: i64 = 1_000_000;

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
        None => calendar::parse(text),
    };
    unix_ns.ok_or_else(|| format!("{text:?} is no moment: {ALLOWED}"))
}

fn before(ago: &str, now_unix_ns: i64) -> Option<i64> {
    let ago_ms = i64::try_from(duration::parse_ms(ago).ok()?).ok()?;
    now_unix_ns.checked_sub(ago_ms.checked_mul(NS_PER_MS)?)
}

/// A moment in UTC, to the millisecond: `2026-03-01T12:00:00.123Z`. What is finer is cut off.
pub(crate) fn rfc3339(unix_ns: i64) -> String {
    let exact = dormouse_ledger::rfc3339(unix_ns);
    format!("{}Z", &exact[.."2026-03-01T12:00:00.123".len()])
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
            "2026-W09-7",
            "2026-03-01T12:00:00",
            "2026-03-01T24:00:00Z",
            "2026-03-01T12:60:00Z",
            "2026-06-30T23:59:60Z",
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
