//! Settings of both ends of the network, under otelcol's keys (`configgrpc`, `confighttp`, `configtls`).

mod client;
mod server;
mod shared;
mod tls;

pub use client::{
    CompressionSetting, Credentials, GrpcClientSettings, HttpClientSettings, KeepaliveClientSettings,
};
pub use server::{CorsSettings, Door, GrpcServerSettings, HttpServerSettings, KeepaliveServerSettings};
pub use tls::{TlsClientSettings, TlsServerSettings};
