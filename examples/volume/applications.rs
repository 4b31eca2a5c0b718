//! Five applications with the OpenTelemetry SDK, and the traces that go through them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider,
};
use tokio::time::Instant;

/// The spans of a trace, each in an application of its own: the application, what it does, and who called it.
const SPANS: [(&str, &str, Option<usize>); 5] = [
    ("api-gateway", "POST /checkout", None),
    ("order", "create order", Some(0)),
    ("payment", "charge card", Some(1)),
    ("inventory", "reserve items", Some(1)),
    ("database", "INSERT orders", Some(3)),
];

/// How many spans a trace has.
pub const WHOLE: usize = SPANS.len();

/// Of so many traces, one has failed and another one is slow.
const RARE: u64 = 100;

/// How often traces are made.
const TICK: Duration = Duration::from_millis(10);

/// How long an application may keep a span before it sends it.
const DELAY: Duration = Duration::from_millis(500);

/// What matters about a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A span of it has failed.
    Failed,
    /// It took longer than a second.
    Slow,
    /// Neither.
    Plain,
}

/// A trace as it was made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// What matters about it.
    pub kind: Kind,
    /// Whether its first application's SDK let it pass; all others do as that one did.
    pub is_sampled: bool,
}

/// Everything that was made, by trace id.
pub type Truth = HashMap<[u8; 16], Made>;

/// The applications. Needs a tokio runtime around it.
pub struct Applications {
    running: Vec<(SdkTracerProvider, SdkTracer)>,
}

impl Applications {
    /// Applications that send to `agent` what an SDK with this `share` of traces lets pass.
    pub fn start(agent: SocketAddr, share: f64) -> Result<Self, Box<dyn std::error::Error>> {
        let start = |name| -> Result<_, Box<dyn std::error::Error>> {
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(format!("http://{agent}"));
            // Nothing is lost in here: a queue for seconds, where the default one holds 2,048 spans.
            let config =
                BatchConfigBuilder::default().with_max_queue_size(1 << 18).with_scheduled_delay(DELAY);
            let processor = BatchSpanProcessor::builder(exporter.build()?).with_batch_config(config.build());
            let resource = Resource::builder().with_service_name(name).with_attributes([
                KeyValue::new("service.namespace", "shop"),
                KeyValue::new("service.version", "2.14.3"),
                KeyValue::new("k8s.pod.name", format!("{name}-6d5f7c9b8-x2x7k")),
            ]);
            let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
            let provider = SdkTracerProvider::builder()
                .with_span_processor(processor.build())
                .with_sampler(sampler)
                .with_resource(resource.build())
                .build();
            let tracer = provider.tracer("shop");
            Ok((provider, tracer))
        };
        Ok(Self { running: SPANS.into_iter().map(|(name, ..)| start(name)).collect::<Result<_, _>>()? })
    }

    /// Makes so many spans a second for so long, sends them all, and says what they were and how long it took. Blocks.
    pub fn run(self, rate: u64, seconds: Duration) -> Result<(Truth, Duration), String> {
        let (mut truth, began) = (Truth::new(), Instant::now());
        let traces = |elapsed: Duration| (rate as f64 * elapsed.as_secs_f64()) as u64 / WHOLE as u64;
        let mut number = 0;
        while began.elapsed() < seconds {
            let due = traces(began.elapsed().min(seconds));
            while number < due {
                let (id, made) = self.trace(number);
                truth.insert(id, made);
                number += 1;
            }
            #[allow(
                clippy::disallowed_methods,
                reason = "this thread is the applications' own, and blocks anyway"
            )]
            std::thread::sleep(TICK);
        }
        let took = began.elapsed();
        for (provider, _) in self.running {
            provider
                .shutdown()
                .map_err(|error| format!("an application did not send everything: {error}"))?;
        }
        Ok((truth, took))
    }

    /// Makes a trace. Its times are written, not waited for.
    fn trace(&self, number: u64) -> ([u8; 16], Made) {
        let kind = match number % RARE {
            17 => Kind::Failed,
            59 => Kind::Slow,
            _ => Kind::Plain,
        };
        #[allow(clippy::disallowed_methods, reason = "the date of a span")]
        let end = SystemTime::now();
        let lasts = Duration::from_millis(if kind == Kind::Slow { 1_400 } else { 80 + number % 400 });
        let mut contexts: [SpanContext; WHOLE] = std::array::from_fn(|_| SpanContext::NONE);
        for (at, (_, name, caller)) in SPANS.into_iter().enumerate() {
            // As it arrives from another process.
            let parent = match caller {
                Some(caller) => Context::new().with_remote_span_context(contexts[caller].clone()),
                None => Context::new(),
            };
            let tracer = &self.running[at].1;
            let begin = end - lasts + Duration::from_millis(5 * at as u64);
            let builder = tracer.span_builder(name).with_kind(SpanKind::Server).with_start_time(begin);
            let mut span = tracer.build_with_context(builder, &parent);
            if span.is_recording() {
                span.set_attributes([
                    KeyValue::new("shop.order.id", format!("order-{number:08}")),
                    KeyValue::new("enduser.id", format!("customer-{:05}", number * 37 % 50_000)),
                    KeyValue::new("http.request.method", "POST"),
                    KeyValue::new("http.route", "/checkout/{cart}"),
                    KeyValue::new("http.response.status_code", if kind == Kind::Failed { 500 } else { 201 }),
                    KeyValue::new("server.address", "shop.internal.example"),
                ]);
                if kind == Kind::Failed && at == 2 {
                    span.set_status(Status::error("the card was declined"));
                }
            }
            contexts[at] = span.span_context().clone();
            span.end_with_timestamp(end - Duration::from_millis(5 * at as u64));
        }
        let first = &contexts[0];
        (first.trace_id().to_bytes(), Made { kind, is_sampled: first.is_sampled() })
    }
}
