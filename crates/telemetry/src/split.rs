//! Cutting a payload into parts.
//!
//! The payload is walked once. What fits into the part being filled is taken whole; a container that does not fit
//! is entered, and its elements are placed one by one. A part that is full is closed, container by container, and
//! the containers that are entered at that moment continue in the next part under a copy of their header.

use std::mem::take;
use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::count::{items, live_arm};
use crate::message::Message;
use crate::schema::{Kind, Rule};
use crate::wire::{self, Field, Fields};
use crate::{Payload, Signal};

/// The most a part may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) items: usize,
    pub(crate) bytes: usize,
}

/// Cuts a payload. There is at least one part.
pub(crate) fn split(payload: Payload, limit: Limit) -> Vec<Payload> {
    if payload.items() <= limit.items && payload.bytes() <= limit.bytes {
        return vec![payload];
    }
    let kind = Kind::request(payload.signal());
    let mut splitter = Splitter::new(payload.signal(), limit);
    for request in payload.requests() {
        splitter.source = request.clone();
        let mut start = 0;
        for field in Fields::new(request).flatten() {
            splitter.here = start..start + field.raw.len();
            start = splitter.here.end;
            splitter.place(&field, kind.rule(field.number));
        }
        splitter.share_run();
        splitter.run = 0..0;
    }
    if !splitter.is_empty() {
        splitter.finish_part();
    }
    splitter.parts
}

/// A container that was entered.
#[derive(Debug)]
struct Open {
    /// Its field number in the container around it.
    number: u32,
    /// All its fields but the list that is being cut.
    header: Vec<u8>,
    /// The elements of the list that go into the part being filled.
    body: Vec<u8>,
    /// Whether the part being filled has an element of it. If not, the part does not mention it.
    used: bool,
}

#[derive(Debug)]
struct Splitter {
    signal: Signal,
    limit: Limit,
    parts: Vec<Payload>,

    // The part being filled.
    requests: SmallVec<[Bytes; 1]>,
    items: usize,
    bytes: usize,
    /// The containers entered, outermost first.
    open: Vec<Open>,

    // The request being cut.
    source: Bytes,
    /// The top-level field being placed.
    here: Range<usize>,
    /// Top-level fields taken whole that lie end to end and are not in `requests` yet.
    run: Range<usize>,
}

impl Splitter {
    fn new(signal: Signal, limit: Limit) -> Self {
        let (parts, requests, open) = Default::default();
        Self {
            signal,
            limit,
            parts,
            requests,
            items: 0,
            bytes: 0,
            open,
            source: Bytes::new(),
            here: 0..0,
            run: 0..0,
        }
    }

    /// Places a field of the innermost open container into this part, or into the following ones.
    fn place(&mut self, field: &Field<'_>, rule: Rule) {
        let message = Message::new(field.bytes().unwrap_or_default());
        let (container, items) = match rule {
            Rule::List(kind) => (Some(kind), items(kind, message)),
            Rule::Item(_) => (None, 1),
            _ => (None, 0),
        };
        if self.items == self.limit.items && items > 0 {
            self.finish_part();
        }
        if self.fits(items, field.raw.len()) {
            self.take(field.raw, items);
        } else if let Some(kind) = container.filter(|&kind| self.may_enter(kind, message)) {
            self.enter(field.number, kind, message);
        } else {
            if !self.is_empty() {
                self.finish_part();
            }
            self.take(field.raw, items);
        }
    }

    /// Whether a container can be cut, and should be: if what each part repeats took more than half of the bound,
    /// a hostile header could make the parts outgrow the payload by far more than twice.
    fn may_enter(&self, kind: Kind, message: Message<'_>) -> bool {
        let repeated = self.open.iter().map(|open| open.header.len()).sum::<usize>();
        header_len(kind, message).is_some_and(|header| repeated + header <= self.limit.bytes / 2)
    }

    /// Cuts a container.
    fn enter(&mut self, number: u32, kind: Kind, message: Message<'_>) {
        let mut header = Vec::new();
        header_fields(kind, message).for_each(|field| header.extend_from_slice(field.raw));
        self.open.push(Open { number, header, body: Vec::new(), used: false });
        if let Some((number, kind, arm)) = live_arm(kind, message) {
            self.enter(number, kind, arm);
        } else if let Some(list) = kind.list() {
            let elements = message.fields().filter(|field| field.number == list.number);
            elements.for_each(|field| self.place(&field, list.rule));
        }
        self.fold(self.open.len());
        self.open.pop();
    }

    /// Whether the part, with the containers that are open, has room for a field of that size.
    fn fits(&self, items: usize, size: usize) -> bool {
        let grown = |inside, open: &Open| {
            wire::bytes_field_len(open.number, open.header.len() + open.body.len() + inside)
        };
        let size = self.open.iter().rev().fold(size, grown);
        items <= self.limit.items.saturating_sub(self.items)
            && size <= self.limit.bytes.saturating_sub(self.bytes)
    }

    fn is_empty(&self) -> bool {
        self.bytes == 0 && !self.open.iter().any(|open| open.used)
    }

    /// Takes a field into the part.
    fn take(&mut self, raw: &[u8], items: usize) {
        self.items += items;
        self.open.iter_mut().for_each(|open| open.used = true);
        if let Some(open) = self.open.last_mut() {
            open.body.extend_from_slice(raw);
        } else {
            self.bytes += raw.len();
            if self.run.end != self.here.start {
                self.share_run();
                self.run.start = self.here.start;
            }
            self.run.end = self.here.end;
        }
    }

    /// Moves the run of uncut top-level fields into the part, as a slice of their request.
    fn share_run(&mut self) {
        let next = self.run.end..self.run.end;
        let run = std::mem::replace(&mut self.run, next);
        if !run.is_empty() {
            self.requests.push(self.source.slice(run));
        }
    }

    /// Closes the innermost of the first `depth` open containers: what it holds becomes a field of the one around.
    fn fold(&mut self, depth: usize) {
        let Some((open, around)) = self.open.get_mut(..depth).and_then(|open| open.split_last_mut()) else {
            return;
        };
        if !take(&mut open.used) {
            return;
        }
        let size = open.header.len() + open.body.len();
        let mut top = Vec::new();
        let out = match around.last_mut() {
            Some(around) => &mut around.body,
            None => {
                top.reserve_exact(wire::bytes_field_len(open.number, size));
                &mut top
            }
        };
        wire::put_tag(out, open.number, wire::WireType::Bytes);
        wire::put_varint(out, size as u64);
        out.extend_from_slice(&open.header);
        out.append(&mut open.body);
        if !top.is_empty() {
            self.share_run();
            self.bytes += top.len();
            self.requests.push(Bytes::from(top));
        }
    }

    fn finish_part(&mut self) {
        (1..=self.open.len()).rev().for_each(|depth| self.fold(depth));
        self.share_run();
        self.bytes = 0;
        let part = Payload::from_validated(self.signal, take(&mut self.requests), take(&mut self.items));
        self.parts.push(part);
    }
}

/// What a container holds beside the list that can be cut, its header: it belongs to every element alike. The
/// superseded arms of a metric are not part of it: they hold nothing.
pub(crate) fn header_fields<'a>(kind: Kind, message: Message<'a>) -> impl Iterator<Item = Field<'a>> {
    message
        .fields()
        .filter(move |field| !matches!(kind.rule(field.number), Rule::List(_) | Rule::Item(_) | Rule::Arm(_)))
}

/// The size in bytes of a container's header, with that of a metric's arm; `None` if there is nothing to cut.
fn header_len(kind: Kind, message: Message<'_>) -> Option<usize> {
    let inside = match (live_arm(kind, message), kind.list()) {
        (Some((_, kind, arm)), _) => header_len(kind, arm)?,
        (None, Some(list)) => message.fields().find(|field| field.number == list.number).map(|_| 0)?,
        (None, None) => return None,
    };
    Some(inside + header_fields(kind, message).map(|field| field.raw.len()).sum::<usize>())
}
