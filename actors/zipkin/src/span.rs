//! A span as Zipkin has it since version 2, whatever it is written in.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of the request, or what was written with escapes there. UTF-8 where the OTLP that is made of it is found
/// to be valid.
pub(crate) type Text<'a> = Cow<'a, [u8]>;

/// A span. Times are microseconds, since 1970 where they are dates; zero is absent.
#[derive(Debug, Default)]
pub(crate) struct Span<'a> {
    /// Left-padded with zeros where the sender has 64 bits.
    pub(crate) trace_id: [u8; 16],
    pub(crate) id: [u8; 8],
    /// All zeros if there is none.
    pub(crate) parent_id: [u8; 8],
    pub(crate) kind: Kind,
    pub(crate) name: Text<'a>,
    pub(crate) timestamp: u64,
    pub(crate) duration: u64,
    pub(crate) local: Endpoint<'a>,
    pub(crate) remote: Endpoint<'a>,
    pub(crate) annotations: Vec<Annotation<'a>>,
    pub(crate) tags: Vec<Tag<'a>>,
    pub(crate) debug: bool,
    pub(crate) shared: bool,
}

/// Whether a span waits for another, is waited for, or neither. The numbers are those of OTLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Unspecified = 0,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

/// One end of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Endpoint<'a> {
    pub(crate) service_name: Text<'a>,
    pub(crate) ipv4: Option<Ip<'a>>,
    pub(crate) ipv6: Option<Ip<'a>>,
    /// Zero if there is none.
    pub(crate) port: u16,
}

/// An address, as the format writes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ip<'a> {
    Text(Text<'a>),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Annotation<'a> {
    pub(crate) timestamp: u64,
    pub(crate) value: Text<'a>,
}

/// A tag. Only version 1 has values that are no text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tag<'a> {
    pub(crate) key: Text<'a>,
    pub(crate) value: Value<'a>,
}

/// The value of a tag.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Text(Text<'a>),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
}

impl Span<'_> {
    /// The trace's id, in 64 bits if that is all there is.
    pub(crate) fn short_trace_id(&self) -> &[u8] {
        match &self.trace_id {
            [0, 0, 0, 0, 0, 0, 0, 0, short @ ..] => short,
            long => long,
        }
    }

    /// Forgets everything but the places that were made.
    pub(crate) fn clear(&mut self) {
        let (mut annotations, mut tags) =
            (std::mem::take(&mut self.annotations), std::mem::take(&mut self.tags));
        annotations.clear();
        tags.clear();
        *self = Self { annotations, tags, ..Self::default() };
    }
}

impl Endpoint<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl<'a> Value<'a> {
    /// What it says, if it is text.
    pub(crate) fn text(&self) -> Option<&Text<'a>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}
