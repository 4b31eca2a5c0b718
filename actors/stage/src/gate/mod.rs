//! The gate of a listener: who may come, how often, and what is kept of what was sent along.

mod limit;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use watershed_supervise::Failure;

pub use limit::{LimitBy, RateLimit, RateLimitSettings};

use crate::extension::{AuthSettings, ServerAuth, Unauthenticated};
use crate::intake::{Intake, TurnedAway};
use crate::origin::{Identity, Metadata, Origin, TraceContext};
use crate::registry::Env;

/// Stands before a listener's sockets and decides on a request's headers, before its body is read. Clones share
/// what senders have left of their rates.
#[derive(Clone, Default)]
pub struct Gate {
    auth: Option<Arc<dyn ServerAuth>>,
    limit: Option<Arc<RateLimit>>,
    include_metadata: bool,
}

/// Why a request was turned away at the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Its sender did not prove who it is.
    Unauthenticated(Unauthenticated),
    /// Who its sender is can not be found out now, but after this time.
    NotNow(&'static str, Duration),
    /// Its sender comes too often; it may come again after this time.
    TooOften(Duration),
}

impl Gate {
    /// A gate as a listener's settings have it.
    pub fn new(
        env: &Env,
        auth: Option<&AuthSettings>,
        limit: Option<&RateLimitSettings>,
        include_metadata: bool,
    ) -> Result<Self, Failure> {
        let auth = auth.map(|auth| env.extensions.server_auth(&auth.authenticator)).transpose()?;
        let limit = limit.and_then(RateLimitSettings::build).map(Arc::new);
        Ok(Self { auth, limit, include_metadata })
    }

    /// Decides on the headers of a request; counts it with `intake` if it is turned away.
    pub fn pass(&self, intake: &Intake, headers: &HeaderMap, peer: Option<SocketAddr>) -> Result<(), Denied> {
        self.decide(headers, peer).inspect_err(|denied| intake.turned_away(denied.into()))
    }

    /// Decides on the headers of a request.
    pub fn decide(&self, headers: &HeaderMap, peer: Option<SocketAddr>) -> Result<(), Denied> {
        let limited = |identity: Option<&Identity>| {
            let passed = self.limit.as_ref().map_or(Ok(()), |limit| limit.pass(headers, peer, identity));
            passed.map_err(Denied::TooOften)
        };
        // To look at credentials may cost more than all the rest, so who guesses them is held back before that.
        let by_identity = self.limit.as_ref().is_some_and(|limit| limit.is_by_identity());
        if !by_identity {
            limited(None)?;
        }
        let identity = self.identity(headers)?;
        if by_identity { limited(identity.as_ref()) } else { Ok(()) }
    }

    /// Where a request came from that passed. Denied if its sender has been locked out since.
    pub fn origin(
        &self,
        intake: &Intake,
        headers: HeaderMap,
        peer: Option<SocketAddr>,
    ) -> Result<Origin, Denied> {
        // Asked again rather than kept while the body comes: authenticators answer at once.
        let identity = self.identity(&headers).inspect_err(|denied| intake.turned_away(denied.into()))?;
        let auth = identity.map(Arc::new);
        let trace = TraceContext::from_headers(&headers);
        let metadata = if self.include_metadata { Metadata::new(headers) } else { Metadata::default() };
        Ok(Origin { peer, metadata, auth, trace })
    }

    fn identity(&self, headers: &HeaderMap) -> Result<Option<Identity>, Denied> {
        let asked = self.auth.as_ref().map(|auth| auth.authenticate(headers)).transpose();
        asked.map_err(|unauthenticated| match unauthenticated.retry_after {
            Some(wait) => Denied::NotNow(unauthenticated.reason, wait),
            None => Denied::Unauthenticated(unauthenticated),
        })
    }
}

impl From<&Denied> for TurnedAway {
    fn from(denied: &Denied) -> Self {
        match denied {
            Denied::TooOften(_) => Self::TooOften,
            Denied::NotNow(..) | Denied::Unauthenticated(_) => Self::Unauthenticated,
        }
    }
}
