//! Jaeger's messages, as prost has them and as Thrift's writers write them; OTLP's, as prost reads them.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span as OtlpSpan;
use prost::Message;
use watershed_jaeger::decode::{DecodeError, Format, decode};
use watershed_telemetry::{Payload, Signal};
use watershed_thrift::{Kind, List, Message as Call, Protocol, Purpose, Value, Writer};

/// jaeger-idl, `proto/api_v2/collector.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct PostSpansRequest {
    #[prost(message, optional, tag = "1")]
    pub batch: Option<Batch>,
}

/// jaeger-idl, `proto/api_v2/model.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct Batch {
    #[prost(message, repeated, tag = "1")]
    pub spans: Vec<Span>,
    #[prost(message, optional, tag = "2")]
    pub process: Option<Process>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Process {
    #[prost(string, tag = "1")]
    pub service_name: String,
    #[prost(message, repeated, tag = "2")]
    pub tags: Vec<Tag>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub operation_name: String,
    #[prost(message, repeated, tag = "4")]
    pub references: Vec<SpanRef>,
    #[prost(uint32, tag = "5")]
    pub flags: u32,
    #[prost(message, optional, tag = "6")]
    pub start_time: Option<Time>,
    #[prost(message, optional, tag = "7")]
    pub duration: Option<Time>,
    #[prost(message, repeated, tag = "8")]
    pub tags: Vec<Tag>,
    #[prost(message, repeated, tag = "9")]
    pub logs: Vec<Log>,
    #[prost(message, optional, tag = "10")]
    pub process: Option<Process>,
    #[prost(string, tag = "11")]
    pub process_id: String,
    #[prost(string, repeated, tag = "12")]
    pub warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SpanRef {
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    #[prost(int32, tag = "3")]
    pub ref_type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Log {
    #[prost(message, optional, tag = "1")]
    pub timestamp: Option<Time>,
    #[prost(message, repeated, tag = "2")]
    pub fields: Vec<Tag>,
}

/// `KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct Tag {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(int32, tag = "2")]
    pub v_type: i32,
    #[prost(string, tag = "3")]
    pub v_str: String,
    #[prost(bool, tag = "4")]
    pub v_bool: bool,
    #[prost(int64, tag = "5")]
    pub v_int64: i64,
    #[prost(double, tag = "6")]
    pub v_float64: f64,
    #[prost(bytes = "vec", tag = "7")]
    pub v_binary: Vec<u8>,
}

/// `google.protobuf.Timestamp` and `Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Time {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

pub const CHILD_OF: i32 = 0;
pub const FOLLOWS_FROM: i32 = 1;

pub fn text(key: &str, value: &str) -> Tag {
    Tag { key: key.into(), v_str: value.into(), ..Tag::default() }
}

pub fn boolean(key: &str, value: bool) -> Tag {
    Tag { key: key.into(), v_type: 1, v_bool: value, ..Tag::default() }
}

pub fn int(key: &str, value: i64) -> Tag {
    Tag { key: key.into(), v_type: 2, v_int64: value, ..Tag::default() }
}

pub fn float(key: &str, value: f64) -> Tag {
    Tag { key: key.into(), v_type: 3, v_float64: value, ..Tag::default() }
}

pub fn binary(key: &str, value: &[u8]) -> Tag {
    Tag { key: key.into(), v_type: 4, v_binary: value.into(), ..Tag::default() }
}

pub fn time(nanos: u64) -> Option<Time> {
    Some(Time { seconds: (nanos / 1_000_000_000) as i64, nanos: (nanos % 1_000_000_000) as i32 })
}

pub fn nanos(time: Option<Time>) -> u64 {
    time.map_or(0, |time| time.seconds as u64 * 1_000_000_000 + time.nanos as u64)
}

/// A span with ids and nothing else.
pub fn span(id: u8) -> Span {
    Span { trace_id: vec![1; 16], span_id: vec![id; 8], ..Span::default() }
}

pub fn request(spans: Vec<Span>, process: Option<Process>) -> PostSpansRequest {
    PostSpansRequest { batch: Some(Batch { spans, process }) }
}

pub fn otlp(format: Format, body: &[u8]) -> Result<ExportTraceServiceRequest, DecodeError> {
    let bytes = decode(format, body, &mut |_| true)?;
    let payload = Payload::validate(Signal::Traces, bytes.into()).expect("what is made is valid");
    Ok(ExportTraceServiceRequest::decode(payload.to_bytes()).unwrap())
}

/// A request in all of its forms, as OTLP: they are the same, as far as Thrift can say it.
pub fn translate(request: &PostSpansRequest) -> ExportTraceServiceRequest {
    let read = otlp(Format::Proto, &request.encode_to_vec()).unwrap();
    let batch = request.batch.clone().unwrap_or_default();
    for protocol in [Protocol::Binary, Protocol::Compact] {
        let mut writer = Writer::new(protocol);
        write_batch(&mut writer, &batch);
        assert_eq!(otlp(Format::Batch(protocol), &writer.into_bytes()).unwrap(), read, "{protocol:?}");

        let call = emit_batch(protocol, &batch);
        assert_eq!(otlp(Format::EmitBatch(protocol), &call).unwrap(), read, "{protocol:?}");
    }
    read
}

pub fn emit_batch(protocol: Protocol, batch: &Batch) -> Vec<u8> {
    let mut writer = Writer::new(protocol);
    writer.message(Call { name: b"emitBatch", purpose: Purpose::Oneway, sequence: 1 });
    writer.structure(|writer| {
        writer.field(1, Value::Struct);
        write_batch(writer, batch);
    });
    writer.into_bytes()
}

/// jaeger-idl, `thrift/jaeger.thrift`.
pub fn write_batch(writer: &mut Writer, batch: &Batch) {
    writer.structure(|writer| {
        if let Some(process) = &batch.process {
            writer.field(1, Value::Struct);
            writer.structure(|writer| {
                writer.field(1, Value::Binary(process.service_name.as_bytes()));
                write_tags(writer, 2, &process.tags);
            });
        }
        writer.field(2, structs(batch.spans.len()));
        batch.spans.iter().for_each(|span| write_span(writer, span));
    });
}

fn structs(len: usize) -> Value<'static> {
    Value::List(List { element: Kind::Struct, len })
}

fn write_span(writer: &mut Writer, span: &Span) {
    let [high, low] = halves(&span.trace_id);
    let is_parent =
        |reference: &&SpanRef| reference.ref_type == CHILD_OF && reference.trace_id == span.trace_id;
    let parent = span.references.iter().find(is_parent);
    writer.structure(|writer| {
        writer.field(1, Value::I64(low));
        writer.field(2, Value::I64(high));
        writer.field(3, Value::I64(id(&span.span_id)));
        writer.field(4, Value::I64(parent.map_or(0, |parent| id(&parent.span_id))));
        writer.field(5, Value::Binary(span.operation_name.as_bytes()));
        writer.field(6, structs(span.references.len()));
        for reference in &span.references {
            let [high, low] = halves(&reference.trace_id);
            writer.structure(|writer| {
                writer.field(1, Value::I32(reference.ref_type));
                writer.field(2, Value::I64(low));
                writer.field(3, Value::I64(high));
                writer.field(4, Value::I64(id(&reference.span_id)));
            });
        }
        writer.field(7, Value::I32(span.flags as i32));
        writer.field(8, Value::I64((nanos(span.start_time) / 1000) as i64));
        writer.field(9, Value::I64((nanos(span.duration) / 1000) as i64));
        write_tags(writer, 10, &span.tags);
        writer.field(11, structs(span.logs.len()));
        for log in &span.logs {
            writer.structure(|writer| {
                writer.field(1, Value::I64((nanos(log.timestamp) / 1000) as i64));
                write_tags(writer, 2, &log.fields);
            });
        }
    });
}

fn write_tags(writer: &mut Writer, number: i16, tags: &[Tag]) {
    writer.field(number, structs(tags.len()));
    for tag in tags {
        writer.structure(|writer| {
            writer.field(1, Value::Binary(tag.key.as_bytes()));
            // The numbers of the types are others.
            writer.field(2, Value::I32([0, 2, 3, 1, 4][tag.v_type as usize]));
            match tag.v_type {
                0 => writer.field(3, Value::Binary(tag.v_str.as_bytes())),
                1 => writer.field(5, Value::Bool(tag.v_bool)),
                2 => writer.field(6, Value::I64(tag.v_int64)),
                3 => writer.field(4, Value::Double(tag.v_float64)),
                _ => writer.field(7, Value::Binary(&tag.v_binary)),
            }
        });
    }
}

fn id(bytes: &[u8]) -> i64 {
    i64::from_be_bytes(bytes.try_into().unwrap())
}

fn halves(id: &[u8]) -> [i64; 2] {
    [&id[..8], &id[8..]].map(self::id)
}

/// The only span of a request.
pub fn only_span(request: &ExportTraceServiceRequest) -> &OtlpSpan {
    let [resource] = &request.resource_spans[..] else { panic!("{request:?}") };
    let [scope] = &resource.scope_spans[..] else { panic!("{request:?}") };
    let [span] = &scope.spans[..] else { panic!("{request:?}") };
    span
}

pub fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub fn string(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.into()))
}
