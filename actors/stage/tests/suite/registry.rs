//! Kinds by name, and all that is wrong with one component at once.

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{
    BatchSettings, BudgetLimit, BudgetSettings, Interval, KeyError, Part, QueueSettings, Registry, Settings,
};

use crate::kinds;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    endpoint: String,
    #[serde(default)]
    timeout: Option<Interval>,
    #[serde(default)]
    sending_queue: QueueSettings,
    #[serde(default)]
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Step {
    name: String,
}

impl Settings for Wanted {
    fn check(&self) -> Vec<KeyError> {
        let mut errors: Vec<KeyError> =
            self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")).collect();
        if self.endpoint.is_empty() && self.timeout.is_none() {
            errors.push(KeyError::new("endpoint", "must not be empty"));
        }
        if self.steps.iter().all(|step| step.name.is_empty()) {
            errors.push(KeyError::new("", "needs a step"));
        }
        errors
    }
}

impl From<Wanted> for BatchSettings {
    fn from(_: Wanted) -> Self {
        Self::default()
    }
}

/// The keys that are wrong, each with the beginning of its message.
fn errors(settings: &str) -> Vec<(String, String)> {
    let registry = Registry::new().batching::<Wanted>("wanted");
    match registry.parse_processor("wanted", toml::from_str(settings).unwrap()).unwrap() {
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
fn every_mistake_is_told_at_once() {
    assert_errors("endpoint = 'x'\nsteps = [{ name = 'a' }]", &[]);
    assert_errors(
        "
            endpoint = 'x'
            endpiont = 'y'
            timeout = '5 minutes'
            steps = [{ name = 'a' }]
            [sending_queue]
            num_consumers = 0
            queue_size = 'many'
            on_full = 'explode'
        ",
        &[
            ("endpiont", "unknown field"),
            ("sending_queue.on_full", "unknown variant"),
            ("sending_queue.queue_size", "invalid type"),
            ("timeout", "unknown unit"),
            ("sending_queue.num_consumers", "must be positive"),
        ],
    );
}

#[test]
fn a_mistake_brings_no_others_with_it() {
    // Not also: missing field `endpoint`.
    assert_errors("endpoint = 5", &[("endpoint", "invalid type")]);
    assert_errors("endpoint = 5\ntimeout = 5", &[("endpoint", "invalid type"), ("timeout", "invalid type")]);
    // Not also: needs a step.
    assert_errors("endpoint = 'x'\nsteps = [{ name = 'a' }, {}]", &[("steps.1", "missing field `name`")]);
    assert_errors("endpoint = 'x'\nsteps = [{ name = 1 }]", &[("steps.0.name", "invalid type")]);
    // But what is really missing is missed.
    assert_errors("timeout = 5", &[("timeout", "invalid type"), ("", "missing field `endpoint`")]);
    assert_errors("endpoint = ''", &[("endpoint", "must not be empty"), ("", "needs a step")]);
}

#[test]
fn kinds_have_aliases_and_are_listed_once() {
    let registry = Registry::new()
        .exporter::<kinds::Sink>("sink", &["drain"])
        .processor::<kinds::Script>("script", &[])
        .receiver::<kinds::Rx>("rx", &[]);
    assert_eq!((registry.exporters(), registry.processors()), (vec!["sink"], vec!["script"]));
    assert_eq!(registry.receivers(), ["rx"]);
    let empty = || toml::Value::Table(toml::Table::new());
    assert!(registry.parse_exporter("drain", empty()).unwrap().is_ok());
    let unknown = registry.parse_exporter("sunk", empty()).err().unwrap();
    assert_eq!(unknown.known, ["drain", "sink"]);
}

#[derive(Deserialize, JsonSchema)]
struct Limit {
    mib: u64,
}

impl Settings for Limit {}

impl From<Limit> for BudgetSettings {
    fn from(limit: Limit) -> Self {
        let limit = BudgetLimit::Bytes(limit.mib << 20);
        Self { check_interval: std::time::Duration::from_secs(1), limit, spike: None }
    }
}

#[test]
fn a_processor_may_only_say_how_others_behave() {
    let registry = Registry::new().budget::<Limit>("limit").batching::<Wanted>("wanted");
    let budget = registry.parse_processor("limit", toml::from_str("mib = 2").unwrap()).unwrap().unwrap();
    assert!(matches!(budget.part(), Part::Budget(budget) if budget.limit == BudgetLimit::Bytes(2 << 20)));
    let settings = toml::from_str("endpoint = 'x'\nsteps = [{ name = 'a' }]").unwrap();
    let batching = registry.parse_processor("wanted", settings).unwrap().unwrap();
    assert!(matches!(batching.part(), Part::Batching(batching) if *batching == BatchSettings::default()));
}
