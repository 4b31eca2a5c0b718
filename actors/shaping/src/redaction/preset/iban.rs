//! International bank account numbers (ISO 13616): country, check digits, and a length that the country sets.

use std::ops::Range;

use super::{ends, starts};

/// Lengths by country. Source: the SWIFT IBAN registry.
const LENGTHS: [(&[u8; 2], usize); 78] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NL", 18),
    (b"NO", 15),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"XK", 20),
];

/// The longest of them.
const LONGEST: usize = 32;

pub(super) fn find(text: &str, hit: &mut impl FnMut(Range<usize>)) {
    let bytes = text.as_bytes();
    let mut pos = 0;
    while let Some([a, b, c, d]) = bytes.get(pos..).and_then(|rest| rest.first_chunk()) {
        let may_start = c.is_ascii_digit() && d.is_ascii_digit() && starts(bytes, pos);
        let length = if may_start { length([a.to_ascii_uppercase(), b.to_ascii_uppercase()]) } else { None };
        match length.and_then(|length| account_end(bytes, pos, length)) {
            Some(end) => {
                hit(pos..end);
                pos = end;
            }
            None => pos += 1,
        }
    }
}

fn length(country: [u8; 2]) -> Option<usize> {
    LENGTHS.iter().find(|(name, _)| **name == country).map(|(_, length)| *length)
}

/// Where the number that starts at `start` ends, if it is one.
fn account_end(bytes: &[u8], start: usize, length: usize) -> Option<usize> {
    let mut number = [0; LONGEST];
    let number = number.get_mut(..length)?;
    let (mut pos, mut count) = (start, 0);
    while let Some(next) = number.get_mut(count) {
        match *bytes.get(pos)? {
            byte if byte.is_ascii_alphanumeric() => {
                *next = byte.to_ascii_uppercase();
                count += 1;
            }
            // Printed in groups of four.
            b' ' | b'-' | b'.' | b'+' if count % 4 == 0 => {}
            _ => return None,
        }
        pos += 1;
    }
    number.rotate_left(4);
    (ends(bytes, pos) && mod_97(number) == 1).then_some(pos)
}

fn mod_97(number: &[u8]) -> u32 {
    number.iter().fold(0, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        letter => (rest * 100 + u32::from(letter - b'A') + 10) % 97,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::super::tests::found;

    #[test]
    fn accounts_are_found_and_checked() {
        for (text, account) in [
            ("DE89370400440532013000", "DE89370400440532013000"),
            ("to GB82 WEST 1234 5698 7654 32 GBP", "GB82 WEST 1234 5698 7654 32"),
            ("iban=nl91abna0417164300&x", "nl91abna0417164300"),
        ] {
            assert_eq!(found(Preset::Iban, text), [account], "{text}");
        }
        for text in ["DE89370400440532013001", "XX89370400440532013000", "DE8937040044053201300"] {
            assert!(found(Preset::Iban, text).is_empty(), "{text}");
        }
    }
}
