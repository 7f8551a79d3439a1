//! Traces of requests for an OpenTelemetry collector: a span for the request, and below it one for each wait, decision
//! and attempt.
//!
//! With OpenTelemetry's own crates and not an encoder of ours: they know the standard's variables, ids and headers, and bring
//! seven crates that were not there and no second HTTP or TLS stack. Built alone from nothing, with the 34 that were
//! there, they take 46 s of one core. Not through `tracing`: its spans belong to threads, and what is to be said of a request
//! here goes from task to task with it.

mod export;

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use serde::Deserialize;

use crate::backend::Backend;
use crate::config::ConfigError;
use crate::counters::Counter;

pub(crate) use export::Exporter;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Longest text in a span. Clients write some of them.
const MOST_TEXT_BYTES: usize = 256;

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetrySection {
    /// Where a collector speaks OTLP over HTTP, such as `http://collector:4318`; absent: `OTEL_EXPORTER_OTLP_ENDPOINT` of the
    /// environment.
    pub otlp_endpoint: Option<String>,
    /// Requests in a hundred that are traced, of those whose clients have not decided.
    #[serde(default = "all")]
    pub sample_percent: f64,
}

const fn all() -> f64 {
    100.0
}

impl TelemetrySection {
    /// The URL for traces.
    pub(crate) fn check(&self) -> Result<String, ConfigError> {
        if !(0.0..=100.0).contains(&self.sample_percent) {
            let (field, percent) = ("telemetry.sample_percent", self.sample_percent);
            return Err(ConfigError::Percent { field, percent });
        }
        let from_environment = || std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok();
        let url = self.otlp_endpoint.clone().or_else(from_environment);
        let url = url.filter(|url| !url.is_empty()).ok_or(ConfigError::NoOtlpEndpoint)?;
        let traces = Backend::parse(&url).map(|collector| collector.uri("/v1/traces"));
        match traces {
            Ok(Some(traces)) => Ok(traces.to_string()),
            Ok(None) => Err(ConfigError::OtlpEndpoint { url, complaint: "not a URL" }),
            Err(error) => Err(ConfigError::OtlpEndpoint { url, complaint: error.complaint }),
        }
    }
}

/// Begins traces.
#[derive(Debug)]
pub(crate) struct Telemetry {
    tracer: SdkTracer,
    dropped: Arc<Counter>,
}

impl Telemetry {
    /// As the section says; with what sends the spans.
    pub(crate) fn new(section: &TelemetrySection) -> Result<(Self, Exporter), ConfigError> {
        let url = section.check()?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("lodestar");
        }
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = resource.with_attribute(version).build();
        let dropped = Arc::default();
        let (queue, exporter) = export::queue(url, &resource, &dropped)?;
        let own = Sampler::TraceIdRatioBased(section.sample_percent / 100.0);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(own)))
            .with_span_processor(queue)
            .build();
        Ok((Self { tracer: provider.tracer("lodestar"), dropped }, exporter))
    }

    /// Spans that no collector got.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// A request has come with these headers. Its span goes on from the client's. If the client does not want it to be
    /// traced there is none, and if we do not, the headers say so from now on.
    pub(crate) fn begin(&self, headers: &mut HeaderMap, name: String) -> Span {
        let propagator = TraceContextPropagator::new();
        let parent = propagator.extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let is_ours = !parent.span().span_context().is_valid();
        if is_ours {
            headers.remove(TRACESTATE);
        }
        let builder = self.tracer.span_builder(name).with_kind(SpanKind::Server);
        let span = self.tracer.build_with_context(builder, &parent);
        if !span.is_recording() {
            if is_ours {
                headers.insert(TRACEPARENT, traceparent(span.span_context()));
            }
            return Span::default();
        }
        Span::of(&self.tracer, span)
    }
}

/// As <https://www.w3.org/TR/trace-context/> writes it.
fn traceparent(context: &SpanContext) -> HeaderValue {
    let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags());
    HeaderValue::from_str(&format!("00-{trace}-{span}-{flags:02x}"))
        .expect("hexadecimal digits are a header's value")
}

/// A span under way, which ends with its last clone; or nothing, for a request that is not traced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Span(Option<Arc<Traced>>);

#[derive(Debug)]
struct Traced {
    tracer: SdkTracer,
    context: Context,
}

impl Span {
    fn of(tracer: &SdkTracer, span: opentelemetry_sdk::trace::Span) -> Self {
        let (tracer, context) = (tracer.clone(), Context::new().with_span(span));
        Self(Some(Arc::new(Traced { tracer, context })))
    }

    /// Whether there is anything to say of it.
    pub(crate) const fn is_traced(&self) -> bool {
        self.0.is_some()
    }

    /// A part of this, within the router.
    pub(crate) fn part(&self, name: &'static str) -> Self {
        self.child(name, SpanKind::Internal)
    }

    /// A request to another server.
    pub(crate) fn call(&self, name: &'static str) -> Self {
        self.child(name, SpanKind::Client)
    }

    fn child(&self, name: &'static str, kind: SpanKind) -> Self {
        let Some(Traced { tracer, context }) = self.0.as_deref() else { return Self::default() };
        let builder = tracer.span_builder(name).with_kind(kind);
        Self::of(tracer, tracer.build_with_context(builder, context))
    }

    /// A part of this that lasts as long as the work.
    pub(crate) async fn during<T, E: Display>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let part = self.part(name);
        work.await.inspect_err(|error| part.fail(error))
    }

    /// Adds an attribute. Once each: the library keeps all.
    pub(crate) fn set(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(traced) = &self.0 {
            traced.context.span().set_attribute(KeyValue::new(name, value));
        }
    }

    /// Adds a text, or the beginning of one that is long.
    pub(crate) fn set_text(&self, name: &'static str, text: &str) {
        if self.is_traced() {
            self.set(name, cut(text).to_owned());
        }
    }

    /// Something has happened now.
    pub(crate) fn event(&self, name: &'static str) {
        if let Some(traced) = &self.0 {
            traced.context.span().add_event(name, Vec::new());
        }
    }

    /// It did not do what it was to do.
    pub(crate) fn fail(&self, complaint: &dyn Display) {
        if let Some(traced) = &self.0 {
            traced.context.span().set_status(Status::error(cut(&complaint.to_string()).to_owned()));
        }
    }

    /// The answer has this status. What the client did wrong is no error.
    pub(crate) fn answered(&self, status: StatusCode) {
        self.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.fail(&status);
        }
    }

    /// Has what is sent with these headers go on from here.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        if let Some(traced) = &self.0 {
            headers.insert(TRACEPARENT, traceparent(traced.context.span().span_context()));
        }
    }

    /// Says which model the body asks for.
    pub(crate) fn set_model(&self, body: &[u8]) {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            model: Cow<'a, str>,
        }
        if self.is_traced()
            && let Ok(Body { model }) = serde_json::from_slice(body)
        {
            self.set_text("gen_ai.request.model", &model);
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_TEXT_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry() -> (Telemetry, Exporter) {
        let otlp_endpoint = Some("http://127.0.0.1:1".to_owned());
        Telemetry::new(&TelemetrySection { otlp_endpoint, sample_percent: 100.0 }).unwrap()
    }

    #[test]
    fn spans_that_find_no_room_are_counted_and_nobody_waits() {
        let (telemetry, _exporter) = telemetry();
        for _ in 0..export::QUEUE + 3 {
            assert!(telemetry.begin(&mut HeaderMap::new(), "POST".to_owned()).is_traced());
        }
        assert_eq!(telemetry.dropped(), 3);
    }

    #[test]
    fn what_a_client_writes_is_cut_between_characters() {
        let (telemetry, mut exporter) = telemetry();
        let span = telemetry.begin(&mut HeaderMap::new(), "POST".to_owned());
        span.set_text("long", &"ü€".repeat(MOST_TEXT_BYTES));
        span.set_model(br#"{"x":[1],"model":"m\u0061"}"#);
        drop(span);
        let attributes = exporter.take().attributes;
        assert!(attributes[0].value.as_str().len() > MOST_TEXT_BYTES - 4);
        assert!(attributes[0].value.as_str().len() <= MOST_TEXT_BYTES);
        assert_eq!(attributes[1].value.as_str(), "ma");
    }

    #[test]
    fn who_says_nothing_usable_begins_a_trace() {
        let (telemetry, mut exporter) = telemetry();
        for header in ["", "x", "00-0-0-01", "ff-1-2-01"] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, header.parse().unwrap());
            headers.insert(TRACESTATE, "a=b".parse().unwrap());
            drop(telemetry.begin(&mut headers, "POST".to_owned()));
            assert!(!headers.contains_key(TRACESTATE), "it belongs to a trace that there is not");
            let span = exporter.take();
            assert!(span.span_context.is_valid());
            assert_eq!(span.parent_span_id, opentelemetry::SpanId::INVALID);
        }
    }
}
