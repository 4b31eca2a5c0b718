//! Edits of attributes, on the wire.
//!
//! The actions and their meaning are those of otelcol's resource and attributes processors.

use std::ops::Range;

use smallvec::SmallVec;

use crate::Payload;
use crate::message::Message;
use crate::rewrite::{Located, Rewrite};
use crate::schema::{Kind, Rule};
use crate::wire::{self, Field, Fields, WireType};

/// Whose attributes are edited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// Each resource's. A group without a resource gets one if an action adds an attribute.
    Resource,
    /// Each instrumentation scope's. A group without a scope gets one if an action adds an attribute.
    Scope,
    /// Each span's, data point's or log record's.
    Item,
}

/// One edit. Keys match exactly. Keys should be unique but need not be (OTLP calls the result unpredictable):
/// updates change every attribute of the key, deletes remove every one, so that all readers see the same.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Adds the attribute if the key is absent.
    Insert {
        /// The attribute's key.
        key: String,
        /// Its value.
        value: AttributeValue,
    },
    /// Sets the value if the key is present.
    Update {
        /// The attribute's key.
        key: String,
        /// Its new value.
        value: AttributeValue,
    },
    /// Sets the value, or adds the attribute.
    Upsert {
        /// The attribute's key.
        key: String,
        /// Its new value.
        value: AttributeValue,
    },
    /// Removes the attribute.
    Delete {
        /// The attribute's key.
        key: String,
    },
}

impl Action {
    /// The attribute's key.
    pub fn key(&self) -> &str {
        match self {
            Self::Insert { key, .. } | Self::Update { key, .. } => key,
            Self::Upsert { key, .. } | Self::Delete { key } => key,
        }
    }

    fn value(&self) -> Option<&AttributeValue> {
        match self {
            Self::Insert { value, .. } | Self::Update { value, .. } | Self::Upsert { value, .. } => {
                Some(value)
            }
            Self::Delete { .. } => None,
        }
    }
}

/// An attribute's value: an `AnyValue` in its wire encoding.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AttributeValue(SmallVec<[u8; 24]>);

impl AttributeValue {
    /// The encoded `AnyValue`, without tag and length.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    fn encoded(size: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut wire = Vec::with_capacity(size);
        write(&mut wire);
        Self(SmallVec::from_slice(&wire))
    }
}

impl From<&str> for AttributeValue {
    fn from(value: &str) -> Self {
        Self::encoded(value.len() + 6, |wire| wire::put_bytes_field(wire, 1, value.as_bytes()))
    }
}

impl From<String> for AttributeValue {
    fn from(value: String) -> Self {
        value.as_str().into()
    }
}

impl From<bool> for AttributeValue {
    fn from(value: bool) -> Self {
        Self::encoded(2, |wire| wire::put_varint_field(wire, 2, u64::from(value)))
    }
}

impl From<i64> for AttributeValue {
    fn from(value: i64) -> Self {
        Self::encoded(11, |wire| wire::put_varint_field(wire, 3, value as u64))
    }
}

impl From<f64> for AttributeValue {
    fn from(value: f64) -> Self {
        Self::encoded(9, |wire| wire::put_fixed64_field(wire, 4, value.to_bits()))
    }
}

/// A list of actions to apply in order to the attributes of one target.
#[derive(Clone, Debug)]
pub struct AttributeEdits {
    target: Target,
    actions: Vec<Action>,
}

impl AttributeEdits {
    /// The actions see each other's effects: an update after an insert of the same key applies.
    pub fn new(target: Target, actions: Vec<Action>) -> Self {
        Self { target, actions }
    }

    /// The payload with the edits made. Items and their order stay; a request in which nothing changes (setting
    /// the value that is there changes nothing) keeps its very bytes.
    pub fn apply(&self, payload: &Payload) -> Payload {
        let kind = Kind::request(payload.signal());
        let requests = payload.requests().iter();
        let requests = requests.map(|request| {
            let mut rewrite = Rewrite::new(request);
            self.rewrite(&mut rewrite, kind, 0..request.len());
            rewrite.finish().unwrap_or_else(|| request.clone())
        });
        Payload::from_validated(payload.signal(), requests.collect(), payload.items())
    }

    fn rewrite<'a>(&'a self, rewrite: &mut Rewrite<'a>, kind: Kind, range: Range<usize>) {
        let owner = match self.target {
            Target::Resource => Some(Kind::Resource),
            Target::Scope => Some(Kind::Scope),
            Target::Item => None,
        };
        // A resource or scope is edited through the group around it: it may be absent, or in several pieces.
        let is_target = |kind: Kind| match owner {
            Some(owner) => kind.rule(OWNER) == Rule::Message(owner),
            None => kind.attributes().is_some(),
        };
        let mut draft = Draft::new(&self.actions);
        rewrite.walk(kind, range, &is_target, &mut |rewrite, kind, range| {
            draft.begin(owner.unwrap_or(kind));
            match owner {
                Some(_) => edit_owner(rewrite, range, &mut draft),
                None => {
                    draft.read(rewrite, range.clone());
                    draft.apply();
                    draft.write(rewrite, range, true);
                }
            }
        });
    }
}

/// The field of a resource or scope group that holds the resource or scope.
const OWNER: u32 = 1;

/// Edits the resource or scope of the group at `range`.
fn edit_owner<'a>(rewrite: &mut Rewrite<'a>, range: Range<usize>, draft: &mut Draft<'a>) {
    let fields = rewrite.fields(range.clone());
    let pieces: SmallVec<[Located<'_>; 1]> = fields.filter(|located| located.field.number == OWNER).collect();
    pieces.iter().for_each(|piece| draft.read(rewrite, piece.body.clone()));
    draft.apply();
    for (index, piece) in pieces.iter().enumerate() {
        let is_last = index + 1 == pieces.len();
        rewrite.inside(piece, |rewrite| draft.write(rewrite, piece.body.clone(), is_last));
    }
    if pieces.is_empty() && !draft.added.is_empty() {
        let mut message = Vec::new();
        draft.put_added(&mut message);
        rewrite.replace(range.start..range.start, |out| wire::put_bytes_field(out, OWNER, &message));
    }
}

/// The attributes of one message, with what is to become of them.
struct Draft<'a> {
    actions: &'a [Action],
    /// The number of the attributes' field.
    number: u32,
    /// In wire order.
    present: Vec<Attribute<'a>>,
    /// How many of them are written.
    written: usize,
    /// Attributes to add: the actions that give them key and value.
    added: Vec<&'a Action>,
}

struct Attribute<'a> {
    located: Located<'a>,
    key: &'a [u8],
    fate: Fate<'a>,
}

enum Fate<'a> {
    Stays,
    Goes,
    Becomes(&'a AttributeValue),
}

impl<'a> Draft<'a> {
    fn new(actions: &'a [Action]) -> Self {
        Self { actions, number: 0, present: Vec::new(), written: 0, added: Vec::new() }
    }

    /// Starts on the next message, of that kind.
    fn begin(&mut self, kind: Kind) {
        self.number = kind.attributes().unwrap_or_default();
        self.present.clear();
        self.written = 0;
        self.added.clear();
    }

    /// Reads the attributes of the message, or the piece of it, at `range`.
    fn read(&mut self, rewrite: &Rewrite<'a>, range: Range<usize>) {
        for located in rewrite.fields(range).filter(|located| located.field.number == self.number) {
            let message = Message::new(located.field.bytes().unwrap_or_default());
            self.present.push(Attribute { located, key: message.bytes(KEY), fate: Fate::Stays });
        }
    }

    fn apply(&mut self) {
        for action in self.actions {
            let Self { present, added, .. } = self;
            let key = action.key();
            let stays = |attribute: &&mut Attribute<'a>| {
                attribute.key == key.as_bytes() && !matches!(attribute.fate, Fate::Goes)
            };
            let mut present = present.iter_mut().filter(stays).peekable();
            let is_present = present.peek().is_some() || added.iter().any(|added| added.key() == key);
            match action {
                Action::Insert { .. } | Action::Upsert { .. } if !is_present => added.push(action),
                Action::Insert { .. } => {}
                Action::Update { value, .. } | Action::Upsert { value, .. } => {
                    present.for_each(|attribute| attribute.fate = Fate::Becomes(value));
                    added.iter_mut().filter(|added| added.key() == key).for_each(|added| *added = action);
                }
                Action::Delete { .. } => {
                    present.for_each(|attribute| attribute.fate = Fate::Goes);
                    added.retain(|added| added.key() != key);
                }
            }
        }
    }

    /// Writes what changes in the message, or the piece of it, at `range`; what is added, to the last piece.
    fn write(&mut self, rewrite: &mut Rewrite<'a>, range: Range<usize>, is_last: bool) {
        while let Some(Attribute { located, fate, .. }) = self.present.get(self.written)
            && located.whole.start < range.end
        {
            match fate {
                Fate::Becomes(value) if !holds(&located.field, value) => {
                    rewrite
                        .replace(located.whole.clone(), |out| self.put_changed(out, &located.field, value));
                }
                Fate::Stays | Fate::Becomes(_) => {}
                Fate::Goes => rewrite.replace(located.whole.clone(), |_| {}),
            }
            self.written += 1;
        }
        if is_last && !self.added.is_empty() {
            rewrite.replace(range.end..range.end, |out| self.put_added(out));
        }
    }

    /// Appends a `KeyValue` field with another value; what else it holds stays.
    fn put_changed(&self, out: &mut Vec<u8>, field: &Field<'_>, value: &AttributeValue) {
        let others = || key_value(field).filter(|field| field.number != VALUE).map(|field| field.raw);
        let size = others().map(<[u8]>::len).sum::<usize>() + wire::bytes_field_len(VALUE, value.0.len());
        wire::put_tag(out, self.number, WireType::Bytes);
        wire::put_varint(out, size as u64);
        others().for_each(|raw| out.extend_from_slice(raw));
        wire::put_bytes_field(out, VALUE, &value.0);
    }

    fn put_added(&self, out: &mut Vec<u8>) {
        for (key, value) in self.added.iter().filter_map(|action| Some((action.key(), action.value()?))) {
            let size = wire::bytes_field_len(KEY, key.len()) + wire::bytes_field_len(VALUE, value.0.len());
            wire::put_tag(out, self.number, WireType::Bytes);
            wire::put_varint(out, size as u64);
            wire::put_bytes_field(out, KEY, key.as_bytes());
            wire::put_bytes_field(out, VALUE, &value.0);
        }
    }
}

// `KeyValue`.
const KEY: u32 = 1;
const VALUE: u32 = 2;

fn key_value<'a>(field: &Field<'a>) -> impl Iterator<Item = Field<'a>> + use<'a> {
    Fields::new(field.bytes().unwrap_or_default()).flatten()
}

/// Whether a `KeyValue` has that very value, in one piece.
fn holds(field: &Field<'_>, value: &AttributeValue) -> bool {
    let mut values = key_value(field).filter(|field| field.number == VALUE);
    values.next().and_then(|field| field.bytes()) == Some(value.as_wire()) && values.next().is_none()
}
