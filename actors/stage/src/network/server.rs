//! Servers: what a listener's table says, and the door made of it.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use watershed_net::{Alpn, ConnectionLimit, Cors, HttpServerOptions, ServerKeepalive, ServerOptions};
use watershed_supervise::Failure;

use super::TlsServerSettings;
use super::shared::shared_settings;
use crate::extension::{AuthSettings, Reference, Role};
use crate::gate::{Gate, RateLimitSettings};
use crate::receiver::Security;
use crate::registry::{Env, KeyError, Settings};
use crate::settings::{ByteSize, Interval};

/// Connections a listener has at once unless told. Each costs tens of kilobytes before it has sent anything.
const CONNECTIONS: usize = 8192;

shared_settings! {
    $ grpc_server_settings;
    /// Settings of a gRPC server.
    pub struct GrpcServerSettings {
        /// `host:port` to listen on.
        endpoint: Option<String> = None,
        /// Speak TLS.
        tls: Option<watershed_stage::TlsServerSettings> = None,
        /// Who may send.
        auth: Option<watershed_stage::AuthSettings> = None,
        /// Keep request headers as metadata, for `metadata_keys`, `from_context` and the like.
        include_metadata: bool = false,
        /// How often each sender may come.
        rate_limit: Option<watershed_stage::RateLimitSettings> = None,
        /// Connections at once; one more is closed.
        max_connections: usize = CONNECTIONS,
        /// The largest request, on the wire and inflated.
        max_recv_msg_size_mib: u64 = 64,
        /// Calls one connection may have in flight.
        max_concurrent_streams: u32 = 1024,
        /// How long a sender waits for an answer at most; less where its own timeout is shorter.
        ack_timeout: watershed_stage::Interval = Interval::secs(8),
        /// When connections end.
        keepalive: watershed_stage::KeepaliveServerSettings = KeepaliveServerSettings::default(),
    }
}

/// `keepalive` of a gRPC server.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeepaliveServerSettings {
    server_parameters: ServerParameters,
}

/// When connections end. The names and defaults are gRPC's.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ServerParameters {
    /// A connection without a call for so long is closed; never unless told.
    max_connection_idle: Option<Interval>,
    /// A connection this old takes no new calls; never unless told.
    max_connection_age: Option<Interval>,
    /// How long a connection that takes no new calls may take to end; for ever unless told.
    max_connection_age_grace: Option<Interval>,
    /// A ping is sent this often; every `2h` unless told.
    time: Option<Interval>,
    /// A connection that does not answer a ping for so long is dead; `20s` unless told.
    timeout: Option<Interval>,
}

shared_settings! {
    $ http_server_settings;
    /// Settings of an HTTP server.
    pub struct HttpServerSettings {
        /// `host:port` to listen on.
        endpoint: Option<String> = None,
        /// Speak TLS.
        tls: Option<watershed_stage::TlsServerSettings> = None,
        /// Which web pages may send.
        cors: Option<watershed_stage::CorsSettings> = None,
        /// Who may send.
        auth: Option<watershed_stage::AuthSettings> = None,
        /// Keep request headers as metadata, for `metadata_keys`, `from_context` and the like.
        include_metadata: bool = false,
        /// How often each sender may come.
        rate_limit: Option<watershed_stage::RateLimitSettings> = None,
        /// Connections at once; one more is closed.
        max_connections: usize = CONNECTIONS,
        /// The largest body, as sent and inflated.
        max_request_body_size: watershed_stage::ByteSize = ByteSize(64 << 20),
        /// How long the head of a request may take.
        read_header_timeout: watershed_stage::Interval = Interval::secs(60),
        /// How long a body may take to arrive, where that is less than 30 s and what has come of it takes at 64 KiB a second;
        /// `0s` is no less.
        read_timeout: watershed_stage::Interval = Interval::secs(0),
        /// How long a connection is kept without a request.
        idle_timeout: watershed_stage::Interval = Interval::secs(60),
        /// Keep connections for more than one request.
        keep_alives_enabled: bool = true,
        /// Headers of every answer.
        response_headers: std::collections::BTreeMap<String, String> = BTreeMap::new(),
        /// How long a sender waits for an answer at most.
        ack_timeout: watershed_stage::Interval = Interval::secs(8),
    }
}

/// Which web pages may send (`cors`).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CorsSettings {
    /// Origins such as `https://shop.example`; a `*` stands for anything.
    allowed_origins: Vec<String>,
    /// Headers pages may send beside those that they always may.
    allowed_headers: Vec<String>,
    /// Headers pages may read of an answer.
    exposed_headers: Vec<String>,
    /// How many seconds a browser may remember the answer.
    max_age: u32,
}

/// What a listener's connections meet: how they are served, and who may pass. Clones are of one listener.
#[derive(Clone)]
pub struct Door<O> {
    /// How connections are served.
    pub options: O,
    /// Who may pass.
    pub gate: Gate,
}

// === impl GrpcServerSettings ===

impl Settings for GrpcServerSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        for (key, is_zero) in [
            ("max_recv_msg_size_mib", self.max_recv_msg_size_mib == 0),
            ("max_concurrent_streams", self.max_concurrent_streams == 0),
            ("ack_timeout", self.ack_timeout == Interval::secs(0)),
            ("max_connections", self.max_connections == 0),
        ] {
            if is_zero {
                errors.push(KeyError::new(key, "must be positive"));
            }
        }
        errors.extend(guarded(self.tls.as_ref(), self.rate_limit.as_ref(), self.auth.as_ref()));
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.auth.iter().map(|auth| auth.reference(Role::ServerAuth)).collect()
    }
}

impl GrpcServerSettings {
    /// What stands before its door, for people.
    pub fn security(&self) -> Security {
        security(self.tls.as_ref(), self.auth.as_ref())
    }

    /// The door of one listener.
    pub fn open(&self, env: &Env) -> Result<Door<ServerOptions>, Failure> {
        let mut options = ServerOptions::new(env.budget.clone());
        options.max_recv_msg_size = self.max_recv_msg_size_mib.saturating_mul(1 << 20);
        options.max_concurrent_streams = Some(self.max_concurrent_streams);
        options.connections = ConnectionLimit::new(self.max_connections);
        options.tls = self.tls.as_ref().map(|tls| tls.open(Alpn::H2)).transpose()?;
        let told = &self.keepalive.server_parameters;
        let defaults = ServerKeepalive::default();
        options.keepalive = ServerKeepalive {
            max_connection_idle: told.max_connection_idle.map(|idle| idle.0),
            max_connection_age: told.max_connection_age.map(|age| age.0),
            max_connection_age_grace: told.max_connection_age_grace.map(|grace| grace.0),
            time: told.time.map_or(defaults.time, |time| time.0),
            timeout: told.timeout.map_or(defaults.timeout, |timeout| timeout.0),
        };
        let gate = Gate::new(env, self.auth.as_ref(), self.rate_limit.as_ref(), self.include_metadata)?;
        Ok(Door { options, gate })
    }
}

// === impl HttpServerSettings ===

impl Settings for HttpServerSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        for (key, is_zero) in [
            ("max_request_body_size", self.max_request_body_size == ByteSize(0)),
            ("ack_timeout", self.ack_timeout == Interval::secs(0)),
            ("read_header_timeout", self.read_header_timeout == Interval::secs(0)),
            ("max_connections", self.max_connections == 0),
        ] {
            if is_zero {
                errors.push(KeyError::new(key, "must be positive"));
            }
        }
        for (name, value) in &self.response_headers {
            if header(name, value).is_none() {
                errors.push(KeyError::new(format!("response_headers.{name}"), "is no header"));
            }
        }
        errors.extend(guarded(self.tls.as_ref(), self.rate_limit.as_ref(), self.auth.as_ref()));
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.auth.iter().map(|auth| auth.reference(Role::ServerAuth)).collect()
    }
}

impl HttpServerSettings {
    /// What stands before its door, for people.
    pub fn security(&self) -> Security {
        security(self.tls.as_ref(), self.auth.as_ref())
    }

    /// The door of one listener.
    pub fn open(&self, env: &Env) -> Result<Door<HttpServerOptions>, Failure> {
        let mut options = HttpServerOptions::new(env.budget.clone());
        options.max_request_body_size = self.max_request_body_size.0;
        options.connections = ConnectionLimit::new(self.max_connections);
        options.tls = self.tls.as_ref().map(|tls| tls.open(Alpn::Http11)).transpose()?;
        options.read_header_timeout = self.read_header_timeout.0;
        options.read_timeout = self.read_timeout.0;
        options.idle_timeout = self.idle_timeout.0;
        options.keep_alive = self.keep_alives_enabled;
        options.cors = self.cors.as_ref().map(CorsSettings::open);
        let headers = self.response_headers.iter().filter_map(|(name, value)| header(name, value));
        options.response_headers = headers.collect();
        let gate = Gate::new(env, self.auth.as_ref(), self.rate_limit.as_ref(), self.include_metadata)?;
        Ok(Door { options, gate })
    }
}

// === impl CorsSettings ===

impl CorsSettings {
    fn open(&self) -> Cors {
        Cors {
            allowed_origins: self.allowed_origins.clone(),
            allowed_headers: self.allowed_headers.clone(),
            exposed_headers: self.exposed_headers.clone(),
            max_age: (self.max_age > 0).then_some(std::time::Duration::from_secs(self.max_age.into())),
        }
    }
}

fn security(tls: Option<&TlsServerSettings>, auth: Option<&AuthSettings>) -> Security {
    Security { tls: tls.is_some(), auth: auth.map(|auth| auth.authenticator.clone()) }
}

/// What both kinds of server check of what stands around them.
fn guarded(
    tls: Option<&TlsServerSettings>,
    limit: Option<&RateLimitSettings>,
    auth: Option<&AuthSettings>,
) -> Vec<KeyError> {
    let mut errors: Vec<KeyError> =
        tls.into_iter().flat_map(Settings::check).map(|error| error.under("tls")).collect();
    if let Some(limit) = limit {
        errors.extend(limit.check().into_iter().map(|error| error.under("rate_limit")));
        if limit.needs_identity() && auth.is_none() {
            errors.push(KeyError::new("rate_limit.by", "without `auth` nobody has an identity"));
        }
    }
    errors
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, value.parse().ok()?))
}
