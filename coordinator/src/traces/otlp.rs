//! Spans as OTLP has them, and a collector that is reached over gRPC.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as OtlpSpan, SpanFlags, Status as OtlpStatus,
};
use tonic::Status;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::exporter::Collector;
use super::span::{Span, SpanEvent, Value};
use crate::core::UnixMs;

/// A connection that nothing is heard on, with an export open, is given up after twice this.
const PING: Duration = Duration::from_secs(5);
/// The trace flag of a span that is recorded.
const SAMPLED: u32 = 1;

/// A collector over gRPC; connected when there is something to send.
#[derive(Debug)]
pub(super) struct OverGrpc(TraceServiceClient<Channel>);

impl OverGrpc {
    pub(super) fn new(endpoint: Uri) -> Self {
        let endpoint = Endpoint::from(endpoint)
            .connect_timeout(PING)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        Self(TraceServiceClient::new(endpoint.connect_lazy()))
    }
}

#[async_trait::async_trait]
impl Collector for OverGrpc {
    async fn export(&mut self, spans: &[Span]) -> Result<u64, Status> {
        let answer = self.0.export(request(spans)).await?.into_inner();
        let refused = answer.partial_success.map(|partial| partial.rejected_spans);
        Ok(refused.map_or(0, |refused| u64::try_from(refused).unwrap_or(0)))
    }
}

fn request(spans: &[Span]) -> ExportTraceServiceRequest {
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![
            key("service.name", string("diptych-coordinator")),
            key("service.version", string(version)),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "diptych".to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = ScopeSpans {
        scope: Some(scope),
        spans: spans.iter().map(span).collect(),
        ..ScopeSpans::default()
    };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![spans],
            ..ResourceSpans::default()
        }],
    }
}

fn span(span: &Span) -> OtlpSpan {
    let attributes = span.attributes.iter();
    let parent = span.parent.map(|parent| parent.bytes().to_vec());
    OtlpSpan {
        trace_id: span.trace.bytes().to_vec(),
        span_id: span.id.bytes().to_vec(),
        parent_span_id: parent.unwrap_or_default(),
        flags: SpanFlags::ContextHasIsRemoteMask as u32 | SAMPLED,
        name: span.name.clone(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: attributes
            .map(|(name, value)| key(name, any(value)))
            .collect(),
        events: span.events.iter().map(event).collect(),
        dropped_events_count: span.left_out,
        status: span.error.as_ref().map(|error| OtlpStatus {
            message: error.clone(),
            code: StatusCode::Error.into(),
        }),
        ..OtlpSpan::default()
    }
}

fn event(event: &SpanEvent) -> Event {
    Event {
        time_unix_nano: nanos(event.at),
        name: event.kind.clone(),
        attributes: vec![key("diptych.message", string(&event.message))],
        ..Event::default()
    }
}

fn nanos(at: UnixMs) -> u64 {
    at.get().saturating_mul(1_000_000)
}

fn key(name: &str, value: Any) -> KeyValue {
    KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn any(value: &Value) -> Any {
    match value {
        Value::Text(text) => string(text),
        Value::Number(number) => Any::IntValue(i64::try_from(*number).unwrap_or(i64::MAX)),
        Value::Texts(texts) => Any::ArrayValue(ArrayValue {
            values: texts
                .iter()
                .map(|text| AnyValue {
                    value: Some(string(text)),
                })
                .collect(),
        }),
    }
}

fn string(text: &str) -> Any {
    Any::StringValue(text.to_owned())
}
