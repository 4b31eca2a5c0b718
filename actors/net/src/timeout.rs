//! The `grpc-timeout` header: up to eight digits and a unit.

use std::time::Duration;

/// The most eight digits can say.
const MOST: u128 = 99_999_999;

/// What a caller grants, or `None` of what is no timeout: a broken header is read as none, as gRPC servers do.
pub(crate) fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The header's value: the finest unit whose eight digits hold the whole of `timeout`, rounded down so that the
/// server gives up no later than the caller.
pub(crate) fn format(timeout: Duration) -> String {
    let units =
        [("u", timeout.as_micros()), ("m", timeout.as_millis()), ("S", u128::from(timeout.as_secs()))];
    match units.into_iter().find(|(_, number)| *number <= MOST) {
        Some((unit, number)) => format!("{number}{unit}"),
        None => format!("{}H", u128::from(timeout.as_secs() / 3600).min(MOST)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_every_unit() {
        let cases = [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("250m", 250_000_000),
            ("7u", 7_000),
            ("9n", 9),
            ("99999999n", 99_999_999),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse(text.as_bytes()), Some(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_timeout() {
        for text in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "1 S"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_no_longer(nanos in 0u64..) {
            let timeout = Duration::from_nanos(nanos);
            let read = parse(format(timeout).as_bytes()).unwrap();
            prop_assert!(read <= timeout);
            prop_assert!(timeout - read <= timeout / 1000 + Duration::from_micros(1));
        }
    }
}
