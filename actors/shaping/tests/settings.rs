//! What the settings of this family mean, and what is wrong with them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use watershed_shaping::register;
use watershed_stage::{
    BatchSettings, BudgetLimit, BudgetSettings, Interval, Part, PartitionSettings, Registry, Sizer,
};

/// The keys that are wrong, each with what is said of it.
fn errors(kind: &str, settings: &str) -> Vec<(String, String)> {
    match register(Registry::new()).parse_processor(kind, toml::from_str(settings).unwrap()).unwrap() {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| (error.key, error.message)).collect(),
    }
}

#[track_caller]
fn assert_errors(kind: &str, settings: &str, expected: &[(&str, &str)]) {
    let errors = errors(kind, settings);
    let fits = errors.len() == expected.len()
        && errors.iter().zip(expected).all(|((key, said), (at, about))| key == at && said.contains(about));
    assert!(fits, "{errors:#?}");
}

fn budget(settings: &str) -> BudgetSettings {
    let spec = register(Registry::new()).parse_processor("memory_limiter", toml::from_str(settings).unwrap());
    match spec.unwrap().unwrap().part() {
        Part::Budget(budget) => budget.clone(),
        _ => panic!("a budget"),
    }
}

fn batch(settings: &str) -> BatchSettings {
    let spec = register(Registry::new()).parse_processor("batch", toml::from_str(settings).unwrap());
    match spec.unwrap().unwrap().part() {
        Part::Batching(batch) => batch.clone(),
        _ => panic!("batching"),
    }
}

#[test]
fn the_family_is_registered() {
    let kinds = register(Registry::new()).processors();
    let expected =
        ["attributes", "batch", "filter", "memory_limiter", "redaction", "resource", "resource_detection"];
    assert_eq!(kinds, expected);
}

#[test]
fn a_memory_limiter_names_a_budget() {
    let mib = |mib: u64| BudgetLimit::Bytes(mib << 20);
    let second = Duration::from_secs(1);
    assert_eq!(
        budget("limit_mib = 256"),
        BudgetSettings { check_interval: second, limit: mib(256), spike: None }
    );
    assert_eq!(
        budget("check_interval = '5s'\nlimit_mib = 256\nspike_limit_mib = 64"),
        BudgetSettings { check_interval: second * 5, limit: mib(256), spike: Some(mib(64)) }
    );
    assert_eq!(
        budget("limit_percentage = 75\nspike_limit_percentage = 15"),
        BudgetSettings {
            check_interval: second,
            limit: BudgetLimit::Percent(75),
            spike: Some(BudgetLimit::Percent(15)),
        }
    );
    // As in otelcol, the fixed limit wins, and its own spike with it.
    assert_eq!(
        budget("limit_mib = 1\nlimit_percentage = 75\nspike_limit_percentage = 15"),
        BudgetSettings { check_interval: second, limit: mib(1), spike: None }
    );
    assert_eq!(budget("limit_mib = 9223372036854775807").limit, BudgetLimit::Bytes(u64::MAX));
}

#[test]
fn a_memory_limiter_without_a_limit_is_none() {
    assert_errors("memory_limiter", "", &[("", "`limit_mib` or `limit_percentage`")]);
    assert_errors(
        "memory_limiter",
        "check_interval = '0s'\nlimit_percentage = 101\nspike_limit_percentage = 200",
        &[
            ("check_interval", "greater than zero"),
            ("limit_percentage", "at most 100"),
            ("spike_limit_percentage", "at most 100"),
            ("spike_limit_percentage", "smaller than `limit_percentage`"),
        ],
    );
    assert_errors(
        "memory_limiter",
        "limit_mib = 10\nspike_limit_mib = 10",
        &[("spike_limit_mib", "smaller than `limit_mib`")],
    );
    // A limit that can not be read is one mistake, not two.
    assert_errors("memory_limiter", "limit_mib = '10'", &[("limit_mib", "invalid type")]);
    assert_errors("memory_limiter", "limit_mib = -1", &[("limit_mib", "invalid value")]);
}

#[test]
fn batch_configures_the_exporters() {
    let of = |flush_timeout, min_size, max_size| BatchSettings {
        flush_timeout,
        min_size,
        max_size,
        sizer: Sizer::Items,
        partition: PartitionSettings::default(),
    };
    assert_eq!(batch(""), of(Interval::millis(200), 8192, 0));
    assert_eq!(
        batch("send_batch_size = 10\ntimeout = '5s'\nsend_batch_max_size = 20"),
        of(Interval::secs(5), 10, 20)
    );
    // Without a timeout nothing waits, and only the largest size holds.
    assert_eq!(batch("timeout = '0s'\nsend_batch_max_size = 9000"), of(Interval::secs(0), 0, 9000));
    assert_errors(
        "batch",
        "send_batch_max_size = 10",
        &[("send_batch_max_size", "(10) must be greater than or equal to `send_batch_size` (8192)")],
    );
    assert_eq!(batch("metadata_keys = ['x-tenant']").partition.metadata_keys, ["x-tenant"]);
    assert_errors(
        "batch",
        "metadata_keys = ['x-tenant', 'a b', 'X-Tenant']\nmetadata_cardinality_limit = 0",
        &[
            ("metadata_keys.1", "is no name of a header"),
            ("metadata_keys.2", "names \"X-Tenant\" twice"),
            ("metadata_cardinality_limit", "must be positive"),
        ],
    );
    assert_errors("batch", "send_batch_sise = 1", &[("send_batch_sise", "unknown field")]);
}

#[test]
fn a_filter_says_what_is_wrong_with_a_condition_and_where() {
    assert_errors("filter", "", &[("", "without a condition")]);
    assert_errors(
        "filter",
        r#"
        error_mode = "propagate"
        [traces]
        span = ['name == "a"', 'nme == "a"', 'attributes == nil', 'kind == SPAN_KIND_SEVER']
        spanevent = ['span.name = "x"']
        [metrics]
        datapoint = ['metric.name', 'name["x"] == 1']
        [logs]
        log_record = ['severity_number < SEVERITY_NUMBER_INFO5']"#,
        &[
            ("traces.span.1", "column 1: no path `nme`: known are name, kind, status.code"),
            ("traces.span.2", "write attributes[\"key\"]"),
            ("traces.span.3", "column 9: no constant `SPAN_KIND_SEVER`"),
            ("traces.spanevent.0", "column 11: `=` is no operator"),
            ("metrics.datapoint.0", "is a value, not a condition"),
            ("metrics.datapoint.1", "no path `name`: known are attributes, value_int"),
            ("logs.log_record.0", "column 19: no constant"),
        ],
    );
    // otelcol's form before conditions.
    assert_errors(
        "filter",
        "[spans.exclude]\nservices = ['a']\n[metrics.include]\nmetric_names = ['a']\n[logs.exclude]\nx = 1",
        &[
            ("spans", "`traces.span`"),
            ("metrics.include", "`metrics.metric`"),
            ("logs.exclude", "`logs.log_record`"),
        ],
    );
    assert_errors(
        "filter",
        "error_mode = 'loud'\nlogs.log_record = ['true']",
        &[("error_mode", "unknown variant")],
    );
}

#[test]
fn a_detector_and_its_attributes_have_known_names() {
    assert_errors("resource_detection", "", &[]);
    assert_errors(
        "resourcedetection",
        "detectors = ['env', 'system', 'container', 'k8s']\noverride = false\ntimeout = '2s'\n\
         [system]\nhostname_sources = ['os']\nresource_attributes = { 'host.id' = { enabled = true } }\n\
         [k8s.resource_attributes]\n'k8s.pod.label.app' = { enabled = false }",
        &[],
    );
    assert_errors(
        "resource_detection",
        "detectors = []\n[system]\nhostname_sources = []\nresource_attributes = { 'host.nam' = { enabled = true } }\n\
         [container.resource_attributes]\nid = { enabled = true }",
        &[
            ("detectors", "known are env, system, container, k8s"),
            ("system.hostname_sources", "[\"os\"]"),
            ("system.resource_attributes", "no attribute \"host.nam\": known are host.name, host.id"),
            ("container.resource_attributes", "known are container.id"),
        ],
    );
    assert_errors("resource_detection", "detectors = ['gcp']", &[("detectors.0", "unknown variant")]);
}
