//! Spans, by the SDK: it draws the ids, samples, and hands over what has ended.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample, Span as SdkSpan, SpanData,
    SpanProcessor,
};
use watershed_stage::{Ended, TraceContext, Tracer, Work, Worker};

use crate::metrics::scope;
use crate::queue::Queue;

/// Makes the spans of Watershed's own work.
pub(crate) struct Spans(SdkTracer);

/// A span that has begun.
struct Begun {
    span: SdkSpan,
    context: TraceContext,
}

/// Samples what belongs to something that is sampled, and else by ratio.
#[derive(Clone, Debug)]
struct Belonging(Sampler);

/// Takes what has ended.
#[derive(Debug)]
struct Keep(Arc<Queue<Span>>);

/// These spans as a request.
pub(crate) fn request(spans: Vec<Span>, resource: Resource) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { scope: Some(scope("watershed")), spans, ..ScopeSpans::default() }];
    let resource = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource] }
}

// === impl Spans ===

impl Spans {
    /// Spans that go to `queue` when they have ended; of those that belong to nothing that is sampled, this part.
    pub(crate) fn new(queue: Arc<Queue<Span>>, ratio: f64) -> Self {
        let provider = SdkTracerProvider::builder()
            .with_sampler(Belonging(Sampler::TraceIdRatioBased(ratio)))
            .with_span_processor(Keep(queue))
            .build();
        Self(provider.tracer("watershed"))
    }
}

impl Tracer for Spans {
    fn begin(&self, work: &Work<'_>) -> Option<Box<dyn watershed_stage::Span>> {
        let (worker, kind) = match work.worker {
            Worker::Receiver => ("receiver", SpanKind::Server),
            Worker::Exporter => ("exporter", SpanKind::Client),
        };
        let parent = work.parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(span_context(parent, work.worker == Worker::Receiver))
        });
        let links = work.links.iter().map(|link| Link::with_context(span_context(link, false))).collect();
        let builder = SpanBuilder::from_name(worker).with_kind(kind).with_links(links);
        let mut span = builder.start_with_context(&self.0, &parent);
        // Most are not, and should cost nothing but the draw.
        if !span.is_recording() {
            return None;
        }
        let signal = work.signal.to_string();
        span.update_name(format!("{worker}/{}/{signal}", work.id));
        span.set_attributes([
            KeyValue::new("otelcol.component.kind", worker),
            KeyValue::new("otelcol.component.id", work.id.to_owned()),
            KeyValue::new("otelcol.signal", signal),
        ]);
        let context = trace_context(span.span_context());
        Some(Box::new(Begun { span, context }))
    }
}

// === impl Begun ===

impl watershed_stage::Span for Begun {
    fn context(&self) -> &TraceContext {
        &self.context
    }

    fn end(mut self: Box<Self>, items: usize, ended: &Ended<'_>) {
        let (outcome, reason) = match ended {
            Ended::Taken => ("success", None),
            Ended::Refused(reason) => ("refused", Some(reason)),
            Ended::Rejected(reason) => ("failure", Some(reason)),
        };
        self.span.set_attributes([
            KeyValue::new("otelcol.component.outcome", outcome),
            KeyValue::new("watershed.items", i64::try_from(items).unwrap_or(i64::MAX)),
        ]);
        if let Some(reason) = reason {
            self.span.set_status(Status::error(reason.to_string()));
        }
        self.span.end();
    }
}

// === impl Belonging ===

impl ShouldSample for Belonging {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let belongs = !links.is_empty() || parent.is_some_and(Context::has_active_span);
        let sampler = if belongs { &Sampler::AlwaysOn } else { &self.0 };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

// === impl Keep ===

impl SpanProcessor for Keep {
    fn on_start(&self, _: &mut SdkSpan, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.push(span.into());
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

fn span_context(context: &TraceContext, is_remote: bool) -> SpanContext {
    let state = context.state.as_deref().and_then(|state| state.parse::<TraceState>().ok());
    SpanContext::new(
        TraceId::from_bytes(context.trace_id),
        SpanId::from_bytes(context.span_id),
        TraceFlags::new(context.flags),
        is_remote,
        state.unwrap_or_default(),
    )
}

fn trace_context(context: &SpanContext) -> TraceContext {
    let state = context.trace_state().header();
    TraceContext {
        trace_id: context.trace_id().to_bytes(),
        span_id: context.span_id().to_bytes(),
        flags: context.trace_flags().to_u8(),
        state: (!state.is_empty()).then(|| state.into()),
    }
}

#[cfg(test)]
mod tests {
    use watershed_stage::Signal;

    use super::*;
    use crate::queue::{Losses, tests};

    const CALLER: TraceContext = TraceContext { trace_id: [7; 16], span_id: [8; 8], flags: 1, state: None };

    fn spans(ratio: f64) -> (Spans, Arc<Queue<Span>>) {
        let queue = Arc::new(Queue::new(Losses::new(&tests::env(), Signal::Traces)));
        (Spans::new(queue.clone(), ratio), queue)
    }

    fn work<'a>(parent: Option<&'a TraceContext>, links: Vec<&'a TraceContext>) -> Work<'a> {
        Work { worker: Worker::Exporter, id: "otlp", signal: Signal::Logs, parent, links }
    }

    #[test]
    fn a_span_belongs_to_its_caller_and_says_how_it_ended() {
        let (spans, queue) = spans(0.0);
        let state: Option<Arc<str>> = Some("a=1,b=2".into());
        let caller = TraceContext { state: state.clone(), ..CALLER };
        let span = spans.begin(&work(Some(&caller), Vec::new())).unwrap();
        let own = span.context().clone();
        assert_eq!((own.trace_id, own.is_sampled(), &own.state), (CALLER.trace_id, true, &state));
        assert_ne!(own.span_id, CALLER.span_id);
        assert_eq!(queue.take(), []);
        span.end(5, &Ended::Refused("not now".into()));

        let [span] = &queue.take()[..] else { panic!("not one") };
        assert_eq!((&span.name[..], span.kind), ("exporter/otlp/logs", 3));
        assert_eq!((&span.parent_span_id[..], &span.span_id[..]), (&CALLER.span_id[..], &own.span_id[..]));
        let status = span.status.as_ref().unwrap();
        assert_eq!((status.code, &*status.message), (2, "not now"));
        let keys: Vec<&str> = span.attributes.iter().map(|attribute| &*attribute.key).collect();
        assert_eq!(keys[3..], ["otelcol.component.outcome", "watershed.items"]);
    }

    #[test]
    fn what_belongs_to_several_is_a_root_with_links() {
        let (spans, queue) = spans(0.0);
        let other = TraceContext { trace_id: [9; 16], ..CALLER };
        drop(spans.begin(&work(None, vec![&CALLER, &other])).unwrap());
        let [span] = &queue.take()[..] else { panic!("not one") };
        assert_eq!((span.parent_span_id.len(), span.links.len()), (0, 2));
        assert_eq!(span.links[1].trace_id, other.trace_id);
    }

    #[test]
    fn what_belongs_to_nothing_is_sampled_by_ratio() {
        assert!(spans(0.0).0.begin(&work(None, Vec::new())).is_none());
        assert!(spans(1.0).0.begin(&work(None, Vec::new())).is_some());
        let some = spans(0.5).0;
        let drawn = (0..2000).filter(|_| some.begin(&work(None, Vec::new())).is_some()).count();
        // Ten standard deviations.
        assert!((776..=1224).contains(&drawn), "{drawn}");
    }
}
