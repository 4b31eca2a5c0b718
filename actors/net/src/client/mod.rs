//! The sending end: gRPC calls over one connection, HTTP requests over a few.

mod grpc;
mod http;
mod proxy;
mod transport;

pub use self::grpc::{CallError, CallErrorKind, Client, ClientKeepalive, ClientOptions};
pub use self::http::{
    FetchError, Fetched, HttpAnswer, HttpClient, HttpClientOptions, HttpError, HttpErrorKind, HttpStream,
};
pub use self::proxy::Proxy;

use ::http::{HeaderMap, HeaderName, HeaderValue};

/// Who calls, unless told otherwise.
const USER_AGENT: &str = concat!("watershed/", env!("CARGO_PKG_VERSION"));

/// Why a client cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not `host:port`, `http://host:port` or `https://host:port`.
    #[error(
        "\"{0}\" is no endpoint: write host:port, http://host:port or https://host:port, such as localhost:4317"
    )]
    Invalid(String),
    /// No URL that HTTP requests can go to.
    #[error("\"{0}\" is no URL to send to: write http://host:port/path or https://host:port/path")]
    Url(String),
    /// TLS cannot be had.
    #[error("TLS: {0}")]
    Tls(String),
    /// The authority is none.
    #[error("\"{0}\" is no authority: write host or host:port")]
    Authority(String),
    /// A header that cannot be sent.
    #[error(
        "the header \"{0}\" cannot be sent: its name is none, is the protocol's own, or its value is no text"
    )]
    Header(String),
    /// A proxy that cannot be used; shown without user and password.
    #[error("\"{0}\" is no proxy: write http://host:port or http://user:password@host:port")]
    Proxy(String),
}

/// A URL without user and password, which are what comes before the last @.
fn without_secret(url: &str) -> String {
    url.rsplit('@').next().unwrap_or_default().to_owned()
}

/// Adds the headers of the settings to those that the protocol has already.
fn add_headers(
    headers: &mut HeaderMap,
    user_agent: &str,
    told: &[(String, String)],
    is_reserved: fn(&HeaderName) -> bool,
) -> Result<(), EndpointError> {
    use ::http::header::USER_AGENT;
    let agent = HeaderValue::from_str(user_agent);
    headers.insert(USER_AGENT, agent.map_err(|_| EndpointError::Header(USER_AGENT.to_string()))?);
    for (name, value) in told {
        let invalid = || EndpointError::Header(name.clone());
        let name: HeaderName = name.parse().map_err(|_| invalid())?;
        if is_reserved(&name) || name == USER_AGENT {
            return Err(invalid());
        }
        headers.append(name, HeaderValue::from_str(value).map_err(|_| invalid())?);
    }
    Ok(())
}

/// Puts the headers of one call in the place of those that every call has. The protocol's own are left out.
fn override_headers(headers: &mut HeaderMap, call: &HeaderMap, is_reserved: fn(&HeaderName) -> bool) {
    for name in call.keys().filter(|name| !is_reserved(name)) {
        headers.remove(name);
        for value in call.get_all(name) {
            headers.append(name, value.clone());
        }
    }
}

/// What a connection cannot have set from outside (RFC 9110, 7.6.1; RFC 9113, 8.2.2).
fn is_of_the_connection(name: &HeaderName) -> bool {
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"]
        .contains(&name.as_str())
}
