//! E-mail addresses: RFC 5321, as far as it is used, and RFC 6531 (beyond ASCII). Also percent-encoded, and as
//! JSON's escape.

use std::ops::Range;

/// The `@`, in the spellings of URLs and JSON.
const ATS: [&str; 4] = ["@", "%40", "%2540", "\\u0040"];

/// Ends of file names, where `icon@2x.png` would be an address.
const FILES: [&str; 12] =
    ["png", "jpg", "jpeg", "gif", "svg", "webp", "js", "mjs", "css", "json", "tgz", "html"];

pub(super) fn find(text: &str, hit: &mut impl FnMut(Range<usize>)) {
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some((at, after)) = next_at(text, from) {
        from = after;
        let start = local_start(bytes, at);
        if start < at
            && let Some(end) = domain_end(text, after)
        {
            from = end;
            hit(start..end);
        }
    }
}

/// The next `@` at or after `from`: its start and its end.
fn next_at(text: &str, from: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes().get(from..)?;
    let starts = bytes.iter().enumerate().filter(|(_, byte)| matches!(byte, b'@' | b'%' | b'\\'));
    let mut found = starts.filter_map(|(start, _)| {
        let rest = bytes.get(start..)?;
        let at = ATS.iter().find(|at| rest.starts_with(at.as_bytes()))?;
        Some((from + start, from + start + at.len()))
    });
    found.next()
}

/// Where the local part that ends at `end` starts.
fn local_start(bytes: &[u8], end: usize) -> usize {
    if let [before @ .., b'"'] = bytes.get(..end).unwrap_or_default() {
        // Quoted; within JSON its quotes are themselves escaped.
        let open = before.iter().rposition(|byte| *byte == b'"');
        return open.filter(|open| end - open <= 66).unwrap_or(end);
    }
    let mut start = end;
    while let Some((&byte, before)) = bytes.get(..start).and_then(|before| before.split_last()) {
        start = match before {
            // A percent-encoded byte: one of the local part, or what separates it in the URL.
            [.., b'%', high] if high.is_ascii_hexdigit() && byte.is_ascii_hexdigit() => {
                match u8::from_str_radix(&format!("{}{}", *high as char, byte as char), 16) {
                    Ok(decoded) if is_local(decoded) => start - 3,
                    _ => break,
                }
            }
            // An escape of JSON is not the address's first letter.
            [.., b'\\'] if matches!(byte, b'n' | b'r' | b't') => break,
            _ if is_local(byte) => start - 1,
            _ => break,
        };
    }
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
        let close = rest.find(']')?;
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
        for text in
            ["lodash@4.17.21", "icon@2x.png", "@user", "root@localhost", "a @ b.com", "50%40", "x@.com"]
        {
            assert!(found(Preset::Email, text).is_empty(), "{text}");
        }
    }
}
