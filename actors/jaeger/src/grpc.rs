//! api_v2 over gRPC: `CollectorService/PostSpans`, and `SamplingManager/GetSamplingStrategy` where there are strategies.

use std::sync::Arc;

use bytes::Bytes;
use watershed_net::{Call, Code, ConnectionRefused, Status, Unary};
use watershed_stage::delivery::Permit;
use watershed_stage::{Body, Calls, Signal, TurnedAway};

use crate::receiver::PROTO;
use crate::strategies::{Strategies, asked};

pub(crate) const POST_SPANS: &str = "/jaeger.api_v2.CollectorService/PostSpans";
const GET_STRATEGY: &str = "/jaeger.api_v2.SamplingManager/GetSamplingStrategy";

/// The service of one lane.
pub(crate) struct Service {
    pub(crate) calls: Calls,
    pub(crate) strategies: Option<Arc<Strategies>>,
}

impl Unary for Service {
    fn admit(&self, call: &Call, length: u64) -> Result<Permit, Status> {
        let path = call.uri.path();
        if path != POST_SPANS && !(path == GET_STRATEGY && self.strategies.is_some()) {
            return Err(self.calls.unknown(format!("no method {path}")));
        }
        self.calls.admit(call, length)
    }

    async fn call(&self, call: Call, message: Bytes, permit: Permit) -> Result<Bytes, Status> {
        if let Some(strategies) = &self.strategies
            && call.uri.path() == GET_STRATEGY
        {
            let service = asked(&message)
                .ok_or_else(|| Status::new(Code::InvalidArgument, "no service to be sampled is named"))?;
            return Ok(strategies.of(&service).proto());
        }
        let body = Body { format: PROTO, bytes: message };
        self.calls.submit(call, Signal::Traces, body, permit).await?;
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
