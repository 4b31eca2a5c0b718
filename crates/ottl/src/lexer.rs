//! Text into tokens.

use std::fmt;
use std::ops::Range;

use crate::parser::SyntaxError;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'t> {
    /// A part of a path, in lower case.
    Name(&'t str),
    /// A constant or a function, starting in upper case.
    Proper(&'t str),
    Text(String),
    Int(i64),
    Double(f64),
    Bytes(Vec<u8>),
    /// `and`, `or`, `not`, `true`, `false`, `nil`, and all that is no word.
    Sign(&'static str),
    End,
}

/// A token and where it stands, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Spanned<'t> {
    pub(crate) token: Token<'t>,
    pub(crate) span: Range<usize>,
}

/// Longer ones first.
const SIGNS: [&str; 12] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ".", ","];

const WORDS: [&str; 6] = ["and", "or", "not", "true", "false", "nil"];

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) | Self::Proper(name) => write!(f, "`{name}`"),
            Self::Sign(sign) => write!(f, "`{sign}`"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Int(value) => write!(f, "`{value}`"),
            Self::Double(value) => write!(f, "`{value}`"),
            Self::Bytes(_) => f.write_str("bytes"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// All tokens, with [`Token::End`] last.
pub(crate) fn tokens(text: &str) -> Result<Vec<Spanned<'_>>, SyntaxError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start().len();
        let (start, rest) = (at + blank, rest.trim_start());
        let (token, len) = token(rest).map_err(|message| SyntaxError::new(text, start, message))?;
        at = start + len;
        let is_end = token == Token::End;
        tokens.push(Spanned { token, span: start..at });
        if is_end {
            return Ok(tokens);
        }
    }
}

/// The token that `rest` starts with, and its length.
fn token(rest: &str) -> Result<(Token<'_>, usize), String> {
    let Some(first) = rest.chars().next() else { return Ok((Token::End, 0)) };
    let second = rest.as_bytes().get(1).copied().unwrap_or_default();
    let run = |is_part: fn(char) -> bool| rest.split(|part| !is_part(part)).next().unwrap_or_default();
    let is_number = first.is_ascii_digit() || ".+-".contains(first) && second.is_ascii_digit();
    if rest.starts_with("0x") {
        let word = run(|part| part.is_ascii_alphanumeric());
        return Ok((Token::Bytes(unhex(word.get(2..).unwrap_or_default())?), word.len()));
    }
    if is_number || "+-".contains(first) && second == b'.' {
        return number(rest);
    }
    if first.is_ascii_alphabetic() {
        let word = run(|part| part.is_ascii_alphanumeric() || part == '_');
        let token = match WORDS.iter().find(|known| **known == word) {
            Some(known) => Token::Sign(known),
            None if first.is_ascii_uppercase() => Token::Proper(word),
            None => Token::Name(word),
        };
        return Ok((token, word.len()));
    }
    if first == '"' {
        return quoted(rest);
    }
    if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
        return Ok((Token::Sign(sign), sign.len()));
    }
    Err(match first {
        '\'' => "a text is written in double quotes".to_owned(),
        '=' => "`=` is no operator: to compare, write `==`".to_owned(),
        '&' | '|' | '!' => format!("`{first}` is no operator: write `and`, `or`, `not`"),
        '+' | '-' | '*' | '/' => "arithmetic is not known".to_owned(),
        _ => format!("{first:?} means nothing here"),
    })
}

fn number(rest: &str) -> Result<(Token<'_>, usize), String> {
    let mut previous = ' ';
    let is_part = |part: char| {
        let is_sign = "+-".contains(part) && matches!(previous, ' ' | 'e' | 'E');
        previous = part;
        part.is_ascii_alphanumeric() || part == '.' || is_sign
    };
    let len = rest.len() - rest.trim_start_matches(is_part).len();
    let word = rest.get(..len).unwrap_or_default();
    let token = match word.contains(['.', 'e', 'E']) {
        true => word.parse().ok().filter(|value: &f64| value.is_finite()).map(Token::Double),
        false => word.parse().ok().map(Token::Int),
    };
    Ok((token.ok_or_else(|| format!("`{word}` is no number"))?, len))
}

fn unhex(digits: &str) -> Result<Vec<u8>, String> {
    let bytes = (0..digits.len()).step_by(2);
    let bytes = bytes.map(|at| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()));
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.ok_or_else(|| format!("`0x{digits}` is not bytes: it takes pairs of hexadecimal digits"))
}

fn quoted(rest: &str) -> Result<(Token<'_>, usize), String> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, next)) = chars.next() {
        match next {
            '"' => return Ok((Token::Text(text), at + 1)),
            '\\' => match chars.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, escaped @ ('"' | '\\' | '\''))) => text.push(escaped),
                Some((_, escaped)) => {
                    let known = r#"known are \\ \" \n \r \t; a backslash in a pattern is written twice"#;
                    return Err(format!("`\\{escaped}` is no escape: {known}"));
                }
                None => break,
            },
            next => text.push(next),
        }
    }
    Err("a text without its closing quote".to_owned())
}
