//! An authority and one certificate by it, good for both ends of a connection on this machine.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// PEM files, gone when this is dropped.
pub struct Certificates(TempDir);

impl Certificates {
    pub fn new() -> Certificates {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();

        let mut params = CertificateParams::new(["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "localhost");
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &authority).unwrap();

        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("ca", authority.pem()), ("cert", cert.pem()), ("key", key.serialize_pem())] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Certificates(folder)
    }

    /// Whom to trust.
    pub fn ca(&self) -> String {
        self.path("ca")
    }

    /// The certificate.
    pub fn cert(&self) -> String {
        self.path("cert")
    }

    /// Its key.
    pub fn key(&self) -> String {
        self.path("key")
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}
