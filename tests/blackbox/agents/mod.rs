//! An agent dies with a request of each application in hand: what they lose, by each way in which one setting gives an
//! application two agents. docs/high-availability.md documents these ways and no others.

mod names;
mod rust;
mod service;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Deserialize;
use watershed_testkit::{Answer as Answers, SeqSet, Sink, free_port, wait_until};

use self::names::{NAME, Names};
use self::service::Service;
use crate::harness::peer::Peer;
use crate::harness::process::Program;
use crate::harness::{PATIENCE, beside_others};

const GRPC: &str = "grpc";
const HTTP: &str = "http/protobuf";

/// Spans of each application, and how many a second: enough for a batch of 512 before, one at, and some after the death.
const SPANS: u64 = 4_000;
const RATE: u64 = 200;

/// What an SDK sends at most in one request, and what it holds at most beside that, by default.
const BATCH: u64 = 512;
const QUEUE: u64 = 2_048;

/// What an application says in the end. What is neither acknowledged nor failed was dropped because the queue was full.
#[derive(Debug, Deserialize)]
struct Answer {
    sdk: String,
    made: u64,
    acknowledged: SeqSet,
    failed: u64,
}

/// Two agents, each with a destination of its own, so that it is known who brought what.
struct Agents {
    programs: [Program; 2],
    sinks: [Sink; 2],
    /// gRPC and HTTP of each. They have their ports in common.
    addresses: [[SocketAddr; 2]; 2],
}

/// An application and its only setting.
struct Application {
    /// Its SDK, as the peers are called, and its protocol.
    name: (&'static str, &'static str),
    run: u64,
    process: Process,
}

#[allow(clippy::large_enum_variant, reason = "there are five of them")]
enum Process {
    Foreign(Box<Peer>),
    Rust(rust::Application),
}

/// All SDKs by all protocols that they have here. The one for Rust has no HTTP client of its own in this build.
const ALL: [(&str, &str); 5] =
    [("python", GRPC), ("python", HTTP), ("go", GRPC), ("go", HTTP), ("rust", GRPC)];

/// Three addresses of the loopback network that nobody else takes for its own.
fn network() -> [Ipv4Addr; 3] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let first = 3 * NEXT.fetch_add(1, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    [0, 1, 2].map(|number| Ipv4Addr::new(127, high.max(1), low, first + number))
}

// === impl Agents ===

impl Agents {
    async fn start(at: [Ipv4Addr; 2]) -> Agents {
        let ports = [free_port(), free_port()];
        let addresses = at.map(|ip| ports.map(|port| SocketAddr::from((ip, port))));
        let sinks = [Sink::start("127.0.0.1:0").await.unwrap(), Sink::start("127.0.0.1:0").await.unwrap()];
        let [first, second] = [0, 1].map(|number| {
            let [grpc, http]: [SocketAddr; 2] = addresses[number];
            format!(
                r#"
[receivers.otlp.protocols]
grpc.endpoint = "{grpc}"
http.endpoint = "{http}"
[exporters.otlp]
endpoint = "http://{}"
[pipelines.traces]
receivers = ["otlp"]
exporters = ["otlp"]
ack = "delivered"
"#,
                sinks[number].addr()
            )
        });
        let programs = [Program::run(&first).await, Program::run(&second).await];
        Agents { programs, sinks, addresses }
    }

    /// What has arrived of a run, by each.
    fn arrived(&self, run: u64) -> [SeqSet; 2] {
        let seen = |sink: &Sink| sink.snapshot().runs.get(&run).map(|arrivals| arrivals.seen.clone());
        self.sinks.each_ref().map(|sink| seen(sink).unwrap_or_default())
    }

    /// Returns once the first one has a request of each of these runs in hand, none of which it has passed on.
    async fn hold(&self, runs: &BTreeSet<u64>) {
        let held = Arc::<Mutex<BTreeSet<u64>>>::default();
        let holds = held.clone();
        self.sinks[0].answer_by(move |arrival| {
            holds.lock().extend(arrival.numbered.iter().map(|(run, _)| *run));
            Answers::Hang
        });
        let all = wait_until(async || held.lock().is_superset(runs), PATIENCE).await;
        assert!(all, "not every application sends to the first agent: {:?} of {runs:?}", held.lock());
    }

    /// Kills the first one.
    async fn die(&mut self) {
        self.programs[0].signal("KILL");
        assert_eq!(self.programs[0].exit().await, None);
    }
}

// === impl Application ===

impl Application {
    fn start(name: (&'static str, &'static str), endpoint: &str, resolv: Option<&Path>) -> Application {
        static RUNS: AtomicU64 = AtomicU64::new(1);
        let (sdk, protocol) = name;
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let mut environment = vec![
            ("WATERSHED_RUN", run.to_string()),
            ("WATERSHED_SPANS", SPANS.to_string()),
            ("WATERSHED_RATE", RATE.to_string()),
            // Whoever goes through a proxy does not go to an agent.
            ("NO_PROXY", "*".to_owned()),
            ("no_proxy", "*".to_owned()),
        ];
        let process = if sdk == "rust" {
            environment.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()));
            Process::Rust(rust::Application::spawn(&environment, resolv))
        } else {
            environment.push(("WATERSHED_ENDPOINT", endpoint.to_owned()));
            environment.push(("WATERSHED_PROTOCOL", protocol.to_owned()));
            if !endpoint.starts_with("http") {
                environment.push(("WATERSHED_INSECURE", "true".to_owned()));
                environment.push(("WATERSHED_AUTHORITY", "agent".to_owned()));
            }
            let conf = resolv.map(|conf| ("WATERSHED_RESOLV", conf.to_str().unwrap().to_owned()));
            environment.extend(conf);
            Process::Foreign(Box::new(Peer::spawn(sdk, &["steady".to_owned()], &environment)))
        };
        Application { name, run, process }
    }

    /// The same once something of it has arrived; `None` where it is not installed and need not be.
    async fn sends(self, agents: &Agents) -> Option<Application> {
        let mut sends = async || agents.arrived(self.run).iter().any(|seen| !seen.is_empty());
        let process = match self.process {
            Process::Foreign(peer) => Process::Foreign(Box::new(peer.ready(&mut sends).await?)),
            Process::Rust(application) => {
                assert!(wait_until(&mut sends, PATIENCE).await, "nothing of rust arrives");
                Process::Rust(application)
            }
        };
        Some(Application { process, ..self })
    }

    async fn answer(self) -> Answer {
        match self.process {
            Process::Rust(application) => application.answer().await,
            Process::Foreign(peer) => {
                let output = peer.output().await.unwrap();
                serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"))
            }
        }
    }
}

/// Whether an SDK sends again what was in hand when the connection broke. Go's over HTTP takes that for final, and the one
/// for Rust is told "unknown" by its gRPC library and takes that for final, too.
fn sends_again(name: (&str, &str)) -> bool {
    !matches!(name, ("go", HTTP) | ("rust", GRPC))
}

/// Lets the first agent die under these applications, and counts. `service` is what stands before the agents.
async fn one_dies(way: &str, mut agents: Agents, applications: Vec<Application>, service: Option<&Service>) {
    let mut running = Vec::new();
    for application in applications {
        running.extend(application.sends(&agents).await);
    }
    agents.hold(&running.iter().map(|application| application.run).collect()).await;
    if let Some(service) = service {
        service.lose().await;
    }
    agents.die().await;
    if let Some(service) = service {
        service.find().await;
    }
    for application in running {
        let (called, run) = (application.name, application.run);
        let (name, protocol) = called;
        let Answer { sdk, made, acknowledged, failed } = application.answer().await;
        let [first, second] = agents.arrived(run);
        let not_in = |set: &SeqSet| set.difference(&first).difference(&second).len();
        let all = SeqSet::from(vec![(0, made)]);
        let (lost, dropped) = (not_in(&all), made - acknowledged.len() - failed);
        let twice = first.len() + second.len() - (made - lost);
        let line = format!(
            "{way} | {name} {sdk} | {protocol} | made {made}, acknowledged {}, given up {failed}, dropped {dropped}; \
             lost {lost}, twice {twice}",
            acknowledged.len()
        );
        println!("{line}");
        assert!(!second.is_empty(), "nothing went to the other agent: {line}");
        assert_eq!(not_in(&acknowledged), 0, "acknowledged and lost: {line}");
        // What was in hand; and where connections are refused for a while, what had come to wait behind it.
        let bound = match (sends_again(called), service) {
            (true, _) => 0,
            (false, None) => BATCH,
            (false, Some(_)) => BATCH + QUEUE,
        };
        assert!(lost <= failed + dropped && lost <= bound, "{line}");
    }
}

/// C-core's `ipv4:` is a list of addresses; of these SDKs only the one for Python stands on it. By itself it calls the other
/// end by the whole list, which is no authority that HTTP/2 could carry: it has to be given a name for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_dies_under_applications_that_have_a_list_of_addresses() {
    let _turn = beside_others().await;
    let [_, at @ ..] = network();
    let agents = Agents::start(at).await;
    let [[first, _], [second, _]] = agents.addresses;
    let endpoint = format!("ipv4:{first},{second}");
    let settings =
        [("ENDPOINT", &*endpoint), ("INSECURE", "true"), ("RUN", "99"), ("SPANS", "10"), ("RATE", "100")]
            .map(|(name, value)| (format!("WATERSHED_{name}"), value.to_owned()));
    let settings = settings.each_ref().map(|(name, value)| (&**name, value.clone()));
    let Some(output) = Peer::spawn("python", &["steady".to_owned()], &settings).output().await else {
        return;
    };
    let nameless: Answer = serde_json::from_str(&output).unwrap();
    assert_eq!((nameless.made, nameless.failed), (10, 10), "{output}");
    let python = Application::start(("python", GRPC), &endpoint, None);
    one_dies("list", agents, vec![python], None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_dies_under_applications_that_have_a_name_with_two_addresses() {
    let _turn = beside_others().await;
    let [names, at @ ..] = network();
    let Some(names) = Names::start(names, at.to_vec()).await else { return };
    let agents = Agents::start(at).await;
    let [[grpc, http], _] = agents.addresses.map(|of| of.map(|address| address.port()));
    let port = |protocol| if protocol == GRPC { grpc } else { http };
    let applications = ALL.map(|name| {
        Application::start(name, &format!("http://{NAME}:{}", port(name.1)), Some(&names.conf()))
    });
    one_dies("name", agents, applications.into(), None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_dies_under_applications_that_have_a_service_with_fallback() {
    let _turn = beside_others().await;
    let [_, at @ ..] = network();
    let agents = Agents::start(at).await;
    let probes = agents.programs.each_ref().map(|program| program.health);
    let service = Service::start(agents.addresses, probes).await;
    let [grpc, http] = service.addresses;
    let to = |protocol| if protocol == GRPC { grpc } else { http };
    let applications = ALL.map(|name| Application::start(name, &format!("http://{}", to(name.1)), None));
    one_dies("service", agents, applications.into(), Some(&service)).await;
}
