//! The sending side: gather, merge, send, several at a time.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Channel;
use watershed_testkit::grpc::Signal;

use super::payload::{ClientCodec, Payload};

/// Merged requests on their way at the same time.
const IN_FLIGHT: usize = 4;

/// How long an incomplete merge waits for more: so that the end of a load is sent too, and long enough that a
/// slow relay merges in full.
const LINGER: Duration = Duration::from_millis(500);

/// A request to be sent on, and who waits for that, if anybody does.
pub type Queued<P> = (P, Option<oneshot::Sender<()>>);

/// Merges `merge` requests at a time and sends them until the queue closes.
pub async fn forward<P: Payload>(
    mut queue: mpsc::Receiver<Queued<P>>,
    channel: Channel,
    merge: usize,
    signal: Signal,
) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Some(merged) = gather(&mut queue, merge).await {
        // The semaphore is never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let client = Grpc::new(channel.clone());
        tokio::spawn(async move {
            let (merged, waiting): (Vec<_>, Vec<_>) = merged.into_iter().unzip();
            match send(client, merged, signal).await {
                Ok(()) => {
                    for waiting in waiting.into_iter().flatten() {
                        // Whoever has left wants no answer.
                        let _ = waiting.send(());
                    }
                }
                // A caller that has its "ok" already has lost this, and the verdict will say so.
                Err(status) => eprintln!("a relay could not send: {status}"),
            }
            drop(permit);
        });
    }
}

async fn gather<P>(queue: &mut mpsc::Receiver<P>, merge: usize) -> Option<Vec<P>> {
    let mut merged = Vec::with_capacity(merge);
    merged.push(queue.recv().await?);
    // What is queued already needs no timer.
    while merged.len() < merge {
        match queue.try_recv() {
            Ok(payload) => merged.push(payload),
            Err(_) => break,
        }
    }
    if merged.len() < merge {
        let fill = async {
            let mut missing = merge - merged.len();
            while missing > 0 {
                match queue.recv_many(&mut merged, missing).await {
                    0 => break,
                    more => missing -= more,
                }
            }
        };
        let _ = tokio::time::timeout(LINGER, fill).await;
    }
    Some(merged)
}

async fn send<P: Payload>(
    mut client: Grpc<Channel>,
    merged: Vec<P>,
    signal: Signal,
) -> Result<(), tonic::Status> {
    client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(signal.path());
    client.unary(Request::new(merged), path, ClientCodec::default()).await.map(drop)
}
