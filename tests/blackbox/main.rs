//! The black box: a TOML text in, real sockets, a count out.
//!
//! Each file proves one promise; `docs/testing.md` says which. What is started is the engine with the kinds that
//! the program brings (and a few that fail on cue), or the program itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
mod answers;
mod attributes;
mod auth;
mod chaos;
mod cli;
mod context;
mod demo;
mod drain;
mod elasticsearch;
mod files;
mod harness;
mod isolation;
mod jaeger;
mod journal;
mod journal_cli;
mod live;
mod load_balancing;
mod metrics;
mod mutation;
mod overload;
mod panics;
mod peers;
mod poison;
mod processors;
mod prometheus;
mod relay;
mod relay_http;
mod reload;
mod scrape;
mod self_telemetry;
mod storm;
mod tail_sampling;
mod tls;
mod wire;
mod zipkin;
