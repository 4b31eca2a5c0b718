//! Conditions of the OpenTelemetry transformation language.
//!
//! A condition is parsed once, its paths and constants resolved by whoever knows them ([`Names`]), and then evaluated
//! over values that are borrowed from where they lie. So far this is the part of the language that conditions need:
//! paths, literals, comparisons, `and`, `or`, `not`, parentheses and `IsMatch`. What is read here reads the same in
//! the full language.
//!
//! Source: opentelemetry-collector-contrib, `pkg/ottl/LANGUAGE.md`. The crate is pure: no IO, no clock, no OTLP.
//!
//! ```
//! use watershed_ottl::{Condition, Key, Names, Value};
//!
//! struct Person;
//! impl Names for Person {
//!     type Path = &'static str;
//!     fn path(&self, name: &str, _: &[Key]) -> Result<&'static str, String> {
//!         ["name", "age"].into_iter().find(|known| *known == name).ok_or("known are `name` and `age`".to_owned())
//!     }
//!     fn constant(&self, _: &str) -> Option<i64> {
//!         None
//!     }
//! }
//!
//! let adult = Condition::parse(r#"age >= 18 and not IsMatch(name, "^Peter")"#, &Person).unwrap();
//! let wendy = |path: &&'static str| if *path == "age" { Value::Int(30) } else { Value::Str("Wendy") };
//! assert_eq!(adult.holds(&wendy), Ok(true));
//!
//! let error = Condition::parse("height > 2", &Person).unwrap_err();
//! assert_eq!(error.to_string(), "column 1: no path `height`: known are `name` and `age`");
//! ```

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod condition;
mod lexer;
mod parser;
mod value;

pub use condition::{Condition, Names, Undecided};
pub use parser::{Key, SyntaxError};
pub use value::Value;
