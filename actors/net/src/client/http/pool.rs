//! The connections of a client: in use by one request each, or kept for the next.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use super::url::Key;
use crate::tls::Stream;

/// A connection, moved by whoever holds it.
pub(super) struct Conn {
    sender: http1::SendRequest<Pieces>,
    /// `None` once it has ended.
    http: Option<http1::Connection<TokioIo<Stream>, Pieces>>,
}

/// A body on its way out: its pieces, written as they are, never joined.
pub(super) struct Pieces {
    pieces: smallvec::IntoIter<[Bytes; 1]>,
    rest: u64,
}

/// What a client keeps.
pub(super) struct Limits {
    /// Unused connections to one host.
    pub idle: usize,
    /// How long they are kept; for ever if it is zero.
    pub idle_for: Duration,
    /// Connections to one host; any number if it is zero.
    pub at_once: usize,
}

pub(super) struct Pool {
    limits: Limits,
    idle: Arc<Mutex<Idle>>,
    /// The turns of each host, where they are limited.
    turns: Mutex<HashMap<Key, Arc<Semaphore>>>,
}

/// What is kept, the longest unused first.
#[derive(Default)]
struct Idle {
    kept: Vec<Kept>,
    /// The task that closes what is kept for too long.
    reaper: Option<AbortHandle>,
}

struct Kept {
    key: Key,
    since: Instant,
    conn: Conn,
}

// === impl Conn ===

impl Conn {
    pub async fn open(stream: Stream) -> hyper::Result<Self> {
        let (sender, http) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, http: Some(http) })
    }

    /// Sends a request and reads the head of its response.
    pub async fn send(&mut self, request: Request<Pieces>) -> hyper::Result<Response<Incoming>> {
        let response = self.sender.send_request(request);
        drive(&mut self.http, response).await
    }

    /// The next piece of the response's body.
    pub async fn frame(&mut self, body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
        drive(&mut self.http, poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await
    }

    /// Whether it can take a request, as far as anybody can tell by now.
    fn is_ready(&mut self) -> bool {
        // Nobody waits for what comes on it: whoever asks next looks again.
        let mut cx = Context::from_waker(Waker::noop());
        if let Some(http) = &mut self.http
            && Pin::new(http).poll(&mut cx).is_ready()
        {
            self.http = None;
        }
        self.http.is_some() && self.sender.is_ready()
    }
}

/// Moves a connection's bytes until `work` on it is done.
async fn drive<T>(
    http: &mut Option<http1::Connection<TokioIo<Stream>, Pieces>>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // However it ends, `work` is told by it, or by its being dropped.
        if let Some(end) = http.as_mut().map(|http| Pin::new(http).poll(cx))
            && end.is_ready()
        {
            *http = None;
        }
        work.as_mut().poll(cx)
    })
    .await
}

// === impl Pieces ===

impl Pieces {
    pub fn new(pieces: &SmallVec<[Bytes; 1]>) -> Self {
        let rest = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: pieces.clone().into_iter(), rest }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(piece) = self.pieces.find(|piece| !piece.is_empty()) else { return Poll::Ready(None) };
        self.rest -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest)
    }
}

// === impl Pool ===

impl Pool {
    pub fn new(limits: Limits) -> Self {
        Self { limits, idle: Arc::default(), turns: Mutex::default() }
    }

    /// The right to have a connection, held while one is used.
    ///
    /// A new one is opened only when none is kept, so that kept ones need no right of their own.
    pub async fn turn(&self, key: &Key) -> Option<OwnedSemaphorePermit> {
        if self.limits.at_once == 0 {
            return None;
        }
        let turns = {
            let mut turns = self.turns.lock();
            if !turns.contains_key(key) {
                // Hosts that nobody talks to any more.
                turns.retain(|_, turns| Arc::strong_count(turns) > 1);
            }
            let all = Semaphore::MAX_PERMITS.min(self.limits.at_once);
            turns.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(all))).clone()
        };
        // Fails only of what is closed, and nobody closes it.
        turns.acquire_owned().await.ok()
    }

    /// The connection that was kept last: the longer they are unused, the likelier they are closed.
    pub fn take(&self, key: &Key) -> Option<Conn> {
        loop {
            let mut kept = {
                let mut idle = self.idle.lock();
                let at = idle.kept.iter().rposition(|kept| kept.key == *key)?;
                idle.kept.remove(at)
            };
            if !kept.is_over(self.limits.idle_for) {
                return Some(kept.conn);
            }
        }
    }

    /// Keeps a connection for the next request, where it is good for one.
    pub fn keep(&self, key: &Key, mut conn: Conn) {
        let mut idle = self.idle.lock();
        let kept = idle.kept.iter().filter(|kept| kept.key == *key).count();
        if kept >= self.limits.idle || !conn.is_ready() {
            return;
        }
        idle.kept.push(Kept { key: key.clone(), since: Instant::now(), conn });
        if !self.limits.idle_for.is_zero() && idle.reaper.as_ref().is_none_or(AbortHandle::is_finished) {
            let reaper = reap(Arc::downgrade(&self.idle), self.limits.idle_for);
            // Unused connections must be closed while no request is polled. It is aborted with the client.
            #[allow(clippy::disallowed_methods)]
            let reaper = tokio::spawn(reaper);
            idle.reaper = Some(reaper.abort_handle());
        }
    }

    /// Closes what is kept for a host.
    pub fn forget(&self, key: &Key) {
        self.idle.lock().kept.retain(|kept| kept.key != *key);
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("kept", &self.idle.lock().kept.len()).finish_non_exhaustive()
    }
}

impl Kept {
    fn is_over(&mut self, idle_for: Duration) -> bool {
        !idle_for.is_zero() && self.since.elapsed() >= idle_for || !self.conn.is_ready()
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        if let Some(reaper) = &self.reaper {
            reaper.abort();
        }
    }
}

/// Closes connections that have been unused for too long, or that their server has closed, until there is none.
async fn reap(idle: Weak<Mutex<Idle>>, idle_for: Duration) {
    loop {
        let rest = {
            let Some(idle) = idle.upgrade() else { return };
            let mut idle = idle.lock();
            idle.kept.retain_mut(|kept| !kept.is_over(idle_for));
            let Some(oldest) = idle.kept.first() else {
                idle.reaper = None;
                return;
            };
            idle_for.saturating_sub(oldest.since.elapsed())
        };
        sleep(rest).await;
    }
}
