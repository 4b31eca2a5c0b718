//! What a client can meet: an HTTP/1.1 server that answers as it is told, an authority and its certificates, TLS in
//! front of a server, and a proxy.

#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods
)]

pub mod h1;
pub mod proxy;
pub mod tls;
