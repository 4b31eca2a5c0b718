//! Numbers as JSON writes them, read without losing a digit.

use crate::json::JsonFlaw;

const FRACTION: JsonFlaw = JsonFlaw::Type("a whole number");
const LARGE: JsonFlaw = JsonFlaw::Range("64-bit integers");

/// How many bytes at the start of `text` are a number; at which byte it goes wrong, if it does.
#[inline]
pub(super) fn number_len(text: &[u8]) -> Result<usize, usize> {
    let at = |pos: usize| text.get(pos).copied().unwrap_or_default();
    // The position behind the digits that must be at `pos`.
    let digits = |pos: usize| {
        let rest = text.get(pos..).unwrap_or_default();
        match rest.iter().take_while(|byte| byte.is_ascii_digit()).count() {
            0 => Err(pos),
            count => Ok(pos + count),
        }
    };
    let start = usize::from(at(0) == b'-');
    // A leading zero is a number of its own.
    let mut end = if at(start) == b'0' { start + 1 } else { digits(start)? };
    if at(end) == b'.' {
        end = digits(end + 1)?;
    }
    if matches!(at(end), b'e' | b'E') {
        end = digits(end + 1 + usize::from(matches!(at(end + 1), b'+' | b'-')))?;
    }
    Ok(end)
}

/// The value of the digits at the start of `text`, and what follows them; `None` if there are none, or too many, or
/// zeros in front.
#[inline]
pub(super) fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    let mut rest = text;
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        // 19 digits always fit.
        if text.len() - rest.len() == 19 {
            return None;
        }
        value = value * 10 + u64::from(digit & 0x0F);
        rest = after;
    }
    let good = match text {
        [b'0', ..] => value == 0 && text.len() - rest.len() == 1,
        _ => rest.len() < text.len(),
    };
    good.then_some((value, rest))
}

/// The value of a well-formed number like `-12.75`, if it is short. Then digits and power of ten are both exact as
/// doubles, and so their quotient is rounded once, as it must be.
#[inline]
pub(super) fn short_decimal(number: &[u8]) -> Option<f64> {
    const POWERS: [f64; 16] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (sign, text) = match number {
        [b'-', text @ ..] => (-1.0, text),
        text => (1.0, text),
    };
    if text.len() > 16 {
        return None;
    }
    let (mut digits, mut fraction) = (0u64, None);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => digits = digits * 10 + u64::from(byte & 0x0F),
            b'.' => fraction = Some(text.len() - at - 1),
            _ => return None,
        }
    }
    // Below 2^53.
    let exact = digits < 1 << 53;
    exact.then_some(sign * (digits as f64 / POWERS.get(fraction.unwrap_or_default())?))
}

/// The value of a well-formed number, exactly; its magnitude is less than 2^64.
pub(super) fn integer(number: &[u8]) -> Result<i128, JsonFlaw> {
    match number {
        [b'-', number @ ..] => magnitude(number).map(|magnitude| -i128::from(magnitude)),
        number => magnitude(number).map(i128::from),
    }
}

/// `123.4500e2` is the digits 12345 and two more zeros less two.
fn magnitude(number: &[u8]) -> Result<u64, JsonFlaw> {
    let (mantissa, exponent) = match number.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (number.get(..at).unwrap_or_default(), number.get(at + 1..).unwrap_or_default()),
        None => (number, &[][..]),
    };
    let fraction = mantissa.iter().rev().position(|byte| *byte == b'.').unwrap_or_default();
    let digits = || mantissa.iter().filter(|byte| **byte != b'.').map(|byte| u64::from(byte & 0x0F));
    let trailing_zeros = digits().rev().take_while(|digit| *digit == 0).count();
    let significant = digits().count() - trailing_zeros;
    if significant == 0 {
        return Ok(0);
    }
    // Saturated, it is still too far off for any text to make up for it.
    let exponent_digits = exponent.iter().filter(|byte| byte.is_ascii_digit());
    let exponent_size = exponent_digits
        .fold(0i64, |value, digit| value.saturating_mul(10).saturating_add(i64::from(digit & 0x0F)));
    let exponent = if exponent.first() == Some(&b'-') { -exponent_size } else { exponent_size };
    let zeros = exponent.saturating_sub(fraction as i64).saturating_add(trailing_zeros as i64);
    let zeros = u32::try_from(zeros).map_err(|_| if zeros < 0 { FRACTION } else { LARGE })?;
    let value =
        digits().take(significant).try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(digit));
    value.and_then(|value| value.checked_mul(10u64.checked_pow(zeros)?)).ok_or(LARGE)
}
