//! The pods behind a service: its EndpointSlices, listed and then watched.
//!
//! Source: the Kubernetes API conventions ("Efficient detection of changes", "Watch bookmarks", "410 Gone responses")
//! and the reference of `discovery.k8s.io/v1`. A list tells the version that it is of; a watch from that version tells
//! every change since. Bookmarks move the version on while nothing changes, and where the server has forgotten the
//! version (410) all is listed again.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until, timeout};
use watershed_net::{ClientTls, ClientTlsOptions, HttpClient, HttpClientOptions, HttpStream, Pem};
use watershed_stage::delivery::Budget;
use watershed_stage::{Env, Failure, Interval, KeyError, Settings};

use super::{PORT, Report, address};
use crate::ring::fraction;

/// How long the server is asked to keep a watch open. Somewhat later it is taken for lost.
const WATCH: Duration = Duration::from_secs(290);

/// How long a connection to it may take at most: another may go to a server that is there.
const CONNECT: Duration = Duration::from_secs(10);

/// How many slices are asked for at once.
const PAGE: usize = 500;

/// The largest page, or event, that is taken, in bytes: a slice has at most a thousand endpoints.
const LARGEST: usize = 16 << 20;

/// The first and the longest pause after a failure, give or take a half.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A service (`resolver.k8s`). Whoever runs this needs `get`, `list` and `watch` of `endpointslices` in
/// `discovery.k8s.io`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct K8sSettings {
    /// The service, as `name` or `name.namespace`; the namespace is this pod's unless told.
    #[schemars(extend("x-required" = true))]
    service: String,
    /// The ports of each pod; every one is a backend.
    ports: Vec<u16>,
    /// How long the API server may take for an answer: a list in a large cluster takes seconds.
    timeout: Interval,
    /// Whether backends are called by the pods' host names, as those of a StatefulSet have them, and not by their
    /// addresses.
    return_hostnames: bool,
    /// The API server; that of the cluster this runs in unless told.
    api_server: Option<String>,
    /// Where the token, the authority (`ca.crt`) and the namespace of the service account lie.
    service_account: PathBuf,
}

/// What watches a service.
pub(crate) struct K8s {
    settings: K8sSettings,
    client: HttpClient,
    name: String,
    namespace: String,
    /// Everything of the URL that does not change.
    url: String,
}

/// The slices of a service, by name.
#[derive(Default)]
struct Known {
    slices: BTreeMap<String, Vec<String>>,
    version: String,
}

/// Why a watch has ended.
#[derive(Debug)]
enum Ended {
    /// Its time was up: the next goes on where it ended.
    Normally,
    /// The server has forgotten the version.
    Gone,
    /// What went wrong.
    Failed(String),
}

// The parts of the API's objects that are of use.

#[derive(Deserialize)]
struct List {
    metadata: Meta,
    // Of a list without any, `null`.
    items: Option<Vec<Slice>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: String,
    resource_version: String,
    r#continue: String,
}

#[derive(Deserialize)]
struct Slice {
    #[serde(default)]
    metadata: Meta,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize)]
struct Endpoint {
    addresses: Option<Vec<String>>,
    hostname: Option<String>,
    conditions: Option<Conditions>,
}

#[derive(Deserialize)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct Event<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a serde_json::value::RawValue,
}

/// `Status`, of which the code is what counts.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
}

// === impl K8sSettings ===

impl Default for K8sSettings {
    fn default() -> Self {
        Self {
            service: String::new(),
            ports: vec![PORT],
            timeout: Interval::secs(30),
            return_hostnames: false,
            api_server: None,
            service_account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
        }
    }
}

impl Settings for K8sSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let is_label =
            |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !self.service.split('.').all(is_label) || self.service.split('.').count() > 2 {
            errors.push(KeyError::new(
                "service",
                "names the service to watch, as \"gateway\" or \"gateway.monitoring\"",
            ));
        }
        if self.ports.is_empty() || self.ports.contains(&0) {
            errors.push(KeyError::new("ports", "lists the ports of a pod, such as [4317]"));
        }
        if self.timeout.0.is_zero() {
            errors.push(KeyError::new("timeout", "must be positive"));
        }
        if let Some(server) = &self.api_server
            && server.parse().ok().is_none_or(|url: Uri| HttpClient::check(&url).is_err())
        {
            errors.push(KeyError::new("api_server", "is no URL: write https://host:port"));
        }
        errors
    }
}

impl K8sSettings {
    pub(super) fn open(&self, env: &Env) -> Result<K8s, Failure> {
        self.open_with(env.budget.clone())
    }

    fn open_with(&self, budget: Arc<Budget>) -> Result<K8s, Failure> {
        let server = match &self.api_server {
            Some(server) => server.trim_end_matches('/').to_owned(),
            None => in_cluster()?,
        };
        let connect_timeout = self.timeout.0.min(CONNECT);
        let mut options =
            HttpClientOptions { connect_timeout, budget: Some(budget), ..HttpClientOptions::default() };
        if server.starts_with("https://") {
            let ca = Some(Pem::File(self.service_account.join("ca.crt")));
            let reload_interval = Some(Duration::from_secs(600));
            let tls =
                ClientTls::new(&ClientTlsOptions { ca, reload_interval, ..ClientTlsOptions::default() });
            options.tls = Some(tls.map_err(|error| Failure::new(format!("resolver.k8s: {error}")))?);
        }
        let client =
            HttpClient::new(options).map_err(|error| Failure::new(format!("resolver.k8s: {error}")))?;
        let (name, namespace) = match self.service.split_once('.') {
            Some((name, namespace)) => (name.to_owned(), namespace.to_owned()),
            None => (self.service.clone(), self.own_namespace()),
        };
        let url = format!(
            "{server}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
             ?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
        );
        Ok(K8s { settings: self.clone(), client, name, namespace, url })
    }

    fn own_namespace(&self) -> String {
        let read = std::fs::read_to_string(self.service_account.join("namespace")).unwrap_or_default();
        if read.trim().is_empty() { "default".to_owned() } else { read.trim().to_owned() }
    }
}

/// The API server, as every pod is told.
fn in_cluster() -> Result<String, Failure> {
    let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (Some(host), Some(port)) = (var("KUBERNETES_SERVICE_HOST"), var("KUBERNETES_SERVICE_PORT")) else {
        let message =
            "resolver.k8s: this runs in no pod (KUBERNETES_SERVICE_HOST is not set): set `api_server`";
        return Err(Failure::new(message));
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Ok(format!("https://{host}:{port}"))
}

// === impl K8s ===

impl K8s {
    pub(super) async fn run(self, report: &Report) {
        let (mut pause, longest) = PAUSES;
        loop {
            let mut began = Instant::now();
            let end = match self.list().await {
                Err(error) => Ended::Failed(error),
                Ok(mut known) => {
                    report(Ok(self.backends(&known)));
                    loop {
                        match self.watch(&mut known, report, &mut pause).await {
                            Ended::Normally => {}
                            end => break end,
                        }
                        // A server that ends every watch at once is not to be kept busy by it.
                        sleep_until(began + PAUSES.0).await;
                        began = Instant::now();
                    }
                }
            };
            let mut next = began + PAUSES.0;
            if let Ended::Failed(error) = end {
                report(Err(error));
                next = Instant::now() + spread(pause);
                pause = longest.min(pause * 2);
            }
            sleep_until(next).await;
        }
    }

    /// Everything there is, page by page.
    async fn list(&self) -> Result<Known, String> {
        let mut known = Known::default();
        let mut next = String::new();
        loop {
            let mut stream = self.get(&format!("&limit={PAGE}&continue={}", escape(&next))).await?;
            let page = timeout(self.settings.timeout.0, whole(&mut stream)).await;
            let page = page.map_err(|_| self.late())??;
            if !stream.status.is_success() {
                return Err(complaint(stream.status, &page));
            }
            let list: List =
                serde_json::from_slice(&page).map_err(|error| format!("a list of slices: {error}"))?;
            let slices = list.items.unwrap_or_default().into_iter();
            known.slices.extend(slices.map(|slice| self.read(slice)));
            known.version = list.metadata.resource_version;
            next = list.metadata.r#continue;
            if next.is_empty() {
                return Ok(known);
            }
        }
    }

    /// Follows the changes since a version.
    async fn watch(&self, known: &mut Known, report: &Report, pause: &mut Duration) -> Ended {
        let query = format!(
            "&watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
            escape(&known.version),
            WATCH.as_secs()
        );
        let mut stream = match self.get(&query).await {
            Ok(stream) => stream,
            Err(error) => return Ended::Failed(error),
        };
        if !stream.status.is_success() {
            if stream.status == StatusCode::GONE {
                return Ended::Gone;
            }
            let body = timeout(self.settings.timeout.0, whole(&mut stream)).await;
            return Ended::Failed(complaint(
                stream.status,
                &body.ok().and_then(Result::ok).unwrap_or_default(),
            ));
        }
        *pause = PAUSES.0;
        let mut lines = BytesMut::new();
        loop {
            let chunk = match timeout(WATCH + PAUSES.1, stream.chunk()).await {
                Ok(Some(Ok(chunk))) => chunk,
                Ok(None) => return Ended::Normally,
                Ok(Some(Err(error))) => return Ended::Failed(error.to_string()),
                Err(_) => return Ended::Failed("a watch went silent".to_owned()),
            };
            let mut from = lines.len();
            lines.extend_from_slice(&chunk);
            while let Some(end) = lines.iter().skip(from).position(|byte| *byte == b'\n') {
                let line = lines.split_to(from + end);
                lines.advance(1);
                from = 0;
                match self.event(known, &line) {
                    Ok(false) => {}
                    Ok(true) => report(Ok(self.backends(known))),
                    Err(end) => return end,
                }
            }
            if lines.len() > LARGEST {
                return Ended::Failed(format!("an event of a watch is larger than {LARGEST} bytes"));
            }
        }
    }

    /// Takes in an event; whether it may have changed the backends.
    fn event(&self, known: &mut Known, line: &[u8]) -> Result<bool, Ended> {
        if line.trim_ascii().is_empty() {
            return Ok(false);
        }
        let failed = |error: serde_json::Error| Ended::Failed(format!("an event of a watch: {error}"));
        let event: Event<'_> = serde_json::from_slice(line).map_err(failed)?;
        let object = event.object.get();
        if event.r#type == "ERROR" {
            let Status { code, message } = serde_json::from_str(object).unwrap_or_default();
            let is_gone = code == StatusCode::GONE.as_u16();
            return Err(if is_gone { Ended::Gone } else { Ended::Failed(format!("{code}: {message}")) });
        }
        let slice: Slice = serde_json::from_str(object).map_err(failed)?;
        known.version.clone_from(&slice.metadata.resource_version);
        match event.r#type {
            "ADDED" | "MODIFIED" => {
                let (name, backends) = self.read(slice);
                let before = known.slices.insert(name.clone(), backends).unwrap_or_default();
                Ok(known.slices.get(&name) != Some(&before))
            }
            "DELETED" => {
                Ok(known.slices.remove(&slice.metadata.name).is_some_and(|before| !before.is_empty()))
            }
            // A bookmark, or what comes after us.
            _ => Ok(false),
        }
    }

    /// The name of a slice, and the hosts of it that are ready. What is not said to be unready is ready.
    fn read(&self, slice: Slice) -> (String, Vec<String>) {
        let is_ready =
            |endpoint: &Endpoint| endpoint.conditions.as_ref().is_none_or(|is| is.ready != Some(false));
        let ready = slice.endpoints.unwrap_or_default().into_iter().filter(is_ready);
        let hosts =
            ready.flat_map(|endpoint| match endpoint.hostname.filter(|_| self.settings.return_hostnames) {
                Some(hostname) => vec![format!("{hostname}.{}.{}", self.name, self.namespace)],
                // Those of one endpoint are one pod's: the first is enough.
                None => endpoint.addresses.unwrap_or_default().into_iter().take(1).collect(),
            });
        (slice.metadata.name, hosts.collect())
    }

    fn backends(&self, known: &Known) -> Vec<String> {
        let hosts = known.slices.values().flatten();
        let ports = &self.settings.ports;
        let backend = |host: &String, port: u16| match host.parse() {
            Ok(ip) => address(ip, Some(port)),
            Err(_) => format!("{host}:{port}"),
        };
        hosts.flat_map(|host| ports.iter().map(move |port| backend(host, *port))).collect()
    }

    /// The head of an answer.
    async fn get(&self, query: &str) -> Result<HttpStream, String> {
        let url: Uri = format!("{}{query}", self.url).parse().map_err(|error| format!("{error}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // It is renewed by the hour.
        if let Some(token) = self.token().await {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let get = timeout(self.settings.timeout.0, self.client.stream(&url, &headers)).await;
        get.map_err(|_| self.late())?.map_err(|error| error.to_string())
    }

    async fn token(&self) -> Option<String> {
        let path = self.settings.service_account.join("token");
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
        read.ok()?.ok().map(|token| token.trim().to_owned())
    }

    fn late(&self) -> String {
        format!("the API server has not answered within {:?}", self.settings.timeout.0)
    }
}

/// A whole body.
async fn whole(stream: &mut HttpStream) -> Result<Bytes, String> {
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.chunk().await {
        body.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
        if body.len() > LARGEST {
            return Err(format!("an answer is larger than {LARGEST} bytes"));
        }
    }
    Ok(body.freeze())
}

/// What the server says is wrong, and what to do about the most frequent of it.
fn complaint(status: StatusCode, body: &[u8]) -> String {
    let Status { message, .. } = serde_json::from_slice(body).unwrap_or_default();
    let help = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ": the service account needs get, list and watch of endpointslices in discovery.k8s.io"
        }
        _ => "",
    };
    format!("the API server answered {status} {message}{help}")
}

/// A pause, a half more or less: all agents of a cluster lose the API server at once, and must not come back to it so.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fraction(RandomState::new().hash_one(0)))
}

/// A value in a query.
fn escape(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
#[path = "k8s_tests.rs"]
mod tests;
