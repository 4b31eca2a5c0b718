//! Parts are bounded, and together they are the whole.

use bytes::Bytes;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use proptest::prelude::*;
use watershed_telemetry::wire::{Fields, put_bytes_field, put_varint_field};
use watershed_telemetry::{Payload, Signal};

use crate::generate;
use crate::mutate::rearrange;
use crate::oracle::Request;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn by_items(
        requests in proptest::collection::vec(generate::request(), 1..3),
        max in 0..8usize,
        choices in proptest::collection::vec(any::<u8>(), 64),
    ) {
        let Some(payload) = payload(&requests, &choices) else { return Ok(()) };
        let parts = payload.clone().split_by_items(max);
        for (index, part) in parts.iter().enumerate() {
            prop_assert!(part.items() <= max.max(1));
            prop_assert!(part.items() == max.max(1) || index + 1 == parts.len());
        }
        whole(&payload, &parts)?;
    }

    #[test]
    fn by_bytes(
        requests in proptest::collection::vec(generate::request(), 1..3),
        max in 0..3000usize,
        choices in proptest::collection::vec(any::<u8>(), 64),
    ) {
        if let Some(payload) = payload(&requests, &choices) {
            whole(&payload, &payload.clone().split_by_bytes(max))?;
        }
        let plain = payload(&requests, &[23]).unwrap();
        let parts = plain.clone().split_by_bytes(max);
        for part in &parts {
            let decoded = decode(part);
            let excused = leaves(&decoded).len() <= 1 || without_items(decoded).encode().len() > max / 2;
            prop_assert!(part.bytes() <= max || excused);
        }
        whole(&plain, &parts)?;
    }
}

/// The requests of the first one's signal, rearranged; `None` if an id's length did not survive that.
fn payload(requests: &[Request], choices: &[u8]) -> Option<Payload> {
    let signal = requests[0].signal();
    let requests = requests.iter().filter(|request| request.signal() == signal);
    let parts: Option<Vec<Payload>> = requests
        .map(|request| rearrange(&request.encode(), &mut choices.iter().copied().cycle()))
        .map(|bytes| Payload::validate(signal, bytes.into()).ok())
        .collect();
    Payload::concat(parts?)
}

fn decode(payload: &Payload) -> Request {
    Request::decode(payload.signal(), &payload.to_bytes()).unwrap()
}

fn whole(payload: &Payload, parts: &[Payload]) -> Result<(), TestCaseError> {
    let mut found = Vec::new();
    for part in parts {
        let decoded = decode(part);
        prop_assert_eq!(part.items(), decoded.items());
        prop_assert_eq!(part.bytes(), part.to_bytes().len());
        prop_assert!(part.bytes() > 0 || parts.len() == 1);
        for request in part.requests() {
            prop_assert!(Payload::validate(part.signal(), request.clone()).is_ok());
        }
        found.extend(leaves(&decoded));
    }
    prop_assert_eq!(found, leaves(&decode(payload)));
    Ok(())
}

/// Every item, with all it is under; and every group or metric that has none.
fn leaves(request: &Request) -> Vec<String> {
    let mut out = Vec::new();
    macro_rules! walk {
        ($request:expr, $groups:ident, $scopes:ident, $scope:ident, $leaf:block) => {
            for group in &$request.$groups {
                let head = format!("{:?} {}", group.resource, group.schema_url);
                if group.$scopes.is_empty() {
                    out.push(head.clone());
                }
                for $scope in &group.$scopes {
                    let head = format!("{head} {:?} {}", $scope.scope, $scope.schema_url);
                    let items: Vec<String> = $leaf;
                    if items.is_empty() {
                        out.push(head.clone());
                    }
                    out.extend(items.into_iter().map(|item| format!("{head} {item}")));
                }
            }
        };
    }
    match request {
        Request::Traces(request) => walk!(request, resource_spans, scope_spans, scope, {
            scope.spans.iter().map(|span| format!("{span:?}")).collect()
        }),
        Request::Logs(request) => walk!(request, resource_logs, scope_logs, scope, {
            scope.log_records.iter().map(|record| format!("{record:?}")).collect()
        }),
        Request::Metrics(request) => walk!(request, resource_metrics, scope_metrics, scope, {
            scope.metrics.iter().flat_map(metric_leaves).collect()
        }),
    }
    out
}

fn metric_leaves(metric: &Metric) -> Vec<String> {
    let mut head = metric.clone();
    let points = take_points(&mut head);
    if points.is_empty() {
        vec![format!("{head:?}")]
    } else {
        points.iter().map(|p| format!("{head:?} {p}")).collect()
    }
}

fn take_points(metric: &mut Metric) -> Vec<String> {
    macro_rules! drain {
        ($data:expr) => {
            $data.data_points.drain(..).map(|point| format!("{point:?}")).collect()
        };
    }
    match &mut metric.data {
        None => Vec::new(),
        Some(Data::Gauge(data)) => drain!(data),
        Some(Data::Sum(data)) => drain!(data),
        Some(Data::Histogram(data)) => drain!(data),
        Some(Data::ExponentialHistogram(data)) => drain!(data),
        Some(Data::Summary(data)) => drain!(data),
    }
}

/// What is left of a request if its items are taken away.
fn without_items(mut request: Request) -> Request {
    match &mut request {
        Request::Traces(request) => {
            let groups = request.resource_spans.iter_mut();
            groups.flat_map(|group| &mut group.scope_spans).for_each(|scope| scope.spans.clear());
        }
        Request::Logs(request) => {
            let groups = request.resource_logs.iter_mut();
            groups.flat_map(|group| &mut group.scope_logs).for_each(|scope| scope.log_records.clear());
        }
        Request::Metrics(request) => {
            let scopes = request.resource_metrics.iter_mut().flat_map(|group| &mut group.scope_metrics);
            scopes.flat_map(|scope| &mut scope.metrics).for_each(|metric| drop(take_points(metric)));
        }
    }
    request
}

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes_field(&mut out, number, value);
    out
}

fn group(spans: usize) -> Vec<u8> {
    let spans: Vec<u8> = (0..spans).flat_map(|index| field(2, &field(5, &[b'a' + index as u8]))).collect();
    field(1, &[field(1, &field(1, &field(1, b"k"))), field(2, &spans)].concat())
}

#[test]
fn what_is_not_cut_is_shared() {
    let request = Bytes::from([group(2), group(2), group(3), group(2)].concat());
    let payload = Payload::validate(Signal::Traces, request.clone()).unwrap();
    assert_eq!(payload.clone().split_by_items(9)[0].requests()[0].as_ptr(), request.as_ptr());

    let parts = payload.split_by_items(5);
    assert_eq!(parts.iter().map(Payload::items).collect::<Vec<_>>(), [5, 4]);
    let [first, second] = &parts[..] else { panic!("two parts") };
    // Two whole groups as one run and the cut one's first span; its others and one more whole group.
    let size = group(2).len();
    assert_eq!(first.requests()[0].as_ptr(), request.as_ptr());
    assert_eq!(first.requests()[0].len(), 2 * size);
    assert_eq!(first.requests().len(), 2);
    assert_eq!(second.requests()[1].as_ptr(), request[request.len() - size..].as_ptr());
    assert_eq!(second.requests().len(), 2);
}

#[test]
fn unknown_fields_of_containers_are_in_every_part() {
    let mut scope = [field(2, b""), field(2, b"")].concat();
    put_varint_field(&mut scope, 100, 1);
    let mut group = field(2, &scope);
    put_varint_field(&mut group, 101, 2);
    let payload = Payload::validate(Signal::Logs, field(1, &group).into()).unwrap();
    let parts = payload.split_by_items(1);
    assert_eq!(parts.len(), 2);
    for part in parts {
        let bytes = part.to_bytes();
        let inner = |message: &[u8], number| -> Vec<u8> {
            let mut fields = Fields::new(message).flatten();
            fields.find(|field| field.number == number).and_then(|field| field.bytes()).unwrap().to_vec()
        };
        let has = |message: &[u8], number| Fields::new(message).flatten().any(|field| field.number == number);
        let group = inner(&bytes, 1);
        assert!(has(&group, 101));
        assert!(has(&inner(&group, 2), 100));
    }
}

#[test]
fn unknown_fields_of_the_request_are_kept_once() {
    let mut request = group(2);
    put_varint_field(&mut request, 100, 1);
    request.extend(group(2));
    let payload = Payload::validate(Signal::Traces, request.clone().into()).unwrap();
    let joined = |parts: Vec<Payload>| Payload::concat(parts).unwrap().to_bytes();
    assert_eq!(joined(payload.clone().split_by_items(2)), request);
    assert_eq!(joined(payload.split_by_bytes(group(2).len() + 3)), request);
}

#[test]
fn a_metric_in_pieces_keeps_what_any_piece_says() {
    let point = |time| field(1, &[0x19, time, 0, 0, 0, 0, 0, 0, 0]);
    let temporality = vec![0x10, 2];
    let arms = [field(7, &point(1)), field(7, &[point(2), temporality].concat())];
    let metric = [field(1, b"name"), field(5, &point(9)), arms.concat()].concat();
    let request = field(1, &field(2, &field(2, &metric)));
    let payload = Payload::validate(Signal::Metrics, request.into()).unwrap();
    assert_eq!(payload.items(), 2);
    let parts = payload.clone().split_by_items(1);
    assert_eq!(parts.len(), 2);
    whole(&payload, &parts).unwrap();
}

#[test]
fn a_large_header_is_not_repeated_for_every_item() {
    let resource = field(1, &field(1, &field(1, &[b'k'; 5000])));
    let spans: Vec<u8> = (0..5000).flat_map(|_| field(2, b"")).collect();
    let request = field(1, &[resource, field(2, &spans)].concat());
    let payload = Payload::validate(Signal::Traces, request.into()).unwrap();
    assert_eq!(payload.clone().split_by_bytes(6000).len(), 1);
    let parts = payload.clone().split_by_bytes(12_000);
    assert!(parts.iter().all(|part| part.bytes() <= 12_000));
    assert!(parts.iter().map(Payload::bytes).sum::<usize>() < 2 * payload.bytes());
}

#[test]
fn a_large_payload_takes_one_pass() {
    let payload =
        Payload::concat((0..2000).map(|_| Payload::validate(Signal::Traces, group(10).into()).unwrap()))
            .unwrap();
    let parts = payload.split_by_items(3);
    assert_eq!(parts.len(), 20_000usize.div_ceil(3));
}
