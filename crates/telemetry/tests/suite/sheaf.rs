//! Spans that are dealt out and put together again are the same spans under the same resources and scopes.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use watershed_telemetry::sheaf::{Bundle, Sheaf, deal};
use watershed_telemetry::{Payload, Signal};

use crate::generate;
use crate::mutate::rearrange;
use crate::oracle::Request;

/// A span with everything that stands above it, as bytes.
type Placed = (Vec<u8>, Span);

fn placed(request: &[u8]) -> Vec<Placed> {
    let mut all = Vec::new();
    for mut group in ExportTraceServiceRequest::decode(request).unwrap().resource_spans {
        for mut scope in std::mem::take(&mut group.scope_spans) {
            let spans = std::mem::take(&mut scope.spans);
            let above = [group.encode_to_vec(), scope.encode_to_vec()].concat();
            all.extend(spans.into_iter().map(|span| (above.clone(), span)));
        }
    }
    all
}

fn part_of(id: &[u8]) -> usize {
    id.iter().map(|byte| usize::from(*byte)).sum::<usize>() % 3
}

fn bytes(request: Request, choices: Vec<u8>) -> Vec<u8> {
    rearrange(&request.encode(), &mut choices.into_iter())
}

proptest! {
    #[test]
    fn each_part_has_its_spans_in_order_under_what_they_came_with(
        request in generate::request().prop_filter("traces", |request| request.signal() == Signal::Traces),
        choices in vec(any::<u8>(), 0..200),
    ) {
        let bytes = bytes(request, choices);
        let Ok(payload) = Payload::validate(Signal::Traces, bytes.clone().into()) else { return Ok(()) };
        let all = placed(&bytes);
        let parts = deal(&payload, 3, part_of);
        for (number, part) in parts.into_iter().enumerate() {
            let expected: Vec<Placed> =
                all.iter().filter(|(_, span)| part_of(&span.trace_id) == number).cloned().collect();
            prop_assert_eq!(part.as_ref().map_or(0, Payload::items), expected.len());
            let dealt = part.map(|part| part.to_bytes()).unwrap_or_default();
            prop_assert!(Payload::validate(Signal::Traces, dealt.clone()).is_ok());
            prop_assert_eq!(placed(&dealt), expected);
        }
    }

    #[test]
    fn a_span_is_read_again_where_it_lies(
        request in generate::request().prop_filter("traces", |request| request.signal() == Signal::Traces),
        choices in vec(any::<u8>(), 0..200),
    ) {
        let bytes = bytes(request, choices);
        prop_assume!(Payload::validate(Signal::Traces, bytes.clone().into()).is_ok());
        let mut spots = Vec::new();
        let sheaf = Sheaf::read(bytes.clone().into(), |span, spot| spots.push((span.name().to_owned(), spot)));
        let all = placed(&bytes);
        prop_assert_eq!(spots.len(), all.len());
        let mut bundle = Bundle::default();
        for ((name, spot), (_, span)) in spots.iter().zip(&all) {
            prop_assert_eq!(name, &span.name);
            prop_assert_eq!(sheaf.span(*spot).trace_id(), &span.trace_id[..]);
            bundle.add(&sheaf, &[*spot]);
        }
        let request = ExportTraceServiceRequest::decode(&bytes[..]).unwrap();
        let keys: Vec<Vec<String>> = request.resource_spans.iter().flat_map(|group| {
            let resource = group.resource.as_ref();
            let keys: Vec<String> = resource.into_iter().flat_map(|r| r.attributes.iter().map(|a| a.key.clone())).collect();
            group.scope_spans.iter().flat_map(|scope| &scope.spans).map(move |_| keys.clone())
        }).collect();
        let read = spots.iter().map(|(_, spot)| {
            sheaf.resource(*spot).attributes().map(|attribute| attribute.key().to_owned()).collect::<Vec<_>>()
        });
        prop_assert_eq!(read.collect::<Vec<_>>(), keys);
        prop_assert_eq!(bundle.spans(), all.len());
        prop_assert_eq!(placed(&bundle.finish().to_bytes()), all);
    }
}

#[test]
fn what_falls_to_one_part_is_not_copied() {
    let span = |id: u8| Span { trace_id: vec![id; 16], ..Span::default() };
    let mut request = ExportTraceServiceRequest::default();
    request.resource_spans.push(Default::default());
    request.resource_spans[0].scope_spans.push(Default::default());
    request.resource_spans[0].scope_spans[0].spans = vec![span(3), span(6)];
    let payload = Payload::validate(Signal::Traces, request.encode_to_vec().into()).unwrap();
    let parts = deal(&payload, 3, |_| 1);
    assert_eq!(parts[1].as_ref().unwrap().requests()[0].as_ptr(), payload.requests()[0].as_ptr());
    assert!(parts[0].is_none() && parts[2].is_none());
}

#[test]
fn what_many_small_groups_take_is_said_before_and_after() {
    for (groups, scopes) in [(1, 1), (1, 10_000), (10_000, 1)] {
        let spans = vec![Span { trace_id: vec![1; 16], ..Span::default() }];
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }; scopes];
        let group = ResourceSpans { scope_spans, ..ResourceSpans::default() };
        let request = ExportTraceServiceRequest { resource_spans: vec![group; groups] }.encode_to_vec();
        let sheaf = Sheaf::read(request.clone().into(), |_, _| {});
        let least = 32 * (groups + groups * scopes);
        assert!(sheaf.bytes() >= request.len() + least, "{}", sheaf.beside());
        // The shortest list has room for four.
        assert!(Sheaf::weight(&request) + 1_000 >= sheaf.beside());
        assert!(Sheaf::weight(&request) <= 4 * sheaf.beside());
    }
}
