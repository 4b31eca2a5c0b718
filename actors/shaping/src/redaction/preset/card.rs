//! Payment cards: 13 to 19 digits of a known issuer with a valid check digit (ISO/IEC 7812), together or in groups.

use std::ops::Range;

use super::{ends, starts};

/// What may stand between groups, the same between all.
const SEPARATORS: [&str; 9] = [" ", "-", ".", "_", "+", "  ", " - ", "\u{a0}", "\u{2011}"];

pub(super) fn find(text: &str, hit: &mut impl FnMut(Range<usize>)) {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut pos = 0;
    while let Some(group) = next_group(text.as_bytes(), pos) {
        pos = group.end;
        let is_apart = |last: &Range<usize>| separator(text, last, &group).is_none();
        if groups.last().is_some_and(is_apart) {
            windows(text, &groups, hit);
            groups.clear();
        }
        groups.push(group);
    }
    windows(text, &groups, hit);
}

/// The next run of digits.
fn next_group(bytes: &[u8], pos: usize) -> Option<Range<usize>> {
    let rest = bytes.get(pos..)?;
    let start = pos + rest.iter().position(u8::is_ascii_digit)?;
    let digits = bytes.get(start..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    Some(start..start + digits)
}

fn separator<'t>(text: &'t str, left: &Range<usize>, right: &Range<usize>) -> Option<&'t str> {
    text.get(left.end..right.start).filter(|between| SEPARATORS.contains(between))
}

/// Looks for cards among neighbouring groups, the longest first.
fn windows(text: &str, groups: &[Range<usize>], hit: &mut impl FnMut(Range<usize>)) {
    let mut first = 0;
    while first < groups.len() {
        let last = (first..groups.len().min(first + 19))
            .rev()
            .find(|last| groups.get(first..=*last).is_some_and(|window| is_card(text, window)));
        let card = last.and_then(|last| Some((last, groups.get(first)?.start..groups.get(last)?.end)));
        first = match card {
            Some((last, range)) => {
                hit(range);
                last + 1
            }
            None => first + 1,
        };
    }
}

fn is_card(text: &str, groups: &[Range<usize>]) -> bool {
    let (Some(first), Some(last)) = (groups.first(), groups.last()) else { return false };
    // No issuer's numbers begin otherwise.
    if !text.as_bytes().get(first.start).is_some_and(|digit| (b'2'..=b'6').contains(digit)) {
        return false;
    }
    let count: usize = groups.iter().map(Range::len).sum();
    if !(13..=19).contains(&count) {
        return false;
    }
    let bytes = groups.iter().flat_map(|group| text.as_bytes().get(group.clone()).unwrap_or_default());
    let mut digits = [0; 19];
    digits.iter_mut().zip(bytes).for_each(|(digit, byte)| *digit = byte - b'0');
    digits.get(..count).is_some_and(|digits| is_issued(digits) && luhn(digits))
        && is_grouping(text, groups)
        && !is_hexadecimal(text, first.start..last.end)
}

/// Between the groups is one separator, and they are all of one length, the last at most as long; or of those that
/// American Express, Diners and UnionPay print.
fn is_grouping(text: &str, groups: &[Range<usize>]) -> bool {
    let mut separators = groups.windows(2).map(|pair| match pair {
        [left, right] => separator(text, left, right),
        _ => None,
    });
    let first = separators.next();
    let is_even = || match groups {
        [first, middle @ .., last] => {
            first.len() <= 8
                && last.len() <= first.len()
                && middle.iter().all(|group| group.len() == first.len())
        }
        _ => true,
    };
    let is_printed = || {
        [&[4, 6, 5][..], &[4, 6, 4], &[6, 13], &[6, 10]].iter().any(|lengths| {
            groups.len() == lengths.len()
                && groups.iter().zip(*lengths).all(|(group, length)| group.len() == *length)
        })
    };
    separators.all(|separator| Some(separator) == first) && (is_even() || is_printed())
}

/// Whether the digits are a piece of a longer word in hexadecimal: of a hash, or an id.
fn is_hexadecimal(text: &str, range: Range<usize>) -> bool {
    let bytes = text.as_bytes();
    if starts(bytes, range.start) && ends(bytes, range.end) {
        return false;
    }
    let is_word = |byte: &&u8| byte.is_ascii_alphanumeric();
    let before = bytes.get(..range.start).unwrap_or_default().iter().rev().take_while(is_word);
    let after = bytes.get(range.end..).unwrap_or_default().iter().take_while(is_word);
    before.chain(after).all(u8::is_ascii_hexdigit)
}

/// Whether an issuer's numbers begin and are as long as that. Source: the issuer identification ranges that the
/// networks publish.
fn is_issued(digits: &[u8]) -> bool {
    let prefix = |count: usize| digits.iter().take(count).fold(0u32, |n, digit| n * 10 + u32::from(*digit));
    let (two, three, four, six) = (prefix(2), prefix(3), prefix(4), prefix(6));
    match digits.len() {
        // Visa.
        13 | 16 | 19 if two / 10 == 4 => true,
        // American Express.
        15 => two == 34 || two == 37,
        // Mastercard, RuPay.
        16 if (51..=55).contains(&two) || (2221..=2720).contains(&four) || two == 60 || three == 508 => true,
        // Diners.
        14 => (300..=305).contains(&three) || three == 309 || two == 36 || two == 38 || two == 39,
        // Discover, UnionPay, JCB, Mir.
        16..=19
            if four == 6011
                || (644..=659).contains(&three)
                || two == 62
                || (3528..=3589).contains(&four)
                || (2200..=2204).contains(&four) =>
        {
            true
        }
        // Maestro.
        13..=19 => matches!(four, 5018 | 5020 | 5038 | 5893 | 6304 | 6759 | 6761..=6763) || six == 639000,
        _ => false,
    }
}

fn luhn(digits: &[u8]) -> bool {
    let doubled = |(index, digit): (usize, &u8)| match (index % 2, u32::from(*digit)) {
        (0, digit) => digit,
        (_, digit) => digit * 2 / 10 + digit * 2 % 10,
    };
    digits.iter().rev().enumerate().map(doubled).sum::<u32>().is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::super::tests::found;

    #[test]
    fn cards_are_found_in_any_notation() {
        for (text, card) in [
            ("4111111111111111", "4111111111111111"),
            ("pan=4111 1111 1111 1111, exp 12/26", "4111 1111 1111 1111"),
            ("2024-01-02 5555-5555-5555-4444", "5555-5555-5555-4444"),
            ("amex 3782 822463 10005.", "3782 822463 10005"),
            ("card%3D4111%201111%201111%201111", "4111%201111%201111%201111"),
            (r"\n6011000990139424\n", "6011000990139424"),
            ("card4222222222222", "4222222222222"),
            ("1234 4111 1111 1111 1111", "4111 1111 1111 1111"),
        ] {
            assert_eq!(found(Preset::Card, text), [card], "{text}");
        }
    }

    #[test]
    fn other_long_numbers_are_none() {
        for text in [
            "4111111111111112",
            "1780000000000000000",
            "a4111111111111111b",
            "41111111111111110000",
            "9999999999999995",
            "4111 11111-1111 1111",
        ] {
            assert!(found(Preset::Card, text).is_empty(), "{text}");
        }
    }
}
