//! api_v2 over gRPC: `CollectorService/PostSpans`, and `SamplingManager/GetSamplingStrategy` where there are strategies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use watershed_net::{Call, Code, ConnectionRefused, Status, Unary};
use watershed_stage::delivery::Permit;
use watershed_stage::{Body, Gate, Intake, Signal, TurnedAway, answer};

use crate::receiver::PROTO;
use crate::strategies::{Strategies, asked};

pub(crate) const POST_SPANS: &str = "/jaeger.api_v2.CollectorService/PostSpans";
const GET_STRATEGY: &str = "/jaeger.api_v2.SamplingManager/GetSamplingStrategy";

/// The service of one lane.
pub(crate) struct Service {
    pub(crate) intake: Intake,
    pub(crate) gate: Gate,
    /// How long a sender waits for an answer at most.
    pub(crate) ack_timeout: Duration,
    pub(crate) strategies: Option<Arc<Strategies>>,
}

impl Unary for Service {
    fn admit(&self, call: &Call, length: u64) -> Result<Permit, Status> {
        let path = call.uri.path();
        if path != POST_SPANS && !(path == GET_STRATEGY && self.strategies.is_some()) {
            self.intake.turned_away(TurnedAway::Transport);
            return Err(Status::new(Code::Unimplemented, format!("no method {path}")));
        }
        let passed = self.gate.pass(&self.intake, &call.headers, call.peer);
        passed.map_err(|denied| answer::denied(&denied))?;
        self.intake.admit(length).map_err(answer::shortage)
    }

    async fn call(&self, call: Call, message: Bytes, permit: Permit) -> Result<Bytes, Status> {
        if let Some(strategies) = &self.strategies
            && call.uri.path() == GET_STRATEGY
        {
            let service = asked(&message)
                .ok_or_else(|| Status::new(Code::InvalidArgument, "no service to be sampled is named"))?;
            return Ok(strategies.of(&service).proto());
        }
        // A fifth of what the sender waits is left for the answer to reach it.
        let patience =
            call.timeout.map_or(self.ack_timeout, |timeout| timeout.mul_f64(0.8).min(self.ack_timeout));
        let patience = patience.saturating_sub(call.arrived.elapsed());
        let origin = self.gate.origin(&self.intake, call.headers, call.peer);
        let origin = origin.map_err(|denied| answer::denied(&denied))?;
        let body = Body { format: PROTO, bytes: message };
        answer::response(self.intake.submit(Signal::Traces, body, origin, permit, patience).await)?;
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
