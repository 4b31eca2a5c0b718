//! Certificates and keys, from files or from the settings themselves.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// The largest file read, in bytes: a bundle of every public authority has a quarter of it.
const LARGEST: u64 = 1 << 20;

/// Something in PEM (RFC 7468).
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In this file.
    File(PathBuf),
    /// The text itself; never printed.
    Text(String),
}

/// What was read, and what to call it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Source {
    key: &'static str,
    /// What to call it in an error.
    name: String,
    text: Vec<u8>,
}

// === impl Pem ===

impl Pem {
    /// Reads it; `keys` are the names of the settings that name a file and hold the text.
    pub(crate) fn read(&self, keys: [&'static str; 2]) -> Result<Source, TlsError> {
        let [file, text] = keys;
        match self {
            Self::Text(pem) => {
                Ok(Source { key: text, name: "the text".to_owned(), text: pem.clone().into_bytes() })
            }
            Self::File(path) => {
                let name = format!("\"{}\"", path.display());
                let mut text = Vec::new();
                let read = File::open(path).and_then(|open| open.take(LARGEST + 1).read_to_end(&mut text));
                let source = Source { key: file, name, text };
                match read {
                    Err(error) => Err(source.error(format!("cannot be read: {error}"))),
                    Ok(length) if length as u64 > LARGEST => Err(source.error("is larger than 1 MiB")),
                    Ok(_) => Ok(source),
                }
            }
        }
    }
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.debug_tuple("Text").finish_non_exhaustive(),
        }
    }
}

// === impl Source ===

impl Source {
    /// Every certificate in it, in the order in which they are written; at least one.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.text).collect();
        let certificates = read.map_err(|error| self.error(format!("is not PEM: {error}")))?;
        if certificates.is_empty() {
            return Err(self.error("has no PEM certificate in it"));
        }
        Ok(certificates)
    }

    /// The first private key in it: PKCS #8, PKCS #1 or SEC 1.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| match error {
            Error::NoItemsFound => {
                self.error("has no PEM private key in it; encrypted ones are not understood")
            }
            error => self.error(format!("is not PEM: {error}")),
        })
    }

    /// An error about it.
    pub fn error(&self, problem: impl std::fmt::Display) -> TlsError {
        TlsError { key: self.key, problem: format!("{} {problem}", self.name) }
    }
}
