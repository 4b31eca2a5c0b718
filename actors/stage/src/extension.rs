//! Extensions: what components share beside telemetry. So far, who may come in and how to get in elsewhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue};
use watershed_delivery::Rejection;
use watershed_supervise::Failure;
use watershed_telemetry::Payload;

use crate::message::Context;
use crate::metrics::Counter;
use crate::origin::{Identity, Origin};
use crate::registry::{Env, KeyError, Settings, StageSpec};

/// Something that receivers and exporters name by its id and share.
pub trait Extension: 'static {
    /// Its settings.
    type Settings: Settings;

    /// What it can be named for. Known before it is built, so that `validate` can check who names it.
    fn roles(settings: &Self::Settings) -> &'static [Role];

    /// Builds it, once for all who name it.
    fn build(settings: &Arc<Self::Settings>, env: &Env) -> Result<Provided, Failure>;
}

/// What an extension can be to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Receivers ask it who a sender is.
    ServerAuth,
    /// Exporters ask it for the headers that let them in.
    ClientAuth,
    /// It keeps what waits for an exporter on disk.
    Storage,
}

/// The key of a component's settings that names an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The key, dotted: `protocols.grpc.auth.authenticator`.
    pub key: String,
    /// The extension's id.
    pub id: String,
    /// What it is to be.
    pub role: Role,
}

/// A built extension, in each of its roles.
#[derive(Clone, Default)]
pub struct Provided {
    /// For receivers.
    pub server_auth: Option<Arc<dyn ServerAuth>>,
    /// For exporters.
    pub client_auth: Option<Arc<dyn ClientAuth>>,
    /// For what has to outlive the process.
    pub storage: Option<Arc<dyn Storage>>,
}

/// Keeps on disk what waits for an exporter.
pub trait Storage: Send + Sync {
    /// The stage that stands before the exporter of this id. It [keeps](StageSpec::keeps).
    fn queue(&self, exporter: &Arc<str>) -> Arc<dyn StageSpec>;

    /// Where dead letters of this pipeline go. What can not be written of them is counted as `lost`.
    fn letters(&self, pipeline: &Arc<str>, lost: Counter) -> Result<Arc<dyn Letters>, Failure>;
}

/// Keeps what its sender was told "ok" for and nobody will ever take.
pub trait Letters: Send + Sync {
    /// Takes a letter, to be written soon, unless too many wait for that; whether it did. Must not block.
    fn post(&self, letter: DeadLetter) -> bool;

    /// Writes what was posted. Nothing may be posted any more.
    fn close(&self);
}

/// Keeps what a stage must remember for as long as a journal before it keeps what it was given, so that it does the same
/// with what comes again.
pub trait Notes: Send + Sync {
    /// What `stage` has noted and what may still be needed, oldest first, as far as `pick` picks it: notes of which it
    /// leaves nothing are left out.
    fn read(&self, stage: &Arc<str>, pick: Pick) -> LocalBoxFuture<'static, Result<Vec<Note>, Failure>>;

    /// Notes something. Once this resolves it outlives the process, and it is forgotten when all messages are done that
    /// it is about.
    fn write(&self, stage: &Arc<str>, note: Note) -> LocalBoxFuture<'static, Result<(), Failure>>;

    /// When the messages came that are not done.
    fn unfinished(&self) -> Unfinished;

    /// Whether what a stage still holds when it ends is handed out again by a later process. Else there may be none.
    fn comes_again(&self) -> bool {
        true
    }
}

/// The most that is to be remembered by one note, in bytes: there is room for a few of them however little room there is
/// for all.
pub const LARGEST_NOTE: usize = 256 << 10;

/// Something to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// It is about messages that came from then on (as [`Context::arrived`]),
    pub from: u64,
    /// up to then.
    pub until: u64,
    /// What is to be remembered; at most [`LARGEST_NOTE`] bytes.
    pub text: Bytes,
}

/// What a copy of a stage wants to have of a note's text.
pub type Pick = Box<dyn Fn(Bytes) -> Bytes + Send>;

/// When messages came that are not done, as of a moment ago. Of what has only just come nobody knows: it counts as not
/// done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished(Arc<[(u64, u64)]>);

/// A message that nobody will ever take.
#[derive(Debug)]
pub struct DeadLetter {
    /// The exporter it was for.
    pub to: Arc<str>,
    /// The telemetry.
    pub payload: Payload,
    /// Where it came from.
    pub context: Arc<Context>,
    /// Why it is dead.
    pub rejection: Rejection,
}

/// Decides who may send.
pub trait ServerAuth: Send + Sync {
    /// Who sends a request with these headers. Never waits: it is asked before the body is read.
    fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, Unauthenticated>;
}

/// A sender that did not prove who it is: gRPC `UNAUTHENTICATED`, HTTP 401.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unauthenticated {
    /// What is missing or wrong. Never the secret.
    pub reason: &'static str,
    /// `WWW-Authenticate` of the answer (RFC 9110, 11.6.1).
    pub challenge: Option<HeaderValue>,
    /// What was sent has not been looked at, and can be after this time: gRPC `UNAVAILABLE`, HTTP 503.
    pub retry_after: Option<Duration>,
}

/// Knows the headers that let an exporter in.
pub trait ClientAuth: Send + Sync {
    /// Headers for a request with data from `origin`.
    fn headers<'a>(&'a self, origin: &'a Origin) -> LocalBoxFuture<'a, Result<Headers, AuthError>>;

    /// The destination did not accept a request with the headers `sent` (401): what was remembered should be found out
    /// anew. Whether another attempt is worth it, since it would be made with other headers.
    fn rejected(&self, _sent: &HeaderMap) -> bool {
        false
    }

    /// What [`ClientAuth::headers`] depend on.
    fn depends(&self) -> Dependence {
        Dependence::default()
    }
}

/// What of their origin requests depend on: messages that differ in it are never merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependence {
    /// The values of these keys of metadata.
    pub metadata_keys: Vec<String>,
    /// Who the sender proved to be.
    pub identity: bool,
}

/// Headers to send.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

/// Why there are no headers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There may be some later: the request may be tried again.
    #[error("{0}")]
    Retryable(String),
    /// What came with the data makes no headers, and never will.
    #[error("{0}")]
    Permanent(String),
}

/// The built extensions of a role, by id.
#[derive(Clone, Default)]
pub struct Extensions(Arc<HashMap<Arc<str>, Provided>>);

/// A configured extension.
pub trait ExtensionSpec: Send + Sync {
    /// What it can be named for.
    fn roles(&self) -> &'static [Role];
    /// Builds it.
    fn build(&self, env: &Env) -> Result<Provided, Failure>;
}

/// `auth = { authenticator = "bearertokenauth" }`.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthSettings {
    /// Id of the extension that is asked.
    pub authenticator: String,
}

/// An extension kind with its settings.
pub(crate) struct Configured<E: Extension>(pub(crate) Arc<E::Settings>);

// === impl Role ===

impl Role {
    /// What one calls it to a user.
    pub fn describe(self) -> &'static str {
        match self {
            Self::ServerAuth => "authenticate senders",
            Self::ClientAuth => "authenticate an exporter",
            Self::Storage => "keep a queue on disk",
        }
    }
}

// === impl Unfinished ===

impl Unfinished {
    /// Of these times, each from and to in Unix nanoseconds.
    pub fn new(times: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self(times.into_iter().collect())
    }

    /// Nothing is known, so that all may still come.
    pub fn all() -> Self {
        Self::new([(0, u64::MAX)])
    }

    /// Whether there may be messages that came from `from` to `until`.
    pub fn any(&self, from: u64, until: u64) -> bool {
        self.0.iter().any(|(first, last)| *first <= until && from <= *last)
    }
}

// === impl Dependence ===

impl Dependence {
    /// Whether requests of the two can be one.
    pub(crate) fn agree(&self, one: &Origin, other: &Origin) -> bool {
        (!self.identity || one.auth == other.auth)
            && self.metadata_keys.iter().all(|key| one.metadata.get(key).eq(other.metadata.get(key)))
    }
}

// === impl Extensions ===

impl Extensions {
    /// These extensions.
    pub fn new(built: HashMap<Arc<str>, Provided>) -> Self {
        Self(Arc::new(built))
    }

    /// The authenticator of senders with this id. A plan that was checked has it.
    pub fn server_auth(&self, id: &str) -> Result<Arc<dyn ServerAuth>, Failure> {
        self.find(id, Role::ServerAuth, |provided| provided.server_auth.clone())
    }

    /// The authenticator of exporters with this id.
    pub fn client_auth(&self, id: &str) -> Result<Arc<dyn ClientAuth>, Failure> {
        self.find(id, Role::ClientAuth, |provided| provided.client_auth.clone())
    }

    /// The storage with this id.
    pub fn storage(&self, id: &str) -> Result<Arc<dyn Storage>, Failure> {
        self.find(id, Role::Storage, |provided| provided.storage.clone())
    }

    fn find<T>(&self, id: &str, role: Role, of: impl Fn(&Provided) -> Option<T>) -> Result<T, Failure> {
        let missing = || Failure::new(format!("there is no extension `{id}` that can {}", role.describe()));
        self.0.get(id).and_then(of).ok_or_else(missing)
    }
}

// === impl AuthSettings ===

impl AuthSettings {
    /// The reference that `auth` in a table is.
    pub fn reference(&self, role: Role) -> Reference {
        Reference { key: "auth.authenticator".into(), id: self.authenticator.clone(), role }
    }
}

// === impl Reference ===

impl Reference {
    /// The same reference, seen from the table that holds this one under `key`.
    #[must_use]
    pub fn under(self, key: &str) -> Self {
        let error = KeyError::new(self.key, "").under(key);
        Self { key: error.key, ..self }
    }
}

// === impl Configured ===

impl<E: Extension> ExtensionSpec for Configured<E> {
    fn roles(&self) -> &'static [Role] {
        E::roles(&self.0)
    }

    fn build(&self, env: &Env) -> Result<Provided, Failure> {
        E::build(&self.0, env)
    }
}
