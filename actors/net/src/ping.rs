//! Finding out that the other end is gone, which TCP alone may not say for a quarter of an hour.

use std::future::poll_fn;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// Ready when a ping was not answered within `patience`. One is sent `every` so often, if it is `wanted` then.
pub(crate) async fn lost(
    mut pings: PingPong,
    every: Duration,
    patience: Duration,
    wanted: impl Fn() -> bool,
) {
    loop {
        sleep(every).await;
        if !wanted() {
            continue;
        }
        if pings.send_ping(Ping::opaque()).is_err() {
            return;
        }
        match timeout(patience, poll_fn(|cx| pings.poll_pong(cx))).await {
            Ok(Ok(_pong)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
