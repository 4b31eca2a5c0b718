//! `tls`, of a server and of a client.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_net::{
    Alpn, ClientTls, ClientTlsOptions, Pem, ServerTls, ServerTlsOptions, TlsError, TlsVersion,
};
use watershed_supervise::Failure;

use crate::registry::{KeyError, Settings};
use crate::settings::Interval;

/// TLS of a server. Keys of certificates come as a file or as the text itself.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsServerSettings {
    /// PEM file with the server's certificate and those between it and an authority.
    cert_file: Option<PathBuf>,
    /// The same, as text.
    cert_pem: Option<String>,
    /// PEM file with the certificate's private key.
    key_file: Option<PathBuf>,
    /// The same, as text.
    key_pem: Option<String>,
    /// PEM file with the authorities that must have signed the clients' certificates (mutual TLS).
    client_ca_file: Option<PathBuf>,
    /// Whether `client_ca_file` is read again when it changes.
    client_ca_file_reload: bool,
    /// The oldest version spoken.
    min_version: Version,
    /// The newest version spoken; the newest there is unless told.
    max_version: Option<Version>,
    /// How often to look whether the files have changed; `0s` is never.
    reload_interval: Interval,
}

/// TLS of a client.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsClientSettings {
    /// Speak plain text, unless the endpoint begins with `https://`.
    pub(super) insecure: bool,
    /// Believe any certificate: whoever is between the two ends can read and change everything.
    insecure_skip_verify: bool,
    /// PEM file with the authorities that may have signed the server's certificate; the system's unless told.
    ca_file: Option<PathBuf>,
    /// The same, as text.
    ca_pem: Option<String>,
    /// Trust the system's authorities beside `ca_file`.
    include_system_ca_certs_pool: bool,
    /// PEM file with this client's certificate (mutual TLS).
    cert_file: Option<PathBuf>,
    /// The same, as text.
    cert_pem: Option<String>,
    /// PEM file with the certificate's private key.
    key_file: Option<PathBuf>,
    /// The same, as text.
    key_pem: Option<String>,
    /// The name that the server's certificate must have, where it is not the endpoint's.
    server_name_override: Option<String>,
    /// The oldest version spoken.
    min_version: Version,
    /// The newest version spoken; the newest there is unless told.
    max_version: Option<Version>,
    /// How long files are good for: the first connection after that reads them again. `0s` is for ever.
    reload_interval: Interval,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
enum Version {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

// === impl TlsServerSettings ===

impl Settings for TlsServerSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::from_iter(one_of("cert", &self.cert_file, &self.cert_pem));
        errors.extend(one_of("key", &self.key_file, &self.key_pem));
        for (key, is_missing) in [
            ("cert_file", self.cert_file.is_none() && self.cert_pem.is_none()),
            ("key_file", self.key_file.is_none() && self.key_pem.is_none()),
        ] {
            if is_missing {
                errors.push(KeyError::new(key, "a server with TLS needs a certificate and its key"));
            }
        }
        errors.extend(ordered(self.min_version, self.max_version));
        errors
    }
}

impl TlsServerSettings {
    /// Reads the files.
    pub(super) fn open(&self, alpn: Alpn) -> Result<ServerTls, Failure> {
        let pem = |file: &Option<PathBuf>, text: &Option<String>| {
            pem(file, text).ok_or_else(|| Failure::new("a server with TLS needs a certificate and its key"))
        };
        let mut options =
            ServerTlsOptions::new(pem(&self.cert_file, &self.cert_pem)?, pem(&self.key_file, &self.key_pem)?);
        options.client_ca = self.client_ca_file.clone().map(Pem::File);
        options.client_ca_reload = self.client_ca_file_reload;
        options.min_version = self.min_version.into();
        options.max_version = self.max_version.map(Into::into);
        options.reload_interval = self.reload_interval.positive();
        ServerTls::new(&options, alpn).map_err(|error| failure(&error))
    }
}

// === impl TlsClientSettings ===

impl Settings for TlsClientSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::from_iter(one_of("ca", &self.ca_file, &self.ca_pem));
        errors.extend(one_of("cert", &self.cert_file, &self.cert_pem));
        errors.extend(one_of("key", &self.key_file, &self.key_pem));
        let has_cert = self.cert_file.is_some() || self.cert_pem.is_some();
        let has_key = self.key_file.is_some() || self.key_pem.is_some();
        match (has_cert, has_key) {
            (true, false) => errors.push(KeyError::new("key_file", "a certificate needs its key")),
            (false, true) => errors.push(KeyError::new("cert_file", "a key needs its certificate")),
            _ => {}
        }
        errors.extend(ordered(self.min_version, self.max_version));
        errors
    }
}

impl TlsClientSettings {
    /// Reads the files.
    pub(super) fn open(&self) -> Result<ClientTls, Failure> {
        let options = ClientTlsOptions {
            ca: pem(&self.ca_file, &self.ca_pem),
            include_system_ca_certs_pool: self.include_system_ca_certs_pool,
            cert: pem(&self.cert_file, &self.cert_pem),
            key: pem(&self.key_file, &self.key_pem),
            insecure_skip_verify: self.insecure_skip_verify,
            server_name_override: self.server_name_override.clone(),
            min_version: self.min_version.into(),
            max_version: self.max_version.map(Into::into),
            reload_interval: self.reload_interval.positive(),
        };
        ClientTls::new(&options).map_err(|error| failure(&error))
    }
}

impl From<Version> for TlsVersion {
    fn from(version: Version) -> Self {
        match version {
            Version::V1_2 => Self::V1_2,
            Version::V1_3 => Self::V1_3,
        }
    }
}

fn pem(file: &Option<PathBuf>, text: &Option<String>) -> Option<Pem> {
    file.clone().map(Pem::File).or_else(|| text.clone().map(Pem::Text))
}

fn failure(error: &TlsError) -> Failure {
    Failure::new(format!("tls.{error}"))
}

fn one_of(what: &str, file: &Option<PathBuf>, text: &Option<String>) -> Option<KeyError> {
    let both = file.is_some() && text.is_some();
    both.then(|| {
        KeyError::new(format!("{what}_pem"), format!("`{what}_file` says it already: keep one of the two"))
    })
}

fn ordered(min: Version, max: Option<Version>) -> Option<KeyError> {
    let empty = (min, max) == (Version::V1_3, Some(Version::V1_2));
    empty.then(|| KeyError::new("max_version", "must not be lower than `min_version`"))
}
