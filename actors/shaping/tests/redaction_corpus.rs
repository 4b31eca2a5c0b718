//! Five thousand made-up values against the presets: what must not leave does not, and what only looks like it is
//! left, but for as many as `docs/components/redaction.md` says.
//!
//! The corpus is generated, the same each time. The oracle knows nothing of how the presets look: it knows the
//! secret, and searches the bytes that leave for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod corpus;

use std::collections::BTreeMap;

use corpus::places::{PLACES, put};
use corpus::{Case, PRESETS, negatives, positives};
use watershed_shaping::redaction::{Rules, Settings};
use watershed_stage::{Metrics, Payload};
use watershed_telemetry::redact::redact;

fn rules(settings: &str) -> Rules {
    let settings: Settings = toml::from_str(&format!("allow_all_keys = true\n{settings}")).unwrap();
    assert!(watershed_stage::Settings::check(&settings).is_empty());
    Rules::new(&settings, &Metrics::default(), "redaction").unwrap()
}

fn all(action: &str) -> Rules {
    let presets: Vec<String> = PRESETS.iter().map(|preset| format!("{preset} = '{action}'")).collect();
    rules(&format!("summary = 'debug'\npresets = {{ {} }}", presets.join(", ")))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The value as it leaves from the place of that number.
fn pass(rules: &Rules, case: &Case, place: usize) -> (Payload, Payload) {
    let (signal, bytes) = put(case, place);
    let before = Payload::validate(signal, bytes.into()).unwrap();
    let after = redact(rules, &before);
    assert_eq!(after.items(), before.items());
    Payload::validate(signal, after.to_bytes()).expect("what leaves is valid");
    (before, after)
}

#[test]
fn nothing_that_a_preset_names_leaves_from_any_place() {
    let cases = positives();
    assert_eq!(cases.len(), 2500);
    for action in ["mask", "hash", "delete"] {
        let rules = all(action);
        for (index, case) in cases.iter().enumerate() {
            // Each value goes through several places, and all values through each.
            for place in [index / 6, index / 6 * 5 + 13, index / 6 + 9].map(|place| place % PLACES) {
                let (_, after) = pass(&rules, case, place);
                let bytes = after.to_bytes();
                let leaks = contains(&bytes, &case.secret)
                    || case.varint().is_some_and(|int| bytes.windows(int.len()).any(|window| window == int));
                assert!(!leaks, "{action} at place {place}: {case:?}");
                if action == "mask" && case.is_framed() && place != corpus::places::KEY {
                    let stays = contains(&bytes, corpus::LEAD_IN) && contains(&bytes, corpus::LEAD_OUT);
                    assert!(stays, "too much went at place {place}: {case:?}");
                }
            }
        }
    }
}

#[test]
fn what_only_looks_like_it_is_left_but_for_as_many_as_documented() {
    let cases = negatives();
    assert_eq!(cases.len(), 2500);
    let mut found = BTreeMap::new();
    for preset in PRESETS {
        let rules = rules(&format!("presets = {{ {preset} = 'mask' }}"));
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, case) in cases.iter().enumerate() {
            let (before, after) = pass(&rules, case, index % PLACES);
            if after.requests()[0].as_ptr() != before.requests()[0].as_ptr() {
                *kinds.entry(case.kind).or_default() += 1;
            }
        }
        println!("{preset}: {} of {}: {kinds:?}", kinds.values().sum::<usize>(), cases.len());
        found.insert(preset, kinds.values().sum::<usize>());
    }
    // The table of docs/components/redaction.md.
    for (preset, documented) in
        [("email", 50), ("card", 2), ("token", 50), ("phone", 50), ("ip", 50), ("iban", 0)]
    {
        assert!(found[preset] <= documented, "{preset}: {} > {documented}", found[preset]);
    }
}

#[test]
fn what_was_redacted_is_clean() {
    let rules = rules(
        "presets = { email = 'mask', card = 'hash', token = 'mask', phone = 'hash', ip = 'mask', iban = 'hash' }",
    );
    for (index, case) in positives().iter().enumerate() {
        let (_, once) = pass(&rules, case, index % PLACES);
        let twice = redact(&rules, &once);
        // A hash under a key that calls it a credential is a credential again; all others are left.
        if twice.requests()[0].as_ptr() != once.requests()[0].as_ptr() {
            panic!("{case:?}: {:?}", twice.to_bytes());
        }
    }
}
