//! Values as text, and text as values.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::view::{AnyValueView, Value};

/// What a value is as text: numbers in decimal, bytes in base64, arrays and maps as JSON, no value as nothing.
pub fn text(value: AnyValueView<'_>) -> Cow<'_, str> {
    match value.value() {
        Value::Empty => "".into(),
        Value::Str(text) => text.into(),
        Value::Bool(value) => if value { "true" } else { "false" }.into(),
        Value::Int(value) => value.to_string().into(),
        Value::Double(value) => double(value).into(),
        Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
        Value::Array(_) | Value::KvList(_) => {
            let mut out = String::new();
            put_json(&mut out, value);
            out.into()
        }
    }
}

/// The integer that a decimal text is, or the whole part of a double.
pub(super) fn to_int(value: Value<'_>) -> Option<i64> {
    /// The first that is too large; its negative is the smallest there is.
    const BOUND: f64 = 9_223_372_036_854_775_808.0;
    match value {
        Value::Str(text) => text.parse().ok(),
        Value::Bool(value) => Some(value.into()),
        Value::Int(value) => Some(value),
        Value::Double(value) => (-BOUND..BOUND).contains(&value).then_some(value as i64),
        Value::Empty | Value::Array(_) | Value::KvList(_) | Value::Bytes(_) => None,
    }
}

/// The double that a text or another number is.
pub(super) fn to_double(value: Value<'_>) -> Option<f64> {
    match value {
        Value::Str(text) => {
            let number: f64 = text.parse().ok()?;
            // What is too large is not infinite: it can not be converted.
            let is_too_large = number.is_infinite() && text.bytes().any(|byte| byte.is_ascii_digit());
            (!is_too_large).then_some(number)
        }
        Value::Bool(value) => Some(f64::from(u8::from(value))),
        Value::Int(value) => Some(value as f64),
        Value::Double(value) => Some(value),
        Value::Empty | Value::Array(_) | Value::KvList(_) | Value::Bytes(_) => None,
    }
}

/// With an exponent where the digits would be many, as in ECMAScript.
fn double(value: f64) -> String {
    match value.abs() {
        size if size >= 1e21 && size.is_finite() => format!("{value:e}").replace('e', "e+"),
        size if size > 0.0 && size < 1e-6 => format!("{value:e}"),
        _ => value.to_string(),
    }
}

/// Depth is bounded: validation sees to that.
fn put_json(out: &mut String, value: AnyValueView<'_>) {
    match value.value() {
        Value::Empty => out.push_str("null"),
        Value::Bool(_) | Value::Int(_) => out.push_str(&text(value)),
        Value::Double(number) if number.is_finite() => out.push_str(&double(number)),
        Value::Str(_) | Value::Bytes(_) | Value::Double(_) => put_quoted(out, &text(value)),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                put_json(out, value);
            }
            out.push(']');
        }
        Value::KvList(entries) => {
            out.push('{');
            for (index, entry) in entries.enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                put_quoted(out, entry.key());
                out.push(':');
                put_json(out, entry.value());
            }
            out.push('}');
        }
    }
}

fn put_quoted(out: &mut String, text: &str) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a String can not fail.
            char if char < ' ' => drop(write!(out, "\\u{:04x}", u32::from(char))),
            char => out.push(char),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_in_ecmascript() {
        let cases = [
            (0.0, "0"),
            (-1.5, "-1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.25e300, "-1.25e+300"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ];
        for (value, expected) in cases {
            assert_eq!(double(value), expected);
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        for text in ["", " 1", "1_000", "0x10", "1.0", "9223372036854775808"] {
            assert_eq!(to_int(Value::Str(text)), None, "{text}");
        }
        for text in ["", "1,5", "1e400", "-1e400"] {
            assert_eq!(to_double(Value::Str(text)), None, "{text}");
        }
        for value in [f64::NAN, f64::INFINITY, 9_223_372_036_854_775_808.0] {
            assert_eq!(to_int(Value::Double(value)), None, "{value}");
        }
        assert_eq!(to_int(Value::Str("-9223372036854775808")), Some(i64::MIN));
        assert_eq!(to_int(Value::Double(-2.9)), Some(-2));
        assert_eq!(to_double(Value::Str("-Inf")), Some(f64::NEG_INFINITY));
    }
}
