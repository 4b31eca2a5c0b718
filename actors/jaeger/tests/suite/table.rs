//! What each thing of Jaeger's becomes.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::{Span as OtlpSpan, Status};

use crate::api::*;

/// The span that tags make, in protobuf and in Thrift.
fn tagged(tags: Vec<Tag>) -> OtlpSpan {
    only_span(&translate(&request(vec![Span { tags, ..span(2) }], None))).clone()
}

#[test]
fn tags_are_attributes_of_their_type() {
    let span = tagged(vec![
        text("text", "a"),
        text("empty", ""),
        boolean("yes", true),
        boolean("no", false),
        int("int", -7),
        float("float", 0.5),
        binary("bytes", &[0, 255]),
    ]);
    let expected = [
        string("text", "a"),
        string("empty", ""),
        attribute("yes", Value::BoolValue(true)),
        attribute("no", Value::BoolValue(false)),
        attribute("int", Value::IntValue(-7)),
        attribute("float", Value::DoubleValue(0.5)),
        attribute("bytes", Value::BytesValue(vec![0, 255])),
    ];
    assert_eq!(span.attributes, expected);
}

#[test]
fn the_kind_is_a_tag() {
    for (tag, kind) in [("internal", 1), ("server", 2), ("client", 3), ("producer", 4), ("consumer", 5)] {
        let span = tagged(vec![text("span.kind", tag)]);
        assert_eq!((span.kind, span.attributes.len()), (kind, 0), "{tag}");
    }
    let span = tagged(vec![text("span.kind", "ephemeral")]);
    assert_eq!((span.kind, span.attributes), (0, vec![string("span.kind", "ephemeral")]), "not lost");
}

#[test]
fn the_status_is_found_in_its_tags() {
    let (ok, error) = (text("otel.status_code", "OK"), text("otel.status_code", "ERROR"));
    let described = text("otel.status_description", "why");
    let (http, reason) = (|code| int("http.status_code", code), text("http.status_message", "down"));
    let client = text("span.kind", "client");
    let status = |code, message: &str| Some(Status { code, message: message.into() });
    for (tags, expected) in [
        (vec![], None),
        (vec![ok.clone()], status(1, "")),
        (vec![text("otel.status_code", "ok")], status(1, "")),
        (vec![error.clone(), described.clone()], status(2, "why")),
        (vec![described.clone(), boolean("error", true)], status(2, "why")),
        // The tag `error` has the last word.
        (vec![boolean("error", true), ok.clone()], status(2, "")),
        (vec![boolean("error", false), error.clone()], status(2, "")),
        (vec![boolean("error", true), http(500), reason.clone()], status(2, "down")),
        (vec![http(500), reason], status(2, "down")),
        (vec![http(503), ok], status(1, "")),
        (vec![http(404)], None),
        (vec![http(404), client.clone()], status(2, "")),
        (vec![text("http.status_code", "404"), client], status(2, "")),
        (vec![http(302)], None),
    ] {
        assert_eq!(tagged(tags.clone()).status, expected, "{tags:?}");
    }
    assert_eq!(tagged(vec![boolean("error", true), error]).attributes, []);
    assert_eq!(tagged(vec![boolean("error", false)]).attributes.len(), 1, "said, and no status");
    assert_eq!(tagged(vec![text("error", "true")]).attributes.len(), 1, "text is no verdict");
    assert_eq!(tagged(vec![described]).attributes, [string("otel.status_description", "why")]);
}

#[test]
fn what_was_left_out_and_the_state_of_the_trace_have_fields_of_their_own() {
    let span = tagged(vec![
        int("otel.dropped_attributes_count", 1),
        int("otel.dropped_events_count", 2),
        int("otel.dropped_links_count", 3),
        text("w3c.tracestate", "a=b"),
    ]);
    let counts = (
        span.dropped_attributes_count,
        span.dropped_events_count,
        span.dropped_links_count,
        &*span.trace_state,
    );
    assert_eq!((counts, span.attributes), ((1, 2, 3, "a=b"), vec![]));
    assert_eq!(
        tagged(vec![int("otel.dropped_links_count", -1)]).attributes.len(),
        1,
        "no count is below zero"
    );
}

#[test]
fn the_first_reference_to_a_parent_in_the_trace_is_the_parent() {
    let to = |trace: u8, span: u8, ref_type| SpanRef {
        trace_id: vec![trace; 16],
        span_id: vec![span; 8],
        ref_type,
    };
    let references = vec![to(1, 7, FOLLOWS_FROM), to(9, 8, CHILD_OF), to(1, 5, CHILD_OF), to(1, 6, CHILD_OF)];
    let read = translate(&request(vec![Span { references, ..span(2) }], None));
    let span = only_span(&read);
    assert_eq!(span.parent_span_id, [5; 8]);
    let links: Vec<_> =
        span.links.iter().map(|link| (link.trace_id[0], link.span_id[0], link.attributes.clone())).collect();
    let kind = |kind| vec![string("opentracing.ref_type", kind)];
    assert_eq!(links, [(1, 7, kind("follows_from")), (9, 8, kind("child_of")), (1, 6, kind("child_of"))]);
}

#[test]
fn times_add_up_and_flags_are_those_of_the_trace() {
    let start_time = time(1_700_000_000_123_456_000);
    let span = Span { start_time, duration: time(2_000_001_000), flags: 3, ..span(2) };
    let read = translate(&request(vec![span.clone()], None));
    let OtlpSpan { start_time_unix_nano: start, end_time_unix_nano: end, flags, .. } = *only_span(&read);
    assert_eq!((start, end - start, flags), (1_700_000_000_123_456_000, 2_000_001_000, 1));

    let negative = Some(Time { seconds: -5, nanos: 0 });
    let read =
        |span| otlp(watershed_jaeger::decode::Format::Proto, &prost::Message::encode_to_vec(&span)).unwrap();
    let before = read(request(vec![Span { start_time: negative, duration: negative, ..span }], None));
    assert_eq!((only_span(&before).start_time_unix_nano, only_span(&before).end_time_unix_nano), (0, 0));
}

#[test]
fn logs_are_events_named_by_a_field() {
    let logs = vec![
        Log {
            timestamp: time(5000),
            fields: vec![int("n", 1), text("event", "retry"), text("event", "again")],
        },
        Log { timestamp: time(6000), fields: vec![int("event", 1), int("otel.dropped_attributes_count", 4)] },
        Log::default(),
    ];
    let read = translate(&request(vec![Span { logs, ..span(2) }], None));
    let [first, second, third] = &only_span(&read).events[..] else { panic!("{read:?}") };
    assert_eq!((first.time_unix_nano, &*first.name), (5000, "retry"));
    assert_eq!(first.attributes, [attribute("n", Value::IntValue(1)), string("event", "again")]);
    assert_eq!((&*second.name, second.dropped_attributes_count, second.attributes.len()), ("", 4, 1));
    assert_eq!((third.time_unix_nano, &*third.name), (0, ""));
}

#[test]
fn a_process_is_a_resource() {
    let process = |tags| Some(Process { service_name: "cart".into(), tags });
    let resource = |tags| {
        let read = translate(&request(vec![span(2)], process(tags)));
        read.resource_spans[0].resource.clone().unwrap().attributes
    };
    assert_eq!(
        resource(vec![text("hostname", "h"), int("n", 1)]),
        [string("service.name", "cart"), string("host.name", "h"), attribute("n", Value::IntValue(1))]
    );
    assert_eq!(
        resource(vec![text("hostname", "h"), text("host.name", "n")]),
        [string("service.name", "cart"), string("hostname", "h"), string("host.name", "n")],
        "a name it has is kept"
    );
}

#[test]
fn spans_stand_under_their_process_and_their_scope() {
    let scoped = |id, scope: &str| {
        let tags = vec![text("otel.scope.name", scope), text("otel.scope.version", "1")];
        Span { tags, ..span(id) }
    };
    let spans = vec![scoped(1, "db"), scoped(2, "http"), scoped(3, "db"), span(4)];
    let read = translate(&request(spans, Some(Process { service_name: "cart".into(), tags: vec![] })));
    let [resource] = &read.resource_spans[..] else { panic!("{read:?}") };
    let scopes: Vec<_> = resource
        .scope_spans
        .iter()
        .map(|group| {
            let ids: Vec<u8> = group.spans.iter().map(|span| span.span_id[0]).collect();
            assert!(group.spans.iter().all(|span| span.attributes.is_empty()));
            (group.scope.clone().unwrap_or_default().name, ids)
        })
        .collect();
    assert_eq!(scopes, [("db".to_owned(), vec![1, 3]), ("http".into(), vec![2]), (String::new(), vec![4])]);
}

#[test]
fn a_spans_own_process_goes_before_that_of_the_batch() {
    let process = |name: &str| Some(Process { service_name: name.into(), tags: vec![] });
    let own = |id, name| Span { process: process(name), ..span(id) };
    let spans = vec![own(1, "a"), span(2), own(3, "a"), own(4, "b")];
    let body = prost::Message::encode_to_vec(&request(spans, process("b")));
    let read = otlp(watershed_jaeger::decode::Format::Proto, &body).unwrap();
    let resources: Vec<Vec<u8>> = read
        .resource_spans
        .iter()
        .map(|group| group.scope_spans[0].spans.iter().map(|span| span.span_id[0]).collect())
        .collect();
    assert_eq!(resources, [vec![1, 3], vec![2, 4]]);
}

#[test]
fn the_older_names_of_a_scope_are_known() {
    let tags = vec![text("otel.library.name", "db"), text("otel.library.version", "2")];
    let read = translate(&request(vec![Span { tags, ..span(1) }], None));
    let scope = read.resource_spans[0].scope_spans[0].scope.clone().unwrap();
    assert_eq!((&*scope.name, &*scope.version), ("db", "2"));
}
