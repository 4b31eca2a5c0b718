//! What goes wrong, on purpose and by a seed, and an exact account of what came of it.
//!
//! A [`Scenario`] starts the real program as a child, puts a load of numbered spans on it, does something bad to it or
//! to what is around it, and at the end compares what was acknowledged with what arrived. `cargo chaos` runs them in
//! their long forms, the black box in their short ones.
#![allow(clippy::disallowed_methods, reason = "nothing here lives under the supervisor")]

mod agent;
mod census;
mod dice;
mod disk;
mod fleet;
mod net;
mod outcome;
mod program;
mod proxy;
mod ring;
mod scenario;
mod scenarios;
mod topology;

pub use outcome::{Format, Row};
pub use program::{Program, play};
pub use scenario::{Pace, Run, Scenario};
pub use scenarios::{ALL, find};
pub use topology::Custody;
