//! Payment cards: 13 to 19 digits of a known issuer with a valid check digit (ISO/IEC 7812), together or in groups.

use std::ops::Range;

use super::{ends, starts};

/// What may stand between groups, the same between all.
const SEPARATORS: [&str; 9] = [" ", "-", ".", "_", "+", "  ", " - ", "\u{a0}", "\u{2011}"];

/// The most digits of a number, and of groups of one.
const LONGEST: usize = 19;

pub(super) fn find(text: &str, hit: &mut impl FnMut(Range<usize>)) {
    let mut words = Words { bytes: text.as_bytes(), last: 0..0, is_hexadecimal: false };
    let mut pos = 0;
    while let Some(group) = next_group(text.as_bytes(), pos) {
        pos = group.end;
        if let Some(card) = card(text, group, &mut words) {
            pos = card.end;
            hit(card);
        }
    }
}

/// The next run of digits.
fn next_group(bytes: &[u8], pos: usize) -> Option<Range<usize>> {
    let start = pos + bytes.get(pos..)?.iter().position(u8::is_ascii_digit)?;
    Some(start..start + digits(bytes, start).count())
}

/// The digits from there on.
fn digits(bytes: &[u8], start: usize) -> impl Iterator<Item = u8> {
    let rest = bytes.get(start..).unwrap_or_default().iter();
    rest.map_while(|byte| byte.is_ascii_digit().then(|| byte - b'0'))
}

/// The digits of neighbouring groups, one separator between all.
#[derive(Default)]
struct Groups {
    digits: [u8; LONGEST],
    /// For each group, the digits up to its end, and its end in the text.
    ends: [(usize, usize); LONGEST],
    count: usize,
}

// === impl Groups ===

impl Groups {
    /// Those from `first` on, as far as a card may go.
    fn of(text: &str, first: Range<usize>) -> Self {
        let mut groups = Self::default();
        let mut separator = None;
        let mut next = Some(first);
        while let Some(group) = next.take().filter(|group| groups.push(text.as_bytes(), group)) {
            let rest = text.get(group.end..).unwrap_or_default();
            // Of all that `rest` may start with, a digit follows one.
            let start = |between: &&'static str| {
                let start = group.end + between.len();
                let is_digit = text.as_bytes().get(start).is_some_and(u8::is_ascii_digit);
                (is_digit && rest.starts_with(*between)).then_some((*between, start))
            };
            let found = match &separator {
                Some(separator) => start(separator),
                None => SEPARATORS.iter().find_map(start),
            };
            if let Some((between, start)) = found {
                separator = Some(between);
                next = next_group(text.as_bytes(), start);
            }
        }
        groups
    }

    /// Whether there was room for its digits.
    fn push(&mut self, bytes: &[u8], group: &Range<usize>) -> bool {
        let held = self.held(self.count);
        let room = self.digits.get_mut(held..).unwrap_or_default();
        let (Some(room), Some(end)) = (room.get_mut(..group.len()), self.ends.get_mut(self.count)) else {
            return false;
        };
        room.iter_mut().zip(digits(bytes, group.start)).for_each(|(room, digit)| *room = digit);
        *end = (held + group.len(), group.end);
        self.count += 1;
        true
    }

    /// How many digits the first `count` groups have.
    fn held(&self, count: usize) -> usize {
        count.checked_sub(1).and_then(|last| self.ends.get(last)).map_or(0, |(held, _)| *held)
    }

    /// Where a card of the first `count` groups ends.
    fn end(&self, count: usize) -> Option<usize> {
        let digits = self.digits.get(..self.held(count))?;
        let is_card = digits.len() >= 13 && is_issued(digits) && luhn(digits) && self.is_grouping(count);
        let (_, end) = self.ends.get(count - 1).filter(|_| is_card)?;
        Some(*end)
    }

    /// All are of one length, the last at most as long; or of those that American Express, Diners and UnionPay
    /// print.
    fn is_grouping(&self, count: usize) -> bool {
        let length = |group: usize| self.held(group + 1) - self.held(group);
        let (first, last) = (length(0), length(count - 1));
        let is_even = || first <= 8 && last <= first && (1..count - 1).all(|group| length(group) == first);
        let is_printed = || {
            [&[4, 6, 5][..], &[4, 6, 4], &[6, 13], &[6, 10]].iter().any(|lengths| {
                count == lengths.len() && lengths.iter().enumerate().all(|(at, len)| length(at) == *len)
            })
        };
        count == 1 || is_even() || is_printed()
    }
}

/// The longest card that begins with that group.
fn card(text: &str, group: Range<usize>, words: &mut Words<'_>) -> Option<Range<usize>> {
    // No issuer's numbers begin otherwise.
    text.as_bytes().get(group.start).filter(|digit| (b'2'..=b'6').contains(digit))?;
    let start = group.start;
    let groups = Groups::of(text, group);
    let mut ends = (1..=groups.count).rev().filter_map(|count| groups.end(count));
    ends.find(|end| !words.is_hexadecimal(start..*end)).map(|end| start..end)
}

/// The words of a text, of which the last that was asked for is remembered.
struct Words<'t> {
    bytes: &'t [u8],
    last: Range<usize>,
    is_hexadecimal: bool,
}

// === impl Words ===

impl Words<'_> {
    /// Whether digits are a piece of a longer word in hexadecimal: of a hash, or an id.
    fn is_hexadecimal(&mut self, range: Range<usize>) -> bool {
        let (is_start, is_end) = (starts(self.bytes, range.start), ends(self.bytes, range.end));
        // Between groups, words end.
        (!is_start || !is_end)
            && (is_start || self.is_inside_hexadecimal(range.start))
            && (is_end || self.is_inside_hexadecimal(range.end))
    }

    /// Whether the word around `at` is hexadecimal.
    fn is_inside_hexadecimal(&mut self, at: usize) -> bool {
        if !self.last.contains(&at) {
            let is_word = |byte: &&u8| byte.is_ascii_alphanumeric();
            let before = self.bytes.get(..at).unwrap_or_default().iter().rev().take_while(is_word).count();
            let after = self.bytes.get(at..).unwrap_or_default().iter().take_while(is_word).count();
            self.last = at - before..at + after;
            let word = self.bytes.get(self.last.clone()).unwrap_or_default();
            self.is_hexadecimal = word.iter().all(u8::is_ascii_hexdigit);
        }
        self.is_hexadecimal
    }
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

    #[test]
    fn a_card_beside_hexadecimal_digits_is_a_piece_of_a_hash() {
        for (text, is_card) in [
            ("deadbeef4111111111111111", false),
            ("deadbeefx4111111111111111", true),
            ("4111111111111111deadbeef", false),
            ("ab4111 1111 1111 1111", false),
            ("ab4111 1111 1111 1111xyz", true),
            ("4111111111111111 4111111111111111ab", true),
        ] {
            assert_eq!(!found(Preset::Card, text).is_empty(), is_card, "{text}");
        }
        let many = "x4111111111111111".repeat(3);
        assert_eq!(found(Preset::Card, &many).len(), 3);
    }
}
