//! TLS as a client: whom it trusts, who it is, and what to do when the two ends do not agree.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InconsistentKeys,
    RootCertStore, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, TlsStream};

use super::{Pem, TlsError, TlsVersion, provider, versions};

/// Whom a client trusts, and who it is. The default trusts the authorities that the system trusts.
#[derive(Clone, Debug)]
pub struct ClientTlsOptions {
    /// The authorities that may have signed the server's certificate; the system's where there is none.
    pub ca: Option<Pem>,
    /// Trust the system's authorities beside `ca`.
    pub include_system_ca_certs_pool: bool,
    /// This client's certificate, and those between it and an authority; goes with `key`.
    pub cert: Option<Pem>,
    /// The certificate's private key.
    pub key: Option<Pem>,
    /// Believe any certificate: whoever is between the two ends can read and change everything.
    pub insecure_skip_verify: bool,
    /// The name that the server's certificate must have, where it is not the one it is called by.
    pub server_name_override: Option<String>,
    /// The oldest version spoken. 1.2 unless told.
    pub min_version: TlsVersion,
    /// The newest version spoken; the newest there is unless told.
    pub max_version: Option<TlsVersion>,
    /// How long what was read is good for: the first connection after that reads the files again. For ever unless
    /// told.
    pub reload_interval: Option<Duration>,
}

/// TLS for the connections of clients. Clones are the same, so that what was read anew is there for all of them.
#[derive(Clone)]
pub struct ClientTls {
    shared: Arc<Shared>,
}

struct Shared {
    options: ClientTlsOptions,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    config: Arc<ClientConfig>,
    at: Instant,
}

/// Why the two ends do not come together, and what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TlsTrouble(pub String);

// === impl ClientTlsOptions ===

impl Default for ClientTlsOptions {
    fn default() -> Self {
        Self {
            ca: None,
            include_system_ca_certs_pool: false,
            cert: None,
            key: None,
            insecure_skip_verify: false,
            server_name_override: None,
            min_version: TlsVersion::V1_2,
            max_version: None,
            reload_interval: None,
        }
    }
}

impl ClientTlsOptions {
    fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions(self.min_version, self.max_version)?)
            .map_err(|error| TlsError { key: "max_version", problem: error.to_string() })?;
        let builder = match self.insecure_skip_verify {
            true => builder.dangerous().with_custom_certificate_verifier(Arc::new(Gullible(provider))),
            false => builder.with_root_certificates(self.roots()?),
        };
        let (cert, key) = match (&self.cert, &self.key) {
            (None, None) => return Ok(Arc::new(builder.with_no_client_auth())),
            (Some(_), None) => return Err(alone("key_file", "cert_file")),
            (None, Some(_)) => return Err(alone("cert_file", "key_file")),
            (Some(cert), Some(key)) => {
                (cert.read(["cert_file", "cert_pem"])?, key.read(["key_file", "key_pem"])?)
            }
        };
        let config = builder.with_client_auth_cert(cert.certificates()?, key.private_key()?);
        config.map(Arc::new).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                key.error("does not belong to the certificate")
            }
            Error::InvalidCertificate(error) => cert.error(format!("cannot be used: {error:?}")),
            error => key.error(format!("cannot be used: {error}")),
        })
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = &self.ca {
            let source = ca.read(["ca_file", "ca_pem"])?;
            for certificate in source.certificates()? {
                roots.add(certificate).map_err(|error| source.error(format!("cannot be used: {error}")))?;
            }
        }
        if self.ca.is_none() || self.include_system_ca_certs_pool {
            let system = rustls_native_certs::load_native_certs();
            // Old authorities that nobody can read any more are part of every system.
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                let reason = system.errors.first().map_or(String::new(), |error| format!(" ({error})"));
                let problem = format!(
                    "the system has no certificates of authorities{reason}: install ca-certificates, or name a file"
                );
                return Err(TlsError { key: "ca_file", problem });
            }
        }
        Ok(roots)
    }
}

fn alone(key: &'static str, other: &str) -> TlsError {
    TlsError { key, problem: format!("missing, though {other} is set: a client certificate needs both") }
}

// === impl ClientTls ===

impl ClientTls {
    /// Reads what `options` name, and the system's authorities where they are wanted, which takes milliseconds.
    pub fn new(options: &ClientTlsOptions) -> Result<Self, TlsError> {
        let loaded = Mutex::new(Loaded { config: options.load()?, at: Instant::now() });
        Ok(Self { shared: Arc::new(Shared { options: options.clone(), loaded }) })
    }

    /// The name the server must have, where it is not the one it is called by.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.shared.options.server_name_override.as_deref()
    }

    /// The connection once the server `name` has shaken hands, to speak `alpn` (RFC 7301) on it.
    pub(crate) async fn connect(
        &self,
        name: &str,
        alpn: &[u8],
        tcp: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = self.server_name().unwrap_or(name);
        let server = ServerName::try_from(name.to_owned()).map_err(|_| {
            let text = format!("\"{name}\" is no server name: see server_name_override");
            io::Error::new(io::ErrorKind::InvalidInput, TlsTrouble(text))
        })?;
        let connector = TlsConnector::from(self.shared.config());
        let stream = connector.with_alpn(vec![alpn.to_vec()]).connect(server, tcp).await;
        stream.map(TlsStream::from).map_err(told)
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClientTls").field(&self.shared.options).finish()
    }
}

impl Shared {
    /// What to connect with, read again if it is due. That is a few small files: it does not hold up the lane.
    fn config(&self) -> Arc<ClientConfig> {
        let mut loaded = self.loaded.lock();
        let interval = self.options.reload_interval.filter(|interval| !interval.is_zero());
        if interval.is_some_and(|interval| loaded.at.elapsed() >= interval) {
            loaded.at = Instant::now();
            match self.options.load() {
                Ok(config) => loaded.config = config,
                Err(error) => tracing::warn!(%error, "cannot read the TLS files again, so the old ones stay"),
            }
        }
        loaded.config.clone()
    }
}

// === what went wrong ===

/// The same error, with what to do about it, if it was TLS that failed.
pub(super) fn told(error: io::Error) -> io::Error {
    match trouble(&error) {
        Some(trouble) => io::Error::new(error.kind(), trouble),
        None => error,
    }
}

/// What TLS has to say about a failed connection, if it was TLS that failed.
pub(crate) fn trouble(error: &io::Error) -> Option<TlsTrouble> {
    let inner = error.get_ref()?;
    if let Some(known) = inner.downcast_ref::<TlsTrouble>() {
        return Some(known.clone());
    }
    let error = inner.downcast_ref::<Error>()?;
    let remedy = match error {
        Error::InvalidCertificate(error) => Some(certificate_remedy(error)),
        Error::AlertReceived(alert) => alert_remedy(*alert),
        Error::InvalidMessage(_) => Some("the server seems not to speak TLS there: check the port"),
        Error::PeerIncompatible(_) => Some(NOTHING_IN_COMMON),
        _ => None,
    };
    Some(TlsTrouble(match remedy {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }))
}

const NOTHING_IN_COMMON: &str = "the two ends have no TLS version in common: see min_version and max_version";

fn certificate_remedy(error: &CertificateError) -> &'static str {
    use CertificateError as E;
    match error {
        E::UnknownIssuer => {
            "nobody who is trusted has signed it: name its authority's certificate in ca_file"
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "call the server by a name that its certificate has, or set server_name_override to one"
        }
        E::Expired | E::ExpiredContext { .. } => {
            "the server needs a new one; or is this machine's clock wrong?"
        }
        E::NotValidYet | E::NotValidYetContext { .. } => "is this machine's clock wrong?",
        _ => "the server needs another one, or ca_file names the wrong authority",
    }
}

fn alert_remedy(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::CertificateRequired => "the server wants a certificate: set cert_file and key_file",
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown => "the server does not accept the certificate in cert_file",
        AlertDescription::HandshakeFailure => {
            "the server may want a certificate (cert_file, key_file), or other algorithms"
        }
        AlertDescription::ProtocolVersion => NOTHING_IN_COMMON,
        AlertDescription::NoApplicationProtocol => {
            "the server does not speak this protocol there: check the port"
        }
        AlertDescription::UnrecognisedName => "the server does not know this name: see server_name_override",
        _ => return None,
    })
}

// === insecure_skip_verify ===

/// Believes every certificate, if only the server has its key.
#[derive(Debug)]
struct Gullible(Arc<CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
