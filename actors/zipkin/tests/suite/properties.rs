//! Any list of spans means in JSON what it means in protobuf, and what the oracle says.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::json;
use watershed_zipkin::{Format, Options, decode};

use crate::messages::{Annotation, Endpoint, ListOfSpans, Span};
use crate::oracle::{expected, hex, json as in_json, read};
use crate::v1::thrift;

const KEYS: [&str; 12] = [
    "error",
    "otel.status_code",
    "otel.scope.name",
    "otel.scope.version",
    "span.kind",
    "w3c.tracestate",
    "peer.service",
    "network.peer.address",
    "network.local.port",
    "http.method",
    "",
    "otlp.link.x",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-z/.]{0,12}",
        2 => "\\PC{0,12}",
        1 => "[a-z\"\\\\\n\t]{1,300}",
        1 => prop::sample::select(vec!["true", "false", "OK", "internal", "7"]).prop_map(str::to_owned),
    ]
}

/// Annotations that are events with attributes have tests of their own.
fn plain(value: &str) -> bool {
    !value.ends_with('}') && !value.contains('|')
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned), text()]
}

fn id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), length).prop_filter("an id is not all zeros", |id| id.iter().any(|byte| *byte > 0))
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let service = prop_oneof![Just(String::new()), "[ab]", text()];
    let ip = |length| prop_oneof![Just(Vec::new()), vec(any::<u8>(), length)];
    (service, ip(4), ip(16), 0..65536).prop_map(|(service_name, ipv4, ipv6, port)| Endpoint {
        service_name,
        ipv4,
        ipv6,
        port,
    })
}

fn span() -> impl Strategy<Value = Span> {
    let ids = (
        prop_oneof![id(8), id(16)],
        prop_oneof![Just(Vec::new()), Just(vec![0; 8]), id(8)],
        id(8),
        any::<bool>(),
    );
    let times = (prop_oneof![Just(0), 0..1u64 << 50], prop_oneof![Just(0), 0..1u64 << 40]);
    let ends = (prop::option::of(endpoint()), prop::option::of(endpoint()));
    let annotation = (0..1u64 << 50, text().prop_filter("plain", |value| plain(value)))
        .prop_map(|(timestamp, value)| Annotation { timestamp, value });
    let lists = (vec(annotation, 0..3), btree_map(key(), text(), 0..8));
    (ids, 0..5, text(), times, ends, lists, any::<(bool, bool)>()).prop_map(
        |(ids, kind, name, times, ends, (annotations, tags), (debug, shared))| Span {
            parent_id: if ids.3 { ids.2.clone() } else { ids.1 },
            trace_id: ids.0,
            id: ids.2,
            kind,
            name,
            timestamp: times.0,
            duration: times.1,
            local_endpoint: ends.0,
            remote_endpoint: ends.1,
            annotations,
            tags,
            debug,
            shared,
        },
    )
}

/// The same spans in version 1, more or less.
fn v1(list: &ListOfSpans) -> Vec<serde_json::Value> {
    let endpoint = |span: &Span| {
        let name = span.local_endpoint.clone().unwrap_or_default().service_name;
        json!({ "serviceName": name })
    };
    let kinds = [["", ""], ["cs", "cr"], ["sr", "ss"], ["ms", "ws"], ["wr", "mr"]];
    let spans = list.spans.iter().map(|span| {
        let core = kinds[span.kind as usize].map(|value| (value, span.timestamp));
        let others = span.annotations.iter().map(|event| (event.value.as_str(), event.timestamp));
        let events: Vec<_> = core
            .into_iter()
            .chain(others)
            .map(|(value, time)| json!({ "value": value, "timestamp": time, "endpoint": endpoint(span) }))
            .collect();
        let tags = span
            .tags
            .iter()
            .map(|(key, value)| json!({ "key": key, "value": value, "endpoint": endpoint(span) }));
        json!({
            "traceId": hex(&span.id), "id": hex(&span.id), "name": span.name, "debug": span.debug,
            "annotations": events, "binaryAnnotations": tags.collect::<Vec<_>>(),
        })
    });
    spans.collect()
}

pub fn list() -> impl Strategy<Value = ListOfSpans> {
    vec(span(), 0..6).prop_map(|spans| ListOfSpans { spans })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn protobuf_means_what_the_oracle_says(list in list()) {
        prop_assert_eq!(read(Format::Proto, &list.encode_to_vec()).unwrap(), expected(&list));
    }

    #[test]
    fn json_means_what_the_oracle_says(list in list(), pretty in any::<bool>()) {
        let json = in_json(&list);
        let text = if pretty { format!("{json:#}") } else { json.to_string() };
        prop_assert_eq!(read(Format::Json, text.as_bytes()).unwrap(), expected(&list));
    }

    #[test]
    fn what_is_cut_or_changed_is_refused_or_read_but_never_a_panic(
        list in list(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
    ) {
        let first = v1(&list);
        for (format, mut body) in [
            (Format::Proto, list.encode_to_vec()),
            (Format::Json, in_json(&list).to_string().into_bytes()),
            (Format::ThriftV1, thrift(&first)),
            (Format::JsonV1, serde_json::Value::from(first).to_string().into_bytes()),
        ] {
            for (place, byte) in &edits {
                if !body.is_empty() {
                    let place = place.index(body.len());
                    body[place] = *byte;
                }
            }
            body.truncate(end.index(body.len() + 1));
            if let Err(error) = read(format, &body) {
                prop_assert!(error.to_string().len() < 450, "{}", error);
            }
        }
    }

    #[test]
    fn memory_is_asked_for_before_it_is_taken(list in list(), most in 0..4000usize) {
        let body = list.encode_to_vec();
        let mut asked = 0;
        let payload = decode(Format::Proto, &body, Options::default(), &mut |total| {
            asked = total;
            total <= most
        });
        match payload {
            Ok(payload) => prop_assert!(payload.bytes() <= asked && asked <= most),
            Err(error) => prop_assert_eq!(error.to_string(), "no memory left to read it"),
        }
    }
}
