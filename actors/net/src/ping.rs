//! Finding out that the other end is gone, which TCP alone may not say for a quarter of an hour.

use std::future::{pending, poll_fn};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// Ready when a ping was not answered within `patience`. One is sent `every` so often, never if that is zero.
pub(crate) async fn lost(mut pings: PingPong, every: Duration, patience: Duration) {
    loop {
        due(every).await;
        if !answered(&mut pings, patience).await {
            return;
        }
    }
}

/// Ready when the next ping is due. Zero is never: it would be always.
pub(crate) async fn due(every: Duration) {
    if every.is_zero() {
        return pending().await;
    }
    sleep(every).await;
}

/// Whether the other end answers a ping within `patience`.
pub(crate) async fn answered(pings: &mut PingPong, patience: Duration) -> bool {
    pings.send_ping(Ping::opaque()).is_ok()
        && matches!(timeout(patience, poll_fn(|cx| pings.poll_pong(cx))).await, Ok(Ok(_pong)))
}
