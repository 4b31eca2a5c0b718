//! Pieces of JSON: numbers, times and attribute values, appended to one buffer.

use hashbrown::HashMap;
use watershed_telemetry::json::{write_hex, write_text};
use watershed_telemetry::view::{AnyValueView, Attributes, Value};

use super::route::is_control;

pub(super) type Out = Vec<u8>;

pub(super) fn raw(out: &mut Out, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn text(out: &mut Out, text: &str) {
    write_text(text.as_bytes(), out);
}

pub(super) fn integer(out: &mut Out, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// The shortest text that reads back as the same number, always with a point or an exponent: a dynamic mapping takes a
/// field whose first value is `1` for a `long`, and would cut later ones. JSON has no word for what is no number.
pub(super) fn double(out: &mut Out, value: f64) {
    if value.is_finite() {
        raw(out, ryu::Buffer::new().format_finite(value));
    } else {
        raw(out, "null");
    }
}

/// `,"key":"value"`, unless it is empty. `key` comes with its comma, quotation marks and colon.
pub(super) fn text_field(out: &mut Out, key: &str, value: &str) {
    if !value.is_empty() {
        raw(out, key);
        text(out, value);
    }
}

pub(super) fn hex_field(out: &mut Out, key: &str, value: &[u8]) {
    if !value.is_empty() {
        raw(out, key);
        hex(out, value);
    }
}

pub(super) fn integer_field<I: itoa::Integer + Default + PartialEq>(out: &mut Out, key: &str, value: I) {
    if value != I::default() {
        raw(out, key);
        integer(out, value);
    }
}

pub(super) fn hex(out: &mut Out, value: &[u8]) {
    out.push(b'"');
    write_hex(value, out);
    out.push(b'"');
}

/// Milliseconds since 1970 with their fraction, quoted: `"1721314113467.654123"`, which `epoch_millis` reads to the
/// nanosecond.
pub(super) fn epoch_millis(out: &mut Out, nanos: u64) {
    out.push(b'"');
    integer(out, nanos / 1_000_000);
    out.push(b'.');
    digits::<6>(out, nanos % 1_000_000);
    out.push(b'"');
}

/// `"2024-07-18T14:48:33.467654123Z"`.
pub(super) fn rfc3339(out: &mut Out, nanos: u64) {
    let seconds = nanos / 1_000_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    out.push(b'"');
    digits::<4>(out, year);
    for (mark, value) in [(b'-', month), (b'-', day), (b'T', seconds / 3600 % 24), (b':', seconds / 60 % 60)]
    {
        out.push(mark);
        digits::<2>(out, value);
    }
    out.push(b':');
    digits::<2>(out, seconds % 60);
    out.push(b'.');
    digits::<9>(out, nanos % 1_000_000_000);
    raw(out, "Z\"");
}

/// The last `N` digits of a number, zeroes in front.
pub(super) fn digits<const N: usize>(out: &mut Out, mut value: u64) {
    let mut text = [b'0'; N];
    for digit in text.iter_mut().rev() {
        *digit += (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&text);
}

/// Year, month and day of a day since 1970, by the cycle of 400 years that begins with a March: leap days come last.
pub(super) fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (year, day) = (era * 400 + year, day - (153 * month + 2) / 5 + 1);
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// A value as JSON has it: bytes in hex, what JSON can not say as `null`.
pub(super) fn value(out: &mut Out, value: Value<'_>) {
    match value {
        Value::Empty => raw(out, "null"),
        Value::Str(value) => text(out, value),
        Value::Bool(value) => raw(out, if value { "true" } else { "false" }),
        Value::Int(value) => integer(out, value),
        Value::Double(value) => double(out, value),
        Value::Bytes(value) => hex(out, value),
        Value::Array(values) => array(out, values),
        Value::KvList(values) => object(out, values),
    }
}

/// A scalar as text, for fields that are text whatever comes.
pub(super) fn as_text(out: &mut Out, of: Value<'_>) {
    let start = out.len();
    value(out, of);
    if !matches!(of, Value::Str(_) | Value::Bytes(_)) {
        quote(out, start);
    }
}

/// Makes a string of the JSON from `start` on.
pub(super) fn quote(out: &mut Out, start: usize) {
    let inner = out.split_off(start);
    write_text(&inner, out);
}

fn array<'a>(out: &mut Out, values: impl Iterator<Item = AnyValueView<'a>>) {
    out.push(b'[');
    for (index, element) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        value(out, element.value());
    }
    out.push(b']');
}

/// A map, with its keys as they are.
pub(super) fn object(out: &mut Out, values: Attributes<'_>) {
    let mut keys = Keys::of(values);
    out.push(b'{');
    for (index, attribute) in values.enumerate() {
        let key = attribute.key();
        if keys.before(index, key) {
            continue;
        }
        if out.last() != Some(&b'{') {
            out.push(b',');
        }
        text(out, key);
        out.push(b':');
        value(out, attribute.value().value());
    }
    out.push(b'}');
}

/// What attributes may ask of their writer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Maps {
    /// Maps are objects.
    Objects,
    /// Maps are text: what is part of a time series' identity can only be a scalar.
    Text,
}

/// `,"attributes":{...}`, with flat keys, without those that are addressed to us; nothing if none is left. Returns
/// whether there was one that is addressed to us.
pub(super) fn attributes(out: &mut Out, attributes: Attributes<'_>, maps: Maps) -> bool {
    const KEY: &str = ",\"attributes\":{";
    let (mut keys, mut controls) = (Keys::of(attributes), false);
    let start = out.len();
    for (index, attribute) in attributes.enumerate() {
        let key = attribute.key();
        if is_control(key) {
            controls = true;
            continue;
        }
        if keys.before(index, key) {
            continue;
        }
        let of = attribute.value().value();
        let (key, point) = match place(&mut keys, key, of) {
            Place::None => (key, None),
            Place::First(key, point) => (key, Some(point)),
            Place::Second => continue,
        };
        if out.len() == start {
            raw(out, KEY);
        } else {
            out.push(b',');
        }
        text(out, key);
        out.push(b':');
        if let Some([longitude, latitude]) = point {
            out.push(b'[');
            double(out, longitude);
            out.push(b',');
            double(out, latitude);
            out.push(b']');
        } else if maps == Maps::Text && matches!(of, Value::KvList(_)) {
            as_text(out, of);
        } else {
            value(out, of);
        }
    }
    if out.len() > start {
        out.push(b'}');
    }
    controls
}

/// One of the two attributes that are one `geo_point`.
enum Place<'a> {
    None,
    /// The latitude, which stands for both: the key of the point, longitude and latitude.
    First(&'a str, [f64; 2]),
    /// The longitude.
    Second,
}

/// `geo.location.lat` and `geo.location.lon`, with whatever before them, are one point if they are both there.
fn place<'a>(keys: &mut Keys<'a>, key: &'a str, value: Value<'a>) -> Place<'a> {
    let (Some(name), is_latitude) = (match key.strip_suffix(".lat") {
        Some(name) => (Some(name), true),
        None => (key.strip_suffix(".lon"), false),
    }) else {
        return Place::None;
    };
    let is_place =
        name.strip_suffix("geo.location").is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if !is_place || keys.find(name).is_some() {
        return Place::None;
    }
    let other = format!("{name}{}", if is_latitude { ".lon" } else { ".lat" });
    let other = keys.find(&other).map(|other| other.value());
    match (value, other) {
        (Value::Double(latitude), Some(Value::Double(longitude))) if is_latitude => {
            Place::First(name, [longitude, latitude])
        }
        (Value::Double(_), Some(Value::Double(_))) => Place::Second,
        _ => Place::None,
    }
}

/// Up to how many attributes are compared one by one.
const FEW: usize = 64;

/// The keys of a map. They ought to be unique, and Elasticsearch refuses a document in which they are not; what comes
/// twice is written once. A filter, so that there is nothing to compare in nearly all cases; past a [few](FEW) they are
/// hashed, since whoever sends them may know the filter.
struct Keys<'a> {
    all: Attributes<'a>,
    filter: [u64; 4],
    /// Where the first of each key is, and its value.
    hashed: Option<HashMap<&'a str, (usize, AnyValueView<'a>)>>,
}

impl<'a> Keys<'a> {
    fn of(all: Attributes<'a>) -> Self {
        Self { all, filter: [0; 4], hashed: None }
    }

    /// Whether one of the first `index` has this key, too.
    fn before(&mut self, index: usize, key: &str) -> bool {
        if index >= FEW {
            return self.hashed().get(key).is_some_and(|(first, _)| *first < index);
        }
        let byte = |at: usize| key.as_bytes().get(at).map_or(0, |byte| u32::from(*byte));
        let length = key.len();
        let mixed = (length as u32)
            .wrapping_mul(0x9E37_79B1)
            .wrapping_add(byte(length.wrapping_sub(1)).wrapping_mul(0x85EB_CA6B))
            .wrapping_add(byte(length / 2).wrapping_mul(0xC2B2_AE35))
            .wrapping_add(byte(length.wrapping_sub(3)).wrapping_mul(0x27D4_EB2F))
            >> 24;
        let (word, bit) = ((mixed >> 6) as usize & 3, 1 << (mixed & 63));
        let Some(word) = self.filter.get_mut(word) else { return true };
        let was = *word & bit != 0;
        *word |= bit;
        was && self.all.take(index).any(|earlier| earlier.key() == key)
    }

    /// The first value under this key.
    fn find(&mut self, key: &str) -> Option<AnyValueView<'a>> {
        if self.hashed.is_none() && self.all.into_iter().nth(FEW).is_none() {
            return self.all.find(key);
        }
        self.hashed().get(key).map(|(_, value)| *value)
    }

    fn hashed(&mut self) -> &HashMap<&'a str, (usize, AnyValueView<'a>)> {
        self.hashed.get_or_insert_with(|| {
            let mut first = HashMap::new();
            for (index, attribute) in self.all.enumerate() {
                first.entry(attribute.key()).or_insert((index, attribute.value()));
            }
            first
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Out)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_keep_their_nanoseconds_in_both_forms() {
        for (nanos, millis, date) in [
            (0, "\"0.000000\"", "\"1970-01-01T00:00:00.000000000Z\""),
            (1_721_314_113_467_654_123, "\"1721314113467.654123\"", "\"2024-07-18T14:48:33.467654123Z\""),
            (951_782_400_000_000_007, "\"951782400000.000007\"", "\"2000-02-29T00:00:00.000000007Z\""),
            (4_107_542_399_999_999_999, "\"4107542399999.999999\"", "\"2100-02-28T23:59:59.999999999Z\""),
            (u64::MAX, "\"18446744073709.551615\"", "\"2554-07-21T23:34:33.709551615Z\""),
        ] {
            assert_eq!(written(|out| epoch_millis(out, nanos)), millis);
            assert_eq!(written(|out| rfc3339(out, nanos)), date);
        }
    }

    #[test]
    fn doubles_are_never_mistaken_for_integers() {
        for (value, text) in [(1.0, "1.0"), (-0.0, "-0.0"), (1e300, "1e300"), (f64::NAN, "null")] {
            assert_eq!(written(|out| double(out, value)), text);
        }
    }
}
