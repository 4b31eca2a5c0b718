//! How the program says how it is: to probes over HTTP, and to the service manager that started it.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::net::UnixDatagram;
use tokio::task::JoinSet;
use tokio::time::Instant;
use watershed::stage::{Context, Env, Error, Failure, Interval, Outlet, Payload, Processor, Settings};
use watershed_testkit::call::Client;
use watershed_testkit::grpc::Signal;
use watershed_testkit::{Answer, Loader, Sink, requests, reserve, wait_until};

use crate::harness::process::Program;
use crate::harness::{PATIENCE, beside_others, http};

/// A processor that stops a thread of the engine with whatever comes: that of its lane, or the supervisor's. And it is
/// not built before a file is there.
pub struct Stops(Arc<StopsSettings>);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StopsSettings {
    supervisor: bool,
    stops_for: Interval,
    waits_for: Option<PathBuf>,
}

impl Default for StopsSettings {
    fn default() -> Self {
        Self { supervisor: false, stops_for: Interval::secs(0), waits_for: None }
    }
}

impl Settings for StopsSettings {}

impl Processor for Stops {
    type Settings = StopsSettings;

    fn build(settings: &Arc<StopsSettings>, _: &Env) -> Result<Self, Failure> {
        let begin = Instant::now();
        while settings.waits_for.as_ref().is_some_and(|path| !path.exists()) && begin.elapsed() < PATIENCE {
            stop(Duration::from_millis(5));
        }
        Ok(Self(settings.clone()))
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        let stops_for = self.0.stops_for.0;
        if self.0.supervisor {
            actix_web::rt::System::current().arbiter().spawn(async move { stop(stops_for) });
        } else {
            stop(stops_for);
        }
        outlet.send(payload);
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, reason = "that it stops its thread is the point")]
fn stop(time: Duration) {
    std::thread::sleep(time);
}

/// A service manager that listens.
struct Manager {
    /// What `NOTIFY_SOCKET` says.
    name: String,
    heard: Arc<Mutex<Vec<String>>>,
    _directory: TempDir,
    _task: JoinSet<()>,
}

impl Manager {
    fn start(is_abstract: bool) -> Manager {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify").to_str().unwrap().to_owned();
        let name = if is_abstract { format!("@{path}") } else { path.clone() };
        let address =
            if is_abstract { SocketAddr::from_abstract_name(path) } else { SocketAddr::from_pathname(path) };
        let socket = std::os::unix::net::UnixDatagram::bind_addr(&address.unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = UnixDatagram::from_std(socket).unwrap();
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let hears = heard.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut message = [0; 4096];
            while let Ok(size) = socket.recv(&mut message).await {
                hears.lock().push(String::from_utf8(message[..size].to_vec()).unwrap());
            }
        });
        Manager { name, heard, _directory: directory, _task: task }
    }

    /// Messages so far that start so.
    fn heard(&self, start: &str) -> usize {
        self.heard.lock().iter().filter(|message| message.starts_with(start)).count()
    }

    /// Waits until it has heard so many that start so.
    async fn hears(&self, start: &str, count: usize) {
        let heard = wait_until(async || self.heard(start) >= count, PATIENCE).await;
        assert!(heard, "{count} of {start}: {:?}", self.heard.lock());
    }
}

/// A collector whose logs end in `debug`, behind `processor`.
fn text(listen: std::net::SocketAddr, processor: &str) -> String {
    format!(
        r#"
service.lanes = 1
service.shutdown_timeout = "7s"
[receivers.otlp.protocols.grpc]
endpoint = "{listen}"
[processors.stops]
{processor}
[pipelines.logs]
receivers = ["otlp"]
processors = ["stops"]
exporters = ["debug"]
ack = "accepted"
"#
    )
}

const WATCHDOG: &str = "WATCHDOG=1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_is_told_of_start_life_and_end() {
    let _turn = beside_others().await;
    for is_abstract in [false, true] {
        let manager = Manager::start(is_abstract);
        let mut program = Program::start_flaky_by(&text(reserve(), ""), |command| {
            command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "200000")
        });
        manager.hears("READY=1", 1).await;
        assert_eq!(http::get(program.health, "/readyz").await.map(|(status, _)| status), Some(200));
        manager.hears(WATCHDOG, 5).await;
        program.signal("TERM");
        assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
        let heard = manager.heard.lock().clone();
        assert_eq!(heard[..2], ["STATUS=starting", "READY=1\nSTATUS=serving"]);
        // Seven seconds and the five that the program has beyond them.
        let stopping = "STOPPING=1\nEXTEND_TIMEOUT_USEC=12000000\nSTATUS=draining, 12s at most";
        assert_eq!(heard.iter().filter(|message| *message == stopping).count(), 1, "{heard:?}");
    }
}

/// A process that has the environment of one that is watched, and nobody who listens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signs_of_life_are_given_by_the_watched_process_alone_and_nobody_has_to_listen() {
    let _turn = beside_others().await;
    let manager = Manager::start(false);
    let mut other = Program::start_flaky_by(&text(reserve(), ""), |command| {
        command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1")
    });
    let mut deaf = Program::start_flaky_by(&text(reserve(), ""), |command| {
        command.env("NOTIFY_SOCKET", "/nowhere/notify").env("WATCHDOG_USEC", "100000")
    });
    other.ready().await;
    deaf.ready().await;
    let told = wait_until(async || deaf.stderr().matches("could not be told").count() > 5, PATIENCE).await;
    assert!(told, "{}", deaf.stderr());
    for mut program in [deaf, other] {
        program.signal("TERM");
        assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
    }
    manager.hears("STOPPING=1", 1).await;
    assert_eq!(manager.heard(WATCHDOG), 0);
}

/// The program under a manager, with a thread that stops for longer than the engine's own watchdog allows.
async fn hangs(supervisor: bool) {
    let manager = Manager::start(false);
    let listen = reserve();
    let processor = format!("stops_for = \"16s\"\nsupervisor = {supervisor}");
    let mut program = Program::start_flaky_by(&text(listen, &processor), |command| {
        command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "500000")
    });
    program.ready().await;
    manager.hears(WATCHDOG, 3).await;
    assert_eq!(http::get(program.health, "/livez").await.map(|(status, _)| status), Some(200));
    let mut client = Client::connect(listen).await.unwrap();
    let mut calls = JoinSet::new();
    calls.spawn(async move { client.export(Signal::Logs, &requests::logs(1)).await.is_ok() });

    let name = if supervisor { "supervisor" } else { "lane 0" };
    let status = format!("STATUS=no longer turning: {name}");
    manager.hears(&status, 1).await;
    let body = http::wait_for(program.health, "/livez", 503).await;
    assert!(body.contains(name), "{body}");
    let told = http::wait_for(program.health, "/livez?verbose", 503).await;
    assert!(told.contains(&format!("[-]{name} failed: no longer turns\n")), "{told}");
    // What was not stopped is ready for a restart, and what was goes on as if nothing had been.
    manager.hears("STATUS=serving", 1).await;
    let heard = manager.heard.lock().clone();
    let (from, to) = (
        heard.iter().position(|said| *said == status),
        heard.iter().position(|said| said == "STATUS=serving"),
    );
    let silent = &heard[from.unwrap()..to.unwrap()];
    assert_eq!(silent, [status], "signs of life of what hangs");
    let before = manager.heard(WATCHDOG);
    manager.hears(WATCHDOG, before + 3).await;
    http::wait_for(program.health, "/livez", 200).await;
    assert!(calls.join_next().await.unwrap().unwrap(), "the call outlived it");
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_hangs_gives_no_signs_of_life() {
    let _turn = beside_others().await;
    tokio::join!(hangs(false), hangs(true));
}

/// Status and body of `/startupz`, `/livez` and `/readyz`.
async fn probes(program: &Program) -> ([u16; 3], [String; 3]) {
    let mut seen = ([0; 3], [(); 3].map(|()| String::new()));
    for (at, path) in ["/startupz", "/livez", "/readyz"].into_iter().enumerate() {
        let (status, body) = http::get(program.health, &format!("{path}?verbose")).await.unwrap();
        let plain = http::get(program.health, path).await.unwrap();
        assert!(plain.0 == status && plain.1.starts_with('{'), "{path}: {plain:?}, verbose {status} {body}");
        (seen.0[at], seen.1[at]) = (status, body);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoints_follow_a_process_through_its_life() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    sink.answer(Answer::Hang);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("go");
    let listen = reserve();
    let more = format!(
        r#"
[processors.flaky]
faults = "program"
[exporters.otlp]
endpoint = "http://{}"
[pipelines.traces]
receivers = ["otlp"]
processors = ["flaky"]
exporters = ["debug"]
[pipelines.metrics]
receivers = ["otlp"]
exporters = ["otlp"]
ack = "accepted"
"#,
        sink.addr()
    );
    let text = text(listen, &format!("waits_for = {file:?}")) + &more;
    let mut program = Program::start_flaky(&text);

    // Starting: alive, and nothing more.
    let told = http::wait_for(program.health, "/startupz?verbose", 503).await;
    assert_eq!(
        told,
        "[+]ping ok\n[-]started failed: not every receiver listens yet\nstartupz check failed\n"
    );
    assert_eq!(probes(&program).await.0, [503, 200, 503]);
    std::fs::write(&file, "").unwrap();
    program.ready().await;
    let (statuses, [_, live, ready]) = probes(&program).await;
    assert_eq!(statuses, [200; 3], "{ready}");
    assert_eq!(live, "[+]ping ok\n[+]lanes ok\nlivez check passed\n");
    for line in ["[+]serving ok\n", "/receivers/otlp@0 ok\n", "/traces/flaky@0 ok\n", "[+]memory ok: "] {
        assert!(ready.contains(line), "{line}: {ready}");
    }

    // A pipeline that fails: not ready, and it says what and why.
    let load = Loader::new(listen).spans_per_request(10).closed(1, 1).start();
    let body = http::wait_for(program.health, "/readyz", 503).await;
    load.stop();
    let _ = load.finish().await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let broken = body["components"].as_object().unwrap();
    let why = broken.iter().find(|(name, _)| name.contains("flaky")).map(|(_, why)| why.as_str().unwrap());
    assert!(why.unwrap().contains("injected fault"), "{body}");
    let (statuses, [.., ready]) = probes(&program).await;
    assert_eq!(statuses, [200, 200, 503], "{ready}");
    let lines: Vec<_> = ready.lines().filter(|line| line.starts_with("[-]")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("injected fault")), "{ready}");

    // A drain that holds something: not ready, but alive, and it has started.
    let mut client = Client::connect(listen).await.unwrap();
    client.export(Signal::Metrics, &requests::metrics(1)).await.unwrap();
    program.signal("TERM");
    let draining = wait_until(
        async || {
            let told = http::get(program.health, "/readyz?verbose").await;
            told.is_some_and(|(status, told)| status == 503 && told.contains("[-]serving failed: draining\n"))
        },
        PATIENCE,
    );
    assert!(draining.await, "{}", program.stderr());
    assert_eq!(probes(&program).await.0, [200, 200, 503]);
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(130), "{}", program.stderr());
}
