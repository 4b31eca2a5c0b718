//! The gate of a receiver: who may send, how often, and what is kept of what was sent along.

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

/// Stands before a receiver's sockets and decides on a request's headers, before its body is read. Clones share
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
    /// Its sender comes too often; it may come again after this time.
    TooOften(Duration),
}

impl Gate {
    /// A gate as a listener's settings have it. `limit` is shared by the lanes, so it is made beforehand.
    pub fn new(
        intake: &Intake,
        auth: Option<&AuthSettings>,
        limit: Option<Arc<RateLimit>>,
        include_metadata: bool,
    ) -> Result<Self, Failure> {
        let auth = auth.map(|auth| intake.env().extensions.server_auth(&auth.authenticator)).transpose()?;
        Ok(Self { auth, limit, include_metadata })
    }

    /// Decides on the headers of a request; counts it with `intake` if it is turned away.
    pub fn pass(
        &self,
        intake: &Intake,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
    ) -> Result<Option<Arc<Identity>>, Denied> {
        let identity = match &self.auth {
            None => None,
            Some(auth) => Some(auth.authenticate(headers).map_err(|unauthenticated| {
                intake.turned_away(TurnedAway::Unauthenticated);
                Denied::Unauthenticated(unauthenticated)
            })?),
        };
        if let Some(limit) = &self.limit {
            limit.pass(headers, peer, identity.as_ref()).map_err(|wait| {
                intake.turned_away(TurnedAway::TooOften);
                Denied::TooOften(wait)
            })?;
        }
        Ok(identity.map(Arc::new))
    }

    /// Where a request came from that passed.
    pub fn origin(
        &self,
        headers: HeaderMap,
        peer: Option<SocketAddr>,
        auth: Option<Arc<Identity>>,
    ) -> Origin {
        let trace = TraceContext::from_headers(&headers);
        let metadata = if self.include_metadata { Metadata::new(headers) } else { Metadata::default() };
        Origin { peer, metadata, auth, trace }
    }
}
