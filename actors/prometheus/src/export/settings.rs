//! What `prometheus` may be told, under otelcol's keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{
    ByteSize, Env, HttpServerSettings, Interval, KeyError, QueueSettings, Reference, RetrySettings,
    http_server_settings,
};

use super::store::{Bounds, Store};
use crate::naming::{Naming, Strategy, is_plain};
use crate::translate::Translation;

http_server_settings! {
    /// Settings of the `prometheus` exporter, under otelcol's keys and with its defaults.
    pub struct Settings {
        /// Stands before every metric's name.
        namespace: String = String::new(),
        /// Labels that everything has.
        const_labels: BTreeMap<String, String> = BTreeMap::new(),
        /// Say when each sample was taken, rather than leave it to the scraper.
        send_timestamps: bool = false,
        /// How long a series is served after its last point; `0s` is for ever.
        metric_expiration: Interval = Interval::secs(300),
        /// Whether a resource's attributes are labels of all its points.
        resource_to_telemetry_conversion: Switch = Switch { enabled: false },
        /// Serve OpenMetrics to who asks for it. Text has exemplars nowhere else.
        enable_open_metrics: bool = false,
        /// Append unit and type to names. Prefer `translation_strategy`.
        add_metric_suffixes: bool = true,
        /// What becomes of names; unless told, what `add_metric_suffixes` says.
        translation_strategy: Option<crate::naming::Strategy> = None,
        /// Leave out which scope points are of.
        without_scope_info: bool = false,
        /// Series there are at most; points of one more are dropped.
        max_series: usize = 1_000_000,
        /// The memory that series take at most; unless told, a quarter of the role's.
        max_bytes: Option<ByteSize> = None,
        /// What happens after a failed attempt. None fails.
        retry_on_failure: RetrySettings = RetrySettings::default(),
        /// What waits to be taken.
        sending_queue: QueueSettings = QueueSettings::default(),
        /// What is scraped. It outlives the exporter's incarnations, as its sums have to.
        #[serde(skip)]
        store: Arc<Store> = Arc::default(),
    }
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switch {
    /// Whether it is done.
    pub(crate) enabled: bool,
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = self.shared().check();
        if self.endpoint.is_none() {
            errors.push(KeyError::new(
                "endpoint",
                "requires an address to listen on, such as \"0.0.0.0:8889\"",
            ));
        }
        errors.extend(labels(&self.const_labels, "const_labels"));
        errors.extend(namespace(&self.namespace));
        errors.extend(contradiction(self.add_metric_suffixes, self.translation_strategy));
        if self.max_series == 0 {
            errors.push(KeyError::new("max_series", "must be positive"));
        }
        errors.extend(self.retry_on_failure.check().into_iter().map(|error| error.under("retry_on_failure")));
        errors.extend(self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")));
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.shared().references()
    }
}

impl Settings {
    pub(super) fn server(&self) -> HttpServerSettings {
        self.shared()
    }

    pub(super) fn address(&self) -> String {
        self.endpoint.clone().unwrap_or_default()
    }

    pub(super) fn translation(&self) -> Translation {
        Translation {
            naming: naming(self.add_metric_suffixes, self.translation_strategy, &self.namespace),
            promote: self.resource_to_telemetry_conversion.enabled,
            scopes: !self.without_scope_info,
            targets: true,
            fixed: self.const_labels.clone().into_iter().collect(),
        }
    }

    pub(super) fn bounds(&self, env: &Env) -> Bounds {
        let bytes = self.max_bytes.map_or(env.budget.limit() / 4, |ByteSize(bytes)| bytes);
        Bounds { series: self.max_series, bytes, expiration: self.metric_expiration.0 }
    }
}

/// How names are made by both exporters.
pub(crate) fn naming(suffixes: bool, strategy: Option<Strategy>, namespace: &str) -> Naming {
    let told = if suffixes {
        Strategy::UnderscoreEscapingWithSuffixes
    } else {
        Strategy::UnderscoreEscapingWithoutSuffixes
    };
    Naming { strategy: strategy.unwrap_or(told), namespace: namespace.to_owned() }
}

/// Suffixes can be asked for by two keys.
pub(crate) fn contradiction(suffixes: bool, strategy: Option<Strategy>) -> Option<KeyError> {
    let strategy = strategy.filter(|strategy| !suffixes && strategy.suffixes())?;
    let message = format!("contradicts `translation_strategy = {strategy:?}`: keep one of the two");
    Some(KeyError::new("add_metric_suffixes", message))
}

/// What is wrong with labels that are added to everything.
pub(crate) fn labels(labels: &BTreeMap<String, String>, key: &str) -> Vec<KeyError> {
    let wrong = labels.keys().filter(|name| !is_plain(name, false) || name.starts_with("__"));
    let error = |name: &String| {
        let message = "is no name for a label: use letters, digits and `_`, and no `__` at its beginning";
        KeyError::new(format!("{key}.{name}"), message)
    };
    wrong.map(error).collect()
}

/// What is wrong with what stands before names.
pub(crate) fn namespace(namespace: &str) -> Option<KeyError> {
    let good = namespace.is_empty() || is_plain(namespace, true);
    let message = format!("{namespace:?} can not begin a name: use letters, digits and `_`");
    (!good).then(|| KeyError::new("namespace", message))
}
