//! Log records: what the program logs, by the SDK's bridge from `tracing`, to every receiver that asks for it.
//!
//! The log is the process's, and so is the list of those who listen. While nobody does, an event costs a look at it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry::logs::Severity;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use watershed_stage::is_hushed;

use crate::metrics::scope;
use crate::queue::Queue;

/// One line of the program may speak so often in this time, whatever it has to say: should handling a log record ever
/// make more than one, it ends here.
const BURST: (u32, Duration) = (100, Duration::from_secs(10));

/// Targets that are no log of ours: the `debug` exporter's output is telemetry, and the SDK would speak of itself.
const FOREIGN: [&str; 2] = ["watershed_debug", "opentelemetry"];

static LISTENERS: RwLock<Vec<Arc<Listener>>> = RwLock::new(Vec::new());

/// Hears what is logged. For the program's subscriber, behind its filter.
pub type LogLayer = OpenTelemetryTracingBridge<SdkLoggerProvider, SdkLogger>;

/// A layer that tells every `self_telemetry` receiver of this process what is logged.
#[must_use]
pub fn log_layer() -> LogLayer {
    OpenTelemetryTracingBridge::new(&SdkLoggerProvider::builder().with_log_processor(Tell).build())
}

/// Somebody who listens, until it is dropped.
pub(crate) struct Listening(Arc<Listener>);

#[derive(Debug)]
struct Listener {
    least: Severity,
    queue: Queue<ScopeLogs>,
    /// By place in the program: since when it is counted, and how often it has spoken since.
    spoken: Mutex<HashMap<&'static str, (Instant, u32)>>,
}

/// Hands each record to all who listen.
#[derive(Debug)]
struct Tell;

/// These records as a request. Each comes with its scope, which many share.
pub(crate) fn request(records: Vec<ScopeLogs>, resource: Resource) -> ExportLogsServiceRequest {
    let mut scopes: BTreeMap<String, ScopeLogs> = BTreeMap::new();
    for record in records {
        let name = record.scope.as_ref().map(|scope| scope.name.clone()).unwrap_or_default();
        match scopes.get_mut(&name) {
            Some(scope) => scope.log_records.extend(record.log_records),
            None => drop(scopes.insert(name, record)),
        }
    }
    let scope_logs = scopes.into_values().collect();
    let resource = ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource] }
}

// === impl Listening ===

impl Listening {
    /// Listens to what is at least as grave as this.
    pub(crate) fn start(least: Severity, queue: Queue<ScopeLogs>) -> Self {
        let listener = Arc::new(Listener { least, queue, spoken: Mutex::default() });
        LISTENERS.write().push(listener.clone());
        Self(listener)
    }

    /// What was heard since.
    pub(crate) fn take(&self) -> Vec<ScopeLogs> {
        self.0.queue.take()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENERS.write().retain(|listener| !Arc::ptr_eq(listener, &self.0));
    }
}

// === impl Listener ===

impl Listener {
    fn hear(&self, place: &'static str, record: &ScopeLogs) {
        if self.may_speak(place) {
            self.queue.push(record.clone());
        } else {
            self.queue.losses().add("repeated", 1);
        }
    }

    fn may_speak(&self, place: &'static str) -> bool {
        let now = Instant::now();
        let mut spoken = self.spoken.lock();
        let (since, times) = spoken.entry(place).or_insert((now, 0));
        if now.duration_since(*since) >= BURST.1 {
            (*since, *times) = (now, 0);
        }
        *times = times.saturating_add(1);
        *times <= BURST.0
    }
}

// === impl Tell ===

impl LogProcessor for Tell {
    fn event_enabled(&self, level: Severity, target: &str, _: Option<&str>) -> bool {
        LISTENERS.read().iter().any(|listener| level >= listener.least)
            && !is_hushed()
            && !FOREIGN.iter().any(|foreign| target.starts_with(foreign))
    }

    fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
        let (place, level) = (record.event_name().unwrap_or_default(), record.severity_number());
        let mut told = LogRecord::from(&*record);
        told.time_unix_nano = told.observed_time_unix_nano;
        // The place in the source is no name of an event.
        told.event_name.clear();
        let scope = Some(scope(record.target().map_or("watershed", |target| target)));
        let told = ScopeLogs { scope, log_records: vec![told], ..ScopeLogs::default() };
        for listener in LISTENERS.read().iter().filter(|listener| level >= Some(listener.least)) {
            listener.hear(place, &told);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use tracing_subscriber::layer::SubscriberExt as _;
    use watershed_stage::Signal;

    use super::*;
    use crate::queue::Losses;
    use crate::queue::tests::{env, lost};

    fn text(record: &LogRecord) -> &str {
        match record.body.as_ref().and_then(|body| body.value.as_ref()) {
            Some(Value::StringValue(text)) => text,
            _ => "",
        }
    }

    /// What is heard of `level` and above. Other tests of this process speak through subscribers of their own.
    fn heard(least: Severity, speak: impl Fn()) -> (Vec<ScopeLogs>, u64) {
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock();
        let env = env();
        let listening = Listening::start(least, Queue::new(Losses::new(&env, Signal::Logs)));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log_layer()), speak);
        (listening.take(), lost(&env))
    }

    #[test]
    fn records_come_with_level_text_fields_and_place() {
        let (records, _) = heard(Severity::Info, || {
            tracing::debug!("too quiet");
            tracing::warn!(answer = 42, "heard");
            tracing::info!(target: "other", "heard, too");
            tracing::info!(target: "watershed_debug", "somebody's span");
        });
        let request = request(records, Resource::default());
        let scopes = &request.resource_logs[0].scope_logs;
        let names: Vec<&str> = scopes.iter().filter_map(|scope| Some(&*scope.scope.as_ref()?.name)).collect();
        assert_eq!(names, ["other", module_path!()]);
        let [record] = &scopes[1].log_records[..] else { panic!("{scopes:?}") };
        assert_eq!((text(record), &*record.severity_text, record.severity_number), ("heard", "WARN", 13));
        assert_eq!((&*record.attributes[0].key, &*record.event_name), ("answer", ""));
        assert!(record.time_unix_nano > 0);
    }

    #[test]
    fn one_place_does_not_drown_the_others() {
        let (records, lost) = heard(Severity::Info, || {
            for _ in 0..BURST.0 + 20 {
                tracing::info!("again");
            }
            tracing::info!("once");
        });
        assert_eq!((records.len(), lost), (BURST.0 as usize + 1, 20));
        assert_eq!(text(&records.last().unwrap().log_records[0]), "once");
    }
}
