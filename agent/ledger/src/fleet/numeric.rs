//! PostgreSQL's NUMERIC as an integer of 128 bits, digit by digit.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

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

impl ToSql for Integer {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        write(self.0, out);
        Ok(IsNull::No)
    }

    accepts!(NUMERIC);
    to_sql_checked!();
}

/// As [`read`] reads it.
pub(super) fn write(number: i128, out: &mut BytesMut) {
    // The last digits first; no number of 128 bits has more than ten to this base.
    let (mut digits, mut left) = ([0_u16; 10], number.unsigned_abs());
    let (mut written, mut length, mut power) = (0_u16, 0, 0_u16);
    while left > 0 {
        let digit = u16::try_from(left % BASE.unsigned_abs()).unwrap_or_default();
        // Zeros at the end are not written.
        if digit > 0 || length > 0 {
            digits[length] = digit;
            length += 1;
            written += 1;
        }
        left /= BASE.unsigned_abs();
        power += u16::from(left > 0);
    }
    let sign = if number < 0 { NEGATIVE } else { POSITIVE };
    let digits = digits[..length].iter().rev().copied();
    [written, power, sign, 0].into_iter().chain(digits).for_each(|word| out.put_u16(word));
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

    fn written(number: i128) -> BytesMut {
        let mut out = BytesMut::new();
        write(number, &mut out);
        out
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
