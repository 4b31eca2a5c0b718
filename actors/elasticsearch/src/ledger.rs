//! What is known of requests that are not through: which of their documents are.
//!
//! A batch is tried again whole, and its messages perhaps in other company, but what Elasticsearch has taken must not be
//! sent again. So progress is kept for each request, known by where its bytes lie, for as long as anybody else has them.
//! Two pipelines may have the same bytes, and both mean them.

use std::cell::RefCell;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashTable};
use watershed_delivery::{Budget, Permit};

use crate::counters::Kinds;

/// A growing set of small numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers(Vec<u64>);

/// What is known of a request.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The documents that are through, one way or the other.
    pub(crate) done: Numbers,
    /// The items of those that were rejected.
    pub(crate) rejected: Numbers,
    /// What was wrong with those.
    pub(crate) kinds: Kinds,
    /// Whether any document was taken.
    pub(crate) taken: bool,
    /// An attempt ended without an answer: what was in it may have been taken.
    pub(crate) uncertain: bool,
    /// Attempts that failed, or that left something to be tried again.
    pub(crate) attempts: u32,
    /// Why something was rejected.
    pub(crate) reason: Option<String>,
}

/// Requests that are not through.
#[derive(Default)]
pub(crate) struct Ledger {
    /// By where their bytes lie: a batch may be made of thousands, and each is looked for.
    entries: RefCell<HashTable<Entry>>,
    hasher: DefaultHashBuilder,
}

struct Entry {
    pipeline: Arc<str>,
    request: Bytes,
    progress: Progress,
    /// The request is pinned from when its message has ended until that is noticed.
    _permit: Permit,
}

// === impl Numbers ===

impl Numbers {
    /// Adds a number; whether it is new.
    pub(crate) fn insert(&mut self, number: u32) -> bool {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let Some(word) = self.0.get_mut(word) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }
}

// === impl Ledger ===

impl Ledger {
    /// What is known of a request, no longer kept here.
    pub(crate) fn take(&self, pipeline: &Arc<str>, request: &Bytes) -> Progress {
        let is_it = |entry: &Entry| place(&entry.request) == place(request) && entry.pipeline == *pipeline;
        match self.entries.borrow_mut().find_entry(self.hasher.hash_one(place(request)), is_it) {
            Ok(entry) => entry.remove().0.progress,
            Err(_) => Progress::default(),
        }
    }

    /// Keeps what is known of a request.
    pub(crate) fn keep(&self, pipeline: Arc<str>, request: Bytes, progress: Progress, budget: &Arc<Budget>) {
        let _permit = budget.overdraw(request.len() as u64);
        let hash = |entry: &Entry| self.hasher.hash_one(place(&entry.request));
        let entry = Entry { pipeline, request, progress, _permit };
        self.entries.borrow_mut().insert_unique(hash(&entry), entry, hash);
    }

    /// Forgets requests that nobody else has: their messages have ended.
    pub(crate) fn sweep(&self) {
        self.entries.borrow_mut().retain(|entry| !entry.request.is_unique());
    }
}

/// Where the bytes of a request lie.
fn place(request: &Bytes) -> (usize, usize) {
    (request.as_ptr().addr(), request.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_known_by_the_request_itself_and_not_by_its_content() {
        let budget = Budget::new(1 << 20);
        let ledger = Ledger::default();
        let pipeline: Arc<str> = "logs".into();
        let (request, twin) = (Bytes::from(vec![1; 9]), Bytes::from(vec![1; 9]));
        let progress = Progress { attempts: 3, ..Progress::default() };
        ledger.keep(pipeline.clone(), request.clone(), progress, &budget);
        ledger.sweep();
        assert_eq!(ledger.take(&pipeline, &twin).attempts, 0);
        assert_eq!(ledger.take(&"other".into(), &request).attempts, 0);
        let progress = ledger.take(&pipeline, &request);
        assert_eq!(progress.attempts, 3);
        assert_eq!(ledger.take(&pipeline, &request).attempts, 0);

        ledger.keep(pipeline.clone(), request.clone(), progress, &budget);
        drop(request);
        ledger.sweep();
        assert!(ledger.entries.borrow().is_empty());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn each_of_many_requests_has_its_own_progress_in_each_of_two_pipelines() {
        let budget = Budget::new(1 << 20);
        let ledger = Ledger::default();
        let pipelines: [Arc<str>; 2] = ["logs".into(), "copy".into()];
        let whole = Bytes::from(vec![1; 1000]);
        // Some begin at one place, and differ in where they end.
        let requests: Vec<Bytes> = (0..999).map(|at| whole.slice(at / 2..at / 2 + 1 + at % 2)).collect();
        let known = || requests.iter().flat_map(|request| pipelines.iter().map(move |name| (name, request)));
        for (attempts, (pipeline, request)) in (1..).zip(known()) {
            let progress = Progress { attempts, ..Progress::default() };
            ledger.keep(pipeline.clone(), request.clone(), progress, &budget);
        }
        ledger.sweep();
        for (attempts, (pipeline, request)) in (1..).zip(known()) {
            assert_eq!(ledger.take(pipeline, request).attempts, attempts);
        }
        assert!(ledger.entries.borrow().is_empty());
    }

    #[test]
    fn numbers_are_there_once() {
        let mut numbers = Numbers::default();
        let inserted = [200, 3, 64, 3].map(|number| numbers.insert(number));
        assert_eq!(inserted, [true, true, true, false]);
        let contained: Vec<u32> = (0..9999).filter(|number| numbers.contains(*number)).collect();
        assert_eq!(contained, [3, 64, 200]);
    }
}
