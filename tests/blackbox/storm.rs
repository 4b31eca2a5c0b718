//! A component that always panics: the back-off grows, the circuit opens, health says so, and what is critical
//! ends the engine while anything else fails alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use watershed::engine::{Ended, Engine, Event};
use watershed_testkit::{Loader, Sink, reserve, verdict, wait_until};

use crate::harness::kinds::{Rule, faults};
use crate::harness::process::Program;
use crate::harness::{PATIENCE, beside_others, drained, http, receiver, start};

/// The longest first delay, and how many restarts without progress are made before the circuit opens.
const BASE: Duration = Duration::from_millis(100);
const INTENSITY: usize = 5;

fn text(place: &str, name: &str, critical: &str, sink: SocketAddr, other: SocketAddr) -> String {
    let faults = format!("faults = {name:?}\n{critical}");
    let here =
        |wanted: &str, yes: &str, no: &str| if place == wanted { yes.to_owned() } else { no.to_owned() };
    let (receiver, exporter) = (here("receiver", "flaky", "otlp"), here("exporter", "flaky", "otlp"));
    format!(
        r#"
# One copy of each stage, so that one count of restarts is all there is.
service.lanes = 1
[receivers.{receiver}]
{}
protocols.grpc.endpoint = "127.0.0.1:0"
[receivers."otlp/other".protocols.grpc]
endpoint = "{}"
{}
[exporters.{exporter}]
{}
endpoint = "http://{sink}"
[exporters."otlp/other"]
endpoint = "http://{other}"
[pipelines.traces]
receivers = ["{receiver}"]
processors = {}
exporters = ["{exporter}"]
ack = "delivered"
[pipelines."traces/other"]
receivers = ["otlp/other"]
exporters = ["otlp/other"]
ack = "delivered"
"#,
        here("receiver", &faults, ""),
        reserve(),
        here("processor", &format!("[processors.flaky]\n{faults}"), ""),
        here("exporter", &faults, ""),
        here("processor", r#"["flaky"]"#, "[]"),
    )
}

async fn next(events: &mut Receiver<Event>) -> Event {
    match tokio::time::timeout(PATIENCE, events.recv()).await.expect("nothing happened") {
        Ok(event) => event,
        Err(error @ (RecvError::Closed | RecvError::Lagged(_))) => panic!("{error}"),
    }
}

/// Restarts until something else happens; their delays, and what that was.
async fn restarts(events: &mut Receiver<Event>) -> (Vec<Duration>, Event) {
    let mut delays = Vec::new();
    loop {
        match next(events).await {
            Event::Restarted { name, after, .. } => {
                assert!(name.contains("flaky"), "{name} was restarted");
                delays.push(after);
            }
            other => return (delays, other),
        }
    }
}

/// The first at once, then each below a ceiling that doubles.
fn grows(delays: &[Duration]) {
    assert_eq!(delays.len(), INTENSITY, "{delays:?}");
    assert_eq!(delays[0], Duration::ZERO, "{delays:?}");
    for (number, delay) in delays.iter().enumerate().skip(1) {
        let ceiling = BASE * 2_u32.pow(number as u32 - 1);
        assert!(*delay <= ceiling, "{number}: {delay:?} is over {ceiling:?}: {delays:?}");
    }
    assert!(delays.iter().sum::<Duration>() > Duration::ZERO, "{delays:?}");
}

async fn storm(place: &str, critical: Option<bool>) {
    let name = format!("storm, {place}, {critical:?}");
    let (sink, other) =
        (Sink::start("127.0.0.1:0").await.unwrap(), Sink::start("127.0.0.1:0").await.unwrap());
    let setting = critical.map(|critical| format!("critical = {critical}")).unwrap_or_default();
    // Receivers are critical unless told otherwise.
    let critical = critical.unwrap_or(place == "receiver");
    let engine = Arc::new(start(&text(place, &name, &setting, sink.addr(), other.addr())).await);

    faults(&name).set(Rule::Always);
    let mut events = engine.events();
    let began = Instant::now();
    let address = receiver(&engine, if place == "receiver" { "flaky" } else { "otlp" });
    let beside = Loader::new(receiver(&engine, "otlp/other")).spans_per_request(10).open(1, 4, 500.0).start();
    // Impatient, so that there is always something to break on.
    let load = Loader::new(address).spans_per_request(10).closed(2, 2).start();

    let (delays, event) = restarts(&mut events).await;
    let opened = began.elapsed();
    grows(&delays);
    let Event::CircuitOpened { name: actor, .. } = &event else { panic!("{name}: {event:?}") };
    assert!(actor.contains("flaky"), "{name}: {actor}");
    let state = engine.health();
    assert!(!state.ok && state.open.contains(actor) && state.failed.is_empty(), "{name}: {state:?}");

    let event = next(&mut events).await;
    assert!(matches!(event, Event::GroupRestarted { .. }), "{name}: {event:?}");
    let (again, event) = restarts(&mut events).await;
    let ended = began.elapsed();
    grows(&again);
    println!("{name}: {delays:?}, open after {opened:?}, then {again:?}, given up after {ended:?}");
    if critical {
        let Event::Escalated { name: actor, .. } = &event else { panic!("{name}: {event:?}") };
        let end =
            tokio::time::timeout(PATIENCE, engine.ended()).await.unwrap_or_else(|_| panic!("{name}: no end"));
        assert!(matches!(&end, Ended::Critical { name: blamed, .. } if blamed == actor), "{name}: {end:?}");
    } else {
        let Event::GroupFailed { group, .. } = &event else { panic!("{name}: {event:?}") };
        let state = engine.health();
        assert!(!state.ok && state.failed.contains(group), "{name}: {state:?}");
        runs_on(&engine, &other).await;
    }

    beside.stop();
    let beside = beside.finish().await;
    load.stop();
    let load = load.finish().await;
    assert_eq!(load.refused_for_good(), 0, "{name}: {load}");
    assert_eq!((load.acknowledged.len(), sink.snapshot().taken), (0, 0), "{name}: {load}");
    let theirs = verdict(&beside, &other.snapshot());
    assert!(theirs.is_exact(), "{name}: {theirs}; {beside}");
    if !critical {
        assert_eq!(
            (beside.refusals(), beside.transport_errors),
            (0, 0),
            "{name}: the other pipeline: {beside}"
        );
        drained(&engine).await;
    }
}

/// The pipeline that did not fail still delivers.
async fn runs_on(engine: &Engine, other: &Sink) {
    let load = Loader::new(receiver(engine, "otlp/other")).requests(5).run().await;
    assert_eq!((load.acknowledged.len(), load.refusals()), (500, 0), "{load}");
    assert!(verdict(&load, &other.snapshot()).is_exact());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_every_place_critical_or_not() {
    let _turn = beside_others().await;
    tokio::join!(
        storm("receiver", None),
        storm("receiver", Some(false)),
        storm("processor", None),
        storm("processor", Some(true)),
        storm("exporter", None),
        storm("exporter", Some(true)),
    );
}

/// The program whose processor always panics, under load; `critical` or not.
async fn program(critical: bool) -> (Program, Loader) {
    let listen = reserve();
    let text = format!(
        r#"
service.lanes = 1
[receivers.otlp.protocols.grpc]
endpoint = "{listen}"
[processors.flaky]
faults = "program"
critical = {critical}
[pipelines.traces]
receivers = ["otlp"]
processors = ["flaky"]
exporters = ["debug"]
"#
    );
    (Program::run_flaky(&text).await, Loader::new(listen).spans_per_request(10).closed(2, 2))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_turns_unhealthy_and_exits_with_a_code_of_its_own() {
    let _turn = beside_others().await;
    let (mut critical, load) = program(true).await;
    let load = load.start();
    let body = http::wait_for(critical.health, "/", 503).await;
    assert!(body.contains("flaky"), "{body}");
    assert_eq!(critical.exit().await, Some(4), "{}", critical.stderr());
    load.stop();
    assert_eq!(load.finish().await.acknowledged.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_stays_unhealthy_while_something_that_is_not_critical_has_failed() {
    let _turn = beside_others().await;
    let (mut program, load) = program(false).await;
    let load = load.start();
    let failed = wait_until(
        async || {
            let seen = http::get(program.health, "/").await;
            seen.is_some_and(|(status, body)| status == 503 && body.contains("pipelines/traces"))
        },
        PATIENCE,
    );
    assert!(failed.await, "{}", program.stderr());
    assert_eq!(http::wait_for(program.health, "/livez", 200).await, r#"{"status":"alive"}"#);
    load.stop();
    let load = load.finish().await;
    assert_eq!((load.acknowledged.len(), load.refused_for_good()), (0, 0), "{load}");
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
}
