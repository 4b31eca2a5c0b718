//! A rule of relabelling: expression, replacement and value, each after a line feed.
//!
//! Whatever they are, there is an end. Without a group to expand, the replacement is what is written, or nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_prometheus::relabel;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, '\n');
    let (Some(regex), Some(replacement), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    let Some(made) = relabel(regex, replacement, value) else { return };
    if !replacement.contains('$') {
        assert!(made.is_empty() || made == replacement);
    }
    if let Some(all) = relabel("(?P<all>.*)", "${all}", value) {
        assert_eq!(all, value);
    }
});
