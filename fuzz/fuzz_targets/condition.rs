//! Conditions from outside: whatever is written, parsing ends with a condition that can be evaluated, or with an error
//! that points into the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed_ottl::{Condition, Key, Names, Value};

/// Knows every path; what it is depends on its name's length.
struct Any;

impl Names for Any {
    type Path = usize;

    fn path(&self, name: &str, keys: &[Key]) -> Result<usize, String> {
        Ok(name.len() + keys.len())
    }

    fn constant(&self, name: &str) -> Option<i64> {
        i64::try_from(name.len()).ok()
    }
}

fuzz_target!(|text: &str| {
    let values = [
        Value::Nil,
        Value::Bool(true),
        Value::Int(2),
        Value::Double(f64::NAN),
        Value::Str("text"),
        Value::Bytes(&[0, 255]),
        Value::Opaque("a map"),
    ];
    match Condition::parse(text, &Any) {
        Ok(condition) => drop(condition.holds(&|path| values[path % values.len()])),
        Err(error) => assert!(error.column <= text.chars().count() + 1 && !error.message.is_empty()),
    }
});
