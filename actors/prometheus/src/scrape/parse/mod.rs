//! The three formats that targets answer in.

pub(crate) mod number;
mod protobuf;
mod text;

use super::error::Failed;
use super::series::Scrape;

/// Bytes that are read between two yields: a fraction of a millisecond of work.
const SLICE: usize = 64 << 10;

/// What a target answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// `io.prometheus.client.MetricFamily`s, each after its length.
    Protobuf {
        /// Whether native histograms are wanted; else their classic buckets are.
        native: bool,
    },
}

/// Reads an exposition slice by slice.
pub(crate) struct Parser<'b>(Reader<'b>);

enum Reader<'b> {
    Text(text::Reader<'b>),
    Protobuf(Box<protobuf::Reader<'b>>),
}

// === impl Parser ===

impl<'b> Parser<'b> {
    pub(crate) fn new(format: Format, body: &'b [u8]) -> Self {
        Self(match format {
            Format::Text => Reader::Text(text::Reader::new(body, false)),
            Format::OpenMetrics => Reader::Text(text::Reader::new(body, true)),
            Format::Protobuf { native } => Reader::Protobuf(Box::new(protobuf::Reader::new(body, native))),
        })
    }

    /// Reads on for a slice. Whether there is more.
    pub(crate) fn step(&mut self, scrape: &mut Scrape<'_>) -> Result<bool, Failed> {
        match &mut self.0 {
            Reader::Text(reader) => reader.step(scrape),
            Reader::Protobuf(reader) => reader.step(scrape),
        }
    }
}

#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod protobuf_tests;
