//! The words for what readers of values complain about, and the names that may have been meant.
//!
//! serde's messages name Rust's types and quote the value. A user knows neither type nor, where the value is a
//! secret, may see it. So a message is taken apart, and the sentence made anew from what is known of the key.

use super::tree::{Content, Node};

/// A complaint of serde or of a kind's own check.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Complaint<'a> {
    /// A key that nobody knows.
    UnknownKey { name: &'a str, known: Vec<&'a str> },
    /// A word that is not one of a few.
    UnknownWord { known: Vec<&'a str> },
    /// A key without which it does not go.
    Missing(&'a str),
    /// A value of the wrong type.
    Type { expected: &'a str },
    /// A value out of range.
    Range { expected: &'a str },
    /// Anything else. It may quote the value.
    Other(&'a str),
}

// === impl Complaint ===

impl<'a> Complaint<'a> {
    /// Takes a message apart.
    pub(crate) fn read(message: &'a str) -> Self {
        // The reader of TOML adds the path to a message; that is known better here.
        let message = message.split("\nin `").next().unwrap_or(message).trim();
        if let Some((name, known)) =
            message.strip_prefix("unknown field `").and_then(|rest| rest.split_once("`, "))
        {
            return Self::UnknownKey { name, known: quoted(known) };
        }
        if let Some((_, known)) =
            message.strip_prefix("unknown variant `").and_then(|rest| rest.rsplit_once("`, expected "))
        {
            return Self::UnknownWord { known: quoted(known) };
        }
        if let Some(name) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            return Self::Missing(name);
        }
        // The value comes before what is expected and may itself hold these words.
        let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
        match expected {
            Some(expected) if message.starts_with("invalid type: ") => Self::Type { expected },
            Some(expected) if message.starts_with("invalid value: ") => Self::Range { expected },
            Some(expected) if message.starts_with("invalid length ") => Self::Range { expected },
            _ => Self::Other(message),
        }
    }
}

/// The names between backticks.
fn quoted(list: &str) -> Vec<&str> {
    list.split('`').skip(1).step_by(2).collect()
}

/// What is expected, in the words of a configuration.
pub(crate) fn expected(rust: &str) -> String {
    let integer = |range: &str| format!("an integer{range}");
    match rust {
        "u8" => integer(" of 0 to 255"),
        "u16" => integer(" of 0 to 65535"),
        "u32" => integer(" of 0 to 4294967295"),
        "u64" | "usize" => integer(" of 0 or more"),
        "i8" | "i16" | "i32" | "i64" | "isize" => integer(""),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        "string only" => "a string".to_owned(),
        rust if rust.starts_with("struct ") => "a table".to_owned(),
        rust => rust.to_owned(),
    }
}

/// How a value of the type that is expected is written.
pub(crate) fn example(rust: &str, found: &Node) -> Option<String> {
    let text =
        found.as_scalar().filter(|scalar| scalar.shown.is_none()).and_then(|scalar| scalar.value.as_str());
    let (bare, usual) = match rust {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => {
            (text.is_some_and(|text| text.parse::<i64>().is_ok()), "a number without quotes, such as 100")
        }
        "f32" | "f64" => {
            (text.is_some_and(|text| text.parse::<f64>().is_ok()), "a number without quotes, such as 0.5")
        }
        "a boolean" => (matches!(text, Some("true" | "false")), "true or false, without quotes"),
        "a string" | "string only" => (false, "it in quotes, such as \"10s\""),
        "a sequence" => (false, "it in brackets, such as [\"one\", \"two\"]"),
        _ => return None,
    };
    Some(match text.filter(|_| bare) {
        Some(text) => format!("write it without quotes: {text}"),
        None => format!("write {usual}"),
    })
}

/// A value as it is named in a sentence: what it is, or how it is written where it may be a secret.
pub(crate) fn value(node: &Node) -> String {
    match &node.content {
        Content::Table(_) => "a table".to_owned(),
        Content::Array(_) => "a list".to_owned(),
        Content::Scalar(scalar) => {
            let kind = match &scalar.value {
                toml::Value::String(_) => "string",
                toml::Value::Boolean(_) => "boolean",
                toml::Value::Datetime(_) => "date",
                _ => "number",
            };
            match (&scalar.shown, &scalar.value) {
                (Some(shown), _) => format!("a {kind} from `{shown}`"),
                (None, toml::Value::String(text)) => format!("the string {text:?}"),
                (None, value) => format!("the {kind} {value}"),
            }
        }
    }
}

/// A list of names in a sentence.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// The candidate that `name` may have been meant to be.
pub(crate) fn near<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = 1 + name.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= far && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The help for a name that is none: the nearest one, and all of them.
pub(crate) fn suggestion(name: &str, what: &str, candidates: &[&str]) -> Option<String> {
    let all = || format!("{what}: {}", list(candidates.iter().copied()));
    match near(name, candidates.iter().copied()) {
        Some(near) if candidates.len() == 1 => Some(format!("did you mean `{near}`?")),
        Some(near) => Some(format!("did you mean `{near}`? ({})", all())),
        None if candidates.is_empty() => None,
        None => Some(all()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_apart() {
        let read = Complaint::read;
        let known = vec!["a", "b"];
        assert_eq!(
            read("unknown field `x`, expected `a` or `b`\nin `y`\n"),
            Complaint::UnknownKey { name: "x", known }
        );
        assert_eq!(
            read("unknown field `x`, there are no fields"),
            Complaint::UnknownKey { name: "x", known: vec![] }
        );
        let known = vec!["a", "b", "c"];
        assert_eq!(
            read("unknown variant `x`, expected one of `a`, `b`, `c`"),
            Complaint::UnknownWord { known }
        );
        assert_eq!(read("missing field `a`"), Complaint::Missing("a"));
        assert_eq!(
            read("invalid type: string \", expected x\", expected u32"),
            Complaint::Type { expected: "u32" }
        );
        assert_eq!(read("invalid value: integer `-5`, expected u32"), Complaint::Range { expected: "u32" });
        assert_eq!(read("must be positive"), Complaint::Other("must be positive"));
    }

    #[test]
    fn a_near_name_is_found() {
        let names = ["otlp", "otlphttp", "debug", "memory_limiter"];
        assert_eq!(near("oltp", names), Some("otlp"));
        assert_eq!(near("memory_limitr", names), Some("memory_limiter"));
        assert_eq!(near("OTLP", names), Some("otlp"));
        assert_eq!(near("kafka", names), None);
        assert_eq!(near("x", ["y"]), None);
    }
}
