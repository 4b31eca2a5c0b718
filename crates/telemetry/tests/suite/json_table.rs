//! What JSON is accepted beyond what is written, and what is refused, and where.

use watershed_telemetry::json::{self, JsonFlaw};
use watershed_telemetry::{Flaw, Payload, Signal};

use crate::json::{decode, encode};

/// Documents with a hole in them: what is around a value, by the name of what it is the inside of.
fn within(place: &str) -> (Signal, [&'static str; 2]) {
    let log = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":["#;
    let span = r#"{"resourceSpans":[{"scopeSpans":[{"spans":["#;
    match place {
        "request" => (Signal::Logs, ["", ""]),
        "log" => (Signal::Logs, [log, "]}]}]}"]),
        "body" => (Signal::Logs, [r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":"#, "}]}]}]}"]),
        "span" => (Signal::Traces, [span, "]}]}]}"]),
        "resource" => (Signal::Traces, [r#"{"resourceSpans":[{"resource":"#, "}]}"]),
        "metric" => (Signal::Metrics, [r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":["#, "]}]}]}"]),
        "gauge" => (
            Signal::Metrics,
            [r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"gauge":{"dataPoints":["#, "]}}]}]}]}"],
        ),
        "histogram" => (
            Signal::Metrics,
            [r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"histogram":{"dataPoints":["#, "]}}]}]}]}"],
        ),
        "exponential" => (
            Signal::Metrics,
            [
                r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"exponentialHistogram":{"dataPoints":["#,
                "]}}]}]}]}",
            ],
        ),
        place => panic!("no {place}"),
    }
}

#[test]
fn what_is_accepted_says_what_we_write() {
    for (place, given, written) in [
        // White space, empty things, null for absent.
        ("request", " \n\r\t{ } \n", "{}"),
        ("request", r#"{"resourceLogs":[]}"#, "{}"),
        ("request", r#"{"resourceLogs":null}"#, "{}"),
        ("request", r#"{"resourceLogs":[{}, {}]}"#, r#"{"resourceLogs":[{},{}]}"#),
        ("resource", "null", r#"{"resourceSpans":[{}]}"#),
        ("resource", r#"{"attributes":null,"droppedAttributesCount":null}"#, "{}"),
        ("resource", r#"{"attributes":[{"key":"k","value":null}]}"#, r#"{"attributes":[{"key":"k"}]}"#),
        (
            "resource",
            r#"{"attributes":[{"key":"k","value":{}}]}"#,
            r#"{"attributes":[{"key":"k","value":{}}]}"#,
        ),
        (
            "resource",
            r#"{"entityRefs":[{"type":"t","idKeys":[""]}]}"#,
            r#"{"entityRefs":[{"type":"t","idKeys":[""]}]}"#,
        ),
        ("span", r#"{"parentSpanId":null,"name":null,"kind":null,"startTimeUnixNano":null}"#, "{}"),
        ("span", r#"{"name":"","kind":0,"startTimeUnixNano":"0","flags":0,"traceId":"","events":[]}"#, "{}"),
        ("span", r#"{"status":{}}"#, r#"{"status":{}}"#),
        ("span", r#"{"name":null,"name":"a"}"#, r#"{"name":"a"}"#),
        // What nobody knows.
        (
            "span",
            r#"{"":{"a":[1,-2.5e+7,"\u0000\"",{}, [ ]],"b":null},"x":false,"name":"a","y":true}"#,
            r#"{"name":"a"}"#,
        ),
        ("span", r#"{"TraceId":"xyz","trace\u0049d2":0,"traceID":1,"trace_Id":2}"#, "{}"),
        ("span", r#"{"x":1,"x":2,"name":"a"}"#, r#"{"name":"a"}"#),
        // The schema's names.
        (
            "request",
            r#"{"resource_logs":[{"schema_url":"a","scope_logs":[{"log_records":[{"severityText":"b"}]}]}]}"#,
            r#"{"resourceLogs":[{"schemaUrl":"a","scopeLogs":[{"logRecords":[{"severityText":"b"}]}]}]}"#,
        ),
        (
            "span",
            r#"{"span_\u0069d":"b7ad6b7169203331","start_time_unix_nano":7,"name":"a"}"#,
            r#"{"spanId":"b7ad6b7169203331","startTimeUnixNano":"7","name":"a"}"#,
        ),
        ("body", r#"{"kvlist_value":null,"string_value":"a"}"#, r#"{"stringValue":"a"}"#),
        // Keys and strings with escapes.
        ("span", r#"{"\u006eam\u0065":"a"}"#, r#"{"name":"a"}"#),
        (
            "span",
            r#"{"name":"\"\\\/\b\f\n\r\t\u00e9\u20AC\uD83D\ude80"}"#,
            "{\"name\":\"\\\"\\\\/\\u0008\\u000c\\n\\r\\té€🚀\"}",
        ),
        ("span", "{\"name\":\"é€🚀\u{7f}\u{2028}\"}", "{\"name\":\"é€🚀\u{7f}\u{2028}\"}"),
        // Ids.
        (
            "span",
            r#"{"traceId":"0AF7651916cd43DD8448EB211C80319c"}"#,
            r#"{"traceId":"0af7651916cd43dd8448eb211c80319c"}"#,
        ),
        ("span", r#"{"spanId":"b7ad6b\u0037169203331"}"#, r#"{"spanId":"b7ad6b7169203331"}"#),
        // Integers.
        (
            "span",
            r#"{"startTimeUnixNano":7,"endTimeUnixNano":"7"}"#,
            r#"{"startTimeUnixNano":"7","endTimeUnixNano":"7"}"#,
        ),
        (
            "span",
            r#"{"startTimeUnixNano":18446744073709551615}"#,
            r#"{"startTimeUnixNano":"18446744073709551615"}"#,
        ),
        (
            "span",
            r#"{"startTimeUnixNano":1.8446744073709551615e19}"#,
            r#"{"startTimeUnixNano":"18446744073709551615"}"#,
        ),
        ("span", r#"{"startTimeUnixNano":"\u0031\u0032"}"#, r#"{"startTimeUnixNano":"12"}"#),
        (
            "span",
            r#"{"flags":"257","droppedLinksCount":4294967295.000}"#,
            r#"{"flags":257,"droppedLinksCount":4294967295}"#,
        ),
        ("span", r#"{"droppedLinksCount":-0,"droppedEventsCount":0e99999999999999999999,"flags":0.0}"#, "{}"),
        ("body", r#"{"intValue":7}"#, r#"{"intValue":"7"}"#),
        ("body", r#"{"intValue":7.0}"#, r#"{"intValue":"7"}"#),
        ("body", r#"{"intValue":"-1.5E+1"}"#, r#"{"intValue":"-15"}"#),
        ("body", r#"{"intValue":1e3}"#, r#"{"intValue":"1000"}"#),
        ("body", r#"{"intValue":70e-1}"#, r#"{"intValue":"7"}"#),
        ("body", r#"{"intValue":-9223372036854775808}"#, r#"{"intValue":"-9223372036854775808"}"#),
        ("body", r#"{"intValue":9223372036854775807}"#, r#"{"intValue":"9223372036854775807"}"#),
        ("body", r#"{"intValue":0}"#, r#"{"intValue":"0"}"#),
        ("body", r#"{"stringValueStrindex":-1}"#, r#"{"stringValueStrindex":-1}"#),
        (
            "exponential",
            r#"{"scale":"-2147483648","positive":{"offset":-1.0}}"#,
            r#"{"scale":-2147483648,"positive":{"offset":-1}}"#,
        ),
        (
            "exponential",
            r#"{"negative":{"bucketCounts":[1,"2",3e0]}}"#,
            r#"{"negative":{"bucketCounts":["1","2","3"]}}"#,
        ),
        // Enums are integers, of any size that fits.
        ("span", r#"{"kind":2}"#, r#"{"kind":2}"#),
        ("span", r#"{"kind":2.0}"#, r#"{"kind":2}"#),
        ("span", r#"{"kind":2e0}"#, r#"{"kind":2}"#),
        (
            "span",
            r#"{"kind":-2147483648,"status":{"code":99}}"#,
            r#"{"kind":-2147483648,"status":{"code":99}}"#,
        ),
        // Doubles.
        ("gauge", r#"{"asDouble":5}"#, r#"{"asDouble":5.0}"#),
        ("gauge", r#"{"asDouble":"1.5"}"#, r#"{"asDouble":1.5}"#),
        ("gauge", r#"{"asDouble":"NaN"}"#, r#"{"asDouble":"NaN"}"#),
        ("gauge", r#"{"asDouble":"Infinity"}"#, r#"{"asDouble":"Infinity"}"#),
        ("gauge", r#"{"asDouble":"-Infinity"}"#, r#"{"asDouble":"-Infinity"}"#),
        ("gauge", r#"{"asDouble":"-In\u0066inity"}"#, r#"{"asDouble":"-Infinity"}"#),
        ("gauge", r#"{"asDouble":-0.0}"#, r#"{"asDouble":-0.0}"#),
        ("gauge", r#"{"asDouble":0}"#, r#"{"asDouble":0.0}"#),
        ("gauge", r#"{"asDouble":1e-999}"#, r#"{"asDouble":0.0}"#),
        ("gauge", r#"{"asDouble":1.7976931348623157E308}"#, r#"{"asDouble":1.7976931348623157e308}"#),
        ("gauge", r#"{"asDouble":0.1000000000000000055511151231257827}"#, r#"{"asDouble":0.1}"#),
        ("gauge", r#"{"asInt":null,"asDouble":1}"#, r#"{"asDouble":1.0}"#),
        ("gauge", r#"{"asInt":0}"#, r#"{"asInt":"0"}"#),
        ("histogram", r#"{"sum":0,"min":"0","max":null}"#, r#"{"sum":0.0,"min":0.0}"#),
        (
            "histogram",
            r#"{"explicitBounds":["Infinity",1],"bucketCounts":[]}"#,
            r#"{"explicitBounds":["Infinity",1.0]}"#,
        ),
        // Bytes, in base64 of either alphabet.
        ("body", r#"{"bytesValue":""}"#, r#"{"bytesValue":""}"#),
        ("body", r#"{"bytesValue":"+/8="}"#, r#"{"bytesValue":"+/8="}"#),
        ("body", r#"{"bytesValue":"-_8="}"#, r#"{"bytesValue":"+/8="}"#),
        ("body", r#"{"bytesValue":"-_8"}"#, r#"{"bytesValue":"+/8="}"#),
        ("body", r#"{"bytesValue":"\/w=="}"#, r#"{"bytesValue":"/w=="}"#),
        ("body", r#"{"bytesValue":"AAEC"}"#, r#"{"bytesValue":"AAEC"}"#),
        // Values.
        ("body", "{}", "{}"),
        ("body", r#"{"stringValue":""}"#, r#"{"stringValue":""}"#),
        ("body", r#"{"boolValue":false}"#, r#"{"boolValue":false}"#),
        ("body", r#"{"stringValue":null,"boolValue":true,"intValue":null}"#, r#"{"boolValue":true}"#),
        ("body", r#"{"arrayValue":{}}"#, r#"{"arrayValue":{}}"#),
        ("body", r#"{"arrayValue":{"values":[]}}"#, r#"{"arrayValue":{}}"#),
        ("body", r#"{"kvlistValue":{"values":null}}"#, r#"{"kvlistValue":{}}"#),
    ] {
        let (signal, [before, after]) = within(place);
        let bytes = decode(signal, &format!("{before}{given}{after}"))
            .unwrap_or_else(|error| panic!("{given}: {error}"));
        let expected = match (place, written) {
            (_, whole) if whole.starts_with(r#"{"resource"#) => whole.to_owned(),
            (_, written) => format!("{before}{written}{after}"),
        };
        assert_eq!(encode(signal, &bytes), expected, "{given}");
        Payload::validate(signal, bytes.into()).unwrap();
    }
}

/// Where the flaw is, is marked with a `^`.
#[test]
fn what_is_refused_is_refused_at_its_place() {
    const INTEGER: JsonFlaw = JsonFlaw::Type("an integer, or a string with one in it");
    const DOUBLE: JsonFlaw = JsonFlaw::Type(r#"a number, "NaN", "Infinity" or "-Infinity""#);
    const ENUM: JsonFlaw = JsonFlaw::Type("an integer, as OTLP/JSON has no names for enums");
    const WHOLE: JsonFlaw = JsonFlaw::Type("a whole number");
    const STRING: JsonFlaw = JsonFlaw::Type("a string");
    const OBJECT: JsonFlaw = JsonFlaw::Type("an object");
    const ARRAY: JsonFlaw = JsonFlaw::Type("an array");
    const BOOL: JsonFlaw = JsonFlaw::Type("true or false");
    const VALUE: JsonFlaw = JsonFlaw::Expected("a value");
    const KEY: JsonFlaw = JsonFlaw::Expected("a key in quotation marks");
    const COLON: JsonFlaw = JsonFlaw::Expected("`:`");
    const MEMBER: JsonFlaw = JsonFlaw::Expected("`,` or `}`");
    const ELEMENT: JsonFlaw = JsonFlaw::Expected("`,` or `]`");
    for (place, given, flaw, path) in [
        // The document.
        ("request", "^", JsonFlaw::Truncated, "request"),
        ("request", " \n^", JsonFlaw::Truncated, "request"),
        ("request", "^\u{feff}{}", JsonFlaw::ByteOrderMark, "request"),
        ("request", "^null", OBJECT, "request"),
        ("request", "^[]", OBJECT, "request"),
        ("request", "{}^{}", JsonFlaw::Trailing, "request"),
        ("request", "{} ^,", JsonFlaw::Trailing, "request"),
        ("request", "{^", JsonFlaw::Truncated, "request"),
        ("request", r#"{"resourceLogs":[{},{}^"#, JsonFlaw::Truncated, "resourceLogs"),
        ("request", r#"{"resourceLogs":[{},{^"#, JsonFlaw::Truncated, "resourceLogs[1]"),
        ("request", r#"{"resourceL^"#, JsonFlaw::Truncated, "request"),
        ("request", r#"{"resourceLogs"^"#, JsonFlaw::Truncated, "request"),
        ("request", r#"{"resourceLogs":^"#, JsonFlaw::Truncated, "resourceLogs"),
        ("request", r#"{"x":"\^"#, JsonFlaw::Truncated, "request"),
        // Of another signal.
        ("request", r#"{^"resourceSpans":[{}]}"#, JsonFlaw::Signal(Signal::Traces), "request"),
        ("request", r#"{"x":1,^"resource_metrics":null}"#, JsonFlaw::Signal(Signal::Metrics), "request"),
        // Objects and arrays.
        ("span", "{^,}", KEY, ""),
        ("span", "{^name:1}", KEY, ""),
        ("span", r#"{^'name':"a"}"#, KEY, ""),
        ("span", r#"{"name":"a",^}"#, KEY, ""),
        ("span", r#"{"name"^"a"}"#, COLON, ""),
        ("span", r#"{"name":"a"^"kind":1}"#, MEMBER, ""),
        ("span", r#"{"name":"a"^]"#, MEMBER, ""),
        ("span", r#"{"events":[{}^{}]}"#, ELEMENT, "events"),
        ("span", r#"{"events":[{},^]}"#, OBJECT, "events[1]"),
        ("span", r#"{"events":^{}}"#, ARRAY, "events"),
        ("span", r#"{"events":[^null]}"#, OBJECT, "events[0]"),
        ("span", r#"{"status":^[]}"#, OBJECT, "status"),
        ("span", r#"{"status":^1}"#, OBJECT, "status"),
        ("span", r#"{"status":{}^/**/}"#, MEMBER, ""),
        // Twice, and beside another.
        ("span", r#"{"name":"a",^"name":"a"}"#, JsonFlaw::Duplicate, "name"),
        ("span", r#"{"name":"",^"n\u0061me":"a"}"#, JsonFlaw::Duplicate, "name"),
        ("span", r#"{"events":[],^"events":[]}"#, JsonFlaw::Duplicate, "events"),
        ("span", r#"{"status":{},"name":"",^"status":{}}"#, JsonFlaw::Duplicate, "status"),
        ("span", r#"{"traceId":"",^"trace_id":""}"#, JsonFlaw::Duplicate, "traceId"),
        ("body", r#"{"stringValue":"a",^"intValue":1}"#, JsonFlaw::OneOf, "intValue"),
        ("body", r#"{"arrayValue":{},^"kvlistValue":{}}"#, JsonFlaw::OneOf, "kvlistValue"),
        ("body", r#"{"boolValue":true,^"boolValue":true}"#, JsonFlaw::Duplicate, "boolValue"),
        ("gauge", r#"{"asInt":0,^"asDouble":0}"#, JsonFlaw::OneOf, "asDouble"),
        ("metric", r#"{"gauge":{},^"sum":{}}"#, JsonFlaw::OneOf, "sum"),
        // Strings.
        ("span", r#"{"name":^1}"#, STRING, "name"),
        ("span", r#"{"name":^{}}"#, STRING, "name"),
        ("span", r#"{"name":^nul}"#, STRING, "name"),
        ("span", "{\"name\":\"a^\nb\"}", JsonFlaw::Control, "name"),
        ("span", "{\"a^\u{0}\":1}", JsonFlaw::Control, ""),
        ("span", r#"{"name":"abcdefgh^\x"}"#, JsonFlaw::Escape, "name"),
        ("span", r#"{"name":"^\u12g4"}"#, JsonFlaw::Escape, "name"),
        ("span", r#"{"name":"^\u+123"}"#, JsonFlaw::Escape, "name"),
        ("span", r#"{"name":"\n^\u123"}"#, JsonFlaw::Escape, "name"),
        ("span", r#"{"name":"^\ud800"}"#, JsonFlaw::Surrogate, "name"),
        ("span", r#"{"name":"^\ud800\n"}"#, JsonFlaw::Surrogate, "name"),
        ("span", r#"{"name":"^\ud800\u0041"}"#, JsonFlaw::Surrogate, "name"),
        ("span", r#"{"name":"^\ud800\ud800"}"#, JsonFlaw::Surrogate, "name"),
        ("span", r#"{"name":"a^\udc00\ud800"}"#, JsonFlaw::Surrogate, "name"),
        ("span", r#"{"^\udfff":1}"#, JsonFlaw::Surrogate, ""),
        ("resource", r#"{"entityRefs":[{"idKeys":["a",^null]}]}"#, STRING, "entityRefs[0].idKeys[1]"),
        // Ids.
        ("span", r#"{"traceId":^7}"#, STRING, "traceId"),
        ("span", r#"{"traceId":^"0af7651916cd43dd8448eb211c80319"}"#, JsonFlaw::Hex, "traceId"),
        ("span", r#"{"spanId": ^"b7ad6b716920333g"}"#, JsonFlaw::Hex, "spanId"),
        ("span", r#"{"parentSpanId":^"t61rawfpAro="}"#, JsonFlaw::Hex, "parentSpanId"),
        ("span", r#"{"links":[{"traceId":^" "}]}"#, JsonFlaw::Hex, "links[0].traceId"),
        // Base64.
        ("body", r#"{"bytesValue":^[1]}"#, STRING, "bytesValue"),
        ("body", r#"{"bytesValue":^"A"}"#, JsonFlaw::Base64, "bytesValue"),
        ("body", r#"{"bytesValue":^"AAAAA"}"#, JsonFlaw::Base64, "bytesValue"),
        ("body", r#"{"bytesValue":^"AA="}"#, JsonFlaw::Base64, "bytesValue"),
        ("body", r#"{"bytesValue":^"AAA=="}"#, JsonFlaw::Base64, "bytesValue"),
        ("body", r#"{"bytesValue":^"=="}"#, JsonFlaw::Base64, "bytesValue"),
        ("body", r#"{"bytesValue":^"A==="}"#, JsonFlaw::Base64, "bytesValue"),
        ("body", r#"{"bytesValue":^"A\n=="}"#, JsonFlaw::Base64, "bytesValue"),
        ("body", r#"{"bytesValue":^"AA=A"}"#, JsonFlaw::Base64, "bytesValue"),
        ("body", r#"{"bytesValue":^"A*=="}"#, JsonFlaw::Base64, "bytesValue"),
        // Integers.
        ("body", r#"{"intValue":^1.5}"#, WHOLE, "intValue"),
        ("body", r#"{"intValue":^"1e-1"}"#, WHOLE, "intValue"),
        ("body", r#"{"intValue":^5e-99999999999999999999}"#, WHOLE, "intValue"),
        ("body", r#"{"intValue":^9223372036854775808}"#, JsonFlaw::Range("int64"), "intValue"),
        ("body", r#"{"intValue":^-9223372036854775809}"#, JsonFlaw::Range("int64"), "intValue"),
        ("body", r#"{"intValue":^"1e19"}"#, JsonFlaw::Range("int64"), "intValue"),
        ("body", r#"{"intValue":^1e99999999999999999999}"#, JsonFlaw::Range("64-bit integers"), "intValue"),
        ("body", r#"{"intValue":^18446744073709551616}"#, JsonFlaw::Range("64-bit integers"), "intValue"),
        ("body", r#"{"intValue":^true}"#, INTEGER, "intValue"),
        ("body", r#"{"intValue":^""}"#, INTEGER, "intValue"),
        ("body", r#"{"intValue":^" 1"}"#, INTEGER, "intValue"),
        ("body", r#"{"intValue":^"1 "}"#, INTEGER, "intValue"),
        ("body", r#"{"intValue":^"+1"}"#, INTEGER, "intValue"),
        ("body", r#"{"intValue":^"01"}"#, INTEGER, "intValue"),
        ("body", r#"{"intValue":^"0x1"}"#, INTEGER, "intValue"),
        ("body", r#"{"intValue":^"NaN"}"#, INTEGER, "intValue"),
        ("body", r#"{"intValue":^+1}"#, INTEGER, "intValue"),
        ("body", r#"{"intValue":0^1}"#, MEMBER, ""),
        ("body", r#"{"intValue":1.^}"#, JsonFlaw::Number, "intValue"),
        ("body", r#"{"intValue":-^}"#, JsonFlaw::Number, "intValue"),
        ("body", r#"{"intValue":1e+^}"#, JsonFlaw::Number, "intValue"),
        ("body", r#"{"intValue":^.5}"#, INTEGER, "intValue"),
        ("body", r#"{"stringValueStrindex":^2147483648}"#, JsonFlaw::Range("int32"), "stringValueStrindex"),
        ("span", r#"{"startTimeUnixNano":^-1}"#, JsonFlaw::Range("uint64"), "startTimeUnixNano"),
        ("span", r#"{"flags":^4294967296}"#, JsonFlaw::Range("uint32"), "flags"),
        ("span", r#"{"flags":^"-1"}"#, JsonFlaw::Range("uint32"), "flags"),
        ("span", r#"{"droppedLinksCount":^1e10}"#, JsonFlaw::Range("uint32"), "droppedLinksCount"),
        ("exponential", r#"{"scale":^-2147483649}"#, JsonFlaw::Range("int32"), "scale"),
        ("histogram", r#"{"bucketCounts":[1,^-1]}"#, JsonFlaw::Range("uint64"), "bucketCounts[1]"),
        ("histogram", r#"{"bucketCounts":[1,^null]}"#, INTEGER, "bucketCounts[1]"),
        ("histogram", r#"{"bucketCounts":^"1"}"#, ARRAY, "bucketCounts"),
        // Enums.
        ("span", r#"{"kind":^"SPAN_KIND_SERVER"}"#, ENUM, "kind"),
        ("span", r#"{"kind":^"2"}"#, ENUM, "kind"),
        ("span", r#"{"kind":^2.5}"#, WHOLE, "kind"),
        ("span", r#"{"kind":^2147483648}"#, JsonFlaw::Range("int32"), "kind"),
        ("span", r#"{"status":{"code":^"OK"}}"#, ENUM, "status.code"),
        ("metric", r#"{"sum":{"aggregationTemporality":^"DELTA"}}"#, ENUM, "sum.aggregationTemporality"),
        // Doubles and booleans.
        ("gauge", r#"{"asDouble":^1e999}"#, JsonFlaw::Range("double"), "asDouble"),
        ("gauge", r#"{"asDouble":^"-1e999"}"#, JsonFlaw::Range("double"), "asDouble"),
        ("gauge", r#"{"asDouble":^"nan"}"#, DOUBLE, "asDouble"),
        ("gauge", r#"{"asDouble":^NaN}"#, DOUBLE, "asDouble"),
        ("gauge", r#"{"asDouble":-^Infinity}"#, JsonFlaw::Number, "asDouble"),
        ("gauge", r#"{"asDouble":^"inf"}"#, DOUBLE, "asDouble"),
        ("gauge", r#"{"asDouble":^""}"#, DOUBLE, "asDouble"),
        ("histogram", r#"{"explicitBounds":[^[]]}"#, DOUBLE, "explicitBounds[0]"),
        ("body", r#"{"boolValue":^1}"#, BOOL, "boolValue"),
        ("body", r#"{"boolValue":^"true"}"#, BOOL, "boolValue"),
        ("body", r#"{"boolValue":true^false}"#, MEMBER, ""),
        // What is dropped is read all the same.
        ("span", r#"{"x":^}"#, VALUE, ""),
        ("span", r#"{"x":[1,^]}"#, VALUE, ""),
        ("span", r#"{"x":[1^}}"#, ELEMENT, ""),
        ("span", r#"{"x":{"a":1^]}"#, MEMBER, ""),
        ("span", r#"{"x":{"a":{},^}}"#, KEY, ""),
        ("span", r#"{"x":[{"a"^}]}"#, COLON, ""),
        ("span", r#"{"x":["^\q"]}"#, JsonFlaw::Escape, ""),
        ("span", r#"{"x":{"^\ud800":1}}"#, JsonFlaw::Surrogate, ""),
        ("span", r#"{"x":0^0}"#, MEMBER, ""),
        ("span", r#"{"x":-^a}"#, JsonFlaw::Number, ""),
        ("span", r#"{"x":^tru}"#, VALUE, ""),
        ("span", r#"{"x":true^s}"#, MEMBER, ""),
    ] {
        let (signal, [before, after]) = within(place);
        let offset = before.len() + given.find('^').expect("a mark");
        // A text that ends early has nothing behind it.
        let after = if flaw == JsonFlaw::Truncated { "" } else { after };
        let text = format!("{before}{}{after}", given.replacen('^', "", 1));
        let error = decode(signal, &text).expect_err(&text);
        assert_eq!((error.flaw(), error.offset()), (flaw, offset), "{text}\n{error}");
        assert!(error.path().ends_with(path), "{text}\n{error}");
    }
}

#[test]
fn what_is_not_utf8_is_refused_wherever_it_stands() {
    for text in [&b"{\"resourceLogs\":\"\xFF\"}"[..], b"{\"\xED\xA0\x80\":1}", b"\xC0{}", b"{}\xE2\x82"] {
        let error = json::decode(Signal::Logs, text, &mut |_| true).unwrap_err();
        let bad = text.iter().position(|byte| *byte >= 0x80).unwrap();
        assert_eq!((error.flaw(), error.offset()), (JsonFlaw::Utf8, bad));
    }
}

#[test]
fn ids_of_a_wrong_length_are_for_validation() {
    let (signal, [before, after]) = within("span");
    for (given, flaw) in [
        (r#"{"traceId":"0af7"}"#, Flaw::TraceId),
        (r#"{"spanId":"0af7651916cd43dd8448eb211c80319c"}"#, Flaw::SpanId),
        (r#"{"parentSpanId":"00"}"#, Flaw::SpanId),
    ] {
        let bytes = decode(signal, &format!("{before}{given}{after}")).unwrap();
        assert_eq!(Payload::validate(signal, bytes.into()).unwrap_err().flaw(), flaw);
    }
}

#[test]
fn the_message_is_one_line_that_names_field_line_and_column() {
    let text = "{\"resourceSpans\": [\n  {},\n  {\"scopeSpans\": [{\"spans\": [\n\t{\"name\": \"\u{e9}\", \"kind\": \"SERVER\"}]}]}]}";
    let error = decode(Signal::Traces, text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "resourceSpans[1].scopeSpans[0].spans[0].kind: must be an integer, as OTLP/JSON has no names for enums \
         (line 4, column 24)"
    );
    assert_eq!((error.line(), error.column()), (4, 24));
    assert_eq!(&text[error.offset()..][..8], "\"SERVER\"");
}
