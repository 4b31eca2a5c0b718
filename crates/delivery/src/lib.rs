//! What happened to a message, and the memory it was granted.
//!
//! Two things travel with every message and outlive every actor that handles it:
//!
//! * a [`Guard`], which owes its holder exactly one [`Outcome`]. Whoever ends a message resolves its guard;
//!   a guard that is dropped unresolved refuses, so nothing is ever silently lost to a forgotten branch or
//!   an unwound stack;
//! * a [`Permit`], the bytes a [`Budget`] granted before they were taken from a socket. It comes back when
//!   its last holder drops it.
//!
//! Beside them stands the second ledger: a [`Share`] counts the *logical* bytes a queue holds, so that one
//! dead branch can not fill the memory the living ones need.
//!
//! This crate is pure: no actor, no socket, no clock. Deadlines are values that others compare.

mod budget;
mod guard;
mod outcome;

pub use budget::{Budget, Charge, Exhausted, Permit, Share, Window};
pub use guard::{Claim, Guard, Holder, Receipt};
pub use outcome::{Cause, Fault, Outcome, Refusal, Rejection};
