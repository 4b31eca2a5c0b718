//! Spans on their way into one request: grouped by service and scope, and laid out when all are there.
//!
//! Spans are written one behind the other, as the elements of a `ScopeSpans`. Most requests are of one service and one
//! scope, and then what comes before them finds a place that was left in front. Otherwise one more pass copies each run
//! of spans to where it belongs.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use watershed_telemetry::wire::{WireType, bytes_field_len, put_bytes_field, put_tag, put_varint};

use crate::names;
use crate::otlp::{self, Special};
use crate::span::{Span, Text};
use crate::wire::put_text_attribute;
use watershed_telemetry::build::{NoRoom, Room};

/// Takes spans, gives the `ExportTraceServiceRequest` of them.
pub(crate) struct Sink<'a, 'r> {
    room: Room<'r>,
    parse_string_tags: bool,
    out: Vec<u8>,
    /// Ordered by service, so that its scopes lie together.
    groups: BTreeMap<Group<'a>, usize>,
    last: Option<Group<'a>>,
    runs: Vec<Run>,
    /// The most that was held beside a span.
    beside: usize,
}

/// What spans are grouped by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group<'a> {
    service: Text<'a>,
    scope: Text<'a>,
    version: Text<'a>,
}

/// Spans of one group that came one after the other.
struct Run {
    group: usize,
    end: usize,
}

/// A `ScopeSpans` but for its spans.
struct Scope {
    group: usize,
    head: Vec<u8>,
    /// With its spans.
    length: usize,
}

impl<'a, 'r> Sink<'a, 'r> {
    /// `capacity` is what the request will about take, in bytes.
    pub(crate) fn new(mut room: Room<'r>, capacity: usize, parse_string_tags: bool) -> Result<Self, NoRoom> {
        let mut out = Vec::new();
        room.reserve(&mut out, capacity)?;
        let (groups, runs) = (BTreeMap::new(), Vec::new());
        Ok(Self { room, parse_string_tags, out, groups, last: None, runs, beside: 0 })
    }

    /// Adds to what is held of a span.
    #[inline]
    pub(crate) fn keep<T>(&mut self, list: &mut Vec<T>, element: T) -> Result<(), NoRoom> {
        self.room.reserve(list, 1)?;
        list.push(element);
        Ok(())
    }

    /// Asks for the memory of what is held beside one span, and given back before the next.
    pub(crate) fn beside(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.room.take(bytes.saturating_sub(self.beside))?;
        self.beside = self.beside.max(bytes);
        Ok(())
    }

    /// Adds a span.
    pub(crate) fn push(&mut self, span: &Span<'a>) -> Result<(), NoRoom> {
        let special = Special::of(span);
        let (scope, version) = special.scope();
        let is_of = |group: &Group<'_>| {
            group.service == span.local.service_name && *group.scope == *scope && *group.version == *version
        };
        if !self.last.as_ref().is_some_and(is_of) {
            let group = Group {
                service: span.local.service_name.clone(),
                scope: special.scope.cloned().unwrap_or_default(),
                version: special.version.cloned().unwrap_or_default(),
            };
            self.start(group)?;
        }
        self.room.reserve(&mut self.out, special.bound)?;
        otlp::put_span(&mut self.out, span, &special, self.parse_string_tags);
        if let Some(run) = self.runs.last_mut() {
            run.end = self.out.len();
        }
        Ok(())
    }

    /// Starts a run of spans of another group.
    #[cold]
    fn start(&mut self, group: Group<'a>) -> Result<(), NoRoom> {
        if self.groups.is_empty() {
            let place = group.place();
            self.room.reserve(&mut self.out, place)?;
            self.out.resize(place, 0);
        }
        let next = self.groups.len();
        let index = match self.groups.get(&group) {
            Some(index) => *index,
            None => {
                // A tree's node is at least half full; and there will be a head.
                self.room.take(2 * size_of::<(Group<'_>, usize)>() + size_of::<Scope>() + group.place())?;
                self.groups.insert(group.clone(), next);
                next
            }
        };
        self.last = Some(group);
        self.room.reserve(&mut self.runs, 1)?;
        self.runs.push(Run { group: index, end: self.out.len() });
        Ok(())
    }

    /// The request.
    pub(crate) fn finish(mut self) -> Result<Bytes, NoRoom> {
        let Some(place) = self.groups.keys().next().filter(|_| self.groups.len() == 1).map(Group::place)
        else {
            return self.assemble();
        };
        let heads = self.heads(&[self.out.len() - place]);
        let head = heads.iter().flat_map(|(head, scopes)| {
            std::iter::once(head.as_slice()).chain(scopes.iter().map(|scope| scope.head.as_slice()))
        });
        let head = head.collect::<Vec<_>>().concat();
        let from = place - head.len();
        if let Some(place) = self.out.get_mut(from..place) {
            place.copy_from_slice(&head);
        }
        self.out.shrink_to_fit();
        Ok(Bytes::from(self.out).slice(from..))
    }

    fn assemble(mut self) -> Result<Bytes, NoRoom> {
        let first = match self.groups.iter().find(|(_, index)| **index == 0) {
            Some((group, _)) => group.place(),
            None => return Ok(Bytes::new()),
        };
        let mut sizes = vec![0; self.groups.len()];
        for (group, span) in self.pieces(first) {
            if let Some(size) = sizes.get_mut(group) {
                *size += span.len();
            }
        }
        let heads = self.heads(&sizes);
        let of = |(head, scopes): &(Vec<u8>, Vec<Scope>)| {
            head.len() + scopes.iter().map(|scope| scope.length).sum::<usize>()
        };
        let total = heads.iter().map(of).sum();
        let mut request = Vec::new();
        self.room.reserve(&mut request, total)?;
        // Where the next spans of each group go.
        let mut places = vec![0; self.groups.len()];
        for (head, scopes) in &heads {
            request.extend_from_slice(head);
            for scope in scopes {
                request.extend_from_slice(&scope.head);
                if let (Some(place), Some(size)) = (places.get_mut(scope.group), sizes.get(scope.group)) {
                    *place = request.len();
                    request.resize(request.len() + size, 0);
                }
            }
        }
        for (group, span) in self.pieces(first) {
            let Some(place) = places.get_mut(group) else { continue };
            if let (Some(to), Some(from)) =
                (request.get_mut(*place..*place + span.len()), self.out.get(span.clone()))
            {
                to.copy_from_slice(from);
            }
            *place += span.len();
        }
        Ok(request.into())
    }

    /// The runs: of which group, and where.
    fn pieces(&self, first: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.runs.iter().scan(first, |start, run| {
            let piece = *start..run.end;
            *start = run.end;
            Some((run.group, piece))
        })
    }

    /// For each service what comes before its scopes, and its scopes; `sizes` says what the spans of each group take.
    fn heads(&self, sizes: &[usize]) -> Vec<(Vec<u8>, Vec<Scope>)> {
        let mut heads = Vec::new();
        let mut groups = self.groups.iter().peekable();
        while let Some((first, _)) = groups.peek().copied() {
            let mut scopes = Vec::new();
            while let Some((group, index)) = groups.next_if(|(group, _)| group.service == first.service) {
                scopes.push(Scope::new(group, *index, sizes.get(*index).copied().unwrap_or_default()));
            }
            let mut resource = Vec::new();
            if !first.service.is_empty() {
                let mut attribute = Vec::new();
                put_text_attribute(&mut attribute, 1, names::SERVICE_NAME.as_bytes(), &first.service);
                put_bytes_field(&mut resource, 1, &attribute);
            }
            let length = resource.len() + scopes.iter().map(|scope| scope.length).sum::<usize>();
            let mut head = Vec::new();
            put_tag(&mut head, 1, WireType::Bytes);
            put_varint(&mut head, length as u64);
            head.extend_from_slice(&resource);
            heads.push((head, scopes));
        }
        heads
    }
}

impl Group<'_> {
    /// More than what comes before spans of this group alone takes.
    fn place(&self) -> usize {
        self.service.len() + self.scope.len() + self.version.len() + 128
    }
}

impl Scope {
    /// Of a group whose spans take `size` bytes.
    fn new(group: &Group<'_>, index: usize, size: usize) -> Self {
        let mut scope = Vec::new();
        if !group.scope.is_empty() {
            put_bytes_field(&mut scope, 1, &group.scope);
        }
        if !group.version.is_empty() {
            put_bytes_field(&mut scope, 2, &group.version);
        }
        let inner = if scope.is_empty() { 0 } else { bytes_field_len(1, scope.len()) };
        let mut head = Vec::new();
        put_tag(&mut head, 2, WireType::Bytes);
        put_varint(&mut head, (inner + size) as u64);
        if !scope.is_empty() {
            put_bytes_field(&mut head, 1, &scope);
        }
        Self { group: index, length: head.len() + size, head }
    }
}
