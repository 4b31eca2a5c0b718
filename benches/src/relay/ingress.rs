//! The receiving side: a request is answered as soon as it is queued, or as soon as it has been sent on.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tower_service::Service;

use super::forward::Queued;
use super::payload::{Payload, ServerCodec};

/// OTLP's recommended limit of a request.
const LIMIT: usize = 64 << 20;

type Answer<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// The service, whatever the path: only that of the case is ever called.
pub struct Ingress<P> {
    /// Where requests go.
    pub queue: mpsc::UnboundedSender<Queued<P>>,
    /// Bytes that may be there, or on their way from there.
    pub room: Arc<Semaphore>,
    /// How many those are.
    pub ahead: usize,
    /// Whether they are answered only when they have been sent on.
    pub waits: bool,
}

impl<P> Clone for Ingress<P> {
    fn clone(&self) -> Self {
        Ingress { queue: self.queue.clone(), room: self.room.clone(), ..*self }
    }
}

impl<P: Payload> Service<http::Request<Body>> for Ingress<P> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let enqueue = Enqueue(self.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(ServerCodec::default()).max_decoding_message_size(LIMIT);
            Ok(grpc.unary(enqueue, request).await)
        })
    }
}

struct Enqueue<P>(Ingress<P>);

impl<P: Payload> UnaryService<P> for Enqueue<P> {
    type Response = ();
    type Future = Answer<Response<()>, Status>;

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let Ingress { queue, room, ahead, waits } = self.0.clone();
        Box::pin(async move {
            let ending = || Status::unavailable("the relay is ending");
            let (sent, wait) = waits.then(oneshot::channel).unzip();
            let payload = request.into_inner();
            // A request has 64 MiB at most. One that is larger than the bound is alone in it.
            let bytes = payload.bytes().min(ahead) as u32;
            let room = room.acquire_many_owned(bytes).await.map_err(|_| ending())?;
            queue.send(Queued { payload, sent, room }).map_err(|_| ending())?;
            if let Some(wait) = wait {
                wait.await.map_err(|_| ending())?;
            }
            Ok(Response::new(()))
        })
    }
}
