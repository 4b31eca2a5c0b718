//! The SDK for Rust as an application of its own: sends what tests/peers/python/steady.py sends, and says what that says.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::{Span as _, SpanId, TraceId, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{IdGenerator, SdkTracerProvider, SpanData, SpanExporter as Exports};
use parking_lot::Mutex;
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until};
use watershed_testkit::{SeqSet, wait_until};

use super::Answer;
use crate::harness::PATIENCE;

/// Where the child leaves its answer.
const ANSWER: &str = "BLACKBOX_ANSWER";

/// A running application. Killed when dropped.
pub struct Application {
    child: Child,
    directory: TempDir,
}

impl Application {
    /// Starts it with the variables of the others, and this file over its /etc/resolv.conf.
    pub fn spawn(environment: &[(&str, String)], resolv: Option<&Path>) -> Application {
        let directory = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let mut command = match resolv {
            None => Command::new(program),
            Some(conf) => {
                let resolve = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/resolve");
                let mut command = Command::new(resolve);
                command.arg(conf).arg(program);
                command
            }
        };
        let log = File::create(directory.path().join("log")).unwrap();
        command.args(["agents::rust::application", "--exact", "--nocapture"]);
        command.envs(environment.iter().cloned()).env(ANSWER, directory.path().join("answer"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Application { child: command.spawn().unwrap(), directory }
    }

    /// What it says in the end.
    pub async fn answer(mut self) -> Answer {
        let ended = wait_until(async || self.child.try_wait().unwrap().is_some(), PATIENCE).await;
        let read = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        let (answer, log) = (read("answer"), read("log"));
        assert!(ended, "it does not end: {log}");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}; {log}"))
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test by itself: what [`Application::spawn`] starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn application() {
    let Ok(answer) = std::env::var(ANSWER) else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (spans, rate) = (number("WATERSHED_SPANS"), number("WATERSHED_RATE"));
    let resource = Resource::builder().with_service_name("rust-steady").build();
    let sdk = resource.get(&Key::new("telemetry.sdk.version")).unwrap().to_string();
    // Endpoint and all else: from the environment.
    let exporter = SpanExporter::builder().with_tonic().build().unwrap();
    let counts = Arc::<Mutex<(SeqSet, u64)>>::default();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(Counting { exporter, counts: counts.clone() })
        .with_id_generator(Numbers { run: number("WATERSHED_RUN"), ..Numbers::default() })
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("watershed.peers");
    let begin = Instant::now();
    for order in 0..spans {
        sleep_until(begin + Duration::from_secs(order) / rate as u32).await;
        let span = tracer.span_builder("order").with_attributes([KeyValue::new("order", order as i64)]);
        span.start_with_context(&tracer, &Context::new()).end();
    }
    // It waits where it is called.
    let end = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(PATIENCE)).await.unwrap();
    println!("{end:?}");
    let (acknowledged, failed) = counts.lock().clone();
    let text = json!({ "sdk": sdk, "made": spans, "acknowledged": acknowledged, "failed": failed });
    std::fs::write(answer, text.to_string()).unwrap();
}

#[derive(Debug)]
struct Counting {
    exporter: SpanExporter,
    counts: Arc<Mutex<(SeqSet, u64)>>,
}

impl Exports for Counting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let id = |span: &SpanData| u64::from_be_bytes(span.span_context.span_id().to_bytes());
        let numbers: Vec<u64> = batch.iter().map(|span| id(span) - 1).collect();
        let end = self.exporter.export(batch).await;
        println!("{}: {end:?}", numbers.len());
        let mut counts = self.counts.lock();
        match &end {
            Ok(()) => numbers.into_iter().for_each(|number| {
                counts.0.insert(number);
            }),
            Err(_) => counts.1 += numbers.len() as u64,
        }
        end
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The kit's numbers; every span is the root of its trace.
#[derive(Debug, Default)]
struct Numbers {
    run: u64,
    traces: AtomicU64,
    spans: AtomicU64,
}

impl IdGenerator for Numbers {
    fn new_trace_id(&self) -> TraceId {
        let number = self.traces.fetch_add(1, Ordering::Relaxed);
        TraceId::from(u128::from(self.run) << 64 | u128::from(number))
    }

    fn new_span_id(&self) -> SpanId {
        SpanId::from(self.spans.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
