//! HTTP/1.1 requests over connections that are kept.
//!
//! hyper-util's client would do at the same cost (13 to 15 us of the sender's CPU for 40 KB with either, against 17 to
//! 26 us over gRPC; `examples/post_cost.rs`), but it cannot bound the connections to a host, and spawns a task for
//! each of them.

mod exchange;
mod fetch;
mod pool;
mod stream;
mod url;

pub use self::fetch::{FetchError, Fetched};
pub use self::stream::HttpStream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use watershed_delivery::{Budget, Permit};

use self::pool::{Limits, Pool};
use self::url::Target;
use super::{EndpointError, Proxy, add_headers, is_of_the_connection};
use crate::compression::{Compression, Deflater};
use crate::tls::{ClientTls, ClientTlsOptions};

/// How an HTTP client sends.
#[derive(Clone, Debug)]
pub struct HttpClientOptions {
    /// TLS for `https://`. Without it, what the system's authorities have signed is trusted.
    pub tls: Option<ClientTls>,
    /// The proxies to go through: by CONNECT to `https://`, by forwarding to `http://`. None unless told.
    pub proxy: Option<Proxy>,
    /// Sent with every request. Names that HTTP uses itself are an error.
    pub headers: Vec<(String, String)>,
    /// Who calls (`User-Agent`): `watershed/<version>` unless told.
    pub user_agent: String,
    /// What is done to bodies before they are sent (`Content-Encoding`). Nothing unless told.
    pub compression: Compression,
    /// How long opening a connection may take. 20 s unless told.
    pub connect_timeout: Duration,
    /// The largest body of a good response, in bytes. 4 MiB unless told, as OTLP recommends.
    pub max_response_size: u64,
    /// Connections kept for each host while nobody uses them. 100 unless told.
    pub max_idle_conns_per_host: usize,
    /// Connections to each host, beyond which requests wait for their turn. Zero, the default, is any number.
    pub max_conns_per_host: usize,
    /// How long an unused connection is kept. 90 s unless told; for ever if it is zero.
    pub idle_conn_timeout: Duration,
    /// Use each connection once.
    pub disable_keep_alives: bool,
    /// What compressed copies are charged to while they are being sent.
    pub budget: Option<Arc<Budget>>,
}

/// Posts over HTTP/1.1, with as many connections as there are requests at once.
///
/// Clones share the connections, which live on the runtime of the requests that open them: a client belongs to one
/// lane. A connection is moved by the request that uses it, so that there is no task for it. The only task closes
/// connections that nobody uses, and ends with the client.
#[derive(Clone, Debug)]
pub struct HttpClient {
    shared: Arc<Shared>,
}

/// What a server said.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status, whichever it is. Redirects are not followed: they are answers too.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it came: nothing is inflated, since nothing else is asked for.
    pub body: Bytes,
    /// The status is no good one (2xx), and its body was longer than what is worth reading (64 KiB).
    pub cut: bool,
    /// How long the server wants to be left alone (`Retry-After`; RFC 9110, 10.2.3), whatever the status.
    pub retry_after: Option<Duration>,
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct HttpError {
    /// What kind of failure.
    pub kind: HttpErrorKind,
    /// What happened, where, and what to do about it.
    pub message: String,
}

/// What kind of failure leaves a request without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HttpErrorKind {
    /// There was no connection to be had: the server has not seen the request.
    Connect,
    /// The two ends do not agree about TLS. It can be tried again, but somebody should look.
    Tls,
    /// The connection was lost, or what came on it is no HTTP: the server may have acted on the request.
    Lost,
    /// The time is up: the server may have acted on the request.
    TimedOut,
    /// The response is good, and larger than what is taken.
    TooLarge,
    /// The request cannot be sent at all.
    Unsendable,
}

#[derive(Debug)]
struct Shared {
    proxy: Option<Proxy>,
    /// Made of the system's authorities when it is needed, where the settings have none.
    tls: Mutex<Option<ClientTls>>,
    headers: HeaderMap,
    deflater: Option<Deflater>,
    budget: Option<Arc<Budget>>,
    connect_timeout: Duration,
    largest: u64,
    pool: Pool,
}

/// A body as it is sent, again where it must be.
struct Outgoing {
    pieces: SmallVec<[Bytes; 1]>,
    _permit: Option<Permit>,
}

// === impl HttpClient ===

impl HttpClient {
    /// A client that has no connection yet.
    pub fn new(options: HttpClientOptions) -> Result<Self, EndpointError> {
        let deflater = Deflater::new(options.compression);
        let mut headers = HeaderMap::new();
        if let Some(deflater) = &deflater {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(deflater.name()));
        }
        if options.disable_keep_alives {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        add_headers(&mut headers, &options.user_agent, &options.headers, is_reserved)?;
        let limits = Limits {
            idle: if options.disable_keep_alives { 0 } else { options.max_idle_conns_per_host },
            idle_for: options.idle_conn_timeout,
            at_once: options.max_conns_per_host,
        };
        let shared = Shared {
            proxy: options.proxy,
            tls: Mutex::new(options.tls),
            headers,
            deflater,
            budget: options.budget,
            connect_timeout: options.connect_timeout,
            largest: options.max_response_size,
            pool: Pool::new(limits),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether [`HttpClient::post`] can send to `url` at all: `http` or `https`, with a host and without user and
    /// password, which belong into a header.
    pub fn check(url: &Uri) -> Result<(), EndpointError> {
        Target::read(url).map(drop)
    }

    /// Posts a body in pieces and gives the answer, be it good or bad.
    ///
    /// `headers` go beside those of the settings, and in the place of those of the same name; names that HTTP uses
    /// itself are left out. The pieces are sent without being joined unless they are compressed. `timeout` bounds
    /// everything, waiting for a connection included. Dropping the future closes the connection.
    ///
    /// A request that finds out that the server had closed a kept connection is sent again, once, on a new one. So
    /// the server may see it twice in the rare case that it took the request and died before it said a word.
    pub async fn post(
        &self,
        url: &Uri,
        content_type: HeaderValue,
        headers: &HeaderMap,
        pieces: &[Bytes],
        timeout: Option<Duration>,
    ) -> Result<HttpAnswer, HttpError> {
        let post = self.shared.exchange(url, Some(content_type), headers, pieces);
        let Some(timeout) = timeout else { return post.await };
        in_time(timeout, post).await
    }

    /// Gets what is at `url`, with `headers` beside those of the settings.
    pub async fn get(
        &self,
        url: &Uri,
        headers: &HeaderMap,
        timeout: Duration,
    ) -> Result<HttpAnswer, HttpError> {
        in_time(timeout, self.shared.exchange(url, None, headers, &[])).await
    }
}

async fn in_time(
    timeout: Duration,
    exchange: impl Future<Output = Result<HttpAnswer, HttpError>>,
) -> Result<HttpAnswer, HttpError> {
    tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| {
        Err(HttpError::new(HttpErrorKind::TimedOut, format!("no answer within {timeout:?}")))
    })
}

impl Default for HttpClientOptions {
    fn default() -> Self {
        Self {
            tls: None,
            proxy: None,
            headers: Vec::new(),
            user_agent: super::USER_AGENT.to_owned(),
            compression: Compression::None,
            connect_timeout: Duration::from_secs(20),
            max_response_size: 4 << 20,
            max_idle_conns_per_host: 100,
            max_conns_per_host: 0,
            idle_conn_timeout: Duration::from_secs(90),
            disable_keep_alives: false,
            budget: None,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Posts a body of that type, or gets, where there is none.
    async fn exchange(
        &self,
        url: &Uri,
        content_type: Option<HeaderValue>,
        headers: &HeaderMap,
        pieces: &[Bytes],
    ) -> Result<HttpAnswer, HttpError> {
        let target = Target::read(url).map_err(|error| HttpError::unsendable(&error))?;
        let route = self.route(&target)?;
        let _turn = self.pool.turn(&target.key).await;
        let outgoing = self.outgoing(pieces, content_type.is_some())?;
        let request = || self.request(&target, &route, content_type.clone(), headers, &outgoing);
        if let Some(mut conn) = self.pool.take(&target.key) {
            match conn.send(request()?).await {
                // The server had closed it, and has closed the others then, too.
                Err(error) if exchange::is_stale(&error) => self.pool.forget(&target.key),
                response => return self.answer(&target, conn, response).await,
            }
        }
        let mut conn = self.open(&target, &route).await?;
        let response = conn.send(request()?).await;
        self.answer(&target, conn, response).await
    }

    fn outgoing(&self, pieces: &[Bytes], has_body: bool) -> Result<Outgoing, HttpError> {
        let Some(deflater) = self.deflater.as_ref().filter(|_| has_body) else {
            return Ok(Outgoing { pieces: pieces.into(), _permit: None });
        };
        let compressed = deflater.compress(pieces).map_err(|error| {
            let text = format!("could not compress the body: {error}");
            HttpError::new(HttpErrorKind::Unsendable, text)
        })?;
        // What is inside may not be lost for want of memory, so the copy overdraws.
        let permit = self.budget.as_ref().map(|budget| budget.overdraw(compressed.len() as u64));
        Ok(Outgoing { pieces: smallvec![Bytes::from(compressed)], _permit: permit })
    }

    fn tls(&self) -> Result<ClientTls, HttpError> {
        let mut tls = self.tls.lock();
        if let Some(tls) = &*tls {
            return Ok(tls.clone());
        }
        let system = ClientTls::new(&ClientTlsOptions::default());
        let system = system.map_err(|error| HttpError::new(HttpErrorKind::Tls, format!("TLS: {error}")))?;
        Ok(tls.insert(system).clone())
    }
}

/// What HTTP says itself.
fn is_reserved(name: &HeaderName) -> bool {
    is_of_the_connection(name) || name == CONTENT_TYPE || name == CONTENT_ENCODING
}

// === impl HttpError ===

impl HttpError {
    fn new(kind: HttpErrorKind, message: String) -> Self {
        Self { kind, message }
    }

    fn unsendable(error: &dyn std::fmt::Display) -> Self {
        Self::new(HttpErrorKind::Unsendable, error.to_string())
    }
}

impl HttpErrorKind {
    /// Whether the same may well succeed when it is sent again.
    pub fn is_retryable(self) -> bool {
        !matches!(self, Self::TooLarge | Self::Unsendable)
    }
}
