//! Durations as people write them: `500ms`, `30s`, `2m`, `1h`, `7d`.

const UNITS_MS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a duration into milliseconds. The error says what is allowed.
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    let refuse = || format!("{text:?} is no duration: write 500ms, 30s, 2m, 1h or 7d");
    let text = text.trim();
    let number_end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
    let number: u64 = text[..number_end].parse().map_err(|_| refuse())?;
    let unit = text[number_end..].trim_start();
    let (_, unit_ms) = UNITS_MS.into_iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
    number.checked_mul(unit_ms).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("2 m", 120_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "s", "30", "-1s", "1.5h", "1y", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_ms(text).unwrap_err().contains("30s"), "{text}");
        }
    }
}
