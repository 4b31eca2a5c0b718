//! Reading the body of a request into one buffer, inside its permit.

use std::io;

use actix_http::RequestHead;
use actix_http::h1::{Codec, Message};
use actix_http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use bytes::Buf;
use http::StatusCode;
use tokio::time::Instant;
use tokio_util::codec::Decoder;
use watershed_delivery::Permit;

use super::wire::{AHEAD, Wire};
use super::{HttpRefusal, HttpResponse};
use crate::compression::Room;
use crate::server::{LINGER, due, too_large};

/// Bytes of a body whose request was refused that are taken in to keep the connection: a new one costs both ends
/// more.
const SKIPPED: u64 = 256 << 10;

/// The first step of a body whose length is not known.
const FIRST: u64 = 64 << 10;

/// What has not been read of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// So many bytes.
    Bytes(u64),
    /// Chunks, or the middle of something.
    Chunks,
}

/// Where a body comes from, and until when.
pub(super) struct Source<'a> {
    pub wire: &'a mut Wire,
    pub codec: &'a mut Codec,
    /// When the head was complete.
    pub arrived: Instant,
    /// What the settings allow; its length may allow less.
    pub by: Instant,
}

/// Why there is no body to call with.
pub(super) enum Failure {
    /// There is nobody to answer.
    Gone,
    Refused(HttpRefusal),
    Answered(Box<HttpResponse>),
}

// === impl Unread ===

impl Unread {
    /// What `head`, which actix-http has checked for contradictions, announces.
    pub fn announced(head: &RequestHead) -> Self {
        if head.headers.contains_key(TRANSFER_ENCODING) {
            return Self::Chunks;
        }
        let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        Self::Bytes(length.and_then(|length| length.trim().parse().ok()).unwrap_or(0))
    }

    /// The length, where it is known.
    pub fn length(self) -> Option<u64> {
        match self {
            Self::Bytes(length) => Some(length),
            Self::Chunks => None,
        }
    }

    /// The body, of `limit` bytes at most, in a buffer that `permit` covers.
    pub async fn gather(
        &mut self,
        source: Source<'_>,
        limit: u64,
        permit: &Permit,
    ) -> Result<Vec<u8>, Failure> {
        // Whoever gives up in the middle does not know what follows.
        let body = match std::mem::replace(self, Self::Chunks) {
            Self::Bytes(length) => source.sized(length).await?,
            Self::Chunks => source.chunked(Room { limit, held: 0, permit }).await?,
        };
        *self = Self::Bytes(0);
        Ok(body)
    }

    /// Whether the rest can be skipped for the connection to go on.
    pub fn is_skippable(self) -> bool {
        matches!(self, Self::Bytes(length) if length <= SKIPPED)
    }

    /// Takes in the rest, which can be skipped, for a moment only; whether that was all.
    pub async fn skip(self, wire: &mut Wire) -> bool {
        let by = Instant::now() + LINGER;
        let Self::Bytes(mut rest) = self else { return false };
        loop {
            let step = rest.min(wire.ahead.len() as u64);
            // No more than there is.
            wire.ahead.advance(step as usize);
            rest -= step;
            if rest == 0 {
                return true;
            }
            if wire.fill(AHEAD, by).await.is_err() {
                return false;
            }
        }
    }
}

/// Takes in what a client that was answered for the last time had sent already, for a moment: closed with bytes
/// unread, TCP would take the answer back.
pub(super) async fn linger(wire: &mut Wire) {
    let by = Instant::now() + LINGER;
    if wire.end(by).await.is_err() {
        return;
    }
    let mut taken = 0;
    while taken <= SKIPPED {
        taken += wire.ahead.len() as u64;
        wire.ahead.clear();
        if wire.fill(AHEAD, by).await.is_err() {
            return;
        }
    }
}

// === impl Source ===

impl Source<'_> {
    async fn sized(self, length: u64) -> Result<Vec<u8>, Failure> {
        let wire = self.wire;
        // Within the limit, so within what the machine can count.
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut body = Vec::with_capacity(length);
        let ahead = length.min(wire.ahead.len());
        body.extend_from_slice(&wire.ahead[..ahead]);
        wire.ahead.advance(ahead);
        while body.len() < length {
            let rest = length - body.len();
            // What was announced buys no time: only what has come does.
            let by = self.by.min(due(self.arrived, body.len() as u64));
            wire.fill_into(&mut body, rest, by).await.map_err(failure)?;
        }
        Ok(body)
    }

    async fn chunked(self, room: Room<'_>) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            match self.codec.decode(&mut self.wire.ahead) {
                Ok(Some(Message::Chunk(Some(chunk)))) => append(&mut body, &chunk, &room)?,
                Ok(Some(_)) => {
                    body.shrink_to_fit();
                    room.permit.trim(body.len() as u64);
                    return Ok(body);
                }
                Ok(None) => {
                    let by = self.by.min(due(self.arrived, body.len() as u64));
                    self.wire.fill(AHEAD, by).await.map_err(failure)?;
                }
                Err(error) => {
                    let reason = format!("the chunks of the body make no sense: {error}");
                    return Err(Failure::Refused(HttpRefusal::new(StatusCode::BAD_REQUEST, reason)));
                }
            }
        }
    }
}

/// Adds a chunk, with the room it needs.
fn append(body: &mut Vec<u8>, chunk: &[u8], room: &Room<'_>) -> Result<(), Failure> {
    let length = body.len() + chunk.len();
    if length as u64 > room.limit {
        return Err(Failure::Refused(too_large(room.limit).into()));
    }
    if length > body.capacity() {
        // Where there is no room for twice as much there may be for the next few chunks, and they may be the last.
        let step = length as u64 + FIRST;
        room.grow(body, step.max(2 * body.capacity() as u64))
            .or_else(|_| room.grow(body, step))
            .map_err(|status| Failure::Refused(status.into()))?;
    }
    body.extend_from_slice(chunk);
    Ok(())
}

fn failure(error: io::Error) -> Failure {
    if error.kind() != io::ErrorKind::TimedOut {
        return Failure::Gone;
    }
    let reason = "the body came too slowly, and memory cannot be held for it";
    Failure::Refused(HttpRefusal::new(StatusCode::REQUEST_TIMEOUT, reason))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::time::Duration;

    use actix_http::ServiceConfig;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use watershed_delivery::Budget;

    use super::*;
    use crate::server::PATIENCE;
    use crate::tls::Stream;

    #[tokio::test(start_paused = true)]
    async fn a_large_announcement_buys_no_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut wire = Wire::new(Stream::Plain(listener.accept().await.unwrap().0));
        client.write_all(b"a little").await.unwrap();
        let arrived = Instant::now();
        let (length, permit) = (16 << 20, Budget::new(1 << 30).try_take(16 << 20).unwrap());
        let codec = async { Codec::new(ServiceConfig::default()) };
        let source = Source {
            wire: &mut wire,
            codec: &mut tokio::task::LocalSet::new().run_until(codec).await,
            arrived,
            by: arrived + Duration::from_secs(3600),
        };
        let failure = Unread::Bytes(length).gather(source, length, &permit).await.err();
        let Some(Failure::Refused(refusal)) = failure else { panic!("it was not refused") };
        assert_eq!(refusal.status, StatusCode::REQUEST_TIMEOUT);
        assert!(arrived.elapsed() < PATIENCE + Duration::from_secs(1), "{:?}", arrived.elapsed());
    }
}
