//! What the settings of `redaction` mean, and what is wrong with them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use proptest::prelude::*;
use prost::Message as _;
use watershed_shaping::redaction::{Rules, Settings};
use watershed_shaping::register;
use watershed_stage::{Metrics, Part, Payload, Placement, Registry, Signal};
use watershed_telemetry::redact::redact;
use watershed_telemetry::wire::put_bytes_field;

fn errors(settings: &str) -> Vec<(String, String)> {
    match register(Registry::new()).parse_processor("redaction", toml::from_str(settings).unwrap()).unwrap() {
        Ok(_) => Vec::new(),
        Err(errors) => errors.into_iter().map(|error| (error.key, error.message)).collect(),
    }
}

fn rules(settings: &str, metrics: &Metrics) -> Rules {
    assert_eq!(errors(settings), []);
    let settings: Settings = toml::from_str(settings).unwrap();
    Rules::new(&settings, metrics, "redaction").unwrap()
}

fn text(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)), ..KeyValue::default() }
}

fn map(values: Vec<KeyValue>) -> Value {
    Value::KvlistValue(KeyValueList { values })
}

fn record(attributes: Vec<KeyValue>, body: Option<Value>) -> LogRecord {
    LogRecord { attributes, body: body.map(any), ..LogRecord::default() }
}

fn payload(record: LogRecord) -> Payload {
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    Payload::validate(Signal::Logs, ExportLogsServiceRequest { resource_logs }.encode_to_vec().into())
        .unwrap()
}

fn pass(rules: &Rules, record: LogRecord) -> LogRecord {
    let redacted = redact(rules, &payload(record)).to_bytes();
    let mut request = ExportLogsServiceRequest::decode(redacted).unwrap();
    request.resource_logs.remove(0).scope_logs.remove(0).log_records.remove(0)
}

/// What becomes of one body text.
fn body(rules: &Rules, body: &str) -> String {
    match pass(rules, record(vec![], Some(text(body)))).body.unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_mistake_is_told_with_its_key() {
    let bad = errors(
        r#"
        ignored_key_patterns = ["ok", "[a-"]
        blocked_key_patterns = [""]
        blocked_values = ["a(b", "(?=x)"]
        allowed_values = ['(\w{1,500}){1,500}']
        "#,
    );
    let expected = [
        ("", "allow_all_keys = true"),
        ("ignored_key_patterns.1", "unclosed character class, at character 1"),
        ("blocked_key_patterns.0", "matches everywhere"),
        ("blocked_values.0", "unclosed group, at character 2"),
        ("blocked_values.1", "look-around"),
        ("allowed_values.0", "too large"),
    ];
    assert_eq!(bad.len(), expected.len(), "{bad:#?}");
    for ((key, said), (at, about)) in bad.iter().zip(expected) {
        assert!(key == at && said.contains(about), "{key}: {said}");
    }
    for (settings, at) in [
        ("hash_function = 'md5'", "hash_function"),
        ("presets = { emial = 'mask' }", "presets"),
        ("presets = { email = 'hide' }", "presets"),
        ("summary = 'loud'", "summary"),
        ("blocked_value = ['x']", "blocked_value"),
    ] {
        let errors = errors(settings);
        assert!(errors.iter().any(|(key, _)| key.starts_with(at)), "{settings}: {errors:?}");
    }
    // Said aloud, otelcol's default is no mistake.
    assert_eq!(errors("allowed_keys = []"), []);
}

#[test]
fn it_stands_on_every_lane_and_keeps_nothing() {
    let settings = toml::from_str("allow_all_keys = true").unwrap();
    let spec = register(Registry::new()).parse_processor("redaction", settings).unwrap().unwrap();
    let Part::Stage(stage) = spec.part() else { panic!("a stage") };
    assert_eq!((stage.placement(), stage.holds()), (Placement::Lane, false));
    assert_eq!(stage.signals(), Signal::ALL);
}

#[test]
fn nothing_passes_a_list_by_being_named_like_a_summary() {
    let told = || {
        vec![
            pair("redaction.masked.keys", text("anything")),
            pair("redaction.redacted.count", Value::IntValue(4_111_111_111_111_111)),
            pair("redaction.body.allowed.keys", text("anything")),
        ]
    };
    for (list, summary, left) in
        [("[]", "silent", 0), ("[]", "info", 0), ("['redaction.masked.keys']", "silent", 1)]
    {
        let settings = format!("allowed_keys = {list}\nsummary = '{summary}'");
        let rules = rules(&settings, &Metrics::default());
        let body = map(told());
        let after = pass(&rules, record(told(), Some(body)));
        let attributes = after.attributes.iter().filter(|pair| !pair.key.ends_with("body.redacted.count"));
        assert_eq!(attributes.count(), left, "{settings}: {after:?}");
        let Some(Value::KvlistValue(body)) = after.body.unwrap().value else { panic!("no map") };
        assert_eq!(body.values.len(), left, "{settings}");
    }
}

#[test]
fn lists_apply_in_otelcols_order() {
    let rules = rules(
        r#"
        allowed_keys = ["kept", "secret", "card", "mixed", "fine", "list"]
        ignored_keys = ["ignored"]
        ignored_key_patterns = ["^safe_"]
        blocked_key_patterns = ["secret"]
        blocked_values = ["4[0-9]{15}", "[a-z]+@corp"]
        allowed_values = ["^ok@corp$"]
        summary = "debug"
        "#,
        &Metrics::default(),
    );
    let number = 4_111_111_111_111_111;
    let nested = map(vec![pair("other", text("bob@corp")), pair("my_secret", Value::BoolValue(true))]);
    let attributes = vec![
        pair("ignored", text("bob@corp")),
        pair("safe_secret", text("bob@corp")),
        pair("gone", text("x")),
        pair("kept", text("x")),
        pair("secret", Value::DoubleValue(1.5)),
        pair("card", Value::IntValue(number)),
        pair("mixed", text("to bob@corp, al@corp")),
        pair("fine", text("ok@corp")),
        pair("list", nested.clone()),
    ];
    let masked = map(vec![pair("other", text("****")), pair("my_secret", text("****"))]);
    let told = |key: &str, value: Value| pair(&format!("redaction.{key}"), value);
    let expected = vec![
        pair("ignored", text("bob@corp")),
        pair("safe_secret", text("bob@corp")),
        pair("kept", text("x")),
        pair("secret", text("****")),
        pair("card", text("****")),
        pair("mixed", text("to ****, ****")),
        pair("fine", text("ok@corp")),
        pair("list", masked),
        told("redacted.keys", text("gone")),
        told("redacted.count", Value::IntValue(1)),
        told("masked.keys", text("card,list,mixed,secret")),
        told("masked.count", Value::IntValue(4)),
        told("allowed.keys", text("fine")),
        told("allowed.count", Value::IntValue(1)),
        told("ignored.count", Value::IntValue(2)),
        told("body.redacted.keys", text("other")),
        told("body.redacted.count", Value::IntValue(1)),
        told("body.masked.keys", text("kept")),
        told("body.masked.count", Value::IntValue(1)),
    ];
    // A map in a body is under the list, as in otelcol.
    let map_body = map(vec![pair("kept", text("bob@corp")), pair("other", text("x"))]);
    let after = pass(&rules, record(attributes, Some(map_body)));
    assert_eq!(after.attributes, expected);
    assert_eq!(after.body, Some(any(map(vec![pair("kept", text("****"))]))));
    // What was told is told on, not deleted and not doubled.
    let again = pass(&rules, record(after.attributes, None));
    assert!(again.attributes.contains(&told("redacted.count", Value::IntValue(1))), "{again:?}");
}

#[test]
fn each_preset_has_its_action_and_each_rule_its_counter() {
    let metrics = Metrics::default();
    let rules = rules(
        r#"
        allow_all_keys = true
        presets = { email = "hash", ip = "mask", token = "delete" }
        blocked_values = ["order-[0-9]+"]
        "#,
        &metrics,
    );
    assert_eq!(
        body(&rules, "a@b.io from 192.0.2.1: order-17!"),
        format!("{} from ****: ****!", hash("a@b.io"))
    );
    // In no entry: it is cut out. In one: the entry goes.
    assert_eq!(body(&rules, "pwd=abc123 ok"), "pwd= ok");
    let list = Value::ArrayValue(ArrayValue { values: vec![any(text("pwd=abc123"))] });
    let after = pass(&rules, record(vec![pair("a", text("x")), pair("b", list)], None));
    assert_eq!(after.attributes, [pair("a", text("x"))]);
    // Where two rules meet, the stronger takes all that either found.
    assert_eq!(body(&rules, "to order-17@b.io."), "to ****.");
    assert_eq!(body(&rules, "https://app:pw@192.0.2.1/"), "https://@****/");
    let rendered = metrics.render();
    for line in [
        r#"{processor="redaction",rule="email",action="hash"} 1"#,
        r#"{processor="redaction",rule="ip",action="mask"} 2"#,
        r#"{processor="redaction",rule="blocked_values.0",action="mask"} 2"#,
        r#"{processor="redaction",rule="token",action="delete"} 3"#,
    ] {
        assert!(rendered.contains(&format!("watershed_processor_redacted_values{line}")), "{rendered}");
    }
}

fn hash(value: impl AsRef<[u8]>) -> String {
    let hash = <sha2::Sha256 as sha2::Digest>::digest(value.as_ref());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_blocked_key_hashes_the_text_of_its_value() {
    let settings = "allow_all_keys = true\nblocked_key_patterns = ['^id$']\nhash_function = 'sha256'";
    let rules = rules(settings, &Metrics::default());
    for value in [text("17"), Value::IntValue(17), Value::BytesValue(b"17".to_vec())] {
        let after = pass(&rules, record(vec![pair("id", value)], None));
        assert_eq!(after.attributes, [pair("id", text(&hash("17")))]);
    }
}

#[test]
fn a_blocked_value_in_several_pieces_is_hashed_whole() {
    let settings = "allow_all_keys = true\nblocked_key_patterns = ['^id$']\nhash_function = 'sha256'";
    let rules = rules(settings, &Metrics::default());
    let field = |number: u32, value: &[u8]| {
        let mut out = Vec::new();
        put_bytes_field(&mut out, number, value);
        out
    };
    let list = |element: &str| Value::ArrayValue(ArrayValue { values: vec![any(text(element))] });
    let hash_of = |pieces: &[Value]| {
        // A key, and its value in as many fields: protobuf merges them.
        let values = pieces.iter().flat_map(|piece| field(2, &any(piece.clone()).encode_to_vec()));
        let entry = [field(1, b"id"), values.collect()].concat();
        let request = field(1, &field(2, &field(2, &field(6, &entry))));
        let redacted = redact(&rules, &Payload::validate(Signal::Logs, request.into()).unwrap()).to_bytes();
        let mut request = ExportLogsServiceRequest::decode(redacted).unwrap();
        let mut attributes =
            request.resource_logs.remove(0).scope_logs.remove(0).log_records.remove(0).attributes;
        attributes.remove(0).value
    };
    for make in [&list as &dyn Fn(&str) -> Value, &|key| map(vec![pair(key, text("x"))])] {
        let last = make("b");
        let whole = hash_of(&[make("a"), last.clone()]);
        let pieces = [any(make("a")).encode_to_vec(), any(last.clone()).encode_to_vec()].concat();
        assert_eq!(whole, Some(any(text(&hash(pieces)))));
        assert_ne!(whole, hash_of(&[last]), "the first piece counts, too");
    }
}

#[test]
fn booleans_and_doubles_are_looked_at_if_asked() {
    for (all, becomes) in [("false", Value::DoubleValue(2.5)), ("true", text("****"))] {
        let settings = format!("allow_all_keys = true\nredact_all_types = {all}\nblocked_values = ['2.5']");
        let after = pass(
            &rules(&settings, &Metrics::default()),
            record(vec![pair("a", Value::DoubleValue(2.5))], None),
        );
        assert_eq!(after.attributes, [pair("a", becomes)]);
    }
}

#[test]
fn a_request_with_nothing_to_redact_keeps_its_buffer() {
    let rules = rules(
        "allow_all_keys = true\npresets = { email = 'mask', token = 'mask' }\nsummary = 'debug'",
        &Metrics::default(),
    );
    let before = payload(record(vec![pair("a", text("b@c"))], Some(text("nothing here"))));
    assert_eq!(redact(&rules, &before).requests()[0].as_ptr(), before.requests()[0].as_ptr());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The lists against the sentence that says what they do.
    #[test]
    fn key_lists_do_what_they_say(
        keys in proptest::collection::vec("[a-e]{1,2}", 0..6),
        allowed in proptest::option::of(proptest::collection::vec("[a-e]{1,2}", 0..6)),
        ignored in proptest::collection::vec("[a-e]{1,2}", 0..3),
        blocked in "[a-e]",
    ) {
        let list = |keys: &[String]| format!("{keys:?}");
        let allow = allowed.as_deref().map_or("allow_all_keys = true".into(), |keys| format!("allowed_keys = {}", list(keys)));
        let settings = format!("{allow}\nignored_keys = {}\nblocked_key_patterns = ['{blocked}']", list(&ignored));
        let rules = rules(&settings, &Metrics::default());
        let before = record(keys.iter().map(|key| pair(key, text("x"))).collect(), None);
        let expected = keys.iter().filter_map(|key| {
            if ignored.contains(key) {
                return Some(pair(key, text("x")));
            }
            let is_allowed = allowed.as_ref().is_none_or(|allowed| allowed.contains(key));
            is_allowed.then(|| pair(key, text(if key.contains(&blocked) { "****" } else { "x" })))
        });
        let expected: Vec<_> = expected.collect();
        prop_assert_eq!(pass(&rules, before).attributes, expected);
    }

    /// Whatever a text is: what is left is found clean, and nothing panics.
    #[test]
    fn any_text_can_be_looked_at(text in "\\PC{0,40}|[-a-z0-9@.:%+=\"'\\\\/ _\u{e9}]{0,60}|(4111 ?){3}1111[ -]?[0-9a-f]{0,4}") {
        let presets = "presets = { email = 'mask', card = 'mask', token = 'mask', phone = 'mask', ip = 'mask', iban = 'mask' }";
        let rules = rules(&format!("allow_all_keys = true\n{presets}"), &Metrics::default());
        let once = body(&rules, &text);
        let kept: BTreeMap<_, _> = once.split("****").map(|piece| (piece, ())).collect();
        prop_assert!(kept.keys().all(|piece| text.contains(*piece)), "{once:?} is not what is left of {text:?}");
    }
}
