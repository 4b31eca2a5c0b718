//! A response that is read as it comes, for those that do not end: the watches of Kubernetes.

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, HOST};
use http::{HeaderMap, Request, StatusCode, Uri};
use hyper::body::Incoming;
use smallvec::SmallVec;

use super::pool::{Conn, Pieces};
use super::url::Target;
use super::{HttpClient, HttpError, exchange, is_reserved};
use crate::client::override_headers;
use crate::client::transport::Route;

/// A response under way, on a connection of its own, which closes when this is dropped.
pub struct HttpStream {
    /// The status, whichever it is.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    conn: Conn,
    body: Incoming,
    url: Uri,
}

impl HttpClient {
    /// Asks for `url` and gives the head of the response; what follows is for [`HttpStream::chunk`]. Nothing bounds how
    /// long that takes, or how much follows; but a server that has vanished from the network is an error within a
    /// minute.
    ///
    /// `headers` go beside those of the settings, as those of [`HttpClient::post`] do.
    pub async fn stream(&self, url: &Uri, headers: &HeaderMap) -> Result<HttpStream, HttpError> {
        let target = Target::read(url).map_err(|error| HttpError::unsendable(&error))?;
        let route = Route { watched: true, ..self.shared.route(&target)? };
        let mut request = Request::new(Pieces::new(&SmallVec::new()));
        *request.uri_mut() = target.line(&route);
        let own = request.headers_mut();
        own.extend(self.shared.headers.clone());
        own.remove(CONTENT_ENCODING);
        own.insert(HOST, target.host()?);
        override_headers(own, headers, is_reserved);
        let mut conn = self.shared.open(&target, &route).await?;
        let response = conn.send(request).await.map_err(|error| exchange::lost(&target, &error))?;
        let (parts, body) = response.into_parts();
        Ok(HttpStream { status: parts.status, headers: parts.headers, conn, body, url: url.clone() })
    }
}

impl HttpStream {
    /// What comes next of the body; `None` at its end.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, HttpError>> {
        loop {
            let frame = self.conn.frame(&mut self.body).await?;
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => return Some(Ok(data)),
                // Trailers say nothing to us.
                Ok(Err(_)) => {}
                Err(error) => {
                    let target = Target::read(&self.url).map_err(|error| HttpError::unsendable(&error));
                    return Some(Err(
                        target.map_or_else(|error| error, |target| exchange::lost(&target, &error))
                    ));
                }
            }
        }
    }
}

impl std::fmt::Debug for HttpStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpStream")
            .field("status", &self.status)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}
