//! One export against a collector that answers by the name of the service.

#![allow(clippy::unwrap_used, clippy::panic)]

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use watershed_net::{Call, ServerOptions, Status, StopSignal, Unary, serve};
use watershed_stage::{Context, Extensions, Metrics, Origin, Shelf, Tracing};

use super::*;

struct Collector(Arc<Budget>);

impl Unary for Collector {
    fn admit(&self, _: &Call, length: u64) -> Result<Permit, Status> {
        Ok(self.0.overdraw(length))
    }

    async fn call(&self, _: Call, message: Bytes, _: Permit) -> Result<Bytes, Status> {
        let is_of = |service: &str| message.windows(service.len()).any(|bytes| bytes == service.as_bytes());
        match () {
            () if is_of("wrong") => Err(Status::new(Code::InvalidArgument, "wrong")),
            () if is_of("large") => Err(Status::new(Code::ResourceExhausted, "large")),
            () if is_of("later") => Err(Status::new(Code::Unavailable, "later")),
            () => Ok(Bytes::new()),
        }
    }

    fn panicked(&self, message: &str) {
        panic!("{message}");
    }
}

fn env() -> Env {
    Env {
        id: "jaeger".into(),
        pipeline: None,
        lane: 0,
        copies: 1,
        budget: Budget::new(1 << 30),
        metrics: Metrics::default(),
        tracing: Tracing::default(),
        extensions: Extensions::default(),
        shelf: Shelf::default(),
        notes: None,
        ends: Arc::default(),
    }
}

/// So many spans of each service.
fn payload(services: &[(&str, usize)]) -> Payload {
    let group = |(service, spans): &(&str, usize)| {
        let value = Some(AnyValue { value: Some(Value::StringValue((*service).into())) });
        let attributes = vec![KeyValue { key: "service.name".into(), value, ..KeyValue::default() }];
        let spans = vec![Span::default(); *spans];
        ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }
    };
    let request = ExportTraceServiceRequest { resource_spans: services.iter().map(group).collect() };
    Payload::validate(Signal::Traces, request.encode_to_vec().into()).unwrap()
}

/// What becomes of a batch of these.
async fn exported(services: &[(&str, usize)], merged: bool) -> Result<Partial, ExportError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let settings = serde_json::from_value(serde_json::json!({ "endpoint": endpoint })).unwrap();
    let exporter = Jaeger::build(&Arc::new(settings), &env()).unwrap();
    let (lane, connections) = mpsc::channel(1);
    let (_stop, stopped) = StopSignal::new();
    let budget = Budget::new(1 << 30);
    let serving =
        serve(Arc::new(Collector(budget.clone())), connections, ServerOptions::new(budget), stopped);
    let accepting = async {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            lane.send(connection.into_std().unwrap()).await.unwrap();
        }
    };
    let context =
        Context { receiver: "r".into(), pipeline: "p".into(), origin: Origin::default(), arrived: 0 };
    let payload = payload(services);
    let batch = Batch { payload, context: Arc::new(context), trace: None, timeout: None, merged };
    tokio::select! {
        result = exporter.export(&batch) => result,
        () = serving => panic!("it serves no longer"),
        () = accepting => panic!("it accepts no longer"),
    }
}

const MIXED: [(&str, usize); 5] = [("wrong", 2), ("none", 0), ("cart", 3), ("shop", 1), ("wrong", 1)];

#[tokio::test]
async fn what_is_rejected_of_a_message_takes_nothing_with_it_that_was_taken() {
    let partial = exported(&MIXED, false).await.unwrap();
    assert_eq!(partial, Partial { rejected: 3, which: Some(vec![0, 1, 6]), message: "wrong".into() });
    assert_eq!(exported(&MIXED[1..4], false).await, Ok(Partial::default()));
}

#[tokio::test]
async fn what_is_rejected_as_a_whole_is_said_so_and_of_several_messages_in_any_case() {
    let rejected = Err(ExportError::Permanent { code: 3, reason: "wrong".into() });
    assert_eq!(exported(&[("wrong", 2)], false).await, rejected);
    assert_eq!(exported(&MIXED, true).await, rejected);
}

#[tokio::test]
async fn what_can_be_sent_again_is_first_whatever_else_there_is() {
    let large = exported(&[("wrong", 1), ("cart", 1), ("large", 1)], false).await;
    assert!(matches!(large, Err(ExportError::TooLarge { .. })), "{large:?}");
    let large = exported(&[("large", 1), ("wrong", 1)], false).await;
    assert!(matches!(large, Err(ExportError::TooLarge { .. })), "{large:?}");
    let later = exported(&[("wrong", 1), ("later", 1), ("large", 1)], false).await;
    assert!(matches!(later, Err(ExportError::Retryable { .. })), "{later:?}");
}
