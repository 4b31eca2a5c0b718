//! Views show what prost decodes.

use bytes::Bytes;
use proptest::prelude::*;
use watershed_telemetry::view::{MetricData, Value};
use watershed_telemetry::wire::{put_bytes_field, put_fixed64_field, put_varint_field};
use watershed_telemetry::{Payload, Signal};

use crate::generate;
use crate::oracle::Request;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_getter_equals_prosts_field(request in generate::request()) {
        let bytes = Bytes::from(request.encode());
        let payload = Payload::validate(request.signal(), bytes.clone()).unwrap();
        prop_assert_eq!(payload.items(), request.items());
        // Decoded again, since prost does not write a negative zero.
        let request = Request::decode(request.signal(), &bytes).unwrap();
        prop_assert_eq!(Request::view(&payload).normal(), request.normal());
    }

    #[test]
    fn find_gives_the_first_of_the_key(attributes in generate::attributes(), key in generate::key()) {
        let expected = attributes.iter().position(|attribute| attribute.key == key);
        let message = field(1, &attributes.iter().flat_map(|attribute| field(1, &prost::Message::encode_to_vec(attribute))).collect::<Vec<_>>());
        let payload = payload(Signal::Logs, &[&field(1, &message)]);
        let resource = payload.resources().next().unwrap().resource();
        let found = resource.attributes().find(&key).map(|value| format!("{:?}", value.value()));
        let expected = expected.map(|at| format!("{:?}", resource.attributes().nth(at).unwrap().value().value()));
        prop_assert_eq!(found, expected);
    }
}

/// A length-delimited field.
fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes_field(&mut out, number, value);
    out
}

fn payload(signal: Signal, parts: &[&[u8]]) -> Payload {
    let bytes = Bytes::from(parts.concat());
    let payload = Payload::validate(signal, bytes.clone()).unwrap();
    let decoded = Request::decode(signal, &bytes).unwrap();
    assert_eq!(payload.items(), decoded.items());
    assert_eq!(Request::view(&payload).normal(), decoded.normal());
    payload
}

fn attribute(key: &str, value: &[u8]) -> Vec<u8> {
    field(1, &[field(1, key.as_bytes()), field(2, value)].concat())
}

#[test]
fn a_resource_in_pieces_has_the_attributes_of_all() {
    let pieces =
        [field(1, &attribute("a", &field(1, b"x"))), field(3, b"url"), field(1, &attribute("b", b""))];
    let payload = payload(Signal::Logs, &[&field(1, &pieces.concat())]);
    let group = payload.resources().next().unwrap();
    let keys: Vec<_> = group.resource().attributes().map(|attribute| attribute.key()).collect();
    assert_eq!(keys, ["a", "b"]);
    assert_eq!(group.resource().attributes().find("a").and_then(|value| value.as_str()), Some("x"));
    assert_eq!(group.schema_url(), "url");
}

#[test]
fn a_value_in_pieces_merges_within_an_arm_and_switches_between_arms() {
    // KeyValue.value in three pieces, each an AnyValue; the array of the first is superseded by the string.
    let array = |text: &[u8]| field(5, &field(1, &field(1, text)));
    let value = [
        field(2, &array(b"lost")),
        field(2, &[field(1, b"lost too"), array(b"one")].concat()),
        field(2, &array(b"two")),
    ];
    let attribute = field(1, &[field(1, b"k"), value.concat()].concat());
    let payload = payload(Signal::Traces, &[&field(1, &field(1, &attribute))]);
    let resource = payload.resources().next().unwrap().resource();
    let Some(Value::Array(values)) = resource.attributes().find("k").map(|value| value.value()) else {
        panic!("no array");
    };
    assert_eq!(values.filter_map(|value| value.as_str()).collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn the_last_arm_of_a_metric_holds() {
    let point = field(1, b"");
    let gauge = |points: &[u8]| field(5, points);
    let sum = field(7, &[point.clone(), point.clone(), point.clone()].concat());
    let metric = |arms: &[Vec<u8>]| field(1, &field(2, &field(2, &arms.concat())));
    let two = [point.clone(), point.clone()].concat();

    let superseded = metric(&[sum.clone(), gauge(&point)]);
    assert_eq!(payload(Signal::Metrics, &[&superseded]).items(), 1);
    let merged = metric(&[gauge(&point), gauge(&two)]);
    assert_eq!(payload(Signal::Metrics, &[&merged]).items(), 3);
    let back = metric(&[gauge(&two), sum, gauge(&point)]);
    let payload = payload(Signal::Metrics, &[&back]);
    assert_eq!(payload.items(), 1);
    let group = payload.resources().next().unwrap().scopes().next().unwrap();
    let Some(MetricData::Gauge(gauge)) = group.metrics().next().unwrap().data() else {
        panic!("no gauge");
    };
    assert_eq!(gauge.data_points().count(), 1);
}

#[test]
fn repeated_scalars_are_read_packed_unpacked_and_mixed() {
    let mut histogram = Vec::new();
    put_fixed64_field(&mut histogram, 6, 1);
    histogram.extend(field(6, &[2u64.to_le_bytes(), 3u64.to_le_bytes()].concat()));
    put_fixed64_field(&mut histogram, 6, 4);
    put_fixed64_field(&mut histogram, 7, 0.5f64.to_bits());
    let mut buckets = Vec::new();
    put_varint_field(&mut buckets, 2, 300);
    buckets.extend(field(2, &[1, 0x80, 1]));
    buckets.extend(field(2, &[]));
    put_varint_field(&mut buckets, 2, 2);
    let exponential = field(8, &buckets);
    let metrics = [field(2, &field(9, &field(1, &histogram))), field(2, &field(10, &field(1, &exponential)))];
    let payload = payload(Signal::Metrics, &[&field(1, &field(2, &metrics.concat()))]);

    let scope = payload.resources().next().unwrap().scopes().next().unwrap();
    let mut data = scope.metrics().filter_map(|metric| metric.data());
    let Some(MetricData::Histogram(histogram)) = data.next() else { panic!("no histogram") };
    let point = histogram.data_points().next().unwrap();
    assert_eq!(point.bucket_counts().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(point.explicit_bounds().collect::<Vec<_>>(), [0.5]);
    let Some(MetricData::ExponentialHistogram(exponential)) = data.next() else { panic!("no histogram") };
    let buckets = exponential.data_points().next().unwrap().positive();
    assert_eq!(buckets.bucket_counts().collect::<Vec<_>>(), [300, 1, 128, 2]);
}

#[test]
fn another_signals_items_are_none() {
    let payload = payload(Signal::Logs, &[&field(1, &field(2, &field(2, b"")))]);
    let scope = payload.resources().next().unwrap().scopes().next().unwrap();
    assert_eq!((scope.spans().count(), scope.metrics().count(), scope.log_records().count()), (0, 0, 1));
}
