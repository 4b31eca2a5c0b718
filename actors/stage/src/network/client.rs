//! Clients: what an exporter's table says of its connections, and the clients made of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_net::{
    Client, ClientKeepalive, ClientOptions, Code, Compression, EndpointError, HttpClient, HttpClientOptions,
    Proxy,
};
use watershed_supervise::Failure;

use super::TlsClientSettings;
use super::shared::shared_settings;
use crate::exporter::{Batch, ExportError};
use crate::extension::{AuthError, AuthSettings, ClientAuth, Dependence, Reference, Role};
use crate::registry::{Env, KeyError, Settings};
use crate::settings::Interval;

shared_settings! {
    $ grpc_client_settings;
    /// Settings of a gRPC client. They hold tokens: never printed.
    pub struct GrpcClientSettings {
        /// `host:port`; with `http://` before it plain text, otherwise TLS unless `tls.insecure` is set.
        #[schemars(extend("x-required" = true))]
        endpoint: String = String::new(),
        /// How TLS is spoken.
        tls: watershed_stage::TlsClientSettings = TlsClientSettings::default(),
        /// What is done to requests before they are sent.
        compression: watershed_stage::CompressionSetting = CompressionSetting::default(),
        /// Sent with every request.
        headers: std::collections::BTreeMap<String, String> = BTreeMap::new(),
        /// How the exporter gets in.
        auth: Option<watershed_stage::AuthSettings> = None,
        /// The name to call the destination by, where it is not the endpoint's.
        authority: Option<String> = None,
        /// While there is no connection, wait for one rather than fail.
        wait_for_ready: bool = false,
        /// How a dead connection is found out.
        keepalive: Option<watershed_stage::KeepaliveClientSettings> = None,
        /// The proxy to go through (`http://host:port`); that of `HTTPS_PROXY` and `NO_PROXY` unless told, none if empty.
        proxy_url: Option<String> = None,
        /// Who calls; `watershed/<version>` unless told.
        user_agent: Option<String> = None,
    }
}

/// `keepalive` of a gRPC client.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeepaliveClientSettings {
    /// A ping is sent this often.
    time: Interval,
    /// A connection that does not answer a ping for so long is dead.
    timeout: Interval,
    /// Send pings even while no call is in flight.
    permit_without_stream: bool,
}

shared_settings! {
    $ http_client_settings;
    /// Settings of an HTTP client. They hold tokens: never printed.
    pub struct HttpClientSettings {
        /// How TLS is spoken to `https://`.
        tls: watershed_stage::TlsClientSettings = TlsClientSettings::default(),
        /// What is done to requests before they are sent.
        compression: watershed_stage::CompressionSetting = CompressionSetting::default(),
        /// Sent with every request.
        headers: std::collections::BTreeMap<String, String> = BTreeMap::new(),
        /// How the exporter gets in.
        auth: Option<watershed_stage::AuthSettings> = None,
        /// The proxy to go through (`http://host:port`); that of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` unless told,
        /// none if empty.
        proxy_url: Option<String> = None,
        /// Who calls; `watershed/<version>` unless told.
        user_agent: Option<String> = None,
        /// Connections kept while nobody uses them.
        max_idle_conns_per_host: usize = 100,
        /// Connections at once; `0` is any number.
        max_conns_per_host: usize = 0,
        /// How long an unused connection is kept; `0s` is for ever.
        idle_conn_timeout: watershed_stage::Interval = Interval::secs(90),
        /// Use each connection once.
        disable_keep_alives: bool = false,
    }
}

/// What is done to requests before they are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompressionSetting {
    /// Nothing.
    None,
    /// gzip at its fastest level.
    #[default]
    Gzip,
    /// zstd at its fastest level: smaller than gzip at a third of its cost.
    Zstd,
}

/// The headers of requests that depend on whose data is sent.
#[derive(Clone, Default)]
pub struct Credentials(Option<Arc<dyn ClientAuth>>);

// === impl GrpcClientSettings ===

impl Settings for GrpcClientSettings {
    fn check(&self) -> Vec<KeyError> {
        if self.endpoint.is_empty() {
            let mut errors = wrong(&self.tls, self.proxy_url.as_deref(), None);
            let message = "requires a non-empty \"endpoint\", such as \"gateway:4317\"";
            errors.push(KeyError::new("endpoint", message));
            return errors;
        }
        wrong(&self.tls, self.proxy_url.as_deref(), Client::new(self.options()).err())
    }

    fn references(&self) -> Vec<Reference> {
        self.auth.iter().map(|auth| auth.reference(Role::ClientAuth)).collect()
    }
}

impl GrpcClientSettings {
    /// A client for one lane, and the headers of its calls.
    pub fn open(&self, env: &Env) -> Result<(Client, Credentials), Failure> {
        let mut options = self.options();
        if !self.endpoint.starts_with("http://")
            && (self.endpoint.starts_with("https://") || !self.tls.insecure)
        {
            options.tls = Some(self.tls.open()?);
        }
        options.proxy = proxy(self.proxy_url.as_deref()).map_err(|error| Failure::from_error(&error))?;
        options.budget = Some(env.budget.clone());
        let client = Client::new(options).map_err(|error| Failure::from_error(&error))?;
        Ok((client, Credentials::new(self.auth.as_ref(), env)?))
    }

    /// What can be said without reading files.
    fn options(&self) -> ClientOptions {
        let mut options = ClientOptions::new(self.endpoint.clone());
        options.compression = self.compression.into();
        options.headers = self.headers.clone().into_iter().collect();
        options.authority = self.authority.clone();
        options.wait_for_ready = self.wait_for_ready;
        options.keepalive = self.keepalive.map(|keepalive| ClientKeepalive {
            time: keepalive.time.0,
            timeout: keepalive.timeout.0,
            permit_without_stream: keepalive.permit_without_stream,
        });
        if let Some(user_agent) = &self.user_agent {
            options.user_agent = user_agent.clone();
        }
        options
    }
}

impl Default for KeepaliveClientSettings {
    fn default() -> Self {
        Self { time: Interval::secs(10), timeout: Interval::secs(10), permit_without_stream: false }
    }
}

// === impl HttpClientSettings ===

impl Settings for HttpClientSettings {
    fn check(&self) -> Vec<KeyError> {
        wrong(&self.tls, self.proxy_url.as_deref(), HttpClient::new(self.options()).err())
    }

    fn references(&self) -> Vec<Reference> {
        self.auth.iter().map(|auth| auth.reference(Role::ClientAuth)).collect()
    }
}

impl HttpClientSettings {
    /// A client for one lane, and the headers of its requests.
    pub fn open(&self, env: &Env) -> Result<(HttpClient, Credentials), Failure> {
        self.open_with(env, |_| {})
    }

    /// The same, where a kind has more to say of its requests than these keys.
    pub fn open_with(
        &self,
        env: &Env,
        tune: impl FnOnce(&mut HttpClientOptions),
    ) -> Result<(HttpClient, Credentials), Failure> {
        let mut options = self.options();
        tune(&mut options);
        options.tls = Some(self.tls.open()?);
        options.proxy = proxy(self.proxy_url.as_deref()).map_err(|error| Failure::from_error(&error))?;
        options.budget = Some(env.budget.clone());
        let client = HttpClient::new(options).map_err(|error| Failure::from_error(&error))?;
        Ok((client, Credentials::new(self.auth.as_ref(), env)?))
    }

    fn options(&self) -> HttpClientOptions {
        let mut options = HttpClientOptions {
            compression: self.compression.into(),
            headers: self.headers.clone().into_iter().collect(),
            max_idle_conns_per_host: self.max_idle_conns_per_host,
            max_conns_per_host: self.max_conns_per_host,
            idle_conn_timeout: self.idle_conn_timeout.0,
            disable_keep_alives: self.disable_keep_alives,
            ..HttpClientOptions::default()
        };
        if let Some(user_agent) = &self.user_agent {
            options.user_agent = user_agent.clone();
        }
        options
    }
}

impl From<CompressionSetting> for Compression {
    fn from(setting: CompressionSetting) -> Self {
        match setting {
            CompressionSetting::None => Self::None,
            // The fastest levels: beyond them, an hour of CPU saves little of the wire.
            CompressionSetting::Gzip => Self::Gzip(1),
            CompressionSetting::Zstd => Self::Zstd(1),
        }
    }
}

// === impl Credentials ===

impl Credentials {
    fn new(auth: Option<&AuthSettings>, env: &Env) -> Result<Self, Failure> {
        let auth = auth.map(|auth| env.extensions.client_auth(&auth.authenticator));
        Ok(Self(auth.transpose()?))
    }

    /// What the headers depend on.
    pub fn depends(&self) -> Dependence {
        self.0.as_ref().map(|auth| auth.depends()).unwrap_or_default()
    }

    /// The headers that a batch is sent with: what lets the exporter in, and the trace it belongs to.
    pub async fn headers(&self, batch: &Batch) -> Result<HeaderMap, ExportError> {
        let mut headers = HeaderMap::new();
        if let Some(trace) = &batch.trace {
            headers.extend(trace.headers());
        }
        if let Some(auth) = &self.0 {
            headers.extend(auth.headers(&batch.context.origin).await.map_err(failure)?);
        }
        Ok(headers)
    }

    /// The destination did not let in a request with these headers. Whether it is worth another attempt.
    pub fn rejected(&self, sent: &HeaderMap) -> bool {
        self.0.as_ref().is_some_and(|auth| auth.rejected(sent))
    }
}

/// What it means for a batch that there are no headers.
fn failure(error: AuthError) -> ExportError {
    match error {
        AuthError::Retryable(reason) => ExportError::Retryable { reason: reason.into(), retry_after: None },
        AuthError::Permanent(reason) => {
            ExportError::Permanent { code: Code::InvalidArgument as i32, reason: reason.into() }
        }
    }
}

/// The proxy of these settings.
fn proxy(url: Option<&str>) -> Result<Option<Proxy>, EndpointError> {
    match url {
        None => Proxy::from_env().map(Some),
        Some("") => Ok(None),
        Some(url) => Proxy::new(url).map(Some),
    }
}

/// What both kinds of client check: TLS, the client made of the rest, and the proxy.
fn wrong(tls: &TlsClientSettings, proxy_url: Option<&str>, client: Option<EndpointError>) -> Vec<KeyError> {
    let mut errors: Vec<KeyError> = tls.check().into_iter().map(|error| error.under("tls")).collect();
    errors.extend(client.map(|error| KeyError::new(blame(&error), error.to_string())));
    errors.extend(proxy(proxy_url).err().map(|error| KeyError::new("proxy_url", error.to_string())));
    errors
}

/// The key that an error is about.
fn blame(error: &EndpointError) -> &'static str {
    match error {
        EndpointError::Header(_) => "headers",
        EndpointError::Authority(_) => "authority",
        EndpointError::Tls(_) => "tls",
        EndpointError::Proxy(_) => "proxy_url",
        EndpointError::Invalid(_) | EndpointError::Url(_) => "endpoint",
    }
}
