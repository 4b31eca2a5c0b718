//! `tracestate`, and the numbers in it. What the sampler makes of them is held against the Go collector's own
//! decisions in `actors/sampling`.

use proptest::prelude::*;
use watershed_telemetry::trace_state::{Randomness, Threshold, TraceState};

#[test]
fn thresholds_are_written_without_trailing_zeros() {
    for (probability, digits, text) in [
        (1.0, 4, "0"),
        (0.5, 4, "8"),
        (0.25, 4, "c"),
        (0.01, 4, "fd70a"),
        (0.01, 14, "fd70a3d70a3d71"),
        (0.999, 4, "004189"),
        (1.0 / 3.0, 4, "aaab"),
        (Threshold::MIN_PROBABILITY, 4, "ffffffffffffff"),
    ] {
        let threshold = Threshold::of_probability(probability, digits).unwrap();
        assert_eq!(threshold.to_hex().unwrap().as_str(), text, "{probability}");
        assert_eq!(Threshold::parse(text), Some(threshold));
    }
    assert_eq!(Threshold::NEVER.to_hex(), None);
    for outside in [0.0, -0.5, 1.1, f64::NAN, Threshold::MIN_PROBABILITY / 2.0] {
        assert_eq!(Threshold::of_probability(outside, 4), None, "{outside}");
    }
}

#[test]
fn a_foreign_member_stays_and_ours_comes_first() {
    let mut state = TraceState::parse("a=1, b@c=x y ,,ot=x:1;th:4;rv:ABCDEFABCDEFAB;y:").unwrap();
    let text = |state: &TraceState<'_>| {
        let mut text = String::new();
        state.write(&mut text);
        text
    };
    assert_eq!(text(&state), "ot=rv:ABCDEFABCDEFAB;th:4;x:1;y:,a=1,b@c=x y");
    assert_eq!(state.randomness(), Some(Randomness::new(0xAB_CDEF_ABCD_EFAB)));
    state.set_threshold(Threshold::new(1 << 55));
    state.set_randomness(Randomness::new(1));
    assert_eq!(text(&state), "ot=rv:00000000000001;th:8;x:1;y:,a=1,b@c=x y");
    state.set_threshold(Threshold::NEVER);
    assert_eq!((state.threshold(), text(&TraceState::default()).as_str()), (None, ""));
}

#[test]
fn randomness_of_a_trace_id_is_its_last_seven_bytes() {
    let id = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    assert_eq!(Randomness::of_trace_id(&id).unwrap().to_hex().as_str(), "0a0b0c0d0e0f10");
    for id in [&[0; 16][..], &[], &[1; 8]] {
        assert_eq!(Randomness::of_trace_id(id), None);
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_the_same(text in "(ot=)?([a-z]{1,2}[:=][0-9a-f]{0,15}[;, ]?){0,5}|\\PC{0,20}") {
        if let Ok(state) = TraceState::parse(&text) {
            let mut once = String::new();
            state.write(&mut once);
            let again = TraceState::parse(&once).unwrap();
            let mut twice = String::new();
            again.write(&mut twice);
            prop_assert_eq!((state.threshold(), state.randomness()), (again.threshold(), again.randomness()));
            prop_assert_eq!(&once, &twice);
        }
    }

    #[test]
    fn a_threshold_lets_its_share_pass(probability in 1e-12..=1.0f64, digits in 3u32..=14) {
        let threshold = Threshold::of_probability(probability, digits).unwrap();
        // The last of three digits is off by a half, and the first is at least one.
        prop_assert!((threshold.probability() / probability - 1.0).abs() <= 0.01);
        prop_assert!(threshold.passes(Randomness::MAX));
    }
}
