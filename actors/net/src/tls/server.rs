//! TLS as a server: its certificate, read again as it changes, and whom it lets in.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::pem::Source;
use super::{Pem, TlsError, TlsVersion, provider, versions};

/// How often an authority is read again where the certificate is not.
const AUTHORITY: Duration = Duration::from_secs(10);

/// Who this server is, and whom it lets in.
#[derive(Clone, Debug)]
pub struct ServerTlsOptions {
    /// This server's certificate, and those between it and an authority.
    pub cert: Pem,
    /// The certificate's private key.
    pub key: Pem,
    /// Who must have signed the clients' certificates; `None` for no client certificates.
    pub client_ca: Option<Pem>,
    /// The oldest version spoken. 1.2 unless told.
    pub min_version: TlsVersion,
    /// The newest version spoken; the newest there is unless told.
    pub max_version: Option<TlsVersion>,
    /// How often to look whether `cert` and `key` have changed; never unless told.
    pub reload_interval: Option<Duration>,
    /// Whether `client_ca` is looked at too: as often, or every 10 s where `reload_interval` is never.
    pub client_ca_reload: bool,
}

/// What is spoken inside TLS (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2.
    H2,
    /// HTTP/1.1.
    Http11,
}

/// TLS for the connections of a server. Clones are the same, so that all lanes change certificates together.
#[derive(Clone)]
pub struct ServerTls {
    shared: Arc<Shared>,
}

struct Shared {
    options: ServerTlsOptions,
    alpn: Alpn,
    config: ArcSwap<ServerConfig>,
    /// Where there is an interval, what was read, and when to read again.
    reload: Option<(Duration, Mutex<Reload>)>,
}

struct Reload {
    due: Instant,
    /// As read at the start: what does not change is not read again.
    first: Material,
    /// As read last, to tell what has changed, a new defect too.
    last: Result<Material, TlsError>,
}

/// The text of a configuration.
#[derive(Clone, PartialEq, Eq)]
struct Material {
    cert: Source,
    key: Source,
    client_ca: Option<Source>,
}

// === impl ServerTlsOptions ===

impl ServerTlsOptions {
    /// The defaults, with this certificate and its key.
    pub fn new(cert: Pem, key: Pem) -> Self {
        Self {
            cert,
            key,
            client_ca: None,
            min_version: TlsVersion::V1_2,
            max_version: None,
            reload_interval: None,
            client_ca_reload: false,
        }
    }

    /// How often to look at the files, if at all.
    fn interval(&self) -> Option<Duration> {
        let authority = (self.client_ca.is_some() && self.client_ca_reload).then_some(AUTHORITY);
        self.reload_interval.filter(|interval| !interval.is_zero()).or(authority)
    }
}

// === impl ServerTls ===

impl ServerTls {
    /// Reads what `options` name. `alpn` is what a client that negotiates must want to speak.
    pub fn new(options: &ServerTlsOptions, alpn: Alpn) -> Result<Self, TlsError> {
        let first = Material::read(options, None)?;
        let config = ArcSwap::from_pointee(first.config(options, alpn)?);
        let reload = options.interval().map(|interval| {
            let due = Instant::now() + interval;
            (interval, Mutex::new(Reload { due, last: Ok(first.clone()), first }))
        });
        Ok(Self { shared: Arc::new(Shared { options: options.clone(), alpn, config, reload }) })
    }

    /// The connection once the client has shaken hands.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.shared.look_again();
        let acceptor = TlsAcceptor::from(self.shared.config.load_full());
        Ok(acceptor.accept(tcp).await?.into())
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ServerTls").field(&self.shared.options).finish()
    }
}

impl Shared {
    /// Takes up what has changed in the files, where it is time to look. What is wrong with the new is said once,
    /// and the old goes on.
    fn look_again(&self) {
        let Some((interval, reload)) = &self.reload else { return };
        // Whoever comes meanwhile has the old certificate, and does not wait.
        let Some(mut reload) = reload.try_lock() else { return };
        if Instant::now() < reload.due {
            return;
        }
        reload.due = Instant::now() + *interval;
        let read = Material::read(&self.options, Some(&reload.first));
        if read == reload.last {
            return;
        }
        match read.as_ref().map_err(Clone::clone).and_then(|read| read.config(&self.options, self.alpn)) {
            Ok(config) => {
                self.config.store(Arc::new(config));
                tracing::info!("took up a new TLS certificate");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take up the new TLS certificate, so the old one stays");
            }
        }
        reload.last = read;
    }
}

// === impl Material ===

impl Material {
    /// Reads the files, but what does not change only `first`.
    fn read(options: &ServerTlsOptions, first: Option<&Self>) -> Result<Self, TlsError> {
        let kept = first.filter(|_| options.reload_interval.is_none());
        let cert = match kept {
            Some(kept) => kept.cert.clone(),
            None => options.cert.read(["cert_file", "cert_pem"])?,
        };
        let key = match kept {
            Some(kept) => kept.key.clone(),
            None => options.key.read(["key_file", "key_pem"])?,
        };
        let client_ca = match (first.filter(|_| !options.client_ca_reload), &options.client_ca) {
            (Some(kept), _) => kept.client_ca.clone(),
            (None, Some(pem)) => Some(pem.read(["client_ca_file", "client_ca_pem"])?),
            (None, None) => None,
        };
        Ok(Self { cert, key, client_ca })
    }

    fn config(&self, options: &ServerTlsOptions, alpn: Alpn) -> Result<ServerConfig, TlsError> {
        let provider = provider();
        let versions = versions(options.min_version, options.max_version)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|error| self.cert.error(error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(source) => {
                let roots = Arc::new(roots(source, source.certificates()?)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error: VerifierBuilderError| source.error(error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(self.cert.certificates()?, self.key.private_key()?)
            .map_err(|error| self.blame(error))?;
        config.alpn_protocols = vec![match alpn {
            Alpn::H2 => b"h2".to_vec(),
            Alpn::Http11 => b"http/1.1".to_vec(),
        }];
        Ok(config)
    }

    fn blame(&self, error: rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                self.key.error("does not belong to the certificate")
            }
            rustls::Error::InvalidCertificate(error) => self.cert.error(format!("cannot be used: {error:?}")),
            error => self.key.error(format!("cannot be used: {error}")),
        }
    }
}

/// The authorities in `source`.
pub(crate) fn roots(
    source: &Source,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| source.error(format!("cannot be used: {error}")))?;
    }
    Ok(roots)
}
