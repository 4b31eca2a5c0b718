//! What is looked for by name.
//!
//! Each preset finds its kind in a longer text and gives the ranges. A text is first looked over once for its
//! [`Traits`], which tell nearly always that there is nothing to find.

mod card;
mod decoded;
mod email;
mod iban;
mod ip;
mod phone;
mod sense;
mod token;

use std::ops::Range;

use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use decoded::Decoded;
pub(super) use sense::Sense;

/// What can be looked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::redaction) enum Preset {
    /// E-mail addresses.
    Email,
    /// Numbers of payment cards.
    Card,
    /// Passwords, keys, tokens and other credentials.
    Token,
    /// Telephone numbers.
    Phone,
    /// IPv4 and IPv6 addresses.
    Ip,
    /// International bank account numbers.
    Iban,
}

/// What a text has in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traits {
    marks: u8,
    digits: usize,
    len: usize,
}

const AT: u8 = 1;
/// What may begin an escape: `%40`, `\u0040`.
const ESCAPE: u8 = 2;
const DOT: u8 = 4;
const COLON: u8 = 8;
const EQUALS: u8 = 16;
const DIGIT: u8 = 32;

static MARKS: [u8; 256] = {
    let mut marks = [0; 256];
    marks[b'@' as usize] = AT;
    marks[b'%' as usize] = ESCAPE;
    marks[b'\\' as usize] = ESCAPE;
    marks[b'.' as usize] = DOT;
    marks[b':' as usize] = COLON;
    marks[b'=' as usize] = EQUALS;
    let mut digit = b'0';
    while digit <= b'9' {
        marks[digit as usize] = DIGIT;
        digit += 1;
    }
    marks
};

// === impl Traits ===

impl Traits {
    pub(super) fn of(text: &str) -> Self {
        let mut traits = Self { marks: 0, digits: 0, len: text.len() };
        for byte in text.bytes() {
            let mark = MARKS[usize::from(byte)];
            traits.marks |= mark;
            traits.digits += usize::from(mark == DIGIT);
        }
        traits
    }

    /// Whether there may be escapes in it.
    pub(super) fn has_escapes(self) -> bool {
        self.any(ESCAPE)
    }

    fn any(self, marks: u8) -> bool {
        self.marks & marks != 0
    }
}

// === impl Preset ===

impl Preset {
    /// The name in settings and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Preset::Email => "email",
            Preset::Card => "card",
            Preset::Token => "token",
            Preset::Phone => "phone",
            Preset::Ip => "ip",
            Preset::Iban => "iban",
        }
    }

    /// Gives `hit` every range in which the text holds it. `sense` is what the text's key says that it is.
    pub(super) fn find(
        self,
        text: &str,
        decoded: Option<&Decoded>,
        traits: Traits,
        sense: Sense,
        hit: &mut impl FnMut(Range<usize>),
    ) {
        let Some(decoded) = decoded else { return self.find_in(text, traits, sense, hit) };
        let traits_decoded = Traits::of(&decoded.text);
        self.find_in(&decoded.text, traits_decoded, sense, &mut |range| hit(decoded.source(range)));
        // A credential may have in it what means something else where it is not escaped: `a%26b` after `pwd=`.
        if self == Preset::Token {
            self.find_in(text, traits, sense, hit);
        }
    }

    fn find_in(self, text: &str, traits: Traits, sense: Sense, hit: &mut impl FnMut(Range<usize>)) {
        match self {
            Preset::Email if traits.any(AT) => email::find(text, hit),
            Preset::Card if traits.digits >= 13 => card::find(text, hit),
            Preset::Token => token::find(text, traits, sense, hit),
            Preset::Phone if traits.digits >= 7 => phone::find(text, sense, hit),
            Preset::Ip if sense != Sense::Version && traits.digits >= 1 => ip::find(text, traits, hit),
            Preset::Iban if traits.digits >= 8 => iban::find(text, hit),
            _ => {}
        }
    }
}

/// Whether a word may start at `at`.
fn starts(text: &[u8], at: usize) -> bool {
    !at.checked_sub(1).and_then(|before| text.get(before)).is_some_and(u8::is_ascii_alphanumeric)
}

/// Whether a word may end before `at`.
fn ends(text: &[u8], at: usize) -> bool {
    !text.get(at).is_some_and(u8::is_ascii_alphanumeric)
}

/// An expression of our own.
#[allow(clippy::expect_used, reason = "tests compile every one of them")]
fn literal(regex: &str) -> Regex {
    Regex::new(regex).expect("a regular expression")
}

fn digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_digit).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a preset finds in a text that stands under no key.
    pub(super) fn found(preset: Preset, text: &str) -> Vec<&str> {
        let mut ranges = Vec::new();
        let (traits, decoded) = (Traits::of(text), Decoded::of(text));
        preset.find(text, decoded.as_ref(), traits, Sense::Unknown, &mut |range| ranges.push(range));
        ranges.into_iter().map(|range| text.get(range).unwrap()).collect()
    }
}
