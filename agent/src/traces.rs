//! Traces for a collector that speaks OTLP over gRPC: what each call and each command took, with org, sandbox and request id.
//!
//! ```text
//!   a span ends ─▶ queue of 2048 ─▶ a thread of its own ─▶ collector
//!                    │ full            │ slow, away
//!                    ▼                 ▼
//!                  lost              lost, and said once until it takes them again
//! ```
//!
//! Nobody ever waits for it, but for the agent's end, and that no longer than two seconds. It carries no words of the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter,
};
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::{Layer, Registry};

/// How many spans wait for the collector. Those beyond are lost.
const QUEUE_SPANS: usize = 2048;

/// How many spans it is sent at once.
const BATCH_SPANS: usize = 512;

/// How long a span waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// How long the last spans are waited for when the agent ends.
const FLUSH: Duration = Duration::from_secs(2);

/// The way of spans to a collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

/// Where spans go, and whose they are.
#[derive(Clone, Copy, Debug)]
pub struct Collector<'a> {
    /// Its address, `http://HOST:PORT`.
    pub endpoint: &'a str,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// The cell of this host.
    pub cell: &'a str,
    /// The name of this host.
    pub host: &'a str,
}

impl Traces {
    /// Opens the way. Nothing is connected to before there is a span. Must be called within a tokio runtime.
    pub fn to(collector: &Collector<'_>) -> Result<Self, ExporterBuildError> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_endpoint(collector.endpoint)
            .with_timeout(collector.timeout)
            .build()?;
        let exporter = SaidOnce { exporter, fails: AtomicBool::new(false) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS)
            .with_max_export_batch_size(BATCH_SPANS)
            .with_scheduled_delay(GATHER)
            .build();
        let attributes = [
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", collector.host.to_owned()),
            KeyValue::new("dormouse.cell", collector.cell.to_owned()),
        ];
        let resource = Resource::builder().with_service_name("dormouse").with_attributes(attributes).build();
        let sender = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider =
            SdkTracerProvider::builder().with_span_processor(sender).with_resource(resource).build();
        Ok(Self { provider })
    }

    /// What hears of spans: of this program's own, and of no events.
    pub fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        let ours = FilterFn::new(|metadata| metadata.is_span() && metadata.target().starts_with("dormouse"));
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("dormouse"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(ours.with_max_level_hint(LevelFilter::INFO))
    }

    /// Sends what still waits, if the collector takes it soon.
    pub async fn end(self) {
        let ended = tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FLUSH)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last traces did not reach the collector");
        }
    }
}

/// Makes a span part of its caller's trace, where the headers name one (W3C trace context). Without [`Traces`] it does
/// nothing.
pub fn go_on_from(span: &tracing::Span, headers: &HeaderMap) {
    if headers.contains_key("traceparent") {
        // Where there is no trace to be part of, there is nothing to be said either.
        let _ = span.set_parent(TraceContextPropagator::new().extract(&Headers(headers)));
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Says when spans begin to be lost, and when they arrive again: once each.
#[derive(Debug)]
struct SaidOnce<E> {
    exporter: E,
    fails: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for SaidOnce<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        match &exported {
            Err(error) if !self.fails.swap(true, Ordering::Relaxed) => {
                let next = "see whether telemetry.otlp_endpoint is right and somebody listens there";
                tracing::warn!(%error, spans, next, "the collector does not take traces: they are lost");
            }
            Ok(()) if self.fails.swap(false, Ordering::Relaxed) => {
                tracing::info!(spans, "the collector takes traces again");
            }
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
