//! What is said in tags because the other side has no field for it.

/// `OK` or `ERROR` (specification, "Zipkin: Status").
pub(crate) const STATUS_CODE: &str = "otel.status_code";
/// otelcol's place for a status' message, which the specification puts into [`ERROR`].
pub(crate) const STATUS_DESCRIPTION: &str = "otel.status_description";
/// Zipkin's: whatever it says, the span has failed.
pub(crate) const ERROR: &str = "error";
/// What is no kind in Zipkin (otelcol's): `internal`.
pub(crate) const SPAN_KIND: &str = "span.kind";
pub(crate) const INTERNAL: &str = "internal";
/// W3C `tracestate` (otelcol's).
pub(crate) const TRACE_STATE: &str = "w3c.tracestate";
/// The instrumentation scope (specification, "Mapping to non-OTLP").
pub(crate) const SCOPE_NAME: &str = "otel.scope.name";
pub(crate) const SCOPE_VERSION: &str = "otel.scope.version";
/// The same, as it was called before.
pub(crate) const LIBRARY_NAME: &str = "otel.library.name";
pub(crate) const LIBRARY_VERSION: &str = "otel.library.version";
/// What a sender left out (specification, "Mapping to non-OTLP").
pub(crate) const DROPPED_ATTRIBUTES: &str = "otel.dropped_attributes_count";
pub(crate) const DROPPED_EVENTS: &str = "otel.dropped_events_count";
pub(crate) const DROPPED_LINKS: &str = "otel.dropped_links_count";
/// Links, with a number behind it (otelcol's): `trace|span|state|{attributes}|dropped`.
pub(crate) const LINK: &str = "otlp.link.";
/// That a span has no timestamp, rather than that of 1970 (otelcol's).
pub(crate) const NO_START: &str = "otel.zipkin.absentField.startTime";

/// Where the endpoints go: names of the semantic conventions.
pub(crate) const SERVICE_NAME: &str = "service.name";
pub(crate) const PEER_SERVICE: &str = "peer.service";
pub(crate) const LOCAL_ADDRESS: &str = "network.local.address";
pub(crate) const LOCAL_PORT: &str = "network.local.port";
pub(crate) const PEER_ADDRESS: &str = "network.peer.address";
pub(crate) const PEER_PORT: &str = "network.peer.port";
/// Of an endpoint with two addresses the second.
pub(crate) const LOCAL_IPV6: &str = "zipkin.local_endpoint.ipv6";
pub(crate) const REMOTE_IPV6: &str = "zipkin.remote_endpoint.ipv6";

/// Zipkin's two flags.
pub(crate) const DEBUG: &str = "zipkin.debug";
pub(crate) const SHARED: &str = "zipkin.shared";
