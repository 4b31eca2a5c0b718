//! Tokens into a tree: operator precedence, after Pratt.

use std::ops::Range;

use thiserror::Error;

use crate::lexer::{Spanned, Token, tokens};

/// How deep expressions may lie in one another: recursion ends here.
const MAX_DEPTH: usize = 64;

/// What is wrong with a condition, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("column {column}: {message}")]
pub struct SyntaxError {
    /// The character it is about, counted from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// What a path is indexed with: `["text"]` or `[0]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A key of a map.
    Name(String),
    /// A place in a list.
    Index(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// An expression and where it stands, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) node: Node,
    pub(crate) span: Range<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Nil,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// `a.b["k"][0]`: the dotted name, and the keys.
    Path(String, Vec<Key>),
    /// `UPPER_CASE`.
    Constant(String),
    /// `Name(arguments)`.
    Call(String, Vec<Expr>),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Compare(Operator, Box<Expr>, Box<Expr>),
}

impl SyntaxError {
    /// An error about what stands at byte `at` of `text`.
    pub(crate) fn new(text: &str, at: usize, message: impl Into<String>) -> Self {
        let before = text.get(..at).unwrap_or(text);
        Self { column: before.chars().count() + 1, message: message.into() }
    }
}

/// Parses a whole text.
pub(crate) fn parse(text: &str) -> Result<Expr, SyntaxError> {
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, depth: 0 };
    let expr = parser.expression(0)?;
    match parser.peek() {
        Token::End => Ok(expr),
        found => Err(parser.error(format!("expected `and`, `or` or the end, found {found}"))),
    }
}

struct Parser<'t> {
    text: &'t str,
    tokens: Vec<Spanned<'t>>,
    at: usize,
    depth: usize,
}

/// What binds an operator to its left, weakest first.
fn binding(sign: &str) -> Option<(u8, Option<Operator>)> {
    Some(match sign {
        "or" => (1, None),
        "and" => (2, None),
        "==" => (4, Some(Operator::Equal)),
        "!=" => (4, Some(Operator::NotEqual)),
        "<" => (4, Some(Operator::Less)),
        "<=" => (4, Some(Operator::LessOrEqual)),
        ">" => (4, Some(Operator::Greater)),
        ">=" => (4, Some(Operator::GreaterOrEqual)),
        _ => return None,
    })
}

/// `not` takes a comparison, but not what `and` joins to it.
const NOT: u8 = 3;

impl<'t> Parser<'t> {
    fn peek(&self) -> Token<'t> {
        self.tokens.get(self.at).map_or(Token::End, |spanned| spanned.token.clone())
    }

    fn span(&self) -> Range<usize> {
        let end = self.text.len();
        self.tokens.get(self.at).map_or(end..end, |spanned| spanned.span.clone())
    }

    fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.text, self.span().start, message)
    }

    fn next(&mut self) -> (Token<'t>, Range<usize>) {
        let next = (self.peek(), self.span());
        self.at += 1;
        next
    }

    /// Takes that sign, if it is next.
    fn takes(&mut self, sign: &'static str) -> bool {
        let is_next = self.peek() == Token::Sign(sign);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), SyntaxError> {
        if self.takes(sign) {
            return Ok(());
        }
        Err(self.error(format!("expected `{sign}`, found {}", self.peek())))
    }

    /// An expression of operators that bind more than `min`.
    fn expression(&mut self, min: u8) -> Result<Expr, SyntaxError> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error(format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let mut left = self.operand()?;
        while let Token::Sign(sign) = self.peek()
            && let Some((power, operator)) = binding(sign)
            && power > min
        {
            if matches!(left.node, Node::Compare(..)) && operator.is_some() {
                return Err(self.error("comparisons do not chain: join them by `and`"));
            }
            self.at += 1;
            let right = self.expression(power)?;
            let span = left.span.start..right.span.end;
            // A chain is one node: trees are only as deep as parentheses are.
            let node = match (operator, sign, left.node) {
                (Some(operator), _, node) => {
                    let left = Expr { node, span: left.span };
                    Node::Compare(operator, Box::new(left), Box::new(right))
                }
                (None, "and", Node::And(mut all)) => {
                    all.push(right);
                    Node::And(all)
                }
                (None, "or", Node::Or(mut any)) => {
                    any.push(right);
                    Node::Or(any)
                }
                (None, sign, node) => {
                    let both = vec![Expr { node, span: left.span }, right];
                    if sign == "and" { Node::And(both) } else { Node::Or(both) }
                }
            };
            left = Expr { node, span };
        }
        self.depth -= 1;
        Ok(left)
    }

    fn operand(&mut self) -> Result<Expr, SyntaxError> {
        let start = self.at;
        let (token, span) = self.next();
        let node = match token {
            Token::Sign("(") => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("not") => Node::Not(Box::new(self.expression(NOT)?)),
            Token::Sign("true") => Node::Bool(true),
            Token::Sign("false") => Node::Bool(false),
            Token::Sign("nil") => Node::Nil,
            Token::Int(value) => Node::Int(value),
            Token::Double(value) => Node::Double(value),
            Token::Text(text) => Node::Text(text),
            Token::Bytes(bytes) => Node::Bytes(bytes),
            Token::Name(name) => self.path(name)?,
            Token::Proper(name) if self.takes("(") => Node::Call(name.to_owned(), self.arguments()?),
            Token::Proper(name) => Node::Constant(name.to_owned()),
            found @ (Token::Sign(_) | Token::End) => {
                self.at = start;
                return Err(self.error(format!("expected a path, a value or a function, found {found}")));
            }
        };
        let last = self.tokens.get(self.at - 1).map_or(span.end, |spanned| spanned.span.end);
        Ok(Expr { node, span: span.start..last })
    }

    fn path(&mut self, first: &str) -> Result<Node, SyntaxError> {
        let mut path = first.to_owned();
        while self.takes(".") {
            let Token::Name(name) = self.peek() else {
                return Err(self.error(format!("expected a name after `.`, found {}", self.peek())));
            };
            self.at += 1;
            path.push('.');
            path.push_str(name);
        }
        let mut keys = Vec::new();
        while self.takes("[") {
            keys.push(match self.peek() {
                Token::Text(key) => Key::Name(key),
                Token::Int(index) if index >= 0 => Key::Index(usize::try_from(index).unwrap_or(usize::MAX)),
                found => {
                    return Err(self.error(format!("expected a key as [\"name\"] or [0], found {found}")));
                }
            });
            self.at += 1;
            self.expect("]")?;
        }
        Ok(Node::Path(path, keys))
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, SyntaxError> {
        let mut arguments = Vec::new();
        if self.takes(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression(0)?);
            if !self.takes(",") {
                self.expect(")")?;
                return Ok(arguments);
            }
        }
    }
}
