//! What is wrong with JSON from outside, and where.

use std::fmt::Write as _;

use thiserror::Error;

use crate::Signal;
use crate::build::NoRoom;
use crate::wire::MAX_DEPTH;

/// What is wrong with a JSON request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
#[non_exhaustive]
pub enum JsonFlaw {
    /// JSON is UTF-8 without one.
    #[error("starts with a byte order mark, which JSON does not allow")]
    ByteOrderMark,
    /// Not UTF-8.
    #[error("not valid UTF-8")]
    Utf8,
    /// The text ends inside the request.
    #[error("ends too early")]
    Truncated,
    /// Something else stands where this should.
    #[error("expected {0}")]
    Expected(&'static str),
    /// Something follows the request.
    #[error("nothing may follow the request")]
    Trailing,
    /// A character below U+0020 stands in a string.
    #[error("a control character must be written as an escape")]
    Control,
    /// A backslash that starts no escape.
    #[error("malformed escape")]
    Escape,
    /// Half of a surrogate pair.
    #[error("unpaired surrogate")]
    Surrogate,
    /// Not a number as JSON writes it.
    #[error("malformed number")]
    Number,
    /// A value of another type than the field's.
    #[error("must be {0}")]
    Type(&'static str),
    /// A number that the field can not hold.
    #[error("out of the range of {0}")]
    Range(&'static str),
    /// An id that is not hex.
    #[error("must be pairs of hex digits")]
    Hex,
    /// Bytes that are not base64.
    #[error("must be base64")]
    Base64,
    /// The key stands in the object before.
    #[error("stands twice in one object")]
    Duplicate,
    /// Another member of the oneof stands in the object before.
    #[error("excludes another value that stands beside it")]
    OneOf,
    /// More than [`MAX_DEPTH`] messages inside one another, or values inside an unknown one.
    #[error("nested more than {MAX_DEPTH} levels deep")]
    Depth,
    /// The request is of another signal than the path it was posted to.
    #[error("these are {0}, which have a path of their own: \"/v1/{0}\", unless the receiver has another")]
    Signal(Signal),
    /// Room was asked for and refused. The fault is not the sender's.
    #[error("no memory left to read it")]
    NoRoom,
}

/// JSON that is not an OTLP request. Its text is one short line, fit for a response to the sender.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{path}: {flaw} (line {line}, column {column})")]
pub struct JsonError {
    flaw: JsonFlaw,
    path: String,
    offset: usize,
    line: usize,
    column: usize,
}

impl JsonError {
    /// What is wrong.
    pub fn flaw(&self) -> JsonFlaw {
        self.flaw
    }

    /// The field, as `resourceSpans[0].scopeSpans[1].spans[3].traceId`; at most some 250 bytes, then `...`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where, in bytes from the start of the text.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }
}

/// A flaw on its way out of a decoder, which adds what lies around it. One word, so that success costs no more.
#[derive(Debug)]
pub struct Fault(Box<Details>);

#[derive(Debug)]
struct Details {
    flaw: JsonFlaw,
    offset: usize,
    /// From the inside out.
    path: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Name(&'static str),
    Index(usize),
}

impl Fault {
    /// A flaw at a byte of the text.
    #[cold]
    pub fn new(flaw: JsonFlaw, offset: usize) -> Self {
        Self(Box::new(Details { flaw, offset, path: Vec::new() }))
    }

    /// The flaw is in this field.
    #[cold]
    pub fn within(mut self, name: &'static str) -> Self {
        self.0.path.push(Step::Name(name));
        self
    }

    /// The flaw is in this element.
    #[cold]
    pub fn at_index(mut self, index: usize) -> Self {
        self.0.path.push(Step::Index(index));
        self
    }

    /// The error for `json`, of which `read` bytes were read.
    #[cold]
    pub fn into_error(self, json: &[u8], read: usize) -> JsonError {
        const MAX_PATH: usize = 240;
        let Details { flaw, offset, path: steps } = *self.0;
        let offset = if flaw == JsonFlaw::NoRoom { read } else { offset };
        let mut path = String::new();
        for step in steps.iter().rev() {
            if path.len() > MAX_PATH {
                path.push_str("...");
                break;
            }
            let _ = match step {
                Step::Name(name) if path.is_empty() => write!(path, "{name}"),
                Step::Name(name) => write!(path, ".{name}"),
                Step::Index(index) => write!(path, "[{index}]"),
            };
        }
        if path.is_empty() {
            path.push_str("request");
        }
        let before = json.get(..offset).unwrap_or(json);
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let in_line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = 1 + in_line.iter().filter(|byte| !matches!(byte, 0x80..=0xBF)).count();
        JsonError { flaw, path, offset, line, column }
    }
}

/// Where, the end of the way out knows.
impl From<NoRoom> for Fault {
    #[cold]
    fn from(_: NoRoom) -> Self {
        Self::new(JsonFlaw::NoRoom, usize::MAX)
    }
}
