//! Taking items out of requests, on the wire.
//!
//! What is left is copied as it lies, in one piece between two holes. A metric, scope group, resource group or
//! request of which something was taken and nothing is left goes, too; one that came empty stays.

use std::ops::Range;

use smallvec::SmallVec;

use crate::count;
use crate::edit::AttributeValue;
use crate::message::Message;
use crate::rewrite::{Located, Rewrite};
use crate::schema::{Kind, Rule};
use crate::view::{EventView, LogRecordView, MetricView, PointView, ResourceGroup, ScopeGroup, SpanView};
use crate::wire;
use crate::{Payload, Signal};

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub enum Element<'a> {
    /// A span.
    Span(SpanView<'a>),
    /// An event of a span.
    SpanEvent(SpanView<'a>, EventView<'a>),
    /// A metric.
    Metric(MetricView<'a>),
    /// A data point of a metric.
    DataPoint(MetricView<'a>, PointView<'a>),
    /// A log record.
    LogRecord(LogRecordView<'a>),
}

/// Where an element stands.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The resource group around it.
    pub group: ResourceGroup<'a>,
    /// The scope group around it.
    pub scope: ScopeGroup<'a>,
}

/// What becomes of an element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It stays as it is.
    Keep,
    /// It goes.
    Drop,
    /// It stays, and the events of a span, or the data points of a metric, are judged in turn.
    Enter,
    /// It stays, changed as the [`ItemEdit`] says. Only for spans and log records.
    Edit,
}

/// Changes of one span or log record, made with [`Verdict::Edit`].
#[derive(Default, Debug)]
pub struct ItemEdit {
    trace_state: String,
    sets_trace_state: bool,
    attributes: SmallVec<[(&'static str, AttributeValue); 2]>,
}

impl ItemEdit {
    /// The new `trace_state` of a span: an empty text to append to.
    pub fn trace_state(&mut self) -> &mut String {
        self.sets_trace_state = true;
        self.trace_state.clear();
        &mut self.trace_state
    }

    /// Sets an attribute, or adds it.
    pub fn set_attribute(&mut self, key: &'static str, value: impl Into<AttributeValue>) {
        match self.attributes.iter_mut().find(|(set, _)| *set == key) {
            Some((_, set)) => *set = value.into(),
            None => self.attributes.push((key, value.into())),
        }
    }

    fn clear(&mut self) {
        self.sets_trace_state = false;
        self.attributes.clear();
    }

    /// The first occurrence of what is set gets the value and later ones go, so that all readers see the same.
    fn write(&mut self, rewrite: &mut Rewrite<'_>, kind: Kind, range: Range<usize>) {
        let mut written: SmallVec<[bool; 4]> = SmallVec::from_elem(false, self.attributes.len());
        let mut owes_trace_state = self.sets_trace_state && kind == Kind::Span;
        for Located { field, whole, .. } in rewrite.fields(range.clone()) {
            if field.number == TRACE_STATE && self.sets_trace_state && kind == Kind::Span {
                match std::mem::take(&mut owes_trace_state) {
                    true => rewrite.set(whole, |out| put_text(out, &self.trace_state)),
                    false => rewrite.remove(whole),
                }
            } else if Some(field.number) == kind.attributes()
                && let key = Message::new(field.bytes().unwrap_or_default()).bytes(KEY)
                && let Some(index) = self.attributes.iter().position(|(set, _)| set.as_bytes() == key)
                && let (Some((key, value)), Some(written)) =
                    (self.attributes.get(index), written.get_mut(index))
            {
                match std::mem::replace(written, true) {
                    false => rewrite.set(whole, |out| put_attribute(out, field.number, key, value)),
                    true => rewrite.remove(whole),
                }
            }
        }
        let end = range.end..range.end;
        if owes_trace_state && !self.trace_state.is_empty() {
            rewrite.replace(end.clone(), |out| put_text(out, &self.trace_state));
        }
        let number = kind.attributes().unwrap_or_default();
        let missing = self.attributes.iter().zip(written).filter(|(_, written)| !written);
        missing.for_each(|((key, value), _)| {
            rewrite.replace(end.clone(), |out| put_attribute(out, number, key, value));
        });
    }
}

// `Span`.
const TRACE_STATE: u32 = 3;
const EVENTS: u32 = 11;

// `KeyValue`.
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// An empty text is an absent one.
fn put_text(out: &mut Vec<u8>, text: &str) {
    if !text.is_empty() {
        wire::put_bytes_field(out, TRACE_STATE, text.as_bytes());
    }
}

fn put_attribute(out: &mut Vec<u8>, number: u32, key: &str, value: &AttributeValue) {
    let value = value.as_wire();
    let size = wire::bytes_field_len(KEY, key.len()) + wire::bytes_field_len(VALUE, value.len());
    wire::put_tag(out, number, wire::WireType::Bytes);
    wire::put_varint(out, size as u64);
    wire::put_bytes_field(out, KEY, key.as_bytes());
    wire::put_bytes_field(out, VALUE, value);
}

/// The payload without what `judge` drops, and with its edits made. `judge` is asked about every span, metric or
/// log record in order. A request in which nothing changes keeps its very bytes; one of which nothing is left is
/// no more, and if that is so of all, the payload is empty.
pub fn retain<'a>(
    payload: &'a Payload,
    judge: impl FnMut(&Place<'a>, Element<'a>, &mut ItemEdit) -> Verdict,
) -> Payload {
    let mut sieve = Sieve { signal: payload.signal(), judge, edit: ItemEdit::default(), items: 0 };
    let sift = |request: &'a bytes::Bytes| {
        let mut rewrite = Rewrite::new(request);
        let stays = sieve.request(&mut rewrite, 0..request.len());
        stays.then(|| rewrite.finish().unwrap_or_else(|| request.clone()))
    };
    let requests = payload.requests().iter().filter_map(sift).collect();
    Payload::from_validated(payload.signal(), requests, sieve.items)
}

/// The items of these numbers, which rise: spans, data points or log records, counted over all requests.
pub fn only(payload: &Payload, which: &[u32]) -> Payload {
    let (mut item, mut which) = (0u32, which.iter().copied().peekable());
    retain(payload, |_, element, _| {
        if let Element::Metric(_) = element {
            return Verdict::Enter;
        }
        let stays = which.next_if_eq(&item).is_some();
        item += 1;
        if stays { Verdict::Keep } else { Verdict::Drop }
    })
}

struct Sieve<F> {
    signal: Signal,
    judge: F,
    edit: ItemEdit,
    /// Spans, data points or log records that stay.
    items: usize,
}

// Each method says whether what lies at `range` stays.
impl<'a, F: FnMut(&Place<'a>, Element<'a>, &mut ItemEdit) -> Verdict> Sieve<F> {
    fn request(&mut self, rewrite: &mut Rewrite<'a>, range: Range<usize>) -> bool {
        let kind = Kind::request(self.signal);
        list(rewrite, kind, range, |rewrite, kind, field| {
            let group = ResourceGroup::new(self.signal, message(field));
            inside(rewrite, field, |rewrite, range| {
                list(rewrite, kind, range, |rewrite, kind, field| {
                    let place = Place { group, scope: ScopeGroup::new(self.signal, message(field)) };
                    inside(rewrite, field, |rewrite, range| {
                        list(rewrite, kind, range, |rewrite, kind, field| {
                            self.item(rewrite, &place, kind, field)
                        })
                    })
                })
            })
        })
    }

    /// A span, metric or log record.
    fn item(
        &mut self,
        rewrite: &mut Rewrite<'a>,
        place: &Place<'a>,
        kind: Kind,
        field: &Located<'a>,
    ) -> bool {
        let message = message(field);
        let element = match kind {
            Kind::Span => Element::Span(message.into()),
            Kind::Metric => Element::Metric(message.into()),
            _ => Element::LogRecord(message.into()),
        };
        self.edit.clear();
        let verdict = (self.judge)(place, element, &mut self.edit);
        if verdict == Verdict::Drop {
            return false;
        }
        if let Element::Metric(metric) = element {
            if verdict == Verdict::Enter {
                return inside(rewrite, field, |rewrite, range| self.points(rewrite, place, metric, range));
            }
            self.items += count::items(kind, message);
            return true;
        }
        self.items += 1;
        match (verdict, element) {
            (Verdict::Edit, _) => {
                rewrite.inside(field, |rewrite| self.edit.write(rewrite, kind, field.body.clone()));
            }
            (Verdict::Enter, Element::Span(span)) => {
                rewrite.inside(field, |rewrite| self.events(rewrite, place, span, field.body.clone()));
            }
            _ => {}
        }
        true
    }

    /// The events of the span at `range`.
    fn events(
        &mut self,
        rewrite: &mut Rewrite<'a>,
        place: &Place<'a>,
        span: SpanView<'a>,
        range: Range<usize>,
    ) {
        for field in rewrite.fields(range).filter(|located| located.field.number == EVENTS) {
            let event = Element::SpanEvent(span, message(&field).into());
            if (self.judge)(place, event, &mut self.edit) == Verdict::Drop {
                rewrite.remove(field.whole);
            }
        }
    }

    /// The data points of the metric at `range`.
    fn points(
        &mut self,
        rewrite: &mut Rewrite<'a>,
        place: &Place<'a>,
        metric: MetricView<'a>,
        range: Range<usize>,
    ) -> bool {
        let mut tally = Tally::default();
        for field in live_arm(rewrite, range) {
            let Some(kind) = Kind::Metric.rule(field.field.number).kind() else { continue };
            rewrite.inside(&field, |rewrite| {
                tally.list(rewrite, kind, field.body.clone(), |_, kind, field| {
                    let point = PointView::new(kind, message(field));
                    let goes = point.is_some_and(|point| {
                        let point = Element::DataPoint(metric, point);
                        (self.judge)(place, point, &mut self.edit) == Verdict::Drop
                    });
                    self.items += usize::from(!goes);
                    !goes
                });
            });
        }
        tally.stays()
    }
}

fn message<'a>(field: &Located<'a>) -> Message<'a> {
    Message::new(field.field.bytes().unwrap_or_default())
}

/// The occurrences of the arm of a metric that holds: all of the last one's kind since another kind held.
fn live_arm<'a>(rewrite: &Rewrite<'a>, range: Range<usize>) -> SmallVec<[Located<'a>; 1]> {
    let mut live: SmallVec<[Located<'a>; 1]> = SmallVec::new();
    for field in rewrite.fields(range) {
        if matches!(Kind::Metric.rule(field.field.number), Rule::Arm(_)) {
            live.retain(|earlier| earlier.field.number == field.field.number);
            live.push(field);
        }
    }
    live
}

/// Looks into a container, and says whether it stays.
fn inside<'a>(
    rewrite: &mut Rewrite<'a>,
    field: &Located<'a>,
    look: impl FnOnce(&mut Rewrite<'a>, Range<usize>) -> bool,
) -> bool {
    let mut stays = true;
    rewrite.inside(field, |rewrite| stays = look(rewrite, field.body.clone()));
    stays
}

/// Whether anything was taken from a container, and whether anything is left in it.
#[derive(Default)]
struct Tally {
    taken: bool,
    left: bool,
}

impl Tally {
    fn stays(&self) -> bool {
        self.left || !self.taken
    }

    /// Judges the elements of the list of the message of that kind at `range`, and takes out what does not stay.
    fn list<'a>(
        &mut self,
        rewrite: &mut Rewrite<'a>,
        kind: Kind,
        range: Range<usize>,
        mut stays: impl FnMut(&mut Rewrite<'a>, Kind, &Located<'a>) -> bool,
    ) {
        let Some(list) = kind.list() else { return };
        let Some(kind) = list.rule.kind() else { return };
        for field in rewrite.fields(range).filter(|located| located.field.number == list.number) {
            if stays(rewrite, kind, &field) {
                self.left = true;
            } else {
                self.taken = true;
                rewrite.remove(field.whole);
            }
        }
    }
}

/// As [`Tally::list`]; whether the message with the list stays.
fn list<'a>(
    rewrite: &mut Rewrite<'a>,
    kind: Kind,
    range: Range<usize>,
    stays: impl FnMut(&mut Rewrite<'a>, Kind, &Located<'a>) -> bool,
) -> bool {
    let mut tally = Tally::default();
    tally.list(rewrite, kind, range, stays);
    tally.stays()
}
