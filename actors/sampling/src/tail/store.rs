//! What a sampler holds: spans where they lie in the requests they came in, what is known of each trace, and the order
//! in which traces are due.
//!
//! A trace takes 72 bytes, a span 16, and a request is kept as it came until all of its spans are decided, which is no
//! later than `decision_wait` after it. Nothing here can fail between the first change and the last.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;
use watershed_stage::delivery::Permit;
use watershed_stage::{Context, Hold};
use watershed_telemetry::sheaf::{Sheaf, Spot};
use watershed_telemetry::view::SpanView;

use super::arrived::{Arrived, Fate};
use super::decided::Decided;
use super::policy::{Facts, Named, ROOT, Spans};

/// What a span that waits takes beside its request: its place, and another when it goes.
pub(super) const SPAN: usize = size_of::<Held>() + size_of::<Spot>();

/// About a millisecond.
const EARLY: u64 = 1 << 20;

/// Ends a chain of spans.
const NONE: u32 = u32::MAX;

/// What a sampler holds. Outlives its panics.
pub(super) struct Store {
    traces: Slab<Trace>,
    /// Numbers in `traces`, by the hash of the id.
    index: HashTable<u32>,
    spans: Vec<Held>,
    /// The first of the unused `spans`.
    free: u32,
    requests: Slab<Request>,
    /// Those of them that may be handed out again, by the number of their message.
    numbered: BTreeSet<(u64, u32)>,
    /// What all requests and their spans take.
    bytes: u64,
    /// Traces in the order of their first span.
    order: VecDeque<Ticket>,
    /// Traces in the order in which their root came, and when.
    rooted: VecDeque<(Ticket, u64)>,
    /// Traces whose decision is known before they are due.
    known: VecDeque<Ticket>,
    /// Traces about which a decision is being made.
    deciding: Vec<Ticket>,
    serial: u32,
    pub(super) decided: Decided,
    /// Decisions of processes before are known.
    pub(super) is_told: bool,
    pub(super) clock: Clock,
}

/// What time it is by what comes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// The latest arrival, or what has passed since; in Unix nanoseconds.
    pub(super) now: u64,
    /// What was due up to then has been decided.
    pub(super) settled: u64,
}

/// A trace, as long as it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    trace: u32,
    serial: u32,
}

pub(super) struct Trace {
    pub(super) facts: Facts,
    /// When its first span came.
    first: u64,
    serial: u32,
    head: u32,
    /// How long before the first of its spans another had come, in units of [`EARLY`] nanoseconds and no less.
    early: u32,
    /// It stands in [`Store::order`].
    in_line: bool,
    /// What is decided already.
    pub(super) known: Option<bool>,
}

/// A request as it came.
pub(super) struct Came {
    pub(super) sheaf: Sheaf,
    pub(super) hold: Hold,
    pub(super) context: Arc<Context>,
    /// What its message is known by.
    pub(super) number: Option<u64>,
    /// What its spans take beside it.
    pub(super) _permit: Permit,
}

/// A request of which spans are held.
struct Request {
    came: Came,
    /// The last trace that there was when it came.
    serial: u32,
    /// How many of its spans are held.
    left: u32,
    /// What it takes until none is.
    bytes: u64,
}

#[derive(Clone, Copy)]
struct Held {
    request: u32,
    spot: Spot,
    next: u32,
}

/// What is held of a message since it came before.
#[derive(Default)]
pub(super) struct Earlier {
    pub(super) requests: SmallVec<[u32; 2]>,
    /// The last trace that there was when it came.
    serial: Option<u32>,
}

/// Spans that go on, by the request they came in.
#[derive(Default)]
pub(super) struct Passing(Vec<(u32, Spot)>);

// === impl Store ===

impl Default for Store {
    fn default() -> Self {
        Self {
            traces: Slab::new(),
            index: HashTable::new(),
            spans: Vec::new(),
            free: NONE,
            requests: Slab::new(),
            numbered: BTreeSet::new(),
            bytes: 0,
            order: VecDeque::new(),
            rooted: VecDeque::new(),
            known: VecDeque::new(),
            deciding: Vec::new(),
            serial: 0,
            decided: Decided::default(),
            is_told: false,
            clock: Clock::default(),
        }
    }
}

impl Store {
    /// Makes room for so many traces more.
    pub(super) fn expect(&mut self, traces: usize, hash: impl Fn(&[u8; 16]) -> u64) {
        self.traces.reserve(traces);
        self.order.reserve(traces);
        let known = &self.traces;
        self.index.reserve(traces, |trace| known.get(*trace as usize).map_or(0, |it| hash(&it.facts.id)));
    }

    /// Undecided traces.
    pub(super) fn traces(&self) -> usize {
        self.traces.len()
    }

    /// What is held, in bytes: requests as they came, and what is kept for each of their spans.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a span waits whose trace is undecided, and since when: `earlier` is what there
    /// [is](Self::earlier) of its message.
    pub(super) fn fate(&self, span: &Arrived, earlier: &Earlier) -> Option<Fate> {
        let trace = self.traces.get(self.find(span.hash, &span.id)? as usize)?;
        // All spans that a message has of a trace are held with it from then on: of one that began later, none are.
        let is_held = earlier.serial.is_some_and(|last| last.wrapping_sub(trace.serial) < 1 << 31);
        Some(if is_held { Fate::Held } else { Fate::Waits })
    }

    /// What is held of a message that came before.
    pub(super) fn earlier(&self, number: Option<u64>) -> Earlier {
        let mut earlier = Earlier::default();
        let Some(number) = number else { return earlier };
        for (_, request) in self.numbered.range((number, 0)..=(number, u32::MAX)) {
            let Some(serial) = self.requests.get(*request as usize).map(|it| it.serial) else { continue };
            let is_last = earlier.serial.is_none_or(|last| serial.wrapping_sub(last) < 1 << 31);
            earlier.serial = if is_last { Some(serial) } else { earlier.serial };
            earlier.requests.push(*request);
        }
        earlier
    }

    /// What stands for a request that is held.
    pub(super) fn hold(&self, request: u32) -> Option<&Hold> {
        self.requests.get(request as usize).map(|request| &request.came.hold)
    }

    fn find(&self, hash: u64, id: &[u8; 16]) -> Option<u32> {
        let is = |trace: &u32| self.traces.get(*trace as usize).is_some_and(|it| it.facts.id == *id);
        self.index.find(hash, is).copied()
    }

    /// Takes a request in: those of its spans that wait. `hash` is that of a trace id. Says how many traces are new.
    /// Those that grow beyond `largest` are left out with the next decisions.
    pub(super) fn add(
        &mut self,
        came: Came,
        spans: &[Arrived],
        largest: Option<u64>,
        hash: impl Fn(&[u8; 16]) -> u64,
    ) -> (usize, usize) {
        let waiting = |span: &&Arrived| matches!(span.fate, Fate::Waits | Fate::Follows(_));
        let left = spans.iter().filter(waiting).count() as u32;
        let bytes = (came.sheaf.bytes() + left as usize * SPAN) as u64;
        self.bytes += bytes;
        let (arrived, number) = (came.context.arrived, came.number);
        let request = self.requests.insert(Request { came, serial: self.serial, left, bytes }) as u32;
        self.numbered.extend(number.map(|number| (number, request)));
        let (mut new, mut too_large) = (0, 0);
        for span in spans.iter().filter(waiting) {
            let number = match self.find(span.hash, &span.id) {
                Some(number) => number,
                None => {
                    // One that has its decision has been counted.
                    new += usize::from(span.fate == Fate::Waits);
                    self.open(span, arrived, &hash)
                }
            };
            let Some(trace) = self.traces.get_mut(number as usize) else { continue };
            if arrived < trace.first {
                let early = u32::try_from((trace.first - arrived) / EARLY + 1).unwrap_or(u32::MAX);
                trace.early = trace.early.max(early);
            }
            let held = Held { request, spot: span.spot, next: trace.head };
            trace.head = match self.spans.get_mut(self.free as usize) {
                Some(free) => {
                    let at = std::mem::replace(&mut self.free, free.next);
                    *free = held;
                    at
                }
                None => {
                    self.spans.push(held);
                    (self.spans.len() - 1) as u32
                }
            };
            let ticket = Ticket { trace: number, serial: trace.serial };
            if span.seen & !trace.facts.seen & ROOT != 0 {
                self.rooted.push_back((ticket, arrived));
            }
            let facts = &mut trace.facts;
            facts.seen |= span.seen;
            facts.start = facts.start.min(span.start);
            facts.end = facts.end.max(span.end);
            facts.spans += 1;
            facts.bytes += span.spot.bytes() as u64;
            let grown = largest.is_some_and(|largest| facts.bytes > largest);
            let known = match span.fate {
                Fate::Follows(sampled) => Some(sampled),
                _ if grown => Some(false),
                _ => None,
            };
            if trace.known.is_none() && known.is_some() {
                too_large += usize::from(grown);
                trace.known = known;
                self.known.push_back(ticket);
            }
        }
        if let Some(request) = self.requests.get_mut(request as usize) {
            request.serial = self.serial;
        }
        (new, too_large)
    }

    fn open(&mut self, span: &Arrived, first: u64, hash: impl Fn(&[u8; 16]) -> u64) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        let facts = Facts { id: span.id, start: u64::MAX, ..Facts::default() };
        let trace =
            Trace { facts, first, serial: self.serial, head: NONE, early: 0, in_line: true, known: None };
        let number = self.traces.insert(trace) as u32;
        let traces = &self.traces;
        let rehash = |it: &u32| traces.get(*it as usize).map_or(0, |trace| hash(&trace.facts.id));
        self.index.insert_unique(span.hash, number, rehash);
        self.order.push_back(Ticket { trace: number, serial: self.serial });
        number
    }

    pub(super) fn trace(&self, ticket: Ticket) -> Option<&Trace> {
        self.traces.get(ticket.trace as usize).filter(|trace| trace.serial == ticket.serial)
    }

    fn trace_mut(&mut self, ticket: Ticket) -> Option<&mut Trace> {
        self.traces.get_mut(ticket.trace as usize).filter(|trace| trace.serial == ticket.serial)
    }

    /// What was decided about a trace, which stands whatever comes until it is carried out.
    pub(super) fn know(&mut self, ticket: Ticket, sampled: bool) {
        if let Some(trace) = self.trace_mut(ticket) {
            trace.known = Some(sampled);
        }
    }

    /// The traces that are due at `now`: whose decision is known, whose root came `after_root` ago if that is set, or
    /// whose first span came `wait` ago.
    pub(super) fn due(&mut self, now: u64, wait: u64, after_root: Option<u64>) -> Vec<Ticket> {
        let mut due: Vec<Ticket> = self.known.drain(..).collect();
        match after_root {
            None => self.rooted.clear(),
            Some(after) => {
                while let Some((ticket, at)) = self.rooted.front()
                    && at.saturating_add(after) <= now
                {
                    due.push(*ticket);
                    self.rooted.pop_front();
                }
            }
        }
        while let Some(first) = self.order.front()
            && self.trace(*first).is_none_or(|trace| trace.first.saturating_add(wait) <= now)
        {
            due.extend(self.next_in_line());
        }
        self.distinct(due)
    }

    /// The oldest traces, so many of them.
    pub(super) fn oldest(&mut self, count: usize) -> Vec<Ticket> {
        let mut oldest = Vec::new();
        while oldest.len() < count && !self.order.is_empty() {
            oldest.extend(self.next_in_line());
        }
        self.distinct(oldest)
    }

    /// Takes what stands first in line; `None` where that is a trace that ended before it was due.
    fn next_in_line(&mut self) -> Option<Ticket> {
        let ticket = self.order.pop_front()?;
        self.trace_mut(ticket)?.in_line = false;
        Some(ticket)
    }

    /// Those that still are, each once. They are under decision until they are [closed](Self::close) or
    /// [put back](Self::put_back).
    fn distinct(&mut self, mut tickets: Vec<Ticket>) -> Vec<Ticket> {
        tickets.retain(|ticket| self.trace(*ticket).is_some());
        tickets.sort_unstable_by_key(|ticket| (ticket.serial, ticket.trace));
        tickets.dedup();
        self.deciding.clone_from(&tickets);
        tickets
    }

    /// Whatever was under decision and was not carried out is due again, and stands in line where it stood.
    pub(super) fn put_back(&mut self) {
        for ticket in std::mem::take(&mut self.deciding).into_iter().rev() {
            let Some(trace) = self.trace_mut(ticket) else { continue };
            match (trace.known, std::mem::replace(&mut trace.in_line, true)) {
                (Some(_), true) => self.known.push_front(ticket),
                // It was due by its root.
                (None, true) => self.rooted.push_front((ticket, 0)),
                (known, false) => {
                    self.known.extend(known.map(|_| ticket));
                    self.order.push_front(ticket);
                }
            }
        }
    }

    /// Lets a trace go: its spans go on if it is sampled. `ended` is told of requests of which nothing is held any more
    /// once what goes on of them is [taken](Passing::take).
    pub(super) fn close(
        &mut self,
        ticket: Ticket,
        hash: u64,
        passing: Option<&mut Passing>,
        ended: &mut Vec<u32>,
    ) {
        if self.trace(ticket).is_none() {
            return;
        }
        let trace = self.traces.remove(ticket.trace as usize);
        if let Ok(entry) = self.index.find_entry(hash, |number| *number == ticket.trace) {
            entry.remove();
        }
        let (mut at, mut passing) = (trace.head, passing);
        while let Some(held) = self.spans.get_mut(at as usize) {
            let next = held.next;
            if let Some(passing) = &mut passing {
                passing.0.push((held.request, held.spot));
            }
            if let Some(request) = self.requests.get_mut(held.request as usize) {
                request.left -= 1;
                if request.left == 0 {
                    ended.push(held.request);
                }
            }
            held.next = std::mem::replace(&mut self.free, at);
            at = next;
        }
    }

    /// Forgets a request.
    pub(super) fn end(&mut self, number: u32) -> Option<Hold> {
        let Request { came, bytes, .. } = self.requests.try_remove(number as usize)?;
        self.bytes -= bytes;
        if let Some(message) = came.number {
            self.numbered.remove(&(message, number));
        }
        Some(came.hold)
    }

    /// When the first message came that has spans of a trace, or before.
    pub(super) fn began(trace: &Trace) -> u64 {
        trace.first.saturating_sub(u64::from(trace.early).saturating_mul(EARLY))
    }

    /// The spans of a trace, to look at.
    pub(super) fn spans<'s>(&'s self, trace: &Trace) -> impl Spans + use<'s> {
        Chain { store: self, head: trace.head }
    }
}

// === impl Passing ===

impl Passing {
    /// Calls `each` with request after request, and the spans of it that go on, in their order.
    pub(super) fn take<'s>(
        mut self,
        store: &'s Store,
        mut each: impl FnMut(&'s Sheaf, &'s Hold, &'s Arc<Context>, &[Spot]),
    ) {
        self.0.sort_unstable();
        let mut spots = Vec::new();
        for spans in self.0.chunk_by(|one, other| one.0 == other.0) {
            let Some(request) = spans.first().and_then(|(number, _)| store.requests.get(*number as usize))
            else {
                continue;
            };
            spots.clear();
            spots.extend(spans.iter().map(|(_, spot)| *spot));
            let Came { sheaf, hold, context, .. } = &request.came;
            each(sheaf, hold, context, &spots);
        }
    }
}

/// The spans of a trace, the last first.
struct Chain<'s> {
    store: &'s Store,
    head: u32,
}

impl Spans for Chain<'_> {
    fn any(&self, is: &mut dyn FnMut(SpanView<'_>, Option<Named<'_>>) -> bool) -> bool {
        let (mut at, mut shown) = (self.head, None);
        while let Some(held) = self.store.spans.get(at as usize) {
            if let Some(Request { came: Came { sheaf, .. }, .. }) =
                self.store.requests.get(held.request as usize)
            {
                // Those of one group came one after the other.
                let group = sheaf.group_of(held.spot).unwrap_or_default() as u64;
                let name = u64::from(held.request) << 32 | group;
                let is_new = shown.replace(name) != Some(name);
                if is(sheaf.span(held.spot), is_new.then(|| (name, sheaf.resource(held.spot)))) {
                    return true;
                }
            }
            at = held.next;
        }
        false
    }
}
