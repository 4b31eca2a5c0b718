//! Text 0.0.4 and OpenMetrics 1.0, line by line.
//!
//! Sources: prometheus/docs `exposition_formats.md`, `open_metrics_spec.md`, `escaping_schemes.md` (names in quotes).
//! Where Prometheus is more lenient than the specifications, so is this, but for what would change a meaning.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::{SLICE, number};
use crate::scrape::error::{Failed, Reason};
use crate::scrape::labels::{Labels, MOST, NAME};
use crate::scrape::series::{Exemplar, Scrape, Type};

/// Reads an exposition in text.
pub(super) struct Reader<'b> {
    rest: &'b [u8],
    /// Counts lines, from 1.
    line: u64,
    open_metrics: bool,
    /// `# EOF` has come.
    ended: bool,
}

// === impl Reader ===

impl<'b> Reader<'b> {
    pub(super) fn new(body: &'b [u8], open_metrics: bool) -> Self {
        Self { rest: body, line: 0, open_metrics, ended: false }
    }

    pub(super) fn step(&mut self, scrape: &mut Scrape<'_>) -> Result<bool, Failed> {
        let until = self.rest.len().saturating_sub(SLICE);
        while self.rest.len() > until {
            let (line, rest) = match memchr(b'\n', self.rest) {
                Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
                None => (self.rest, &b""[..]),
            };
            self.rest = rest;
            self.line += 1;
            self.line(line, scrape).map_err(|failed| failed.in_line(self.line))?;
        }
        if self.rest.is_empty() && self.open_metrics && !self.ended {
            return Err(Failed::parse(
                "OpenMetrics ends with \"# EOF\", and this does not: it may be cut off",
            ));
        }
        Ok(!self.rest.is_empty())
    }

    fn line(&mut self, line: &[u8], scrape: &mut Scrape<'_>) -> Result<(), Failed> {
        if self.ended {
            return Err(Failed::parse("something follows \"# EOF\""));
        }
        match line {
            [] if self.open_metrics => Err(Failed::parse("OpenMetrics has no empty lines")),
            [b'#', comment @ ..] => self.comment(comment, scrape),
            [b' ' | b'\t', ..] | [] => match blanks(line) {
                [] => Ok(()),
                _ if self.open_metrics => Err(Failed::parse("a line begins with a blank")),
                [b'#', comment @ ..] => self.comment(comment, scrape),
                line => self.sample(line, scrape),
            },
            _ => self.sample(line, scrape),
        }
    }

    fn comment(&mut self, comment: &[u8], scrape: &mut Scrape<'_>) -> Result<(), Failed> {
        if self.open_metrics && comment == b" EOF" {
            self.ended = true;
            return Ok(());
        }
        let (keyword, rest) = token(blanks(comment));
        if !(matches!(keyword, b"HELP" | b"TYPE") || keyword == b"UNIT" && self.open_metrics) {
            return match self.open_metrics {
                true => Err(Failed::parse("a comment is none of HELP, TYPE, UNIT and EOF")),
                false => Ok(()),
            };
        }
        let (name, rest) = metric_name(blanks(rest))?;
        let text = rest.strip_prefix(b" ").or_else(|| rest.strip_prefix(b"\t")).unwrap_or(rest);
        let family = scrape.declare(name.as_bytes());
        match keyword {
            b"HELP" => {
                let text = utf8(text)?;
                family.help.clear();
                if text.contains('\\') {
                    family.help.push_str(&unescape(text, self.open_metrics));
                } else {
                    family.help.push_str(text);
                }
            }
            b"TYPE" => {
                let (word, _) = token(blanks(text));
                family.kind = Type::read(word, self.open_metrics)
                    .ok_or_else(|| Failed::parse(format!("\"{}\" is no type", word.escape_ascii())))?;
            }
            _ => {
                let unit = utf8(text)?;
                if !unit.is_empty() && !name.strip_suffix(unit).is_some_and(|name| name.ends_with('_')) {
                    return Err(Failed::parse(format!("the name {name} does not end with its unit, {unit}")));
                }
                family.measure(unit)?;
            }
        }
        Ok(())
    }

    fn sample(&mut self, line: &[u8], scrape: &mut Scrape<'_>) -> Result<(), Failed> {
        let (id, rest) = match scrape.expect(line)? {
            Some((id, length)) => (id, &line[length..]),
            None => {
                let (text, rest) = line.split_at(series(line)?);
                let id = match scrape.find(&[text])? {
                    Some(id) => id,
                    None => scrape.add(&[text], labels(text)?, false)?,
                };
                (id, rest)
            }
        };
        let (value, rest) = token(blanks(rest));
        let value = number::float(value)
            .ok_or_else(|| Failed::parse(format!("\"{}\" is no value", value.escape_ascii())))?;
        if rest.is_empty() {
            return scrape.number(id, value, None, None, None);
        }
        let (time, rest) = match blanks(rest) {
            [] => (None, &b""[..]),
            exemplar @ [b'#', ..] => (None, exemplar),
            rest => {
                let (time, rest) = token(rest);
                (Some(self.time(time)?), blanks(rest))
            }
        };
        let exemplar = match rest {
            [] => None,
            [b'#', rest @ ..] if self.open_metrics => Some(self.exemplar(blanks(rest))?),
            _ => return Err(Failed::parse("something follows the value and its time")),
        };
        scrape.number(id, value, time, None, exemplar.as_ref())
    }

    fn time(&self, text: &[u8]) -> Result<u64, Failed> {
        let time = match self.open_metrics {
            true => number::float(text).and_then(number::seconds),
            false => number::millis(text),
        };
        time.ok_or_else(|| Failed::parse(format!("\"{}\" is no time", text.escape_ascii())))
    }

    fn exemplar<'l>(&self, text: &'l [u8]) -> Result<Exemplar<'l>, Failed> {
        let mut exemplar = Exemplar::default();
        let rest = braces(text, |name, value| {
            let value = value.ok_or_else(|| Failed::parse("an exemplar has no name"))?;
            exemplar.label(name, value);
            Ok(())
        })?;
        let (value, rest) = token(blanks(rest));
        exemplar.value = number::float(value).ok_or_else(|| Failed::parse("an exemplar has no value"))?;
        let (time, rest) = token(blanks(rest));
        exemplar.time = if time.is_empty() { None } else { Some(self.time(time)?) };
        match blanks(rest) {
            [] => Ok(exemplar),
            _ => Err(Failed::parse("something follows an exemplar")),
        }
    }
}

/// What is left after blanks.
#[inline]
fn blanks(text: &[u8]) -> &[u8] {
    let mut text = text;
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// What stands before the next blank, and the rest.
#[inline]
fn token(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(text.len());
    text.split_at(end)
}

fn utf8(text: &[u8]) -> Result<&str, Failed> {
    std::str::from_utf8(text).map_err(|_| Failed::parse("it is not UTF-8"))
}

/// The length of the name and the labels that a line begins with.
fn series(line: &[u8]) -> Result<usize, Failed> {
    let name = line.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'{')).unwrap_or(line.len());
    let gap = line.len() - name - blanks(&line[name..]).len();
    if line.get(name + gap) != Some(&b'{') {
        return Ok(name);
    }
    let mut at = name + gap + 1;
    loop {
        let rest = line.get(at..).unwrap_or_default();
        let next =
            memchr2(b'"', b'}', rest).ok_or_else(|| Failed::parse("labels without a closing brace"))?;
        at += next + 1;
        if rest.get(next) == Some(&b'}') {
            return Ok(at);
        }
        at += quoted(line.get(at..).unwrap_or_default())? + 1;
    }
}

/// The length of what stands in quotes, after the opening one.
fn quoted(text: &[u8]) -> Result<usize, Failed> {
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let next = memchr2(b'"', b'\\', rest).ok_or_else(|| Failed::parse("a quote without its end"))?;
        at += next;
        if rest.get(next) == Some(&b'"') {
            return Ok(at);
        }
        at += 2;
    }
}

/// The name and the labels of a series.
fn labels(text: &[u8]) -> Result<Labels, Failed> {
    let end = text.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'{')).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
    if !name.is_empty() {
        pairs.push((NAME.into(), bare_name(name, b":")?.into()));
    }
    let rest = blanks(rest);
    if !rest.is_empty() {
        braces(rest, |name, value| {
            pairs.push(match value {
                Some(value) => (name, value),
                None => (NAME.into(), name),
            });
            if pairs.len() > MOST {
                return Err(Failed::new(Reason::Limit, format!("a series has more than {MOST} labels")));
            }
            Ok(())
        })?;
    }
    let labels = Labels::distinct(pairs)
        .map_err(|twice| Failed::parse(format!("the label {twice} stands there twice")))?;
    match labels.get(NAME).is_empty() {
        false => Ok(labels),
        true => Err(Failed::parse("a series has no name")),
    }
}

/// Reads labels in braces: each name, and its value. A name alone, in quotes, is that of the metric.
fn braces<'t>(
    text: &'t [u8],
    mut each: impl FnMut(Cow<'t, str>, Option<Cow<'t, str>>) -> Result<(), Failed>,
) -> Result<&'t [u8], Failed> {
    let Some(mut rest) = text.strip_prefix(b"{") else { return Err(Failed::parse("there are no labels")) };
    loop {
        rest = blanks(rest);
        if let Some(rest) = rest.strip_prefix(b"}") {
            return Ok(rest);
        }
        let in_quotes = rest.first() == Some(&b'"');
        let name;
        if in_quotes {
            (name, rest) = quote(rest)?;
        } else {
            let end = rest.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'=' | b',' | b'}'));
            let (bare, after) = rest.split_at(end.unwrap_or(rest.len()));
            (name, rest) = (bare_name(bare, b"")?.into(), after);
        }
        rest = blanks(rest);
        if let Some(after) = rest.strip_prefix(b"=") {
            let (value, after) = quote(blanks(after))?;
            each(name, Some(value))?;
            rest = blanks(after);
        } else if in_quotes {
            each(name, None)?;
        } else {
            return Err(Failed::parse(format!("the label {name} has no value")));
        }
        match rest {
            [b',', after @ ..] => rest = after,
            [b'}', ..] => {}
            _ => return Err(Failed::parse("labels are neither separated nor closed")),
        }
    }
}

/// Text in quotes, without them, and what follows.
fn quote(text: &[u8]) -> Result<(Cow<'_, str>, &[u8]), Failed> {
    let Some(inside) = text.strip_prefix(b"\"") else { return Err(Failed::parse("a quote is missing")) };
    let (inside, rest) = inside.split_at(quoted(inside)?);
    let inside = utf8(inside)?;
    let inside = if inside.contains('\\') { unescape(inside, true).into() } else { inside.into() };
    Ok((inside, rest.get(1..).unwrap_or_default()))
}

/// Text without its escapes. What is none stays as it is.
fn unescape(text: &str, quotes: bool) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let mut chars = after.chars();
        match chars.next() {
            Some('n') => plain.push('\n'),
            Some('\\') => plain.push('\\'),
            Some('"') if quotes => plain.push('"'),
            Some(other) => plain.extend(['\\', other]),
            None => plain.push('\\'),
        }
        rest = chars.as_str();
    }
    plain + rest
}

/// The name of a metric in a comment, which may stand in quotes, and what follows.
fn metric_name(text: &[u8]) -> Result<(Cow<'_, str>, &[u8]), Failed> {
    if text.first() == Some(&b'"') {
        return quote(text);
    }
    let (name, rest) = token(text);
    Ok((bare_name(name, b":")?.into(), rest))
}

/// A name without quotes: letters, digits, `_` and what else is allowed.
fn bare_name<'t>(name: &'t [u8], also: &[u8]) -> Result<&'t str, Failed> {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || also.contains(byte);
    if name.is_empty() || name.first().is_some_and(u8::is_ascii_digit) || !name.iter().all(is_name) {
        return Err(Failed::parse(format!("\"{}\" is no name", name.escape_ascii())));
    }
    utf8(name)
}
