//! One connection's bytes: what was read ahead, and how long anything may take.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::tls::Stream;

/// Bytes read ahead at most, but for one read: what a head may have.
pub(super) const AHEAD: usize = 16 << 10;

/// Bytes asked for where a head is expected: enough for most, and little to copy of the body that follows.
pub(super) const HEAD: usize = 4 << 10;

/// No wait is longer than this.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

pub(super) struct Wire {
    stream: Stream,
    /// What was read and not used.
    pub ahead: BytesMut,
    clock: Clock,
}

/// One timer for everything a connection waits for. It is set back only when it rings, so that a connection whose
/// waits are short hardly ever touches it.
struct Clock {
    sleep: Pin<Box<Sleep>>,
}

/// `duration` after `begin`; zero is never.
pub(super) fn after(begin: Instant, duration: Duration) -> Instant {
    let duration = if duration.is_zero() { FOR_EVER } else { duration.min(FOR_EVER) };
    begin + duration
}

// === impl Wire ===

impl Wire {
    pub fn new(stream: Stream) -> Self {
        let sleep = Box::pin(sleep_until(Instant::now() + FOR_EVER));
        Self { stream, ahead: BytesMut::new(), clock: Clock { sleep } }
    }

    /// Reads some ahead, about `room` bytes, until `by`; an error at the end of the stream.
    pub async fn fill(&mut self, room: usize, by: Instant) -> io::Result<()> {
        make_room(&mut self.ahead, room);
        self.clock.within(by, more(&mut self.stream, &mut self.ahead)).await
    }

    /// Reads at most `most` bytes into `buffer`, which has room for them, past what was read ahead.
    pub async fn fill_into(&mut self, buffer: &mut Vec<u8>, most: usize, by: Instant) -> io::Result<()> {
        self.clock.within(by, more(&mut self.stream, &mut buffer.limit(most))).await
    }

    /// Ready when the client has gone; one that closes only its own half has, as for most servers. What it sends
    /// meanwhile is read ahead, as far as there is room.
    pub async fn gone(&mut self) {
        while self.ahead.len() < AHEAD {
            make_room(&mut self.ahead, HEAD);
            if more(&mut self.stream, &mut self.ahead).await.is_err() {
                return;
            }
        }
        std::future::pending().await
    }

    /// Writes both, in one system call where the socket takes them.
    pub async fn write(&mut self, head: &[u8], body: &[u8], by: Instant) -> io::Result<()> {
        let stream = &mut self.stream;
        let writing = async {
            stream.write_all_buf(&mut Buf::chain(head, body)).await?;
            stream.flush().await
        };
        self.clock.within(by, writing).await
    }

    /// Says that nothing more is written.
    pub async fn end(&mut self, by: Instant) -> io::Result<()> {
        self.clock.within(by, self.stream.shutdown()).await
    }
}

/// Reads some, or fails at the end.
async fn more(stream: &mut Stream, buffer: &mut impl BufMut) -> io::Result<()> {
    match stream.read_buf(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn make_room(ahead: &mut BytesMut, room: usize) {
    if ahead.capacity() - ahead.len() < room / 4 {
        // Nothing is moved or allocated where what was read before has been used.
        ahead.reserve(room);
    }
}

// === impl Clock ===

impl Clock {
    /// What `work` comes to, or an error if that takes until `by`.
    async fn within<T>(&mut self, by: Instant, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(end) => Poll::Ready(end),
            Poll::Pending => self.poll_past(by, cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
        })
        .await
    }

    fn poll_past(&mut self, by: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let mut sleep = self.sleep.as_mut();
        if by < sleep.deadline() {
            sleep.as_mut().reset(by);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= by {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(by);
        }
    }
}
