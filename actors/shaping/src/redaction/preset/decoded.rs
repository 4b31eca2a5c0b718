//! A text as it was before it was put into a URL or into JSON, with the way back.

use std::ops::Range;

use super::Traits;

/// A text without its escapes.
pub(in crate::redaction) struct Decoded {
    pub(super) text: String,
    pub(super) traits: Traits,
    /// Where each byte's escape starts in the source, and where the last one ends.
    starts: Vec<usize>,
}

/// How often a text may have been escaped: a URL in JSON in JSON.
const ROUNDS: usize = 4;

impl Decoded {
    /// `None` if there is no escape in it.
    pub(in crate::redaction) fn of(source: &str) -> Option<Self> {
        let (mut text, mut starts) = once(source)?;
        for _ in 1..ROUNDS {
            let Some(next) = once(&text) else { break };
            text = next.0;
            starts = next.1.iter().filter_map(|start| starts.get(*start).copied()).collect();
        }
        Some(Self { traits: Traits::of(&text), text, starts })
    }

    /// The range in the source.
    pub(in crate::redaction) fn source(&self, range: Range<usize>) -> Range<usize> {
        let at = |index: usize| self.starts.get(index).copied().unwrap_or_default();
        at(range.start)..at(range.end)
    }
}

/// The text without its escapes, and where each byte's escape starts in it. `None` if there is none.
fn once(source: &str) -> Option<(String, Vec<usize>)> {
    let bytes = source.as_bytes();
    // Most often there is none: a percent sign alone, or a path.
    let is_escape = |(at, first): (usize, &u8)| unescape(*first, bytes.get(at + 1..)?).map(|_| at);
    let plain = bytes.iter().enumerate().find_map(is_escape)?;
    let mut text = Vec::with_capacity(bytes.len());
    let mut starts = Vec::with_capacity(bytes.len() + 1);
    let (head, mut rest) = bytes.split_at_checked(plain)?;
    text.extend_from_slice(head);
    starts.extend(0..plain);
    while let [first, after @ ..] = rest {
        starts.push(bytes.len() - rest.len());
        let (byte, after) = unescape(*first, after).unwrap_or((*first, after));
        text.push(byte);
        rest = after;
    }
    starts.push(bytes.len());
    let decoded = match String::from_utf8(text) {
        Ok(text) => (text, starts),
        Err(error) => mended(source, error.as_bytes(), &starts),
    };
    (decoded.0.len() < source.len()).then_some(decoded)
}

/// Bytes that are no text were no escapes of one (`caf%E9`, `LIKE '%acme%'`): they stay as they are written.
fn mended(source: &str, bytes: &[u8], starts: &[usize]) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(source.len());
    let mut mended = Vec::with_capacity(source.len() + 1);
    let mut spans = starts.windows(2);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let valid = spans.by_ref().take(chunk.valid().len());
        mended.extend(valid.filter_map(|span| span.first()));
        for span in spans.by_ref().take(chunk.invalid().len()) {
            let &[start, end] = span else { continue };
            text.push_str(source.get(start..end).unwrap_or_default());
            mended.extend(start..end);
        }
    }
    mended.push(source.len());
    (text, mended)
}

/// The byte that an escape stands for, and what follows.
fn unescape(first: u8, after: &[u8]) -> Option<(u8, &[u8])> {
    match (first, after) {
        (b'%', [high, low, after @ ..]) => Some((hex(*high)? << 4 | hex(*low)?, after)),
        (b'\\', [b'n', after @ ..]) => Some((b'\n', after)),
        (b'\\', [b'r', after @ ..]) => Some((b'\r', after)),
        (b'\\', [b't', after @ ..]) => Some((b'\t', after)),
        (b'\\', [byte @ (b'"' | b'/' | b'\\'), after @ ..]) => Some((*byte, after)),
        // Beyond ASCII there is nothing that a preset looks for.
        (b'\\', [b'u', b'0', b'0', high @ b'0'..=b'7', low, after @ ..]) => {
            Some((hex(*high)? << 4 | hex(*low)?, after))
        }
        _ => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_and_found_again() {
        let source = r"a%2540b %C3%A9 \\u0041\n\/";
        let decoded = Decoded::of(source).unwrap();
        assert_eq!(decoded.text, "a@b \u{e9} A\n/");
        let at = decoded.text.find('@').unwrap();
        assert_eq!(&source[decoded.source(at..at + 1)], "%2540");
        assert_eq!(decoded.source(0..decoded.text.len()), 0..source.len());
        assert!(Decoded::of("100 % of C:\\dir").is_none());
        assert!(Decoded::of("%FF is no text").is_none());
    }

    #[test]
    fn escapes_of_no_text_stay_and_hide_no_others() {
        for (source, text) in [
            ("caf%E9 alice%40b", "caf%E9 alice@b"),
            ("LIKE '%acme%' OR alice%2540b", "LIKE '%acme%' OR alice@b"),
            ("%F0%9F%C3%A9\u{e9}%C3\u{e9}@%40%a", "%F0%9F\u{e9}\u{e9}%C3\u{e9}@@%a"),
        ] {
            let decoded = Decoded::of(source).unwrap();
            assert_eq!(decoded.text, text);
            let at = decoded.text.rfind('@').unwrap();
            assert!(source[decoded.source(at..at + 1)].ends_with("40"));
            assert_eq!(decoded.source(0..text.len()), 0..source.len());
            assert_eq!(decoded.starts.len(), text.len() + 1);
        }
    }
}
