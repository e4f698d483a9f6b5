//! Quantities as people read them: exact decimals, made by long division.

use std::fmt;

/// Byte-nanoseconds, written in GB-seconds: 2^30 bytes for one second.
///
/// `{}` writes the exact decimal, which ends after at most 39 places; `{:.2}` rounds to 2 places, halves to
/// the even neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GbSeconds(pub i128);

/// Milli-vCPU-nanoseconds, written in vCPU-seconds, exact or rounded as [`GbSeconds`] are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VcpuSeconds(pub i128);

impl fmt::Display for GbSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quotient(f, self.0, (1 << 30) * 1_000_000_000)
    }
}

impl fmt::Display for VcpuSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quotient(f, self.0, 1_000 * 1_000_000_000)
    }
}

/// Writes `amount / unit`, to the formatter's precision or, without one, to the end: `unit` has no prime
/// factors but 2 and 5.
fn write_quotient(f: &mut fmt::Formatter<'_>, amount: i128, unit: u128) -> fmt::Result {
    let magnitude = amount.unsigned_abs();
    let (mut whole, mut rest) = (magnitude / unit, magnitude % unit);
    let mut places: Vec<u8> = Vec::new();
    while f.precision().map_or(rest > 0, |precision| places.len() < precision) {
        rest *= 10;
        // A digit: rest was less than unit, so the quotient is less than 10.
        places.push(u8::try_from(rest / unit).unwrap_or(9));
        rest %= unit;
    }
    let last_is_odd = places.last().map_or(whole % 2 == 1, |digit| digit % 2 == 1);
    if rest * 2 > unit || (rest * 2 == unit && last_is_odd) {
        whole += u128::from(carry(&mut places));
    }
    let text: String = places.iter().map(|digit| char::from(b'0' + digit)).collect();
    let point = if text.is_empty() { "" } else { "." };
    let is_zero = whole == 0 && places.iter().all(|digit| *digit == 0);
    f.write_str(if amount < 0 && !is_zero { "-" } else { "" })?;
    write!(f, "{whole}{point}{text}")
}

/// Adds one to the last place, and says whether the whole part has to grow.
fn carry(places: &mut [u8]) -> bool {
    for digit in places.iter_mut().rev() {
        if *digit < 9 {
            *digit += 1;
            return false;
        }
        *digit = 0;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB_SECOND: i128 = (1 << 30) * 1_000_000_000;

    #[test]
    fn whole_numbers_have_no_point() {
        assert_eq!(GbSeconds(0).to_string(), "0");
        assert_eq!(GbSeconds(3 * GB_SECOND).to_string(), "3");
        assert_eq!(VcpuSeconds(2_000 * 60_000_000_000).to_string(), "120");
    }

    #[test]
    fn the_exact_decimal_ends_and_has_no_trailing_zero() {
        assert_eq!(GbSeconds(GB_SECOND / 2).to_string(), "0.5");
        assert_eq!(GbSeconds(-GB_SECOND / 4).to_string(), "-0.25");
        assert_eq!(GbSeconds(1).to_string(), "0.000000000000000000931322574615478515625");
        assert_eq!(VcpuSeconds(1).to_string(), "0.000000000001");
        assert_eq!(VcpuSeconds(1_500_000_000_000).to_string(), "1.5");
    }

    #[test]
    fn rounding_is_to_the_even_neighbour() {
        let eighths = |n: i128| format!("{:.2}", GbSeconds(n * GB_SECOND / 8));
        assert_eq!(eighths(1), "0.12");
        assert_eq!(eighths(3), "0.38");
        assert_eq!(eighths(-1), "-0.12");
        assert_eq!(format!("{:.2}", GbSeconds(GB_SECOND / 8 + 1)), "0.13");
        assert_eq!(format!("{:.0}", VcpuSeconds(500_000_000_000)), "0");
        assert_eq!(format!("{:.0}", VcpuSeconds(1_500_000_000_000)), "2");
    }

    #[test]
    fn rounding_carries_through_nines_and_fills_with_zeros() {
        assert_eq!(format!("{:.3}", VcpuSeconds(9_999_900_000_000)), "10.000");
        assert_eq!(format!("{:.3}", VcpuSeconds(1_000_000_000_000)), "1.000");
        assert_eq!(format!("{:.2}", VcpuSeconds(-1)), "0.00");
    }

    #[test]
    fn the_largest_amounts_are_written_in_full() {
        let text = GbSeconds(i128::MAX).to_string();
        assert!(text.starts_with("158456325028528675187.087"), "{text}");
        assert!(GbSeconds(i128::MIN).to_string().starts_with("-158456325028528675187.087"));
    }
}
