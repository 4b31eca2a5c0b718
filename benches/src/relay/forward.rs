//! The sending side: gather, merge, send, several at a time.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Channel;
use watershed_testkit::grpc::Signal;

use super::IN_FLIGHT;
use super::payload::{ClientCodec, Payload};

/// How long an incomplete merge waits for more: so that the end of a load is sent too, and long enough that a
/// slow relay merges in full.
const LINGER: Duration = Duration::from_millis(500);

/// A request to be sent on.
pub struct Queued<P> {
    pub payload: P,
    /// Who waits for that, if anybody does.
    pub sent: Option<oneshot::Sender<()>>,
    /// Its part of what may be held at once.
    pub room: OwnedSemaphorePermit,
}

/// Merges `merge` requests at a time and sends them until the queue closes.
pub async fn forward<P: Payload>(
    mut queue: mpsc::UnboundedReceiver<Queued<P>>,
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
            let parts = merged.into_iter().map(|Queued { payload, sent, room }| (payload, (sent, room)));
            let (merged, waiting): (Vec<_>, Vec<_>) = parts.unzip();
            match send(client, merged, signal).await {
                Ok(()) => {
                    for sent in waiting.into_iter().filter_map(|(sent, _)| sent) {
                        // Whoever has left wants no answer.
                        let _ = sent.send(());
                    }
                }
                // A caller that has its "ok" already has lost this, and the verdict will say so.
                Err(status) => eprintln!("a relay could not send: {status}"),
            }
            drop(permit);
        });
    }
}

async fn gather<P>(queue: &mut mpsc::UnboundedReceiver<P>, merge: usize) -> Option<Vec<P>> {
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
