//! Other plans in the place of one that runs, where something does not start, does not end, or ends meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod kinds;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use watershed_engine::config::{Plan, Sources, load};
use watershed_engine::{Ended, Engine, ReloadError, StartError};

use self::kinds::KEEPS;

/// A test that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A collector with a pipeline, and these sections beside it.
fn plan(sections: &str) -> Plan {
    let text = format!(
        "service.lanes = 2\n{sections}\n[receivers.none]\n[exporters.sink]\n\
         [pipelines.traces]\nreceivers = [\"none\"]\nexporters = [\"sink\"]\n"
    );
    let sources = Sources { inline: vec![("f.toml".into(), text)], ..Sources::default() };
    load(&sources, &kinds::registry()).unwrap_or_else(|diagnostics| panic!("{diagnostics}"))
}

/// Another pipeline with this processor.
fn with(processor: &str) -> String {
    format!(
        "[pipelines.\"traces/more\"]\nreceivers = [\"none\"]\nprocessors = [\"{processor}\"]\nexporters = [\"sink\"]\n"
    )
}

/// A port that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_listener_that_can_not_be_made_ready_leaves_no_socket() {
    let engine = Engine::start(plan("")).await.unwrap();
    let at = free();
    let listens = |ready: bool| {
        plan(&format!(
            "[receivers.socket]\nendpoint = \"{at}\"\nready = {ready}\n\
             [pipelines.logs]\nreceivers = [\"socket\"]\nexporters = [\"sink\"]\n"
        ))
    };
    let error = engine.reload(listens(false)).await.unwrap_err();
    assert!(matches!(error, ReloadError::Start(StartError::Stage { .. })), "{error}");
    assert!(TcpStream::connect(at).is_err(), "nobody would ever accept");
    engine.reload(listens(true)).await.unwrap();
    TcpStream::connect(at).unwrap();
    assert_eq!(engine.drain(PATIENCE).await, Ended::Drained);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_what_a_reload_starts() {
    let engine = Engine::start(plan("")).await.unwrap();
    let began = Instant::now();
    let drained = async {
        while engine.observe().iter().all(|actor| !actor.name.contains("never")) {
            sleep(Duration::from_millis(5)).await;
        }
        engine.drain(PATIENCE).await
    };
    let (reloaded, ended) = tokio::join!(engine.reload(plan(&with("never"))), drained);
    assert!(matches!(reloaded, Err(ReloadError::Draining)), "{reloaded:?}");
    assert_eq!(ended, Ended::Drained);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_a_journal_has_left_that_no_plan_names_is_told_at_the_end() {
    let _turn = KEEPS.alone().await;
    for (keeps, expected) in [
        (false, Ended::Drained),
        (
            true,
            Ended::Incomplete { unfinished: vec!["the journal of pipeline `traces/more`".into()], lost: 0 },
        ),
    ] {
        let engine = Engine::start(plan(&with("keeper"))).await.unwrap();
        KEEPS.set(keeps);
        engine.reload(plan("")).await.unwrap();
        // As long as a plan names it the next start goes on with it, and nothing is amiss.
        assert_eq!(engine.drain(Duration::from_secs(4)).await, expected);
        KEEPS.set(false);
    }
    let engine = Engine::start(plan(&with("keeper"))).await.unwrap();
    KEEPS.set(true);
    assert_eq!(engine.drain(PATIENCE).await, Ended::Drained);
    KEEPS.set(false);
}

#[tokio::test]
async fn what_has_ended_is_shown_no_more() {
    let _turn = KEEPS.alone().await;
    let engine = Engine::start(plan(&with("keeper"))).await.unwrap();
    let shown = || engine.metrics().render().contains("held{");
    assert!(engine.metrics().render().contains("held{journal=\"keeper/traces/more\"} 1\n"));
    engine.reload(plan("")).await.unwrap();
    let began = Instant::now();
    while shown() && began.elapsed() < PATIENCE {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(!shown(), "{}", engine.metrics().render());
    assert_eq!(engine.drain(PATIENCE).await, Ended::Drained);
}

#[tokio::test]
async fn what_a_plan_has_that_is_not_in_force_is_not_shown() {
    let _turn = KEEPS.alone().await;
    let engine = Engine::start(plan("")).await.unwrap();
    // The last starts first.
    let waits = plan(&with("never\", \"keeper"));
    let drained = async {
        while engine.observe().iter().all(|actor| !actor.name.contains("never")) {
            sleep(Duration::from_millis(5)).await;
        }
        let shown = engine.metrics().render();
        assert!(!shown.contains("held{") && !shown.contains("never@"), "{shown}");
        engine.drain(PATIENCE).await
    };
    let (reloaded, ended) = tokio::join!(engine.reload(waits), drained);
    assert!(matches!(reloaded, Err(ReloadError::Draining)), "{reloaded:?}");
    assert_eq!(ended, Ended::Drained);
}
