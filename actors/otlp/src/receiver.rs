//! The `otlp` receiver: OTLP over gRPC and over HTTP.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_net::{serve, serve_http};
use watershed_stage::delivery::Permit;
use watershed_stage::{
    Body, Calls, Env, Error, Failure, GrpcServerSettings, Interval, KeyError, Listener, Payload, Receiver,
    Reference, Serve, Signal, granted, http_server_settings,
};
use watershed_telemetry::json;

use crate::grpc;
use crate::http::{JSON, Paths, Service};

/// The receiver's stage. Most requests are OTLP in its binary form already; what comes as JSON is transcoded.
pub(crate) struct Otlp;

/// Settings of the `otlp` receiver, under otelcol's keys.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What it speaks: gRPC and HTTP, unless one of them is named alone.
    #[serde(default)]
    protocols: Protocols,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Protocols {
    /// OTLP over gRPC, on `localhost:4317`.
    #[serde(default)]
    grpc: Option<GrpcServerSettings>,
    /// OTLP over HTTP, on `localhost:4318`.
    #[serde(default)]
    http: Option<Http>,
}

http_server_settings! {
    /// Settings of OTLP over HTTP.
    struct Http {
        /// Where traces are posted to.
        traces_url_path: String = "/v1/traces".to_owned(),
        /// Where metrics are posted to.
        metrics_url_path: String = "/v1/metrics".to_owned(),
        /// Where logs are posted to.
        logs_url_path: String = "/v1/logs".to_owned(),
    }
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let grpc = self
            .protocols
            .grpc
            .iter()
            .flat_map(|grpc| grpc.check().into_iter().map(|error| error.under("protocols.grpc")));
        let http = self.protocols.http.iter().flat_map(|http| {
            let shared = http.shared().check().into_iter();
            shared.chain(http.path_errors()).map(|error| error.under("protocols.http"))
        });
        grpc.chain(http).collect()
    }

    fn references(&self) -> Vec<Reference> {
        let grpc = self.protocols.grpc.iter().flat_map(GrpcServerSettings::references);
        let http = self.protocols.http.iter().flat_map(|http| http.shared().references());
        grpc.map(|reference| reference.under("protocols.grpc"))
            .chain(http.map(|reference| reference.under("protocols.http")))
            .collect()
    }
}

impl Http {
    fn paths(&self) -> Paths {
        Paths(
            [&self.traces_url_path, &self.metrics_url_path, &self.logs_url_path]
                .map(|path| path.as_str().into()),
        )
    }

    fn path_errors(&self) -> Vec<KeyError> {
        let keys = ["traces_url_path", "metrics_url_path", "logs_url_path"];
        let Paths(paths) = self.paths();
        let mut errors = Vec::new();
        for (index, (key, path)) in keys.into_iter().zip(&paths).enumerate() {
            if !path.starts_with('/') || path.contains(['?', '#']) {
                errors.push(KeyError::new(key, format!("{path:?} is no path: write it like \"/v1/traces\"")));
            } else if paths.iter().take(index).any(|other| other == path) {
                errors.push(KeyError::new(key, format!("{path:?} is another signal's path already")));
            }
        }
        errors
    }
}

// === impl Otlp ===

impl Receiver for Otlp {
    type Settings = Settings;

    fn listeners(settings: &Arc<Settings>) -> Vec<Listener> {
        let Protocols { grpc, http } = &settings.protocols;
        let is_silent = grpc.is_none() && http.is_none();
        let grpc = grpc.clone().or_else(|| is_silent.then(GrpcServerSettings::default));
        let http = http.clone().or_else(|| is_silent.then(Http::default));
        grpc.map(over_grpc).into_iter().chain(http.map(over_http)).collect()
    }

    fn build(_settings: &Arc<Settings>, _env: &Env) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn decode(&self, signal: Signal, body: Body, permit: &Permit) -> Result<Payload, Error> {
        let bytes = if body.format == JSON {
            let request = granted(permit, |room| json::decode(signal, &body.bytes, room))?;
            request.map_err(|error| Error::reject(error.to_string()))?.into()
        } else {
            body.bytes
        };
        Payload::validate(signal, bytes).map_err(|invalid| Error::reject(invalid.to_string()))
    }
}

fn over_grpc(settings: GrpcServerSettings) -> Listener {
    Listener {
        address: settings.endpoint.clone().unwrap_or_else(|| "localhost:4317".to_owned()),
        key: "protocols.grpc.endpoint",
        transport: "grpc",
        security: settings.security(),
        open: Arc::new(move |env| {
            let (door, Interval(ack_timeout)) = (settings.open(env)?, settings.ack_timeout);
            let serve: Arc<Serve> = Arc::new(move |intake, connections, stop| {
                let calls = Calls { intake, gate: door.gate.clone(), ack_timeout };
                let service = grpc::Service { calls, stop: stop.clone() };
                Box::pin(serve(Arc::new(service), connections, door.options.clone(), stop))
            });
            Ok(serve)
        }),
    }
}

fn over_http(settings: Http) -> Listener {
    let shared = settings.shared();
    Listener {
        address: settings.endpoint.clone().unwrap_or_else(|| "localhost:4318".to_owned()),
        key: "protocols.http.endpoint",
        transport: "http",
        security: shared.security(),
        open: Arc::new(move |env| {
            let (door, Interval(ack_timeout)) = (shared.open(env)?, shared.ack_timeout);
            let paths = settings.paths();
            let serve: Arc<Serve> = Arc::new(move |intake, connections, stop| {
                let service = Service { intake, gate: door.gate.clone(), ack_timeout, paths: paths.clone() };
                Box::pin(serve_http(Arc::new(service), connections, door.options.clone(), stop))
            });
            Ok(serve)
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use watershed_stage::delivery::{Budget, Exhausted};

    use super::*;

    #[test]
    fn what_json_becomes_is_granted_before_it_is_made() {
        let text = format!(r#"{{"resourceLogs":[{{"schemaUrl":"{}"}}]}}"#, "a".repeat(10_000));
        let length = text.len() as u64;
        let decode = |permit: &Permit| {
            let body = Body { format: JSON, bytes: text.clone().into() };
            Otlp.decode(Signal::Logs, body, permit)
        };
        let budget = Budget::new(4 * length);
        let permit = budget.try_take(length).unwrap();
        let payload = decode(&permit).unwrap();
        assert!(permit.bytes() >= length + payload.bytes() as u64, "{}", permit.bytes());
        drop(permit);

        let (permit, _others) = (budget.try_take(length).unwrap(), budget.try_take(3 * length).unwrap());
        assert!(matches!(decode(&permit), Err(Error::NoRoom(Exhausted::ForNow))));
        let permit = Budget::new(length).try_take(length).unwrap();
        assert!(matches!(decode(&permit), Err(Error::NoRoom(Exhausted::ForEver))));
    }
}
