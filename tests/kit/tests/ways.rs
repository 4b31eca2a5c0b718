//! Every signal by every way the loader knows, straight into the sink: the account must be exact for each.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::time::Duration;

use watershed_testkit::call::Client;
use watershed_testkit::certs::Authority;
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::Template;
use watershed_testkit::web::{JSON, WebClient, path};
use watershed_testkit::{Answer, Coding, Loader, Sink, Verdict, verdict};

const SOON: Duration = Duration::from_secs(10);
const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

async fn sink() -> Sink {
    Sink::start("127.0.0.1:0").await.unwrap()
}

/// Sends 40 requests of 25 items of each signal by each protocol with each compression, and checks both accounts.
async fn exact_by_every_way(sink: &Sink, new: impl Fn() -> Loader) {
    for signal in SIGNALS {
        for protocol in ["gRPC", "HTTP", "JSON"] {
            for coding in [None, Some(Coding::Gzip), Some(Coding::Zstd)] {
                let case = format!("{signal:?} {protocol} {coding:?}");
                let loader = new().signal(signal).compression(coding);
                let (loader, prefix) = match protocol {
                    "gRPC" => (loader, ""),
                    "HTTP" => (loader.http(), ""),
                    _ => (loader.json(), "json+"),
                };
                let load = loader.closed(2, 2).spans_per_request(25).requests(40).run().await;
                let verdict = sink.settle(&load, SOON).await;
                let expected = Verdict { acknowledged: 1_000, arrived: 1_000, twice: 0, lost: 0 };
                assert_eq!(verdict, expected, "{case}: {load}");
                let counts = sink.snapshot();
                let (spans, points, logs) = match signal {
                    Signal::Traces => (1_000, 0, 0),
                    Signal::Metrics => (0, 1_000, 0),
                    Signal::Logs => (0, 0, 1_000),
                };
                assert_eq!((counts.spans, counts.points, counts.logs), (spans, points, logs), "{case}");
                let encoding = format!("{prefix}{}", coding.map_or("identity", Coding::name));
                assert_eq!(counts.encodings, [(encoding, 40)].into(), "{case}");
                sink.reset();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_signal_is_exact_by_every_protocol_and_compression() {
    let sink = sink().await;
    exact_by_every_way(&sink, || Loader::new(sink.addr())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_signal_is_exact_over_tls_with_and_without_a_client_certificate() {
    let authority = Authority::new("the kit's");
    let (server, client) = (authority.issue("localhost"), authority.issue("a client"));
    for mutual in [false, true] {
        let sink = Sink::start_tls("127.0.0.1:0", authority.server(&server, mutual)).await.unwrap();
        let config = authority.client(mutual.then_some(&client));
        exact_by_every_way(&sink, || Loader::new(sink.addr()).tls(config.clone(), "localhost")).await;
    }
}

#[tokio::test]
async fn who_cannot_prove_itself_delivers_nothing() {
    let (authority, other) = (Authority::new("the kit's"), Authority::new("another"));
    let server = authority.issue("127.0.0.1");
    let sink = Sink::start_tls("127.0.0.1:0", authority.server(&server, true)).await.unwrap();
    let stranger = other.issue("a client");
    for (config, name) in [
        (authority.client(None), "127.0.0.1"),
        (authority.client(Some(&stranger)), "127.0.0.1"),
        (other.client(Some(&stranger)), "127.0.0.1"),
        (authority.client(Some(&server)), "localhost"),
    ] {
        for http in [false, true] {
            let loader =
                Loader::new(sink.addr()).tls(config.clone(), name).duration(Duration::from_millis(50));
            let load = if http { loader.http() } else { loader }.run().await;
            assert_eq!(load.acknowledged.len(), 0, "{name} {http}");
            assert!(load.connect_errors + load.transport_errors > 0, "{name} {http}: {load}");
        }
    }
    // Nor does who speaks in plain text.
    assert!(
        Loader::new(sink.addr())
            .requests(1)
            .duration(Duration::from_millis(50))
            .run()
            .await
            .acknowledged
            .is_empty()
    );
    assert_eq!((sink.arrived(), sink.snapshot().requests), (0, 0));
}

#[tokio::test]
async fn a_sink_keeps_its_certificate_over_a_restart() {
    let authority = Authority::new("the kit's");
    let server = authority.server(&authority.issue("127.0.0.1"), false);
    let sink = Sink::start_tls("127.0.0.1:0", server).await.unwrap();
    sink.restart().await.unwrap();
    let load = Loader::new(sink.addr()).tls(authority.client(None), "127.0.0.1").requests(1).run().await;
    assert!(verdict(&load, &sink.snapshot()).is_exact(), "{load}");
}

#[tokio::test]
async fn an_answer_before_the_close_is_received_over_tls() {
    let authority = Authority::new("the kit's");
    let server = authority.server(&authority.issue("127.0.0.1"), false);
    let sink = Sink::start_tls("127.0.0.1:0", server).await.unwrap();
    sink.answer(Answer::AckThenClose);
    for http in [false, true] {
        let loader =
            Loader::new(sink.addr()).tls(authority.client(None), "127.0.0.1").requests(5).retry(true);
        let load = if http { loader.http() } else { loader }.run().await;
        assert!(verdict(&load, &sink.snapshot()).is_exact(), "{http}: {load}");
    }
}

#[tokio::test]
async fn what_is_sent_again_is_a_copy_of_any_signal() {
    for signal in SIGNALS {
        for json in [false, true] {
            let sink = sink().await;
            sink.answer_next([Answer::TakeThenHang]);
            let timeout = Duration::from_millis(50);
            let loader = Loader::new(sink.addr()).signal(signal).requests(3).retry(true).timeout(timeout);
            let load = if json { loader.json() } else { loader }.run().await;
            let verdict = verdict(&load, &sink.snapshot());
            assert_eq!(
                verdict,
                Verdict { acknowledged: 300, arrived: 300, twice: 100, lost: 0 },
                "{signal:?} {json}"
            );
            assert_eq!(sink.arrived(), 300);
        }
    }
}

#[tokio::test]
async fn a_rejection_in_json_is_no_acknowledgement() {
    for signal in SIGNALS {
        let sink = sink().await;
        sink.answer_next([Answer::Partial(3, "too old".into()), Answer::Partial(0, "only a warning".into())]);
        let load = Loader::new(sink.addr()).signal(signal).json().requests(2).run().await;
        assert_eq!((load.partial, load.partial_rejected, load.acknowledged.len()), (1, 3, 100));
    }
}

/// As a balancer does that probes it.
#[tokio::test]
async fn who_asks_whether_anybody_is_here_is_answered_over_a_connection_that_stays() {
    let sink = sink().await;
    let mut web = WebClient::connect(sink.addr()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(web.send("GET", "/", &[], &[]).await.unwrap().status, 404);
    }
    assert_eq!((sink.snapshot().accepted, sink.snapshot().requests), (1, 0));
}

#[tokio::test]
async fn what_is_missing_is_named_for_any_signal() {
    for signal in SIGNALS {
        let sink = sink().await;
        let template = Template::of(signal, 42, 10);
        let mut client = Client::connect(sink.addr()).await.unwrap();
        client.export(signal, &template.message(0)).await.unwrap();
        let mut web = WebClient::connect(sink.addr()).await.unwrap();
        let json = Template::json(signal, 42, 10).message(30);
        web.send("POST", path(signal), &[("content-type", JSON)], &json).await.unwrap();
        assert_eq!(sink.snapshot().runs[&42].seen, vec![(0, 10), (30, 40)].into(), "{signal:?}");
    }
}
