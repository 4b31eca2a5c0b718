//! What conditions mean, and what is said of those that mean nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use watershed_ottl::{Condition, Key, Names, SyntaxError, Undecided, Value};

struct Things;

impl Names for Things {
    type Path = Value<'static>;

    fn path(&self, name: &str, keys: &[Key]) -> Result<Value<'static>, String> {
        let key = |name: &str| Key::Name(name.to_owned());
        Ok(match (name, keys) {
            ("name", []) => Value::Str("GET /a"),
            ("kind", []) => Value::Int(2),
            ("ratio", []) => Value::Double(0.5),
            ("ok", []) => Value::Bool(true),
            ("id", []) => Value::Bytes(&[0xAB, 0x01]),
            ("body", []) => Value::Opaque("map"),
            ("body", [first, Key::Index(1)]) if *first == key("x") => Value::Int(7),
            ("scope.attributes", [only]) if *only == key("a.b\"c") => Value::Str("v"),
            ("attributes", [_]) => Value::Nil,
            _ => return Err("known are `name`, `kind`".to_owned()),
        })
    }

    fn constant(&self, name: &str) -> Option<i64> {
        (name == "SPAN_KIND_SERVER").then_some(2)
    }
}

fn parse(text: &str) -> Result<Condition<Value<'static>>, SyntaxError> {
    Condition::parse(text, &Things)
}

fn holds(text: &str) -> Result<bool, Undecided> {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).holds(&|path| *path)
}

#[test]
fn conditions_hold_or_do_not() {
    for text in [
        "true",
        "not false",
        r#"name == "GET /a""#,
        r#"name < "HEAD""#,
        "kind == SPAN_KIND_SERVER",
        "kind == 2.0 and kind <= 2 and 1 < kind",
        "ratio == 0.5 and ratio > -1 and ratio < +1 and ratio >= .5 and ratio < 1e3",
        "ok == true and ok != false",
        "id == 0xAB01 and id > 0xab",
        r#"attributes["none"] == nil"#,
        "nil <= nil and nil >= nil",
        "false < true and false <= true and true > false and true >= true",
        r#"name != nil"#,
        r#"body["x"][1] == 7"#,
        r#"scope.attributes["a.b\"c"] == "v""#,
        r#"IsMatch(name, "^GET /\\w$")"#,
        r#"IsMatch(kind, "2") and IsMatch(ok, "tr") and IsMatch(ratio, "^0.5$")"#,
        r#"IsMatch(name, "x") == false"#,
        r#"IsMatch(id, "^ab01$")"#,
        // `not` before `and` before `or`.
        "not false and true",
        "not kind == 3",
        "true or true and false",
        "not (true and false)",
        "false or not not true",
        // What does not compare is unequal, and nothing else.
        r#"kind != "2""#,
        r#"body != body"#,
        "ok != 1",
    ] {
        assert_eq!(holds(text), Ok(true), "{text}");
        assert_eq!(holds(&format!("not ({text})")), Ok(false), "{text}");
    }
    for text in [
        r#"kind == "2""#,
        r#"kind < "3""#,
        "nil < nil",
        "nil > nil",
        "true < false",
        "true < true",
        "ratio == nil",
        r#"IsMatch(attributes["none"], "")"#,
        "(true or true) and false",
        "body == nil",
    ] {
        assert_eq!(holds(text), Ok(false), "{text}");
    }
}

#[test]
fn what_has_no_text_can_not_be_matched() {
    let undecided = holds(r#"IsMatch(body, "a")"#).unwrap_err();
    assert_eq!(undecided.to_string(), "IsMatch takes a text, and finds map");
    assert!(holds(r#"IsMatch(body, "a") or true"#).is_err());
    // What is not reached is not evaluated.
    assert_eq!(holds(r#"true or IsMatch(body, "a")"#), Ok(true));
    assert_eq!(holds(r#"false and IsMatch(body, "a")"#), Ok(false));
}

#[test]
fn errors_say_where_and_what() {
    for (text, column, about) in [
        ("", 1, "expected a path, a value or a function, found the end"),
        ("nme == 1", 1, "no path `nme`: known are `name`, `kind`"),
        ("kind == SPAN_KIND_SEVER", 9, "no constant `SPAN_KIND_SEVER`"),
        ("kind = 2", 6, "write `==`"),
        ("kind == 2 && ok == true", 11, "write `and`"),
        ("name == 'x'", 9, "double quotes"),
        ("name == \"x", 9, "closing quote"),
        (r#"IsMatch(name, "\d")"#, 15, "written twice"),
        (r#"IsMatch(name, "(")"#, 15, "a bad pattern: unclosed group"),
        (r#"IsMatch(name)"#, 1, "two arguments"),
        ("IsMatch(name, kind)", 15, "a pattern is a text"),
        (r#"Matches(name, "x")"#, 1, "no function `Matches`"),
        ("name", 1, "is a value, not a condition: compare it, as `name != nil`"),
        ("ok == true and \"x\"", 16, "a value is no condition"),
        ("kind == 2 kind", 11, "expected `and`, `or` or the end, found `kind`"),
        ("1 < kind < 3", 10, "do not chain"),
        ("(kind == 2", 11, "expected `)`, found the end"),
        ("kind == 2)", 10, "found `)`"),
        ("body[x] == 1", 6, "expected a key"),
        ("body[-1] == 1", 6, "expected a key"),
        ("body. == 1", 7, "expected a name"),
        ("kind + 1 == 3", 6, "arithmetic"),
        ("kind == 99999999999999999999", 9, "is no number"),
        ("kind == 1e999", 9, "is no number"),
        ("id == 0xABC", 7, "pairs of hexadecimal"),
        ("\u{e4}\u{f6} == 1", 1, "means nothing"),
        ("name == \"\u{e4}\" or x == 1", 16, "no path `x`"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((error.column, error.message.contains(about)), (column, true), "{text}: {error}");
    }
}

#[test]
fn depth_is_bounded_and_length_is_not() {
    for text in ["(".repeat(100_000), "not ".repeat(100_000), "IsMatch(".repeat(100_000)] {
        assert!(parse(&text).is_err());
    }
    let long = "true and ".repeat(100_000) + "true";
    assert_eq!(holds(&long), Ok(true));
}

/// A condition made of what conditions are made of, in any order.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "name",
        "kind",
        "body",
        ".",
        "[",
        "]",
        "\"x\"",
        "\"",
        "\\",
        "1",
        "-1.5",
        "0xab",
        "==",
        "!=",
        "<",
        ">=",
        "and",
        "or",
        "not",
        "(",
        ")",
        "true",
        "nil",
        "IsMatch(",
        ",",
        "SPAN_KIND_SERVER",
        " ",
        "\u{e4}",
        "0x",
        "+",
    ]);
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_panics(text in prop_oneof![soup(), "\\PC{0,40}"]) {
        match parse(&text) {
            Ok(condition) => drop(condition.holds(&|path| *path)),
            Err(error) => prop_assert!(error.column <= text.chars().count() + 1, "{error}"),
        }
    }
}
