//! Where something was set: a span of a file while checking, a line and a column once it is shown.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a value was set, with the line to show for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named, or what else set the value: ``environment variable `WATERSHED__…` ``,
    /// `` `--set a.b` ``.
    pub file: Arc<str>,
    /// The line, from 1; 0 for a place without lines.
    pub line: usize,
    /// The column in characters, from 1; 0 for a place without lines.
    pub column: usize,
    /// The text of the line.
    pub text: String,
    /// How many characters of it are meant.
    pub width: usize,
}

/// A text that sets values. What an environment variable or the command line says is never kept: it may be a
/// secret, and it has no lines to show.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) name: Arc<str>,
    pub(crate) text: Option<String>,
    /// What relative paths in it are relative to.
    pub(crate) directory: PathBuf,
}

/// A span of a text, the latter by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) text: usize,
    pub(crate) span: Range<usize>,
}

// === impl Spot ===

impl Spot {
    /// All of a text, for those that are no file.
    pub(crate) fn whole(text: usize) -> Self {
        Self { text, span: 0..0 }
    }
}

// === impl Text ===

impl Text {
    /// A text that is shown by its name only.
    pub(crate) fn unseen(name: String) -> Self {
        Self { name: name.into(), text: None, directory: PathBuf::new() }
    }

    /// What stands at `span`, as written.
    pub(crate) fn slice(&self, span: &Range<usize>) -> &str {
        self.text.as_deref().and_then(|text| text.get(span.clone())).unwrap_or_default()
    }

    /// The line and column of `span`. Spans are trusted to be nothing: a parser may point behind the last byte.
    pub(crate) fn place(&self, span: &Range<usize>) -> Place {
        let Some(text) = &self.text else {
            return Place { file: self.name.clone(), line: 0, column: 0, text: String::new(), width: 0 };
        };
        let start = boundary(text, span.start);
        let begin = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let meant = boundary(text, span.end).clamp(start, end);
        Place {
            file: self.name.clone(),
            line: text[..begin].matches('\n').count() + 1,
            column: text[begin..start].chars().count() + 1,
            text: text[begin..end].trim_end_matches('\r').to_owned(),
            width: text[start..meant].chars().count().max(1),
        }
    }
}

/// The last character boundary at or before `at`.
fn boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        Ok(())
    }
}
