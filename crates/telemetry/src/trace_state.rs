//! What W3C `tracestate` says of sampling: the member `ot` with its `th` and `rv`.
//!
//! Source: OpenTelemetry specification, `trace/tracestate-handling.md` and `trace/tracestate-probability-sampling.md`;
//! W3C Trace Context, section 3.3. An item stays if its [`Randomness`] is at least the [`Threshold`], so stages that
//! look at the same randomness agree, and thresholds may only rise.

use std::fmt::Write as _;

use smallvec::SmallVec;
use thiserror::Error;

/// How many values randomness has, 2^56; also the threshold that nothing reaches.
const VALUES: u64 = 1 << 56;

/// The hexadecimal digits of a randomness.
const DIGITS: usize = 14;

/// What the decision about an item is made with: 56 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Randomness(u64);

/// What randomness must reach for the item to stay: 0 to 2^56.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Threshold(u64);

/// 1 to 14 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hex {
    digits: [u8; DIGITS],
    len: u8,
}

/// A text that is no `tracestate`, or whose member `ot` is not as it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("malformed tracestate")]
pub struct Malformed;

/// A `tracestate`, parsed.
#[derive(Clone, Debug, Default)]
pub struct TraceState<'a> {
    randomness: Option<(Randomness, Hex)>,
    threshold: Option<(Threshold, Hex)>,
    /// `key:value` of the member `ot`, but `rv` and `th`.
    extra: SmallVec<[&'a str; 2]>,
    /// The other members, `key=value`.
    others: SmallVec<[&'a str; 4]>,
}

// === impl Randomness ===

impl Randomness {
    /// The largest: every threshold but [`Threshold::NEVER`] lets it pass.
    pub const MAX: Self = Self(VALUES - 1);

    /// The lower 56 bits of `value`.
    pub const fn new(value: u64) -> Self {
        Self(value & (VALUES - 1))
    }

    /// That of a trace id: its last seven bytes. `None` unless it has sixteen, not all zero.
    pub fn of_trace_id(id: &[u8]) -> Option<Self> {
        let id: &[u8; 16] = id.try_into().ok()?;
        (u128::from_be_bytes(*id) != 0).then_some(Self::new(u128::from_be_bytes(*id) as u64))
    }

    /// Reads `rv`: exactly 14 digits.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == DIGITS).then(|| hex(text)).flatten().map(Self)
    }

    /// 14 digits, in lower case.
    pub fn to_hex(self) -> Hex {
        Hex::new(self.0)
    }
}

// === impl Threshold ===

impl Threshold {
    /// Everything passes.
    pub const ALWAYS: Self = Self(0);

    /// Nothing passes.
    pub const NEVER: Self = Self(VALUES);

    /// The smallest probability that a threshold can say, 2^-56.
    pub const MIN_PROBABILITY: f64 = 1.0 / VALUES as f64;

    /// Of a number from 0 to 2^56; more is [`NEVER`](Self::NEVER).
    pub const fn new(value: u64) -> Self {
        if value > VALUES { Self::NEVER } else { Self(value) }
    }

    /// The threshold by which so many pass, rounded to `precision` hexadecimal digits (at most 14), those not counted
    /// that only say that the probability is near 0 or 1. `None` unless the probability is from 2^-56 to 1.
    pub fn of_probability(probability: f64, precision: u32) -> Option<Self> {
        if !(Self::MIN_PROBABILITY..=1.0).contains(&probability) {
            return None;
        }
        let leading = |part: f64| u32::try_from(-exponent(part) / 4).unwrap_or_default();
        let digits = precision.saturating_add(leading(probability).max(leading(1.0 - probability)));
        let passing = (probability * VALUES as f64).round() as u64;
        let threshold = VALUES - passing.min(VALUES);
        let shift = 4 * (DIGITS as u32).saturating_sub(digits);
        let half = (1 << shift) / 2;
        Some(Self(((threshold + half) >> shift) << shift))
    }

    /// How many pass, 0 to 1.
    pub fn probability(self) -> f64 {
        (VALUES - self.0) as f64 / VALUES as f64
    }

    /// Whether an item of that randomness stays.
    pub fn passes(self, randomness: Randomness) -> bool {
        self.0 <= randomness.0
    }

    /// Reads `th`: 1 to 14 digits, of which trailing zeros are left out.
    pub fn parse(text: &str) -> Option<Self> {
        let value = (1..=DIGITS).contains(&text.len()).then(|| hex(text)).flatten()?;
        Some(Self(value << (4 * (DIGITS - text.len()))))
    }

    /// 1 to 14 digits without trailing zeros, in lower case. `None` for [`NEVER`](Self::NEVER), which can not be
    /// written.
    pub fn to_hex(self) -> Option<Hex> {
        let zeros = (self.0.trailing_zeros() as usize / 4).min(DIGITS - 1);
        (self != Self::NEVER).then(|| Hex { len: (DIGITS - zeros) as u8, ..Hex::new(self.0) })
    }
}

/// The exponent of a number as `fraction * 2^exponent`, the fraction being from 1/2 to 1. Zero has 0.
fn exponent(number: f64) -> i32 {
    // Normal numbers only: 1 - p is zero or at least 2^-53.
    if number == 0.0 { 0 } else { (number.to_bits() >> 52 & 0x7FF) as i32 - 1022 }
}

fn hex(text: &str) -> Option<u64> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

// === impl Hex ===

impl Hex {
    fn new(value: u64) -> Self {
        let mut digits = [b'0'; DIGITS];
        for (index, digit) in digits.iter_mut().rev().enumerate() {
            let value = (value >> (4 * index)) as u8 & 0xF;
            *digit = if value < 10 { b'0' + value } else { b'a' - 10 + value };
        }
        Self { digits, len: DIGITS as u8 }
    }

    /// As it was written, in whatever case.
    fn verbatim(text: &str) -> Self {
        let mut hex = Self { len: text.len().min(DIGITS) as u8, ..Self::default() };
        hex.digits.iter_mut().zip(text.bytes()).for_each(|(digit, byte)| *digit = byte);
        hex
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        let digits = self.digits.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(digits).unwrap_or_default()
    }
}

// === impl TraceState ===

impl<'a> TraceState<'a> {
    /// Reads a `tracestate`. Limits and strictness are those of the Go collector: 1024 bytes, 31 members, the keys of
    /// W3C level 1. Of several members `ot`, the last one holds.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        const MAX_BYTES: usize = 1024;
        const MAX_MEMBERS: usize = 31;
        let mut state = Self::default();
        if text.is_empty() {
            return Ok(state);
        }
        if text.len() > MAX_BYTES || text.split_terminator(',').count() > MAX_MEMBERS {
            return Err(Malformed);
        }
        for member in text.split(',') {
            let member = member.trim_matches([' ', '\t']);
            if member.is_empty() {
                continue;
            }
            let (key, value) = member.split_once('=').ok_or(Malformed)?;
            if !is_key(key) || !is_value(value) {
                return Err(Malformed);
            }
            if key == "ot" { state.read_own(value)? } else { state.others.push(member) }
        }
        Ok(state)
    }

    fn read_own(&mut self, value: &'a str) -> Result<(), Malformed> {
        const MAX_BYTES: usize = 256;
        (self.randomness, self.threshold) = (None, None);
        self.extra.clear();
        if value.len() > MAX_BYTES {
            return Err(Malformed);
        }
        for pair in value.split(';') {
            let (key, value) = pair.split_once(':').ok_or(Malformed)?;
            let is_key = key.starts_with(|first: char| first.is_ascii_lowercase())
                && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            if !is_key || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
                return Err(Malformed);
            }
            match key {
                "rv" => {
                    let randomness = Randomness::parse(value).ok_or(Malformed)?;
                    self.randomness = Some((randomness, Hex::verbatim(value)));
                }
                "th" => {
                    let threshold = Threshold::parse(value).ok_or(Malformed)?;
                    self.threshold = Some((threshold, Hex::verbatim(value)));
                }
                _ => self.extra.push(pair),
            }
        }
        Ok(())
    }

    /// `rv`.
    pub fn randomness(&self) -> Option<Randomness> {
        self.randomness.map(|(randomness, _)| randomness)
    }

    /// `th`.
    pub fn threshold(&self) -> Option<Threshold> {
        self.threshold.map(|(threshold, _)| threshold)
    }

    /// Sets `rv`.
    pub fn set_randomness(&mut self, randomness: Randomness) {
        self.randomness = Some((randomness, randomness.to_hex()));
    }

    /// Sets `th`; [`Threshold::NEVER`] removes it.
    pub fn set_threshold(&mut self, threshold: Threshold) {
        self.threshold = threshold.to_hex().map(|hex| (threshold, hex));
    }

    /// Appends it as text: `ot` first, then the other members in their order.
    pub fn write(&self, out: &mut String) {
        let start = out.len();
        // Writing to a String can not fail.
        let mut own = |key: &str, value: &str| {
            let before = if out.len() == start { "ot=" } else { ";" };
            let _ = write!(out, "{before}{key}{value}");
        };
        if let Some((_, hex)) = &self.randomness {
            own("rv:", hex.as_str());
        }
        if let Some((_, hex)) = &self.threshold {
            own("th:", hex.as_str());
        }
        self.extra.iter().for_each(|pair| own("", pair));
        for member in &self.others {
            if out.len() > start {
                out.push(',');
            }
            out.push_str(member);
        }
    }
}

/// `simple-key` or `tenant@system`, with the lengths of W3C level 1.
fn is_key(key: &str) -> bool {
    let is_tail = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte);
    let is_word = |word: &str, max: usize| word.len() <= max && word.bytes().all(is_tail);
    let starts = |word: &str, digit: bool| {
        word.starts_with(|first: char| first.is_ascii_lowercase() || digit && first.is_ascii_digit())
    };
    match key.split_once('@') {
        Some((tenant, system)) => {
            starts(tenant, true) && starts(system, false) && is_word(tenant, 241) && is_word(system, 14)
        }
        None => starts(key, false) && is_word(key, 256),
    }
}

/// 1 to 256 printable characters but `,` and `=`, the last not a space.
fn is_value(value: &str) -> bool {
    let is_legal = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    (1..=256).contains(&value.len()) && !value.ends_with(' ') && value.bytes().all(is_legal)
}
