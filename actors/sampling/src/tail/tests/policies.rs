//! What each policy says, in tables; and how what several say is put together.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use watershed_stage::{Registry, Settings as _};
use watershed_telemetry::sheaf::Sheaf;
use watershed_telemetry::view::SpanView;

use super::rig::{BEGIN, SECOND, attribute, failed, payload, slow, span, text};
use crate::tail::arrived::Arrived;
use crate::tail::policy::{Facts, Named, Policies, Spans, Verdict};
use crate::tail::settings::Settings;

/// Spans of a trace, and whether it is sampled.
type Cases = Vec<(Vec<Span>, bool)>;

struct Few(Sheaf, Vec<watershed_telemetry::sheaf::Spot>);

impl Spans for Few {
    fn any(&self, is: &mut dyn FnMut(SpanView<'_>, Option<Named<'_>>) -> bool) -> bool {
        self.1.iter().any(|spot| is(self.0.span(*spot), Some((0, self.0.resource(*spot)))))
    }
}

fn policies(text: &str) -> Policies {
    let settings: Settings = toml::from_str(text).unwrap();
    assert_eq!(settings.check(), []);
    Policies::new(&settings, "traces").unwrap()
}

fn facts(spans: Vec<Span>) -> (Facts, Few) {
    let payload = payload(vec![("orders", spans)]);
    let mut facts = Facts { start: u64::MAX, ..Facts::default() };
    let mut spots = Vec::new();
    let sheaf = Sheaf::read(payload.requests()[0].clone(), |span, spot| {
        let arrived = Arrived::new(&span, spot, true);
        facts.id = arrived.id;
        facts.start = facts.start.min(arrived.start);
        facts.end = facts.end.max(arrived.end);
        facts.spans += 1;
        facts.bytes += spot.bytes() as u64;
        facts.seen |= arrived.seen;
        spots.push(spot);
    });
    (facts, Few(sheaf, spots))
}

fn judge(policies: &mut Policies, spans: Vec<Span>, now: u64) -> Verdict {
    let (facts, spans) = facts(spans);
    policies.begin();
    policies.judge(&facts, &spans, now, |_, said| assert!(said.is_some(), "a policy failed"))
}

fn with(key: &str, value: Value) -> Span {
    Span { attributes: vec![text("a", "b"), attribute(key, value)], ..span(1, 0) }
}

fn string(value: &str) -> Value {
    Value::StringValue(value.into())
}

#[test]
fn each_policy_samples_what_it_is_there_for() {
    let timed = |millis: u64| {
        let first = span(1, 0);
        let last = Span {
            end_time_unix_nano: first.start_time_unix_nano + millis * 1_000_000 + 999_999,
            ..span(1, 3)
        };
        vec![last, first]
    };
    let ok = Span {
        status: Some(opentelemetry_proto::tonic::trace::v1::Status { code: 1, ..Default::default() }),
        ..span(1, 1)
    };
    let state = |state: &str| vec![span(1, 0), Span { trace_state: state.into(), ..span(1, 1) }];
    let many = |count: u64| (0..count).map(|number| span(1, number)).collect::<Vec<_>>();
    let flagged = |flags| vec![span(1, 0), Span { flags, ..span(1, 1) }];
    let table: Vec<(&str, Cases)> = vec![
        ("type = 'always_sample'", vec![(vec![span(1, 0)], true)]),
        (
            "type = 'latency', latency = { threshold_ms = 1000 }",
            vec![
                (timed(999), false),
                (timed(1000), false),
                (timed(1001), true),
                (vec![slow(span(1, 0))], true),
            ],
        ),
        (
            "type = 'latency', latency = { threshold_ms = 100, upper_threshold_ms = 200 }",
            vec![(timed(100), false), (timed(101), true), (timed(200), true), (timed(201), false)],
        ),
        (
            "type = 'numeric_attribute', numeric_attribute = { key = 'n', min_value = 5, max_value = 7 }",
            vec![
                (vec![with("n", Value::IntValue(5))], true),
                (vec![with("n", Value::IntValue(7))], true),
                (vec![with("n", Value::IntValue(4))], false),
                (vec![with("n", Value::IntValue(8))], false),
                (vec![with("n", string("6"))], false),
                (vec![span(1, 0)], false),
                (vec![span(1, 0), with("n", Value::IntValue(6))], true),
            ],
        ),
        (
            "type = 'numeric_attribute', numeric_attribute = { key = 'n', min_value = -5 }",
            vec![
                (vec![with("n", Value::IntValue(-5))], true),
                (vec![with("n", Value::IntValue(i64::MAX))], true),
                (vec![with("n", Value::IntValue(-6))], false),
            ],
        ),
        (
            "type = 'numeric_attribute', numeric_attribute = { key = 'n', min_value = 5, invert_match = true }",
            vec![
                (vec![with("n", Value::IntValue(4))], true),
                (vec![with("n", Value::IntValue(5)), span(1, 1)], false),
                (vec![span(1, 1)], true),
            ],
        ),
        (
            "type = 'status_code', status_code = { status_codes = ['ERROR', 'OK'] }",
            vec![
                (vec![span(1, 0), failed(span(1, 1))], true),
                (vec![ok.clone()], true),
                (vec![span(1, 0)], false),
            ],
        ),
        (
            "type = 'status_code', status_code = { status_codes = ['UNSET'] }",
            vec![(vec![span(1, 0)], true), (vec![ok.clone(), failed(span(1, 0))], false)],
        ),
        (
            "type = 'string_attribute', string_attribute = { key = 'k', values = ['x', 'y'] }",
            vec![
                (vec![with("k", string("y"))], true),
                (vec![with("k", string("yy"))], false),
                (vec![with("k", Value::IntValue(1))], false),
                (vec![span(1, 0)], false),
            ],
        ),
        (
            "type = 'string_attribute', string_attribute = { key = 'service.name', values = ['orders'] }",
            vec![(vec![span(1, 0)], true)],
        ),
        (
            "type = 'string_attribute', string_attribute = { key = 'k', values = ['^/health', 'z{2}'], enabled_regex_matching = true, cache_max_size = 2 }",
            vec![
                (vec![with("k", string("/healthz"))], true),
                (vec![with("k", string("/api/health"))], false),
                (vec![with("k", string("azzb"))], true),
                (vec![with("k", string(&"z".repeat(300)))], true),
                (vec![with("k", string(&"a".repeat(300)))], false),
                (vec![with("k", string("azb"))], false),
                (vec![with("k", string("/healthz"))], true),
                (vec![with("k", string("azb"))], false),
            ],
        ),
        (
            "type = 'string_attribute', string_attribute = { key = 'k', values = ['x'], invert_match = true }",
            vec![
                (vec![with("k", string("x")), with("k", string("y"))], false),
                (vec![with("k", string("y"))], true),
            ],
        ),
        (
            "type = 'trace_state', trace_state = { key = 'vendor', values = ['1', '2'] }",
            vec![
                (state("vendor=2"), true),
                (state("a=b, vendor=1"), true),
                (state("vendor=3,a=1"), false),
                (state(""), false),
            ],
        ),
        ("type = 'trace_flags'", vec![(flagged(1), true), (flagged(0x101), true), (flagged(0x100), false)]),
        (
            "type = 'span_count', span_count = { min_spans = 2, max_spans = 3 }",
            vec![(many(1), false), (many(2), true), (many(3), true), (many(4), false)],
        ),
        ("type = 'span_count', span_count = { min_spans = 2 }", vec![(many(1), false), (many(90), true)]),
        (
            "type = 'boolean_attribute', boolean_attribute = { key = 'b', value = true }",
            vec![
                (vec![with("b", Value::BoolValue(true))], true),
                (vec![with("b", Value::BoolValue(false))], false),
                (vec![span(1, 0)], false),
            ],
        ),
        (
            "type = 'boolean_attribute', boolean_attribute = { key = 'b', value = false, invert_match = true }",
            vec![
                (vec![with("b", Value::BoolValue(true))], true),
                (vec![with("b", Value::BoolValue(false))], false),
            ],
        ),
        (
            "type = 'and', and = { and_sub_policy = [{ type = 'status_code', status_code = { status_codes = ['ERROR'] } }, { type = 'span_count', span_count = { min_spans = 2 } }] }",
            vec![
                (vec![failed(span(1, 0))], false),
                (vec![failed(span(1, 0)), span(1, 1)], true),
                (many(2), false),
            ],
        ),
        (
            "type = 'not', not = { not_sub_policy = { type = 'status_code', status_code = { status_codes = ['ERROR'] } } }",
            vec![(vec![failed(span(1, 0))], false), (vec![span(1, 0)], true)],
        ),
        (
            "type = 'probabilistic', probabilistic = { sampling_percentage = 100 }",
            vec![(vec![span(7, 0)], true)],
        ),
        (
            "type = 'probabilistic', probabilistic = { sampling_percentage = 0 }",
            vec![(vec![span(7, 0)], false)],
        ),
    ];
    for (policy, cases) in table {
        let mut policies = policies(&format!("policies = [{{ name = 'p', {policy} }}]"));
        for (number, (spans, expected)) in cases.into_iter().enumerate() {
            let verdict = judge(&mut policies, spans, BEGIN);
            assert_eq!(verdict == Verdict::Sampled, expected, "{policy}, case {number}");
        }
    }
}

const ERRORS: &str = "{ name = 'errors', type = 'status_code', status_code = { status_codes = ['ERROR'] } }";
const ALL: &str = "{ name = 'all', type = 'always_sample' }";
const NO_TWO: &str = "{ name = 'no two', type = 'drop', drop = { drop_sub_policy = [{ type = 'span_count', span_count = { min_spans = 2 } }] } }";

#[test]
fn what_drops_wins_and_what_does_not_sample_is_no_veto() {
    let two = || vec![failed(span(1, 0)), span(1, 1)];
    for (policies_text, spans, expected, asked) in [
        (format!("[{ERRORS}, {ALL}]"), vec![span(1, 0)], Verdict::Sampled, 2),
        (format!("[{ALL}, {ERRORS}]"), vec![span(1, 0)], Verdict::Sampled, 2),
        (format!("[{ERRORS}]"), vec![span(1, 0)], Verdict::NotSampled, 1),
        (format!("[{ALL}, {NO_TWO}]"), two(), Verdict::Dropped, 1),
        (format!("[{ALL}, {NO_TWO}]"), vec![span(1, 0)], Verdict::Sampled, 2),
        (format!("[{NO_TWO}]"), vec![span(1, 0)], Verdict::NotSampled, 1),
    ] {
        let mut policies = policies(&format!("policies = {policies_text}"));
        let (facts, spans) = facts(spans);
        let mut told = 0;
        let verdict = policies.judge(&facts, &spans, BEGIN, |_, _| told += 1);
        assert_eq!((verdict, told), (expected, asked), "{policies_text}");
    }
    let mut first = policies(&format!("sample_on_first_match = true\npolicies = [{ALL}, {ERRORS}]"));
    let (facts, spans) = facts(vec![span(1, 0)]);
    let mut told = 0;
    first.judge(&facts, &spans, BEGIN, |_, _| told += 1);
    assert_eq!(told, 1);
}

#[test]
fn a_policy_that_fails_is_as_if_it_were_not_there() {
    let mut policies = policies(&format!("policies = [{{ name = 'broken', type = 'panics' }}, {ERRORS}]"));
    let breaks = Span { attributes: vec![text("panics", "yes")], ..failed(span(1, 0)) };
    let (facts, spans) = facts(vec![breaks]);
    let mut told = Vec::new();
    assert_eq!(policies.judge(&facts, &spans, BEGIN, |_, said| told.push(said)), Verdict::Sampled);
    assert_eq!(told, [None, Some(Verdict::Sampled)]);
}

#[test]
fn rates_are_of_the_datas_time() {
    let many = |count: u64| (0..count).map(|number| span(1, number)).collect::<Vec<_>>();
    let mut spans = policies(
        "policies = [{ name = 'p', type = 'rate_limiting', rate_limiting = { spans_per_second = 10, burst_capacity = 15 } }]",
    );
    let mut at = |spans_: u64, millis: u64| {
        judge(&mut spans, many(spans_), BEGIN + millis * 1_000_000) == Verdict::Sampled
    };
    assert_eq!([at(10, 0), at(6, 0), at(5, 0), at(1, 0)], [true, false, true, false]);
    assert_eq!([at(5, 400), at(4, 400), at(1, 390)], [false, true, false]);
    assert_eq!([at(16, 9_000), at(15, 9_000)], [false, true], "no more than a burst");

    let size = facts(many(2)).0.bytes;
    let bytes = format!(
        "policies = [{{ name = 'p', type = 'bytes_limiting', bytes_limiting = {{ bytes_per_second = {size} }} }}]"
    );
    let mut bytes = policies(&bytes);
    let mut at =
        |spans: u64, second: u64| judge(&mut bytes, many(spans), BEGIN + second * SECOND) == Verdict::Sampled;
    assert_eq!([at(5, 0), at(4, 0), at(1, 0), at(2, 1), at(2, 1)], [false, true, false, true, false]);
}

#[test]
fn a_composite_shares_a_rate_between_its_policies() {
    let mut policies = policies(
        "policies = [{ name = 'p', type = 'composite', composite = { max_total_spans_per_second = 100, \
         policy_order = ['errors', 'rest'], rate_allocation = [{ policy = 'errors', percent = 50 }, { policy = 'rest', percent = 2 }], \
         composite_sub_policy = [{ name = 'rest', type = 'always_sample' }, \
         { name = 'errors', type = 'status_code', status_code = { status_codes = ['ERROR'] } }] } }]",
    );
    let many = |count: u64| (0..count).map(|number| span(1, number)).collect::<Vec<_>>();
    let errors = |count: u64| (0..count).map(|number| failed(span(1, number))).collect::<Vec<_>>();
    let mut at = |spans: Vec<Span>, second: u64| {
        judge(&mut policies, spans, BEGIN + second * SECOND) == Verdict::Sampled
    };
    assert!(at(many(2), 0) && !at(many(1), 0), "two spans a second");
    assert!(!at(errors(51), 0) && at(errors(49), 0) && !at(errors(2), 0) && at(errors(1), 0), "fifty");
    assert!(at(many(1), 1) && at(errors(50), 1));
}

#[test]
fn a_limit_is_that_of_all_copies_however_the_traces_fall() {
    let limits = [
        "type = 'rate_limiting', rate_limiting = { spans_per_second = 10, burst_capacity = 10 }",
        "type = 'and', and = { and_sub_policy = [{ type = 'rate_limiting', rate_limiting = { spans_per_second = 10, burst_capacity = 10 } }] }",
        "type = 'composite', composite = { max_total_spans_per_second = 20, policy_order = ['a'], rate_allocation = [{ policy = 'a', percent = 50 }], composite_sub_policy = [{ name = 'a', type = 'always_sample' }] }",
    ];
    for limit in limits {
        let settings: Settings = toml::from_str(&format!("policies = [{{ name = 'p', {limit} }}]")).unwrap();
        let copy = |pipeline: &str| Policies::new(&settings, pipeline).unwrap();
        let (mut copies, mut other): (Vec<_>, _) =
            ((0..16).map(|_| copy("traces")).collect(), copy("others"));
        let mut at = |copy: usize, second: u64| {
            judge(&mut copies[copy], vec![span(1, 0)], BEGIN + second * SECOND) == Verdict::Sampled
        };
        let mut sampled = |uneven: bool, second: u64| {
            let traces = (0..100).filter(|trace| at(if uneven { trace % 2 } else { trace % 16 }, second));
            traces.count()
        };
        let counts = [sampled(true, 0), sampled(false, 1), sampled(false, 0), sampled(true, 2)];
        assert_eq!(counts, [10, 10, 0, 10], "one that is behind has no second of its own: {limit}");
        assert_eq!(judge(&mut other, vec![span(1, 0)], BEGIN), Verdict::Sampled);
        // The next incarnation of a copy goes on where the one before was.
        copies[0] = copy("traces");
        assert_eq!(judge(&mut copies[0], vec![span(1, 0)], BEGIN + 2 * SECOND), Verdict::NotSampled);
    }
}

/// FNV-1a as published (Noll's test vectors), and thresholds as `math/big` multiplies.
#[test]
fn the_hash_is_that_of_the_go_collector() {
    use crate::tail::policy::{FNV_OFFSET, fnv, threshold};
    for (text, hash) in
        [("", 0xcbf2_9ce4_8422_2325_u64), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
    {
        assert_eq!(fnv(FNV_OFFSET, text.as_bytes()), hash, "{text}");
    }
    let salted = fnv(fnv(FNV_OFFSET, b"default-hash-seed"), &[7; 16]);
    assert_eq!(salted, fnv(FNV_OFFSET, &[&b"default-hash-seed"[..], &[7; 16]].concat()));
    for (ratio, expected) in [
        (0.0, 0),
        (1.0, u64::MAX),
        (2.0, u64::MAX),
        (-1.0, 0),
        (0.5, 0x7fff_ffff_ffff_ffff),
        (0.25, 0x3fff_ffff_ffff_ffff),
        // (2^64 - 1) * 5764607523034235 / 2^59, rounded to 64 bits and cut.
        (0.01, 184_467_440_737_095_520),
        (0.1, 1_844_674_407_370_955_264),
        (1e-30, 0),
    ] {
        let close = threshold(ratio).abs_diff(expected);
        assert!(
            close <= if ratio == 0.01 || ratio == 0.1 { 512 } else { 0 },
            "{ratio}: {}",
            threshold(ratio)
        );
    }
    for percent in [0.1, 1.0, 10.0, 33.3] {
        let mut policies = policies(&format!(
            "policies = [{{ name = 'p', type = 'probabilistic', probabilistic = {{ sampling_percentage = {percent} }} }}]"
        ));
        let sampled = (0..20_000)
            .filter(|trace| judge(&mut policies, vec![span(*trace, 0)], BEGIN) == Verdict::Sampled)
            .count();
        let expected = 200.0 * percent;
        assert!((sampled as f64 - expected).abs() < 5.0 * expected.sqrt() + 5.0, "{percent}: {sampled}");
    }
}

/// The keys that are wrong, each with what is said of it.
fn errors(settings: &str) -> Vec<(String, String)> {
    match crate::register(Registry::new())
        .parse_processor("tail_sampling", toml::from_str(settings).unwrap())
        .unwrap()
    {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| (error.key, error.message)).collect(),
    }
}

#[test]
fn every_mistake_is_told_with_its_key() {
    for (settings, expected) in [
        ("", vec![("policies", "at least one")]),
        (
            "decision_wait = '0s'\nnum_traces = 0\nmax_bytes = 1\nnum_shards = 300\nsampling_strategy = 'span-ingest'",
            vec![
                ("decision_wait", "positive"),
                ("num_traces", "1 or more"),
                ("max_bytes", "1MiB"),
                ("sampling_strategy", "not supported"),
                ("num_shards", "256"),
                ("policies", "at least one"),
            ],
        ),
        (
            "policies = [{ type = 'latency' }, { name = 'a', type = 'ottl_condition' }, { name = 'a', type = 'always_sample' }]",
            vec![
                ("policies.0.name", "needs a name"),
                ("policies.0.latency", "needs the table `latency`"),
                ("policies.1.type", "later version"),
                ("policies.2.name", "another policy `a`"),
            ],
        ),
        (
            "policies = [{ name = 'a', type = 'string_attribute', string_attribute = { key = '', values = ['('], enabled_regex_matching = true } }, { name = 'b', type = 'status_code', status_code = { status_codes = ['BAD'] } }]",
            vec![
                ("policies.0.string_attribute.key", "missing"),
                ("policies.0.string_attribute.values", "regular expression"),
                ("policies.1.status_code.status_codes", "`BAD`"),
            ],
        ),
        (
            "policies = [{ name = 'a', type = 'and', and = { and_sub_policy = [{ type = 'latency' }] } }, { name = 'c', type = 'composite', composite = { max_total_spans_per_second = 0, policy_order = ['x'], composite_sub_policy = [{ name = 'y', type = 'always_sample' }] } }]",
            vec![
                ("policies.0.and.and_sub_policy.0.latency", "needs the table"),
                ("policies.1.composite.policy_order", "no policy `x`"),
                ("policies.1.composite.max_total_spans_per_second", "1 or more"),
            ],
        ),
        (
            "policies = [{ name = 'a', type = 'rate_limiting', rate_limiting = { spans_per_second = 0 } }, { name = 'p', type = 'probabilistic', probabilistic = { sampling_percentage = -1 } }]",
            vec![
                ("policies.0.rate_limiting.spans_per_second", "1 or more"),
                ("policies.1.probabilistic.sampling_percentage", "percentage"),
            ],
        ),
    ] {
        let errors = errors(settings);
        let fits = errors.len() == expected.len()
            && errors
                .iter()
                .zip(&expected)
                .all(|((key, said), (at, about))| key == at && said.contains(about));
        assert!(fits, "{settings}\n{errors:#?}");
    }
}
