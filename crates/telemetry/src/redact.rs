//! Redaction, on the wire: a walk over every place that may hold what must not leave, with a [`Policy`] to judge.
//!
//! The places are attributes of every kind (resource, scope, item, span event, link, exemplar, metric metadata),
//! log bodies, both into arrays and maps, and the texts of spans, events, links, statuses and log records. Wherever
//! protobuf lets a later field supersede an earlier one, both are judged: what no reader sees is sent on, too.

mod summary;

use std::borrow::Cow;
use std::ops::Range;

use crate::Payload;
use crate::message::Message;
use crate::rewrite::{Located, Rewrite};
use crate::schema::{Kind, Rule};
use crate::view::{AnyValueView, Value};
use crate::wire;
use summary::{Class, Tally};

pub use summary::Summary;

/// Where an entry stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// It is an attribute.
    Attribute,
    /// It is an entry of a map inside an attribute.
    Nested,
    /// It is an entry of a map in a log body, at any depth.
    Body,
}

/// What becomes of an entry, by its key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fate {
    /// It stays, and is not looked into.
    Ignored,
    /// It goes.
    Deleted,
    /// Its value is replaced, whatever it is.
    Blocked,
    /// Its key and value are judged as texts.
    Judged,
}

/// What becomes of a text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Verdict {
    /// It stays.
    Clean,
    /// It stays, by a rule that says so.
    Allowed,
    /// It becomes this.
    Replaced(String),
    /// The entry it is in goes. Where it is in none, it becomes this.
    Deleted(String),
}

/// What is to be redacted, and how.
pub trait Policy {
    /// What becomes of an entry of that key.
    fn entry(&self, key: &str, place: Place) -> Fate;

    /// What a [blocked](Fate::Blocked) value becomes. `value` is the text of strings, the decimal digits of
    /// integers, the very bytes of bytes and the wire encoding of anything else.
    fn blocked(&self, value: &[u8]) -> String;

    /// What becomes of a text, which is found under `key`: the next one above it, empty where there is none. Keys
    /// are judged as texts without a key.
    fn text(&self, text: &str, key: &str) -> Verdict;

    /// Whether booleans and doubles are judged by their text, as integers always are.
    fn all_types(&self) -> bool;

    /// What is told of the changes in the attributes next to them.
    fn summary(&self) -> Summary;
}

/// The payload as the policy wants it. A request in which nothing changes keeps its very bytes.
pub fn redact(policy: &impl Policy, payload: &Payload) -> Payload {
    let kind = Kind::request(payload.signal());
    let requests = payload.requests().iter().map(|request| {
        let mut rewrite = Rewrite::new(request);
        Walk(policy).message(&mut rewrite, kind, 0..request.len());
        rewrite.finish().unwrap_or_else(|| request.clone())
    });
    Payload::from_validated(payload.signal(), requests.collect(), payload.items())
}

struct Walk<'p, P>(&'p P);

/// What happened to an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Kept,
    Told(Class),
}

/// What was found below an entry, or in a body.
#[derive(Default)]
struct Seen {
    masked: bool,
    allowed: bool,
    /// The entry must go.
    doomed: bool,
}

// `KeyValue`.
const KEY: u32 = 1;
const VALUE: u32 = 2;
// `AnyValue`.
const STRING: u32 = 1;
const BOOL: u32 = 2;
const INT: u32 = 3;
const DOUBLE: u32 = 4;
const ARRAY: u32 = 5;
const KVLIST: u32 = 6;
const BYTES: u32 = 7;
/// The elements of `ArrayValue` and `KeyValueList`.
const VALUES: u32 = 1;

// === impl Walk ===

impl<P: Policy> Walk<'_, P> {
    fn message<'a>(&self, rewrite: &mut Rewrite<'a>, kind: Kind, range: Range<usize>) {
        let mut tally = Tally::default();
        let mut body = Tally::default();
        let is_told = self.0.summary() != Summary::Silent && kind.attributes().is_some();
        for field in rewrite.fields(range.clone()) {
            match rule(kind, &field) {
                Rule::Attributes | Rule::Messages(Kind::KeyValue) => {
                    let key = key(&field);
                    // What an earlier processor told is told again at the end, with what is added here.
                    if is_told && (tally.absorb("", key, &field) || body.absorb("body.", key, &field)) {
                        rewrite.replace(field.whole, |_| {});
                        continue;
                    }
                    let outcome = self.entry(rewrite, &field, key, Place::Attribute, &mut body);
                    tally.add(outcome, key);
                }
                Rule::Message(Kind::AnyValue) => self.body(rewrite, &field, &mut body),
                Rule::Text if is_judged(kind) => self.plain(rewrite, &field),
                rule => {
                    if let Some(kind) = rule.kind() {
                        rewrite.inside(&field, |rewrite| self.message(rewrite, kind, field.body.clone()));
                    }
                }
            }
        }
        if is_told && let Some(number) = kind.attributes() {
            for (tally, part) in [(tally, ""), (body, "body.")] {
                tally.write(self.0.summary(), part, |key| self.safe(key), &mut |attribute| {
                    rewrite
                        .replace(range.end..range.end, |out| wire::put_bytes_field(out, number, attribute));
                });
            }
        }
    }

    fn entry<'a>(
        &self,
        rewrite: &mut Rewrite<'a>,
        field: &Located<'a>,
        key: &'a str,
        place: Place,
        body: &mut Tally<'a>,
    ) -> Outcome {
        let fate = self.0.entry(key, place);
        let mut seen = Seen::default();
        let mark = rewrite.mark();
        match fate {
            Fate::Ignored => return Outcome::Told(Class::Ignored),
            Fate::Deleted => seen.doomed = true,
            Fate::Blocked | Fate::Judged => rewrite.inside(field, |rewrite| {
                let mut blocked = (fate == Fate::Blocked).then(|| self.blocked(field));
                for part in rewrite.fields(field.body.clone()) {
                    match (part.field.number, blocked.is_some()) {
                        (KEY, _) => self.text(rewrite, &part, KEY, "", &mut seen),
                        (VALUE, false) => rewrite.inside(&part, |rewrite| {
                            self.value(rewrite, part.body.clone(), key, place, &mut seen, body);
                        }),
                        // All pieces of the value become one, by way of the first.
                        (VALUE, true) => {
                            seen.masked = true;
                            let value = blocked.replace(Vec::new()).unwrap_or_default();
                            rewrite.replace(part.whole, |out| out.extend_from_slice(&value));
                        }
                        _ => {}
                    }
                }
            }),
        }
        if seen.doomed {
            rewrite.undo(mark);
            rewrite.replace(field.whole.clone(), |_| {});
            return Outcome::Told(Class::Redacted);
        }
        match seen {
            Seen { masked: true, .. } => Outcome::Told(Class::Masked),
            Seen { allowed: true, .. } => Outcome::Told(Class::Allowed),
            _ => Outcome::Kept,
        }
    }

    /// The value field of a blocked entry.
    fn blocked(&self, field: &Located<'_>) -> Vec<u8> {
        let entry = Message::new(field.field.bytes().unwrap_or_default());
        let new = match entry.child::<AnyValueView<'_>>(VALUE).value() {
            Value::Str(text) => self.0.blocked(text.as_bytes()),
            Value::Int(value) => self.0.blocked(itoa::Buffer::new().format(value).as_bytes()),
            Value::Bytes(bytes) => self.0.blocked(bytes),
            // All its pieces, which laid end to end are its merge.
            _ => {
                let pieces = entry.fields().filter(|field| field.number == VALUE);
                let pieces: Vec<_> = pieces.filter_map(|field| field.bytes()).collect();
                self.0.blocked(&pieces.concat())
            }
        };
        let mut value = Vec::with_capacity(new.len() + 6);
        wire::put_bytes_field(&mut value, STRING, new.as_bytes());
        let mut out = Vec::with_capacity(value.len() + 6);
        wire::put_bytes_field(&mut out, VALUE, &value);
        out
    }

    fn value<'a>(
        &self,
        rewrite: &mut Rewrite<'a>,
        range: Range<usize>,
        key: &'a str,
        place: Place,
        seen: &mut Seen,
        body: &mut Tally<'a>,
    ) {
        for field in rewrite.fields(range) {
            match (field.field.number, field.field.value) {
                (STRING, _) => self.text(rewrite, &field, STRING, key, seen),
                (INT, wire::Value::Varint(value)) => {
                    self.number(rewrite, &field, itoa::Buffer::new().format(value as i64), key, seen);
                }
                (BOOL, wire::Value::Varint(value)) if self.0.all_types() => {
                    self.number(rewrite, &field, if value == 0 { "false" } else { "true" }, key, seen);
                }
                (DOUBLE, wire::Value::Fixed64(bits)) if self.0.all_types() => {
                    self.number(rewrite, &field, &f64::from_bits(bits).to_string(), key, seen);
                }
                (BYTES, wire::Value::Bytes(bytes)) => self.bytes(rewrite, &field, bytes, key, seen),
                (ARRAY, _) => rewrite.inside(&field, |rewrite| {
                    for element in rewrite.fields(field.body.clone()).filter(is_element) {
                        rewrite.inside(&element, |rewrite| {
                            self.value(rewrite, element.body.clone(), key, place, seen, body);
                        });
                    }
                }),
                (KVLIST, _) => rewrite.inside(&field, |rewrite| {
                    let place = if place == Place::Body { place } else { Place::Nested };
                    for element in rewrite.fields(field.body.clone()).filter(is_element) {
                        let key = self::key(&element);
                        let outcome = self.entry(rewrite, &element, key, place, body);
                        match outcome {
                            _ if place == Place::Body => body.add(outcome, key),
                            Outcome::Told(Class::Masked | Class::Redacted) => seen.masked = true,
                            Outcome::Told(Class::Allowed) => seen.allowed = true,
                            _ => {}
                        }
                    }
                }),
                _ => {}
            }
        }
    }

    fn body<'a>(&self, rewrite: &mut Rewrite<'a>, field: &Located<'a>, tally: &mut Tally<'a>) {
        let mut seen = Seen::default();
        rewrite.inside(field, |rewrite| {
            self.value(rewrite, field.body.clone(), "", Place::Body, &mut seen, tally);
        });
        if seen.masked || seen.doomed {
            tally.add(Outcome::Told(Class::Masked), "body");
        } else if seen.allowed {
            tally.add(Outcome::Told(Class::Allowed), "body");
        }
    }

    /// A text that is in no entry.
    fn plain<'a>(&self, rewrite: &mut Rewrite<'a>, field: &Located<'a>) {
        self.text(rewrite, field, field.field.number, "", &mut Seen::default());
    }

    fn text<'a>(
        &self,
        rewrite: &mut Rewrite<'a>,
        field: &Located<'a>,
        number: u32,
        key: &str,
        seen: &mut Seen,
    ) {
        let text = std::str::from_utf8(field.field.bytes().unwrap_or_default()).unwrap_or_default();
        self.judge(rewrite, field, number, text, key, seen);
    }

    /// A scalar by its text. What it becomes is a string.
    fn number<'a>(
        &self,
        rewrite: &mut Rewrite<'a>,
        field: &Located<'a>,
        text: &str,
        key: &str,
        seen: &mut Seen,
    ) {
        self.judge(rewrite, field, STRING, text, key, seen);
    }

    fn judge<'a>(
        &self,
        rewrite: &mut Rewrite<'a>,
        field: &Located<'a>,
        number: u32,
        text: &str,
        key: &str,
        seen: &mut Seen,
    ) {
        if let Some(new) = seen.take(self.0.text(text, key)) {
            rewrite.replace(field.whole.clone(), |out| wire::put_bytes_field(out, number, new.as_bytes()));
        }
    }

    /// The texts that lie in bytes.
    fn bytes<'a>(
        &self,
        rewrite: &mut Rewrite<'a>,
        field: &Located<'a>,
        bytes: &[u8],
        key: &str,
        seen: &mut Seen,
    ) {
        let mut is_changed = false;
        let mut out = Vec::new();
        for chunk in bytes.utf8_chunks() {
            match seen.take(self.0.text(chunk.valid(), key)) {
                Some(new) => {
                    is_changed = true;
                    out.extend_from_slice(new.as_bytes());
                }
                None => out.extend_from_slice(chunk.valid().as_bytes()),
            }
            out.extend_from_slice(chunk.invalid());
        }
        if is_changed {
            rewrite.replace(field.whole.clone(), |wire| wire::put_bytes_field(wire, BYTES, &out));
        }
    }

    /// A key as it may be told: it may itself be what must not leave.
    fn safe<'k>(&self, key: Cow<'k, str>) -> Cow<'k, str> {
        match self.0.text(&key, "") {
            Verdict::Clean | Verdict::Allowed => key,
            Verdict::Replaced(new) | Verdict::Deleted(new) => new.into(),
        }
    }
}

// === impl Seen ===

impl Seen {
    /// Notes a verdict; returns what the text becomes.
    fn take(&mut self, verdict: Verdict) -> Option<String> {
        match verdict {
            Verdict::Clean => None,
            Verdict::Allowed => {
                self.allowed = true;
                None
            }
            Verdict::Replaced(new) => {
                self.masked = true;
                Some(new)
            }
            Verdict::Deleted(new) => {
                self.doomed = true;
                Some(new)
            }
        }
    }
}

/// Kinds whose own texts are judged. Names of metrics, scopes and schemas are what the telemetry is told apart by.
fn is_judged(kind: Kind) -> bool {
    matches!(kind, Kind::Span | Kind::Event | Kind::Link | Kind::Status | Kind::LogRecord)
}

fn is_element(field: &Located<'_>) -> bool {
    field.field.number == VALUES
}

fn key<'a>(field: &Located<'a>) -> &'a str {
    Message::new(field.field.bytes().unwrap_or_default()).text(KEY)
}

#[inline]
fn rule(kind: Kind, field: &Located<'_>) -> Rule {
    match field.field.raw.first().map(|tag| kind.rules()[usize::from(*tag)]) {
        Some(Rule::Unknown) | None => kind.rule(field.field.number),
        Some(rule) => rule,
    }
}
