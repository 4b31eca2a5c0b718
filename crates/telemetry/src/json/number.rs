//! Numbers as JSON writes them, read without losing a digit.

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

/// Why a number is not an integer to work with.
pub(super) enum Inexact {
    /// It has a fraction.
    Fraction,
    /// It is beyond 64 bits.
    Large,
}

/// The value of a well-formed number, exactly; its magnitude is less than 2^64.
#[inline]
pub(super) fn integer(number: &[u8]) -> Result<i128, Inexact> {
    let (negative, digits) = match number {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    // 19 digits always fit.
    let magnitude = if digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit) {
        digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit & 0x0F))
    } else {
        magnitude(digits)?
    };
    Ok(if negative { -i128::from(magnitude) } else { i128::from(magnitude) })
}

/// `123.4500e2` is the digits 12345 and two more zeros less two.
#[cold]
fn magnitude(number: &[u8]) -> Result<u64, Inexact> {
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
    let zeros =
        u32::try_from(zeros).map_err(|_| if zeros < 0 { Inexact::Fraction } else { Inexact::Large })?;
    let value =
        digits().take(significant).try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(digit));
    value.and_then(|value| value.checked_mul(10u64.checked_pow(zeros)?)).ok_or(Inexact::Large)
}
