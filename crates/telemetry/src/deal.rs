//! Dealing a payload out: each of its items goes one of several ways, and each way gets a payload of its own.
//!
//! The first walk asks which way each item goes and adds up how long everything becomes on each way; the second writes
//! it, every byte once and with its length before it. Where all goes one way there is no second walk: a payload, or one
//! of its requests, is shared, and a group is copied in one piece.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::count::{items, live_arm};
use crate::message::Message;
use crate::retain::{Element, Place};
use crate::schema::{FieldShape, Kind, Rule};
use crate::split::header_fields;
use crate::view::{MetricView, PointView, ResourceGroup, ScopeGroup};
use crate::wire::{self, Field};
use crate::{Payload, Signal};

/// How finely a payload is dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Resource groups stay whole.
    Groups,
    /// Spans, metrics and log records stay whole.
    Items,
    /// As [`Items`](Self::Items), but metrics come apart into their data points.
    Points,
}

/// What goes one way, whole.
#[derive(Clone, Copy, Debug)]
pub enum Unit<'a> {
    /// A resource group, with all that is in it.
    Group(ResourceGroup<'a>),
    /// A span, metric, log record or data point.
    Item(Place<'a>, Element<'a>),
}

/// Deals a payload out over `ways` ways: `choose` is asked once about each unit, in order, and says which way it goes,
/// from 0; what lies beyond the last goes the last. Each way's payload in the order of the ways; those that get nothing
/// have none.
///
/// A group that comes apart is repeated on each of its ways with all it holds beside the items, unknown fields
/// included. What has no unit in it is left out of what comes apart.
pub fn deal<'a>(
    payload: &'a Payload,
    grain: Grain,
    ways: usize,
    choose: impl FnMut(Unit<'a>) -> usize,
) -> SmallVec<[(usize, Payload); 1]> {
    let ways = ways.max(1);
    let (signal, kind) = (payload.signal(), Kind::request(payload.signal()));
    let mut dealer = Dealer { signal, grain, choose, plan: Plan::new(ways), items: vec![0; ways] };
    let measured = payload.requests().iter().map(|request| {
        let (_, goes) = dealer.measure(kind, Message::new(request), Within::Request);
        goes
    });
    let way = match measured.fold(Goes::Nowhere, Goes::and) {
        Goes::Nowhere => 0,
        Goes::One(way) => way,
        Goes::Many => return Writer::new(dealer.plan, grain).write(payload, dealer.items),
    };
    [(way, payload.clone())].into_iter().collect()
}

/// Where something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    /// There is nothing in it.
    Nowhere,
    One(usize),
    Many,
}

/// A container, in the order in which they are entered.
#[derive(Debug)]
struct Node {
    goes: Goes,
    /// How many nodes and choices there are before what follows it.
    end: (usize, usize),
}

/// What the first walk found out.
#[derive(Debug)]
struct Plan {
    ways: usize,
    nodes: Vec<Node>,
    /// What each node becomes in bytes on each way, without tag and length.
    sizes: Vec<usize>,
    /// The way of each unit.
    choices: Vec<usize>,
}

/// What a container lies in.
#[derive(Clone, Copy)]
enum Within<'a> {
    Request,
    Group(ResourceGroup<'a>),
    Scope(Place<'a>),
    Metric(Place<'a>, MetricView<'a>),
}

struct Dealer<F> {
    signal: Signal,
    grain: Grain,
    choose: F,
    plan: Plan,
    /// Spans, data points or log records on each way.
    items: Vec<usize>,
}

// === impl Grain ===

impl Grain {
    /// Whether a message of this kind, on the way to the items, stays whole.
    fn keeps(self, kind: Kind) -> bool {
        match kind {
            Kind::ResourceSpans | Kind::ResourceMetrics | Kind::ResourceLogs => self == Self::Groups,
            Kind::ScopeSpans | Kind::ScopeMetrics | Kind::ScopeLogs => false,
            Kind::Metric => self != Self::Points,
            _ => true,
        }
    }
}

// === impl Goes ===

impl Goes {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nowhere, goes) | (goes, Self::Nowhere) => goes,
            (one, other) if one == other => one,
            _ => Self::Many,
        }
    }
}

// === impl Plan ===

impl Plan {
    fn new(ways: usize) -> Self {
        Self { ways, nodes: Vec::new(), sizes: Vec::new(), choices: Vec::new() }
    }

    fn sizes(&mut self, node: usize) -> &mut [usize] {
        let start = node * self.ways;
        self.sizes.get_mut(start..start + self.ways).unwrap_or_default()
    }

    fn size(&self, node: usize, way: usize) -> usize {
        self.sizes.get(node * self.ways + way).copied().unwrap_or_default()
    }
}

// === impl Dealer ===

impl<'a, F: FnMut(Unit<'a>) -> usize> Dealer<F> {
    /// Finds out where the elements of a container go, and gives it a node.
    fn measure(&mut self, kind: Kind, message: Message<'a>, within: Within<'a>) -> (usize, Goes) {
        let node = self.plan.nodes.len();
        self.plan.nodes.push(Node { goes: Goes::Nowhere, end: (0, 0) });
        self.plan.sizes.resize((node + 1) * self.plan.ways, 0);
        let mut goes = Goes::Nowhere;
        if let Some((number, kind, arm)) = live_arm(kind, message) {
            // What it takes where it goes one way is never asked: the metric goes the same way then.
            goes = self.container(node, number, 0, (kind, arm), within);
        } else if let Some(list) = kind.list() {
            for field in elements(message, list) {
                goes = goes.and(self.element(node, list, &field, within));
            }
        }
        if goes == Goes::Many {
            let header: usize = header_fields(kind, message).map(|field| field.raw.len()).sum();
            let used = self.plan.sizes(node).iter_mut().filter(|size| **size > 0);
            used.for_each(|size| *size += header);
        }
        let end = (self.plan.nodes.len(), self.plan.choices.len());
        self.plan.nodes[node] = Node { goes, end };
        (node, goes)
    }

    /// Measures a container that lies in that of `node`, where it takes `whole` bytes if it stays in one piece.
    fn container(
        &mut self,
        node: usize,
        number: u32,
        whole: usize,
        (kind, message): (Kind, Message<'a>),
        within: Within<'a>,
    ) -> Goes {
        let (inner, goes) = self.measure(kind, message, within);
        for way in 0..self.plan.ways {
            let size = match (goes, self.plan.size(inner, way)) {
                (Goes::One(only), _) if only == way => whole,
                (Goes::Many, 1..) => wire::bytes_field_len(number, self.plan.size(inner, way)),
                _ => continue,
            };
            self.plan.sizes(node)[way] += size;
        }
        goes
    }

    fn element(&mut self, node: usize, list: FieldShape, field: &Field<'a>, within: Within<'a>) -> Goes {
        let message = Message::new(field.bytes().unwrap_or_default());
        let Some(kind) = list.rule.kind() else { return Goes::Nowhere };
        let (unit, inside) = match within {
            Within::Request => {
                let group = ResourceGroup::new(self.signal, message);
                (Some(Unit::Group(group)), Within::Group(group))
            }
            Within::Group(group) => {
                (None, Within::Scope(Place { group, scope: ScopeGroup::new(self.signal, message) }))
            }
            Within::Scope(place) => {
                let element = match kind {
                    Kind::Span => Element::Span(message.into()),
                    Kind::Metric => Element::Metric(message.into()),
                    _ => Element::LogRecord(message.into()),
                };
                (Some(Unit::Item(place, element)), Within::Metric(place, message.into()))
            }
            Within::Metric(place, metric) => {
                let point = PointView::new(kind, message).map(|point| Element::DataPoint(metric, point));
                (point.map(|point| Unit::Item(place, point)), within)
            }
        };
        let Some(unit) = unit.filter(|_| self.grain.keeps(kind)) else {
            return self.container(node, list.number, field.raw.len(), (kind, message), inside);
        };
        let way = (self.choose)(unit).min(self.plan.ways - 1);
        self.plan.choices.push(way);
        self.items[way] += if matches!(list.rule, Rule::Item(_)) { 1 } else { items(kind, message) };
        self.plan.sizes(node)[way] += field.raw.len();
        Goes::One(way)
    }
}

/// The elements of a container.
fn elements<'a>(message: Message<'a>, list: FieldShape) -> impl Iterator<Item = Field<'a>> {
    message.fields().filter(move |field| field.number == list.number)
}

/// The second walk.
struct Writer {
    plan: Plan,
    grain: Grain,
    /// What is next in the plan.
    node: usize,
    choice: usize,
    out: Vec<Out>,
}

/// What is written for one way.
#[derive(Default)]
struct Out {
    requests: SmallVec<[Bytes; 1]>,
    fresh: Vec<u8>,
}

// === impl Writer ===

impl Writer {
    fn new(plan: Plan, grain: Grain) -> Self {
        let out = (0..plan.ways).map(|_| Out::default()).collect();
        Self { plan, grain, node: 0, choice: 0, out }
    }

    fn write(mut self, payload: &Payload, items: Vec<usize>) -> SmallVec<[(usize, Payload); 1]> {
        let kind = Kind::request(payload.signal());
        for request in payload.requests() {
            match self.goes() {
                Goes::Many => {
                    for (way, out) in self.out.iter_mut().enumerate() {
                        out.fresh.reserve_exact(self.plan.size(self.node, way));
                    }
                    self.inside(kind, Message::new(request));
                }
                Goes::One(way) => {
                    self.out[way].share(request.clone());
                    self.skip();
                }
                Goes::Nowhere => self.skip(),
            }
        }
        let parts = self.out.into_iter().map(Out::finish).zip(items).enumerate();
        let parts = parts.filter(|(_, (requests, _))| !requests.is_empty());
        let part = |(requests, items)| Payload::from_validated(payload.signal(), requests, items);
        parts.map(|(way, written)| (way, part(written))).collect()
    }

    /// Where the next container goes.
    fn goes(&self) -> Goes {
        self.plan.nodes.get(self.node).map_or(Goes::Nowhere, |node| node.goes)
    }

    /// Goes on behind the next container.
    fn skip(&mut self) {
        if let Some(node) = self.plan.nodes.get(self.node) {
            (self.node, self.choice) = node.end;
        }
    }

    /// Writes what is in a container that comes apart.
    fn inside(&mut self, kind: Kind, message: Message<'_>) {
        let node = self.node;
        self.node += 1;
        for field in header_fields(kind, message) {
            for (way, out) in self.out.iter_mut().enumerate() {
                if self.plan.size(node, way) > 0 {
                    out.fresh.extend_from_slice(field.raw);
                }
            }
        }
        if let Some((number, kind, arm)) = live_arm(kind, message) {
            return self.container(number, kind, arm);
        }
        let Some(list) = kind.list() else { return };
        let Some(inner) = list.rule.kind() else { return };
        for field in elements(message, list) {
            if self.grain.keeps(inner) {
                let way = self.plan.choices.get(self.choice).copied().unwrap_or_default();
                self.choice += 1;
                self.out[way].fresh.extend_from_slice(field.raw);
                continue;
            }
            match self.goes() {
                Goes::Many => {
                    self.container(list.number, inner, Message::new(field.bytes().unwrap_or_default()));
                }
                Goes::One(way) => {
                    self.out[way].fresh.extend_from_slice(field.raw);
                    self.skip();
                }
                Goes::Nowhere => self.skip(),
            }
        }
    }

    /// Writes a container that comes apart, with tag and length on each of its ways.
    fn container(&mut self, number: u32, kind: Kind, message: Message<'_>) {
        for (way, out) in self.out.iter_mut().enumerate() {
            let size = self.plan.size(self.node, way);
            if size > 0 {
                wire::put_tag(&mut out.fresh, number, wire::WireType::Bytes);
                wire::put_varint(&mut out.fresh, size as u64);
            }
        }
        self.inside(kind, message);
    }
}

// === impl Out ===

impl Out {
    fn share(&mut self, request: Bytes) {
        self.close();
        self.requests.push(request);
    }

    fn close(&mut self) {
        if !self.fresh.is_empty() {
            self.requests.push(Bytes::from(std::mem::take(&mut self.fresh)));
        }
    }

    fn finish(mut self) -> SmallVec<[Bytes; 1]> {
        self.close();
        self.requests
    }
}
