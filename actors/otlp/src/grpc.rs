//! OTLP's three `Export` methods over gRPC, and whether they are served (`grpc.health.v1`), which balancers ask.

use bytes::Bytes;
use watershed_net::{Call, Code, ConnectionRefused, Status, Stop, Unary};
use watershed_stage::delivery::Permit;
use watershed_stage::{Calls, TurnedAway};
use watershed_telemetry::wire::{Fields, Value};

use crate::answer;

/// The method of `grpc.health.v1.Health` that is served.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// The longest question that is taken, in bytes: it names a service.
const LONGEST_QUESTION: u64 = 256;

/// `HealthCheckResponse` with the status SERVING, and NOT_SERVING.
const STATUSES: [&[u8]; 2] = [&[8, 1], &[8, 2]];

/// The service of one lane.
pub(crate) struct Service {
    pub(crate) calls: Calls,
    /// Told when nothing new is to come.
    pub(crate) stop: Stop,
}

impl Unary for Service {
    fn admit(&self, call: &Call, length: u64) -> Result<Permit, Status> {
        let Self { calls, .. } = self;
        if call.uri.path() == HEALTH && length <= LONGEST_QUESTION {
            // It is so little that it is not asked whether there is room: whoever is short of it is not gone.
            return Ok(calls.intake.budget().overdraw(length));
        }
        match answer::signal(call.uri.path()) {
            Some(signal) if calls.intake.wants(signal) => calls.admit(call, length),
            Some(signal) => {
                Err(calls.unknown(format!("no pipeline of receiver {} takes {signal}", calls.intake.id())))
            }
            None => Err(calls.unknown(format!("no method {}", call.uri.path()))),
        }
    }

    async fn call(&self, call: Call, message: Bytes, permit: Permit) -> Result<Bytes, Status> {
        if call.uri.path() == HEALTH {
            return self.health(&message);
        }
        let Some(signal) = answer::signal(call.uri.path()) else {
            return Err(Status::new(Code::Unimplemented, format!("no method {}", call.uri.path())));
        };
        self.calls.submit(call, signal, message, permit).await?;
        Ok(Bytes::new())
    }

    fn refused(&self, status: &Status) {
        self.calls.refused(status);
    }

    fn panicked(&self, message: &str) {
        self.calls.intake.panicked(message);
    }

    fn connection_refused(&self, _reason: ConnectionRefused) {
        self.calls.intake.turned_away(TurnedAway::Connection);
    }
}

impl Service {
    /// Whether the server as a whole serves (`HealthCheckRequest` without a service), which is all there is to know.
    fn health(&self, request: &[u8]) -> Result<Bytes, Status> {
        let mut fields = Fields::new(request).flatten();
        if fields.any(|field| matches!(field.value, Value::Bytes(service) if !service.is_empty())) {
            return Err(Status::new(
                Code::NotFound,
                "only the server as a whole has a status: name no service",
            ));
        }
        Ok(Bytes::from_static(STATUSES[usize::from(self.stop.is_stopped())]))
    }
}
