//! One HTTP/1.1 connection of the sink: OTLP/HTTP, in binary and in JSON.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, BufReader};

use super::count::Batch;
use super::serve::{Open, Pending, decompress};
use super::{Answer, Arrival, Shared, SinkSnapshot};
use crate::grpc::{Code, Signal, Status};
use crate::web::{self, Io, JSON, Message, PROTOBUF};

/// What is written back.
enum Said {
    /// A status, headers beside the usual ones, and a body.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// The same, and nothing after it.
    Last,
    /// Nothing.
    Close,
}

pub(super) async fn connection(shared: Arc<Shared>, io: Box<dyn Io>) {
    let open = Open::new(shared);
    let mut io = BufReader::with_capacity(64 << 10, io);
    while let Ok(Some(message)) = web::read(&mut io).await {
        // Whoever leaves meanwhile takes the request with it.
        let said = tokio::select! {
            said = answer(&open.0, &message) => said,
            _ = gone(io.get_mut()) => return,
        };
        let (status, headers, body, last) = match said {
            Said::Answer(status, headers, body) => (status, headers, body, false),
            Said::Last => (200, Vec::new(), Vec::new(), true),
            Said::Close => return,
        };
        let mut head = format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n", body.len());
        let media = if is_json(&message) { JSON } else { PROTOBUF };
        head.push_str(&format!("content-type: {media}\r\n"));
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        if web::write(io.get_mut(), &[head.as_bytes(), &body].concat()).await.is_err() || last {
            return;
        }
    }
}

async fn answer(shared: &Shared, message: &Message) -> Said {
    let path = message.start.split(' ').nth(1).unwrap_or_default();
    let signal =
        [Signal::Traces, Signal::Metrics, Signal::Logs].into_iter().find(|signal| web::path(*signal) == path);
    let Some(signal) = signal else {
        return said(404, &Status::new(Code::UNIMPLEMENTED, "no such path"), message);
    };
    let pending = Pending::new(shared);
    let encoding = message.headers.get("content-encoding").and_then(|value| value.to_str().ok());
    let encoding = encoding.unwrap_or("identity");
    let inflated = match encoding {
        "identity" => Ok(None),
        encoding => decompress(&message.body, encoding),
    };
    let batch = inflated.map(|inflated| {
        let body = inflated.as_deref().unwrap_or(&message.body);
        let batch =
            if is_json(message) { Batch::read_json(signal, body) } else { Batch::read(signal, body).ok() };
        batch.map(|batch| (batch, body.len()))
    });
    let Ok(Some((batch, bytes))) = batch else {
        pending.book(|counts| {
            counts.requests += 1;
            counts.malformed += 1;
        });
        return said(400, &Status::new(Code::INVALID_ARGUMENT, "not an export request"), message);
    };
    let answer = shared.next(&Arrival {
        signal,
        index: 0,
        items: batch.items,
        numbered: batch.numbered.clone(),
        bytes,
        timeout: None,
        headers: message.headers.clone(),
    });
    shared.hold(&answer, batch.items).await;
    let kind = if is_json(message) { format!("json+{encoding}") } else { encoding.to_owned() };
    let take = |counts: &mut SinkSnapshot| counts.take(&batch, message.body.len(), &kind);
    let deny = |counts: &mut SinkSnapshot| counts.take_and_deny(&batch, message.body.len(), &kind);
    let refused = |counts: &mut SinkSnapshot| counts.refused += 1;
    let retry = |delay: Option<std::time::Duration>| {
        delay.map(|delay| ("retry-after".to_owned(), delay.as_secs().to_string())).into_iter().collect()
    };
    match answer {
        Answer::Ok | Answer::Slow(_) | Answer::Withheld | Answer::RateLimited { .. } => {
            pending.book(take);
            let body = if is_json(message) { b"{}".to_vec() } else { Vec::new() };
            Said::Answer(200, Vec::new(), body)
        }
        Answer::Partial(rejected, why) => {
            pending.book(take);
            Said::Answer(200, Vec::new(), partial(signal, rejected, &why, is_json(message)))
        }
        Answer::Unavailable { retry_delay } => {
            pending.book(refused);
            let Said::Answer(status, _, body) =
                said(503, &Status::new(Code::UNAVAILABLE, "told to be"), message)
            else {
                return Said::Close;
            };
            Said::Answer(status, retry(retry_delay), body)
        }
        Answer::Http(status, headers) => {
            if status == 200 {
                pending.book(take)
            } else {
                pending.book(refused)
            }
            Said::Answer(status, headers, b"as it was told".to_vec())
        }
        Answer::Status(code, why) => {
            pending.book(refused);
            said(http_status(code), &Status::new(code, why), message)
        }
        Answer::TakeThenStatus(code, why) => {
            pending.book(deny);
            said(http_status(code), &Status::new(code, why), message)
        }
        Answer::Hang => std::future::pending().await,
        Answer::TakeThenHang => {
            pending.book(deny);
            std::future::pending().await
        }
        Answer::AckThenClose => {
            pending.book(take);
            Said::Last
        }
        Answer::Close => Said::Close,
    }
}

fn http_status(code: Code) -> u16 {
    match code {
        Code::INVALID_ARGUMENT => 400,
        Code::UNAUTHENTICATED => 401,
        Code::PERMISSION_DENIED => 403,
        Code::RESOURCE_EXHAUSTED => 413,
        Code::UNAVAILABLE => 503,
        _ => 500,
    }
}

/// A `google.rpc.Status` in the request's encoding.
fn said(http: u16, status: &Status, message: &Message) -> Said {
    let body = if is_json(message) {
        format!("{{\"code\":{},\"message\":\"{}\"}}", status.code.0, status.message).into_bytes()
    } else {
        let mut body = Vec::new();
        crate::wire::put_uint(&mut body, 1, u64::from(status.code.0));
        crate::wire::put_bytes(&mut body, 2, status.message.as_bytes());
        body
    };
    Said::Answer(http, Vec::new(), body)
}

fn partial(signal: Signal, rejected: u64, why: &str, json: bool) -> Vec<u8> {
    if json {
        let key = match signal {
            Signal::Traces => "rejectedSpans",
            Signal::Metrics => "rejectedDataPoints",
            Signal::Logs => "rejectedLogRecords",
        };
        let text = format!("{{\"partialSuccess\":{{\"{key}\":\"{rejected}\",\"errorMessage\":\"{why}\"}}}}");
        return text.into_bytes();
    }
    crate::call::partial(rejected, why)
}

fn is_json(message: &Message) -> bool {
    message.headers.get("content-type").is_some_and(|value| value.as_bytes().starts_with(JSON.as_bytes()))
}

/// Ready when the other end has closed. A request that comes before the last is answered is not HTTP as it is used
/// here.
async fn gone(io: &mut Box<dyn Io>) {
    let mut byte = [0; 1];
    let _ = io.read(&mut byte).await;
}
