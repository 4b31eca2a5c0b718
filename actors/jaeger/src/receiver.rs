//! The `jaeger` receiver: all that Jaeger's clients and agents speak.

use std::sync::Arc;

use watershed_net::{serve, serve_http};
use watershed_stage::delivery::Permit;
use watershed_stage::{
    Body, Calls, DatagramListener, Env, Error, Failure, GrpcServerSettings, HttpServerSettings, Interval,
    Listener, Payload, Receiver, Serve, Signal, granted,
};
use watershed_thrift::Protocol;

use crate::decode::{Format, decode};
use crate::settings::{RemoteSampling, Settings, UdpSettings};
use crate::strategies::Strategies;
use crate::{grpc, http, udp};

/// The receiver's stage.
pub(crate) struct Jaeger;

/// What a body is written in ([`Body::format`]).
pub(crate) const PROTO: &str = "";
pub(crate) const BATCH: &str = "batch";
pub(crate) const COMPACT: &str = "compact";
pub(crate) const BINARY: &str = "binary";

/// What is only asked how to sample.
const SAMPLING_HTTP: &str = "sampling_http";

// === impl Jaeger ===

impl Receiver for Jaeger {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Traces]
    }

    fn listeners(settings: &Arc<Settings>) -> Vec<Listener> {
        let (spoken, sampling) = (settings.spoken(), &settings.remote_sampling);
        let grpc = spoken.grpc.map(|grpc| over_grpc(grpc, sampling.clone()));
        let http = spoken.thrift_http.map(|http| {
            let address = http.endpoint.clone().unwrap_or_else(|| "localhost:14268".to_owned());
            over_http(address, "protocols.thrift_http.endpoint", "collector_http", http, sampling.clone())
        });
        // Where an agent would be asked how to sample.
        let asked = sampling.clone().map(|sampling| {
            let (address, key) = (sampling.host_endpoint.clone(), "remote_sampling.host_endpoint");
            over_http(address, key, SAMPLING_HTTP, HttpServerSettings::default(), Some(sampling))
        });
        grpc.into_iter().chain(http).chain(asked).collect()
    }

    fn datagrams(settings: &Arc<Settings>) -> Vec<DatagramListener> {
        let spoken = settings.spoken();
        let compact = spoken.thrift_compact.map(|udp| {
            let key = "protocols.thrift_compact.endpoint";
            by_datagrams(udp, "localhost:6831", key, "udp_thrift_compact", COMPACT)
        });
        let binary = spoken.thrift_binary.map(|udp| {
            let key = "protocols.thrift_binary.endpoint";
            by_datagrams(udp, "localhost:6832", key, "udp_thrift_binary", BINARY)
        });
        compact.into_iter().chain(binary).collect()
    }

    fn build(_settings: &Arc<Settings>, _env: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn decode(&self, signal: Signal, body: Body, permit: &Permit) -> Result<Payload, Error> {
        let format = match body.format {
            BATCH => Format::Batch(Protocol::Binary),
            COMPACT => Format::EmitBatch(Protocol::Compact),
            BINARY => Format::EmitBatch(Protocol::Binary),
            _ => Format::Proto,
        };
        let request = granted(permit, |room| decode(format, &body.bytes, room))?;
        let request = request.map_err(|error| Error::reject(error.to_string()))?;
        Payload::validate(signal, request.into()).map_err(|invalid| Error::reject(invalid.to_string()))
    }
}

fn over_grpc(settings: GrpcServerSettings, sampling: Option<RemoteSampling>) -> Listener {
    Listener {
        address: settings.endpoint.clone().unwrap_or_else(|| "localhost:14250".to_owned()),
        key: "protocols.grpc.endpoint",
        transport: "grpc",
        security: settings.security(),
        open: Arc::new(move |env| {
            let (door, Interval(ack_timeout)) = (settings.open(env)?, settings.ack_timeout);
            let strategies = sampling.as_ref().map(strategies).transpose()?;
            let serve: Arc<Serve> = Arc::new(move |intake, connections, stop| {
                let calls = Calls { intake, gate: door.gate.clone(), ack_timeout };
                let service = grpc::Service { calls, strategies: strategies.clone() };
                Box::pin(serve(Arc::new(service), connections, door.options.clone(), stop))
            });
            Ok(serve)
        }),
    }
}

fn over_http(
    address: String,
    key: &'static str,
    transport: &'static str,
    settings: HttpServerSettings,
    sampling: Option<RemoteSampling>,
) -> Listener {
    Listener {
        address,
        key,
        transport,
        security: settings.security(),
        open: Arc::new(move |env| {
            let (door, Interval(ack_timeout)) = (settings.open(env)?, settings.ack_timeout);
            let strategies = sampling.as_ref().map(strategies).transpose()?;
            let serve: Arc<Serve> = Arc::new(move |intake, connections, stop| {
                let (gate, strategies) = (door.gate.clone(), strategies.clone());
                let takes_spans = transport != SAMPLING_HTTP;
                let service = http::Service { intake, gate, ack_timeout, strategies, takes_spans };
                Box::pin(serve_http(Arc::new(service), connections, door.options.clone(), stop))
            });
            Ok(serve)
        }),
    }
}

fn by_datagrams(
    settings: UdpSettings,
    address: &str,
    key: &'static str,
    transport: &'static str,
    format: &'static str,
) -> DatagramListener {
    let address = settings.endpoint.clone().unwrap_or_else(|| address.to_owned());
    DatagramListener { address, key, transport, serve: udp::serve(settings, format) }
}

fn strategies(sampling: &RemoteSampling) -> Result<Arc<Strategies>, Failure> {
    let reload = sampling.strategy_file_reload_interval.positive();
    let read = Strategies::open(&sampling.strategy_file, reload);
    read.map(Arc::new).map_err(|error| Failure::new(format!("remote_sampling.strategy_file: {error}")))
}
