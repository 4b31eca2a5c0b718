//! tonic's own client against our server, and ours against tonic's server.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use common::*;
use http::HeaderMap;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::UnaryService;
use watershed_net::{CallErrorKind, Client, ClientOptions, Code};

/// Messages as they are.
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[tokio::test]
async fn tonics_client_is_served() {
    let server = Server::start();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.addr)).unwrap();
    let mut client =
        tonic::client::Grpc::new(channel.connect().await.unwrap()).max_decoding_message_size(8 << 20);
    for length in [0, 100, 40_000, 5 << 20] {
        let message = telemetry(length);
        client.ready().await.unwrap();
        let mut request = tonic::Request::new(message.clone());
        request.set_timeout(Duration::from_secs(7));
        let path = http::uri::PathAndQuery::from_static(ECHO);
        let answer: Bytes = client.unary(request, path, Plain).await.unwrap().into_inner();
        assert!(answer == message);
        assert_eq!(server.service.last.lock().take().unwrap().timeout, Some(Duration::from_secs(7)));
    }
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(REFUSE);
    let refused = client.unary(tonic::Request::new(telemetry(1 << 20)), path, Plain).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "no room"));
    assert!(!refused.details().is_empty());
    drop(client);
    server.end().await;
}

/// A method that answers what it was sent, or refuses to.
#[derive(Clone)]
struct Method;

impl UnaryService<Bytes> for Method {
    type Response = Bytes;
    type Future = Ready<Result<tonic::Response<Bytes>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        ready(match &request.get_ref()[..] {
            b"refuse" => Err(tonic::Status::with_details(
                Code::Unavailable,
                "später",
                // Status { code: 14, details: [Any { RetryInfo { Duration { seconds: 3 } } }] }
                Bytes::from_static(
                    b"\x08\x0e\x1a\x30\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04\x0a\x02\x08\x03",
                ),
            )),
            _ => Ok(tonic::Response::new(request.into_inner())),
        })
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Method {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Plain).max_decoding_message_size(8 << 20);
            Ok(grpc.unary(Self, request).await)
        })
    }
}

#[tokio::test]
async fn tonics_server_is_understood() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(Method, incoming));
    let client = Client::new(ClientOptions::new(format!("http://{addr}"))).unwrap();
    for length in [0, 100, 40_000, 3 << 20] {
        let message = telemetry(length);
        assert!(
            client.unary(ECHO, &HeaderMap::new(), std::slice::from_ref(&message), None).await.unwrap()
                == message
        );
    }
    let error =
        client.unary(ECHO, &HeaderMap::new(), &[Bytes::from_static(b"refuse")], None).await.unwrap_err();
    assert_eq!(error.kind, CallErrorKind::Answered);
    assert_eq!((error.status.code, &*error.status.message), (Code::Unavailable, "später"));
    assert_eq!(error.status.retry_after, Some(Duration::from_secs(3)));
}
