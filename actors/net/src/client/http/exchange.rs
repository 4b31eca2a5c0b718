//! One exchange: a request out, a response in.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, PROXY_AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;

use super::pool::{Conn, Pieces};
use super::url::Target;
use super::{HttpAnswer, HttpError, HttpErrorKind, Outgoing, Shared, is_reserved};
use crate::client::override_headers;
use crate::client::transport::Route;
use crate::tls::{TlsTrouble, trouble};

/// What is read of a body that only says what is wrong, in bytes.
const COMPLAINT: u64 = 64 << 10;

impl Shared {
    pub(super) fn request(
        &self,
        target: &Target<'_>,
        route: &Route,
        content_type: Option<HeaderValue>,
        call: &HeaderMap,
        outgoing: &Outgoing,
    ) -> Result<Request<Pieces>, HttpError> {
        let body = Pieces::new(&outgoing.pieces);
        let mut headers = self.headers.clone();
        if !headers.contains_key(HOST) {
            headers.insert(HOST, target.host()?);
        }
        let method = if content_type.is_some() { Method::POST } else { Method::GET };
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, content_type);
            // Also where it is zero, which hyper would leave out (RFC 9110, 8.6).
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.size_hint().lower()));
        } else {
            headers.remove(CONTENT_ENCODING);
        }
        if let Some(via) = route.via.as_ref().filter(|_| route.forwarded)
            && let Some(authorization) = &via.authorization
        {
            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        override_headers(&mut headers, call, is_reserved);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target.line(route);
        *request.headers_mut() = headers;
        Ok(request)
    }

    pub(super) async fn open(&self, target: &Target<'_>, route: &Route) -> Result<Conn, HttpError> {
        let patience = self.connect_timeout;
        let failed = |kind, reason: &dyn std::fmt::Display| {
            HttpError::new(kind, format!("cannot connect to {}: {reason}", target.key.authority))
        };
        match tokio::time::timeout(patience, route.connect()).await {
            Err(_) => Err(failed(HttpErrorKind::Connect, &format!("no answer within {patience:?}"))),
            Ok(Err(error)) => Err(match trouble(&error) {
                Some(trouble) => failed(HttpErrorKind::Tls, &trouble),
                None => failed(HttpErrorKind::Connect, &error),
            }),
            Ok(Ok(stream)) => {
                Conn::open(stream).await.map_err(|error| failed(HttpErrorKind::Connect, &error))
            }
        }
    }

    /// Reads what follows the head, and keeps the connection where it is of further use.
    pub(super) async fn answer(
        &self,
        target: &Target<'_>,
        mut conn: Conn,
        response: hyper::Result<Response<Incoming>>,
    ) -> Result<HttpAnswer, HttpError> {
        let lost = |error| lost(target, &error);
        let (parts, body) = response.map_err(lost)?.into_parts();
        let good = parts.status.is_success();
        let limit = if good { self.largest } else { self.largest.min(COMPLAINT) };
        let (body, cut) = read(&mut conn, body, limit).await.map_err(lost)?;
        if !cut {
            self.pool.keep(&target.key, conn);
        } else if good {
            let text = format!("the response of {} is larger than {limit} bytes", target.key.authority);
            return Err(HttpError::new(HttpErrorKind::TooLarge, text));
        }
        // The clock of the world: the date is one of the server's, who has no other.
        #[allow(clippy::disallowed_methods)]
        let retry_after = parts.headers.get(RETRY_AFTER).and_then(|value| delay(value, SystemTime::now()));
        Ok(HttpAnswer { status: parts.status, headers: parts.headers, body, cut, retry_after })
    }
}

/// A body, and whether there is more of it than `limit`. Most are a few bytes, which come at once and are taken as
/// they are.
async fn read(conn: &mut Conn, mut body: Incoming, limit: u64) -> hyper::Result<(Bytes, bool)> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = conn.frame(&mut body).await {
        // Trailers say nothing to us.
        let Ok(mut frame) = frame?.into_data() else { continue };
        let room = limit - (first.len() + joined.len()) as u64;
        let cut = frame.len() as u64 > room;
        if cut {
            // Smaller than a length, so it is one.
            frame.truncate(room as usize);
        }
        if first.is_empty() && joined.is_empty() {
            first = frame;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&frame);
        }
        if cut {
            return Ok((if joined.is_empty() { first } else { joined.freeze() }, true));
        }
    }
    Ok((if joined.is_empty() { first } else { joined.freeze() }, false))
}

/// `Retry-After`: seconds, or a date, which is no delay at all once it is over.
fn delay(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than fits is for ever.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

// === what went wrong ===

/// Whether a kept connection was at its end before it was used, as far as one can tell: no head has come back.
pub(super) fn is_stale(error: &hyper::Error) -> bool {
    !error.is_parse() && !error.is_user()
}

pub(super) fn lost(target: &Target<'_>, error: &hyper::Error) -> HttpError {
    let server = &target.key.authority;
    match causes(error).find_map(|cause| trouble(cause.downcast_ref::<io::Error>()?)) {
        Some(TlsTrouble(trouble)) => HttpError::new(HttpErrorKind::Tls, format!("{server}: {trouble}")),
        None => {
            let causes: Vec<_> = causes(error).map(ToString::to_string).collect();
            let text = format!("lost the connection to {server}: {}", causes.join(": "));
            HttpError::new(HttpErrorKind::Lost, text)
        }
    }
}

fn causes<'a>(error: &'a hyper::Error) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn delays_come_in_two_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        for (text, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("99999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
            ("Sun Nov  6 08:50:07 1994", Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            let value = HeaderValue::from_static(text);
            assert_eq!(delay(&value, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
