//! Requests taken apart into spans: where each lies, reading it again later, and putting some together anew.
//!
//! A span stays where it lies in its request, and its place takes eight bytes; only what goes on is copied, under the
//! resource and scope it came with.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::message::Message;
use crate::view::{ResourceView, SpanView};
use crate::wire::{self, Field, Value};
use crate::{Payload, Signal};

// `ExportTraceServiceRequest`, `ResourceSpans` and `ScopeSpans`.
const RESOURCE_SPANS: u32 = 1;
const RESOURCE: u32 = 1;
const SCOPE_SPANS: u32 = 2;
const SPANS: u32 = 2;

/// A request of spans whose places are known.
#[derive(Debug)]
pub struct Sheaf {
    request: Bytes,
    groups: Vec<Group>,
    /// Those with spans, in their order.
    scopes: Vec<Scope>,
}

/// Where a span lies in its request, its tag and length included. In the order of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    at: u32,
    len: u32,
}

/// A request that spans are copied into.
#[derive(Debug, Default)]
pub struct Bundle {
    request: Vec<u8>,
    spans: usize,
}

#[derive(Debug)]
struct Group {
    head: Head,
    resource: Resource,
}

/// The resource of a group.
#[derive(Debug)]
enum Resource {
    /// It lies there.
    At(Span),
    /// It came in pieces: their merge, which is one laid after the other.
    Merged(Vec<u8>),
}

#[derive(Debug)]
struct Scope {
    group: u32,
    body: Span,
    head: Head,
}

/// From and to, in a request.
type Span = (u32, u32);

/// All fields of a group but the list in it.
type Head = SmallVec<[Span; 2]>;

/// Spans that lie in one scope group, and what its body takes without the others.
struct Run<'s> {
    scope: usize,
    spots: &'s [Spot],
    len: usize,
}

// === impl Spot ===

impl Spot {
    /// What the span takes in its request, in bytes.
    pub fn bytes(self) -> usize {
        self.len as usize
    }
}

// === impl Sheaf ===

impl Sheaf {
    /// Takes a request apart: `each` is told of every span in order, and of its place. What can not be read (there is
    /// nothing such in a validated request) ends the group it is in.
    pub fn read(request: Bytes, mut each: impl FnMut(SpanView<'_>, Spot)) -> Self {
        let (mut groups, mut scopes) = (Vec::new(), Vec::new());
        let bytes: &[u8] = &request;
        fields(bytes, 0..bytes.len(), |field, _, body| {
            if field.number != RESOURCE_SPANS || body.is_empty() {
                return;
            }
            let (number, before) = (groups.len() as u32, scopes.len());
            let (mut head, mut resource) = (Head::new(), Resource::At((0, 0)));
            fields(bytes, body, |field, whole, body| {
                if let (RESOURCE, Value::Bytes(_)) = (field.number, field.value) {
                    resource.add(bytes, body.clone());
                }
                if field.number != SCOPE_SPANS {
                    return join(&mut head, whole);
                }
                let (mut head, mut any) = (Head::new(), false);
                fields(bytes, body.clone(), |field, whole, _| match field.value {
                    Value::Bytes(span) if field.number == SPANS => {
                        any = true;
                        let spot = Spot { at: whole.start as u32, len: whole.len() as u32 };
                        each(Message::new(span).into(), spot);
                    }
                    _ => join(&mut head, whole),
                });
                if any {
                    scopes.push(Scope { group: number, body: span(&body), head });
                }
            });
            if scopes.len() > before {
                groups.push(Group { head, resource });
            }
        });
        Self { request, groups, scopes }
    }

    /// What taking a request apart takes [beside](Self::beside) it, at most, in bytes, where its groups lie in one piece: a
    /// group of few bytes takes many times as many.
    pub fn weight(request: &[u8]) -> usize {
        // A list that grows may be twice as long as what is in it.
        let (mut groups, mut scopes) = (0, 0);
        fields(request, 0..request.len(), |field, _, body| {
            if field.number == RESOURCE_SPANS && !body.is_empty() {
                groups += 2 * size_of::<Group>();
                fields(request, body, |field, _, body| {
                    scopes += if field.number == SCOPE_SPANS && !body.is_empty() {
                        2 * size_of::<Scope>()
                    } else {
                        0
                    };
                });
            }
        });
        groups + scopes
    }

    /// What it takes beside its request, in bytes.
    pub fn beside(&self) -> usize {
        let spilled = |head: &Head| if head.spilled() { head.capacity() * size_of::<Span>() } else { 0 };
        let merged = |group: &Group| match &group.resource {
            Resource::At(_) => 0,
            Resource::Merged(bytes) => bytes.capacity(),
        };
        let of_groups = self.groups.iter().map(|group| merged(group) + spilled(&group.head)).sum::<usize>();
        let of_scopes = self.scopes.iter().map(|scope| spilled(&scope.head)).sum::<usize>();
        let lists = self.groups.capacity() * size_of::<Group>() + self.scopes.capacity() * size_of::<Scope>();
        lists + of_groups + of_scopes
    }

    /// The bytes that it keeps alive.
    pub fn bytes(&self) -> usize {
        self.request.len() + self.beside()
    }

    /// The span that lies there.
    pub fn span(&self, spot: Spot) -> SpanView<'_> {
        let field = wire::read_field(self.slice((spot.at, spot.at + spot.len)), 0).ok();
        Message::new(field.and_then(|(field, _)| field.bytes()).unwrap_or_default()).into()
    }

    /// The resource of the span that lies there.
    pub fn resource(&self, spot: Spot) -> ResourceView<'_> {
        let bytes = match self.group_of(spot).and_then(|group| Some(&self.groups.get(group)?.resource)) {
            Some(Resource::At(at)) => self.slice(*at),
            Some(Resource::Merged(bytes)) => bytes,
            None => &[],
        };
        Message::new(bytes).into()
    }

    /// The number of the resource group in which the span lies: those of one group have one resource.
    pub fn group_of(&self, spot: Spot) -> Option<usize> {
        Some(self.scopes.get(self.scope_of(spot)?)?.group as usize)
    }

    fn scope_of(&self, spot: Spot) -> Option<usize> {
        self.scopes.partition_point(|scope| scope.body.0 <= spot.at).checked_sub(1)
    }

    fn slice(&self, (from, to): Span) -> &[u8] {
        self.request.get(from as usize..to as usize).unwrap_or_default()
    }

    /// Spots in order, by the scope they lie in.
    fn runs<'s>(&self, spots: &'s [Spot]) -> SmallVec<[Run<'s>; 4]> {
        let mut runs = SmallVec::new();
        let mut rest = spots;
        while let Some(scope) = rest.first().and_then(|first| self.scope_of(*first)) {
            let Some(known) = self.scopes.get(scope) else { break };
            let (here, after) = rest.split_at(rest.partition_point(|spot| spot.at < known.body.1).max(1));
            let len = total(&known.head) + here.iter().map(|spot| spot.len as usize).sum::<usize>();
            runs.push(Run { scope, spots: here, len });
            rest = after;
        }
        runs
    }

    /// Calls `each` with the runs of one resource group after the other.
    fn by_group<'s>(&self, runs: &[Run<'s>], mut each: impl FnMut(&Group, &[Run<'s>], usize)) {
        let group_of = |run: &Run<'_>| self.scopes.get(run.scope).map(|scope| scope.group as usize);
        for runs in runs.chunk_by(|one, other| group_of(one) == group_of(other)) {
            let Some(group) = runs.first().and_then(group_of).and_then(|group| self.groups.get(group)) else {
                continue;
            };
            let inner = runs.iter().map(|run| wire::bytes_field_len(SCOPE_SPANS, run.len)).sum::<usize>();
            each(group, runs, total(&group.head) + inner);
        }
    }
}

// === impl Resource ===

impl Resource {
    /// Another piece of it lies there.
    fn add(&mut self, request: &[u8], at: Range<usize>) {
        let piece = request.get(at.clone()).unwrap_or_default();
        match self {
            Self::At((_, 0)) => *self = Self::At(span(&at)),
            Self::At((from, to)) => {
                let first = request.get(*from as usize..*to as usize).unwrap_or_default();
                *self = Self::Merged([first, piece].concat());
            }
            Self::Merged(bytes) => bytes.extend_from_slice(piece),
        }
    }
}

// === impl Bundle ===

impl Bundle {
    /// Adds spans of a request, whose places are in order. Neighbours stay under one resource and scope.
    pub fn add(&mut self, from: &Sheaf, spots: &[Spot]) {
        let runs = from.runs(spots);
        let mut more = 0;
        from.by_group(&runs, |_, _, len| more += wire::bytes_field_len(RESOURCE_SPANS, len));
        match self.request.is_empty() {
            // Most often the only one: not a byte more.
            true => self.request.reserve_exact(more),
            false => self.request.reserve(more),
        }
        let out = &mut self.request;
        from.by_group(&runs, |group, runs, len| {
            wire::put_tag(out, RESOURCE_SPANS, wire::WireType::Bytes);
            wire::put_varint(out, len as u64);
            group.head.iter().for_each(|head| out.extend_from_slice(from.slice(*head)));
            for run in runs {
                wire::put_tag(out, SCOPE_SPANS, wire::WireType::Bytes);
                wire::put_varint(out, run.len as u64);
                let head = from.scopes.get(run.scope).map(|scope| &scope.head[..]).unwrap_or_default();
                head.iter().for_each(|head| out.extend_from_slice(from.slice(*head)));
                for spot in run.spots {
                    out.extend_from_slice(from.slice((spot.at, spot.at + spot.len)));
                }
            }
        });
        self.spans += spots.len();
    }

    /// How large the request is by now.
    pub fn bytes(&self) -> usize {
        self.request.len()
    }

    /// How many spans are in it.
    pub fn spans(&self) -> usize {
        self.spans
    }

    /// The request.
    pub fn finish(self) -> Payload {
        Payload::from_validated(Signal::Traces, SmallVec::from_iter([self.request.into()]), self.spans)
    }
}

/// Deals the spans of a payload out to `parts` parts by their trace ids: each part as one payload, none where nothing
/// falls to it. What falls to one part as a whole is not copied; of what has no spans there is no part.
pub fn deal(payload: &Payload, parts: usize, part_of: impl Fn(&[u8]) -> usize) -> Vec<Option<Payload>> {
    let mut dealt: Vec<Vec<Payload>> = vec![Vec::new(); parts];
    for request in payload.requests() {
        let mut spots: Vec<Vec<Spot>> = vec![Vec::new(); parts];
        let mut spans = 0;
        let sheaf = Sheaf::read(request.clone(), |span, spot| {
            spans += 1;
            if let Some(spots) = spots.get_mut(part_of(span.trace_id())) {
                spots.push(spot);
            }
        });
        for (spots, dealt) in spots.iter().zip(&mut dealt).filter(|(spots, _)| !spots.is_empty()) {
            dealt.push(if spots.len() == spans {
                Payload::from_validated(Signal::Traces, SmallVec::from_iter([request.clone()]), spans)
            } else {
                let mut bundle = Bundle::default();
                bundle.add(&sheaf, spots);
                bundle.finish()
            });
        }
    }
    dealt.into_iter().map(Payload::concat).collect()
}

/// Calls `each` with the fields of the message at `range`: where each is, and where its value is if that is bytes.
#[inline(always)]
fn fields<'a>(
    bytes: &'a [u8],
    range: Range<usize>,
    mut each: impl FnMut(Field<'a>, Range<usize>, Range<usize>),
) {
    let mut at = range.start;
    while let Some(Ok((field, rest))) =
        bytes.get(at..range.end).filter(|rest| !rest.is_empty()).map(|rest| wire::read_field(rest, 0))
    {
        let end = range.end - rest.len();
        let body = end - field.bytes().unwrap_or_default().len()..end;
        each(field, at..end, body);
        at = end;
    }
}

fn span(range: &Range<usize>) -> Span {
    (range.start as u32, range.end as u32)
}

fn join(head: &mut Head, range: Range<usize>) {
    let (from, to) = span(&range);
    match head.last_mut() {
        Some(last) if last.1 == from => last.1 = to,
        _ => head.push((from, to)),
    }
}

fn total(head: &Head) -> usize {
    head.iter().map(|(from, to)| (to - from) as usize).sum()
}
