//! The backend: an OTLP server that counts the spans of each trace.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

/// What has arrived: spans by trace.
pub type Arrived = HashMap<[u8; 16], usize>;

/// A backend. It ends with this.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    arrived: Counting,
    _task: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Counting(Arc<Mutex<Arrived>>);

impl Backend {
    /// On any port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, arrived) = (listener.local_addr()?, Counting::default());
        let service = TraceServiceServer::new(arrived.clone()).max_decoding_message_size(64 << 20);
        let service = service.accept_compressed(tonic::codec::CompressionEncoding::Gzip);
        let mut task = JoinSet::new();
        task.spawn(async move {
            // Were it to fail, whoever sends would be told, and says so.
            let _ended = Server::builder().serve_with_incoming(service, TcpIncoming::from(listener)).await;
        });
        Ok(Self { address, arrived, _task: task })
    }

    /// What has arrived so far.
    pub fn arrived(&self) -> Arrived {
        self.arrived.0.lock().clone()
    }
}

#[tonic::async_trait]
impl TraceService for Counting {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut arrived = self.0.lock();
        let scopes =
            request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            let id =
                span.trace_id.try_into().map_err(|_| Status::invalid_argument("a trace id has 16 bytes"))?;
            *arrived.entry(id).or_default() += 1;
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
