//! The protocols against known bytes, against each other, and against whatever may come.

use proptest::prelude::*;
use watershed_thrift::{
    Error, Kind, List, MAX_DEPTH, Map, Message, Protocol, Purpose, Reader, Value, Writer,
};

const BOTH: [Protocol; 2] = [Protocol::Binary, Protocol::Compact];

/// A value with all that is inside.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Bool(bool),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    Double(f64),
    Binary(Vec<u8>),
    Uuid([u8; 16]),
    Struct(Vec<(i16, Tree)>),
    List(Kind, Vec<Tree>),
    Map(Kind, Kind, Vec<Tree>),
}

impl Tree {
    fn head(&self) -> Value<'_> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::I8(value) => Value::I8(*value),
            Self::I16(value) => Value::I16(*value),
            Self::I32(value) => Value::I32(*value),
            Self::I64(value) => Value::I64(*value),
            Self::Double(value) => Value::Double(*value),
            Self::Binary(bytes) => Value::Binary(bytes),
            Self::Uuid(bytes) => Value::Uuid(bytes),
            Self::Struct(_) => Value::Struct,
            Self::List(element, all) => Value::List(List { element: *element, len: all.len() }),
            Self::Map(key, value, all) => Value::Map(Map { key: *key, value: *value, len: all.len() / 2 }),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Bool(_) => Kind::Bool,
            Self::I8(_) => Kind::I8,
            Self::I16(_) => Kind::I16,
            Self::I32(_) => Kind::I32,
            Self::I64(_) => Kind::I64,
            Self::Double(_) => Kind::Double,
            Self::Binary(_) => Kind::Binary,
            Self::Uuid(_) => Kind::Uuid,
            Self::Struct(_) => Kind::Struct,
            Self::List(..) => Kind::List,
            Self::Map(..) => Kind::Map,
        }
    }

    fn write_inside(&self, writer: &mut Writer) {
        match self {
            Self::Struct(fields) => writer.structure(|writer| {
                for (id, field) in fields {
                    writer.field(*id, field.head());
                    field.write_inside(writer);
                }
            }),
            Self::List(_, all) | Self::Map(_, _, all) => {
                for element in all {
                    writer.element(element.head());
                    element.write_inside(writer);
                }
            }
            _ => {}
        }
    }

    fn read(reader: &mut Reader<'_>, head: Value<'_>) -> Result<Self, Error> {
        Ok(match head {
            Value::Bool(value) => Self::Bool(value),
            Value::I8(value) => Self::I8(value),
            Value::I16(value) => Self::I16(value),
            Value::I32(value) => Self::I32(value),
            Value::I64(value) => Self::I64(value),
            Value::Double(value) => Self::Double(value),
            Value::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Value::Uuid(bytes) => Self::Uuid(*bytes),
            Value::Struct => {
                let mut fields = Vec::new();
                reader.fields(|reader, id, value| {
                    fields.push((id, Self::read(reader, value)?));
                    Ok::<(), Error>(())
                })?;
                Self::Struct(fields)
            }
            Value::List(list) => {
                let mut all = Vec::new();
                reader.elements(list, |reader, value| {
                    all.push(Self::read(reader, value)?);
                    Ok::<(), Error>(())
                })?;
                Self::List(list.element, all)
            }
            Value::Map(map) => {
                let mut all = Vec::new();
                reader.entries(map, |reader, value| {
                    all.push(Self::read(reader, value)?);
                    Ok::<(), Error>(())
                })?;
                Self::Map(map.key, map.value, all)
            }
        })
    }
}

fn bytes_of(protocol: Protocol, tree: &Tree) -> Vec<u8> {
    let mut writer = Writer::new(protocol);
    tree.write_inside(&mut writer);
    writer.into_bytes()
}

fn scalar() -> BoxedStrategy<Tree> {
    prop_oneof![
        any::<bool>().prop_map(Tree::Bool),
        any::<i8>().prop_map(Tree::I8),
        any::<i16>().prop_map(Tree::I16),
        any::<i32>().prop_map(Tree::I32),
        any::<i64>().prop_map(Tree::I64),
        (-1e300..1e300).prop_map(Tree::Double),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Tree::Binary),
        any::<[u8; 16]>().prop_map(Tree::Uuid),
    ]
    .boxed()
}

fn structure() -> impl Strategy<Value = Tree> {
    let tree = scalar().prop_recursive(4, 64, 20, |inner| {
        let fields = prop::collection::vec((any::<i16>(), inner.clone()), 0..6).prop_map(Tree::Struct);
        // Elements of one type: each is the first one again, or one of its kind.
        let list = prop::collection::vec(inner.clone(), 1..20).prop_map(|mut all| {
            let kind = all.first().map_or(Kind::Bool, Tree::kind);
            all.retain(|tree| tree.kind() == kind);
            Tree::List(kind, all)
        });
        let map = (inner.clone(), inner, 1..4_usize).prop_map(|(key, value, count)| {
            let (key_kind, value_kind) = (key.kind(), value.kind());
            let pairs = std::iter::repeat_n([key, value], count);
            Tree::Map(key_kind, value_kind, pairs.flatten().collect())
        });
        prop_oneof![fields, list, map]
    });
    prop::collection::vec((any::<i16>(), tree), 0..8).prop_map(Tree::Struct)
}

/// `{ 1: 5 (i32), 2: true, 300: "ab", 301: [1, -1] (i64), 302: { "k": 2 (i16) } }`
fn sample() -> Tree {
    Tree::Struct(vec![
        (1, Tree::I32(5)),
        (2, Tree::Bool(true)),
        (300, Tree::Binary(b"ab".to_vec())),
        (301, Tree::List(Kind::I64, vec![Tree::I64(1), Tree::I64(-1)])),
        (302, Tree::Map(Kind::Binary, Kind::I16, vec![Tree::Binary(b"k".to_vec()), Tree::I16(2)])),
    ])
}

#[test]
fn the_compact_protocol_is_as_its_specification_has_it() {
    // Heads: delta and type in a byte, the bool in its head, 300 zigzag as 600 in a field of its own.
    let expected = [
        [0x15, 10].as_slice(),
        &[0x11],
        &[0x08, 0xD8, 0x04, 2, b'a', b'b'],
        &[0x19, 0x26, 2, 1],
        &[0x1B, 1, 0x84, 1, b'k', 4],
        &[0],
    ];
    assert_eq!(bytes_of(Protocol::Compact, &sample()), expected.concat());
}

#[test]
fn the_binary_protocol_is_as_its_specification_has_it() {
    let expected = [
        [8, 0, 1, 0, 0, 0, 5].as_slice(),
        &[2, 0, 2, 1],
        &[11, 1, 44, 0, 0, 0, 2, b'a', b'b'],
        &[15, 1, 45, 10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 255, 255, 255, 255, 255, 255, 255, 255],
        &[13, 1, 46, 11, 6, 0, 0, 0, 1, 0, 0, 0, 1, b'k', 0, 2],
        &[0],
    ];
    assert_eq!(bytes_of(Protocol::Binary, &sample()), expected.concat());
}

#[test]
fn the_head_of_a_message_is_read_in_all_three_forms() {
    let message = Message { name: b"emitBatch", purpose: Purpose::Oneway, sequence: 7 };
    let compact = [&[0x82, 0x81, 7, 9], b"emitBatch".as_slice()].concat();
    let strict = [&[0x80, 1, 0, 4, 0, 0, 0, 9], b"emitBatch".as_slice(), &[0, 0, 0, 7]].concat();
    let old = [&[0, 0, 0, 9], b"emitBatch".as_slice(), &[4, 0, 0, 0, 7]].concat();
    for (protocol, bytes) in
        [(Protocol::Compact, &compact), (Protocol::Binary, &strict), (Protocol::Binary, &old)]
    {
        let mut reader = Reader::new(protocol, bytes);
        assert_eq!(reader.message(), Ok(message));
        assert!(reader.rest().is_empty());
    }
    for (protocol, bytes) in [(Protocol::Compact, compact), (Protocol::Binary, strict)] {
        let mut writer = Writer::new(protocol);
        writer.message(message);
        assert_eq!(writer.into_bytes(), bytes);
    }
    assert_eq!(Reader::new(Protocol::Compact, &[0x82, 0x82, 7, 0]).message(), Err(Error::Message));
    assert_eq!(Reader::new(Protocol::Binary, &[0x80, 2, 0, 4]).message(), Err(Error::Message));
}

#[test]
fn what_nobody_walks_is_passed_over() {
    for protocol in BOTH {
        let bytes = bytes_of(protocol, &sample());
        let mut reader = Reader::new(protocol, &bytes);
        let mut ids = Vec::new();
        reader
            .fields(|_, id, _| {
                ids.push(id);
                Ok::<(), Error>(())
            })
            .unwrap();
        assert_eq!(ids, [1, 2, 300, 301, 302]);
        assert!(reader.rest().is_empty());
    }
}

#[test]
fn a_length_is_believed_only_as_far_as_there_are_bytes() {
    for (protocol, bytes) in [
        (Protocol::Binary, [15, 0, 1, 2, 0x7F, 0xFF, 0xFF, 0xFF].as_slice()),
        (Protocol::Binary, &[13, 0, 1, 2, 2, 0x7F, 0xFF, 0xFF, 0xFF]),
        (Protocol::Binary, &[11, 0, 1, 0x7F, 0xFF, 0xFF, 0xFF]),
        (Protocol::Compact, &[0x19, 0xF1, 0xFF, 0xFF, 0xFF, 0xFF, 0x07]),
        (Protocol::Compact, &[0x1B, 0xFF, 0xFF, 0xFF, 0xFF, 0x07, 0x11]),
        (Protocol::Compact, &[0x18, 0xFF, 0xFF, 0xFF, 0xFF, 0x07]),
    ] {
        let read = Reader::new(protocol, bytes).fields(|_, _, _| Err(Error::Message));
        assert_eq!(read, Err(Error::Truncated), "{protocol:?} {bytes:?}");
    }
    let negative = [11, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF];
    let read = Reader::new(Protocol::Binary, &negative).fields(|_, _, _| Ok(()));
    assert_eq!(read, Err(Error::Length));
}

#[test]
fn nesting_ends_at_its_bound() {
    let nested = |depth: usize| {
        let mut tree = Tree::Struct(vec![]);
        for _ in 1..depth {
            tree = Tree::Struct(vec![(1, tree)]);
        }
        tree
    };
    for protocol in BOTH {
        let read = |tree| Reader::new(protocol, &bytes_of(protocol, &tree)).fields(|_, _, _| Ok(()));
        assert_eq!(read(nested(MAX_DEPTH)), Ok(()));
        assert_eq!(read(nested(MAX_DEPTH + 1)), Err(Error::Depth));
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(tree in structure()) {
        for protocol in BOTH {
            let bytes = bytes_of(protocol, &tree);
            let mut reader = Reader::new(protocol, &bytes);
            prop_assert_eq!(Tree::read(&mut reader, Value::Struct), Ok(tree.clone()));
            prop_assert!(reader.rest().is_empty());
        }
    }

    #[test]
    fn what_is_cut_short_is_refused(tree in structure(), cut in any::<prop::sample::Index>()) {
        for protocol in BOTH {
            let bytes = bytes_of(protocol, &tree);
            let short = &bytes[..cut.index(bytes.len())];
            prop_assert!(Tree::read(&mut Reader::new(protocol, short), Value::Struct).is_err());
            prop_assert!(Reader::new(protocol, short).fields(|_, _, _| Ok::<(), Error>(())).is_err());
        }
    }

    #[test]
    fn passing_over_ends_where_reading_ends(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for protocol in BOTH {
            let (mut walked, mut skipped) = (Reader::new(protocol, &bytes), Reader::new(protocol, &bytes));
            let read = Tree::read(&mut walked, Value::Struct);
            let passed = skipped.fields(|_, _, _| Ok::<(), Error>(()));
            prop_assert_eq!(read.err(), passed.err());
            prop_assert_eq!(walked.rest(), skipped.rest());
        }
    }
}
