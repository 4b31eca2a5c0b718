//! The `otlp` receiver: OTLP over gRPC.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use watershed_net::{Call, Code, ServerKeepalive, ServerOptions, Status, Unary, serve};
use watershed_stage::delivery::Permit;
use watershed_stage::{Env, Failure, Intake, Interval, KeyError, Listener, Origin, Receiver, TurnedAway};

use crate::answer;

/// The receiver's stage. Requests are OTLP already, so decoding is the validation that every receiver has.
pub(crate) struct Otlp;

/// Settings of the `otlp` receiver, under otelcol's keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What it speaks. gRPC on `localhost:4317` unless told.
    #[serde(default)]
    protocols: Protocols,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Protocols {
    #[serde(default)]
    grpc: Grpc,
}

/// Settings of OTLP over gRPC.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Grpc {
    /// `host:port` to listen on.
    endpoint: String,
    /// The largest request, on the wire and inflated.
    max_recv_msg_size_mib: u64,
    /// Calls one connection may have in flight.
    max_concurrent_streams: u32,
    /// How long a sender waits for an answer at most; less where its own timeout is shorter.
    ack_timeout: Interval,
    keepalive: Keepalive,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Keepalive {
    server_parameters: ServerParameters,
}

/// When connections end. The names and defaults are gRPC's.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ServerParameters {
    max_connection_idle: Option<Interval>,
    max_connection_age: Option<Interval>,
    max_connection_age_grace: Option<Interval>,
    time: Option<Interval>,
    timeout: Option<Interval>,
}

/// OTLP's three `Export` methods over one intake.
struct Service {
    intake: Intake,
    ack_timeout: Duration,
}

// === impl Settings ===

impl Default for Grpc {
    fn default() -> Self {
        Self {
            endpoint: "localhost:4317".into(),
            max_recv_msg_size_mib: 64,
            max_concurrent_streams: 1024,
            ack_timeout: Interval::secs(8),
            keepalive: Keepalive::default(),
        }
    }
}

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let grpc = &self.protocols.grpc;
        let mut errors = Vec::new();
        if !grpc.endpoint.contains(':') {
            let message = format!("{:?} has no port: write it like \"localhost:4317\"", grpc.endpoint);
            errors.push(KeyError::new("protocols.grpc.endpoint", message));
        }
        if grpc.max_recv_msg_size_mib == 0 {
            errors.push(KeyError::new("protocols.grpc.max_recv_msg_size_mib", "must be positive"));
        }
        if grpc.max_concurrent_streams == 0 {
            let message = "must be positive: calls without a bound are memory without a bound";
            errors.push(KeyError::new("protocols.grpc.max_concurrent_streams", message));
        }
        if grpc.ack_timeout == Interval::secs(0) {
            errors.push(KeyError::new("protocols.grpc.ack_timeout", "must be positive"));
        }
        errors
    }
}

impl Grpc {
    fn options(&self, intake: &Intake) -> ServerOptions {
        let mut options = ServerOptions::new(intake.budget().clone());
        options.max_recv_msg_size = self.max_recv_msg_size_mib.saturating_mul(1 << 20);
        options.max_concurrent_streams = Some(self.max_concurrent_streams);
        let told = &self.keepalive.server_parameters;
        let defaults = ServerKeepalive::default();
        options.keepalive = ServerKeepalive {
            max_connection_idle: told.max_connection_idle.map(|idle| idle.0),
            max_connection_age: told.max_connection_age.map(|age| age.0),
            max_connection_age_grace: told.max_connection_age_grace.map(|grace| grace.0),
            time: told.time.map_or(defaults.time, |time| time.0),
            timeout: told.timeout.map_or(defaults.timeout, |timeout| timeout.0),
        };
        options
    }
}

// === impl Otlp ===

impl Receiver for Otlp {
    type Settings = Settings;

    fn listeners(settings: &Arc<Settings>) -> Vec<Listener> {
        let grpc = settings.protocols.grpc.clone();
        vec![Listener {
            address: grpc.endpoint.clone(),
            key: "protocols.grpc.endpoint",
            serve: Arc::new(move |intake, connections, stop| {
                let options = grpc.options(&intake);
                let service = Arc::new(Service { intake, ack_timeout: grpc.ack_timeout.0 });
                Box::pin(serve(service, connections, options, stop))
            }),
        }]
    }

    fn build(_settings: &Arc<Settings>, _env: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }
}

// === impl Service ===

impl Unary for Service {
    fn admit(&self, call: &Call, length: u64) -> Result<Permit, Status> {
        match answer::signal(call.uri.path()) {
            Some(signal) if self.intake.wants(signal) => self.intake.admit(length).map_err(answer::shortage),
            Some(signal) => {
                let message = format!("no pipeline of receiver {} takes {signal}", self.intake.id());
                Err(Status::new(Code::Unimplemented, message))
            }
            None => Err(Status::new(Code::Unimplemented, format!("no method {}", call.uri.path()))),
        }
    }

    async fn call(&self, call: Call, message: Bytes, permit: Permit) -> Result<Bytes, Status> {
        let Some(signal) = answer::signal(call.uri.path()) else {
            return Err(Status::new(Code::Unimplemented, format!("no method {}", call.uri.path())));
        };
        // A fifth of what the sender waits is left for the answer to reach it.
        let patience =
            call.timeout.map_or(self.ack_timeout, |timeout| timeout.mul_f64(0.8).min(self.ack_timeout));
        let patience = patience.saturating_sub(call.arrived.elapsed());
        answer::response(
            self.intake
                .submit(signal, message, Origin { peer: call.peer, ..Origin::default() }, permit, patience)
                .await,
        )
    }

    fn refused(&self, status: &Status) {
        self.intake.turned_away(match status.code {
            Code::ResourceExhausted => TurnedAway::TooLarge,
            Code::Unavailable => TurnedAway::Memory,
            _ => TurnedAway::Transport,
        });
    }

    fn panicked(&self, message: &str) {
        self.intake.panicked(message);
    }
}
