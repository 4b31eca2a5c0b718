//! The `jaeger` receiver: all that Jaeger's clients and agents speak.

use std::sync::Arc;

use watershed_net::{serve, serve_http};
use watershed_stage::delivery::{Exhausted, Permit};
use watershed_stage::{
    Body, DatagramListener, Env, Error, Failure, GrpcServerSettings, HttpServerSettings, Interval, Listener,
    Payload, Receiver, Security, Serve, Signal,
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

// === impl Jaeger ===

impl Receiver for Jaeger {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Traces]
    }

    fn listeners(settings: &Arc<Settings>) -> Vec<Listener> {
        let (spoken, sampling) = (settings.spoken(), &settings.remote_sampling);
        let grpc = spoken.grpc.map(|grpc| over_grpc(grpc, sampling.clone()));
        let http = spoken.thrift_http.map(|http| over_http(http, sampling.clone()));
        grpc.into_iter().chain(http).chain(sampling.clone().map(asked_over_http)).collect()
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
        let (held, mut granted) = (permit.bytes(), Ok(()));
        let request = decode(format, &body.bytes, &mut |total| {
            // A permit looks only at what is to be added to it.
            let (wanted, most) = (held + total as u64, permit.budget().limit());
            granted = if wanted > most { Err(Exhausted::ForEver) } else { permit.try_cover(wanted) };
            granted.is_ok()
        });
        granted?;
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
                let (gate, strategies) = (door.gate.clone(), strategies.clone());
                let service = grpc::Service { intake, gate, ack_timeout, strategies };
                Box::pin(serve(Arc::new(service), connections, door.options.clone(), stop))
            });
            Ok(serve)
        }),
    }
}

fn over_http(settings: HttpServerSettings, sampling: Option<RemoteSampling>) -> Listener {
    Listener {
        address: settings.endpoint.clone().unwrap_or_else(|| "localhost:14268".to_owned()),
        key: "protocols.thrift_http.endpoint",
        transport: "collector_http",
        security: settings.security(),
        open: Arc::new(move |env| {
            let (door, Interval(ack_timeout)) = (settings.open(env)?, settings.ack_timeout);
            let strategies = sampling.as_ref().map(strategies).transpose()?;
            let serve: Arc<Serve> = Arc::new(move |intake, connections, stop| {
                let (gate, strategies) = (door.gate.clone(), strategies.clone());
                let service = http::Service { intake, gate, ack_timeout, strategies, takes_spans: true };
                Box::pin(serve_http(Arc::new(service), connections, door.options.clone(), stop))
            });
            Ok(serve)
        }),
    }
}

/// Where an agent would be asked how to sample.
fn asked_over_http(sampling: RemoteSampling) -> Listener {
    let settings = HttpServerSettings::default();
    Listener {
        address: sampling.host_endpoint.clone(),
        key: "remote_sampling.host_endpoint",
        transport: "sampling_http",
        security: Security::default(),
        open: Arc::new(move |env| {
            let (door, Interval(ack_timeout)) = (settings.open(env)?, settings.ack_timeout);
            let strategies = Some(strategies(&sampling)?);
            let serve: Arc<Serve> = Arc::new(move |intake, connections, stop| {
                let (gate, strategies) = (door.gate.clone(), strategies.clone());
                let service = http::Service { intake, gate, ack_timeout, strategies, takes_spans: false };
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
