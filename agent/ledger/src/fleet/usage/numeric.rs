//! PostgreSQL's NUMERIC as an integer of 128 bits, digit by digit.

use std::error::Error;

use tokio_postgres::types::{FromSql, Type, accepts};

/// PostgreSQL keeps digits to the base of 10,000.
const BASE: i128 = 10_000;
const POSITIVE: u16 = 0;
const NEGATIVE: u16 = 0x4000;

/// An integer that was NUMERIC. One with a fraction, one that is too large and one that is no number are errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Integer(pub(super) i128);

impl<'a> FromSql<'a> for Integer {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        read(raw).map(Self).ok_or_else(|| "no integer of 128 bits".into())
    }

    accepts!(NUMERIC);
}

/// The number of digits, the power of the first, the sign and the scale, of 16 bits each; then the digits.
fn read(raw: &[u8]) -> Option<i128> {
    let mut words = raw.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (count, weight, sign, _scale) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let mut power = i32::from(weight.cast_signed());
    let mut number = 0_i128;
    for _ in 0..count {
        let digit = words.next()?;
        if power < 0 && digit != 0 {
            return None;
        }
        if power >= 0 {
            number = number.checked_mul(BASE)?.checked_sub(digit.into())?;
            power -= 1;
        }
    }
    // Zeros at the end are not written.
    for _ in 0..=power {
        if number == 0 {
            break;
        }
        number = number.checked_mul(BASE)?;
    }
    match sign {
        // Counted below zero, where there is room for one more.
        NEGATIVE => Some(number),
        POSITIVE => number.checked_neg(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL writes it.
    fn written(number: i128) -> Vec<u8> {
        let (mut digits, mut left) = (Vec::new(), number.unsigned_abs());
        while left > 0 {
            digits.push(u16::try_from(left % 10_000).unwrap());
            left /= 10_000;
        }
        let weight = u16::try_from(digits.len()).unwrap().wrapping_sub(1);
        while digits.first() == Some(&0) {
            digits.remove(0);
        }
        let sign = if number < 0 { NEGATIVE } else { POSITIVE };
        let head = [u16::try_from(digits.len()).unwrap(), if number == 0 { 0 } else { weight }, sign, 0];
        head.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect()
    }

    #[test]
    fn every_integer_of_128_bits_is_read_as_it_was_written() {
        let powers = (0..127).map(|shift| 1_i128 << shift).chain((0..38).map(|power| 10_i128.pow(power)));
        let near = powers.flat_map(|power| [power - 1, power, power + 1, -power]);
        for number in near.chain([0, i128::MAX, i128::MIN]) {
            assert_eq!(read(&written(number)), Some(number), "{number}");
        }
    }

    #[test]
    fn what_is_no_integer_of_128_bits_is_refused() {
        let words = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
        assert_eq!(read(&words(&[1, 0xffff, 0, 4, 1])), None, "a fraction");
        assert_eq!(read(&words(&[2, 0, 0, 4, 1, 5])), None, "a number with a fraction");
        assert_eq!(read(&words(&[0, 0, 0xc000, 0])), None, "NaN");
        assert_eq!(read(&words(&[1, 10, 0, 0, 1])), None, "too large");
        assert_eq!(read(&words(&[2, 1, 0, 0, 1])), None, "cut off");
    }
}
