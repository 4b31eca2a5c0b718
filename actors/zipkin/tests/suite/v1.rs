//! Version 1: what annotations say, in JSON and in Thrift.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value as Json, json};
use watershed_thrift::{Kind, List, Protocol, Value as Thrift, Writer};
use watershed_zipkin::Format;

use crate::oracle::{attribute, read, text};

/// A span with its service.
type Served = (String, Span);

fn served(format: Format, body: &[u8]) -> Vec<Served> {
    let request = read(format, body).unwrap();
    let spans = request.resource_spans.into_iter().flat_map(|group| {
        let resource = group.resource.unwrap_or_default();
        let service = match resource.attributes.first().and_then(|name| name.value.clone()?.value) {
            Some(Value::StringValue(name)) => name,
            _ => String::new(),
        };
        group.scope_spans.into_iter().flat_map(|scope| scope.spans).map(move |span| (service.clone(), span))
    });
    spans.collect()
}

/// The same spans in both encodings, which must mean the same.
#[track_caller]
fn both(spans: &[Json]) -> Vec<Served> {
    let json = served(Format::JsonV1, json!(spans).to_string().as_bytes());
    assert_eq!(json, served(Format::ThriftV1, &thrift(spans)));
    json
}

#[track_caller]
fn one(fields: Json) -> Vec<Served> {
    let mut span = json!({ "traceId": "a", "id": "b", "name": "get" });
    for (key, value) in fields.as_object().unwrap() {
        span[key] = value.clone();
    }
    both(&[span])
}

/// JSON's spans in Thrift.
pub fn thrift(spans: &[Json]) -> Vec<u8> {
    let mut writer = Writer::new(Protocol::Binary);
    spans.iter().for_each(|span| writer.structure(|out| put_span(out, span)));
    // A list without anything around it: the type of its elements, and how many there are.
    [&[12], &(spans.len() as i32).to_be_bytes()[..], &writer.into_bytes()].concat()
}

fn id(value: &Json) -> i64 {
    u64::from_str_radix(value.as_str().unwrap(), 16).unwrap() as i64
}

fn put_span(out: &mut Writer, span: &Json) {
    let list = |key: &str| span[key].as_array().cloned().unwrap_or_default();
    out.field(1, Thrift::I64(id(&span["traceId"])));
    out.field(3, Thrift::Binary(span["name"].as_str().unwrap_or_default().as_bytes()));
    out.field(4, Thrift::I64(id(&span["id"])));
    if !span["parentId"].is_null() {
        out.field(5, Thrift::I64(id(&span["parentId"])));
    }
    let events = list("annotations");
    put_list(out, 6, &events, |out, event| {
        out.field(1, Thrift::I64(event["timestamp"].as_i64().unwrap()));
        out.field(2, Thrift::Binary(event["value"].as_str().unwrap().as_bytes()));
        put_endpoint(out, 3, &event["endpoint"]);
    });
    let tags = list("binaryAnnotations");
    put_list(out, 8, &tags, |out, tag| {
        out.field(1, Thrift::Binary(tag["key"].as_str().unwrap().as_bytes()));
        let (bytes, kind) = match &tag["value"] {
            Json::Bool(flag) => (vec![u8::from(*flag)], 0),
            Json::Number(number) if number.is_i64() => (number.as_i64().unwrap().to_be_bytes().to_vec(), 4),
            Json::Number(number) => (number.as_f64().unwrap().to_be_bytes().to_vec(), 5),
            value => (value.as_str().unwrap().as_bytes().to_vec(), 6),
        };
        out.field(2, Thrift::Binary(&bytes));
        out.field(3, Thrift::I32(kind));
        put_endpoint(out, 4, &tag["endpoint"]);
    });
    if span["debug"] == true {
        out.field(9, Thrift::Bool(true));
    }
    for (number, key) in [(10, "timestamp"), (11, "duration")] {
        if let Some(time) = span[key].as_i64() {
            out.field(number, Thrift::I64(time));
        }
    }
}

fn put_list(out: &mut Writer, number: i16, list: &[Json], put: impl Fn(&mut Writer, &Json)) {
    out.field(number, Thrift::List(List { element: Kind::Struct, len: list.len() }));
    list.iter().for_each(|element| out.structure(|out| put(out, element)));
}

fn put_endpoint(out: &mut Writer, number: i16, endpoint: &Json) {
    if endpoint.is_null() {
        return;
    }
    out.field(number, Thrift::Struct);
    out.structure(|out| {
        if let Some(ip) = endpoint["ipv4"].as_str() {
            let ip: std::net::Ipv4Addr = ip.parse().unwrap();
            out.field(1, Thrift::I32(u32::from(ip) as i32));
        }
        out.field(2, Thrift::I16(endpoint["port"].as_u64().unwrap_or_default() as u16 as i16));
        out.field(3, Thrift::Binary(endpoint["serviceName"].as_str().unwrap_or_default().as_bytes()));
    });
}

fn event(value: &str, timestamp: u64, service: &str) -> Json {
    json!({ "value": value, "timestamp": timestamp, "endpoint": { "serviceName": service } })
}

fn attributes(span: &Span) -> Vec<KeyValue> {
    let mut attributes = span.attributes.clone();
    attributes.retain(|attribute| attribute.key != "otel.zipkin.absentField.startTime");
    attributes
}

fn times((service, span): &Served) -> (&str, i32, u64, u64) {
    (service, span.kind, span.start_time_unix_nano / 1000, span.end_time_unix_nano / 1000)
}

#[test]
fn a_client_is_known_by_its_annotations() {
    let spans = one(
        json!({ "annotations": [event("cs", 10, "web"), event("cr", 30, "web"), event("lunch", 20, "web")] }),
    );
    assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), [("web", 3, 10, 30)]);
    let span = &spans[0].1;
    assert_eq!((span.events.len(), span.events[0].name.as_str(), span.name.as_str()), (1, "lunch", "get"));
    assert_eq!(attributes(span), []);
}

#[test]
fn a_server_without_times_of_its_own_shares_its_span() {
    let spans = one(json!({ "annotations": [event("sr", 10, "shop"), event("ss", 30, "shop")] }));
    assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), [("shop", 2, 10, 30)]);
    assert_eq!(attributes(&spans[0].1), [attribute("zipkin.shared", Value::BoolValue(true))]);
    let own = json!({ "timestamp": 9, "duration": 30, "annotations": [event("sr", 10, "shop"), event("ss", 30, "shop")] });
    let spans = one(own);
    assert_eq!((times(&spans[0]), attributes(&spans[0].1)), (("shop", 2, 9, 39), vec![]));
}

#[test]
fn a_client_and_its_server_become_two_spans_with_one_id() {
    let events =
        [event("cs", 10, "web"), event("sr", 15, "shop"), event("ss", 25, "shop"), event("cr", 30, "web")];
    let tags = [
        json!({ "key": "path", "value": "/", "endpoint": { "serviceName": "web" } }),
        json!({ "key": "sql", "value": "1", "endpoint": { "serviceName": "shop" } }),
        json!({ "key": "sa", "value": true, "endpoint": { "serviceName": "shop", "ipv4": "1.2.3.4", "port": 80 } }),
        json!({ "key": "ca", "value": true, "endpoint": { "serviceName": "web", "ipv4": "4.3.2.1" } }),
    ];
    let spans = one(json!({ "parentId": "c", "annotations": events, "binaryAnnotations": tags }));
    assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), [("shop", 2, 15, 25), ("web", 3, 10, 30)]);
    let [server, client] = [&spans[0].1, &spans[1].1];
    assert_eq!((&server.span_id, &server.parent_span_id), (&client.span_id, &client.parent_span_id));
    let shared = attribute("zipkin.shared", Value::BoolValue(true));
    let peer = [text("peer.service", "web"), text("network.peer.address", "4.3.2.1")];
    assert_eq!(attributes(server), [vec![text("sql", "1")], peer.to_vec(), vec![shared]].concat());
    let peer = [
        text("peer.service", "shop"),
        text("network.peer.address", "1.2.3.4"),
        attribute("network.peer.port", Value::IntValue(80)),
    ];
    assert_eq!(attributes(client), [vec![text("path", "/")], peer.to_vec()].concat());
}

#[test]
fn a_service_that_calls_itself_is_two_spans_too() {
    let events =
        [event("cs", 10, "web"), event("sr", 15, "web"), event("ss", 25, "web"), event("cr", 30, "web")];
    let spans = one(json!({ "annotations": events }));
    assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), [("web", 3, 10, 30), ("web", 2, 15, 25)]);
    let events =
        [event("ms", 10, "bus"), event("ws", 12, "bus"), event("wr", 20, "bus"), event("mr", 25, "bus")];
    let spans = one(json!({ "annotations": events }));
    assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), [("bus", 4, 10, 12), ("bus", 5, 20, 25)]);
}

#[test]
fn messages_have_a_sender_or_a_receiver_and_a_broker() {
    let broker = json!({ "key": "ma", "value": true, "endpoint": { "serviceName": "kafka" } });
    for (events, expected) in [
        (vec![event("ms", 10, "bus"), event("ws", 12, "bus")], ("bus", 4, 10, 12)),
        (vec![event("mr", 25, "bus"), event("wr", 20, "bus")], ("bus", 5, 20, 25)),
        (vec![event("mr", 25, "bus")], ("bus", 5, 25, 25)),
    ] {
        let spans = one(json!({ "annotations": events, "binaryAnnotations": [broker] }));
        assert_eq!((times(&spans[0]), spans.len()), (expected, 1));
        assert_eq!(attributes(&spans[0].1), [text("peer.service", "kafka")]);
    }
}

#[test]
fn what_is_incomplete_keeps_what_it_says() {
    let spans = one(json!({ "annotations": [event("cs", 10, "web")] }));
    assert_eq!(times(&spans[0]), ("web", 3, 10, 10));
    let spans = one(json!({ "annotations": [event("ss", 10, "web")] }));
    assert_eq!((times(&spans[0]), spans[0].1.events[0].name.as_str()), (("web", 2, 0, 0), "ss"));
    let spans = one(json!({ "timestamp": 5, "duration": 25, "annotations": [event("cr", 30, "web")] }));
    assert_eq!(
        (times(&spans[0]), spans[0].1.events.len()),
        (("web", 3, 5, 30), 0),
        "its end is that of the span"
    );
    let spans = one(
        json!({ "timestamp": 5, "duration": 2, "binaryAnnotations": [{ "key": "lc", "value": "job", "endpoint": { "serviceName": "cron" } }] }),
    );
    assert_eq!((times(&spans[0]), attributes(&spans[0].1)), (("cron", 0, 5, 7), vec![text("lc", "job")]));
}

#[test]
fn addresses_alone_say_who_was_there() {
    let at = |key: &str, service: &str| json!({ "key": key, "value": true, "endpoint": { "serviceName": service } });
    for (tags, expected, peer) in [
        (vec![at("ca", "web"), at("sa", "shop")], ("web", 0), "shop"),
        (vec![at("sa", "shop")], ("", 0), "shop"),
        (vec![at("ca", "web")], ("", 2), "web"),
    ] {
        let spans = one(json!({ "timestamp": 1, "binaryAnnotations": tags }));
        assert_eq!((spans[0].0.as_str(), spans[0].1.kind), expected);
        assert_eq!(attributes(&spans[0].1), [text("peer.service", peer)]);
    }
}

#[test]
fn values_keep_their_types() {
    let tags = json!([{ "key": "n", "value": 7 }, { "key": "d", "value": 0.5 }, { "key": "b", "value": false }, { "key": "t", "value": "7" }]);
    let spans = one(json!({ "debug": true, "timestamp": 1, "binaryAnnotations": tags }));
    assert_eq!(
        spans[0].1.attributes,
        [
            attribute("n", Value::IntValue(7)),
            attribute("d", Value::DoubleValue(0.5)),
            attribute("b", Value::BoolValue(false)),
            text("t", "7"),
            attribute("zipkin.debug", Value::BoolValue(true)),
        ]
    );
    let typed = br#"[{"traceId":"a","id":"b","timestamp":1,"binaryAnnotations":[{"type":"I64","key":"n","value":"7"}]}]"#;
    assert_eq!(served(Format::JsonV1, typed)[0].1.attributes, [attribute("n", Value::IntValue(7))]);
}

#[test]
fn any_number_of_services_in_one_span_is_a_few_parts_of_it() {
    let events: Vec<Json> = (0..1000).map(|number| event("x", 1, &format!("s{number}"))).collect();
    let spans = one(json!({ "timestamp": 1, "annotations": events }));
    assert_eq!((spans.len(), spans.iter().map(|(_, span)| span.events.len()).sum::<usize>()), (8, 1000));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let refused = |format, body: &[u8]| read(format, body).unwrap_err().to_string();
    let body = br#"[{"traceId":"a","id":"b","annotations":[{"endpoint":[]}]}]"#;
    assert_eq!(
        refused(Format::JsonV1, body),
        "[0].annotations[0].endpoint: must be an object (line 1, column 53)"
    );
    assert_eq!(refused(Format::JsonV1, b"[{\"id\":\"b\"}]"), "[0]: expected `traceId` (line 1, column 11)");
    let whole = thrift(&[json!({ "traceId": "a", "id": "b", "name": "x" })]);
    let without = |flaw: &str| format!("spans[0]: {flaw} (at byte 0)");
    assert_eq!(
        refused(Format::ThriftV1, b"no"),
        without("expected a list of structs in Thrift's binary protocol")
    );
    assert_eq!(
        refused(Format::ThriftV1, &[&whole[..], b"x"].concat()),
        format!("spans[1]: nothing may follow the list (at byte {})", whole.len())
    );
    assert_eq!(
        refused(Format::ThriftV1, &whole[..whole.len() - 1]),
        format!("spans[0]: truncated (at byte {})", whole.len() - 1)
    );
    let mut wrong = whole.clone();
    let at = wrong.iter().position(|byte| *byte == b'x').unwrap();
    wrong[at] = 0xFF;
    assert_eq!(
        refused(Format::ThriftV1, &wrong),
        format!("spans[0].name: not valid UTF-8 (at byte {})", at + 1)
    );
    let nobody = thrift(&[json!({ "traceId": "0", "id": "b" })]);
    assert!(refused(Format::ThriftV1, &nobody).starts_with("spans[0].trace_id: must be there, and not zero"));
}
