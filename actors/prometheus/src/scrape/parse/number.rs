//! Numbers as expositions write them.

/// The bits of the NaN that says that a series has ended (Prometheus, `model/value`). Told apart by its bits: every NaN
/// is unequal to every other.
pub(crate) const STALE: u64 = 0x7ff0_0000_0000_0002;

/// Powers of ten that a double holds exactly.
const POWERS: [f64; 16] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// A float as Prometheus takes it: decimal, `NaN`, `Inf` and `Infinity` in any case; neither underscores nor hexadecimal.
pub(crate) fn float(text: &[u8]) -> Option<f64> {
    // Most values are short decimals: below 2^53 digits and power are exact, and so their quotient is rounded once.
    if let 1..=16 = text.len() {
        let (mut whole, mut digits, mut point) = (0u64, 0, None);
        for (at, byte) in text.iter().enumerate() {
            match byte {
                b'0'..=b'9' => {
                    whole = whole * 10 + u64::from(byte - b'0');
                    digits += 1;
                }
                b'.' if point.is_none() => point = Some(at),
                _ => return slow(text),
            }
        }
        if digits == 0 || digits > 15 {
            return slow(text);
        }
        let scale = point.map_or(0, |point| text.len() - 1 - point);
        return Some(whole as f64 / POWERS.get(scale)?);
    }
    slow(text)
}

#[cold]
fn slow(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time in whole milliseconds (text 0.0.4), as nanoseconds.
pub(crate) fn millis(text: &[u8]) -> Option<u64> {
    let millis: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(nanos_of_millis(millis))
}

/// What is before 1970 has no place in OTLP, and is that.
pub(crate) fn nanos_of_millis(millis: i64) -> u64 {
    u64::try_from(millis).unwrap_or(0).saturating_mul(1_000_000)
}

/// A time in seconds (OpenMetrics), as nanoseconds: to the microsecond, which is what a double has of our times.
pub(crate) fn seconds(seconds: f64) -> Option<u64> {
    if !seconds.is_finite() {
        return None;
    }
    let seconds = seconds.max(0.0);
    let (whole, part) = (seconds.trunc(), seconds.fract());
    Some((whole as u64).saturating_mul(1_000_000_000).saturating_add((part * 1e6).round() as u64 * 1000))
}

/// A float as Prometheus writes bounds and quantiles of the protobuf format into labels: Go's `%v`, and never without
/// a point or an exponent.
pub(crate) fn bound(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let text = value.to_string();
        return if text.contains('.') { text } else { text + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn floats_are_read_as_prometheus_reads_them() {
        for (text, value) in [
            ("0", 0.0),
            ("1", 1.0),
            ("00012", 12.0),
            ("1.5", 1.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("0.1", 0.1),
            ("123456789012345", 123_456_789_012_345.0),
            ("9007199254740993", 9_007_199_254_740_993.0),
            ("-1", -1.0),
            ("+1e3", 1000.0),
            ("1.7560473e+07", 17_560_473.0),
            ("+Inf", f64::INFINITY),
            ("-inf", f64::NEG_INFINITY),
            ("Infinity", f64::INFINITY),
        ] {
            assert_eq!(float(text.as_bytes()), Some(value), "{text}");
        }
        assert!(float(b"NaN").unwrap().is_nan() && float(b"nan").unwrap().is_nan());
        for text in ["", ".", "1_000", "0x1p3", "1,5", "1 ", "--1", "1.2.3", "e", "abc", "1e"] {
            assert_eq!(float(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn times_become_nanoseconds() {
        assert_eq!(millis(b"1395066363000"), Some(1_395_066_363_000_000_000));
        assert_eq!(millis(b"-3982045"), Some(0));
        assert_eq!((millis(b"1.5"), millis(b"")), (None, None));
        assert_eq!(seconds(1_520_879_607.789), Some(1_520_879_607_789_000_000));
        assert_eq!((seconds(-1.0), seconds(f64::NAN)), (Some(0), None));
    }

    #[test]
    fn bounds_are_written_as_go_writes_them() {
        for (value, text) in [
            (1.0, "1.0"),
            (0.005, "0.005"),
            (100.0, "100.0"),
            (0.00001, "1e-05"),
            (1.5e30, "1.5e+30"),
            (123_456.0, "123456.0"),
            (1_000_000.0, "1e+06"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(bound(value), text);
        }
    }

    proptest! {
        #[test]
        fn every_float_comes_back(value in any::<f64>().prop_filter("NaN", |value| !value.is_nan())) {
            prop_assert_eq!(float(value.to_string().as_bytes()), Some(value));
            prop_assert_eq!(float(format!("{value:e}").as_bytes()), Some(value));
        }

        #[test]
        fn short_decimals_are_as_exact_as_long_ones(whole in 0u64..1_000_000_000, part in 0u64..1_000_000) {
            let text = format!("{whole}.{part}");
            prop_assert_eq!(float(text.as_bytes()), text.parse().ok());
        }
    }
}
