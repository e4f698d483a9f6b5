//! Sizes, and numbers of vCPUs, as people write them. Always binary units, always exact.

use std::fmt;

/// The units, largest first.
const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// Decimals that a written size has at the most.
const DECIMALS_MAX: usize = 9;

/// Decimals of a number of vCPUs: they are counted in thousandths.
const VCPU_DECIMALS_MAX: usize = 3;

const ALLOWED: &str = "write a number and a unit, such as 512MiB, 2GiB or 1.5GiB; K, M, G and T mean KiB, MiB, GiB \
                       and TiB; a number alone is bytes";

/// Reads a size into bytes: `512MiB`, `2G`, `1.5GiB`, `1048576`. The error says what is allowed.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let refuse = |why: &str| Err(format!("{text:?} {why}: {ALLOWED}"));
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..number_end], text[number_end..].trim_start());
    let Some(shift) = unit_shift(unit) else {
        return match unit.to_ascii_lowercase().as_str() {
            "kb" | "mb" | "gb" | "tb" => refuse("has a decimal unit, but memory comes in binary ones"),
            _ => refuse("is no size"),
        };
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (fraction.is_empty() && number.contains('.')) {
        return refuse("is no size");
    }
    if fraction.len() > DECIMALS_MAX {
        return refuse("has too many decimals");
    }
    let Ok(whole) = whole.parse::<u64>() else { return refuse("is too large") };
    let tenths = u128::pow(10, u32::try_from(fraction.len()).unwrap_or(u32::MAX));
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().unwrap_or(0) };
    let scaled = (u128::from(whole) * tenths + fraction) << shift;
    if scaled % tenths != 0 {
        return refuse("is not a whole number of bytes");
    }
    u64::try_from(scaled / tenths).or_else(|_| refuse("is too large"))
}

fn unit_shift(unit: &str) -> Option<u32> {
    let unit = unit.to_ascii_lowercase();
    if unit.is_empty() {
        return Some(0);
    }
    UNITS.into_iter().find_map(|(name, shift)| {
        let name = name.to_ascii_lowercase();
        (unit == name || (shift > 0 && unit == name[..1])).then_some(shift)
    })
}

/// Reads vCPUs into thousandths: `2`, `1.5`. The error says what is allowed.
pub fn parse_vcpus_milli(text: &str) -> Result<u32, String> {
    let refuse =
        || format!("{text:?} is no number of vCPUs: write 2, 1.5 or 0.25, with at most three decimals");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > VCPU_DECIMALS_MAX {
        return Err(refuse());
    }
    let fraction = format!("{fraction:0<VCPU_DECIMALS_MAX$}");
    format!("{whole}{fraction}").parse().map_err(|_| refuse())
}

/// A size in bytes, written exactly, in the largest unit that needs no more than two decimals: `1.25GiB`,
/// `1026MiB`, `0B`.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, shift) in UNITS {
            let unit = 1_u64 << shift;
            let hundredths = u128::from(self.0 % unit) * 100;
            if self.0 >= unit && hundredths % u128::from(unit) == 0 {
                let whole = self.0 >> shift;
                return match hundredths >> shift {
                    0 => f.pad(&format!("{whole}{name}")),
                    tenths if tenths % 10 == 0 => f.pad(&format!("{whole}.{}{name}", tenths / 10)),
                    hundredths => f.pad(&format!("{whole}.{hundredths:02}{name}")),
                };
            }
        }
        f.pad("0B")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("7B", 7),
            ("512MiB", 512 << 20),
            ("512M", 512 << 20),
            ("512 mib", 512 << 20),
            ("2G", 2 << 30),
            ("1.5GiB", 3 << 29),
            ("0.25k", 256),
            (" 1T ", 1 << 40),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_what_is_allowed() {
        for text in [
            "",
            "G",
            ".",
            ".5G",
            "5.G",
            "1.2.3G",
            "-1G",
            "+1G",
            "1e3",
            "512MB",
            "2GB",
            "0x10",
            "1.1B",
            "1,5G",
            "0.0001K",
            "18446744073709551616",
            "16777216T",
            "1.0000000001G",
            "two GiB",
            "1GiBs",
            "99999999999999999999999G",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains("512MiB"), "{error}");
        }
        assert!(parse("512MB").unwrap_err().contains("binary"));
    }

    #[test]
    fn sizes_are_written_in_the_largest_unit_that_is_exact() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            (1280 << 20, "1.25GiB"),
            (1026 << 20, "1026MiB"),
            ((1 << 30) + 1, "1073741825B"),
            (20 << 30, "20GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn vcpus_are_read_into_whole_thousandths() {
        for (text, milli) in
            [("2", 2000), ("1.5", 1500), ("0.25", 250), ("0.010", 10), ("0", 0), ("1.005", 1005)]
        {
            assert_eq!(parse_vcpus_milli(text), Ok(milli), "{text}");
        }
        for nonsense in ["", ".", "1.", ".5", "-1", "+1", "1.0005", "1e3", "1,5", "two", "99999999", "1.5.0"]
        {
            assert!(parse_vcpus_milli(nonsense).unwrap_err().contains("1.5"), "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_in_thousandths_is_read_as_them(milli in 0..4_000_000_u32) {
            prop_assert_eq!(parse_vcpus_milli(&format!("{}.{:03}", milli / 1000, milli % 1000)), Ok(milli));
        }

        #[test]
        fn a_written_size_reads_as_itself(bytes: u64) {
            prop_assert_eq!(parse(&Size(bytes).to_string()), Ok(bytes));
            let megabytes = bytes >> 24 << 20;
            prop_assert_eq!(parse(&Size(megabytes).to_string()), Ok(megabytes));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9.]{0,25}[ a-zA-Zü]{0,5}") {
            let _ = parse(&text);
        }
    }
}
