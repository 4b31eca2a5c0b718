//! The course of a batch: which of its documents are to be sent, and what became of the others.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use watershed_delivery::Budget;
use watershed_stage::{Batch, ExportError, Partial, Payload};

use crate::document::{Bulk, Scribe};
use crate::exporter::Elasticsearch;
use crate::ledger::{Numbers, Progress};

/// A batch on its way. What is known of it outlives this, unless it is through: the attempt may be dropped at any time.
pub(crate) struct Course<'e> {
    exporter: &'e Elasticsearch,
    budget: &'e Arc<Budget>,
    pipeline: Arc<str>,
    parts: Vec<Part>,
    /// The request and the document to go on with.
    next: (usize, u32),
    /// The requests in the body that was made last: each up to which of its documents.
    inside: Vec<(usize, usize)>,
    /// Why something of these is to be sent again.
    postponed: Option<String>,
    /// Something is through since that was last asked.
    advanced: bool,
    /// The attempt that is under way has not failed yet.
    trying: bool,
    ended: bool,
}

/// One request of a batch.
struct Part {
    payload: Payload,
    progress: Progress,
    /// An earlier attempt ended without an answer that can be relied on.
    was_uncertain: bool,
    /// The items that are given up.
    left: Numbers,
}

// === impl Course ===

impl<'e> Course<'e> {
    pub(crate) fn begin(exporter: &'e Elasticsearch, batch: &Batch, budget: &'e Arc<Budget>) -> Self {
        let part = |payload: Payload| {
            let known = |request| exporter.ledger.take(&batch.context.pipeline, request);
            let progress = payload.requests().first().map(known).unwrap_or_default();
            Part { was_uncertain: progress.uncertain, payload, progress, left: Numbers::default() }
        };
        let parts = batch.payload.clone().split_requests().into_iter().map(part).collect();
        exporter.ledger.sweep();
        let pipeline = batch.context.pipeline.clone();
        Self {
            exporter,
            budget,
            pipeline,
            parts,
            next: (0, 0),
            inside: Vec::new(),
            postponed: None,
            advanced: false,
            trying: true,
            ended: false,
        }
    }

    /// The next body; `None` after the last.
    pub(crate) fn next(&mut self, scribe: &Scribe<'_>) -> Option<Bulk> {
        loop {
            let bulk = self.page(scribe);
            for index in 0..bulk.documents.len() {
                if let Some(flaw) = bulk.documents.get(index).and_then(|document| document.flaw) {
                    self.reject(&bulk, index..index + 1, flaw.as_str(), flaw.as_str());
                }
            }
            // A body of nothing but flaws is not the last one, if there is more to come.
            if !bulk.body.is_empty() || self.next.0 >= self.parts.len() {
                return (!bulk.body.is_empty()).then_some(bulk);
            }
        }
    }

    fn page(&mut self, scribe: &Scribe<'_>) -> Bulk {
        // Each document repeats its resource: the body is several times as large as what it is made of.
        let left = self.parts.iter().skip(self.next.0).map(|part| part.payload.bytes()).sum::<usize>();
        let mut bulk = Bulk::with_capacity(left.saturating_mul(3).min(scribe.max_bytes));
        self.inside.clear();
        while let Some(part) = self.parts.get(self.next.0) {
            let (index, from) = self.next;
            let done = &part.progress.done;
            let full = scribe.write(&part.payload, from, &|number| done.contains(number), &mut bulk);
            self.inside.push((index, bulk.documents.len()));
            self.next = match full {
                Some(number) => (index, number),
                None => (index + 1, 0),
            };
            if full.is_some() || bulk.body.len() >= scribe.max_bytes {
                break;
            }
        }
        bulk
    }

    /// The request that a document of the body belongs to.
    fn part(&mut self, document: usize) -> Option<&mut Part> {
        let (part, _) = self.inside.get(self.inside.partition_point(|(_, end)| *end <= document))?;
        self.parts.get_mut(*part)
    }

    /// A document is taken.
    pub(crate) fn take(&mut self, bulk: &Bulk, index: usize) {
        let Some(document) = bulk.documents.get(index) else { return };
        self.advanced = true;
        if let Some(part) = self.part(index) {
            part.progress.done.insert(document.number);
            part.progress.taken = true;
        }
    }

    /// Documents that are not done will never be taken.
    pub(crate) fn reject(&mut self, bulk: &Bulk, range: Range<usize>, kind: &str, reason: &str) {
        for index in range {
            let Some(document) = bulk.documents.get(index) else { return };
            let Some(part) = self.part(index) else { return };
            if part.progress.done.insert(document.number) {
                bulk.items(document).iter().for_each(|item| {
                    part.progress.rejected.insert(*item);
                });
                part.progress.reason.get_or_insert_with(|| reason.to_owned());
                part.progress.kinds.add(kind);
            }
        }
    }

    /// Whether an earlier attempt at a document's request was left without an answer.
    pub(crate) fn was_uncertain(&mut self, _: &Bulk, index: usize) -> bool {
        self.part(index).is_some_and(|part| part.was_uncertain)
    }

    /// Whether what becomes of the body is not known.
    pub(crate) fn uncertain(&mut self, now: bool) {
        for (index, _) in &self.inside {
            if let Some(part) = self.parts.get_mut(*index) {
                part.progress.uncertain = now || part.was_uncertain;
            }
        }
    }

    /// An answer did not say what became of some of the last body.
    pub(crate) fn doubt(&mut self) {
        for (index, _) in &self.inside {
            if let Some(part) = self.parts.get_mut(*index) {
                (part.progress.uncertain, part.was_uncertain) = (true, true);
            }
        }
    }

    /// Some of the last body is to be sent again, when the others are through.
    pub(crate) fn postpone(&mut self, reason: String) {
        self.postponed.get_or_insert(reason);
    }

    /// Why something is to be sent again, if anything is.
    pub(crate) fn again(&mut self) -> Option<String> {
        self.postponed.take()
    }

    /// Whether any document was taken.
    pub(crate) fn has_taken(&self) -> bool {
        self.parts.iter().any(|part| part.progress.taken)
    }

    /// Attempts that left something to be sent again.
    pub(crate) fn attempts(&self) -> u32 {
        self.parts.iter().map(|part| part.progress.attempts).max().unwrap_or(0)
    }

    /// Counts another one; how many there are with it.
    pub(crate) fn failed(&mut self) -> u32 {
        let attempts = self.attempts().saturating_add(1);
        self.parts.iter_mut().for_each(|part| part.progress.attempts = attempts);
        self.trying = false;
        attempts
    }

    /// Whether anything was taken since the last time that this was asked. If so, goes back to what was not.
    pub(crate) fn advances(&mut self) -> bool {
        (self.next, self.postponed) = ((0, 0), None);
        self.parts.iter_mut().for_each(|part| part.was_uncertain |= part.progress.uncertain);
        self.trying = std::mem::take(&mut self.advanced);
        self.trying
    }

    /// All that is left is given up, as often as it was tried. The items are left whole of which a document is.
    pub(crate) fn exhausted(
        mut self,
        scribe: &Scribe<'_>,
        reason: String,
        retry_after: Option<Duration>,
    ) -> ExportError {
        self.next = (0, 0);
        while let Some(bulk) = self.next(scribe) {
            let _permit = self.budget.overdraw(bulk.size());
            for (index, document) in
                bulk.documents.iter().enumerate().filter(|(_, document)| document.flaw.is_none())
            {
                let Some(part) = self.part(index) else { break };
                bulk.items(document).iter().for_each(|item| {
                    part.left.insert(*item);
                });
                self.exporter.counters.exhausted.add(1);
            }
        }
        self.through();
        let left = self.items(|part, item| part.left.contains(item));
        let rejected =
            self.items(|part, item| part.progress.rejected.contains(item) && !part.left.contains(item));
        ExportError::Exhausted { reason: reason.into(), retry_after, left, rejected }
    }

    /// Those items of the batch that are `among` those of their request, by their number.
    fn items(&self, among: impl Fn(&Part, u32) -> bool) -> Vec<u32> {
        let (mut items, mut first) = (Vec::new(), 0);
        for part in &self.parts {
            let count = part.payload.items() as u32;
            items.extend((0..count).filter(|item| among(part, *item)).map(|item| first + item));
            first += count;
        }
        items
    }

    /// Nothing is left to be sent. Only now it is certain that what was rejected is not sent again, and so it is counted.
    fn through(&mut self) {
        self.ended = true;
        for part in &mut self.parts {
            self.exporter.counters.rejected(&part.progress.kinds);
        }
    }

    /// None of it was taken, and all of it will be sent again, each of its messages alone.
    pub(crate) fn forget(mut self) {
        self.ended = true;
    }

    /// The batch is through: what was rejected of it.
    pub(crate) fn end(mut self) -> Partial {
        self.through();
        let which = self.items(|part, item| part.progress.rejected.contains(item));
        let message = self.parts.iter_mut().find_map(|part| part.progress.reason.take()).unwrap_or_default();
        Partial { rejected: which.len() as u64, which: Some(which), message }
    }
}

impl Drop for Course<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.trying {
            // Its time was up.
            self.failed();
        }
        for Part { payload, progress, .. } in std::mem::take(&mut self.parts) {
            if let Some(request) = payload.requests().first() {
                self.exporter.ledger.keep(self.pipeline.clone(), request.clone(), progress, self.budget);
            }
        }
    }
}
