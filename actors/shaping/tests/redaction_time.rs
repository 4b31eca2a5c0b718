//! A long text takes longer than a short one by its length and no more, whoever wrote it.
#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "The time that is taken is what is tested.")]

use std::time::{Duration, Instant};

use watershed_shaping::redaction::{Rules, Settings};
use watershed_stage::Metrics;
use watershed_telemetry::redact::Policy as _;

/// Pieces that, again and again, begin what some preset looks for and never end it, or end it each time.
const PIECES: [&str; 55] = [
    // E-mail addresses
    "@",
    "a@",
    "a@[",
    "\"@",
    "a.",
    "a@b.",
    "a@IPv6:[",
    // Cards
    "4",
    "4 ",
    "4.",
    "4  ",
    "4111111111111111a",
    "a4111111111111111",
    "4111 1111 1111 1111 ",
    "44444 ",
    // Credentials
    "://a:",
    "://",
    "a:b@",
    "pwd=\"",
    "pwd='\\",
    "token:",
    "token:bearer ",
    "key=",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN ",
    "eyJaaaaa",
    "eyJaaaaa.",
    "SG.aaaaaaaaaaaaaaaa",
    "sk-",
    "bearer ",
    "basic aaaaaa ",
    "a:",
    // Telephone numbers
    "1.",
    "1-",
    "+1",
    "+1 ",
    "00 ",
    "00491 ",
    "(2",
    "0123 ",
    "0123 456 ",
    "555-",
    "tel=1 ",
    "phone_",
    "phone\u{e9}1:",
    // Addresses of hosts
    ":",
    "a:",
    "1.2.3.4/",
    "1.2.3.4 \"",
    "fe80::1%",
    // Accounts
    "DE89",
    "DE89 ",
    "DE89    ",
    // Escapes
    "%25",
    "\\\\u0025",
];

/// The least of a few, as the machine has other work.
fn time(rules: &Rules, piece: &str, length: usize) -> Duration {
    let text = piece.repeat(length / piece.len());
    let once = || {
        let start = Instant::now();
        rules.text(&text, "");
        start.elapsed()
    };
    (0..2).map(|_| once()).min().unwrap()
}

#[test]
#[ignore = "reads the clock: run it by hand, with --ignored"]
fn no_text_takes_more_time_than_by_its_length() {
    let presets =
        ["email", "card", "token", "phone", "ip", "iban"].map(|preset| format!("{preset} = 'mask'"));
    for preset in presets.iter().chain([&presets.join(", ")]) {
        let settings = format!("allow_all_keys = true\npresets = {{ {preset} }}");
        let settings: Settings = toml::from_str(&settings).unwrap();
        let rules = Rules::new(&settings, &Metrics::default(), "redaction").unwrap();
        for piece in PIECES {
            // Eight times the length is eight times the work, or 64 times.
            let is_linear = || {
                let (short, long) = (time(&rules, piece, 8 << 10), time(&rules, piece, 64 << 10));
                println!(
                    "{preset} {piece:?}: {:.1} ns a byte",
                    long.as_secs_f64() * 1e9 / f64::from(64 << 10)
                );
                long < 24 * short + Duration::from_millis(10)
            };
            assert!((0..5).any(|_| is_linear()), "{preset}: {piece:?}");
        }
    }
}
