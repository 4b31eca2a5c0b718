//! Apache Thrift's binary and compact protocols: a [`Reader`] of foreign bytes, and a [`Writer`].
//!
//! There is no schema and no generated code: a reader walks a struct field by field and gives each value as it comes,
//! scalars read and containers about to be walked. What nobody walks is passed over. Nothing is allocated, lengths are
//! checked against the bytes that are there, and recursion ends at [`MAX_DEPTH`].
//!
//! Source: Apache Thrift `doc/specs/thrift-binary-protocol.md`, `doc/specs/thrift-compact-protocol.md`. The crate is
//! pure: no IO, no clock, no actor.
//!
//! ```
//! use watershed_thrift::{Error, Protocol, Reader, Value, Writer};
//!
//! // struct Person { 1: string name, 2: i32 age }
//! let mut writer = Writer::new(Protocol::Compact);
//! writer.structure(|person| {
//!     person.field(1, Value::Binary(b"Wendy"));
//!     person.field(2, Value::I32(30));
//! });
//! let bytes = writer.into_bytes();
//!
//! let mut age = 0;
//! Reader::new(Protocol::Compact, &bytes).fields(|_, id, value| {
//!     if let (2, Value::I32(value)) = (id, value) {
//!         age = value;
//!     }
//!     Ok::<(), Error>(())
//! })?;
//! assert_eq!(age, 30);
//! # Ok::<(), Error>(())
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod reader;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

use thiserror::Error;

/// How many containers may lie inside one another, the outermost counted. Thrift's own libraries stop at 64.
pub const MAX_DEPTH: usize = 64;

/// How values are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Everything at its full width, big endian.
    Binary,
    /// Varints and small field headers.
    Compact,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A truth value.
    Bool,
    /// Eight bits.
    I8,
    /// Sixteen bits.
    I16,
    /// Thirty-two bits; enums too.
    I32,
    /// Sixty-four bits.
    I64,
    /// IEEE 754, 64 bits.
    Double,
    /// Bytes or text: Thrift does not tell them apart.
    Binary,
    /// Fields by number.
    Struct,
    /// Pairs of one type each.
    Map,
    /// Values of one type; a set looks the same but for this.
    Set,
    /// Values of one type, in order.
    List,
    /// Sixteen bytes.
    Uuid,
}

/// A value. Of a container this is its head: a [`Reader`] then stands before what is inside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// [`Kind::Bool`].
    Bool(bool),
    /// [`Kind::I8`].
    I8(i8),
    /// [`Kind::I16`].
    I16(i16),
    /// [`Kind::I32`].
    I32(i32),
    /// [`Kind::I64`].
    I64(i64),
    /// [`Kind::Double`].
    Double(f64),
    /// [`Kind::Binary`]. Text need not be UTF-8.
    Binary(&'a [u8]),
    /// [`Kind::Uuid`].
    Uuid(&'a [u8; 16]),
    /// [`Kind::Struct`], for [`Reader::fields`].
    Struct,
    /// [`Kind::List`] or [`Kind::Set`], for [`Reader::elements`].
    List(List),
    /// [`Kind::Map`], for [`Reader::entries`].
    Map(Map),
}

/// The head of a list or a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// What its elements are.
    pub element: Kind,
    /// How many there are: as read, never more than there are bytes left.
    pub len: usize,
}

/// The head of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// What its keys are; an empty map of the compact protocol does not say, and this is [`Kind::Binary`].
    pub key: Kind,
    /// What its values are; as above.
    pub value: Kind,
    /// How many pairs there are: as read, never more than there are bytes left.
    pub len: usize,
}

/// What a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A call that is answered.
    Call,
    /// An answer.
    Reply,
    /// An answer that says no.
    Exception,
    /// A call that is not answered.
    Oneway,
}

/// The head of a message: after it comes a struct of arguments or results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The method.
    pub name: &'a [u8],
    /// What it is for.
    pub purpose: Purpose,
    /// By which a reply finds its call.
    pub sequence: i32,
}

/// Why bytes cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A value or a length reaches past the end.
    #[error("truncated")]
    Truncated,
    /// A varint that does not fit its type.
    #[error("malformed varint")]
    Varint,
    /// A length below zero.
    #[error("negative length")]
    Length,
    /// A type that the protocol does not have.
    #[error("unknown type {0}")]
    Kind(u8),
    /// A field number that is no 16-bit number.
    #[error("illegal field number")]
    Field,
    /// Not the head of a message of this protocol, or of a version that is not known.
    #[error("no message of this protocol")]
    Message,
    /// More than [`MAX_DEPTH`] levels.
    #[error("nested too deeply")]
    Depth,
}
