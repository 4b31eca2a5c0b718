//! Against a double of the API server that speaks its protocol: lists in pages, watches from a version with bookmarks,
//! and versions that it forgets.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use watershed_testkit::certs::Authority;

use super::*;

/// What the double speaks over.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

const TOKEN: &str = "secret-token";
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server knows.
#[derive(Default)]
struct Store {
    version: u64,
    slices: BTreeMap<String, Value>,
    /// Every change, with its version.
    log: Vec<(u64, &'static str, Value)>,
    /// Watches from before this version are refused.
    oldest: u64,
    /// How that is said: by status, or by an event.
    gone_by_status: bool,
    /// Watches end when this changes.
    cuts: u64,
    /// Watches send a bookmark when this changes.
    bookmarks: u64,
    /// The queries that came, and when.
    queries: Vec<String>,
    times: Vec<Instant>,
    /// How long it takes for each answer.
    takes: Duration,
    /// The token that lets in.
    token: &'static str,
}

#[derive(Clone)]
struct Server {
    store: Arc<Mutex<Store>>,
    changed: Arc<watch::Sender<()>>,
    url: String,
    /// `ca.crt` of the service account.
    ca: Option<String>,
}

impl Server {
    async fn start() -> Self {
        Self::open(None).await
    }

    /// As a cluster has it: over TLS, by an authority that only the service account knows.
    async fn start_tls() -> Self {
        Self::open(Some(Authority::new("kubernetes"))).await
    }

    async fn open(authority: Option<Authority>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if authority.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let store = Arc::new(Mutex::new(Store { version: 100, token: TOKEN, ..Store::default() }));
        let ca = authority.as_ref().map(Authority::pem);
        let acceptor = authority
            .map(|authority| TlsAcceptor::from(authority.server(&authority.issue("127.0.0.1"), false)));
        let server = Self { store, changed: Arc::new(watch::Sender::new(())), url, ca };
        let serving = server.clone();
        spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (server, acceptor) = (serving.clone(), acceptor.clone());
                spawn(async move {
                    // The other end may leave at any time.
                    let _ = match acceptor {
                        None => server.serve(&mut { stream }).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(mut stream) => server.serve(&mut stream).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        server
    }

    fn change(&self, change: impl FnOnce(&mut Store)) {
        change(&mut self.store.lock());
        self.changed.send_replace(());
    }

    /// Pods of a slice, and whether each is ready.
    fn put(&self, name: &str, pods: &[(&str, Option<bool>)]) {
        self.change(|store| {
            store.version += 1;
            let endpoint = |(address, ready): &(&str, Option<bool>)| {
                let host = address.replace(['.', ':'], "-");
                json!({"addresses": [address], "hostname": format!("pod-{host}"),
                    "conditions": {"ready": ready, "serving": true, "terminating": *ready == Some(false)}})
            };
            let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
            let slice = json!({"metadata": {"name": name, "resourceVersion": store.version.to_string(),
                "labels": {"kubernetes.io/service-name": "gateway"}}, "addressType": "IPv4",
                "endpoints": if endpoints.is_empty() { Value::Null } else { Value::Array(endpoints) },
                "ports": [{"name": "otlp", "port": 4317, "protocol": "TCP"}]});
            let known = store.slices.insert(name.to_owned(), slice.clone()).is_some();
            store.log.push((store.version, if known { "MODIFIED" } else { "ADDED" }, slice));
        });
    }

    fn delete(&self, name: &str) {
        self.change(|store| {
            store.version += 1;
            let mut slice = store.slices.remove(name).unwrap();
            slice["metadata"]["resourceVersion"] = store.version.to_string().into();
            store.log.push((store.version, "DELETED", slice));
        });
    }

    /// How often all was listed, and how often it was watched.
    fn asked(&self) -> (usize, usize) {
        let queries = self.store.lock().queries.clone();
        let watches = queries.iter().filter(|query| query.contains("watch=true")).count();
        let lists = queries.iter().filter(|query| query.ends_with("continue=")).count();
        (lists, watches)
    }

    async fn serve(&self, stream: &mut impl Io) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split_whitespace().nth(1).unwrap().to_owned();
        let (path, query) = path.split_once('?').unwrap();
        assert_eq!(path, "/apis/discovery.k8s.io/v1/namespaces/monitoring/endpointslices");
        assert!(query.starts_with("labelSelector=kubernetes.io%2Fservice-name%3Dgateway&"), "{query}");
        let (takes, token) = {
            let mut store = self.store.lock();
            store.queries.push(query.to_owned());
            store.times.push(Instant::now());
            (store.takes, store.token)
        };
        // Even none at all would give others their turn, before the watch knows what has been.
        if !takes.is_zero() {
            tokio::time::sleep(takes).await; // sleep-ok: it is as slow as it was told
        }
        if !head.to_lowercase().contains(&format!("authorization: bearer {token}\r\n")) {
            let status = json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": "endpointslices is forbidden"});
            return answer(stream, "403 Forbidden", &status).await;
        }
        let of = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)).unwrap_or_default();
        if of("watch=") == "true" {
            assert_eq!(of("allowWatchBookmarks="), "true");
            let version = of("resourceVersion=").parse().unwrap();
            return self.watch(stream, version).await;
        }
        // A page is one slice, whatever the limit: the server may.
        assert_eq!(of("limit="), "500");
        let skipped = of("continue=").parse().unwrap_or(0);
        let (page, next, version) = {
            let store = self.store.lock();
            let page: Vec<Value> = store.slices.values().skip(skipped).take(1).cloned().collect();
            let next =
                if store.slices.len() > skipped + 1 { (skipped + 1).to_string() } else { String::new() };
            (page, next, store.version.to_string())
        };
        let items = if page.is_empty() { Value::Null } else { Value::Array(page) };
        let list = json!({"kind": "EndpointSliceList", "metadata": {"resourceVersion": version, "continue": next}, "items": items});
        answer(stream, "200 OK", &list).await
    }

    async fn watch(&self, stream: &mut impl Io, from: u64) -> std::io::Result<()> {
        let mut changed = self.changed.subscribe();
        let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"});
        let (is_gone, by_status) = {
            let store = self.store.lock();
            (from < store.oldest, store.gone_by_status)
        };
        if is_gone && by_status {
            return answer(stream, "410 Gone", &gone).await;
        }
        stream
            .write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .await?;
        if is_gone {
            event(stream, "ERROR", &gone).await?;
            return stream.write_all(b"0\r\n\r\n").await;
        }
        let (cuts, mut bookmarks, mut at) = {
            let store = self.store.lock();
            (store.cuts, store.bookmarks, from)
        };
        loop {
            let (events, version, cut, marked) = {
                let store = self.store.lock();
                let events: Vec<_> =
                    store.log.iter().filter(|(version, ..)| *version > at).cloned().collect();
                (events, store.version, store.cuts != cuts, store.bookmarks)
            };
            for (version, kind, slice) in events {
                event(stream, kind, &slice).await?;
                at = version;
            }
            if std::mem::replace(&mut bookmarks, marked) != marked {
                let mark =
                    json!({"kind": "EndpointSlice", "metadata": {"resourceVersion": version.to_string()}});
                event(stream, "BOOKMARK", &mark).await?;
                at = version;
            }
            if cut {
                return stream.write_all(b"0\r\n\r\n").await;
            }
            if changed.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}

#[allow(clippy::disallowed_methods)]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}

async fn answer(stream: &mut impl Io, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await
}

/// An event as a line, in two chunks: where they are cut means nothing.
async fn event(stream: &mut impl Io, kind: &str, object: &Value) -> std::io::Result<()> {
    let line = format!("{}\n", json!({"type": kind, "object": object}));
    let (first, second) = line.split_at(line.len() / 2);
    for chunk in [first, second] {
        stream.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// A resolver under way, and what it reports.
struct Watching {
    reports: mpsc::Receiver<Result<Vec<String>, String>>,
    folder: tempfile::TempDir,
}

impl Watching {
    async fn start(server: &Server, more: &str, token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), format!("{token}\n")).unwrap();
        std::fs::write(folder.path().join("namespace"), "monitoring").unwrap();
        if let Some(ca) = &server.ca {
            std::fs::write(folder.path().join("ca.crt"), ca).unwrap();
        }
        let settings = format!(
            "service = \"gateway\"\napi_server = {:?}\nservice_account = {:?}\n{more}",
            server.url,
            folder.path()
        );
        let settings: K8sSettings = toml::from_str(&settings).unwrap();
        assert_eq!(settings.check(), []);
        let k8s = settings.open_with(watershed_stage::delivery::Budget::new(1 << 30)).unwrap();
        let (sender, reports) = mpsc::channel(100);
        let report: Report = Arc::new(move |found| sender.try_send(found).unwrap());
        spawn(async move { k8s.run(&report).await });
        Self { reports, folder }
    }

    async fn next(&mut self) -> Result<Vec<String>, String> {
        let next = timeout(PATIENCE, self.reports.recv()).await;
        next.expect("a report").unwrap().map(|mut found| {
            found.sort();
            found
        })
    }
}

async fn until(condition: impl Fn() -> bool) {
    timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await; // sleep-ok: between two looks at the condition
        }
    })
    .await
    .expect("it never came true");
}

fn found(names: &[&str]) -> Result<Vec<String>, String> {
    Ok(names.iter().map(|name| (*name).to_owned()).collect())
}

#[tokio::test]
async fn the_ready_pods_of_all_slices_are_listed_and_followed() {
    let server = Server::start().await;
    server.put("gateway-a", &[("10.0.0.1", Some(true)), ("10.0.0.2", Some(false)), ("10.0.0.3", None)]);
    server.put("gateway-b", &[("fd00::1", Some(true))]);
    let mut watching = Watching::start(&server, "", TOKEN).await;
    assert_eq!(watching.next().await, found(&["10.0.0.1:4317", "10.0.0.3:4317", "[fd00::1]:4317"]));
    // One becomes ready, and another is on its way out.
    server.put("gateway-a", &[("10.0.0.1", Some(false)), ("10.0.0.2", Some(true)), ("10.0.0.3", None)]);
    assert_eq!(watching.next().await, found(&["10.0.0.2:4317", "10.0.0.3:4317", "[fd00::1]:4317"]));
    server.delete("gateway-b");
    assert_eq!(watching.next().await, found(&["10.0.0.2:4317", "10.0.0.3:4317"]));
    server.put("gateway-c", &[]);
    server.put("gateway-a", &[]);
    // The one that changes nothing is not reported.
    assert_eq!(watching.next().await, found(&[]));
    assert_eq!(server.asked(), (1, 1));
}

#[tokio::test]
async fn every_port_of_a_pod_is_a_backend_and_pods_may_go_by_name() {
    let server = Server::start().await;
    server.put("gateway-a", &[("10.0.0.1", Some(true))]);
    let mut watching = Watching::start(&server, "ports = [1, 2]\nreturn_hostnames = true", TOKEN).await;
    let name = "pod-10-0-0-1.gateway.monitoring";
    assert_eq!(watching.next().await, found(&[&format!("{name}:1"), &format!("{name}:2")]));
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let server = Server::start().await;
    server.put("gateway-a", &[("10.0.0.1", Some(true))]);
    let mut watching = Watching::start(&server, "", TOKEN).await;
    watching.next().await.unwrap();
    until(|| server.asked() == (1, 1)).await;
    // Time goes by elsewhere, and a bookmark says so.
    server.change(|store| (store.version, store.bookmarks) = (store.version + 1000, store.bookmarks + 1));
    server.change(|store| store.cuts += 1);
    until(|| server.asked() == (1, 2)).await;
    let last = server.store.lock().queries.last().cloned().unwrap();
    assert!(last.contains("&resourceVersion=1101&"), "{last}");
    server.put("gateway-a", &[("10.0.0.2", Some(true))]);
    assert_eq!(watching.next().await, found(&["10.0.0.2:4317"]));
}

#[tokio::test]
async fn a_version_that_is_forgotten_has_all_listed_again() {
    for gone_by_status in [true, false] {
        let server = Server::start().await;
        server.put("gateway-a", &[("10.0.0.1", Some(true))]);
        server.put("gateway-b", &[("10.0.0.2", Some(true))]);
        let mut watching = Watching::start(&server, "", TOKEN).await;
        watching.next().await.unwrap();
        until(|| server.asked() == (1, 1)).await;
        // While nobody watches, a slice goes, and the log with it.
        server.change(|store| {
            store.version += 50;
            store.slices.remove("gateway-a");
            (store.oldest, store.gone_by_status, store.cuts) =
                (store.version, gone_by_status, store.cuts + 1);
        });
        assert_eq!(watching.next().await, found(&["10.0.0.2:4317"]));
        until(|| server.asked() == (2, 3)).await;
    }
}

#[tokio::test]
async fn who_may_not_is_told_what_is_missing_and_goes_on_trying() {
    let server = Server::start().await;
    server.put("gateway-a", &[("10.0.0.1", Some(true))]);
    let mut watching = Watching::start(&server, "", "wrong").await;
    let error = watching.next().await.unwrap_err();
    assert!(error.contains("403") && error.contains("endpointslices is forbidden"), "{error}");
    assert!(error.contains("get, list and watch"), "{error}");
    // The token is renewed.
    std::fs::write(watching.folder.path().join("token"), TOKEN).unwrap();
    loop {
        if let Ok(found) = watching.next().await {
            assert_eq!(found, ["10.0.0.1:4317"]);
            break;
        }
    }
}

/// A large cluster's lists take seconds.
#[tokio::test]
async fn a_slow_api_server_is_waited_for_unless_told_otherwise() {
    let server = Server::start().await;
    server.put("gateway-a", &[("10.0.0.1", Some(true))]);
    server.change(|store| store.takes = Duration::from_millis(1_200));
    assert_eq!(Watching::start(&server, "", TOKEN).await.next().await, found(&["10.0.0.1:4317"]));
    let error = Watching::start(&server, "timeout = '100ms'", TOKEN).await.next().await.unwrap_err();
    assert!(error.contains("not answered within 100ms"), "{error}");
}

/// Whatever takes the API server from one agent takes it from all of them at once.
#[tokio::test]
async fn agents_that_fail_together_do_not_come_back_together() {
    let (mut servers, mut watching) = (Vec::new(), Vec::new());
    for _ in 0..16 {
        let server = Server::start().await;
        watching.push(Watching::start(&server, "", "wrong").await);
        servers.push(server);
    }
    until(|| servers.iter().all(|server| server.store.lock().times.len() > 1)).await;
    let pauses = servers.iter().map(|server| {
        let store = server.store.lock();
        store.times[1] - store.times[0]
    });
    let pauses: Vec<Duration> = pauses.collect();
    let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
    assert!(*least >= PAUSES.0 / 2 && *most - *least > PAUSES.0 / 5, "{pauses:?}");
}

/// As in a cluster: the authority and the token of the service account, and the token renewed while it is watched.
#[tokio::test]
async fn over_tls_the_service_accounts_authority_is_trusted_and_its_token_read_anew() {
    let server = Server::start_tls().await;
    server.put("gateway-a", &[("10.0.0.1", Some(true))]);
    let mut watching = Watching::start(&server, "", TOKEN).await;
    assert_eq!(watching.next().await, found(&["10.0.0.1:4317"]));
    server.put("gateway-a", &[("10.0.0.1", Some(true)), ("10.0.0.2", Some(true))]);
    assert_eq!(watching.next().await, found(&["10.0.0.1:4317", "10.0.0.2:4317"]));
    until(|| server.asked() == (1, 1)).await;
    // The next watch is let in by the next token alone.
    std::fs::write(watching.folder.path().join("token"), "renewed").unwrap();
    server.change(|store| (store.token, store.cuts) = ("renewed", store.cuts + 1));
    until(|| server.asked() == (1, 2)).await;
    server.put("gateway-a", &[("10.0.0.2", Some(true))]);
    assert_eq!(watching.next().await, found(&["10.0.0.2:4317"]));
    assert_eq!(server.asked(), (1, 2));
}

#[tokio::test]
async fn an_api_server_of_another_authority_is_not_believed() {
    let mut server = Server::start_tls().await;
    server.ca = Some(Authority::new("another").pem());
    let mut watching = Watching::start(&server, "", TOKEN).await;
    let error = watching.next().await.unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(server.asked(), (0, 0));
}

#[test]
fn what_makes_no_service_is_an_error() {
    let check = |toml: &str| -> Vec<String> {
        let settings: K8sSettings = toml::from_str(toml).unwrap();
        settings.check().into_iter().map(|error| error.key).collect()
    };
    assert_eq!(check("service = \"gateway.monitoring\""), [""; 0]);
    for service in ["", "a.b.c", "a/b", "a."] {
        assert_eq!(check(&format!("service = {service:?}")), ["service"], "{service}");
    }
    assert_eq!(
        check("service = \"a\"\nports = []\ntimeout = \"0s\"\napi_server = \"x\""),
        ["ports", "timeout", "api_server"]
    );
}
