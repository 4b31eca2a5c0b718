//! One connection: its HTTP/2, its calls, and its end.

use std::future::{Future, poll_fn};
use std::net::TcpStream;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::accept::{Slot, secured, too_late};
use super::retirement::Retirement;
use super::{Lane, ServerOptions, Unary, request};
use crate::frame::Payload;
use crate::{Stop, ping};

/// The largest frame taken, in bytes. Every frame costs both ends a system call, so most requests should fit one,
/// and several must fit a window, or sending would stop while each is on its way.
const FRAME: u32 = 64 << 10;

/// The smallest frame limit HTTP/2 knows.
const LEAST_FRAME: u32 = 16 << 10;

/// The window that every connection has from the start (RFC 9113, 6.9.2).
const LEAST_WINDOW: u32 = 65_535;

/// Bytes of request headers taken.
const HEADERS: u32 = 16 << 10;

/// Refused calls whose bodies may still be on their way.
const RESET: usize = 1024;

/// Frames of calls beyond them, over the connection's whole life, before it is ended as an attack: few enough that
/// they cost nothing, enough that an honest client whose large messages are refused does not get there.
const STRAY: usize = 1 << 20;

/// Serves a connection until it ends. Whatever it had in flight is dropped with it.
pub(super) async fn run<U: Unary>(lane: Arc<Lane<U>>, stream: TcpStream, _slot: Slot, stop: Stop) {
    let peer = stream.peer_addr().ok();
    // What a client may send ahead is memory that no message's permit covers. Where windows have had their part of
    // the budget, the connection gets what HTTP/2 gives to everybody.
    let wanted = window(lane.options.connection_window);
    let charged = lane.options.budget.try_window(u64::from(wanted));
    let window = if charged.is_some() { wanted } else { LEAST_WINDOW };
    let refused = |reason| lane.service.connection_refused(reason);
    let Some(stream) = secured(stream, lane.options.tls.as_ref(), &stop, refused).await else { return };
    let mut http = tokio::select! {
        biased;
        shaken = builder(&lane.options, window).handshake::<_, Payload>(stream) => match shaken {
            Ok(http) => http,
            Err(error) => return tracing::debug!(?peer, %error, "not an HTTP/2 connection"),
        },
        () = too_late(&stop) => return tracing::debug!(?peer, "no HTTP/2 on a connection, closed it"),
    };

    let keepalive = &lane.options.keepalive;
    let pings = http.ping_pong();
    let mut lost = pin!(async {
        match pings {
            Some(pings) => ping::lost(pings, keepalive.time, keepalive.timeout).await,
            None => std::future::pending().await,
        }
    });
    let mut stopped = pin!(stop.stopped());
    let mut retirement = Retirement::new(keepalive);
    let mut retired = false;
    // The calls live in this task: there is nothing to spawn and wake, and nothing outlives the connection.
    let mut calls = FuturesUnordered::new();
    let poll = |cx: &mut Context<'_>| {
        loop {
            // Everything that has arrived is taken in before anything is answered: each look at the connection
            // also flushes it, and answers should leave together.
            loop {
                match http.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        retirement.called();
                        calls.push(request::answer(lane.clone(), peer, Instant::now(), request, respond));
                    }
                    Poll::Ready(Some(Err(error))) => {
                        tracing::debug!(?peer, %error, "a connection broke");
                        return Poll::Ready(());
                    }
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            let mut answered = false;
            while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {
                answered = true;
            }
            if answered {
                continue;
            }
            if !retired
                && (stopped.as_mut().poll(cx).is_ready()
                    || retirement.poll_retired(cx, !calls.is_empty()).is_ready())
            {
                retired = true;
                http.graceful_shutdown();
                continue;
            }
            if lost.as_mut().poll(cx).is_ready() || retirement.poll_ended(cx).is_ready() {
                tracing::debug!(?peer, "cut a connection");
                return Poll::Ready(());
            }
            return Poll::Pending;
        }
    };
    poll_fn(poll).await;
}

fn builder(options: &ServerOptions, connection_window: u32) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_connection_window_size(connection_window)
        .initial_window_size(window(options.stream_window))
        .max_frame_size(FRAME.min(connection_window / 4).max(LEAST_FRAME))
        .max_header_list_size(HEADERS)
        .max_concurrent_reset_streams(RESET)
        .max_local_error_reset_streams(Some(STRAY));
    if let Some(streams) = options.max_concurrent_streams {
        builder.max_concurrent_streams(streams);
    }
    builder
}

/// A window that HTTP/2 can have: more than 2 GiB cannot be said.
fn window(wanted: u32) -> u32 {
    wanted.clamp(LEAST_WINDOW, i32::MAX.cast_unsigned())
}
