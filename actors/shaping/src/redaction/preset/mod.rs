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
mod traits;

use std::ops::Range;

use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

pub(super) use decoded::Decoded;
pub(super) use sense::Sense;
pub(super) use traits::Traits;
use traits::{Mark, Word};

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
        traits: &Traits,
        sense: Sense,
        hit: &mut impl FnMut(Range<usize>),
    ) {
        let Some(decoded) = decoded else { return self.find_in(text, traits, sense, hit) };
        self.find_in(&decoded.text, &decoded.traits, sense, &mut |range| hit(decoded.source(range)));
        // A credential may have in it what means something else where it is not escaped: `a%26b` after `pwd=`.
        if self == Preset::Token {
            self.find_in(text, traits, sense, hit);
        }
    }

    fn find_in(self, text: &str, traits: &Traits, sense: Sense, hit: &mut impl FnMut(Range<usize>)) {
        let digits = traits.count(Mark::Digit);
        match self {
            Preset::Email if traits.has(Mark::At) => email::find(text, hit),
            Preset::Card if digits >= 13 => card::find(text, hit),
            Preset::Token => token::find(text, traits, sense, hit),
            Preset::Phone if digits >= 7 => phone::find(text, traits, sense, hit),
            Preset::Ip if sense != Sense::Version && digits >= 1 => ip::find(text, traits, hit),
            Preset::Iban if digits >= 8 && traits.says(Word::Account) => iban::find(text, hit),
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
    use proptest::prelude::*;

    use super::*;

    const PRESETS: [Preset; 6] =
        [Preset::Email, Preset::Card, Preset::Token, Preset::Phone, Preset::Ip, Preset::Iban];

    /// What a preset finds in a text that stands under no key.
    pub(super) fn found(preset: Preset, text: &str) -> Vec<&str> {
        let mut ranges = Vec::new();
        let (traits, decoded) = (Traits::of(text), Decoded::of(text));
        preset.find(text, decoded.as_ref(), &traits, Sense::Unknown, &mut |range| ranges.push(range));
        ranges.into_iter().map(|range| text.get(range).unwrap()).collect()
    }

    /// Pieces of what is looked for.
    const PIECES: &str = "pass|word|pwd|PWD|Authorization|TOKEN|to\u{212a}en|\u{17f}ecret|Api_?Key|access-key|auth|credential|\
        session|jsessionid|x-amz-|[?&]sig|nature|[=:]|: |=> |\"|'|bearer |Basic |YWxpY2U6c2VjcmV0|eyJ[A-Za-z]{5,9}|\
        \\.[a-z0-9]{0,20}|A[KS]IA[A-Z0-9]{16}|AROA|gh[po]_|github_pat_|glpat-|npm_|[a-zA-Z0-9]{36}|xox[bp]-|xapp-1-|\
        hooks\\.slack\\.com/services/|sk_live_|AIza|ya29\\.|SG\\.|-----BEGIN PRIVATE KEY-----|sk-|://|@|@tcp\\(|\
        [Tt]ele?|phone|Mobile|msisdn|fax|[0-9]{1,9}|4111|[ .+()/-]|::|DE89|1\\.2\\.3|[0-9a-f]{1,4}:|%40|\\\\n|\u{e9}|x";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Traits spare work, and nothing else.
        #[test]
        fn what_traits_rule_out_would_not_be_found(
            pieces in proptest::collection::vec(PIECES, 1..10),
        ) {
            let text = pieces.concat();
            for preset in PRESETS {
                let find = |traits: &Traits| {
                    let mut found = Vec::new();
                    preset.find_in(&text, traits, Sense::Unknown, &mut |range| found.push(range));
                    found
                };
                prop_assert_eq!(find(&Traits::of(&text)), find(&Traits::any()), "{:?} in {}", preset, text);
            }
        }
    }
}
