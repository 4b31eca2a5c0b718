//! Reading the one message of a unary call, frame by frame.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::RecvStream;
use tokio::time::{Instant, timeout_at};

use super::Call;
use crate::frame::{HEADER, Header};
use crate::status::{Code, Status};

/// How long a body may take beside what has come of it takes at [`RATE`]. Without a bound, clients that announce
/// messages and send them byte by byte, or not at all, could hold the whole budget.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The slowest a body may come, in bytes a second.
const RATE: u64 = 64 << 10;

/// How long a call whose message is complete may take to say that it is.
const ENDING: Duration = Duration::from_secs(5);

/// How long the body of a refused call is still taken in.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// Until when more must come of a body that began at `arrived` and of which there are `length` bytes; or when all of
/// so many must be there.
pub(crate) fn due(arrived: Instant, length: u64) -> Instant {
    arrived + PATIENCE + Duration::from_secs(length / RATE)
}

/// The body of a call, and what of its last frame has not been read.
pub(super) struct Body<'a> {
    stream: &'a mut RecvStream,
    chunk: Bytes,
    arrived: Instant,
    timeout: Option<Duration>,
    /// When there must be no more to come, and what is said if there is.
    deadline: Instant,
    late: fn() -> Status,
}

impl<'a> Body<'a> {
    pub fn new(stream: &'a mut RecvStream, call: &Call) -> Self {
        let (arrived, timeout) = (call.arrived, call.timeout);
        let mut body =
            Self { stream, chunk: Bytes::new(), arrived, timeout, deadline: arrived, late: stalled };
        body.expect(0);
        body
    }

    /// The header before the message, though it may straddle frames.
    pub async fn header(&mut self) -> Result<Header, Status> {
        let mut header = [0; HEADER];
        let mut filled = 0;
        while filled < HEADER {
            if self.chunk.is_empty() && !self.advance().await? {
                return Err(Status::new(Code::Internal, "the call has no message"));
            }
            let step = self.chunk.len().min(HEADER - filled);
            self.chunk.copy_to_slice(&mut header[filled..filled + step]);
            filled += step;
        }
        Ok(Header::read(header))
    }

    /// The `length` bytes that must be all that follows.
    ///
    /// They are copied out of their frames: those pin read buffers that no permit counts.
    pub async fn message(mut self, length: usize) -> Result<Vec<u8>, Status> {
        let mut message = Vec::with_capacity(length);
        loop {
            if self.chunk.len() > length - message.len() {
                return Err(Status::new(Code::Internal, "a unary call has exactly one message"));
            }
            message.extend_from_slice(&self.chunk);
            self.chunk.clear();
            if self.stream.is_end_stream() {
                break;
            }
            if message.len() == length {
                self.end_by(Instant::now() + ENDING, unended);
            } else {
                self.expect(message.len() as u64);
            }
            if !self.advance().await? {
                break;
            }
        }
        if message.len() < length {
            return Err(Status::new(Code::Internal, "the message is shorter than its header says"));
        }
        Ok(message)
    }

    /// Gives the body the time that the `length` bytes which have come have earned.
    fn expect(&mut self, length: u64) {
        self.deadline = due(self.arrived, length);
        self.late = stalled;
        if let Some(end) = self.timeout.and_then(|timeout| self.arrived.checked_add(timeout)) {
            self.end_by(end, out_of_time);
        }
    }

    /// Brings the deadline forward, never back.
    fn end_by(&mut self, deadline: Instant, late: fn() -> Status) {
        if deadline < self.deadline {
            (self.deadline, self.late) = (deadline, late);
        }
    }

    /// Takes the next frame in hand; false if there is none.
    async fn advance(&mut self) -> Result<bool, Status> {
        // Most often it has arrived already, and a timer would cost more than the rest.
        let arrived = poll_fn(|cx| match self.stream.poll_data(cx) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => Poll::Ready(None),
        });
        let frame = match arrived.await {
            Some(frame) => frame,
            None => timeout_at(self.deadline, self.stream.data()).await.map_err(|_| (self.late)())?,
        };
        let Some(frame) = frame else { return Ok(false) };
        // Nobody reads this: the client has gone, or was told by the connection.
        self.chunk = frame.map_err(|error| Status::new(Code::Cancelled, error.to_string()))?;
        release(self.stream, self.chunk.len());
        Ok(true)
    }
}

fn stalled() -> Status {
    Status::new(Code::Unavailable, "the body came too slowly, and memory cannot be held for it")
}

fn out_of_time() -> Status {
    Status::new(Code::DeadlineExceeded, "the body did not come within the call's timeout")
}

fn unended() -> Status {
    Status::new(Code::Internal, "the message came, but the call did not end")
}

/// Takes in what a client that has been answered had sent already: at most a window, for at most a moment.
///
/// A stream that is dropped with its body on the way is reset, and HTTP/2 remembers only so many of those before
/// it takes the frames that follow for an attack and ends the connection, with every other call on it.
pub(super) async fn linger(mut stream: RecvStream, window: u32) {
    if stream.is_end_stream() {
        return;
    }
    let _ = tokio::time::timeout(LINGER, async {
        let mut taken = 0;
        while let Some(Ok(frame)) = stream.data().await {
            release(&mut stream, frame.len());
            taken += frame.len() as u64;
            if taken > u64::from(window) {
                return;
            }
        }
    })
    .await;
}

/// Lets the client send as much again.
fn release(stream: &mut RecvStream, length: usize) {
    // Fails only of more than was received.
    let _ = stream.flow_control().release_capacity(length);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_large_announcement_buys_no_time() {
        let (here, there) = tokio::io::duplex(1 << 16);
        let (client, server) = tokio::join!(h2::client::handshake(here), h2::server::handshake(there));
        let ((mut client, driver), mut server) = (client.unwrap(), server.unwrap());
        let request = http::Request::post("http://test/").body(()).unwrap();
        let (_response, mut sending) = client.send_request(request, false).unwrap();
        sending.send_data(Bytes::from_static(b"a little"), false).unwrap();
        let arrived = Instant::now();
        let served = async {
            let (request, _respond) = server.accept().await.unwrap().unwrap();
            let (parts, mut stream) = request.into_parts();
            let call = Call::new(parts, None, arrived);
            let body = Body::new(&mut stream, &call);
            tokio::select! {
                message = body.message(16 << 20) => message.unwrap_err(),
                _ = server.accept() => panic!("the connection ended"),
            }
        };
        let status = tokio::select! {
            status = served => status,
            _ = driver => panic!("the connection ended"),
        };
        assert_eq!(status.code, Code::Unavailable);
        assert!(arrived.elapsed() < PATIENCE + Duration::from_secs(1), "{:?}", arrived.elapsed());
    }
}
