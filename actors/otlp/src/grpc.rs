//! OTLP's three `Export` methods over gRPC, and whether they are served (`grpc.health.v1`), which balancers ask.

use std::time::Duration;

use bytes::Bytes;
use watershed_net::{Call, Code, ConnectionRefused, Status, Stop, Unary};
use watershed_stage::delivery::Permit;
use watershed_stage::{Gate, Intake, TurnedAway};
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
    pub(crate) intake: Intake,
    pub(crate) gate: Gate,
    /// How long a sender waits for an answer at most.
    pub(crate) ack_timeout: Duration,
    /// Told when nothing new is to come.
    pub(crate) stop: Stop,
}

impl Unary for Service {
    fn admit(&self, call: &Call, length: u64) -> Result<Permit, Status> {
        if call.uri.path() == HEALTH && length <= LONGEST_QUESTION {
            // It is so little that it is not asked whether there is room: whoever is short of it is not gone.
            return Ok(self.intake.budget().overdraw(length));
        }
        match answer::signal(call.uri.path()) {
            Some(signal) if self.intake.wants(signal) => {
                let passed = self.gate.pass(&self.intake, &call.headers, call.peer);
                passed.map_err(|denied| answer::denied(&denied))?;
                self.intake.admit(length).map_err(answer::shortage)
            }
            Some(signal) => {
                Err(self.unknown(format!("no pipeline of receiver {} takes {signal}", self.intake.id())))
            }
            None => Err(self.unknown(format!("no method {}", call.uri.path()))),
        }
    }

    async fn call(&self, call: Call, message: Bytes, permit: Permit) -> Result<Bytes, Status> {
        if call.uri.path() == HEALTH {
            return self.health(&message);
        }
        let Some(signal) = answer::signal(call.uri.path()) else {
            return Err(Status::new(Code::Unimplemented, format!("no method {}", call.uri.path())));
        };
        // A fifth of what the sender waits is left for the answer to reach it.
        let patience =
            call.timeout.map_or(self.ack_timeout, |timeout| timeout.mul_f64(0.8).min(self.ack_timeout));
        let patience = patience.saturating_sub(call.arrived.elapsed());
        let origin = self.gate.origin(&self.intake, call.headers, call.peer);
        let origin = origin.map_err(|denied| answer::denied(&denied))?;
        answer::response(self.intake.submit(signal, message, origin, permit, patience).await)?;
        Ok(Bytes::new())
    }

    fn refused(&self, status: &Status) {
        self.intake.turned_away(match status.code {
            Code::ResourceExhausted => TurnedAway::TooLarge,
            // What came too slowly is not asked to come again after a while.
            Code::Unavailable if status.retry_after.is_some() => TurnedAway::Memory,
            _ => TurnedAway::Transport,
        });
    }

    fn panicked(&self, message: &str) {
        self.intake.panicked(message);
    }

    fn connection_refused(&self, _reason: ConnectionRefused) {
        self.intake.turned_away(TurnedAway::Connection);
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

    /// The answer to a call for nobody.
    fn unknown(&self, message: String) -> Status {
        self.intake.turned_away(TurnedAway::Transport);
        Status::new(Code::Unimplemented, message)
    }
}
