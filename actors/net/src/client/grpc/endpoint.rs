//! Where a client's calls go, and the headers they carry.

use http::header::{CONTENT_TYPE, TE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::ClientOptions;
use crate::client::transport::{Route, Tls, bare};
use crate::client::{EndpointError, add_headers, is_of_the_connection};
use crate::status::GRPC;
use crate::tls::{ClientTls, ClientTlsOptions};

/// Where calls go.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// `host:port`, as it was written.
    pub address: String,
    pub route: Route,
    /// What the server is called in each request.
    pub authority: Authority,
}

impl Endpoint {
    pub fn new(options: &ClientOptions) -> Result<Self, EndpointError> {
        let (scheme, target, host, port) = parse(&options.endpoint)?;
        let tls = match &options.tls {
            None if scheme == Scheme::HTTPS => {
                let system = ClientTls::new(&ClientTlsOptions::default());
                Some(system.map_err(|error| EndpointError::Tls(error.to_string()))?)
            }
            tls => tls.clone(),
        };
        // As gRPC has it everywhere: the name that is expected is also the one that is asked for.
        let name = options.authority.as_deref().or(tls.as_ref().and_then(ClientTls::server_name));
        let authority = match name {
            None => target.clone(),
            Some(name) => name.parse().map_err(|_| EndpointError::Authority(name.to_owned()))?,
        };
        // Proxies are asked for as if gRPC were always encrypted: it always needs a tunnel.
        let via = options.proxy.as_ref().and_then(|proxy| {
            let url = Uri::builder().scheme(Scheme::HTTPS).authority(target.clone()).path_and_query("/");
            proxy.via(&url.build().ok()?)
        });
        let tls = tls.map(|tls| Tls { tls, name: bare(authority.host()).to_owned(), alpn: b"h2" });
        let route = Route { host, port, tls, via, forwarded: false, watched: false };
        Ok(Self { address: target.to_string(), route, authority })
    }

    pub fn scheme(&self) -> Scheme {
        if self.route.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }
}

fn parse(text: &str) -> Result<(Scheme, Authority, String, u16), EndpointError> {
    let invalid = || EndpointError::Invalid(text.to_owned());
    let uri = match text.contains("://") {
        true => text.parse::<Uri>(),
        false => format!("http://{text}").parse::<Uri>(),
    };
    let uri = uri.map_err(|_| invalid())?;
    let scheme = uri.scheme().filter(|scheme| [&Scheme::HTTP, &Scheme::HTTPS].contains(scheme));
    let scheme = scheme.cloned().ok_or_else(invalid)?;
    let target = uri.authority().ok_or_else(invalid)?;
    let port = target.port_u16().or((scheme == Scheme::HTTPS).then_some(443)).ok_or_else(invalid)?;
    let host = bare(target.host()).to_owned();
    let plain = uri.path().trim_matches('/').is_empty()
        && uri.query().is_none()
        && !target.as_str().contains('@')
        && !host.is_empty();
    if !plain {
        return Err(invalid());
    }
    Ok((scheme, target.clone(), host, port))
}

/// The headers of every call.
pub(super) fn headers(
    options: &ClientOptions,
    encoding: Option<&'static str>,
) -> Result<HeaderMap, EndpointError> {
    let mut headers = HeaderMap::new();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, GRPC);
    if let Some(encoding) = encoding {
        headers.insert("grpc-encoding", HeaderValue::from_static(encoding));
    }
    add_headers(&mut headers, &options.user_agent, &options.headers, is_reserved)?;
    Ok(headers)
}

/// What gRPC, or HTTP/2 under it, says itself or forbids.
pub(super) fn is_reserved(name: &HeaderName) -> bool {
    name.as_str().starts_with("grpc-")
        || is_of_the_connection(name)
        || ["content-type", "host"].contains(&name.as_str())
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
            let Endpoint { route, .. } = Endpoint::new(&ClientOptions::new(text)).unwrap();
            assert_eq!((route.host.as_str(), route.port), (host, port), "{text}");
            assert!(route.tls.is_none(), "{text}");
        }
        let authority = Some("b".to_owned());
        let options = ClientOptions { authority, ..ClientOptions::new("a:1") };
        assert_eq!(Endpoint::new(&options).unwrap().authority, "b");
    }

    #[test]
    fn https_and_settings_of_tls_mean_tls() {
        let believe = ClientTlsOptions {
            insecure_skip_verify: true,
            server_name_override: Some("inside.example".to_owned()),
            ..ClientTlsOptions::default()
        };
        let tls = Some(ClientTls::new(&believe).unwrap());
        for (text, port) in
            [("https://a", 443), ("https://a:4317", 4317), ("a:4317", 4317), ("http://a:1", 1)]
        {
            let options = ClientOptions { tls: tls.clone(), ..ClientOptions::new(text) };
            let endpoint = Endpoint::new(&options).unwrap();
            assert_eq!((endpoint.scheme(), endpoint.route.port), (Scheme::HTTPS, port), "{text}");
            assert_eq!(endpoint.authority, "inside.example", "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_the_others() {
        for text in
            ["", "localhost", "http://localhost", "ftp://a:1", "http://a:1/v1/traces", "me@a:1", ":4317"]
        {
            assert_eq!(
                Endpoint::new(&ClientOptions::new(text)).unwrap_err(),
                EndpointError::Invalid(text.to_owned()),
                "{text}"
            );
        }
        let authority = Some("b c".to_owned());
        let options = ClientOptions { authority, ..ClientOptions::new("a:1") };
        assert!(matches!(Endpoint::new(&options), Err(EndpointError::Authority(_))));
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
