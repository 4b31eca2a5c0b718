//! Stages of the test's own, run by the real supervisor on one runtime in paused time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod batching;
mod circuit;
mod common;
mod concurrency;
mod edges;
mod fanout;
mod gate;
mod held;
mod kept;
mod kinds;
mod metrics;
mod panics;
mod processor;
mod rate;
mod receiver;
mod registry;
mod reload;
mod retry;
mod seat;
mod settings;
