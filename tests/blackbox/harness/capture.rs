//! A destination that keeps what it is sent, decoded: tonic's server and prost's structs, so that neither end of
//! the comparison is ours.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use watershed_testkit::wait_until;

use super::PATIENCE;

/// Everything that was received.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    pub traces: ExportTraceServiceRequest,
    pub metrics: ExportMetricsServiceRequest,
    pub logs: ExportLogsServiceRequest,
}

/// The server. It ends with this.
pub struct Capture {
    shared: Shared,
    address: SocketAddr,
    _task: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Captured>>, Arc<Mutex<Vec<Option<String>>>>);

/// The three services behind one address.
#[derive(Clone)]
struct Dispatch {
    shared: Shared,
    traces: TraceServiceServer<Shared>,
    metrics: MetricsServiceServer<Shared>,
    logs: LogsServiceServer<Shared>,
}

impl Capture {
    pub async fn start() -> Capture {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared::default();
        let service = Dispatch {
            shared: shared.clone(),
            traces: TraceServiceServer::new(shared.clone()),
            metrics: MetricsServiceServer::new(shared.clone()),
            logs: LogsServiceServer::new(shared.clone()),
        };
        let mut task = JoinSet::new();
        task.spawn(async move {
            let incoming = TcpIncoming::from(listener);
            tonic::transport::Server::builder().serve_with_incoming(service, incoming).await.unwrap();
        });
        Capture { shared, address, _task: task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The `traceparent` of each call so far.
    pub fn parents(&self) -> Vec<Option<String>> {
        self.shared.1.lock().clone()
    }

    /// What has arrived once `enough` of it has.
    pub async fn wait(&self, enough: impl Fn(&Captured) -> bool) -> Captured {
        let arrived = wait_until(async || enough(&self.shared.0.lock()), PATIENCE).await;
        let captured = self.shared.0.lock().clone();
        assert!(arrived, "never enough: {captured:?}");
        captured
    }
}

impl Service<http::Request<Body>> for Dispatch {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let parent = request.headers().get("traceparent").map(|parent| parent.to_str().unwrap().to_owned());
        self.shared.1.lock().push(parent);
        let path = request.uri().path();
        if path.contains("TraceService") {
            self.traces.call(request)
        } else if path.contains("MetricsService") {
            self.metrics.call(request)
        } else {
            self.logs.call(request)
        }
    }
}

#[tonic::async_trait]
impl TraceService for Shared {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().traces.resource_spans.extend(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Shared {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.lock().metrics.resource_metrics.extend(request.into_inner().resource_metrics);
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Shared {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.0.lock().logs.resource_logs.extend(request.into_inner().resource_logs);
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
