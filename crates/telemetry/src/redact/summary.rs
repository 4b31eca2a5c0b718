//! What is told of the changes, as attributes next to them.
//!
//! Source: opentelemetry-collector-contrib `processor/redactionprocessor`. What happened in a log body is told
//! under `redaction.body.`.

use std::borrow::Cow;

use crate::message::Message;
use crate::redact::{Outcome, STRING, VALUE};
use crate::rewrite::Located;
use crate::view::{AnyValueView, Value};
use crate::wire;

/// How much is told of the changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Summary {
    /// Nothing.
    Silent,
    /// How many entries were changed.
    Info,
    /// That, and their keys.
    Debug,
}

/// No list has more entries: a larger count was written by no processor, and may be what must not leave.
const MOST: i64 = 1 << 20;

/// The class that a summary is about, and whether it is of keys or their count.
fn slot(name: &str) -> Option<(usize, &str)> {
    let (class, what) = name.split_once('.')?;
    let class = CLASSES.iter().position(|(_, name)| *name == class)?;
    matches!(what, "keys" | "count").then_some((class, what))
}

/// What can be told of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It went.
    Redacted,
    /// A part of it was replaced.
    Masked,
    /// Its value was allowed by name.
    Allowed,
    /// Its key was not to be looked at.
    Ignored,
}

const CLASSES: [(Class, &str); 4] = [
    (Class::Redacted, "redacted"),
    (Class::Masked, "masked"),
    (Class::Allowed, "allowed"),
    (Class::Ignored, "ignored"),
];

/// What is to be told of one list of entries: keys and count, by class.
#[derive(Default)]
pub(super) struct Tally<'a>([(Vec<&'a str>, i64); 4]);

// === impl Tally ===

impl<'a> Tally<'a> {
    pub(super) fn add(&mut self, outcome: Outcome, key: &'a str) {
        let Outcome::Told(class) = outcome else { return };
        if let Some((keys, count)) = self.0.get_mut(class as usize) {
            keys.push(key);
            *count = count.saturating_add(1);
        }
    }

    /// Takes an attribute in if it is a summary that an earlier processor wrote.
    pub(super) fn absorb(&mut self, part: &str, key: &str, field: &Located<'a>) -> bool {
        let name = key.strip_prefix("redaction.").and_then(|rest| rest.strip_prefix(part));
        let Some((class, what)) = name.and_then(slot) else { return false };
        let Some((keys, count)) = self.0.get_mut(class) else { return false };
        let value = Message::new(field.field.bytes().unwrap_or_default()).child::<AnyValueView<'a>>(VALUE);
        match value.value() {
            Value::Str(text) if what == "keys" => keys.extend(text.split(',').filter(|key| !key.is_empty())),
            Value::Int(value) if what == "count" && (0..MOST).contains(&value) => {
                *count = count.saturating_add(value)
            }
            _ => {}
        }
        true
    }

    /// Gives the summary's attributes to `put`, as `KeyValue`s.
    pub(super) fn write(
        self,
        summary: Summary,
        part: &str,
        safe: impl Fn(Cow<'a, str>) -> Cow<'a, str>,
        put: &mut impl FnMut(&[u8]),
    ) {
        let mut attribute = |name: String, write: &dyn Fn(&mut Vec<u8>)| {
            let (mut value, mut out) = (Vec::new(), Vec::new());
            write(&mut value);
            wire::put_bytes_field(&mut out, super::KEY, name.as_bytes());
            wire::put_bytes_field(&mut out, VALUE, &value);
            put(&out);
        };
        for ((class, name), (keys, count)) in CLASSES.iter().zip(self.0) {
            if summary == Summary::Debug && *class != Class::Ignored && !keys.is_empty() {
                let mut keys: Vec<_> = keys.into_iter().map(|key| safe(key.into())).collect();
                keys.sort_unstable();
                let keys = keys.join(",");
                attribute(format!("redaction.{part}{name}.keys"), &|value| {
                    wire::put_bytes_field(value, STRING, keys.as_bytes());
                });
            }
            if count != 0 {
                attribute(format!("redaction.{part}{name}.count"), &|value| {
                    wire::put_varint_field(value, super::INT, count as u64);
                });
            }
        }
    }
}
