//! The sending side: gather, merge, send, several at a time.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::{Semaphore, mpsc};
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

/// Merges `merge` requests at a time and sends them until the queue closes.
pub async fn forward<P: Payload>(mut queue: mpsc::Receiver<P>, channel: Channel, merge: usize) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Some(merged) = gather(&mut queue, merge).await {
        // The semaphore is never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let client = Grpc::new(channel.clone());
        tokio::spawn(async move {
            if let Err(status) = send(client, merged).await {
                // The caller has its "ok" already: this is a loss, and the verdict will say so.
                eprintln!("a relay could not send: {status}");
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

async fn send<P: Payload>(mut client: Grpc<Channel>, merged: Vec<P>) -> Result<(), tonic::Status> {
    client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(Signal::Traces.path());
    client.unary(Request::new(merged), path, ClientCodec::default()).await.map(drop)
}
