//! Calls over gRPC that hand something in: what is alike for all services.

use std::time::Duration;

use watershed_delivery::Permit;
use watershed_net::{Call, Code, Status};
use watershed_telemetry::Signal;

use crate::answer;
use crate::gate::Gate;
use crate::intake::{Intake, TurnedAway};
use crate::message::Body;

/// The way in of one lane for calls over gRPC.
pub struct Calls {
    /// The receiver's mailbox.
    pub intake: Intake,
    /// Who may pass.
    pub gate: Gate,
    /// How long a sender waits for an answer at most.
    pub ack_timeout: Duration,
}

impl Calls {
    /// Takes memory for a message of `length` bytes before it is read, if its sender may pass.
    pub fn admit(&self, call: &Call, length: u64) -> Result<Permit, Status> {
        let passed = self.gate.pass(&self.intake, &call.headers, call.peer);
        passed.map_err(|denied| answer::denied(&denied))?;
        self.intake.admit(length).map_err(answer::shortage)
    }

    /// Hands a message in and waits for what becomes of it.
    pub async fn submit(
        &self,
        call: Call,
        signal: Signal,
        body: impl Into<Body>,
        permit: Permit,
    ) -> Result<(), Status> {
        // A fifth of what the sender waits is left for the answer to reach it.
        let patience =
            call.timeout.map_or(self.ack_timeout, |timeout| timeout.mul_f64(0.8).min(self.ack_timeout));
        let patience = patience.saturating_sub(call.arrived.elapsed());
        let origin = self.gate.origin(&self.intake, call.headers, call.peer);
        let origin = origin.map_err(|denied| answer::denied(&denied))?;
        answer::response(self.intake.submit(signal, body, origin, permit, patience).await)
    }

    /// Counts a call for nobody, and says what to answer.
    pub fn unknown(&self, message: String) -> Status {
        self.intake.turned_away(TurnedAway::Transport);
        Status::new(Code::Unimplemented, message)
    }

    /// Counts a call that was refused before it was whole.
    pub fn refused(&self, status: &Status) {
        self.intake.turned_away(match status.code {
            Code::ResourceExhausted => TurnedAway::TooLarge,
            // What came too slowly is not asked to come again after a while.
            Code::Unavailable if status.retry_after.is_some() => TurnedAway::Memory,
            _ => TurnedAway::Transport,
        });
    }
}
