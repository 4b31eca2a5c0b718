//! Cases of the formats' references and of the OpenTelemetry specification, decoded by prost.

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Exemplar, exemplar};

use super::Format::{OpenMetrics, Text};
use crate::scrape::tests::{TIME, Target, all, kind, metrics, named, pairs, points, wrong};

/// The example of `exposition_formats.md`.
const EXAMPLE: &str = r#"# HELP http_requests_total The total number of HTTP requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="post",code="400"}    3 1395066363000

# Escaping in label values:
msdos_file_access_time_seconds{path="C:\\DIR\\FILE.TXT",error="Cannot find file:\n\"FILE.TXT\""} 1.458255915e9

# Minimalistic line:
metric_without_timestamp_and_labels 12.47

# A weird metric from before the epoch:
something_weird{problem="division by zero"} +Inf -3982045

# A histogram, which has a pretty complex representation in the text format:
# HELP http_request_duration_seconds A histogram of the request duration.
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le="0.05"} 24054
http_request_duration_seconds_bucket{le="0.1"} 33444
http_request_duration_seconds_bucket{le="0.2"} 100392
http_request_duration_seconds_bucket{le="0.5"} 129389
http_request_duration_seconds_bucket{le="1"} 133988
http_request_duration_seconds_bucket{le="+Inf"} 144320
http_request_duration_seconds_sum 53423
http_request_duration_seconds_count 144320

# Finally a summary, which has a complex representation, too:
# HELP rpc_duration_seconds A summary of the RPC duration in seconds.
# TYPE rpc_duration_seconds summary
rpc_duration_seconds{quantile="0.01"} 3102
rpc_duration_seconds{quantile="0.05"} 3272
rpc_duration_seconds{quantile="0.5"} 4773
rpc_duration_seconds{quantile="0.9"} 9001
rpc_duration_seconds{quantile="0.99"} 76656
rpc_duration_seconds_sum 1.7560473e+07
rpc_duration_seconds_count 2693
"#;

#[test]
fn the_example_of_the_reference_is_understood() {
    let metrics = metrics(Text, EXAMPLE);
    assert_eq!(metrics.len(), 6);

    let requests = named(&metrics, "http_requests_total");
    let Some(Data::Sum(sum)) = &requests.data else { panic!("{requests:?}") };
    assert!(sum.is_monotonic);
    assert_eq!(sum.aggregation_temporality, AggregationTemporality::Cumulative as i32);
    assert_eq!((&*requests.description, kind(requests)), ("The total number of HTTP requests.", "counter"));
    let time = 1_395_066_363_000_000_000;
    assert_eq!(
        points(requests),
        [
            (vec![("code", "200"), ("method", "post")], Some(1027.0), time, time),
            (vec![("code", "400"), ("method", "post")], Some(3.0), time, time),
        ]
    );

    let dos = named(&metrics, "msdos_file_access_time_seconds");
    assert!(matches!(dos.data, Some(Data::Gauge(_))) && kind(dos) == "unknown");
    let attributes = vec![("error", "Cannot find file:\n\"FILE.TXT\""), ("path", "C:\\DIR\\FILE.TXT")];
    assert_eq!(points(dos), [(attributes, Some(1.458_255_915e9), 0, TIME)]);
    let weird = named(&metrics, "something_weird");
    assert_eq!(points(weird), [(vec![("problem", "division by zero")], Some(f64::INFINITY), 0, 0)]);

    let duration = named(&metrics, "http_request_duration_seconds");
    let Some(Data::Histogram(histogram)) = &duration.data else { panic!("{duration:?}") };
    let [point] = &histogram.data_points[..] else { panic!("{histogram:?}") };
    assert_eq!(point.explicit_bounds, [0.05, 0.1, 0.2, 0.5, 1.0]);
    assert_eq!(point.bucket_counts, [24054, 9390, 66948, 28997, 4599, 10332]);
    assert_eq!((point.count, point.sum), (144_320, Some(53423.0)));

    let rpc = named(&metrics, "rpc_duration_seconds");
    let Some(Data::Summary(summary)) = &rpc.data else { panic!("{rpc:?}") };
    let [point] = &summary.data_points[..] else { panic!("{summary:?}") };
    let quantiles: Vec<_> = point.quantile_values.iter().map(|value| (value.quantile, value.value)).collect();
    assert_eq!(quantiles, [(0.01, 3102.0), (0.05, 3272.0), (0.5, 4773.0), (0.9, 9001.0), (0.99, 76656.0)]);
    assert_eq!((point.count, point.sum), (2693, 17_560_473.0));
}

#[test]
fn lines_of_text_may_be_written_in_many_ways() {
    for (line, attributes, value) in [
        ("m 1", vec![], 1.0),
        ("  m\t1", vec![], 1.0),
        ("m {} 1", vec![], 1.0),
        ("m{ } 1", vec![], 1.0),
        ("m{a=\"b\",} 1", vec![("a", "b")], 1.0),
        ("m { a = \"b\" , c=\"d\" }  2 ", vec![("a", "b"), ("c", "d")], 2.0),
        ("m{a=\"\",b=\"c\"} 1", vec![("b", "c")], 1.0),
        ("m{a=\"}{\\\\\"} 1", vec![("a", "}{\\")], 1.0),
        ("m{a=\"\\x\"} 1", vec![("a", "\\x")], 1.0),
        ("{\"m\",\"a.b\"=\"c\"} 1", vec![("a.b", "c")], 1.0),
        ("{\"a b\"=\"c\",\"m\"} 1", vec![("a b", "c")], 1.0),
        ("m 0x", vec![], f64::NAN),
    ] {
        let (result, request) = Target::default().scrape(Text, line.as_bytes());
        let metrics = all(request);
        if value.is_nan() {
            assert!(result.is_err() && metrics.is_empty(), "{line}");
        } else {
            assert_eq!(result, Ok(()), "{line}");
            assert_eq!(points(named(&metrics, "m")), [(attributes, Some(value), 0, TIME)], "{line}");
        }
    }
}

#[test]
fn what_is_no_text_is_said_with_its_line() {
    for (body, message) in [
        ("a 1\nm", "line 2: \"\" is no value"),
        ("m 1 2 3", "line 1: something follows the value and its time"),
        ("m 1 x", "line 1: \"x\" is no time"),
        ("m 1 # {a=\"b\"} 1", "line 1: something follows the value and its time"),
        ("m{a=\"b} 1", "line 1: a quote without its end"),
        ("m{a=\"b\" 1", "line 1: labels without a closing brace"),
        ("m{a=\"b\" c=\"d\"} 1", "line 1: labels are neither separated nor closed"),
        ("m{a} 1", "line 1: the label a has no value"),
        ("m{a=b} 1", "line 1: a quote is missing"),
        ("m{a=\"1\",a=\"2\"} 1", "line 1: the label a stands there twice"),
        ("m{\"n\"} 1", "line 1: the label __name__ stands there twice"),
        ("1m 1", "line 1: \"1m\" is no name"),
        ("{a=\"b\"} 1", "line 1: a series has no name"),
        ("# TYPE m what\n", "line 1: \"what\" is no type"),
        ("m{a=\"\u{fffd}", "line 1: a quote without its end"),
    ] {
        assert_eq!(wrong(Text, body), message, "{body}");
    }
    assert_eq!(wrong(Text, b"m{a=\"\xff\"} 1"), "line 1: it is not UTF-8");
}

/// Of `open_metrics_spec.md`.
const OPEN_METRICS: &str = r#"# TYPE acme_http_router_request_seconds summary
# UNIT acme_http_router_request_seconds seconds
# HELP acme_http_router_request_seconds Latency though all of ACME's HTTP request router.
acme_http_router_request_seconds_sum{path="/api/v1",method="GET"} 9036.32
acme_http_router_request_seconds_count{path="/api/v1",method="GET"} 807283.0
acme_http_router_request_seconds_created{path="/api/v1",method="GET"} 1605281325.0
# TYPE go_goroutines gauge
# HELP go_goroutines Number of goroutines that currently exist.
go_goroutines 69
# TYPE foo histogram
foo_bucket{le="0.01"} 0
foo_bucket{le="0.1"} 8 # {} 0.054
foo_bucket{le="1.0"} 11 # {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.67
foo_bucket{le="+Inf"} 17 # {span_id="b7ad6b7169203331",user="x"} 9.8 1520879607.789
foo_count 17
foo_sum 324789.3
foo_created 1520430000.123
# TYPE bar counter
# UNIT bar 
bar_total{a="1"} 17.0 1520879607.789 # {trace_id="KOO5S4vxi0o"} 0.67
bar_created{a="1"} 1520430000.123
# TYPE st stateset
st{st="a"} 1
st{st="bb"} 0
# TYPE build info
build_info{version="8.2.7"} 1
# TYPE queue gaugehistogram
queue_bucket{le="+Inf"} 2
queue_gcount 2
queue_gsum 3
# TYPE target info
target_info{env="prod"} 1
# EOF
"#;

#[test]
fn open_metrics_is_understood() {
    let mut target = Target::default();
    let request = target.good(OpenMetrics, OPEN_METRICS);
    let resource = request.resource_metrics[0].resource.clone().unwrap();
    assert_eq!(
        pairs(&resource.attributes),
        [
            ("service.name", "j"),
            ("service.instance.id", "h:9100"),
            ("server.address", "h"),
            ("server.port", "9100"),
            ("url.scheme", "http"),
            ("env", "prod"),
        ]
    );
    assert_eq!(target.counts.unmapped, 3, "a gauge histogram has no place");
    let metrics = all(request);
    let names: Vec<&str> = metrics.iter().map(|metric| &*metric.name).collect();
    assert_eq!(
        names,
        ["acme_http_router_request_seconds", "go_goroutines", "foo", "bar_total", "st", "build_info"]
    );

    let acme = named(&metrics, "acme_http_router_request_seconds");
    let Some(Data::Summary(summary)) = &acme.data else { panic!("{acme:?}") };
    let [point] = &summary.data_points[..] else { panic!("{summary:?}") };
    assert_eq!(
        (&*acme.unit, point.start_time_unix_nano, point.count),
        ("s", 1_605_281_325_000_000_000, 807_283)
    );
    assert!(point.quantile_values.is_empty());

    let foo = named(&metrics, "foo");
    let Some(Data::Histogram(histogram)) = &foo.data else { panic!("{foo:?}") };
    let [point] = &histogram.data_points[..] else { panic!("{histogram:?}") };
    assert_eq!(point.start_time_unix_nano, 1_520_430_000_123_000_000);
    assert_eq!(point.bucket_counts, [0, 8, 3, 6]);
    let told: Vec<_> = point.exemplars.iter().map(read).collect();
    let trace = "0af7651916cd43dd8448eb211c80319c".to_owned();
    assert_eq!(
        told,
        [
            (0.054, TIME, String::new(), String::new(), vec![]),
            (0.67, TIME, trace, String::new(), vec![]),
            (9.8, 1_520_879_607_789_000_000, String::new(), "b7ad6b7169203331".into(), vec![("user", "x")]),
        ]
    );

    let bar = named(&metrics, "bar_total");
    assert_eq!(
        points(bar),
        [(vec![("a", "1")], Some(17.0), 1_520_430_000_123_000_000, 1_520_879_607_789_000_000)]
    );
    let Some(Data::Sum(sum)) = &bar.data else { panic!("{bar:?}") };
    let exemplar = read(&sum.data_points[0].exemplars[0]);
    assert_eq!(exemplar.4, [("trace_id", "KOO5S4vxi0o")], "what is no id stays a label");

    for (name, type_of) in [("st", "stateset"), ("build_info", "info")] {
        let metric = named(&metrics, name);
        let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
        assert_eq!((sum.is_monotonic, sum.aggregation_temporality, kind(metric)), (false, 2, type_of));
    }
}

type Told<'e> = (f64, u64, String, String, Vec<(&'e str, &'e str)>);

fn read(told: &Exemplar) -> Told<'_> {
    let Some(exemplar::Value::AsDouble(value)) = told.value else { panic!("{told:?}") };
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    (value, told.time_unix_nano, hex(&told.trace_id), hex(&told.span_id), pairs(&told.filtered_attributes))
}

#[test]
fn an_exemplar_has_128_characters_at_most() {
    for (labels, left_out) in [
        (format!("k=\"{}\"", "\u{e4}".repeat(127)), 0),
        (format!("k=\"{}\"", "x".repeat(128)), 1),
        ((0..33).map(|at| format!("k{at:02}=\"x\",")).collect(), 1),
    ] {
        let mut target = Target::default();
        let body = format!("# TYPE c counter\nc_total 1 # {{{labels}}} 0.5\n# EOF\n");
        let metrics = all(target.good(OpenMetrics, body));
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert_eq!(sum.data_points[0].exemplars.len() as u64, 1 - left_out);
        assert_eq!(target.counts.exemplars, left_out);
    }
}

#[test]
fn what_is_said_of_a_family_is_not_repeated_without_end() {
    let help = "x".repeat(100_000);
    let scopes: String = (0..200).map(|at| format!("a{{otel_scope_name=\"s{at}\"}} 1\n")).collect();
    let body = format!("# HELP a {help}\n# TYPE a gauge\n{scopes}# HELP b {help}\n# TYPE b gauge\nb 1\n");
    let metrics = metrics(Text, &body);
    let described = |name: &str| {
        let told = metrics.iter().filter(|metric| metric.name == name && metric.description == help);
        (told.count(), metrics.iter().filter(|metric| metric.name == name).count())
    };
    assert_eq!((described("a"), described("b")), ((11, 200), (1, 1)), "once, and as often as a MiB holds");
}

#[test]
fn an_invalid_exposition_is_wrong_as_a_whole() {
    for (body, message) in [
        ("a 1\n", "OpenMetrics ends with \"# EOF\", and this does not: it may be cut off"),
        ("", "OpenMetrics ends with \"# EOF\", and this does not: it may be cut off"),
        ("# EOF\na 1\n", "line 2: something follows \"# EOF\""),
        ("a 1\n\n# EOF\n", "line 2: OpenMetrics has no empty lines"),
        (" a 1\n# EOF\n", "line 1: a line begins with a blank"),
        ("# hello\n# EOF\n", "line 1: a comment is none of HELP, TYPE, UNIT and EOF"),
        ("# TYPE a untyped\n# EOF\n", "line 1: \"untyped\" is no type"),
        ("# UNIT a_seconds bytes\n# EOF\n", "line 1: the name a_seconds does not end with its unit, bytes"),
        ("a 1 # {b=\"c\"}\n# EOF\n", "line 1: an exemplar has no value"),
        ("a 1 nan\n# EOF\n", "line 1: \"nan\" is no time"),
    ] {
        assert_eq!(wrong(OpenMetrics, body), message, "{body}");
    }
    let empty = Target::default().good(OpenMetrics, "# EOF\n");
    assert_eq!(empty.resource_metrics, []);
    assert_eq!(metrics(OpenMetrics, "# EOF"), []);
}

#[test]
fn histograms_need_a_count_and_no_order() {
    let body = "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 5\nh_bucket{le=\"2\"} 4\nh_bucket{le=\"1\"} 3\nh_count 5\n";
    let metrics = metrics(Text, body);
    let Some(Data::Histogram(histogram)) = &metrics[0].data else { panic!("{metrics:?}") };
    let point = &histogram.data_points[0];
    assert_eq!((&point.bucket_counts[..], point.sum), (&[3, 1, 1][..], None));
    let mut target = Target::default();
    assert_eq!(all(target.good(Text, "# TYPE h histogram\nh_bucket{le=\"1\"} 3\nh_sum 4\n")), []);
    assert_eq!(target.counts.unmapped, 1);
}

#[test]
fn families_may_be_scattered() {
    let body =
        "# TYPE a counter\n# TYPE h histogram\na{x=\"1\"} 1\nh_bucket{le=\"1\"} 1\na{x=\"2\"} 2\nh_count 1\n";
    let metrics = metrics(Text, body);
    assert_eq!(points(named(&metrics, "a")).len(), 2);
    assert!(matches!(named(&metrics, "h").data, Some(Data::Histogram(_))));
    assert_eq!(metrics.len(), 2);
}

#[test]
fn scopes_are_those_that_labels_name() {
    let body = "a{otel_scope_name=\"lib\",otel_scope_version=\"1\",otel_scope_schema_url=\"u\",otel_scope_k=\"v\",l=\"m\"} 1\na 2\n";
    let mut request = Target::default().good(Text, body);
    let mut scopes = request.resource_metrics.remove(0).scope_metrics;
    scopes.sort_by_key(|scope| scope.scope.clone().unwrap().name);
    let [lib, own] = &scopes[..] else { panic!("{scopes:?}") };
    let scope = lib.scope.as_ref().unwrap();
    assert_eq!((&*scope.name, &*scope.version, &*lib.schema_url), ("lib", "1", "u"));
    assert_eq!(pairs(&scope.attributes), [("k", "v")]);
    assert_eq!(points(&lib.metrics[0]), [(vec![("l", "m")], Some(1.0), 0, TIME)]);
    assert_eq!(own.scope.as_ref().unwrap().name, "watershed/prometheus");
}
