//! What documents look like.

use serde_json::{Map, Value, json};
use watershed_elasticsearch::document::{Flaw, Mode, Plan};
use watershed_telemetry::Signal;

use super::{bulk, pairs, payload, plan};

fn written(plan: &Plan, signal: Signal, text: &Value) -> Vec<(Value, Value)> {
    pairs(&bulk(plan, &payload(signal, &text.to_string())))
}

fn attribute(key: &str, value: Value) -> Value {
    let kind = match &value {
        Value::String(_) => "stringValue",
        Value::Bool(_) => "boolValue",
        Value::Number(number) if number.is_f64() => "doubleValue",
        Value::Number(_) => "intValue",
        Value::Array(_) => return json!({"key": key, "value": {"arrayValue": {"values": value}}}),
        _ => {
            return json!({"key": key, "value": {"kvlistValue": {"values": [attribute("in", json!("side"))]}}});
        }
    };
    json!({"key": key, "value": {kind: value}})
}

const TRACE: &str = "5b8efff798038103d269b633813fc60c";
const SPAN: &str = "eee19b7ec3c1b174";

fn logs(resource: Value, scope: Value, records: Value) -> Value {
    json!({"resourceLogs": [{
        "resource": {"attributes": resource},
        "scopeLogs": [{"scope": {"name": "lib", "version": "2", "attributes": scope}, "logRecords": records}],
    }]})
}

fn record() -> Value {
    json!({
        "timeUnixNano": "1721314113467000123",
        "observedTimeUnixNano": "1721314113467654123",
        "severityNumber": 9,
        "severityText": "INFO",
        "traceId": TRACE,
        "spanId": SPAN,
        "body": {"stringValue": "a \"quoted\"\nline"},
        "attributes": [
            attribute("http.method", json!("GET")),
            attribute("n", json!(7)),
            attribute("ratio", json!(1.0)),
            attribute("map", Value::Null),
            attribute("a.geo.location.lat", json!(52.5)),
            attribute("a.geo.location.lon", json!(13.25)),
        ],
        "droppedAttributesCount": 2,
    })
}

#[test]
fn a_log_record_in_mode_otel() {
    let text = logs(json!([attribute("service.name", json!("shop"))]), json!([]), json!([record()]));
    let documents = written(&plan(Mode::Otel), Signal::Logs, &text);
    assert_eq!(
        documents,
        [(
            json!({"create": {"_index": "logs-generic.otel-default", "require_data_stream": true}}),
            json!({
                "@timestamp": "1721314113467.000123",
                "observed_timestamp": "1721314113467.654123",
                "data_stream": {"type": "logs", "dataset": "generic.otel", "namespace": "default"},
                "severity_text": "INFO",
                "severity_number": 9,
                "trace_id": TRACE,
                "span_id": SPAN,
                "body": {"text": "a \"quoted\"\nline"},
                "attributes": {
                    "http.method": "GET",
                    "n": 7,
                    "ratio": 1.0,
                    "map": {"in": "side"},
                    "a.geo.location": [13.25, 52.5],
                },
                "dropped_attributes_count": 2,
                "resource": {"attributes": {"service.name": "shop"}},
                "scope": {"name": "lib", "version": "2"},
            })
        )]
    );
}

#[test]
fn bodies_in_mode_otel_are_text_or_structured() {
    let map = json!({"kvlistValue": {"values": [attribute("k", json!("v"))]}});
    for (body, expected) in [
        (json!({"intValue": "5"}), json!({"text": "5"})),
        (json!({"doubleValue": 2.0}), json!({"text": "2.0"})),
        (json!({"bytesValue": "/w=="}), json!({"text": "ff"})),
        (map.clone(), json!({"structured": {"k": "v"}})),
        (json!({"arrayValue": {"values": [map, map]}}), json!({"structured": [{"k": "v"}, {"k": "v"}]})),
        (
            json!({"arrayValue": {"values": [map, {"intValue": "1"}]}}),
            json!({"structured": {"value": [{"k": "v"}, 1]}}),
        ),
        (json!({}), Value::Null),
    ] {
        let text = logs(json!([]), json!([]), json!([{"body": body}]));
        let documents = written(&plan(Mode::Otel), Signal::Logs, &text);
        assert_eq!(documents[0].1["body"], expected);
    }
}

#[test]
fn the_item_says_before_its_scope_and_that_before_its_resource_where_a_document_goes() {
    let dataset = |name| attribute("data_stream.dataset", json!(name));
    let plain = json!({"body": {"stringValue": "x"}});
    let own = json!({"attributes": [dataset("Item/One"), attribute("data_stream.namespace", json!("Prod"))]});
    let index = json!({"attributes": [attribute("elasticsearch.index", json!("My Index"))]});
    let resource = json!([dataset("resource"), attribute("data_stream.namespace", json!("res"))]);
    // An empty text says nothing.
    let empty = json!({"attributes": [dataset(""), attribute("data_stream.namespace", json!(""))]});
    let text = logs(resource, json!([dataset("scope")]), json!([plain, own, index, plain, empty]));
    let documents = written(&plan(Mode::Otel), Signal::Logs, &text);
    let indices: Vec<_> =
        documents.iter().map(|(action, _)| action["create"]["_index"].as_str().unwrap()).collect();
    assert_eq!(
        indices,
        [
            "logs-scope.otel-res",
            "logs-item_one.otel-prod",
            "my_index",
            "logs-scope.otel-res",
            "logs-scope.otel-res"
        ]
    );
    assert_eq!(documents[1].1["data_stream"]["dataset"], "item_one.otel");
    assert_eq!(documents[1].1["attributes"], Value::Null);
    assert_eq!(documents[2].1["data_stream"], Value::Null);
    assert_eq!(documents[3], documents[0]);
}

#[test]
fn a_static_index_and_the_ids_and_pipelines_of_records_are_taken_where_the_settings_say_so() {
    let mut plan = Plan { logs_dynamic_id: true, dynamic_pipeline: true, ..plan(Mode::None) };
    let own = json!({"attributes": [
        attribute("elasticsearch.document_id", json!("id \"1\"")),
        attribute("elasticsearch.ingest_pipeline", json!("clean")),
        attribute("elasticsearch.index", json!("elsewhere")),
    ]});
    let text = logs(json!([]), json!([]), json!([own, {}]));
    let documents = written(&plan, Signal::Logs, &text);
    let action = json!({"create": {"_index": "elsewhere", "_id": "id \"1\"", "pipeline": "clean"}});
    assert_eq!(documents[0].0, action);
    plan.indices[2] = Some("fixed".to_owned());
    let made = bulk(&plan, &payload(Signal::Logs, &text.to_string()));
    let documents = pairs(&made);
    assert_eq!(documents[0].0["create"]["_index"], "fixed");
    assert_eq!(documents[1].0, json!({"create": {"_index": "fixed"}}));
    assert_eq!(made.documents.iter().map(|document| document.has_id).collect::<Vec<_>>(), [true, false]);
    plan.logs_dynamic_id = false;
    assert_eq!(written(&plan, Signal::Logs, &text)[0].0["create"]["_id"], Value::Null);
}

#[test]
fn ids_of_content_are_those_of_the_same_document_at_each_attempt_and_of_no_other() {
    let plan = Plan { content_ids: true, ..plan(Mode::Otel) };
    let text = logs(json!([]), json!([]), json!([record(), {"timeUnixNano": "5"}, {"timeUnixNano": "6"}]));
    let documents = written(&plan, Signal::Logs, &text);
    let ids: Vec<_> = documents.iter().map(|(action, _)| action["create"]["_id"].as_str().unwrap()).collect();
    assert!(ids.iter().all(|id| id.len() == 20 && !id.contains("--------")), "{ids:?}");
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
    assert_eq!(written(&plan, Signal::Logs, &text), documents);
}

#[test]
fn a_span_and_its_events_in_mode_otel() {
    let text = json!({"resourceSpans": [{
        "resource": {"attributes": [attribute("service.name", json!("shop"))]},
        "schemaUrl": "https://opentelemetry.io/schemas/1.24.0",
        "scopeSpans": [{"scope": {"name": "a/receiver/hostmetricsreceiver/b"}, "spans": [{
            "traceId": TRACE, "spanId": SPAN, "parentSpanId": "eee19b7ec3c1b173", "traceState": "a=b",
            "name": "GET /", "kind": 2, "startTimeUnixNano": "1721314113467654123",
            "endTimeUnixNano": "1721314113469654123", "status": {"code": 2, "message": "no"},
            "links": [{"traceId": TRACE, "spanId": SPAN, "attributes": [attribute("k", json!("v"))]}],
            "events": [{"timeUnixNano": "1721314113468000000", "name": "exception",
                "attributes": [attribute("exception.type", json!("E"))]}, {"timeUnixNano": "1", "name": "bare"}],
        }]}],
    }]});
    let documents = written(&plan(Mode::Otel), Signal::Traces, &text);
    let stream = |kind| json!({"type": kind, "dataset": "hostmetricsreceiver.otel", "namespace": "default"});
    let resource = json!({"schema_url": "https://opentelemetry.io/schemas/1.24.0", "attributes": {"service.name": "shop"}});
    let scope = json!({"name": "a/receiver/hostmetricsreceiver/b"});
    assert_eq!(documents[0].0["create"]["_index"], "traces-hostmetricsreceiver.otel-default");
    assert_eq!(
        documents[0].1,
        json!({
            "@timestamp": "1721314113467.654123", "data_stream": stream("traces"),
            "trace_id": TRACE, "span_id": SPAN, "parent_span_id": "eee19b7ec3c1b173", "trace_state": "a=b",
            "name": "GET /", "kind": "Server", "duration": 2_000_000,
            "links": [{"trace_id": TRACE, "span_id": SPAN, "attributes": {"k": "v"}}],
            "status": {"code": "Error", "message": "no"}, "resource": resource, "scope": scope,
        })
    );
    assert_eq!(documents[1].0["create"]["_index"], "logs-hostmetricsreceiver.otel-default");
    assert_eq!(
        documents[1].1,
        json!({
            "@timestamp": "1721314113468.000000", "data_stream": stream("logs"), "trace_id": TRACE, "span_id": SPAN,
            "event_name": "exception", "attributes": {"exception.type": "E", "event.name": "exception"},
            "resource": resource, "scope": scope,
        })
    );
    assert_eq!(documents[2].1["attributes"], json!({"event.name": "bare"}));
}

fn metrics(metrics: Value) -> Value {
    json!({"resourceMetrics": [{"scopeMetrics": [{"metrics": metrics}]}]})
}

#[test]
fn data_points_of_one_identity_are_one_document() {
    let point = |value: Value, key: &str| {
        let mut point = json!({"timeUnixNano": "2000000", "startTimeUnixNano": "1000000",
            "attributes": [attribute("cpu", json!(key)), attribute("map", Value::Null)]});
        point.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        point
    };
    let text = metrics(json!([
        {"name": "load", "gauge": {"dataPoints": [point(json!({"asDouble": 1.0}), "0"), point(json!({"asInt": "3"}), "1")]}},
        {"name": "jobs", "sum": {"isMonotonic": true, "aggregationTemporality": 2,
            "dataPoints": [point(json!({"asInt": "5"}), "0")]}},
        {"name": "delta", "sum": {"isMonotonic": true, "aggregationTemporality": 1,
            "dataPoints": [point(json!({"asDouble": "NaN"}), "0"), point(json!({"flags": 1}), "0")]}},
        {"name": "size", "unit": "By", "histogram": {"aggregationTemporality": 1, "dataPoints": [point(json!({
            "count": "6", "sum": 9.0, "bucketCounts": ["1", "0", "2", "3"], "explicitBounds": [1.0, 2.0, 5.0]}), "0")]}},
        {"name": "wide", "unit": "By", "exponentialHistogram": {"aggregationTemporality": 1, "dataPoints": [point(json!({
            "count": "4", "scale": 0, "zeroCount": "1", "positive": {"offset": 1, "bucketCounts": ["1", "1"]},
            "negative": {"offset": 0, "bucketCounts": ["1"]}}), "0")]}},
        {"name": "old", "unit": "By", "summary": {"dataPoints": [point(json!({"count": "2", "sum": 3.5}), "0")]}},
    ]));
    let made = bulk(&plan(Mode::Otel), &payload(Signal::Metrics, &text.to_string()));
    let documents = pairs(&made);
    let templates: Vec<_> =
        documents.iter().map(|(action, _)| action["create"]["dynamic_templates"].clone()).collect();
    assert_eq!(
        templates,
        [
            json!({"metrics.load": "gauge_double", "metrics.jobs": "counter_long", "metrics.delta": "gauge_double"}),
            json!({"metrics.load": "gauge_long"}),
            json!({"metrics.size": "histogram", "metrics.wide": "histogram", "metrics.old": "summary"}),
        ]
    );
    assert_eq!(documents[0].0["create"]["_index"], "metrics-generic.otel-default");
    let mut first = documents[0].1.clone();
    let hash = first.as_object_mut().unwrap().remove("_metric_names_hash").unwrap();
    assert_ne!(documents[1].1["_metric_names_hash"], hash);
    assert_eq!(
        first,
        json!({
            "@timestamp": "2.000000", "start_timestamp": "1.000000",
            "data_stream": {"type": "metrics", "dataset": "generic.otel", "namespace": "default"},
            "attributes": {"cpu": "0", "map": "{\"in\":\"side\"}"},
            "metrics": {"load": 1.0, "jobs": 5, "delta": 0.0},
        })
    );
    assert_eq!(documents[2].1["unit"], "By");
    assert_eq!(
        documents[2].1["metrics"],
        json!({
            "size": {"values": [0.5, 3.5, 5.0], "counts": [1, 2, 3]},
            "wide": {"values": [-1.5, 0.0, 3.0, 6.0], "counts": [1, 1, 1, 1]},
            "old": {"sum": 3.5, "value_count": 2},
        })
    );
    let items: Vec<&[u32]> = made.documents.iter().map(|document| made.items(document)).collect();
    assert_eq!(items, [&[0, 2, 3][..], &[1], &[5, 6, 7]]);
}

#[test]
fn what_cannot_be_a_document_is_named_with_its_items() {
    let point = json!({"timeUnixNano": "1", "asInt": "1"});
    let text = metrics(json!([
        {"name": "twice", "gauge": {"dataPoints": [point, point]}},
        {"name": "sum", "histogram": {"aggregationTemporality": 2, "dataPoints": [{"count": "1"}]}},
    ]));
    let made = bulk(&plan(Mode::Otel), &payload(Signal::Metrics, &text.to_string()));
    let flaws: Vec<_> =
        made.documents.iter().map(|document| (document.flaw, made.items(document).to_vec())).collect();
    assert_eq!(flaws, [(None, vec![0]), (Some(Flaw::Twice), vec![1]), (Some(Flaw::Temporality), vec![2])]);
    assert_eq!(pairs(&made).len(), 1);

    let none = bulk(&plan(Mode::None), &payload(Signal::Metrics, &text.to_string()));
    assert!(none.body.is_empty());
    assert_eq!(none.documents.iter().filter(|document| document.flaw == Some(Flaw::Signal)).count(), 3);

    let text = logs(json!([]), json!([attribute("elastic.mapping.mode", json!("wrong"))]), json!([{}]));
    let made = bulk(&plan(Mode::Otel), &payload(Signal::Logs, &text.to_string()));
    assert_eq!(made.documents[0].flaw, Some(Flaw::Mode));
}

#[test]
fn a_scope_chooses_its_mode() {
    let map = json!({"body": {"kvlistValue": {"values": [attribute("only", json!("this"))]}}});
    let text =
        logs(json!([]), json!([attribute("elastic.mapping.mode", json!("bodymap"))]), json!([map, {}]));
    let made = bulk(&plan(Mode::Otel), &payload(Signal::Logs, &text.to_string()));
    assert_eq!(
        pairs(&made),
        [(json!({"create": {"_index": "logs-generic-default"}}), json!({"only": "this"}))]
    );
    assert_eq!(made.documents[1].flaw, Some(Flaw::Body));
}

#[test]
fn a_log_record_in_mode_ecs_has_known_names_nested() {
    let resource = json!([
        attribute("service.name", json!("shop")),
        attribute("service.instance.id", json!("i-1")),
        attribute("host.name", json!("h")),
        attribute("os.type", json!("darwin")),
        attribute("telemetry.sdk.name", json!("otel")),
        attribute("telemetry.sdk.language", json!("rust")),
        attribute("telemetry.sdk.version", json!("1.2")),
        attribute("k8s.pod.name", json!("p")),
    ]);
    let record = json!({
        "timeUnixNano": "1721314113467654123", "severityNumber": 17, "severityText": "ERROR", "traceId": TRACE,
        "spanId": SPAN, "body": {"stringValue": "boom"}, "attributes": [
            attribute("exception.type", json!("E")), attribute("error", json!("both")), attribute("map", Value::Null),
        ],
    });
    let documents = written(&plan(Mode::Ecs), Signal::Logs, &logs(resource, json!([]), json!([record])));
    assert_eq!(
        documents[0],
        (
            json!({"create": {"_index": "logs-generic-default"}}),
            json!({
                "@timestamp": "2024-07-18T14:48:33.467654123Z",
                "agent": {"name": "otel/rust", "version": "1.2"},
                "data_stream": {"type": "logs", "dataset": "generic", "namespace": "default"},
                "error": {"value": "both", "type": "E"},
                "event": {"severity": 17},
                "host": {"name": "h", "hostname": "h", "os": {"platform": "darwin", "type": "macos"}},
                "kubernetes": {"pod": {"name": "p"}},
                "log": {"level": "ERROR"},
                "map": {"in": "side"},
                "message": "boom",
                "service": {"name": "shop", "node": {"name": "i-1"}},
                "span": {"id": SPAN},
                "trace": {"id": TRACE},
            })
        )
    );
}

#[test]
fn metrics_in_mode_ecs_are_fields_of_one_document() {
    let point =
        json!({"timeUnixNano": "1000000000", "asInt": "4", "attributes": [attribute("cpu.id", json!(1))]});
    let text = metrics(json!([
        {"name": "system.load", "gauge": {"dataPoints": [point]}},
        {"name": "system.jobs", "gauge": {"dataPoints": [point]}},
    ]));
    let documents = written(&plan(Mode::Ecs), Signal::Metrics, &text);
    assert_eq!(documents.len(), 1);
    assert_eq!(documents[0].1["system"], json!({"load": 4, "jobs": 4}));
    assert_eq!(documents[0].1["cpu"]["id"], 1);
}

#[test]
fn modes_none_and_raw_differ_in_where_attributes_stand() {
    let text = logs(json!([attribute("service.name", json!("shop"))]), json!([]), json!([record()]));
    let documents = written(&plan(Mode::None), Signal::Logs, &text);
    let source = &documents[0].1;
    assert_eq!(source["@timestamp"], "2024-07-18T14:48:33.467000123Z");
    assert_eq!(source["Attributes.http.method"], "GET");
    assert_eq!(source["Attributes.map.in"], "side");
    assert_eq!(source["Resource.service.name"], "shop");
    assert_eq!(source["Scope.name"], "lib");
    assert_eq!(source["TraceId"], TRACE);
    assert_eq!(written(&plan(Mode::Raw), Signal::Logs, &text)[0].1["http.method"], "GET");

    let text = json!({"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "n", "startTimeUnixNano": "1000",
        "endTimeUnixNano": "5000", "links": [{"traceId": TRACE, "spanId": SPAN}],
        "events": [{"timeUnixNano": "0", "name": "e", "attributes": [attribute("k", json!(1))]}]}]}]}]});
    let source = &written(&plan(Mode::None), Signal::Traces, &text)[0].1;
    assert_eq!(source["Duration"], 4);
    assert_eq!(source["Kind"], "SPAN_KIND_UNSPECIFIED");
    assert_eq!(
        (&source["Events.e.k"], &source["Events.e.time"]),
        (&json!(1), &json!("1970-01-01T00:00:00.000000000Z"))
    );
    assert_eq!(source["Link"], json!(format!(r#"[{{"traceID":"{TRACE}","spanID":"{SPAN}"}}]"#)));
}

#[test]
fn a_long_path_is_not_repeated_for_each_of_many_values() {
    let path = "p".repeat(50_000);
    let map = |entries: Vec<Value>| json!({"kvlistValue": {"values": entries}});
    let flat = |count: usize| (0..count).map(|n| attribute(&format!("k{n}"), json!(n))).collect::<Vec<_>>();
    let nest = |values: &dyn Fn(usize) -> Value| {
        map((0..20).map(|n| json!({"key": format!("n{n}"), "value": values(n)})).collect())
    };
    let wide = map(flat(7_000));
    let deep = nest(&|_| nest(&|_| map(flat(20))));
    for (value, mode) in [(&wide, Mode::None), (&deep, Mode::None), (&wide, Mode::Ecs), (&deep, Mode::Raw)] {
        let text = logs(json!([]), json!([]), json!([{"attributes": [{"key": path, "value": value}]}]));
        let bulk = bulk(&plan(mode), &payload(Signal::Logs, &text.to_string()));
        assert!(bulk.body.len() < 2 << 20, "{}", bulk.body.len());
        let field = |document: &Value| {
            let all = document.as_object().unwrap();
            all.iter().filter(|(key, _)| key.contains(&path)).map(|(_, value)| value.clone()).next()
        };
        let field = field(&pairs(&bulk)[0].1).unwrap();
        let is_whole = if value == &wide { field["k6999"] == json!(6999) } else { field.is_object() };
        assert!(is_whole, "{field}");
    }

    let span = |name: &str| json!({"events": [{"name": name, "attributes": flat(7_000)}]});
    let text = json!({"resourceSpans": [{"scopeSpans": [{"spans": [span(&path), span("short")]}]}]});
    let bulk = bulk(&plan(Mode::None), &payload(Signal::Traces, &text.to_string()));
    assert!(bulk.body.len() < 1 << 20, "{}", bulk.body.len());
    let documents = pairs(&bulk);
    assert_eq!(documents[0].1[format!("Events.{path}.value")]["k6999"], json!(6999));
    assert_eq!(documents[1].1["Events.short.k6999"], json!(6999));
}

#[test]
fn many_attributes_are_written_once_each_and_make_points_as_few_do() {
    let mut all: Vec<Value> = (0..100).map(|n| attribute(&format!("k{n}"), json!(n))).collect();
    all.insert(3, attribute("a.geo.location.lat", json!(52.5)));
    all.extend(all.clone());
    all.push(attribute("b.geo.location.lat", json!(1.5)));
    all.push(attribute("a.geo.location.lon", json!(13.25)));
    all.extend([90, 70, 7].map(|n| attribute(&format!("k{n}"), json!("again"))));
    all.push(attribute("last", json!(true)));
    let body = json!({"kvlistValue": {"values": all}});
    let text = logs(json!([]), json!([]), json!([{"attributes": all, "body": body}]));
    let bulk = bulk(&plan(Mode::Otel), &payload(Signal::Logs, &text.to_string()));
    let mut expected: Map<String, Value> = (0..100).map(|n| (format!("k{n}"), json!(n))).collect();
    expected.insert("last".into(), json!(true));
    expected.insert("b.geo.location.lat".into(), json!(1.5));
    let mut structured = expected.clone();
    expected.insert("a.geo.location".into(), json!([13.25, 52.5]));
    structured.insert("a.geo.location.lat".into(), json!(52.5));
    structured.insert("a.geo.location.lon".into(), json!(13.25));
    let document = &pairs(&bulk)[0].1;
    assert_eq!(document["attributes"], Value::Object(expected));
    assert_eq!(document["body"]["structured"], Value::Object(structured));
    // What is read as a map would hide a second copy.
    let text = String::from_utf8(bulk.body).unwrap();
    assert_eq!(text.matches("\"k90\":").count(), 2);
    assert_eq!(text.matches("\"a.geo.location.lat\":").count(), 1);
}
