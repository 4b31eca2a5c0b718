//! What is wrong with settings, and where a sampler stands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use watershed_sampling::register;
use watershed_stage::{Part, Placement, Registry, Signal};

/// The keys that are wrong, each with what is said of it.
fn errors(settings: &str) -> Vec<(String, String)> {
    let settings = toml::from_str(settings).unwrap();
    match register(Registry::new()).parse_processor("probabilistic_sampler", settings).unwrap() {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| (error.key, error.message)).collect(),
    }
}

#[track_caller]
fn assert_errors(settings: &str, expected: &[(&str, &str)]) {
    let errors = errors(settings);
    let fits = errors.len() == expected.len()
        && errors.iter().zip(expected).all(|((key, said), (at, about))| key == at && said.contains(about));
    assert!(fits, "{errors:#?}");
}

#[test]
fn every_key_of_otelcol_is_known() {
    assert_errors("", &[]);
    assert_errors(
        "mode = 'proportional'\nsampling_percentage = 12.5\nhash_seed = 22\nfail_closed = false\n\
         sampling_precision = 14\nattribute_source = 'record'\nfrom_attribute = 'id'\nsampling_priority = 'p'",
        &[],
    );
    assert_errors("sampling_percentage = 150", &[]);
    assert_errors("mode = 'equalizing'\nattribute_source = 'traceID'", &[]);
}

#[test]
fn all_errors_come_at_once() {
    assert_errors(
        "sampling_percentage = -1\nsampling_precision = 0\nattribute_source = 'record'",
        &[
            ("sampling_percentage", "negative: -1%"),
            ("sampling_precision", "1 to 14"),
            ("from_attribute", "needs it"),
        ],
    );
    assert_errors("sampling_precision = 15", &[("sampling_precision", "1 to 14")]);
    assert_errors("sampling_percentage = 1e-20", &[("sampling_percentage", "too small")]);
    assert_errors("sampling_percentage = nan", &[("sampling_percentage", "invalid")]);
    assert_errors("sampling_percentage = inf", &[("sampling_percentage", "invalid")]);
    assert_errors(
        "mode = 'hash'\nhash_seed = -1\npercentage = 5",
        &[("hash_seed", "invalid value"), ("mode", "unknown variant"), ("percentage", "unknown field")],
    );
}

#[test]
fn it_stands_on_every_lane_holds_nothing_and_takes_no_metrics() {
    let spec =
        register(Registry::new()).parse_processor("probabilistic_sampler", toml::from_str("").unwrap());
    let spec = spec.unwrap().unwrap();
    let Part::Stage(stage) = spec.part() else { panic!("a stage") };
    assert_eq!((stage.placement(), stage.holds()), (Placement::Lane, false));
    assert_eq!(stage.signals(), [Signal::Traces, Signal::Logs]);
}
