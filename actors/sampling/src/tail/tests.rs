//! Policies by tables, and samplers on a bench: what they pass on of traces that come in every order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod policies;
mod rig;
mod traces;

use std::cell::Cell;

thread_local! {
    static BREAKS: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Panics once where the test has asked for it.
pub(super) fn break_here(place: &'static str) {
    if BREAKS.get() == Some(place) {
        BREAKS.set(None);
        std::panic::panic_any("as it was told");
    }
}
