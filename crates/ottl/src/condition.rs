//! A tree into a condition: names resolved, patterns compiled, and everything that is no condition refused.

use regex::Regex;
use thiserror::Error;

use crate::parser::{Expr, Key, Node, Operator, SyntaxError, parse};
use crate::value::Value;

/// Who knows what paths and constants mean.
pub trait Names {
    /// A path that was found.
    type Path;

    /// The path of that dotted name, indexed with `keys`. An error says what is wrong, or what is known.
    fn path(&self, name: &str, keys: &[Key]) -> Result<Self::Path, String>;

    /// The constant of that name, in upper case.
    fn constant(&self, name: &str) -> Option<i64>;
}

/// Why a condition is neither true nor false of some data.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("IsMatch takes a text, and finds {found}")]
pub struct Undecided {
    /// The kind of value that was found.
    found: &'static str,
}

/// A condition, ready to be evaluated.
#[derive(Clone, Debug)]
pub struct Condition<P>(Test<P>);

#[derive(Clone, Debug)]
enum Test<P> {
    Constant(bool),
    Not(Box<Test<P>>),
    And(Vec<Test<P>>),
    Or(Vec<Test<P>>),
    Compare(Operator, Box<[Operand<P>; 2]>),
    Match(Operand<P>, Regex),
}

#[derive(Clone, Debug)]
enum Operand<P> {
    Path(P),
    Nil,
    Int(i64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// A boolean, or something that is true or false.
    Test(Box<Test<P>>),
}

impl<P> Condition<P> {
    /// Parses a condition. All paths must be known to `names`.
    pub fn parse(text: &str, names: &impl Names<Path = P>) -> Result<Self, SyntaxError> {
        Compiler { text, names }.test(parse(text)?).map(Self)
    }

    /// Whether it is true of the data that `get` reads paths from.
    pub fn holds<'v>(&'v self, get: &impl Fn(&'v P) -> Value<'v>) -> Result<bool, Undecided> {
        self.0.holds(get)
    }
}

impl<P> Test<P> {
    fn holds<'v>(&'v self, get: &impl Fn(&'v P) -> Value<'v>) -> Result<bool, Undecided> {
        Ok(match self {
            Self::Constant(truth) => *truth,
            Self::Not(inner) => !inner.holds(get)?,
            Self::And(all) => {
                for test in all {
                    if !test.holds(get)? {
                        return Ok(false);
                    }
                }
                true
            }
            Self::Or(any) => {
                for test in any {
                    if test.holds(get)? {
                        return Ok(true);
                    }
                }
                false
            }
            Self::Compare(operator, both) => both[0].value(get)?.compare(*operator, both[1].value(get)?),
            Self::Match(operand, pattern) => {
                let text = operand.value(get)?.text().map_err(|found| Undecided { found })?;
                text.is_some_and(|text| pattern.is_match(&text))
            }
        })
    }
}

impl<P> Operand<P> {
    fn value<'v>(&'v self, get: &impl Fn(&'v P) -> Value<'v>) -> Result<Value<'v>, Undecided> {
        Ok(match self {
            Self::Path(path) => get(path),
            Self::Nil => Value::Nil,
            Self::Int(value) => Value::Int(*value),
            Self::Double(value) => Value::Double(*value),
            Self::Text(text) => Value::Str(text),
            Self::Bytes(bytes) => Value::Bytes(bytes),
            Self::Test(test) => Value::Bool(test.holds(get)?),
        })
    }
}

struct Compiler<'t, N> {
    text: &'t str,
    names: &'t N,
}

impl<N: Names> Compiler<'_, N> {
    fn error(&self, at: usize, message: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.text, at, message)
    }

    fn test(&self, expr: Expr) -> Result<Test<N::Path>, SyntaxError> {
        let at = expr.span.start;
        Ok(match expr.node {
            Node::Bool(truth) => Test::Constant(truth),
            Node::Not(inner) => Test::Not(Box::new(self.test(*inner)?)),
            Node::And(all) => Test::And(self.tests(all)?),
            Node::Or(any) => Test::Or(self.tests(any)?),
            Node::Compare(operator, left, right) => {
                Test::Compare(operator, Box::new([self.operand(*left)?, self.operand(*right)?]))
            }
            Node::Call(name, arguments) => self.call(at, &name, arguments)?,
            Node::Path(..) => {
                let path = self.text.get(expr.span).unwrap_or_default();
                let message = format!("`{path}` is a value, not a condition: compare it, as `{path} != nil`");
                return Err(self.error(at, message));
            }
            Node::Nil
            | Node::Int(_)
            | Node::Double(_)
            | Node::Text(_)
            | Node::Bytes(_)
            | Node::Constant(_) => {
                return Err(self.error(at, "a value is no condition: compare it with something"));
            }
        })
    }

    fn tests(&self, exprs: Vec<Expr>) -> Result<Vec<Test<N::Path>>, SyntaxError> {
        exprs.into_iter().map(|expr| self.test(expr)).collect()
    }

    fn operand(&self, expr: Expr) -> Result<Operand<N::Path>, SyntaxError> {
        let at = expr.span.start;
        Ok(match expr.node {
            Node::Nil => Operand::Nil,
            Node::Int(value) => Operand::Int(value),
            Node::Double(value) => Operand::Double(value),
            Node::Text(text) => Operand::Text(text),
            Node::Bytes(bytes) => Operand::Bytes(bytes),
            Node::Path(name, keys) => {
                let unknown = |message| self.error(at, format!("no path `{name}`: {message}"));
                Operand::Path(self.names.path(&name, &keys).map_err(unknown)?)
            }
            Node::Constant(name) => {
                let unknown =
                    || format!("no constant `{name}`: known are those of OTLP, as SPAN_KIND_SERVER");
                Operand::Int(self.names.constant(&name).ok_or_else(|| self.error(at, unknown()))?)
            }
            Node::Bool(_)
            | Node::Call(..)
            | Node::Not(_)
            | Node::And(..)
            | Node::Or(..)
            | Node::Compare(..) => Operand::Test(Box::new(self.test(expr)?)),
        })
    }

    fn call(&self, at: usize, name: &str, arguments: Vec<Expr>) -> Result<Test<N::Path>, SyntaxError> {
        if name != "IsMatch" {
            return Err(self.error(at, format!("no function `{name}`: so far there is `IsMatch`")));
        }
        let Ok([target, pattern]) = <[Expr; 2]>::try_from(arguments) else {
            return Err(self.error(at, "IsMatch takes two arguments: `IsMatch(name, \"^/health\")`"));
        };
        let Node::Text(text) = pattern.node else {
            return Err(self.error(pattern.span.start, "a pattern is a text in double quotes"));
        };
        let bad = |error: regex::Error| {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            self.error(pattern.span.start, format!("a bad pattern: {reason}"))
        };
        Ok(Test::Match(self.operand(target)?, Regex::new(&text).map_err(bad)?))
    }
}
