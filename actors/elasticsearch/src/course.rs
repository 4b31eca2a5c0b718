//! The course of a batch: which of its documents are to be sent, and what became of the others.

use std::ops::Range;
use std::sync::Arc;

use watershed_delivery::Budget;
use watershed_net::Code;
use watershed_stage::{Batch, ExportError, Partial, Payload};

use crate::document::{Bulk, Scribe};
use crate::exporter::Elasticsearch;
use crate::ledger::Progress;

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
    /// Something is through since that was last asked.
    advanced: bool,
    ended: bool,
}

/// One request of a batch.
struct Part {
    payload: Payload,
    progress: Progress,
    /// An earlier attempt ended without an answer that can be relied on.
    was_uncertain: bool,
}

// === impl Course ===

impl<'e> Course<'e> {
    pub(crate) fn begin(exporter: &'e Elasticsearch, batch: &Batch, budget: &'e Arc<Budget>) -> Self {
        let part = |payload: Payload| {
            let known = |request| exporter.ledger.take(&batch.context.pipeline, request);
            let progress = payload.requests().first().map(known).unwrap_or_default();
            Part { was_uncertain: progress.uncertain, payload, progress }
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
            advanced: false,
            ended: false,
        }
    }

    /// The next body; `None` after the last.
    pub(crate) fn next(&mut self, scribe: &Scribe<'_>) -> Option<Bulk> {
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
        for index in 0..bulk.documents.len() {
            if let Some(flaw) = bulk.documents.get(index).and_then(|document| document.flaw) {
                self.reject(&bulk, index..index + 1, flaw.as_str(), flaw.as_str());
            }
        }
        // A body of nothing but flaws is not the last one, if there is more to come.
        if bulk.body.is_empty() && self.next.0 < self.parts.len() {
            return self.next(scribe);
        }
        (!bulk.body.is_empty()).then_some(bulk)
    }

    /// The request that a document of the body belongs to.
    fn part(&mut self, document: usize) -> Option<&mut Part> {
        let (part, _) = self.inside.iter().find(|(_, end)| document < *end)?;
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
                self.exporter.counters.rejected(kind);
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

    /// Whether any document was taken.
    pub(crate) fn has_taken(&self) -> bool {
        self.parts.iter().any(|part| part.progress.taken)
    }

    /// Counts an attempt that leaves something to be sent again; how many there were before it.
    pub(crate) fn failed(&mut self) -> u32 {
        let before = self.parts.iter().map(|part| part.progress.attempts).max().unwrap_or(0);
        self.parts.iter_mut().for_each(|part| part.progress.attempts = before + 1);
        before
    }

    /// Whether anything was taken since the last time that this was asked. If so, goes back to what was not.
    pub(crate) fn advances(&mut self) -> bool {
        self.next = (0, 0);
        self.parts.iter_mut().for_each(|part| part.was_uncertain |= part.progress.uncertain);
        std::mem::take(&mut self.advanced)
    }

    /// Rejects all that is left.
    pub(crate) fn give_up(&mut self, scribe: &Scribe<'_>, reason: &str) {
        self.next = (0, 0);
        while let Some(bulk) = self.next(scribe) {
            self.reject(&bulk, 0..bulk.documents.len(), "retries", reason);
        }
    }

    /// The batch is through: what was rejected of it.
    pub(crate) fn end(mut self) -> Result<Partial, ExportError> {
        self.ended = true;
        let (mut which, mut first, mut reason) = (Vec::new(), 0, None);
        for part in &mut self.parts {
            which.extend(part.progress.rejected.iter().map(|item| first + item));
            first += part.payload.items() as u32;
            reason = reason.or(part.progress.reason.take());
        }
        let message = reason.unwrap_or_default();
        if which.len() == first as usize && !which.is_empty() && !self.has_taken() {
            return Err(ExportError::Permanent {
                code: Code::InvalidArgument as i32,
                reason: message.into(),
            });
        }
        Ok(Partial { rejected: which.len() as u64, which: Some(which), message })
    }
}

impl Drop for Course<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        for Part { payload, progress, .. } in std::mem::take(&mut self.parts) {
            if let Some(request) = payload.requests().first() {
                self.exporter.ledger.keep(self.pipeline.clone(), request.clone(), progress, self.budget);
            }
        }
    }
}
