//! Getting what a server has, which may be large: read and inflated inside the memory that was granted.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HOST, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use hyper::body::{Body as _, Incoming};
use smallvec::SmallVec;
use watershed_delivery::Permit;

use super::exchange::is_stale;
use super::pool::{Conn, Pieces};
use super::url::Target;
use super::{HttpClient, HttpError, Shared, is_reserved};
use crate::client::override_headers;
use crate::client::transport::Route;
use crate::compression::{Coding, Inflater, Room};
use crate::status::{Code, Status};

/// The first step where a server does not say how much it has, in bytes.
const FIRST: u64 = 64 << 10;

/// What a server has.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The status, whichever it is. Redirects are not followed: they are answers too.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, inflated. Empty if the status is not 200.
    pub body: Vec<u8>,
}

/// Why there is nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The exchange failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// There is no memory for the body now.
    #[error("there is no memory for the response now")]
    Memory,
    /// The body is larger than what is taken, in bytes.
    #[error("the response is larger than {0} bytes")]
    TooLarge(u64),
    /// The body can not be inflated.
    #[error("{0}")]
    Encoding(String),
}

// === impl HttpClient ===

impl HttpClient {
    /// Gets what is at `url`, with `headers` beside those of the settings; gzip is asked for if `compressed`.
    ///
    /// `permit` grows with the body, as it comes and again as it is inflated, and is left covering at least what it is.
    /// Neither is ever longer than `limit` bytes. There is no timeout; dropping the future closes the connection.
    pub async fn fetch(
        &self,
        url: &Uri,
        headers: &HeaderMap,
        compressed: bool,
        limit: u64,
        permit: &Permit,
    ) -> Result<Fetched, FetchError> {
        self.shared.fetch(url, headers, compressed, limit, permit).await
    }
}

// === impl Shared ===

impl Shared {
    async fn fetch(
        &self,
        url: &Uri,
        headers: &HeaderMap,
        compressed: bool,
        limit: u64,
        permit: &Permit,
    ) -> Result<Fetched, FetchError> {
        let target = Target::read(url).map_err(|error| HttpError::unsendable(&error))?;
        let route = self.route(&target)?;
        let _turn = self.pool.turn(&target.key).await;
        let request = || self.get(&target, &route, headers, compressed);
        if let Some(mut conn) = self.pool.take(&target.key) {
            match conn.send(request()?).await {
                // The server had closed it, and has closed the others then, too.
                Err(error) if is_stale(&error) => self.pool.forget(&target.key),
                response => return self.fetched(&target, conn, response, limit, permit).await,
            }
        }
        let mut conn = self.open(&target, &route).await?;
        let response = conn.send(request()?).await;
        self.fetched(&target, conn, response, limit, permit).await
    }

    fn get(
        &self,
        target: &Target<'_>,
        route: &Route,
        call: &HeaderMap,
        compressed: bool,
    ) -> Result<Request<Pieces>, HttpError> {
        let mut headers = self.headers.clone();
        headers.remove(CONTENT_ENCODING);
        if !headers.contains_key(HOST) {
            headers.insert(HOST, target.host()?);
        }
        if let Some(via) = route.via.as_ref().filter(|_| route.forwarded)
            && let Some(authorization) = &via.authorization
        {
            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        override_headers(&mut headers, call, is_reserved);
        let coding = if compressed { "gzip" } else { "identity" };
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(coding));
        let mut request = Request::new(Pieces::new(&SmallVec::<[Bytes; 1]>::new()));
        *request.uri_mut() = target.line(route);
        *request.headers_mut() = headers;
        Ok(request)
    }

    async fn fetched(
        &self,
        target: &Target<'_>,
        mut conn: Conn,
        response: hyper::Result<Response<Incoming>>,
        limit: u64,
        permit: &Permit,
    ) -> Result<Fetched, FetchError> {
        let (parts, mut body) = response.map_err(|error| super::exchange::lost(target, &error))?.into_parts();
        if parts.status != StatusCode::OK {
            return Ok(Fetched { status: parts.status, headers: parts.headers, body: Vec::new() });
        }
        let room = Room { limit, held: 0, permit };
        let mut gathered = Vec::new();
        let announced = body.size_hint().exact().unwrap_or(FIRST);
        if announced > limit {
            return Err(FetchError::TooLarge(limit));
        }
        // A length that is only claimed is granted as it proves true.
        grow(&room, &mut gathered, announced.min(16 * FIRST))?;
        while let Some(frame) = conn.frame(&mut body).await {
            let frame = frame.map_err(|error| super::exchange::lost(target, &error))?;
            let Ok(data) = frame.into_data() else { continue };
            let needed = gathered.len() + data.len();
            if needed as u64 > limit {
                return Err(FetchError::TooLarge(limit));
            }
            if needed > gathered.capacity() {
                let wanted = needed.max(2 * gathered.capacity()) as u64;
                grow(&room, &mut gathered, wanted)?;
            }
            gathered.extend_from_slice(&data);
        }
        self.pool.keep(&target.key, conn);
        let body = inflated(&parts.headers, gathered, limit, permit).await?;
        Ok(Fetched { status: parts.status, headers: parts.headers, body })
    }
}

fn grow(room: &Room<'_>, to: &mut Vec<u8>, wanted: u64) -> Result<(), FetchError> {
    room.grow(to, wanted).map_err(|status| refused(status, room.limit))
}

fn refused(status: Status, limit: u64) -> FetchError {
    match (status.code, status.retry_after) {
        (_, Some(_)) => FetchError::Memory,
        (Code::ResourceExhausted, None) => FetchError::TooLarge(limit),
        _ => FetchError::Encoding(status.message.into_owned()),
    }
}

async fn inflated(
    headers: &HeaderMap,
    body: Vec<u8>,
    limit: u64,
    permit: &Permit,
) -> Result<Vec<u8>, FetchError> {
    let name = headers.get(CONTENT_ENCODING).map_or(&b""[..], |name| name.as_bytes());
    let unknown = || FetchError::Encoding(format!("nobody asked for the encoding {}", name.escape_ascii()));
    match Coding::of_content(name).ok_or_else(unknown)? {
        None => Ok(body),
        Some(coding @ Coding::Gzip) => Inflater::default()
            .inflate(coding, &body, limit, permit)
            .await
            .map_err(|status| refused(status, limit)),
        Some(_) => Err(unknown()),
    }
}
