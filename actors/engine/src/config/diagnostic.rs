//! What is wrong, where, and what would be right: collected first, then shown all at once.

use std::fmt;

use super::place::{Place, Spot, Text};

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    /// The errors, in the order of the text.
    pub errors: Vec<Diagnostic>,
}

/// One thing that is wrong, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it stands in the way of starting.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where; `None` for what no text says.
    pub place: Option<Place>,
    /// What would be right.
    pub help: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is started.
    Error,
    /// It is started, and this is said.
    Warning,
}

/// Collects diagnostics, and knows the texts they are about.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) texts: Vec<Text>,
    errors: Vec<(Option<Spot>, Diagnostic)>,
    warnings: Vec<(Option<Spot>, Diagnostic)>,
}

// === impl Report ===

impl Report {
    /// Adds a text; the number is for the [`Spot`]s in it.
    pub(crate) fn text(&mut self, text: Text) -> usize {
        self.texts.push(text);
        self.texts.len() - 1
    }

    pub(crate) fn error(&mut self, at: &Spot, message: impl Into<String>, help: Option<String>) {
        let error = self.diagnostic(Severity::Error, Some(at), message.into(), help);
        self.errors.push((Some(at.clone()), error));
    }

    /// An error of no text in particular.
    pub(crate) fn error_nowhere(&mut self, message: impl Into<String>, help: Option<String>) {
        let error = self.diagnostic(Severity::Error, None, message.into(), help);
        self.errors.push((None, error));
    }

    pub(crate) fn warn(&mut self, at: Option<&Spot>, message: impl Into<String>, help: Option<String>) {
        let warning = self.diagnostic(Severity::Warning, at, message.into(), help);
        self.warnings.push((at.cloned(), warning));
    }

    /// Where `spot` is, for sentences.
    pub(crate) fn place(&self, spot: &Spot) -> Option<Place> {
        self.texts.get(spot.text).map(|text| text.place(&spot.span))
    }

    /// The warnings if there is no error, else the errors.
    pub(crate) fn finish(self) -> Result<Vec<Diagnostic>, Diagnostics> {
        if self.errors.is_empty() {
            Ok(ordered(self.warnings))
        } else {
            Err(Diagnostics { errors: ordered(self.errors) })
        }
    }

    fn diagnostic(
        &self,
        severity: Severity,
        at: Option<&Spot>,
        message: String,
        help: Option<String>,
    ) -> Diagnostic {
        Diagnostic { severity, message, place: at.and_then(|at| self.place(at)), help }
    }
}

/// In the order of the texts, each thing once: a mistake met from two sides is one mistake.
fn ordered(mut found: Vec<(Option<Spot>, Diagnostic)>) -> Vec<Diagnostic> {
    found.sort_by_key(|(at, _)| at.as_ref().map(|at| (at.text, at.span.start)));
    let mut diagnostics: Vec<Diagnostic> = Vec::with_capacity(found.len());
    for (_, diagnostic) in found {
        if !diagnostics.contains(&diagnostic) {
            diagnostics.push(diagnostic);
        }
    }
    diagnostics
}

// === impl Diagnostic ===

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)?;
        let mut margin = 1;
        if let Some(place) = &self.place {
            let line = place.line.to_string();
            margin = line.len();
            write!(f, "\n{:margin$} --> {place}", "")?;
            if place.line > 0 {
                let before: String = shown(place.text.chars().take(place.column - 1));
                let meant: String = shown(place.text.chars().skip(place.column - 1).take(place.width));
                let carets = meant.chars().count().max(1);
                write!(f, "\n{:margin$}  |", "")?;
                write!(f, "\n {line} | {}", shown(place.text.chars()))?;
                write!(
                    f,
                    "\n{:margin$}  | {:before$}{:^<carets$}",
                    "",
                    "",
                    "",
                    before = before.chars().count()
                )?;
            }
        }
        if let Some(help) = &self.help {
            write!(f, "\n{:margin$}  = help: {help}", "")?;
        }
        Ok(())
    }
}

/// A tab has no width of its own, and a control character may steer a terminal.
fn shown(text: impl Iterator<Item = char>) -> String {
    let mut line = String::new();
    for c in text {
        match c {
            '\t' => line.push_str("    "),
            c if c.is_control() => line.push(char::REPLACEMENT_CHARACTER),
            c => line.push(c),
        }
    }
    line
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

// === impl Diagnostics ===

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}\n")?;
        }
        match self.errors.len() {
            1 => f.write_str("1 error: nothing was started"),
            n => write!(f, "{n} errors: nothing was started"),
        }
    }
}

impl std::error::Error for Diagnostics {}
