//! Settings of the `jaeger` receiver, under otelcol's keys.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{ByteSize, GrpcServerSettings, HttpServerSettings, Interval, KeyError, Reference};

/// The largest payload that UDP has.
const LARGEST_DATAGRAM: u64 = 65_507;

/// Settings of the `jaeger` receiver.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What it speaks: all four, unless some of them are named.
    #[serde(default)]
    pub(crate) protocols: Protocols,
    /// Tell clients how to sample.
    #[serde(default)]
    pub(crate) remote_sampling: Option<RemoteSampling>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Protocols {
    /// api_v2 over gRPC, on `localhost:14250`.
    pub(crate) grpc: Option<GrpcServerSettings>,
    /// Thrift over HTTP, on `localhost:14268`.
    pub(crate) thrift_http: Option<HttpServerSettings>,
    /// Thrift's compact protocol over UDP, on `localhost:6831`.
    pub(crate) thrift_compact: Option<UdpSettings>,
    /// Thrift's binary protocol over UDP, on `localhost:6832`.
    pub(crate) thrift_binary: Option<UdpSettings>,
}

/// Settings of what comes by datagrams.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UdpSettings {
    /// `host:port` to listen on.
    pub(crate) endpoint: Option<String>,
    /// Datagrams that may be on their way into the pipelines at once; one more is dropped.
    pub(crate) queue_size: usize,
    /// The largest datagram; one that is larger is dropped.
    pub(crate) max_packet_size: ByteSize,
    /// How many lanes read at most. There are as many lanes as cores.
    pub(crate) workers: usize,
    /// What the kernel buffers until it is read; as much as it thinks right if `0`.
    pub(crate) socket_buffer_size: ByteSize,
}

/// How clients are told to sample.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoteSampling {
    /// Where clients ask over HTTP, as they would ask an agent.
    #[serde(default = "RemoteSampling::host_endpoint")]
    pub(crate) host_endpoint: String,
    /// The strategies, in Jaeger's format.
    pub(crate) strategy_file: PathBuf,
    /// How long what was read of the file is good for; `0s` is for ever.
    #[serde(default)]
    pub(crate) strategy_file_reload_interval: Interval,
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let Protocols { grpc, thrift_http, thrift_compact, thrift_binary } = &self.protocols;
        let under = |errors: Vec<KeyError>, key| errors.into_iter().map(move |error| error.under(key));
        let mut errors = Vec::new();
        errors.extend(grpc.iter().flat_map(|grpc| under(grpc.check(), "protocols.grpc")));
        errors.extend(thrift_http.iter().flat_map(|http| under(http.check(), "protocols.thrift_http")));
        errors.extend(thrift_compact.iter().flat_map(|udp| under(udp.check(), "protocols.thrift_compact")));
        errors.extend(thrift_binary.iter().flat_map(|udp| under(udp.check(), "protocols.thrift_binary")));
        errors
    }

    fn references(&self) -> Vec<Reference> {
        let Protocols { grpc, thrift_http, .. } = &self.protocols;
        let grpc = grpc.iter().flat_map(GrpcServerSettings::references);
        let http = thrift_http.iter().flat_map(HttpServerSettings::references);
        grpc.map(|reference| reference.under("protocols.grpc"))
            .chain(http.map(|reference| reference.under("protocols.thrift_http")))
            .collect()
    }
}

impl Settings {
    /// What is to be spoken.
    pub(crate) fn spoken(&self) -> Protocols {
        let Protocols { grpc, thrift_http, thrift_compact, thrift_binary } = &self.protocols;
        let is_silent =
            grpc.is_none() && thrift_http.is_none() && thrift_compact.is_none() && thrift_binary.is_none();
        if is_silent {
            return Protocols {
                grpc: Some(GrpcServerSettings::default()),
                thrift_http: Some(HttpServerSettings::default()),
                thrift_compact: Some(UdpSettings::default()),
                thrift_binary: Some(UdpSettings::default()),
            };
        }
        Protocols {
            grpc: grpc.clone(),
            thrift_http: thrift_http.clone(),
            thrift_compact: thrift_compact.clone(),
            thrift_binary: thrift_binary.clone(),
        }
    }
}

// === impl UdpSettings ===

impl Default for UdpSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            queue_size: 1000,
            max_packet_size: ByteSize(65_000),
            workers: 10,
            socket_buffer_size: ByteSize(0),
        }
    }
}

impl UdpSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        for (key, is_zero) in [("queue_size", self.queue_size == 0), ("workers", self.workers == 0)] {
            if is_zero {
                errors.push(KeyError::new(key, "must be positive"));
            }
        }
        if !(1..=LARGEST_DATAGRAM).contains(&self.max_packet_size.0) {
            let message =
                format!("must be between 1 and {LARGEST_DATAGRAM} bytes, the most that UDP carries");
            errors.push(KeyError::new("max_packet_size", message));
        }
        errors
    }
}

// === impl RemoteSampling ===

impl RemoteSampling {
    fn host_endpoint() -> String {
        "localhost:5778".to_owned()
    }
}
