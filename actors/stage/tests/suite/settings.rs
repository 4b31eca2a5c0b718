//! Settings that kinds share.

use std::time::Duration;

use proptest::prelude::*;
use serde::Deserialize;
use watershed_stage::{BatchSettings, ByteSize, Interval, KeyError, QueueSettings, RetrySettings, Settings};

fn interval(text: &str) -> Result<Duration, String> {
    let value = toml::Value::String(text.into());
    Interval::deserialize(value).map(|interval| interval.0).map_err(|error| error.to_string())
}

fn size(value: impl Into<toml::Value>) -> Result<u64, String> {
    ByteSize::deserialize(value.into()).map(|size| size.0).map_err(|error| error.to_string())
}

fn keys(errors: &[KeyError]) -> Vec<&str> {
    errors.iter().map(|error| error.key.as_str()).collect()
}

#[test]
fn intervals_are_written_as_in_go() {
    let good = [
        ("0", Duration::ZERO),
        ("0s", Duration::ZERO),
        ("15ns", Duration::from_nanos(15)),
        ("200ms", Duration::from_millis(200)),
        ("1.5s", Duration::from_millis(1500)),
        (".5s", Duration::from_millis(500)),
        ("1h30m", Duration::from_secs(5400)),
        ("3us", Duration::from_micros(3)),
        ("3\u{b5}s", Duration::from_micros(3)),
        ("3\u{3bc}s", Duration::from_micros(3)),
        ("1m0.25s", Duration::from_millis(60_250)),
    ];
    for (text, expected) in good {
        assert_eq!(interval(text), Ok(expected), "{text}");
    }
    let bad = [
        ("", "empty"),
        ("5", "no unit"),
        ("1h5", "no unit"),
        ("5 s", "unknown unit"),
        ("5sec", "unknown unit"),
        ("1d", "unknown unit"),
        ("-5s", "not a duration"),
        ("s", "not a duration"),
        ("1..5s", "not a duration"),
        ("soon", "not a duration"),
        ("99999999999999999999h", "too long"),
    ];
    for (text, expected) in bad {
        let error = interval(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(Interval::deserialize(toml::Value::Integer(5)).is_err());
}

#[test]
fn sizes_are_numbers_with_or_without_a_unit() {
    let good = [
        ("0", 0),
        ("17", 17),
        ("17B", 17),
        ("512kB", 512_000),
        ("4KiB", 4096),
        ("4 MiB", 4 << 20),
        ("2GB", 2_000_000_000),
        ("1GiB", 1 << 30),
        ("18446744073709551615", u64::MAX),
    ];
    for (text, expected) in good {
        assert_eq!(size(text), Ok(expected), "{text}");
    }
    assert_eq!(size(4096), Ok(4096));
    let bad = [
        ("", "not a size"),
        ("MiB", "not a size"),
        ("-1", "not a size"),
        ("1.5MiB", "unknown unit"),
        ("4Mib", "unknown unit"),
        ("18446744073709551616", "not a size"),
        ("99999999999GiB", "too large"),
    ];
    for (text, expected) in bad {
        let error = size(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(size(-1).unwrap_err().contains("negative"));
    assert!(size(1.5).is_err());
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC*", number in "[0-9.]{0,30}(ns|us|µs|ms|s|m|h|B|kB|MiB|GiB)?") {
        for text in [text, number] {
            let _ = (interval(&text), size(text));
        }
    }

    #[test]
    fn whole_milliseconds_survive(ms in 0..u64::from(u32::MAX)) {
        prop_assert_eq!(interval(&format!("{ms}ms")), Ok(Duration::from_millis(ms)));
    }

    #[test]
    fn no_setting_makes_the_wait_panic(
        initial in any::<u64>(), max in any::<u64>(), multiplier in any::<f64>(), factor in any::<f64>(),
        attempt in any::<u32>(), random in 0.0..1.0,
    ) {
        let retry = RetrySettings {
            initial_interval: Interval::secs(initial),
            max_interval: Interval::secs(max),
            multiplier,
            randomization_factor: factor,
            ..RetrySettings::default()
        };
        let _ = retry.interval(attempt, random);
    }

    #[test]
    fn waits_lie_around_a_growing_interval(
        attempt in 1_u32..50, random in 0.0..1.0, factor in 0.0..=1.0, multiplier in 1.0..3.0,
    ) {
        let retry = RetrySettings { randomization_factor: factor, multiplier, ..RetrySettings::default() };
        let middle = (5.0 * multiplier.powi(attempt as i32 - 1)).min(30.0);
        let wait = retry.interval(attempt, random).as_secs_f64();
        prop_assert!(wait >= middle * (1.0 - factor) - 1e-6 && wait <= middle * (1.0 + factor) + 1e-6);
    }
}

#[test]
fn retries_are_checked() {
    let retry = |text: &str| toml::from_str::<RetrySettings>(text).unwrap().check();
    assert_eq!(retry(""), []);
    assert_eq!(keys(&retry("multiplier = 0.5")), ["multiplier"]);
    assert_eq!(keys(&retry("multiplier = inf")), ["multiplier"]);
    assert_eq!(keys(&retry("randomization_factor = nan")), ["randomization_factor"]);
    assert_eq!(keys(&retry("randomization_factor = 1.5")), ["randomization_factor"]);
    assert_eq!(retry("max_elapsed_time = '0s'"), []);
    let errors = retry("initial_interval = '40s'\nmax_elapsed_time = '20s'");
    assert_eq!(errors[0].message, "must not be less than `initial_interval`");
    assert_eq!(keys(&errors), ["max_elapsed_time", "max_elapsed_time"]);
}

#[test]
fn queues_are_checked_with_what_is_in_them() {
    let queue = |text: &str| toml::from_str::<QueueSettings>(text).unwrap().check();
    assert_eq!(queue(""), []);
    assert_eq!(keys(&queue("num_consumers = 0\nqueue_size = 0")), ["num_consumers", "queue_size"]);
    assert_eq!(keys(&queue("items_per_second = 0")), ["items_per_second"]);
    assert_eq!(keys(&queue("block_on_overflow = true\non_full = 'drop'")), ["on_full"]);
    assert_eq!(queue("block_on_overflow = true\non_full = 'block'"), []);
    assert_eq!(keys(&queue("required = true\non_full = 'drop'")), ["on_full"]);
    assert_eq!(keys(&queue("batch = { min_size = 10, max_size = 5 }")), ["batch.max_size"]);
    assert_eq!(keys(&queue("batch.sizer = 'requests'")), ["batch.sizer"]);
    // A batch of 8192 items is never full in a queue of 1000; in one of 1000 requests it may be.
    assert_eq!(keys(&queue("sizer = 'items'\nbatch = {}")), ["batch.min_size"]);
    assert_eq!(queue("batch = {}"), []);
    assert!(toml::from_str::<QueueSettings>("num_consumer = 1").is_err());
    assert_eq!(toml::from_str::<BatchSettings>("").unwrap(), BatchSettings::default());
}
