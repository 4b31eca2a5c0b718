//! Counting: a tag walk over a request, and the sink's books.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::grpc::Signal;
use crate::requests::SpanKey;
use crate::web::uint;
use crate::wire::{self, Malformed, Value};
use crate::{Histogram, SeqSet};

/// The sink's books. "Taken" is a request that counted as arrived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkSnapshot {
    /// Requests read in full, whatever their answer.
    pub requests: u64,
    /// Requests taken.
    pub taken: u64,
    /// Requests not taken because the answer was a refusal.
    pub refused: u64,
    /// Requests not taken because the bytes were not a request, were too large or in an unknown encoding.
    pub malformed: u64,
    /// Requests not taken because their caller left or the answer was to hang or close.
    pub abandoned: u64,
    /// Message bytes of taken requests as received, without frame, compressed as they came.
    pub bytes: u64,
    /// Spans taken, copies included.
    pub spans: u64,
    /// Items taken whose sender heard otherwise or nothing: as many copies are the sink's own doing.
    #[serde(default)]
    pub denied: u64,
    /// Metric data points taken.
    pub points: u64,
    /// Log records taken.
    pub logs: u64,
    /// Spans taken that are not the kit's own, or whose ids were damaged.
    pub foreign_spans: u64,
    /// The numbered items taken, by run. A run is of one signal.
    pub runs: BTreeMap<u64, Arrivals>,
    /// Items in each taken request.
    pub batches: Histogram,
    /// Requests taken by `grpc-encoding` or `content-encoding`; with `json+` before it if they were JSON.
    pub encodings: BTreeMap<String, u64>,
    /// Connections open now.
    pub connections: u64,
    /// Connections accepted.
    pub accepted: u64,
}

/// The numbered items of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arrivals {
    /// Which arrived.
    pub seen: SeqSet,
    /// Copies beyond the first.
    pub extra: u64,
}

impl SinkSnapshot {
    /// Items taken, numbered ones once each: what a wait for arrivals looks at.
    pub fn arrived(&self) -> u64 {
        self.spans + self.points + self.logs - self.runs.values().map(|run| run.extra).sum::<u64>()
    }

    /// Adds what another sink has taken of each run, as if both were one destination.
    pub fn join(&mut self, other: &SinkSnapshot) {
        self.spans += other.spans;
        self.points += other.points;
        self.logs += other.logs;
        self.denied += other.denied;
        for (run, theirs) in &other.runs {
            let arrivals = self.runs.entry(*run).or_default();
            arrivals.extra += theirs.extra + theirs.seen.len() - arrivals.seen.insert_all(&theirs.seen);
        }
    }

    /// Takes what it does not own up to.
    pub(super) fn take_and_deny(&mut self, batch: &Batch, bytes: usize, encoding: &str) {
        self.denied += batch.items;
        self.take(batch, bytes, encoding);
    }

    pub(super) fn take(&mut self, batch: &Batch, bytes: usize, encoding: &str) {
        self.taken += 1;
        self.bytes += bytes as u64;
        self.batches.record(batch.items);
        match self.encodings.get_mut(encoding) {
            Some(count) => *count += 1,
            None => drop(self.encodings.insert(encoding.into(), 1)),
        }
        match batch.signal {
            Signal::Traces => self.spans += batch.items,
            Signal::Metrics => self.points += batch.items,
            Signal::Logs => self.logs += batch.items,
        }
        self.foreign_spans += batch.foreign;
        for (run, sequence) in &batch.numbered {
            let arrivals = self.runs.entry(*run).or_default();
            let new = arrivals.seen.insert_range(sequence.clone());
            arrivals.extra += sequence.end - sequence.start - new;
        }
    }
}

impl fmt::Display for SinkSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SinkSnapshot { requests, taken, refused, malformed, abandoned, spans, points, logs, .. } = self;
        write!(
            f,
            "{requests} requests: {taken} taken, {refused} refused, {malformed} malformed, {abandoned} abandoned; \
             {spans} spans ({} copies, {} foreign), {points} points, {logs} log records; {:.1} items a request",
            self.runs.values().map(|run| run.extra).sum::<u64>(),
            self.foreign_spans,
            self.batches.mean(),
        )
    }
}

/// What one request holds.
pub(super) struct Batch {
    pub signal: Signal,
    pub items: u64,
    pub foreign: u64,
    /// Numbered items as runs of consecutive numbers, in wire order.
    pub numbered: Vec<(u64, Range<u64>)>,
}

impl Batch {
    pub fn read(signal: Signal, message: &[u8]) -> Result<Batch, Malformed> {
        let mut batch = Batch { signal, items: 0, foreign: 0, numbered: Vec::new() };
        for resource in wire::children(message, 1) {
            for scope in wire::children(resource?, 2) {
                for item in wire::children(scope?, 2) {
                    match signal {
                        Signal::Traces => batch.ids(item?, 1)?,
                        Signal::Metrics => batch.points(item?)?,
                        Signal::Logs => batch.ids(item?, 9)?,
                    }
                }
            }
        }
        Ok(batch)
    }

    /// The same of OTLP/JSON, by its names; `None` where it makes no sense.
    pub fn read_json(signal: Signal, message: &[u8]) -> Option<Batch> {
        let (resources, scopes, items) = match signal {
            Signal::Traces => ("resourceSpans", "scopeSpans", "spans"),
            Signal::Metrics => ("resourceMetrics", "scopeMetrics", "metrics"),
            Signal::Logs => ("resourceLogs", "scopeLogs", "logRecords"),
        };
        let message: serde_json::Value = serde_json::from_slice(message).ok()?;
        fn list<'a>(value: &'a serde_json::Value, key: &str) -> &'a [serde_json::Value] {
            value[key].as_array().map_or(&[], Vec::as_slice)
        }
        let mut batch = Batch { signal, items: 0, foreign: 0, numbered: Vec::new() };
        for resource in list(&message, resources) {
            for scope in list(resource, scopes) {
                for item in list(scope, items) {
                    match signal {
                        Signal::Traces | Signal::Logs => {
                            let id = |key: &str| hex(item[key].as_str().unwrap_or_default());
                            batch.item(SpanKey::read(&id("traceId"), &id("spanId")));
                        }
                        Signal::Metrics => {
                            let kinds = ["gauge", "sum", "histogram", "exponentialHistogram", "summary"];
                            for point in kinds.iter().flat_map(|kind| list(&item[kind], "dataPoints")) {
                                let nanos = |key: &str| uint(&point[key]);
                                batch.item(SpanKey::of_point(
                                    nanos("startTimeUnixNano"),
                                    nanos("timeUnixNano"),
                                ));
                            }
                        }
                    }
                }
            }
        }
        Some(batch)
    }

    /// A span or a log record, whose trace id is field `first` and whose span id is the next.
    fn ids(&mut self, item: &[u8], first: u32) -> Result<(), Malformed> {
        let (mut trace_id, mut span_id) = (&[][..], &[][..]);
        for field in wire::fields(item) {
            match field? {
                (field, Value::Bytes(id)) if field == first => trace_id = id,
                (field, Value::Bytes(id)) if field == first + 1 => span_id = id,
                _ => {}
            }
            // Spans have their ids first with every encoder, and the sink shares its CPU with what is measured.
            if !trace_id.is_empty() && !span_id.is_empty() {
                break;
            }
        }
        self.item(SpanKey::read(trace_id, span_id));
        Ok(())
    }

    /// The data points of one metric: field 1 of whichever arm of `data` it has.
    fn points(&mut self, metric: &[u8]) -> Result<(), Malformed> {
        for field in wire::fields(metric) {
            if let (5 | 7 | 9 | 10 | 11, Value::Bytes(data)) = field? {
                for point in wire::children(data, 1) {
                    self.point(point?)?;
                }
            }
        }
        Ok(())
    }

    /// Every kind of data point has its times in the same fields.
    fn point(&mut self, point: &[u8]) -> Result<(), Malformed> {
        let (mut start, mut time) = (0, 0);
        for field in wire::fields(point) {
            match field? {
                (2, Value::Fixed64(nanos)) => start = nanos,
                (3, Value::Fixed64(nanos)) => time = nanos,
                _ => {}
            }
        }
        self.item(SpanKey::of_point(start, time));
        Ok(())
    }

    fn item(&mut self, key: Option<SpanKey>) {
        self.items += 1;
        match (key, self.numbered.last_mut()) {
            (Some(key), Some((run, range))) if key.run == *run && key.seq == range.end => range.end += 1,
            (Some(key), _) => self.numbered.push((key.run, key.seq..key.seq + 1)),
            (None, _) => self.foreign += u64::from(self.signal == Signal::Traces),
        }
    }
}

fn hex(digits: &str) -> Vec<u8> {
    let bytes = digits.as_bytes().chunks(2);
    bytes.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::{self, TraceTemplate};

    #[test]
    fn counts_each_signal() {
        let points = Batch::read(Signal::Metrics, &requests::metrics(31)).unwrap();
        let logs = Batch::read(Signal::Logs, &requests::logs(17)).unwrap();
        assert_eq!((points.items, logs.items), (31, 17));
        for batch in [points, logs] {
            assert_eq!((batch.numbered, batch.foreign), (Vec::new(), 0), "only spans are numbered always");
        }
    }

    #[test]
    fn joined_requests_are_one_run() {
        let template = TraceTemplate::new(5, 10);
        let joined = [template.message(0), template.message(10), template.message(40)].concat();
        let batch = Batch::read(Signal::Traces, &joined).unwrap();
        assert_eq!(batch.numbered, [(5, 0..20), (5, 40..50)]);

        let mut counts = SinkSnapshot::default();
        counts.take(&batch, joined.len(), "identity");
        counts.take(&batch, joined.len(), "identity");
        assert_eq!((counts.spans, counts.arrived(), counts.runs[&5].extra), (60, 30, 30));

        let mut other = SinkSnapshot::default();
        other.take(&Batch::read(Signal::Traces, &template.message(45)).unwrap(), 1, "identity");
        counts.join(&other);
        assert_eq!((counts.spans, counts.arrived(), counts.runs[&5].extra), (70, 35, 35));
    }

    #[test]
    fn foreign_and_damaged_are_told_apart_from_ours() {
        let template = TraceTemplate::new(5, 2);
        let mut message = template.message(7).to_vec();
        let at = message.windows(8).position(|bytes| bytes == 8_u64.to_be_bytes()).unwrap();
        message[at] ^= 1;
        let batch = Batch::read(Signal::Traces, &message).unwrap();
        assert_eq!((batch.items, batch.foreign), (2, 1));
        assert!(Batch::read(Signal::Traces, &message[..message.len() - 1]).is_err());
    }
}
