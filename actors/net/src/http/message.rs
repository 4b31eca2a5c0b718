//! Requests and answers, between actix-http's types and the ones everybody else uses.

use std::borrow::Cow;
use std::net::SocketAddr;

use actix_http::{ConnectionType, RequestHead, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use tokio::time::Instant;

use super::{HttpRefusal, HttpRequest, HttpResponse};
use crate::status::{Code, Status};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

// === impl HttpRequest ===

impl HttpRequest {
    /// What `head` says, `None` of what the common types cannot say.
    pub(super) fn read(head: &RequestHead, peer: Option<SocketAddr>, arrived: Instant) -> Option<Self> {
        let method = Method::from_bytes(head.method.as_str().as_bytes()).ok()?;
        let uri = match (head.uri.authority(), head.uri.path_and_query()) {
            (None, Some(path)) => Uri::try_from(path.as_str()),
            _ => Uri::try_from(head.uri.to_string()),
        };
        let mut headers = HeaderMap::with_capacity(head.headers.len());
        for (name, value) in &head.headers {
            let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
        Some(Self { method, uri: uri.ok()?, headers, peer, arrived })
    }

    /// What stands for a request that could not be read.
    pub(super) fn unread(peer: Option<SocketAddr>) -> Self {
        let (method, uri) = (Method::GET, Uri::from_static("/"));
        Self { method, uri, headers: HeaderMap::new(), peer, arrived: Instant::now() }
    }

    /// The request in short, and its content type: what can be kept at no cost, should the call panic.
    pub(super) fn digest(&self) -> (Self, Option<HeaderValue>) {
        let (method, uri) = (self.method.clone(), self.uri.clone());
        let short = Self { method, uri, headers: HeaderMap::new(), peer: self.peer, arrived: self.arrived };
        (short, self.headers.get(CONTENT_TYPE).cloned())
    }
}

// === impl HttpResponse ===

impl HttpResponse {
    /// An answer without a body.
    pub fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// An answer with a body of this kind.
    pub fn with_body(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        let mut response = Self { body: body.into(), ..Self::new(status) };
        response.headers.insert(CONTENT_TYPE, content_type);
        response
    }

    /// An answer in plain English.
    pub fn text(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Self {
        let body = match text.into() {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        };
        Self::with_body(status, TEXT, body)
    }

    /// The head, as actix-http writes it; `close` says that it is the connection's last.
    pub(super) fn head(&self, close: bool) -> Response<()> {
        // Both are the same numbers.
        let status = actix_http::StatusCode::from_u16(self.status.as_u16()).unwrap_or_default();
        let mut response = Response::with_body(status, ());
        let head = response.head_mut();
        for (name, value) in &self.headers {
            use actix_http::header::{HeaderName, HeaderValue};
            let name = HeaderName::from_bytes(name.as_str().as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
                head.headers.append(name, value);
            }
        }
        if close {
            head.set_connection_type(ConnectionType::Close);
        }
        response
    }
}

// === impl HttpRefusal ===

impl HttpRefusal {
    /// A refusal without a delay.
    pub fn new(status: StatusCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), retry_after: None, panicked: false }
    }
}

impl From<Status> for HttpRefusal {
    /// What gathering and inflating say to gRPC's clients, said to HTTP's.
    fn from(status: Status) -> Self {
        let code = match status.code {
            Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self { status: code, reason: status.message, retry_after: status.retry_after, panicked: false }
    }
}
