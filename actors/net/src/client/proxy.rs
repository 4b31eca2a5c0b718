//! The way through an HTTP proxy: whether there is one, and the tunnel through it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::transport::{bare, tcp};
use super::{EndpointError, without_secret};

/// The longest head of a proxy's answer, in bytes.
const HEAD: usize = 8 << 10;

/// Which destinations are reached through a proxy, and through which one. Clones are the same.
#[derive(Clone, Debug)]
pub struct Proxy {
    matcher: Arc<Matcher>,
    /// Go straight to this machine, as Go's programs do with a proxy from the environment.
    spares_loopback: bool,
}

/// A proxy to go through.
#[derive(Clone)]
pub(super) struct Via {
    pub host: String,
    pub port: u16,
    /// Who we are (`Proxy-Authorization`), of what the URL says.
    pub authorization: Option<HeaderValue>,
}

// === impl Proxy ===

impl Proxy {
    /// Everything goes through `url`: `http://host:port`, with `user:password@` where it asks for them.
    pub fn new(url: &str) -> Result<Self, EndpointError> {
        check(url)?;
        Ok(Self { matcher: Arc::new(Matcher::builder().all(url).build()), spares_loopback: false })
    }

    /// What the environment says now: `HTTPS_PROXY` for gRPC and for `https://`, `HTTP_PROXY` for `http://`,
    /// `NO_PROXY` for what is reached without; also in lower case.
    ///
    /// `NO_PROXY` lists names (subdomains included), addresses and networks (`10.0.0.0/8`), separated by commas, or
    /// is `*`. Ports are not understood in it. `localhost` and loopback addresses are always reached without.
    pub fn from_env() -> Result<Self, EndpointError> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, EndpointError> {
        let value = |upper: &str| {
            let set = |name: &str| var(name).filter(|value| !value.is_empty());
            set(upper).or_else(|| set(&upper.to_lowercase())).unwrap_or_default()
        };
        let (http, https, no) = (value("HTTP_PROXY"), value("HTTPS_PROXY"), value("NO_PROXY"));
        let mut builder = Matcher::builder();
        // The matcher's own star means names only.
        if !no.split(',').any(|entry| entry.trim() == "*") {
            for url in [&http, &https].into_iter().filter(|url| !url.is_empty()) {
                check(url)?;
            }
            builder = builder.http(http).https(https).no(no);
        }
        Ok(Self { matcher: Arc::new(builder.build()), spares_loopback: true })
    }

    /// The proxy on the way to `destination`, a URL.
    pub(super) fn via(&self, destination: &Uri) -> Option<Via> {
        let host = bare(destination.host()?);
        if self.spares_loopback
            && (host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback()))
        {
            return None;
        }
        self.matcher.intercept(destination).as_ref().and_then(Via::read)
    }
}

/// Whether `url` can be used as a proxy at all: the matcher passes over what it does not understand.
fn check(url: &str) -> Result<(), EndpointError> {
    let matcher = Matcher::builder().all(url).build();
    let intercept = matcher.intercept(&Uri::from_static("https://any"));
    let via = intercept.as_ref().and_then(Via::read);
    via.map(drop).ok_or_else(|| EndpointError::Proxy(without_secret(url)))
}

// === impl Via ===

impl Via {
    fn read(intercept: &Intercept) -> Option<Self> {
        let uri = intercept.uri();
        let host = uri.host().map(bare).filter(|host| !host.is_empty())?;
        let plain = uri.scheme_str() == Some("http");
        plain.then(|| Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(80),
            authorization: intercept.basic_auth().cloned(),
        })
    }

    /// A connection to the proxy itself.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let connecting = tcp(&self.host, self.port).await;
        connecting.map_err(|error| self.error(error.kind(), &error.to_string()))
    }

    /// A connection to `host:port` through the proxy (CONNECT; RFC 9110, 9.3.6).
    pub async fn tunnel(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut stream = self.connect().await?;
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(authorization) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(authorization.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await?;
        let head = head(&mut stream).await.map_err(|error| self.error(error.kind(), &error.to_string()))?;
        let status = head.split(' ').nth(1).filter(|_| head.starts_with("HTTP/1."));
        match status {
            Some(status) if status.starts_with('2') => Ok(stream),
            Some("407") => Err(self.error(
                io::ErrorKind::PermissionDenied,
                "it wants a user and a password, or others: http://user:password@host:port",
            )),
            Some(_) => {
                let line = head.lines().next().unwrap_or_default();
                Err(self.error(io::ErrorKind::ConnectionRefused, &format!("it says \"{line}\"")))
            }
            None => Err(self.error(io::ErrorKind::InvalidData, "it does not speak HTTP")),
        }
    }

    fn error(&self, kind: io::ErrorKind, text: &str) -> io::Error {
        io::Error::new(kind, format!("the proxy {}:{}: {text}", self.host, self.port))
    }
}

/// Without who we are.
impl std::fmt::Debug for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Via({}:{})", self.host, self.port)
    }
}

/// The head of an answer, byte by byte: what follows it belongs to whoever uses the tunnel.
async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer has no end"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn from_vars(vars: &[(&str, &str)]) -> Result<Proxy, EndpointError> {
        Proxy::from_vars(|name| {
            vars.iter().find(|(var, _)| *var == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn via(proxy: &Proxy, url: &str) -> Option<String> {
        proxy.via(&url.parse().unwrap()).map(|via| format!("{}:{}", via.host, via.port))
    }

    #[test]
    fn the_environment_says_what_goes_through_a_proxy() {
        let proxy = from_vars(&[
            ("HTTPS_PROXY", "http://secure.example:3128"),
            ("http_proxy", "plain.example:8080"),
            ("NO_PROXY", "internal.example, .svc, 10.0.0.0/8, 192.0.2.7, fd00::/8"),
        ])
        .unwrap();
        let secure = Some("secure.example:3128".to_owned());
        let plain = Some("plain.example:8080".to_owned());
        for (url, expected) in [
            ("https://collector.example:4317", &secure),
            ("https://203.0.113.1", &secure),
            ("https://notinternal.example", &secure),
            ("http://collector.example:4318", &plain),
            ("https://internal.example", &None),
            ("https://INTERNAL.example:4317", &None),
            ("https://gateway.internal.example:4317", &None),
            ("http://gateway.monitoring.svc:4318", &None),
            ("https://10.1.2.3:4317", &None),
            ("https://192.0.2.7:4317", &None),
            ("https://192.0.2.8:4317", &secure),
            ("https://[fd00::1]:4317", &None),
            ("https://localhost:4317", &None),
            ("https://127.8.8.8:4317", &None),
            ("https://[::1]:4317", &None),
        ] {
            assert_eq!(via(&proxy, url), *expected, "{url}");
        }
    }

    #[test]
    fn no_proxy_can_mean_everything() {
        let proxy =
            from_vars(&[("HTTPS_PROXY", "http://secure.example:3128"), ("NO_PROXY", "a, *")]).unwrap();
        assert_eq!(via(&proxy, "https://collector.example"), None);
        assert_eq!(via(&proxy, "https://203.0.113.1"), None);
        let none = from_vars(&[]).unwrap();
        assert_eq!(via(&none, "https://collector.example"), None);
    }

    #[test]
    fn a_proxy_of_the_settings_is_for_everything() {
        let proxy = Proxy::new("http://me:pass%20word@proxy.example").unwrap();
        for url in ["https://localhost:4317", "http://127.0.0.1", "https://collector.example"] {
            assert_eq!(via(&proxy, url).as_deref(), Some("proxy.example:80"), "{url}");
        }
        let via = proxy.via(&Uri::from_static("http://a")).unwrap();
        assert_eq!(via.authorization.as_ref().unwrap(), "Basic bWU6cGFzcyB3b3Jk");
        assert!(!format!("{proxy:?} {via:?}").contains("pass"));
    }

    #[test]
    fn what_cannot_be_a_proxy_is_said_without_its_password() {
        for url in ["", "http://", "socks5://me:word@a:1", "https://me:word@a:1", "me word"] {
            let error = Proxy::new(url).unwrap_err();
            assert!(matches!(error, EndpointError::Proxy(_)), "{url}");
            assert!(!error.to_string().contains("me:word"), "{error}");
        }
        assert!(from_vars(&[("HTTP_PROXY", "ftp://a:1")]).is_err());
    }
}
