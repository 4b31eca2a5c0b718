//! Requests whose items are numbered: built once, numbered in place as often as they are sent.

use bytes::{Bytes, BytesMut};
use memchr::memmem;
use prost::Message;
use serde::Serialize;

use super::{Foreign, frame, log_request, metric_request, scattered_request, trace_request};
use crate::grpc::{FRAME_HEADER, Signal};
use crate::traces::{id_of, trace_of};

/// `time_unix_nano` of data point 0: in 2001, when nothing else here was measured, and with as many digits as
/// every number to come.
pub const FIRST_TIME: u64 = 1_000_000_000_000_000_000;

/// How many data points a run may have.
const TIMES: u64 = 1_000_000_000_000_000;

/// Who sent an item: the run, and its number in the run.
///
/// Spans and log records: `trace_id` is run then sequence (of [traces](crate::traces), what stands for the trace),
/// `span_id` is sequence + 1 (zero is no id), all big-endian. Data points: `start_time_unix_nano` is the run, `time_unix_nano` is [`FIRST_TIME`] + sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanKey {
    /// The loader's run.
    pub run: u64,
    /// The item's number in the run.
    pub seq: u64,
}

impl SpanKey {
    /// Reads the key of a span or log record back; `None` if the ids are not the kit's own, or damaged.
    pub fn read(trace_id: &[u8], span_id: &[u8]) -> Option<SpanKey> {
        let (run, low) = trace_id.split_first_chunk::<8>()?;
        let trace = u64::from_be_bytes(low.try_into().ok()?);
        let span = u64::from_be_bytes(span_id.try_into().ok()?);
        let seq = span.checked_sub(1).filter(|seq| trace == *seq || trace == id_of(trace_of(*seq)))?;
        Some(SpanKey { run: u64::from_be_bytes(*run), seq })
    }

    /// Reads the key of a data point back, nanoseconds both; `None` if its time is not one of the kit's.
    pub fn of_point(start: u64, time: u64) -> Option<SpanKey> {
        let seq = time.checked_sub(FIRST_TIME).filter(|seq| *seq < TIMES)?;
        Some(SpanKey { run: start, seq })
    }
}

/// An export request of a fixed number of items, framed for gRPC: spans of about 404 B each with their share of
/// the resource, log records of 271 B or data points of 118 B. Numbering a copy costs a memcpy and one small
/// patch an item.
#[derive(Clone, Debug)]
pub struct Template {
    framed: Bytes,
    stamp: Stamp,
    /// Where in `framed` each item's number starts.
    places: Vec<usize>,
    /// Where the trace's is said again, and of which item.
    echoes: Vec<(u64, usize)>,
}

/// A [`Template`] of spans.
pub type TraceTemplate = Template;

impl Template {
    /// A template of `spans` spans that belong to `run`: the short form of [`Template::of`].
    pub fn new(run: u64, spans: usize) -> Template {
        Template::of(Signal::Traces, run, spans)
    }

    /// A template of `items` of `signal` that belong to `run`, in protobuf.
    pub fn of(signal: Signal, run: u64, items: usize) -> Template {
        let (stamp, message) = match signal {
            Signal::Traces => (Stamp::Ids, trace_request(run, items).encode_to_vec()),
            Signal::Logs => (Stamp::Ids, log_request(run, items).encode_to_vec()),
            Signal::Metrics => (Stamp::Time, metric_request(run, items).encode_to_vec()),
        };
        Template::find(stamp, &message, run, items)
    }

    /// A template of spans of [traces](crate::traces), of `run`: some hundred of them, a thousand at most.
    pub fn traces(run: u64, spans: usize) -> Template {
        assert!(1_000 % spans == 0 && spans.is_multiple_of(100), "traces would not keep their places");
        Template::find(Stamp::Traces, &scattered_request(run, spans).encode_to_vec(), run, spans)
    }

    /// The same in JSON, as the OpenTelemetry SDK for Rust sends it: fields without a value included. It is
    /// framed all the same, so that both are compressed and sent alike.
    pub fn json(signal: Signal, run: u64, items: usize) -> Template {
        let (stamp, message) = match signal {
            Signal::Traces => (Stamp::HexIds(OTLP_BETWEEN), json(&trace_request(run, items))),
            Signal::Logs => (Stamp::HexIds(OTLP_BETWEEN), json(&log_request(run, items))),
            Signal::Metrics => (Stamp::DecimalTime, json(&metric_request(run, items))),
        };
        Template::find(stamp, &message, run, items)
    }

    /// A template of the same spans as another tracer sends them.
    pub fn foreign(format: Foreign, run: u64, spans: usize) -> Template {
        let stamp = match format {
            Foreign::Jaeger => Stamp::IdsAndEchoes,
            Foreign::Zipkin => Stamp::Ids,
            Foreign::ZipkinJson => Stamp::HexIds(ZIPKIN_BETWEEN),
        };
        Template::find(stamp, &format.write(&trace_request(run, spans)), run, spans)
    }

    fn find(stamp: Stamp, message: &[u8], run: u64, items: usize) -> Template {
        let framed = frame(message);
        let (zero, width) = stamp.zero(run);
        let places: Vec<_> = memmem::find_iter(&framed, &zero).map(|at| at + zero.len() - width).collect();
        assert_eq!(places.len(), items, "each item has the number 0 once");
        let mut echoes = Vec::new();
        if let Stamp::IdsAndEchoes = stamp {
            let (zero, width) = Stamp::Ids.zero(run);
            let all = memmem::find_iter(&framed, &zero).map(|at| at + zero.len() - width);
            let item = |echo: usize| places.partition_point(|place| *place < echo) as u64 - 1;
            echoes = all.filter(|at| !places.contains(at)).map(|at| (item(at), at)).collect();
        }
        Template { framed, stamp, places, echoes }
    }

    /// Items in a request.
    pub fn items(&self) -> u64 {
        self.places.len() as u64
    }

    /// Bytes of the message, without its frame.
    pub fn message_len(&self) -> usize {
        self.framed.len() - FRAME_HEADER
    }

    /// The message (no frame) whose items are numbered from `first`.
    pub fn message(&self, first: u64) -> Bytes {
        self.framed(first).slice(FRAME_HEADER..)
    }

    /// The framed message whose items are numbered from `first`.
    pub fn framed(&self, first: u64) -> Bytes {
        self.reuse(Bytes::new(), first)
    }

    /// As [`Template::framed`], in the buffer of an earlier request of this template where nobody else holds
    /// it any more.
    pub fn reuse(&self, earlier: Bytes, first: u64) -> Bytes {
        let reusable = earlier.len() == self.framed.len();
        let mut buffer = match earlier.try_into_mut() {
            Ok(buffer) if reusable => buffer,
            _ => BytesMut::from(&self.framed[..]),
        };
        for (seq, at) in (first..).zip(&self.places) {
            self.stamp.put(seq, &mut buffer[*at..]);
        }
        for (item, at) in &self.echoes {
            buffer[*at..at + 8].copy_from_slice(&(first + item).to_be_bytes());
        }
        buffer.freeze()
    }
}

/// How an item carries its number. Each form has the same length for every number.
#[derive(Clone, Copy, Debug)]
enum Stamp {
    /// In a trace id's second half and in the span id after it.
    Ids,
    /// The same, and the trace id again where a span names its parent.
    IdsAndEchoes,
    /// The same as the first, several spans to a trace.
    Traces,
    /// The same in JSON, with what is between the two.
    HexIds(&'static str),
    /// In `time_unix_nano`.
    Time,
    /// The same in JSON.
    DecimalTime,
}

/// From the second half of a trace id to the span id: 8 bytes of it, then tag and length.
const SPAN_ID: usize = 10;
const OTLP_BETWEEN: &str = r#"","spanId":""#;
const ZIPKIN_BETWEEN: &str = r#"","id":""#;

impl Stamp {
    /// What number 0 of `run` looks like, after enough to be found nowhere else; and how many bytes of it, at
    /// its end, are the number.
    fn zero(self, run: u64) -> (Vec<u8>, usize) {
        match self {
            // After the id's length: spans and log records differ in its tag.
            Stamp::Ids | Stamp::Traces => ([&[16][..], &run.to_be_bytes(), &[0; 8]].concat(), 8),
            Stamp::IdsAndEchoes => {
                let (mut zero, width) = Stamp::Ids.zero(run);
                zero.extend([0x12, 8]);
                zero.extend(1_u64.to_be_bytes());
                (zero, width + SPAN_ID)
            }
            Stamp::HexIds(_) => (format!(r#""traceId":"{run:016x}{:016x}"#, 0).into_bytes(), 16),
            // Field 3, a fixed64, of every kind of data point.
            Stamp::Time => ([&[0x19][..], &FIRST_TIME.to_le_bytes()].concat(), 8),
            Stamp::DecimalTime => (format!(r#""timeUnixNano":"{FIRST_TIME}"#).into_bytes(), 19),
        }
    }

    /// Writes the number over the one that starts `item`.
    fn put(self, seq: u64, item: &mut [u8]) {
        match self {
            Stamp::Ids | Stamp::IdsAndEchoes => {
                item[..8].copy_from_slice(&seq.to_be_bytes());
                item[SPAN_ID..SPAN_ID + 8].copy_from_slice(&(seq + 1).to_be_bytes());
            }
            Stamp::Traces => {
                item[..8].copy_from_slice(&id_of(trace_of(seq)).to_be_bytes());
                item[SPAN_ID..SPAN_ID + 8].copy_from_slice(&(seq + 1).to_be_bytes());
            }
            Stamp::HexIds(between) => {
                hex(&mut item[..16], seq);
                hex(&mut item[16 + between.len()..][..16], seq + 1);
            }
            Stamp::Time => item[..8].copy_from_slice(&(FIRST_TIME + seq).to_le_bytes()),
            Stamp::DecimalTime => decimal(&mut item[..19], FIRST_TIME + seq),
        }
    }
}

fn hex(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[number as usize % 16];
        number /= 16;
    }
}

fn decimal(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn json(request: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(request).expect("a request has string keys only")
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;

    use super::*;

    const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

    /// Decodes both forms, which must be the same request, and reads its keys.
    fn keys(signal: Signal, protobuf: Bytes, json: &[u8]) -> Vec<Option<SpanKey>> {
        fn both<M: Message + Default + DeserializeOwned + PartialEq + Debug>(
            protobuf: Bytes,
            json: &[u8],
        ) -> M {
            let decoded = M::decode(protobuf).unwrap();
            assert_eq!(serde_json::from_slice::<M>(json).unwrap(), decoded);
            decoded
        }
        match signal {
            Signal::Traces => {
                let mut request: ExportTraceServiceRequest = both(protobuf, json);
                let spans = request.resource_spans.remove(0).scope_spans.remove(0).spans;
                spans.iter().map(|span| SpanKey::read(&span.trace_id, &span.span_id)).collect()
            }
            Signal::Logs => {
                let mut request: ExportLogsServiceRequest = both(protobuf, json);
                let records = request.resource_logs.remove(0).scope_logs.remove(0).log_records;
                records.iter().map(|record| SpanKey::read(&record.trace_id, &record.span_id)).collect()
            }
            Signal::Metrics => {
                let mut request: ExportMetricsServiceRequest = both(protobuf, json);
                let metrics = request.resource_metrics.remove(0).scope_metrics.remove(0).metrics;
                macro_rules! key {
                    ($data:ident) => {{
                        let [point] = &$data.data_points[..] else { panic!("{:?}", $data) };
                        SpanKey::of_point(point.start_time_unix_nano, point.time_unix_nano)
                    }};
                }
                let keys = metrics.iter().map(|metric| match metric.data.as_ref().unwrap() {
                    Data::Gauge(data) => key!(data),
                    Data::Sum(data) => key!(data),
                    Data::Histogram(data) => key!(data),
                    other => panic!("{other:?}"),
                });
                keys.collect()
            }
        }
    }

    proptest! {
        #[test]
        fn numbering_survives_both_decoders(
            run: u64, earlier in 0..TIMES / 2, first in 0..TIMES / 2, items in 0_usize..40,
        ) {
            for signal in SIGNALS {
                let numbered = |template: Template| {
                    template.reuse(template.framed(earlier), first).slice(FRAME_HEADER..)
                };
                let protobuf = numbered(Template::of(signal, run, items));
                let json = numbered(Template::json(signal, run, items));
                let expected: Vec<_> = (first..).take(items).map(|seq| Some(SpanKey { run, seq })).collect();
                prop_assert_eq!(keys(signal, protobuf, &json), expected);
            }
        }
    }

    #[test]
    fn numbering_survives_in_the_formats_of_others() {
        let children = |message: &[u8], field: u32| -> Vec<Vec<u8>> {
            crate::wire::children(message, field).map(|child| child.unwrap().to_vec()).collect()
        };
        let id = |text: &serde_json::Value| {
            let text = text.as_str().unwrap();
            let digits = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16));
            digits.collect::<Result<Vec<_>, _>>().unwrap()
        };
        let expected: Vec<_> = (90..130).map(|seq| SpanKey { run: 7, seq }).collect();
        for format in [Foreign::Jaeger, Foreign::Zipkin, Foreign::ZipkinJson] {
            let template = Template::foreign(format, 7, 40);
            let message = template.reuse(template.framed(5), 90).slice(FRAME_HEADER..);
            let ids: Vec<_> = match format {
                Foreign::Jaeger => {
                    let spans = children(&children(&message, 1)[0], 1);
                    for span in &spans {
                        let mut parents = children(span, 4).into_iter();
                        assert!(parents.all(|parent| children(&parent, 1)[0] == children(span, 1)[0]));
                    }
                    spans
                        .iter()
                        .map(|span| (children(span, 1).remove(0), children(span, 2).remove(0)))
                        .collect()
                }
                Foreign::Zipkin => {
                    let spans = children(&message, 1);
                    spans
                        .iter()
                        .map(|span| (children(span, 1).remove(0), children(span, 3).remove(0)))
                        .collect()
                }
                Foreign::ZipkinJson => {
                    let spans: Vec<serde_json::Value> = serde_json::from_slice(&message).unwrap();
                    spans.iter().map(|span| (id(&span["traceId"]), id(&span["id"]))).collect()
                }
            };
            let keys: Vec<_> = ids.iter().map(|(trace, span)| SpanKey::read(trace, span).unwrap()).collect();
            assert_eq!(keys, expected, "{format:?}");
        }
    }

    #[test]
    fn spans_of_a_trace_are_scattered_and_found_again() {
        let mut traces = std::collections::BTreeMap::<u64, Vec<u64>>::new();
        for request in 0..100 {
            let message = Template::traces(7, 100).message(request * 100);
            let mut request = ExportTraceServiceRequest::decode(message).unwrap();
            for span in request.resource_spans.remove(0).scope_spans.remove(0).spans {
                let key = SpanKey::read(&span.trace_id, &span.span_id).unwrap();
                let trace = trace_of(key.seq);
                assert_eq!(span.trace_id[8..], id_of(trace).to_be_bytes());
                let failed = span.status.is_some_and(|status| status.code == 2);
                let slow = span.end_time_unix_nano - span.start_time_unix_nano > 1_000_000_000;
                assert_eq!(failed || slow, crate::traces::is_wanted(trace));
                traces.entry(trace).or_default().push(key.seq);
            }
        }
        assert_eq!(traces.len(), 2_000);
        for (trace, spans) in traces {
            assert_eq!(spans, crate::traces::spans_of(trace).collect::<Vec<_>>());
        }
    }

    #[test]
    fn items_are_of_a_usual_size() {
        for (signal, size) in SIGNALS.into_iter().zip([400..=408, 115..=121, 268..=274]) {
            let each = Template::of(signal, 1, 100).message_len() / 100;
            assert!(size.contains(&each), "{signal:?}: {each}");
        }
    }

    #[test]
    fn a_buffer_still_held_is_not_overwritten() {
        let template = TraceTemplate::new(1, 2);
        let held = template.framed(0);
        let copy = held.clone();
        assert_ne!(template.reuse(held, 10), copy);
        assert_eq!(copy, template.framed(0));
    }

    #[test]
    fn what_others_sent_has_no_key() {
        assert_eq!(SpanKey::read(&[7; 16], &[7; 8]), None);
        assert_eq!(SpanKey::read(&[7; 15], &[7; 8]), None);
        assert_eq!(SpanKey::of_point(0, 0), None);
        assert_eq!(SpanKey::of_point(FIRST_TIME, super::super::START_NANOS), None);
    }
}
