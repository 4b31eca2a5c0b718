//! HTTP/1.1 as far as OTLP needs it, by hand: what is sent is exactly what is given, what is read is bounded.

use std::io;
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::call::{CallError, Head, Reply};
use crate::grpc::{Code, FRAME_HEADER, Signal, Status};
use crate::net::{self, HTTP1, Tls};
use crate::requests::Foreign;

/// The largest body read.
const LIMIT: usize = 256 << 20;

/// Anything a connection can run over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A message of either direction.
#[derive(Clone, Debug)]
pub struct Message {
    /// The first line.
    pub start: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

/// One connection, on which requests follow each other.
pub struct WebClient {
    io: BufReader<Box<dyn Io>>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct WebReply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl WebClient {
    /// Connects in plain text.
    pub async fn connect(to: SocketAddr) -> io::Result<WebClient> {
        WebClient::dial(to, None).await
    }

    /// The same, secured if `tls` is given.
    pub(crate) async fn dial(to: SocketAddr, tls: Option<&Tls>) -> io::Result<WebClient> {
        Ok(WebClient::over(net::dial(to, tls, HTTP1).await?))
    }

    /// A client over a connection that stands already, such as one of TLS.
    pub fn over(io: impl Io + 'static) -> WebClient {
        WebClient { io: BufReader::with_capacity(64 << 10, Box::new(io)) }
    }

    /// Sends a request and reads its answer.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<WebReply> {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send_raw(&[head.as_bytes(), body].concat()).await
    }

    /// Sends these very bytes and reads an answer.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<WebReply> {
        // A server may have answered before the last byte, and read no further.
        let written = write(self.io.get_mut(), bytes).await;
        let message = match read(&mut self.io).await {
            Ok(Some(message)) => message,
            broken => {
                return Err(written.err().or(broken.err()).unwrap_or(io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let status = message.start.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(message.start.clone()))?;
        Ok(WebReply { status, headers: message.headers, body: message.body })
    }

    /// Posts a message, framed as for gRPC, as the loader does.
    pub(crate) async fn call(&mut self, head: &Head, framed: &[u8]) -> Result<Reply, CallError> {
        let message = framed.get(FRAME_HEADER..).unwrap_or_default();
        let headers = head.request.headers().iter();
        let headers = headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let headers: Vec<_> = headers.collect();
        let sent = self.send("POST", head.request.uri().path(), &headers, message);
        let reply = match head.timeout {
            None => sent.await,
            Some(timeout) => tokio::time::timeout(timeout, sent).await.map_err(|_| CallError::TimedOut)?,
        };
        let reply = reply.map_err(CallError::Broken)?;
        // Zipkin's "ok", which is none of OTLP's.
        let is_zipkin = head.request.uri().path() == Foreign::Zipkin.path();
        Ok(if is_zipkin && reply.status == 202 { Reply::Accepted } else { reply.into_reply() })
    }
}

/// The two encodings.
pub const PROTOBUF: &str = "application/x-protobuf";
/// The two encodings.
pub const JSON: &str = "application/json";

/// Where OTLP/HTTP has a signal.
pub fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/v1/traces",
        Signal::Metrics => "/v1/metrics",
        Signal::Logs => "/v1/logs",
    }
}

impl WebReply {
    /// A header's text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The same in gRPC's terms.
    pub fn into_reply(self) -> Reply {
        if self.status == 200 {
            let json = self.header("content-type").starts_with(JSON);
            return if json { success(&self.body) } else { crate::call::success(&self.body) };
        }
        let code = match self.status {
            400 => Code::INVALID_ARGUMENT,
            401 => Code::UNAUTHENTICATED,
            404 => Code::UNIMPLEMENTED,
            413 => Code::RESOURCE_EXHAUSTED,
            429 | 502 | 503 | 504 => Code::UNAVAILABLE,
            _ => Code::UNKNOWN,
        };
        let seconds = self.header("retry-after").parse().ok();
        let retry_delay = seconds.map(std::time::Duration::from_secs);
        let message = format!("HTTP {}: {}", self.status, String::from_utf8_lossy(&self.body));
        Reply::Refused(Status { code, message, retry_delay })
    }
}

/// What a response in JSON says.
fn success(body: &[u8]) -> Reply {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(partial) = body["partialSuccess"].as_object() else { return Reply::Accepted };
    let rejected = partial.iter().find(|(key, _)| key.starts_with("rejected"));
    let why = partial.get("errorMessage").and_then(Value::as_str).unwrap_or_default();
    Reply::Partial(rejected.map_or(0, |(_, count)| uint(count)), why.to_owned())
}

/// A number of 64 bits, which JSON has as text or as a number; 0 where it is neither.
pub(crate) fn uint(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.parse().ok());
    text.or_else(|| value.as_u64()).unwrap_or_default()
}

/// Writes all of it out: TLS keeps back what it is not told to send.
pub(crate) async fn write<W: AsyncWrite + Unpin>(io: &mut W, bytes: &[u8]) -> io::Result<()> {
    io.write_all(bytes).await?;
    io.flush().await
}

/// Reads one message; `None` where the connection has ended before one began.
pub async fn read<R: AsyncRead + Unpin>(io: &mut BufReader<R>) -> io::Result<Option<Message>> {
    let start = line(io).await?;
    if start.is_empty() {
        return Ok(None);
    }
    let mut headers = HeaderMap::new();
    loop {
        let line = line(io).await?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(line.clone()))?;
        let name: HeaderName = name.parse().map_err(io::Error::other)?;
        headers.append(name, value.trim().parse::<HeaderValue>().map_err(io::Error::other)?);
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut body = Vec::new();
    if text("transfer-encoding").is_some_and(|encoding| encoding.contains("chunked")) {
        loop {
            let size = usize::from_str_radix(&line(io).await?, 16).map_err(io::Error::other)?;
            fill(io, &mut body, size).await?;
            line(io).await?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = text("content-length").and_then(|length| length.parse().ok()) {
        fill(io, &mut body, length).await?;
    }
    Ok(Some(Message { start, headers, body }))
}

async fn fill<R: AsyncRead + Unpin>(
    io: &mut BufReader<R>,
    body: &mut Vec<u8>,
    more: usize,
) -> io::Result<()> {
    if body.len() + more > LIMIT {
        return Err(io::Error::other("larger than the kit reads"));
    }
    let from = body.len();
    body.resize(from + more, 0);
    io.read_exact(&mut body[from..]).await.map(drop)
}

/// A line without its end; empty at the end of the connection too.
async fn line<R: AsyncRead + Unpin>(io: &mut BufReader<R>) -> io::Result<String> {
    let mut line = String::new();
    io.take(64 << 10).read_line(&mut line).await?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
