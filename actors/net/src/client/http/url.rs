//! Where a request goes: which connections can carry it, and what stands in its first line.

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};

use super::{HttpError, Shared};
use crate::client::transport::{Route, Tls, bare};
use crate::client::{EndpointError, without_secret};

/// A URL that requests can go to.
pub(super) struct Target<'a> {
    pub url: &'a Uri,
    pub key: Key,
}

/// What two requests must have in common to share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub secure: bool,
    pub authority: Authority,
}

impl<'a> Target<'a> {
    pub fn read(url: &'a Uri) -> Result<Self, EndpointError> {
        let secure = url.scheme() == Some(&Scheme::HTTPS);
        let authority = url.authority().filter(|authority| {
            let userless = !authority.as_str().contains('@');
            let named = !authority.host().is_empty();
            userless && named && (secure || url.scheme() == Some(&Scheme::HTTP))
        });
        let authority = authority.ok_or_else(|| EndpointError::Url(without_secret(&url.to_string())))?;
        Ok(Self { url, key: Key { secure, authority: authority.clone() } })
    }

    /// `Host`.
    pub fn host(&self) -> Result<HeaderValue, HttpError> {
        HeaderValue::from_str(self.key.authority.as_str()).map_err(|error| HttpError::unsendable(&error))
    }

    /// What stands in the first line: a proxy that forwards is told the whole URL (RFC 9112, 3.2).
    pub fn line(&self, route: &Route) -> Uri {
        if route.forwarded {
            return self.url.clone();
        }
        let path = self.url.path_and_query().cloned();
        path.unwrap_or_else(|| PathAndQuery::from_static("/")).into()
    }
}

impl Shared {
    pub(super) fn route(&self, target: &Target<'_>) -> Result<Route, HttpError> {
        let Key { secure, authority } = &target.key;
        let host = bare(authority.host()).to_owned();
        let tls = match secure {
            true => Some(Tls { tls: self.tls()?, name: host.clone(), alpn: b"http/1.1" }),
            false => None,
        };
        let port = authority.port_u16().unwrap_or(if *secure { 443 } else { 80 });
        let via = self.proxy.as_ref().and_then(|proxy| proxy.via(target.url));
        let forwarded = via.is_some() && !secure;
        Ok(Route { host, port, tls, via, forwarded, watched: false })
    }
}
