//! A histogram with 64 buckets an octave: any quantile within 1.6 %, in constant memory.

use serde::{Deserialize, Serialize};

const SUB: u64 = 64;

/// Counts of unsigned values (nanoseconds for latencies, items for batch sizes).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Histogram {
    /// Adds one value.
    pub fn record(&mut self, value: u64) {
        let bucket = bucket_of(value);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum += value;
        self.max = self.max.max(value);
    }

    /// Adds all values of `other`.
    pub fn merge(&mut self, other: &Histogram) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest value, exactly; 0 when empty.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean, exactly; 0 when empty.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }

    /// The value at quantile `q` in 0..=1, within 1.6 %; 0 when empty.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (q * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle_of(bucket).min(self.max);
            }
        }
        self.max
    }
}

fn bucket_of(value: u64) -> usize {
    // Below 128 every value has its own bucket; above, the top seven bits name it.
    let shift = (64 - u64::from(value.leading_zeros())).saturating_sub(7);
    (shift * SUB + (value >> shift)) as usize
}

fn middle_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB {
        return bucket;
    }
    let shift = bucket / SUB - 1;
    ((bucket - shift * SUB) << shift) + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_close() {
        let mut histogram = Histogram::default();
        (1..=100_000).for_each(|value| histogram.record(value * 1_000));
        for (q, exact) in [(0.5, 5e7), (0.99, 9.9e7), (1.0, 1e8)] {
            let got = histogram.quantile(q) as f64;
            assert!((got / exact - 1.0).abs() < 0.016, "{q}: {got}");
        }
        assert_eq!((histogram.max(), histogram.count()), (100_000_000, 100_000));
    }

    #[test]
    fn every_value_falls_into_the_bucket_that_describes_it() {
        for value in (0..4096).chain([u64::MAX / 3, u64::MAX - 1]) {
            let middle = middle_of(bucket_of(value));
            assert!(middle.abs_diff(value) as f64 <= value as f64 / 64.0, "{value} {middle}");
        }
    }

    #[test]
    fn empty_and_merged() {
        let (mut one, mut two) = (Histogram::default(), Histogram::default());
        assert_eq!(one.quantile(0.5), 0);
        two.record(7);
        one.merge(&two);
        assert_eq!((one.quantile(0.5), one.mean()), (7, 7.0));
    }
}
