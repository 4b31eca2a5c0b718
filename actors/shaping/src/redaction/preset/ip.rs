//! IP addresses. Loopback and unspecified addresses are left: they name nobody.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::{Mark, Traits, ends, starts};

pub(super) fn find(text: &str, traits: &Traits, hit: &mut impl FnMut(Range<usize>)) {
    if traits.count(Mark::Colon) >= 2 {
        v6(text, hit);
    }
    if traits.count(Mark::Dot) >= 3 && traits.count(Mark::Digit) >= 4 {
        v4(text, hit);
    }
}

fn v4(text: &str, hit: &mut impl FnMut(Range<usize>)) {
    let bytes = text.as_bytes();
    let is_inside = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    for run in runs(bytes, is_inside) {
        // A sentence may end with an address.
        let end = run.end - trailing(bytes, &run, b".");
        let is_word = starts(bytes, run.start) && ends(bytes, end);
        let address = text.get(run.start..end).and_then(|run| run.parse::<Ipv4Addr>().ok());
        if let Some(address) = address.filter(|_| is_word && !is_version(text, run.start))
            && !address.is_loopback()
            && !address.is_unspecified()
        {
            hit(run.start..end);
        }
    }
}

/// Whether four numbers at `start` are a version by what is before them: `v1.2.3.4`, `version 1.2.3.4`,
/// `Chrome/1.2.3.4`.
fn is_version(text: &str, start: usize) -> bool {
    let before = text.get(..start).unwrap_or_default();
    if let Some(before) = before.strip_suffix('/') {
        // A product's name as in a user agent, and no path: what is no name's is not looked behind.
        let end = before.rfind([' ', ';', '(', '"', '/', ':', '.']);
        let (left, name) = end.map_or(("", before), |end| before.split_at(end + 1));
        return name.starts_with(|c: char| c.is_ascii_uppercase()) && !left.ends_with(['/', ':', '.']);
    }
    let is_after = |text: &str, word: &str| {
        let split = text.len().checked_sub(word.len()).and_then(|at| Some((at, text.get(at..)?)));
        split.is_some_and(|(at, end)| end.eq_ignore_ascii_case(word) && starts(text.as_bytes(), at))
    };
    // A lone `v` calls only what it is written onto: `v=1.2.3.4` is a value.
    let named = before.trim_end_matches([' ', ':', '=', '"', '\'', '\\', '>']);
    is_after(before, "v")
        || ["version", "ver", "release", "firmware"].iter().any(|word| is_after(named, word))
}

fn v6(text: &str, hit: &mut impl FnMut(Range<usize>)) {
    let bytes = text.as_bytes();
    let is_inside = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    for run in runs(bytes, is_inside) {
        let mut end = run.end - trailing(bytes, &run, b".");
        if !bytes.get(..end).is_some_and(|bytes| bytes.ends_with(b"::")) {
            end -= trailing(bytes, &(run.start..end), b":");
        }
        // What is before the address may look like a group of it, as the end of a word before a colon does.
        let mut start = run.start;
        while start < end {
            let word = text.get(start..end).unwrap_or_default();
            let is_word = starts(bytes, start) && ends(bytes, end);
            if is_word && word.parse::<Ipv6Addr>().is_ok_and(|address| is_telling(&address)) {
                hit(start..zone_end(bytes, end));
                break;
            }
            match word.find(':') {
                Some(colon) if colon + 1 < word.len() => start += colon + 1,
                _ => break,
            }
        }
    }
}

/// Whether an address is of a range in use. Anything else is more likely a path, as `abc::def`, than an address.
fn is_telling(address: &Ipv6Addr) -> bool {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xFFFF, ..] => {
            address.to_ipv4_mapped().is_some_and(|v4| !v4.is_loopback() && !v4.is_unspecified())
        }
        // Global unicast, NAT64, unique local, link-local, multicast.
        [first, ..] => matches!(first, 0x2000..=0x3FFF | 0x64 | 0xFC00..=0xFDFF | 0xFE80..=0xFEBF | 0xFF00..),
    }
}

/// After the zone of a link-local address: `fe80::1%eth0`.
fn zone_end(bytes: &[u8], end: usize) -> usize {
    match bytes.get(end..) {
        Some([b'%', zone @ ..]) => {
            end + 1 + zone.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count()
        }
        _ => end,
    }
}

fn runs(bytes: &[u8], is_inside: impl Fn(&u8) -> bool) -> impl Iterator<Item = Range<usize>> {
    let mut pos = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(pos..)?;
        let start = pos + rest.iter().position(|byte| *byte != b'.' && is_inside(byte))?;
        pos = start + bytes.get(start..)?.iter().take_while(|byte| is_inside(byte)).count();
        Some(start..pos)
    })
}

/// How many of these bytes a run ends with.
fn trailing(bytes: &[u8], run: &Range<usize>, set: &[u8]) -> usize {
    let run = bytes.get(run.clone()).unwrap_or_default();
    run.iter().rev().take_while(|byte| set.contains(byte)).count()
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::super::tests::found;

    #[test]
    fn addresses_are_found_in_what_is_around_them() {
        for (text, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("http://10.1.2.3:8080/x", "10.1.2.3"),
            ("from 203.0.113.9.", "203.0.113.9"),
            ("/api/v1/198.51.100.7", "198.51.100.7"),
            ("host/198.51.100.7", "198.51.100.7"),
            ("q=%20198.51.100.7", "198.51.100.7"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("peer 2001:0db8:0000:0000:0000:0000:0000:0001.", "2001:0db8:0000:0000:0000:0000:0000:0001"),
            ("ip:2001:db8::a", "2001:db8::a"),
            ("face:2001:db8::a", "2001:db8::a"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ] {
            assert_eq!(found(Preset::Ip, text).first(), Some(&address), "{text}");
        }
    }

    #[test]
    fn versions_times_and_paths_are_none() {
        for text in [
            "127.0.0.1",
            "0.0.0.0",
            "::1",
            "v1.2.3.4",
            "version: 1.2.3.4",
            "Chrome/120.0.0.0",
            "1.3.6.1.4.1",
            "256.1.1.1",
            "01.02.03.04",
            "12:34:56",
            "00:11:22:33:44:55",
            "std::fmt",
            "abc::def",
            "a1.2.3.4",
        ] {
            assert!(found(Preset::Ip, text).is_empty(), "{text}");
        }
    }
}
