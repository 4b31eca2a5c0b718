//! The `zipkin` receiver: what tracers report to a Zipkin server.

use std::sync::Arc;

use watershed_net::serve_http;
use watershed_stage::delivery::Permit;
use watershed_stage::{
    Body, Env, Error, Failure, KeyError, Listener, Payload, Receiver, Reference, Serve, Signal, granted,
    http_server_settings,
};

use crate::http::{Service, body as named};
use crate::{DecodeError, Options, decode};

/// The receiver's stage: makes OTLP of what was posted.
pub(crate) struct Zipkin {
    parse_string_tags: bool,
}

http_server_settings! {
    /// Settings of the `zipkin` receiver, under otelcol's keys. It listens on `localhost:9411` unless told.
    pub(crate) struct Settings {
        /// Make numbers and flags of tags whose text is that of one.
        parse_string_tags: bool = false,
    }
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        self.shared().check()
    }

    fn references(&self) -> Vec<Reference> {
        self.shared().references()
    }
}

// === impl Zipkin ===

impl Receiver for Zipkin {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Traces]
    }

    fn listeners(settings: &Arc<Settings>) -> Vec<Listener> {
        let shared = settings.shared();
        vec![Listener {
            address: settings.endpoint.clone().unwrap_or_else(|| "localhost:9411".to_owned()),
            key: "endpoint",
            transport: "http",
            security: shared.security(),
            open: Arc::new(move |env| {
                let (door, ack_timeout) = (shared.open(env)?, shared.ack_timeout.0);
                let serve: Arc<Serve> = Arc::new(move |intake, connections, stop| {
                    let service = Service { intake, gate: door.gate.clone(), ack_timeout };
                    Box::pin(serve_http(Arc::new(service), connections, door.options.clone(), stop))
                });
                Ok(serve)
            }),
        }]
    }

    fn build(settings: &Arc<Settings>, _env: &Env) -> Result<Self, Failure> {
        Ok(Self { parse_string_tags: settings.parse_string_tags })
    }

    fn decode(&self, _signal: Signal, body: Body, permit: &Permit) -> Result<Payload, Error> {
        let Some((format, debug)) = named(body.format) else {
            return Err(Error::reject(format!("{:?} is no format of Zipkin's", body.format)));
        };
        let options = Options { parse_string_tags: self.parse_string_tags, debug };
        let payload = granted(permit, |room| decode(format, &body.bytes, options, room))?;
        payload.map_err(|error: DecodeError| Error::reject(error.to_string()))
    }
}
