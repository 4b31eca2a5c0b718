//! Exponential buckets as Prometheus' native histograms have them: sparse, in spans, each count as the difference from
//! the one before.
//!
//! Sources: `prometheus/docs: docs/specs/native_histograms.md`; opentelemetry-specification, "Exponential Histograms".

use watershed_telemetry::view::BucketsView;
use watershed_telemetry::wire::{self, WireType};

use crate::proto::nested;

/// The finest resolution that there is in Prometheus.
pub(crate) const FINEST: i32 = 8;

/// The coarsest.
pub(crate) const COARSEST: i32 = -4;

/// The zero bucket's width where a sender has none.
pub(crate) const ZERO_THRESHOLD: f64 = 1e-128;

/// Empty buckets that are cheaper to write down than a new span.
const GAP: i64 = 2;

/// A run of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// From the end of the span before it; of the first one, its index.
    pub(crate) offset: i32,
    pub(crate) length: u32,
}

/// One side's buckets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sparse {
    pub(crate) spans: Vec<Span>,
    pub(crate) deltas: Vec<i64>,
}

// === impl Sparse ===

impl Sparse {
    /// Takes the buckets of a view, made coarser by `shift`.
    pub(crate) fn read(&mut self, buckets: &BucketsView<'_>, shift: u32) -> Option<()> {
        self.fill(i64::from(buckets.offset()), buckets.bucket_counts(), shift)
    }

    /// Takes buckets from `offset` on, made coarser by `shift`: `None` where one lies beyond what can be said.
    ///
    /// A bucket of OpenTelemetry is named by its lower bound, and one of Prometheus by its upper.
    pub(crate) fn fill(&mut self, offset: i64, counts: impl Iterator<Item = u64>, shift: u32) -> Option<()> {
        self.spans.clear();
        self.deltas.clear();
        let mut sums = Sums { sparse: self, next: None, last: 0, good: true };
        let mut open: Option<(i64, u64)> = None;
        for (index, count) in counts.enumerate().filter(|(_, count)| *count > 0) {
            let index = ((offset + i64::try_from(index).ok()?) >> shift) + 1;
            open = match open {
                Some((at, sum)) if at == index => Some((at, sum.saturating_add(count))),
                done => {
                    if let Some((at, sum)) = done {
                        sums.put(at, sum);
                    }
                    Some((index, count))
                }
            };
        }
        if let Some((at, sum)) = open {
            sums.put(at, sum);
        }
        sums.good.then_some(())
    }

    /// Writes spans and deltas as a message has them under these numbers.
    pub(crate) fn write(&self, out: &mut Vec<u8>, spans: u32, deltas: u32) {
        for span in &self.spans {
            nested(out, spans, |out| {
                if span.offset != 0 {
                    wire::put_varint_field(out, 1, zigzag(span.offset.into()));
                }
                if span.length != 0 {
                    wire::put_varint_field(out, 2, span.length.into());
                }
            });
        }
        if !self.deltas.is_empty() {
            nested(out, deltas, |out| {
                self.deltas.iter().for_each(|delta| wire::put_varint(out, zigzag(*delta)))
            });
        }
    }
}

/// Buckets as they are put down, rising.
struct Sums<'s> {
    sparse: &'s mut Sparse,
    /// The index behind the last.
    next: Option<i64>,
    last: i64,
    good: bool,
}

impl Sums<'_> {
    fn put(&mut self, index: i64, count: u64) {
        let gap = index - self.next.unwrap_or(0);
        match self.sparse.spans.last_mut() {
            Some(span) if gap <= GAP => {
                for _ in 0..gap {
                    self.sparse.deltas.push(-self.last);
                    self.last = 0;
                }
                span.length += 1 + gap as u32;
            }
            _ => match i32::try_from(gap) {
                Ok(offset) => self.sparse.spans.push(Span { offset, length: 1 }),
                Err(_) => self.good = false,
            },
        }
        // Counts beyond 2^63 are nobody's.
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.sparse.deltas.push(count.wrapping_sub(self.last));
        (self.last, self.next) = (count, Some(index + 1));
    }
}

/// The shift that brings a scale into Prometheus' range; `None` where it is too coarse.
pub(crate) fn shift(scale: i32) -> Option<u32> {
    (scale >= COARSEST).then(|| u32::try_from(scale - FINEST).unwrap_or(0).min(63))
}

/// 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
pub(crate) fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// Appends a `sint32` field unless it is zero.
pub(crate) fn put_sint(out: &mut Vec<u8>, number: u32, value: i32) {
    if value != 0 {
        wire::put_tag(out, number, WireType::Varint);
        wire::put_varint(out, zigzag(value.into()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sparse(offset: i64, counts: &[u64], shift: u32) -> Sparse {
        let mut sparse = Sparse::default();
        sparse.fill(offset, counts.iter().copied(), shift).unwrap();
        sparse
    }

    /// Index and count of every bucket that is not empty.
    fn dense(sparse: &Sparse) -> Vec<(i64, i64)> {
        let (mut index, mut count, mut out) = (0, 0, Vec::new());
        let mut deltas = sparse.deltas.iter();
        for span in &sparse.spans {
            index += i64::from(span.offset);
            for _ in 0..span.length {
                count += deltas.next().unwrap();
                out.extend((count != 0).then_some((index, count)));
                index += 1;
            }
        }
        assert!(deltas.next().is_none());
        out
    }

    #[test]
    fn buckets_become_spans_and_differences() {
        let made = sparse(-3, &[2, 0, 0, 1, 3, 0, 0, 0, 5], 0);
        assert_eq!(made.spans, [Span { offset: -2, length: 5 }, Span { offset: 3, length: 1 }]);
        assert_eq!(made.deltas, [2, -2, 0, 1, 2, 2]);
        assert_eq!(sparse(0, &[], 0), Sparse::default());
        // Two of scale 9 are one of scale 8: (2^(1/512)^i, ...] for i = 4, 5.
        assert_eq!(dense(&sparse(4, &[1, 2, 4], 1)), [(3, 3), (4, 4)]);
        assert_eq!(dense(&sparse(-1, &[1, 2], 1)), [(0, 1), (1, 2)]);
        assert_eq!((shift(8), shift(20), shift(-4), shift(-5)), (Some(0), Some(12), Some(0), None));
    }

    proptest! {
        #[test]
        fn no_count_is_lost_and_each_lies_where_it_was(
            offset in any::<i32>(),
            counts in prop::collection::vec(prop_oneof![Just(0_u64), 1..1_000_000_u64], 0..60),
            shift in 0_u32..20,
        ) {
            let mut made = Sparse::default();
            if made.fill(offset.into(), counts.iter().copied(), shift).is_none() {
                prop_assert!(offset > i32::MAX - 100);
                return Ok(());
            }
            let mut expected: Vec<(i64, i64)> = Vec::new();
            for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let at = ((i64::from(offset) + index as i64) >> shift) + 1;
                match expected.last_mut() {
                    Some((last, sum)) if *last == at => *sum += *count as i64,
                    _ => expected.push((at, *count as i64)),
                }
            }
            prop_assert_eq!(dense(&made), expected);
        }
    }
}
