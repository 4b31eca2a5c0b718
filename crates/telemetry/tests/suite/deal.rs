//! Each item arrives where it was dealt, once, with all that it stands in.

use bytes::Bytes;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use proptest::prelude::*;
use watershed_telemetry::deal::{Grain, deal};
use watershed_telemetry::wire::put_bytes_field;
use watershed_telemetry::{Payload, Signal};

use crate::generate;
use crate::mutate::rearrange;
use crate::oracle::Request;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_way_gets_what_goes_it(
        requests in proptest::collection::vec(generate::request(), 1..3),
        grain in prop_oneof![Just(Grain::Groups), Just(Grain::Items), Just(Grain::Points)],
        ways in 1..4usize,
        asked in proptest::collection::vec(0..4usize, 16),
        choices in proptest::collection::vec(any::<u8>(), 64),
    ) {
        let signal = requests[0].signal();
        let requests = requests.iter().filter(|request| request.signal() == signal);
        let parts: Option<Vec<Payload>> = requests
            .map(|request| rearrange(&request.encode(), &mut choices.iter().copied().cycle()))
            .map(|bytes| Payload::validate(signal, bytes.into()).ok())
            .collect();
        let Some(payload) = parts.and_then(Payload::concat) else { return Ok(()) };
        let units = units(&decode(&payload), grain);
        let way = |unit: usize| asked[unit % asked.len()].min(ways - 1);
        let mut unit = 0;
        let dealt = deal(&payload, grain, ways, |_| {
            unit += 1;
            asked[(unit - 1) % asked.len()]
        });
        prop_assert_eq!(unit, units.len());
        let mut last = None;
        let mut items = 0;
        for (of, part) in &dealt {
            prop_assert!(last < Some(*of));
            last = Some(*of);
            let decoded = decode(part);
            prop_assert_eq!(part.items(), decoded.items());
            prop_assert_eq!(part.bytes(), part.to_bytes().len());
            items += part.items();
            for request in part.requests() {
                prop_assert!(Payload::validate(signal, request.clone()).is_ok());
            }
            let expected: Vec<&String> =
                units.iter().enumerate().filter(|(unit, _)| way(*unit) == *of).flat_map(|(_, unit)| unit).collect();
            let found = self::units(&decoded, Grain::Groups).concat();
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        }
        prop_assert_eq!(items, payload.items());
    }
}

fn decode(payload: &Payload) -> Request {
    Request::decode(payload.signal(), &payload.to_bytes()).unwrap()
}

/// The items of each unit, with all that they stand in.
fn units(request: &Request, grain: Grain) -> Vec<Vec<String>> {
    let mut units = Vec::new();
    macro_rules! walk {
        ($request:expr, $groups:ident, $scopes:ident, $items:ident, $item:expr) => {
            for group in &$request.$groups {
                let mut of_group = Vec::new();
                for scope in &group.$scopes {
                    let head = format!(
                        "{:?} {} {:?} {}",
                        group.resource, group.schema_url, scope.scope, scope.schema_url
                    );
                    for item in &scope.$items {
                        let items: Vec<Vec<String>> = $item(item);
                        of_group.extend(items.into_iter().map(|unit| {
                            unit.into_iter().map(|item| format!("{head} {item}")).collect::<Vec<_>>()
                        }));
                    }
                }
                match grain {
                    Grain::Groups => units.push(of_group.concat()),
                    _ => units.extend(of_group),
                }
            }
        };
    }
    match request {
        Request::Traces(request) => {
            walk!(request, resource_spans, scope_spans, spans, |span| vec![vec![format!("{span:?}")]])
        }
        Request::Logs(request) => {
            walk!(request, resource_logs, scope_logs, log_records, |record| vec![vec![format!("{record:?}")]])
        }
        Request::Metrics(request) => walk!(request, resource_metrics, scope_metrics, metrics, |metric| {
            let points = points(metric);
            if grain == Grain::Points {
                points.into_iter().map(|point| vec![point]).collect()
            } else {
                vec![points]
            }
        }),
    }
    units
}

/// The data points of a metric, each with the metric.
fn points(metric: &Metric) -> Vec<String> {
    let mut head = metric.clone();
    macro_rules! drain {
        ($data:expr) => {
            $data.data_points.drain(..).map(|point| format!("{point:?}")).collect()
        };
    }
    let points: Vec<String> = match &mut head.data {
        None => Vec::new(),
        Some(Data::Gauge(data)) => drain!(data),
        Some(Data::Sum(data)) => drain!(data),
        Some(Data::Histogram(data)) => drain!(data),
        Some(Data::ExponentialHistogram(data)) => drain!(data),
        Some(Data::Summary(data)) => drain!(data),
    };
    points.into_iter().map(|point| format!("{head:?} {point}")).collect()
}

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes_field(&mut out, number, value);
    out
}

/// A resource group of so many spans.
fn group(spans: usize) -> Bytes {
    let spans: Vec<u8> = (0..spans).flat_map(|index| field(2, &field(5, &[b'a' + index as u8]))).collect();
    field(1, &[field(1, &field(1, &field(1, b"k"))), field(2, &spans)].concat()).into()
}

#[test]
fn what_goes_one_way_is_shared() {
    let payload = || Payload::validate(Signal::Traces, group(3)).unwrap();
    let whole = Payload::concat([payload(), payload()]).unwrap();
    let dealt = deal(&whole, Grain::Items, 5, |_| 3);
    let [(3, part)] = &dealt[..] else { panic!("{dealt:?}") };
    assert_eq!(part.requests()[1].as_ptr(), whole.requests()[1].as_ptr());

    // Of two requests, one goes one way and the other comes apart.
    let mut unit = 0;
    let dealt = deal(&whole, Grain::Items, 2, |_| {
        unit += 1;
        usize::from(unit > 4)
    });
    let [(0, first), (1, second)] = &dealt[..] else { panic!("{dealt:?}") };
    assert_eq!((first.items(), second.items()), (4, 2));
    assert_eq!(first.requests()[0].as_ptr(), whole.requests()[0].as_ptr());
    assert_eq!((first.requests()[1].clone(), second.to_bytes().len()), (group(1), group(2).len()));
}

#[test]
fn what_is_empty_goes_the_first_way() {
    let empty = Payload::validate(Signal::Logs, field(1, &field(2, b"")).into()).unwrap();
    let dealt = deal(&empty, Grain::Items, 4, |_| panic!("nothing to ask about"));
    assert_eq!((dealt.len(), dealt[0].0, dealt[0].1.bytes()), (1, 0, empty.bytes()));
}

#[test]
fn metrics_of_which_each_goes_one_way_are_whole_there() {
    let metric = |name: &str| {
        let point = field(1, &[]);
        field(2, &[field(1, name.as_bytes()), field(5, &point)].concat())
    };
    let scope = field(2, &[metric("a"), metric("b"), metric("c")].concat());
    let payload = Payload::validate(Signal::Metrics, Bytes::from(field(1, &scope))).unwrap();
    let mut turn = 0;
    let dealt = deal(&payload, Grain::Points, 2, |_| {
        turn += 1;
        turn % 2
    });
    assert_eq!(dealt.len(), 2);
    for (way, part) in dealt {
        let read = Payload::validate(Signal::Metrics, part.to_bytes()).unwrap();
        assert_eq!((read.items(), part.items()), (1 + way, 1 + way));
    }
}
