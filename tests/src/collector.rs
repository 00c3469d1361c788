//! A collector of traces: takes what OTLP exporters send, and keeps it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
pub use opentelemetry_proto::tonic::trace::v1::Span;
pub use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What is sent at all is there by then.
const PATIENCE: Duration = Duration::from_secs(30);

/// A collector on loopback, until it is dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    taken: watch::Sender<Vec<Span>>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

#[derive(Debug)]
struct Takes(watch::Sender<Vec<Span>>);

impl Collector {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (taken, _) = watch::channel(Vec::new());
        let service = TraceServiceServer::new(Takes(taken.clone()));
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        Ok(Self {
            address,
            taken,
            task: tokio::spawn(serving),
        })
    }

    /// Where exporters reach it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that was sent, once `ready` holds for it.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn wait(&self, ready: impl Fn(&[Span]) -> bool) -> Result<Vec<Span>> {
        let mut taken = self.taken.subscribe();
        let found = taken.wait_for(|spans| ready(spans));
        let found = tokio::time::timeout(PATIENCE, found).await;
        let found = found.map(|found| found.map(|spans| spans.clone()));
        found
            .with_context(|| {
                let spans = self.taken.borrow();
                let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
                format!("only {names:?} were sent")
            })?
            .context("the collector runs")
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Takes {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans);
        self.0.send_modify(|taken| taken.extend(spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// An attribute of a span, as text.
pub fn attribute(span: &Span, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|known| known.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::ArrayValue(values) => Some(format!("{} values", values.values.len())),
        _ => None,
    }
}
