//! Telephone numbers: E.164 with its `+`, common national notations, and numbers that are called one.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::{Mark, Sense, Traits, Word, digits, ends, literal, starts};

/// A notation, how many digits it has, and the fewest groups of them.
struct Notation {
    regex: LazyLock<Regex>,
    digits: std::ops::RangeInclusive<usize>,
    groups: usize,
}

macro_rules! notation {
    ($digits:expr, $groups:expr, $regex:literal) => {
        Notation { regex: LazyLock::new(|| literal($regex)), digits: $digits, groups: $groups }
    };
}

static NOTATIONS: [Notation; 6] = [
    // +1 (415) 555-2671, +49 (0)30 123456, +14155552671
    notation!(8..=16, 1, r"\+[1-9][0-9]{0,2}(?:[ .()/\-\u00a0]{0,3}[0-9]){6,14}"),
    // 0044 20 7946 0958: only in groups, as order numbers have leading zeros, too
    notation!(10..=17, 3, r"00[1-9][0-9]{0,2}(?:[ .\-/][0-9]{2,9}){2,5}"),
    // (415) 555-2671, 415.555.2671, 1-800-555-0199
    notation!(
        10..=11,
        3,
        r"(?:1[ .\-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .\-])[2-9][0-9]{2}[ .\-][0-9]{4}"
    ),
    // 01 23 45 67 89
    notation!(10..=10, 5, r"0[1-9](?:[ .\-][0-9]{2}){4}"),
    // 020 7946 0958, 07700 900 123, (03) 1234 5678
    notation!(10..=11, 3, r"\(?0[1-9][0-9]{0,3}\)?[ \-][0-9]{3,4}[ \-][0-9]{3,4}"),
    // 030 1234567, 0151/12345678, 07700 900123
    notation!(9..=12, 2, r"\(?0[1-9][0-9]{1,4}\)?[ /\-][0-9]{5,8}"),
];

/// A number that is called a telephone number.
static CALLED: Notation = notation!(
    7..=16,
    1,
    r#"(?i)(?:phone|\btel|mobile|msisdn|fax)[a-z_.\-]{0,10}\\?["']?\s{0,3}[:=]\s{0,3}\\?["']?(\+?\(?[0-9][0-9 ().\-]{5,18}[0-9])"#
);

pub(super) fn find(text: &str, traits: &Traits, sense: Sense, hit: &mut impl FnMut(Range<usize>)) {
    if sense == Sense::Phone && is_number(text) {
        return hit(0..text.len());
    }
    let bytes = text.as_bytes();
    if traits.says(Word::Phone) && (traits.has(Mark::Equals) || traits.has(Mark::Colon)) {
        for found in CALLED.regex.captures_iter(text).filter_map(|found| found.get(1)) {
            if CALLED.digits.contains(&digits(found.as_str())) && ends(bytes, found.end()) {
                hit(found.range());
            }
        }
    }
    for Run { range, digits, groups, is_international } in runs(bytes) {
        let notations = NOTATIONS.iter().filter(|notation| {
            // One group alone is a number with its `+` only.
            *notation.digits.start() <= digits
                && notation.groups <= groups
                && (notation.groups > 1 || is_international)
        });
        for notation in notations {
            let run = text.get(range.clone()).unwrap_or_default();
            let found = notation.regex.find_iter(run).filter(|found| {
                notation.digits.contains(&self::digits(found.as_str())) && is_uniform(found.as_str())
            });
            let found = found.map(|found| range.start + found.start()..range.start + found.end());
            found.filter(|found| stands_alone(bytes, found)).for_each(&mut *hit);
        }
    }
}

/// Digits and what may stand between them. All that is a number in any notation is in one of these.
struct Run {
    range: Range<usize>,
    digits: usize,
    /// As many as have something between them.
    groups: usize,
    /// There is a `+` in it.
    is_international: bool,
}

/// The runs that begin as a number may, up to their last digit.
fn runs(bytes: &[u8]) -> impl Iterator<Item = Run> {
    let mut pos = 0;
    std::iter::from_fn(move || {
        let is_start = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'(');
        let start = pos + bytes.get(pos..)?.iter().position(is_start)?;
        let mut run = Run { range: start..start, digits: 0, groups: 0, is_international: false };
        pos = start;
        for byte in bytes.get(start..)? {
            match byte {
                b'0'..=b'9' => {
                    run.groups += usize::from(run.digits == 0 || run.range.end != pos);
                    run.digits += 1;
                    run.range.end = pos + 1;
                }
                b'+' => run.is_international = true,
                // The last two are U+00A0.
                b' ' | b'.' | b'(' | b')' | b'/' | b'-' | 0xC2 | 0xA0 => {}
                _ => break,
            }
            pos += 1;
        }
        Some(run)
    })
}

/// Whether a whole text can be a telephone number.
fn is_number(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '+' | '(' | ')' | ' ' | '.' | '-' | '/');
    (7..=16).contains(&digits(text)) && text.chars().all(is_part)
}

/// Whether one separator stands between all groups. A number in parentheses is one whatever follows.
fn is_uniform(text: &str) -> bool {
    if text.contains(['(', '+']) {
        return true;
    }
    let mut separators = text.chars().filter(|c| !c.is_ascii_digit());
    let first = separators.next();
    separators.all(|separator| Some(separator) == first)
}

/// Whether the number is not a piece of a longer one, of a date, a time or a fraction.
fn stands_alone(bytes: &[u8], range: &Range<usize>) -> bool {
    let is_joint = |byte: &u8| matches!(byte, b'-' | b'.' | b'/' | b':' | b'_' | b',');
    let before = match bytes.get(..range.start).unwrap_or_default() {
        // `tel:` and `phone-` are no numbers.
        [.., digit, joint] if is_joint(joint) => !digit.is_ascii_digit(),
        _ => starts(bytes, range.start),
    };
    let after = match bytes.get(range.end..).unwrap_or_default() {
        [joint, digit, ..] if is_joint(joint) => !digit.is_ascii_digit(),
        [b':', ..] => false,
        _ => ends(bytes, range.end),
    };
    before && after
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::super::tests::found;
    use super::super::{Sense, Traits};

    #[test]
    fn numbers_are_found_in_any_notation() {
        for (text, number) in [
            ("+14155552671", "+14155552671"),
            ("call +1 (415) 555-2671 now", "+1 (415) 555-2671"),
            ("+49 (0)30 123456", "+49 (0)30 123456"),
            ("to=%2B4915112345678&x=1", "%2B4915112345678"),
            ("0044 20 7946 0958", "0044 20 7946 0958"),
            ("(415) 555-2671", "(415) 555-2671"),
            ("415.555.2671", "415.555.2671"),
            ("01 23 45 67 89", "01 23 45 67 89"),
            ("tel:020 7946 0958", "020 7946 0958"),
            ("0151/12345678", "0151/12345678"),
            (r#"{"phone_number":"4155552671"}"#, "4155552671"),
            ("msisdn=4915112345678", "4915112345678"),
        ] {
            assert!(found(Preset::Phone, text).contains(&number), "{text}: {:?}", found(Preset::Phone, text));
        }
        let (mut found, text) = (Vec::new(), "4155552671");
        Preset::Phone
            .find(text, None, &Traits::of(text), Sense::Phone, &mut |range| found.push(&text[range]));
        assert_eq!(found, [text]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(500))]

        /// Every notation is looked for where it can be, and there alone.
        #[test]
        fn no_number_lies_outside_of_the_runs(text in "([0-9]{1,5}|[ .()/+-]|\u{a0}|\u{e0}|x|\\+49|0[1-9]{2}|00|555-){0,12}") {
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            super::find(&text, &Traits::of(&text), Sense::Unknown, &mut |range| found.push(range));
            for super::Notation { regex, digits, .. } in &super::NOTATIONS {
                let numbers = regex.find_iter(&text).filter(|found| {
                    digits.contains(&super::digits(found.as_str()))
                        && super::is_uniform(found.as_str())
                        && super::stands_alone(text.as_bytes(), &found.range())
                });
                expected.extend(numbers.map(|found| found.range()));
            }
            let sort = |ranges: &mut Vec<std::ops::Range<usize>>| ranges.sort_by_key(|range| (range.start, range.end));
            sort(&mut found);
            sort(&mut expected);
            proptest::prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn dates_orders_and_prices_are_none() {
        for text in [
            "4155552671",
            "2024-01-02T10:11:12+02:00",
            "2024-01-02 10:11:12",
            "123-45-6789",
            "1,234,567.89",
            "01.02.2024 10:30:00",
            "00123456789",
            "a+12345678901b",
            "10.1.2.3:8080",
            "0.123456789",
        ] {
            assert!(found(Preset::Phone, text).is_empty(), "{text}: {:?}", found(Preset::Phone, text));
        }
    }
}
