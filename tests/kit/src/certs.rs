//! An authority, the certificates it signs, what both ends of a connection make of them, and the files they
//! lie in.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Who signs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM. Good for either end.
pub struct Identity {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

/// A directory for certificates. Removed when dropped.
pub struct Files(TempDir);

const SOUND: &str = "rustls takes what rcgen makes";

impl Authority {
    /// An authority of this name, with a key of its own.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, new_key()).expect("the parameters are constants"))
    }

    /// The authority's own certificate: whom to trust.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A new key's certificate, good for this name or address.
    pub fn issue(&self, name: &str) -> Identity {
        let params = CertificateParams::new([name.to_owned()]).expect("a name or an address");
        let key = new_key();
        let cert = params.signed_by(&key, &self.0).expect("the authority's key signs").pem();
        Identity { cert, key: key.serialize_pem() }
    }

    /// A client that trusts this authority alone and shows `identity`, if it has one.
    pub fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect(SOUND)
            .with_root_certificates(self.roots());
        Arc::new(match identity {
            Some(identity) => {
                config.with_client_auth_cert(vec![identity.der()], identity.key_der()).expect(SOUND)
            }
            None => config.with_no_client_auth(),
        })
    }

    /// A server that shows `identity`; with `mutual` it takes only clients whose certificate this authority
    /// has signed.
    pub fn server(&self, identity: &Identity, mutual: bool) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect(SOUND);
        let config = if mutual {
            let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider());
            config.with_client_cert_verifier(clients.build().expect(SOUND))
        } else {
            config.with_no_client_auth()
        };
        Arc::new(config.with_single_cert(vec![identity.der()], identity.key_der()).expect(SOUND))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect(SOUND);
        roots
    }
}

impl Identity {
    /// The certificate in DER.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.cert.as_bytes()).expect(SOUND)
    }

    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect(SOUND)
    }
}

impl Files {
    /// An empty directory.
    pub fn new() -> Files {
        Files(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// Where the file of this name is or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and gives its path as TOML has it.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in a temporary directory can be written");
        format!("{path:?}")
    }

    /// `cert_file` and `key_file` of an identity.
    pub fn identity(&self, name: &str, identity: &Identity) -> String {
        let cert = self.write(&format!("{name}.crt"), &identity.cert);
        let key = self.write(&format!("{name}.key"), &identity.key);
        format!("cert_file = {cert}\nkey_file = {key}\n")
    }
}

impl Default for Files {
    fn default() -> Files {
        Files::new()
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("ring makes keys")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
