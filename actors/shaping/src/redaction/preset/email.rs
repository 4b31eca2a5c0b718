//! E-mail addresses: RFC 5321, as far as it is used, and RFC 6531 (beyond ASCII).

use std::ops::Range;

/// Ends of file names, where `icon@2x.png` would be an address.
const FILES: [&str; 12] =
    ["png", "jpg", "jpeg", "gif", "svg", "webp", "js", "mjs", "css", "json", "tgz", "html"];

/// The longest quoted local part with its quotes, in bytes (RFC 5321, 4.5.3.1.1).
const QUOTED: usize = 66;

/// More than the longest address in brackets, in bytes: `IPv6:`, 39 digits and colons, and a zone.
const LITERAL: usize = 64;

pub(super) fn find(text: &str, hit: &mut impl FnMut(Range<usize>)) {
    for (at, _) in text.match_indices('@') {
        let start = local_start(text.as_bytes(), at);
        if start < at
            && let Some(end) = domain_end(text, at + 1)
        {
            hit(start..end);
        }
    }
}

/// Where the local part that ends at `end` starts.
fn local_start(bytes: &[u8], end: usize) -> usize {
    if let [before @ .., b'"'] = bytes.get(..end).unwrap_or_default() {
        let open = before.iter().rev().take(QUOTED - 1).position(|byte| *byte == b'"');
        return open.map_or(end, |back| end - 2 - back);
    }
    let local = bytes.get(..end).unwrap_or_default().iter().rev().take_while(|byte| is_local(**byte));
    let start = end - local.count();
    // It begins with a letter, digit or the like.
    let skipped = bytes.get(start..end).unwrap_or_default().iter();
    start + skipped.take_while(|byte| matches!(byte, b'.' | b'-' | b'\'')).count()
}

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"._+-'!#$*^`|~".contains(&byte)
}

/// Where the domain that starts at `start` ends, if it is one.
fn domain_end(text: &str, start: usize) -> Option<usize> {
    let rest = text.get(start..)?;
    if rest.starts_with('[') {
        let close = rest.bytes().take(LITERAL).position(|byte| byte == b']')?;
        let literal = rest.get(1..close)?;
        let is_address = literal.parse::<std::net::IpAddr>().is_ok() || literal.starts_with("IPv6:");
        return is_address.then_some(start + close + 1);
    }
    let is_domain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.') || !c.is_ascii();
    let len = rest.find(|c| !is_domain(c)).unwrap_or(rest.len());
    let domain = rest.get(..len)?.trim_end_matches(['.', '-']);
    // What follows a sentence without a space is no part of it: take labels while they look like a domain's.
    let (labels, top) = domain.rsplit_once('.')?;
    let is_top = top.starts_with("xn--") || top.chars().count() >= 2 && top.chars().all(char::is_alphabetic);
    let is_file = FILES.iter().any(|file| top.eq_ignore_ascii_case(file));
    (is_top && !is_file && labels.split('.').all(|label| !label.is_empty())).then_some(start + domain.len())
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::super::tests::found;

    #[test]
    fn addresses_are_found_in_what_is_around_them() {
        for (text, address) in [
            ("alice@example.com", "alice@example.com"),
            ("mail <alice.b+tag@mail.example.co.uk>.", "alice.b+tag@mail.example.co.uk"),
            ("/u?email=alice%40example.com&x=1", "alice%40example.com"),
            ("/u?place=caf%E9&email=alice%40example.com", "alice%40example.com"),
            ("q%3Dalice%2Btag%2540example.com%26", "alice%2Btag%2540example.com"),
            (r#"{\"to\":\"a@b.io\"}"#, "a@b.io"),
            (r"line\nbob@example.org", "bob@example.org"),
            ("j\u{f6}rg@b\u{fc}cher.example", "j\u{f6}rg@b\u{fc}cher.example"),
            (r#"to "john doe"@example.com now"#, r#""john doe"@example.com"#),
            ("root@[192.0.2.1]", "root@[192.0.2.1]"),
        ] {
            assert_eq!(found(Preset::Email, text), [address], "{text}");
        }
    }

    #[test]
    fn what_only_has_an_at_is_none() {
        for text in ["lodash@4.17.21", "icon@2x.png", "@user", "root@localhost", "a @ b.com", "x@.com"] {
            assert!(found(Preset::Email, text).is_empty(), "{text}");
        }
    }
}
