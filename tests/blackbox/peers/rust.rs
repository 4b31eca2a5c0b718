//! The SDK for Rust, in the test's own process: sends what the clients of `tests/peers` send.
//!
//! Its HTTP exporters are given the kit's client, in plain text: one of its own would bring a second stack of HTTP and TLS.

use std::time::{Duration, SystemTime};

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::{Span as _, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    Compression, LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use watershed_testkit::web::WebClient;

use super::{Destination, Sent, Way};

/// The service that it calls itself.
pub const SERVICE: &str = "rust-peer";

const SPANS: u64 = 500;
const LOGS: u64 = 300;
const SERIES: u64 = 40;
const COLLECTIONS: u64 = 5;
/// What is exported at once.
const BATCH: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(30);
/// It is collected by hand.
const NEVER: Duration = Duration::from_secs(3_600);

/// Sends everything.
pub async fn run(to: Destination) -> Sent {
    let runtime = Handle::current();
    // The SDK waits where it is called.
    tokio::task::spawn_blocking(move || {
        let _entered = runtime.enter();
        send(&to, &runtime)
    })
    .await
    .unwrap()
}

fn send(to: &Destination, runtime: &Handle) -> Sent {
    let resource = Resource::builder().with_service_name(SERVICE).build();
    let sdk = resource.get(&Key::new("telemetry.sdk.version")).map(|version| version.to_string());
    let (spans, points, logs) = exporters(to, runtime);
    let mut sent = Sent { sdk: sdk.unwrap_or_default(), spans: 0, points: 0, logs: 0, failures: 0 };

    let provider =
        SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource.clone()).build();
    let tracer = provider.tracer("watershed.peers");
    for number in 1..=SPANS / 2 {
        let order = tracer.span_builder("order").with_kind(SpanKind::Server);
        let mut order = order.with_attributes([KeyValue::new("order", number as i64)]).start(&tracer);
        order.add_event("checked", vec![KeyValue::new("items", 3)]);
        let inside = Context::new().with_span(order);
        let payment = tracer.span_builder("payment");
        payment
            .with_attributes([KeyValue::new("currency", "EUR")])
            .start_with_context(&tracer, &inside)
            .end();
        inside.span().end();
        if 2 * number % BATCH == 0 {
            sent.spans += acknowledged(provider.force_flush(), BATCH, &mut sent.failures);
        }
    }
    let mut ends = vec![provider.shutdown()];

    let reader = PeriodicReader::builder(points).with_interval(NEVER).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).with_resource(resource.clone()).build();
    let meter = provider.meter("watershed.peers");
    let orders = meter.u64_counter("orders").with_unit("1").build();
    let durations = meter.f64_histogram("duration").with_unit("ms").build();
    for collection in 0..COLLECTIONS {
        for series in 0..SERIES {
            let attributes = [KeyValue::new("series", series as i64)];
            orders.add(1 + collection, &attributes);
            durations.record(series as f64 * 1.5, &attributes);
        }
        sent.points += acknowledged(provider.force_flush(), 2 * SERIES, &mut sent.failures);
    }
    sent.points += acknowledged(provider.shutdown(), 2 * SERIES, &mut sent.failures);

    let provider = SdkLoggerProvider::builder().with_batch_exporter(logs).with_resource(resource).build();
    let logger = provider.logger("watershed.peers");
    for number in 1..=LOGS {
        let mut record = logger.create_log_record();
        record.set_timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + number));
        record.set_severity_number(Severity::Warn);
        record.set_body(AnyValue::from(format!("order {number}: the payment took long")));
        record.add_attribute("order", number as i64);
        logger.emit(record);
        if number % BATCH == 0 {
            sent.logs += acknowledged(provider.force_flush(), BATCH, &mut sent.failures);
        }
    }
    ends.push(provider.shutdown());
    for end in ends {
        acknowledged(end, 0, &mut sent.failures);
    }
    sent
}

/// What an export that ended so has brought there.
fn acknowledged(export: OTelSdkResult, items: u64, failures: &mut u64) -> u64 {
    match export {
        Ok(()) => items,
        Err(error) => {
            println!("{error}");
            *failures += 1;
            0
        }
    }
}

fn exporters(to: &Destination, runtime: &Handle) -> (SpanExporter, MetricExporter, LogExporter) {
    let gzip = to.way == Way::Gzip;
    // The same calls of three builders that have no trait in common.
    macro_rules! exporter {
        ($exporter:ident, $path:literal) => {{
            let exporter = match to.protocol {
                "grpc" => {
                    let builder = $exporter::builder().with_tonic().with_endpoint(&to.endpoint);
                    let builder = builder.with_timeout(PATIENCE).with_tls_config(tls(to));
                    if gzip { builder.with_compression(Compression::Gzip).build() } else { builder.build() }
                }
                protocol => {
                    let json = protocol == "http/json";
                    let builder = $exporter::builder().with_http().with_http_client(Http(runtime.clone()));
                    let builder = builder.with_endpoint(to.endpoint.clone() + $path).with_timeout(PATIENCE);
                    let builder =
                        builder.with_protocol(if json { Protocol::HttpJson } else { Protocol::HttpBinary });
                    if gzip { builder.with_compression(Compression::Gzip).build() } else { builder.build() }
                }
            };
            exporter.unwrap()
        }};
    }
    (
        exporter!(SpanExporter, "/v1/traces"),
        exporter!(MetricExporter, "/v1/metrics"),
        exporter!(LogExporter, "/v1/logs"),
    )
}

fn tls(to: &Destination) -> ClientTlsConfig {
    let read = |path: String| std::fs::read(path).unwrap();
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(to.certificates.ca())));
    match to.way {
        Way::MutualTls => {
            config.identity(Identity::from_pem(read(to.certificates.cert()), read(to.certificates.key())))
        }
        _ => config,
    }
}

/// A connection a request, on the runtime of the test: the SDK calls from threads that have none.
#[derive(Debug)]
struct Http(Handle);

#[async_trait::async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let exchange = self.0.spawn(async move {
            let address = parts.uri.authority().ok_or("no address")?.as_str().parse()?;
            let text = |value: &http::HeaderValue| value.to_str().map(str::to_owned);
            let mut headers = Vec::new();
            for (name, value) in &parts.headers {
                headers.push((name.as_str(), text(value)?));
            }
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut client = WebClient::connect(address).await?;
            let reply = client.send(parts.method.as_str(), parts.uri.path(), &headers, &body).await?;
            let mut response = Response::builder().status(reply.status).body(reply.body.into())?;
            *response.headers_mut() = reply.headers;
            Ok::<_, HttpError>(response)
        });
        exchange.await?
    }
}
