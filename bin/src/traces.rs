//! Traces: the spans of requests, rounds, calls of the store and statements, sent to a collector by OTLP over HTTP.

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use outrigger_config::{ConfigError, Otlp};

/// The exporter, while it runs.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

/// Starts to export, if the configuration names a collector. Spans are sent in batches by a thread of its own; a collector
/// that does not answer costs nothing but the spans.
pub(crate) fn export(otlp: &Otlp) -> Result<Option<Traces>, ConfigError> {
    let Some(endpoint) = &otlp.endpoint else { return Ok(None) };
    let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
    let exporter = SpanExporter::builder().with_http().with_endpoint(url).build();
    let exporter = exporter.map_err(|error| ConfigError::new(format!("otlp.endpoint: {error}")))?;
    // Who called with a trace of its own has decided whether it is sampled.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(otlp.sample_ratio)));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(Resource::builder().with_service_name(otlp.service_name.clone()).build())
        .build();
    Ok(Some(Traces { provider }))
}

impl Traces {
    /// What spans are made with.
    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("outrigger")
    }

    /// Sends what has not been sent.
    pub(crate) fn flush(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}
