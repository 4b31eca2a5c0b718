//! One connection of the sink, served by one task: all its requests end with it.

use std::future::poll_fn;
use std::io::Read;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};

use super::count::Batch;
use super::{Answer, Arrival, Shared, SinkSnapshot};
use crate::grpc::{Code, FRAME_HEADER, Signal, Status};
use crate::web::Io;

/// The largest message taken, before and after decompression.
const LIMIT: usize = 64 << 20;

/// What becomes of the connection after a request.
enum Fate {
    Keep,
    Close,
}

/// Counts an open connection for as long as it lives.
pub(super) struct Open(pub(super) Arc<Shared>);

impl Open {
    pub(super) fn new(shared: Arc<Shared>) -> Open {
        shared.count(|counts| {
            counts.connections += 1;
            counts.accepted += 1;
        });
        Open(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.count(|counts| counts.connections -= 1);
    }
}

/// A request that is neither taken nor refused yet. However it ends, dropped at any await included, it is
/// booked once.
pub(super) struct Pending<'a>(Option<&'a Shared>);

impl<'a> Pending<'a> {
    pub(super) fn new(shared: &'a Shared) -> Pending<'a> {
        Pending(Some(shared))
    }

    pub(super) fn book(mut self, with: impl FnOnce(&mut SinkSnapshot)) {
        if let Some(shared) = self.0.take() {
            shared.count(with);
        }
    }

    fn malformed(self, respond: &mut SendResponse<Bytes>, status: &Status) -> Fate {
        self.book(|counts| {
            counts.requests += 1;
            counts.malformed += 1;
        });
        refuse(respond, status)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            shared.count(|counts| counts.abandoned += 1);
        }
    }
}

pub(super) async fn connection(shared: Arc<Shared>, io: Box<dyn Io>) {
    let open = Open::new(shared);
    let handshake = server::Builder::new()
        .initial_window_size(8 << 20)
        .initial_connection_window_size(128 << 20)
        .max_concurrent_streams(10_000)
        .handshake::<_, Bytes>(io);
    let Ok(mut connection) = handshake.await else { return };
    let mut calls = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(fate) = calls.next() => match fate {
                Fate::Keep => {}
                Fate::Close => {
                    // One more turn writes out what has been answered; then the socket goes as it is.
                    let _ = poll_fn(|cx| Poll::Ready(connection.poll_closed(cx))).await;
                    return;
                }
            },
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => calls.push(call(&open.0, request, respond)),
                _ => return,
            },
        }
    }
}

async fn call(shared: &Shared, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Fate {
    let (head, mut body) = request.into_parts();
    let Some(signal) = Signal::from_path(head.uri.path()) else {
        return refuse(&mut respond, &Status::new(Code::UNIMPLEMENTED, format!("no {}", head.uri.path())));
    };
    let encoding = head.headers.get("grpc-encoding").and_then(|value| value.to_str().ok());
    let encoding = encoding.unwrap_or("identity");
    let pending = Pending::new(shared);
    let framed = match read(&mut body).await {
        Ok(framed) => framed,
        Err(None) => return Fate::Keep,
        Err(Some(status)) => return pending.malformed(&mut respond, &status),
    };
    let inflated = match framed[0] {
        0 => Ok(None),
        _ => decompress(&framed[FRAME_HEADER..], encoding),
    };
    let message = match inflated {
        Ok(message) => message,
        Err(status) => return pending.malformed(&mut respond, &status),
    };
    let message: &[u8] = message.as_deref().unwrap_or(&framed[FRAME_HEADER..]);
    let Ok(batch) = Batch::read(signal, message) else {
        return pending
            .malformed(&mut respond, &Status::new(Code::INVALID_ARGUMENT, "not an export request"));
    };
    let answer = shared.next(&Arrival {
        signal,
        index: 0,
        items: batch.items,
        numbered: batch.numbered.clone(),
        bytes: message.len(),
        timeout: timeout(&head.headers),
        headers: head.headers.clone(),
    });
    tokio::select! {
        biased;
        () = shared.hold(&answer, batch.items) => {}
        () = gone(&mut respond) => return Fate::Keep,
    }
    let take = |counts: &mut SinkSnapshot| counts.take(&batch, framed.len() - FRAME_HEADER, encoding);
    let deny = |counts: &mut SinkSnapshot| {
        counts.take_and_deny(&batch, framed.len() - FRAME_HEADER, encoding);
    };
    let refused = |counts: &mut SinkSnapshot| counts.refused += 1;
    match answer {
        Answer::Ok | Answer::Slow(_) | Answer::Withheld | Answer::RateLimited { .. } => {
            pending.book(take);
            accept(&mut respond, &[])
        }
        Answer::Partial(rejected, message) => {
            pending.book(take);
            accept(&mut respond, &crate::call::partial(rejected, &message))
        }
        Answer::Http(..) => {
            pending.book(refused);
            refuse(&mut respond, &Status::new(Code::UNAVAILABLE, "the sink was told to speak HTTP"))
        }
        Answer::Unavailable { retry_delay } => {
            pending.book(refused);
            let message = "the sink was told to be unavailable".into();
            refuse(&mut respond, &Status { code: Code::UNAVAILABLE, message, retry_delay })
        }
        Answer::Status(code, message) => {
            pending.book(refused);
            refuse(&mut respond, &Status::new(code, message))
        }
        Answer::Hang => {
            gone(&mut respond).await;
            Fate::Keep
        }
        Answer::TakeThenStatus(code, message) => {
            pending.book(deny);
            refuse(&mut respond, &Status::new(code, message))
        }
        Answer::TakeThenHang => {
            pending.book(deny);
            gone(&mut respond).await;
            Fate::Keep
        }
        Answer::AckThenClose => {
            pending.book(take);
            accept(&mut respond, &[]);
            Fate::Close
        }
        Answer::Close => Fate::Close,
    }
}

/// Gathers the framed message. `Err(None)`: the caller is gone.
async fn read(body: &mut RecvStream) -> Result<Vec<u8>, Option<Status>> {
    let mut framed: Vec<u8> = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|_| None)?;
        let _ = body.flow_control().release_capacity(chunk.len());
        if framed.is_empty() {
            let length = chunk.get(1..FRAME_HEADER).and_then(|length| length.try_into().ok());
            let length = length.map_or(0, |length| u32::from_be_bytes(length) as usize);
            if length > LIMIT {
                return Err(Some(too_large(length)));
            }
            framed.reserve_exact(FRAME_HEADER + length);
        }
        framed.extend_from_slice(&chunk);
    }
    let length = framed.get(1..FRAME_HEADER).and_then(|length| length.try_into().ok());
    match length.map(u32::from_be_bytes) {
        Some(length) if framed.len() == FRAME_HEADER + length as usize => Ok(framed),
        _ => Err(Some(Status::new(Code::INTERNAL, "not one whole gRPC message"))),
    }
}

/// The message, which is compressed.
pub(super) fn decompress(packed: &[u8], encoding: &str) -> Result<Option<Vec<u8>>, Status> {
    let reader: Box<dyn Read + '_> = match encoding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(packed)),
        "zstd" => match zstd::stream::read::Decoder::with_buffer(packed) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => return Err(Status::new(Code::INTERNAL, error.to_string())),
        },
        _ => {
            let message = format!("cannot read {encoding:?}");
            return Err(Status::new(Code::UNIMPLEMENTED, message));
        }
    };
    let mut message = Vec::new();
    match reader.take(LIMIT as u64 + 1).read_to_end(&mut message) {
        Err(error) => Err(Status::new(Code::INTERNAL, error.to_string())),
        Ok(length) if length > LIMIT => Err(too_large(length)),
        Ok(_) => Ok(Some(message)),
    }
}

fn too_large(length: usize) -> Status {
    Status::new(Code::RESOURCE_EXHAUSTED, format!("message of {length} bytes is over {LIMIT}"))
}

/// Waits until the caller has reset the stream or the connection is lost.
async fn gone(respond: &mut SendResponse<Bytes>) {
    let _ = poll_fn(|cx| respond.poll_reset(cx)).await;
}

/// A trailers-only answer.
fn refuse(respond: &mut SendResponse<Bytes>, status: &Status) -> Fate {
    let mut response = grpc_response();
    status.write(response.headers_mut());
    // Whoever has gone away needs no answer: here and below.
    let _ = respond.send_response(response, true);
    Fate::Keep
}

fn accept(respond: &mut SendResponse<Bytes>, message: &[u8]) -> Fate {
    if let Ok(mut stream) = respond.send_response(grpc_response(), false) {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = stream.send_data(crate::requests::frame(message), false);
        let _ = stream.send_trailers(trailers);
    }
    Fate::Keep
}

fn grpc_response() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(3_600 * number)),
        "M" => Some(Duration::from_secs(60 * number)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}
