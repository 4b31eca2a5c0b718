//! The test kit: a [`Loader`] that numbers every span, data point or log record it sends and a [`Sink`] that
//! ticks every number it receives, so that loss and duplication are counted exactly instead of being estimated
//! from totals.
//!
//! Nothing here knows Watershed: both ends speak gRPC over `h2`, HTTP/1.1 by hand, and read OTLP with a walker of
//! their own ([`wire`]), so a fault in the product cannot hide behind the same fault in its test.
//!
//! ```
//! # use std::time::Duration;
//! # use watershed_testkit::{Loader, Sink};
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let sink = Sink::start("127.0.0.1:0").await.unwrap();
//! let load = Loader::new(sink.addr()).requests(10).run().await;
//! assert!(sink.settle(&load, Duration::from_secs(5)).await.is_exact());
//! # });
//! ```
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "what is expected here is a fixture made of constants; if it fails, the panic is the report"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "nothing here lives under the supervisor, so its tasks are plain"
)]

pub mod call;
pub mod certs;
mod coding;
pub mod grpc;
mod histogram;
mod loader;
mod net;
pub mod requests;
mod seqset;
mod sink;
pub mod traces;
mod verdict;
pub mod web;
pub mod wire;

pub use coding::{Coding, Packer};
pub use histogram::Histogram;
pub use loader::{LoadReport, Loader, Refusal, Running};
pub use net::{free_port, reserve, wait_until};
pub use seqset::SeqSet;
pub use sink::{Answer, Arrival, Arrivals, Sink, SinkSnapshot};
pub use verdict::{Verdict, verdict};
