//! What Zipkin's formats become, and what becomes of them on the way back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod back;
mod errors;
mod messages;
mod oracle;
mod properties;
mod table;
mod v1;
