//! Where a client's calls go, and the headers they carry.

use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::ClientOptions;
use crate::compression::Encoding;
use crate::status::GRPC;

/// Why a client cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not `host:port` or `http://host:port`.
    #[error("\"{0}\" is no endpoint: write host:port or http://host:port, such as localhost:4317")]
    Invalid(String),
    /// Asks for TLS.
    #[error(
        "\"{0}\" asks for TLS, which is not supported yet: write http:// where the network can be trusted"
    )]
    Tls(String),
    /// The authority is none.
    #[error("\"{0}\" is no authority: write host or host:port")]
    Authority(String),
    /// A header that cannot be sent.
    #[error("the header \"{0}\" cannot be sent: its name is none, is gRPC's own, or its value is no text")]
    Header(String),
}

/// Where calls go.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// `host:port`, as it was written.
    pub address: String,
    pub host: String,
    pub port: u16,
    /// What the server is called in each request.
    pub authority: Authority,
}

impl Endpoint {
    pub fn parse(text: &str, authority: Option<&str>) -> Result<Self, EndpointError> {
        let invalid = || EndpointError::Invalid(text.to_owned());
        let uri = match text.contains("://") {
            true => text.parse::<Uri>(),
            false => format!("http://{text}").parse::<Uri>(),
        };
        let uri = uri.map_err(|_| invalid())?;
        if uri.scheme() == Some(&Scheme::HTTPS) {
            return Err(EndpointError::Tls(text.to_owned()));
        }
        let target = uri.authority().ok_or_else(invalid)?;
        let port = target.port_u16().ok_or_else(invalid)?;
        // IPv6 addresses stand in brackets, which name resolution does not know.
        let host = target.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let plain = uri.scheme() == Some(&Scheme::HTTP)
            && uri.path().trim_matches('/').is_empty()
            && uri.query().is_none()
            && !target.as_str().contains('@')
            && !host.is_empty();
        if !plain {
            return Err(invalid());
        }
        let authority = match authority {
            None => target.clone(),
            Some(name) => name.parse().map_err(|_| EndpointError::Authority(name.to_owned()))?,
        };
        Ok(Self { address: target.to_string(), host, port, authority })
    }
}

/// The headers of every call.
pub(super) fn headers(
    options: &ClientOptions,
    encoding: Option<Encoding>,
) -> Result<HeaderMap, EndpointError> {
    let mut headers = HeaderMap::new();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, GRPC);
    let agent = HeaderValue::from_str(&options.user_agent);
    headers.insert(USER_AGENT, agent.map_err(|_| EndpointError::Header(USER_AGENT.to_string()))?);
    if let Some(encoding) = encoding {
        let name = match encoding {
            Encoding::Gzip => "gzip",
            Encoding::Zstd => "zstd",
        };
        headers.insert("grpc-encoding", HeaderValue::from_static(name));
    }
    for (name, value) in &options.headers {
        let invalid = || EndpointError::Header(name.clone());
        let name: HeaderName = name.parse().map_err(|_| invalid())?;
        if is_reserved(&name) {
            return Err(invalid());
        }
        headers.append(name, HeaderValue::from_str(value).map_err(|_| invalid())?);
    }
    Ok(headers)
}

/// What gRPC, or HTTP/2 under it, says itself or forbids.
fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("grpc-")
        || ["te", "content-type", "content-length", "user-agent", "host", "connection", "transfer-encoding"]
            .contains(&name)
        || ["keep-alive", "proxy-connection", "upgrade"].contains(&name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_endpoints() {
        for (text, host, port) in [
            ("localhost:4317", "localhost", 4317),
            ("http://collector.example:4317", "collector.example", 4317),
            ("http://10.0.0.1:4317/", "10.0.0.1", 4317),
            ("[::1]:4317", "::1", 4317),
        ] {
            let endpoint = Endpoint::parse(text, None).unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
        }
        assert_eq!(Endpoint::parse("a:1", Some("b")).unwrap().authority, "b");
    }

    #[test]
    fn says_what_is_wrong_with_the_others() {
        for text in
            ["", "localhost", "http://localhost", "ftp://a:1", "http://a:1/v1/traces", "me@a:1", ":4317"]
        {
            assert_eq!(
                Endpoint::parse(text, None).unwrap_err(),
                EndpointError::Invalid(text.to_owned()),
                "{text}"
            );
        }
        assert!(matches!(Endpoint::parse("https://a:1", None), Err(EndpointError::Tls(_))));
        assert!(matches!(Endpoint::parse("a:1", Some("b c")), Err(EndpointError::Authority(_))));
    }

    #[test]
    fn headers_of_grpc_itself_are_refused() {
        let with = |name: &str, value: &str| {
            let headers = vec![(name.to_owned(), value.to_owned())];
            headers_of(&ClientOptions { headers, ..ClientOptions::new("a:1") })
        };
        let headers_ok = with("X-Tenant", "blue").unwrap();
        assert_eq!(headers_ok.get("x-tenant").unwrap(), "blue");
        for (name, value) in [("grpc-timeout", "1S"), ("te", "x"), ("a b", "x"), ("x", "a\nb")] {
            assert_eq!(with(name, value).unwrap_err(), EndpointError::Header(name.to_owned()));
        }
    }

    fn headers_of(options: &ClientOptions) -> Result<HeaderMap, EndpointError> {
        headers(options, None)
    }
}
