//! A set of sequence numbers as a paged bitmap: exact, one bit a number, cheap to fill by ranges.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

const WORDS: usize = 512;
const PAGE: u64 = 64 * WORDS as u64;

/// A set of sequence numbers. Dense runs cost a bit a number; numbers may start anywhere below `2^63`.
///
/// Serialised as half-open ranges `[[from, to], ...]`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<(u64, u64)>", from = "Vec<(u64, u64)>")]
pub struct SeqSet {
    pages: BTreeMap<u64, Box<[u64; WORDS]>>,
    len: u64,
}

impl SeqSet {
    /// How many numbers are in the set.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the set holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one number; false if it was there already.
    pub fn insert(&mut self, seq: u64) -> bool {
        self.insert_range(seq..seq + 1) == 1
    }

    /// Adds all of `range` and returns how many were new.
    pub fn insert_range(&mut self, range: Range<u64>) -> u64 {
        let mut new = 0;
        let mut at = range.start;
        while at < range.end {
            let page = at / PAGE;
            let end = range.end.min((page + 1) * PAGE);
            let words = self.pages.entry(page).or_insert_with(|| Box::new([0; WORDS]));
            while at < end {
                let bit = at % 64;
                let count = (64 - bit).min(end - at);
                let mask = (u64::MAX >> (64 - count)) << bit;
                let word = &mut words[(at % PAGE / 64) as usize];
                new += u64::from((mask & !*word).count_ones());
                *word |= mask;
                at += count;
            }
        }
        self.len += new;
        new
    }

    /// Adds all of `other` and returns how many were new.
    pub fn insert_all(&mut self, other: &SeqSet) -> u64 {
        other.ranges().into_iter().map(|range| self.insert_range(range)).sum()
    }

    /// Whether `seq` is in the set.
    pub fn contains(&self, seq: u64) -> bool {
        let word = |page: &[u64; WORDS]| page[(seq % PAGE / 64) as usize];
        self.pages.get(&(seq / PAGE)).is_some_and(|page| word(page) >> (seq % 64) & 1 == 1)
    }

    /// How many numbers of this set are missing from `other`.
    pub fn missing_from(&self, other: &SeqSet) -> u64 {
        let mut missing = 0;
        for (index, page) in &self.pages {
            let theirs = other.pages.get(index);
            for (at, word) in page.iter().enumerate() {
                let have = theirs.map_or(0, |page| page[at]);
                missing += u64::from((word & !have).count_ones());
            }
        }
        missing
    }

    /// The numbers of this set that are missing from `other`: which ones, not only how many.
    pub fn difference(&self, other: &SeqSet) -> SeqSet {
        let mut left = self.clone();
        left.len = self.missing_from(other);
        for (index, page) in &mut left.pages {
            if let Some(theirs) = other.pages.get(index) {
                page.iter_mut().zip(theirs.iter()).for_each(|(word, theirs)| *word &= !theirs);
            }
        }
        left.pages.retain(|_, page| page.iter().any(|word| *word != 0));
        left
    }

    /// The set as ascending, disjoint, non-touching half-open ranges.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (page, words) in &self.pages {
            for (index, word) in words.iter().enumerate() {
                let base = page * PAGE + 64 * index as u64;
                let mut bit = 0;
                while bit < 64 && word >> bit != 0 {
                    bit += (word >> bit).trailing_zeros();
                    let ones = (word >> bit).trailing_ones();
                    let from = base + u64::from(bit);
                    let to = from + u64::from(ones);
                    match ranges.last_mut() {
                        Some(last) if last.end == from => last.end = to,
                        _ => ranges.push(from..to),
                    }
                    bit += ones;
                }
            }
        }
        ranges
    }
}

impl From<SeqSet> for Vec<(u64, u64)> {
    fn from(set: SeqSet) -> Self {
        set.ranges().into_iter().map(|range| (range.start, range.end)).collect()
    }
}

impl From<Vec<(u64, u64)>> for SeqSet {
    fn from(ranges: Vec<(u64, u64)>) -> Self {
        let mut set = SeqSet::default();
        for (from, to) in ranges {
            set.insert_range(from..to);
        }
        set
    }
}

impl fmt::Debug for SeqSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.ranges();
        write!(f, "SeqSet({} in {} ranges: {:?}", self.len, ranges.len(), &ranges[..ranges.len().min(8)])?;
        f.write_str(if ranges.len() > 8 { " ...)" } else { ")" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_new_numbers_only() {
        let mut set = SeqSet::default();
        assert_eq!(set.insert_range(10..PAGE + 200), PAGE + 190);
        assert_eq!(set.insert_range(0..20), 10);
        assert!(!set.insert(PAGE) && set.insert(3 * PAGE + 63));
        assert!(set.contains(PAGE + 199) && !set.contains(PAGE + 200));
        assert_eq!(set.ranges(), [0..PAGE + 200, 3 * PAGE + 63..3 * PAGE + 64]);
        assert_eq!(set.len(), PAGE + 201);
    }

    #[test]
    fn difference_says_which() {
        let mut sent = SeqSet::default();
        sent.insert_range(0..100_000);
        let arrived = SeqSet::from(vec![(0, 63), (64, 99_999)]);
        assert_eq!(sent.missing_from(&arrived), 2);
        assert_eq!(sent.difference(&arrived).ranges(), [63..64, 99_999..100_000]);
        assert!(arrived.difference(&sent).is_empty());
        let mut both = arrived.clone();
        assert_eq!((both.insert_all(&sent), both.insert_all(&sent)), (2, 0));
        assert_eq!(both, sent);
    }

    #[test]
    fn survives_json() {
        let set = SeqSet::from(vec![(1, 2), (70, 200_000)]);
        let text = serde_json::to_string(&set).unwrap();
        assert_eq!(text, "[[1,2],[70,200000]]");
        assert_eq!(serde_json::from_str::<SeqSet>(&text).unwrap(), set);
    }
}
