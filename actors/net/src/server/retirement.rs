//! When a connection has served long enough.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::ServerKeepalive;

/// No connection is older than this.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Says when a connection should take no new calls, and when it should be cut.
pub(super) struct Retirement {
    /// How long without a call, and the next time to look.
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    age: Option<Pin<Box<Sleep>>>,
    grace: Option<Duration>,
    /// When it is cut, once it was retired.
    end: Option<Pin<Box<Sleep>>>,
    /// Whether there was a call since idleness was last looked at.
    called: bool,
}

impl Retirement {
    pub fn new(keepalive: &ServerKeepalive) -> Self {
        Self {
            idle: bounded(keepalive.max_connection_idle).map(|idle| (idle, Box::pin(sleep(idle)))),
            age: bounded(keepalive.max_connection_age).map(|age| Box::pin(sleep(jittered(age)))),
            grace: bounded(keepalive.max_connection_age_grace),
            end: None,
            called: false,
        }
    }

    /// There was a call.
    pub fn called(&mut self) {
        self.called = true;
    }

    /// Ready when the connection should take no new calls.
    pub fn poll_retired(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<()> {
        if self.age.as_mut().is_some_and(|age| age.as_mut().poll(cx).is_ready()) {
            return self.retire();
        }
        // Looked at now and then rather than set back by every call: it costs calls nothing.
        while let Some((idle, next)) = &mut self.idle
            && next.as_mut().poll(cx).is_ready()
        {
            if !busy && !std::mem::take(&mut self.called) {
                return self.retire();
            }
            self.called = false;
            next.as_mut().reset(Instant::now() + *idle);
        }
        Poll::Pending
    }

    /// A client that does not go by itself is cut, be it old or idle.
    fn retire(&mut self) -> Poll<()> {
        self.end = self.grace.map(|grace| Box::pin(sleep(grace)));
        Poll::Ready(())
    }

    /// Ready when a connection that was retired has had its time.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.end {
            Some(end) => end.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// A time that can be added to now, and more than zero, which is never.
fn bounded(time: Option<Duration>) -> Option<Duration> {
    time.filter(|time| !time.is_zero()).map(|time| time.min(FOR_EVER))
}

/// A tenth more or less, so that connections opened together do not end together.
fn jittered(age: Duration) -> Duration {
    // Every such state is seeded anew; no other randomness is at hand, and none better is needed.
    let random = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    age.mul_f64(0.9 + 0.2 * random)
}
