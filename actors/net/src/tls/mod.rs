//! TLS, by rustls with ring. The provider is passed to every configuration: nothing global is installed.

mod client;
mod pem;
mod server;
mod stream;

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::version::{TLS12, TLS13};

pub use client::{ClientTls, ClientTlsOptions};
pub(crate) use client::{TlsTrouble, trouble};
pub use pem::Pem;
pub use server::{Alpn, ServerTls, ServerTlsOptions};
pub(crate) use stream::Stream;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), the oldest that is spoken.
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// Why TLS cannot be had with these settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct TlsError {
    /// The setting to blame, by its name: `ca_file`, `cert_file`, `key_file` or `client_ca_file`, or the same with
    /// `_pem`; `max_version`.
    pub key: &'static str,
    /// What is wrong, with the file's name.
    pub problem: String,
}

/// What every configuration encrypts with.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The versions from `min` to `max`, where there are any.
pub(crate) fn versions(
    min: TlsVersion,
    max: Option<TlsVersion>,
) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
    let all = [(TlsVersion::V1_2, &TLS12), (TlsVersion::V1_3, &TLS13)];
    let wanted =
        all.into_iter().filter(|(version, _)| *version >= min && max.is_none_or(|max| *version <= max));
    let versions: Vec<_> = wanted.map(|(_, version)| version).collect();
    if versions.is_empty() {
        return Err(TlsError { key: "max_version", problem: "it is lower than min_version".to_owned() });
    }
    Ok(versions)
}
