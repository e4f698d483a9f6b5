//! Moments as RFC 3339 writes them. Integer arithmetic, UTC.

const NS_PER_SECOND: i128 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Reads RFC 3339, or a date alone for its beginning in UTC, into nanoseconds since the Unix epoch.
pub(crate) fn parse(text: &str) -> Option<i64> {
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
    i64::try_from(i128::from(days * SECONDS_PER_DAY) * NS_PER_SECOND + of_day_ns).ok()
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

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Years begin in March
/// here, so that the leap day is the last of its year, and 400 of them make an era of 146,097 days.
pub(crate) fn civil_date(days_since_epoch: i64) -> (i64, i64, i64) {
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
