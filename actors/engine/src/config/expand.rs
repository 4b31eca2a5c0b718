//! `${env:NAME}`, `${NAME}`, `${file:path}`, each with an optional `:-default`, and `$$` for a dollar sign.
//!
//! What a reference stands for is taken as it is and not expanded again: a `$` in a password stays one. It is
//! never shown either.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

/// References in references, at most.
const DEEPEST: usize = 16;

/// The largest file that `${file:…}` reads. It is for tokens and certificates.
const LARGEST: u64 = 1 << 20;

/// Knows what references stand for.
pub(crate) struct Expander<'a> {
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// What a relative `${file:…}` is relative to.
    pub(crate) directory: &'a Path,
}

/// A text after expansion.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expanded {
    /// It has no references.
    Plain(String),
    /// It has some among other text.
    Mixed(String),
    /// It is one reference and nothing else, so it may stand for a number.
    Whole(String),
}

/// Why a reference could not be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The part of the text that is meant.
    pub(crate) part: String,
    pub(crate) message: String,
    pub(crate) help: String,
}

// === impl Expander ===

impl Expander<'_> {
    /// Expands every reference in `text`, or says what is wrong with each that can not be.
    pub(crate) fn expand(&self, text: &str) -> Result<Expanded, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut references = false;
        let expanded = self.text(text, 0, &mut references, &mut problems);
        let whole =
            || text.strip_prefix("${").and_then(close).is_some_and(|end| end + "${}".len() == text.len());
        match () {
            () if !problems.is_empty() => Err(problems),
            () if !references => Ok(Expanded::Plain(expanded)),
            () if whole() => Ok(Expanded::Whole(expanded)),
            () => Ok(Expanded::Mixed(expanded)),
        }
    }

    fn text(&self, text: &str, depth: usize, references: &mut bool, problems: &mut Vec<Problem>) -> String {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            expanded.push_str(&rest[..dollar]);
            let from = &rest[dollar..];
            if let Some(after) = from.strip_prefix("$$") {
                expanded.push('$');
                rest = after;
            } else if let Some(inside) = from.strip_prefix("${") {
                *references = true;
                let Some(end) = close(inside) else {
                    problems.push(Problem {
                        part: from.to_owned(),
                        message: "`${` has no `}`".to_owned(),
                        help: "write `$$` for a dollar sign".to_owned(),
                    });
                    return expanded;
                };
                let whole = &from[..end + "${}".len()];
                expanded.push_str(&self.reference(whole, &inside[..end], depth, problems));
                rest = &inside[end + 1..];
            } else {
                expanded.push('$');
                rest = &from[1..];
            }
        }
        expanded.push_str(rest);
        expanded
    }

    /// What `written` stands for; `body` is what is between its braces.
    fn reference(&self, written: &str, body: &str, depth: usize, problems: &mut Vec<Problem>) -> String {
        let mut problem = |message: String, help: &str| {
            problems.push(Problem { part: written.to_owned(), message, help: help.to_owned() });
            String::new()
        };
        if depth == DEEPEST {
            return problem(
                format!("references are nested more than {DEEPEST} deep"),
                "name the value directly",
            );
        }
        let (name, default) = split_default(body);
        let mut nested = false;
        let known = problems.len();
        let source = self.text(name, depth + 1, &mut nested, problems);
        if problems.len() > known {
            return String::new();
        }
        let mut problem = |message: String, help: String| {
            problems.push(Problem { part: written.to_owned(), message, help });
            String::new()
        };
        let with_default = || format!("write `${{{name}:-default}}` to do without it");
        let found = match source.split_once(':') {
            Some(("file", path)) => match read(&self.directory.join(path)) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && default.is_some() => None,
                Err(error) => {
                    return problem(format!("can not read the file of `{written}`: {error}"), with_default());
                }
            },
            Some(("env", variable)) => self.environment.get(variable).cloned(),
            None => self.environment.get(source.as_str()).cloned(),
            Some(_) => {
                let help = "use `${env:NAME}` or `${file:path}`, and `$$` for a dollar sign".to_owned();
                return problem(format!("`{written}` is of an unknown kind"), help);
            }
        };
        let variable = source.strip_prefix("env:").unwrap_or(&source);
        match (found, default) {
            (Some(text), _) => text,
            (None, Some(default)) => self.text(default, depth + 1, &mut nested, problems),
            (None, None) if !is_variable(variable) && !nested => {
                let help = "use `${env:NAME}` or `${file:path}`, and `$$` for a dollar sign".to_owned();
                problem(format!("`{written}` names no environment variable"), help)
            }
            // What a nested reference stands for may be a secret, even if it is used as a name.
            (None, None) if nested => {
                problem(format!("the environment variable that `{written}` names is not set"), with_default())
            }
            (None, None) => problem(format!("environment variable `{variable}` is not set"), with_default()),
        }
    }
}

/// Where the brace closes that was opened just before `text`.
fn close(text: &str) -> Option<usize> {
    scan(text, |rest| rest.starts_with('}'))
}

/// `NAME:-default`, where neither is looked for inside of nested references.
fn split_default(body: &str) -> (&str, Option<&str>) {
    match scan(body, |rest| rest.starts_with(":-")) {
        Some(at) => (&body[..at], Some(&body[at + ":-".len()..])),
        None => (body, None),
    }
}

/// The first place outside of nested references that `is` recognises.
fn scan(text: &str, is: impl Fn(&str) -> bool) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if depth == 0 && is(rest) {
            return Some(at);
        }
        at += match rest {
            _ if rest.starts_with("$$") => 2,
            _ if rest.starts_with("${") => {
                depth += 1;
                2
            }
            _ => {
                if rest.starts_with('}') {
                    depth = depth.saturating_sub(1);
                }
                rest.chars().next().map_or(1, char::len_utf8)
            }
        };
    }
    None
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The text of a file, without the newline at its end that editors add.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    let end =
        text.strip_suffix('\n').map_or(text.len(), |line| line.strip_suffix('\r').unwrap_or(line).len());
    text.truncate(end);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<Expanded, Vec<Problem>> {
        let environment = [("A", "alpha"), ("NAME", "A"), ("PRICE", "5$${A}")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Expander { environment: &environment, directory: Path::new("/nowhere") }.expand(text)
    }

    fn plain(text: &str) -> Result<Expanded, Vec<Problem>> {
        Ok(Expanded::Plain(text.to_owned()))
    }

    fn mixed(text: &str) -> Result<Expanded, Vec<Problem>> {
        Ok(Expanded::Mixed(text.to_owned()))
    }

    fn whole(text: &str) -> Result<Expanded, Vec<Problem>> {
        Ok(Expanded::Whole(text.to_owned()))
    }

    #[test]
    fn references_are_replaced() {
        assert_eq!(expand("${env:A}"), whole("alpha"));
        assert_eq!(expand("${A}"), whole("alpha"));
        assert_eq!(expand("a ${A} and ${env:A}"), mixed("a alpha and alpha"));
        assert_eq!(expand("${A}${A}"), mixed("alphaalpha"));
        assert_eq!(expand("${env:${env:NAME}}"), whole("alpha"));
    }

    #[test]
    fn defaults_stand_for_what_is_not_set() {
        assert_eq!(expand("${env:B:-beta}"), whole("beta"));
        assert_eq!(expand("${B:-}"), whole(""));
        assert_eq!(expand("${A:-beta}"), whole("alpha"));
        assert_eq!(expand("${B:-${C:-${A}}}"), whole("alpha"));
        assert_eq!(expand("${file:missing:-none}"), whole("none"));
    }

    #[test]
    fn dollar_signs_are_kept() {
        assert_eq!(expand("$$"), plain("$"));
        assert_eq!(expand("$${A}"), plain("${A}"));
        assert_eq!(expand("$A costs $5"), plain("$A costs $5"));
        assert_eq!(expand("${PRICE}"), whole("5$${A}"));
        assert_eq!(expand("é$"), plain("é$"));
    }

    #[test]
    fn every_problem_is_told() {
        let problems = expand("${env:B} ${yaml:x} ${} ${NAME").unwrap_err();
        let parts: Vec<_> = problems.iter().map(|problem| problem.part.as_str()).collect();
        assert_eq!(parts, ["${env:B}", "${yaml:x}", "${}", "${NAME"]);
        assert_eq!(problems[0].message, "environment variable `B` is not set");
        assert_eq!(problems[0].help, "write `${env:B:-default}` to do without it");
    }

    #[test]
    fn a_nested_value_is_not_told() {
        let problems = expand("${env:X${env:A}}").unwrap_err();
        assert!(!problems[0].message.contains("alpha"), "{}", problems[0].message);
    }

    #[test]
    fn nesting_has_an_end() {
        let text = format!("{}{}", "${X:-".repeat(20), "}".repeat(20));
        assert!(expand(&text).unwrap_err()[0].message.contains("nested more than 16"));
    }

    #[test]
    fn a_file_is_read_without_its_last_newline() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), "secret\r\n").unwrap();
        let expander = Expander { environment: &BTreeMap::new(), directory: directory.path() };
        assert_eq!(expander.expand("Bearer ${file:token}"), mixed("Bearer secret"));
        assert_eq!(expander.expand("${file:/dev/zero}").unwrap_err().len(), 1);
    }
}
