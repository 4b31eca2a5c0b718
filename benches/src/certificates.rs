//! What the ends of an encrypted connection show each other: made by the driver, in files, since each end is a process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use watershed_testkit::certs::{Authority, Files, Identity};

use crate::case::Tls;

/// Where servers are.
pub const HOST: &str = "127.0.0.1";

/// An authority, and a server and a client that it knows, in `ca.pem`, `server.pem`, `server.key`, `client.pem` and
/// `client.key`.
pub struct Certificates {
    authority: Authority,
    client: Identity,
    files: Files,
}

impl Certificates {
    pub fn new() -> Certificates {
        let (authority, files) = (Authority::new("bench"), Files::new());
        let (server, client) = (authority.issue(HOST), authority.issue("client"));
        files.write("ca.pem", &authority.pem());
        for (name, Identity { cert, key }) in [("server", &server), ("client", &client)] {
            files.write(&format!("{name}.pem"), cert);
            files.write(&format!("{name}.key"), key);
        }
        Certificates { authority, client, files }
    }

    pub fn directory(&self) -> PathBuf {
        self.files.path("")
    }

    /// What the loader connects with, if connections are encrypted.
    pub fn client(&self, tls: Tls) -> Option<Arc<ClientConfig>> {
        match tls {
            Tls::Off => None,
            Tls::Server => Some(self.authority.client(None)),
            Tls::Mutual => Some(self.authority.client(Some(&self.client))),
        }
    }
}

/// What the sink serves with, from the files; `mutual` asks clients for a certificate.
pub fn server(directory: &Path, mutual: bool) -> anyhow::Result<Arc<ServerConfig>> {
    let certificate = |name| CertificateDer::from_pem_file(directory.join(name)).context("a certificate");
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).context("a key")?;
    let config = ServerConfig::builder();
    let config = if mutual {
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.pem")?)?;
        config.with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build()?)
    } else {
        config.with_no_client_auth()
    };
    Ok(Arc::new(config.with_single_cert(vec![certificate("server.pem")?], key)?))
}
