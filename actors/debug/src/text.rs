//! Text as it goes to the log: never more than a page at once, and never a line that the telemetry made up.

use std::fmt;
use std::fmt::Write as _;

use watershed_telemetry::view::{AnyValueView, Attributes, Number, Value};

/// The most that one event of the log holds, in bytes. What is longer goes on in the next.
pub(crate) const PAGE: usize = 64 << 10;

/// Where text is written. It leaves when a page is full, and at the end of each item.
pub(crate) struct Page<'a> {
    text: String,
    emit: &'a mut dyn FnMut(&str),
}

/// Text from outside. A line break in it would read as a line of the log's own, so control characters are escaped.
pub(crate) struct Clean<'a>(pub(crate) &'a str);

/// Bytes in hex.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

/// A value without its type: `[a,{k=v}]`.
pub(crate) struct Plain<'a>(pub(crate) AnyValueView<'a>);

/// Attributes on one line, each after a space: ` a=1 b=2`.
pub(crate) struct Pairs<'a>(pub(crate) Attributes<'a>);

/// A value of a data point or an exemplar.
pub(crate) struct Figure(pub(crate) Option<Number>);

// === impl Page ===

impl<'a> Page<'a> {
    pub(crate) fn new(emit: &'a mut dyn FnMut(&str)) -> Self {
        Self { text: String::new(), emit }
    }

    /// Ends an item: what is written goes to the log.
    pub(crate) fn end(&mut self) {
        let text = self.text.trim_end_matches('\n');
        if !text.is_empty() {
            (self.emit)(text);
        }
        self.text.clear();
    }
}

impl fmt::Write for Page<'_> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        while self.text.len() + text.len() > PAGE {
            let (here, rest) = text.split_at(text.floor_char_boundary(PAGE - self.text.len()));
            self.text.push_str(here);
            self.end();
            text = rest;
        }
        self.text.push_str(text);
        Ok(())
    }
}

// === impl Clean ===

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(char::is_control) {
            let (clean, from) = rest.split_at(at);
            f.write_str(clean)?;
            let mut characters = from.chars();
            characters.next().map_or(Ok(()), |control| write!(f, "{}", control.escape_default()))?;
            rest = characters.as_str();
        }
        f.write_str(rest)
    }
}

// === impl Hex ===

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

// === impl Plain ===

impl fmt::Display for Plain<'_> {
    /// Values nest no deeper than validation lets them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.value() {
            Value::Empty => Ok(()),
            Value::Str(text) => Clean(text).fmt(f),
            Value::Bool(value) => value.fmt(f),
            Value::Int(value) => value.fmt(f),
            Value::Double(value) => value.fmt(f),
            Value::Array(values) => {
                f.write_char('[')?;
                separated(f, ',', values.map(Plain))?;
                f.write_char(']')
            }
            Value::KvList(pairs) => {
                f.write_char('{')?;
                separated(f, ' ', pairs.map(|pair| Pair(pair.key(), pair.value())))?;
                f.write_char('}')
            }
            Value::Bytes(bytes) => Hex(bytes).fmt(f),
        }
    }
}

fn separated<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    separator: char,
    parts: impl Iterator<Item = T>,
) -> fmt::Result {
    for (index, part) in parts.enumerate() {
        if index > 0 {
            f.write_char(separator)?;
        }
        part.fmt(f)?;
    }
    Ok(())
}

// === impl Pairs ===

impl fmt::Display for Pairs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.into_iter().try_for_each(|pair| write!(f, " {}", Pair(pair.key(), pair.value())))
    }
}

/// `key=value`
struct Pair<'a>(&'a str, AnyValueView<'a>);

impl fmt::Display for Pair<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", Clean(self.0), Plain(self.1))
    }
}

// === impl Figure ===

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Number::Int(value)) => value.fmt(f),
            Some(Number::Double(value)) => value.fmt(f),
            None => f.write_str("no value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(write: impl FnOnce(&mut Page<'_>)) -> Vec<String> {
        let mut pages = Vec::new();
        let mut emit = |text: &str| pages.push(text.to_owned());
        write(&mut Page::new(&mut emit));
        pages
    }

    #[test]
    fn what_is_longer_than_a_page_goes_on_in_the_next_and_nothing_is_lost() {
        let text = "ä".repeat(PAGE);
        let written = pages(|page| {
            write!(page, "x{text}").unwrap();
            page.end();
        });
        assert!(written.len() > 2 && written.iter().all(|page| page.len() <= PAGE));
        assert_eq!(written.concat(), format!("x{text}"));
    }

    #[test]
    fn an_item_ends_its_page_and_an_empty_one_is_none() {
        let written = pages(|page| {
            writeln!(page, "one").unwrap();
            page.end();
            page.end();
            writeln!(page, "two").unwrap();
            page.end();
        });
        assert_eq!(written, ["one", "two"]);
    }

    #[test]
    fn telemetry_can_not_write_lines_of_its_own() {
        assert_eq!(
            Clean("a\nERROR all is lost\u{1b}[31m\0é").to_string(),
            r"a\nERROR all is lost\u{1b}[31m\u{0}é"
        );
    }
}
