//! Bytes from outside as Thrift. The first byte chooses the protocol.
//!
//! Reading ends, with all read or an error, and passing over a struct ends where reading it ends. What was read whole
//! and is written again is read as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_thrift::{Error, Protocol, Reader, Value, Writer};

/// Reads what is inside a value, and writes it as it comes.
fn copy(reader: &mut Reader<'_>, value: Value<'_>, out: &mut Writer) -> Result<(), Error> {
    match value {
        Value::Struct => {
            let mut result = Ok(());
            out.structure(|out| {
                result = reader.fields(|reader, id, value| {
                    out.field(id, value);
                    copy(reader, value, out)
                });
            });
            result
        }
        Value::List(list) => reader.elements(list, |reader, value| {
            out.element(value);
            copy(reader, value, out)
        }),
        Value::Map(map) => reader.entries(map, |reader, value| {
            out.element(value);
            copy(reader, value, out)
        }),
        _ => Ok(()),
    }
}

fn copied(protocol: Protocol, bytes: &[u8]) -> (Result<Vec<u8>, Error>, usize) {
    let (mut reader, mut writer) = (Reader::new(protocol, bytes), Writer::new(protocol));
    let result = copy(&mut reader, Value::Struct, &mut writer);
    (result.map(|()| writer.into_bytes()), reader.rest().len())
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let protocol = if choice % 2 == 0 { Protocol::Binary } else { Protocol::Compact };
    let _ = Reader::new(protocol, bytes).message();

    let (copy, rest) = copied(protocol, bytes);
    let mut skipped = Reader::new(protocol, bytes);
    let passed = skipped.fields(|_, _, _| Ok::<(), Error>(()));
    assert_eq!((copy.as_ref().err(), rest), (passed.as_ref().err(), skipped.rest().len()));
    if let Ok(copy) = copy {
        assert_eq!(copied(protocol, &copy), (Ok(copy.clone()), 0));
    }
});
