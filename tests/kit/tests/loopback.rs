//! The loader against the sink, with nothing between them: the kit's own account must be exact before it
//! judges anything else.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use watershed_testkit::call::{Client, Head, Reply};
use watershed_testkit::grpc::{Code, Signal, Status};
use watershed_testkit::requests::{self, TraceTemplate};
use watershed_testkit::{Answer, Loader, Sink, Verdict, reserve, verdict};

const SOON: Duration = Duration::from_secs(10);

async fn sink() -> Sink {
    Sink::start("127.0.0.1:0").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_loop_is_exact() {
    let sink = sink().await;
    let load = Loader::new(sink.addr()).closed(4, 4).requests(500).run().await;
    assert!(sink.wait_for(50_000, SOON).await);
    let counts = sink.snapshot();
    assert_eq!(verdict(&load, &counts), Verdict { acknowledged: 50_000, arrived: 50_000, twice: 0, lost: 0 });
    assert_eq!((counts.accepted, counts.taken, counts.batches.max()), (4, 500, 100));
    assert_eq!((load.latency.count(), load.sent_spans, load.unresolved), (500, 50_000, 0));
}

#[tokio::test]
async fn open_loop_keeps_its_schedule() {
    let sink = sink().await;
    let load = Loader::new(sink.addr()).spans_per_request(10).open(3, 50, 2_000.0).requests(100).run().await;
    assert!(verdict(&load, &sink.snapshot()).is_exact());
    // 100 requests, 200 a second: the last one is due after 495 ms, however fast the answers come.
    assert!(load.elapsed >= Duration::from_millis(495), "{:?}", load.elapsed);
}

#[tokio::test]
async fn what_is_withheld_is_said_once_the_sink_answers_otherwise() {
    let sink = sink().await;
    sink.answer(Answer::Withheld);
    let load = Loader::new(sink.addr()).closed(2, 2).requests(4).start();
    assert!(sink.wait_until(|counts| counts.requests == 4, SOON).await);
    assert_eq!((load.acknowledged(), sink.arrived()), (0, 0));
    sink.answer(Answer::Ok);
    assert_eq!(load.finish().await.acknowledged.len(), 400);
    assert_eq!(sink.arrived(), 400);
}

#[tokio::test]
async fn kept_connections_serve_all_runs() {
    let sink = sink().await;
    let loader = Loader::new(sink.addr()).closed(3, 2).requests(10).keep_connections();
    for (run, connections) in [(1, 3), (2, 0), (3, 0)] {
        sink.reset();
        let load = loader.clone().run_id(run).run().await;
        let counts = sink.snapshot();
        assert_eq!((counts.accepted, verdict(&load, &counts).arrived), (connections, 1_000));
    }
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let sink = sink().await;
    sink.answer_next([
        Answer::Unavailable { retry_delay: Some(Duration::from_millis(20)) },
        Answer::Unavailable { retry_delay: None },
        Answer::Status(Code::RESOURCE_EXHAUSTED, "never".into()),
        Answer::Status(Code::INVALID_ARGUMENT, "schlecht: ä".into()),
    ]);
    let load = Loader::new(sink.addr()).requests(5).run().await;
    assert_eq!((load.refusals(), load.refused_for_good(), load.with_retry_info), (4, 2, 1));
    assert_eq!(load.refused_with(Code::UNAVAILABLE), 2);
    assert!(load.refused.iter().any(|kind| kind.message == "schlecht: ä"));
    // Closed loop with one in flight: the fifth request is the only one taken.
    assert_eq!(load.acknowledged, vec![(400, 500)].into());
    assert!(verdict(&load, &sink.snapshot()).is_exact());
    assert_eq!(sink.snapshot().refused, 4);
}

#[tokio::test]
async fn retries_send_the_same_spans() {
    let sink = sink().await;
    let mut turn = 0;
    sink.answer_by(move |_| {
        turn += 1;
        match turn % 3 {
            0 => Answer::Ok,
            1 => Answer::Unavailable { retry_delay: Some(Duration::from_millis(1)) },
            _ => Answer::Close,
        }
    });
    let load = Loader::new(sink.addr()).requests(5).retry(true).run().await;
    assert!(verdict(&load, &sink.snapshot()).is_exact());
    assert_eq!((load.requests, load.sent_requests), (5, 15));
    assert_eq!((load.refusals(), load.transport_errors), (5, 5));
}

#[tokio::test]
async fn copies_are_counted() {
    for http in [false, true] {
        let sink = sink().await;
        let denied = Answer::TakeThenStatus(Code::UNAVAILABLE, "not really".into());
        sink.answer_next([Answer::TakeThenHang, denied]);
        let loader = Loader::new(sink.addr()).requests(3).retry(true).timeout(Duration::from_millis(50));
        let load = if http { loader.http() } else { loader }.run().await;
        let counts = sink.snapshot();
        let verdict = verdict(&load, &counts);
        assert_eq!(verdict, Verdict { acknowledged: 300, arrived: 300, twice: 200, lost: 0 });
        assert!(verdict.nothing_lost() && !verdict.is_exact());
        assert_eq!((load.timeouts, load.refusals(), sink.arrived(), counts.denied), (1, 1, 300, 200));
    }
}

#[tokio::test]
async fn losses_are_counted() {
    let (kept, forgot) = (sink().await, sink().await);
    let run = 42;
    let load = Loader::new(forgot.addr()).run_id(run).requests(7).run().await;
    Loader::new(kept.addr()).run_id(run).requests(2).first_sequence(100).run().await;
    Loader::new(kept.addr()).requests(9).run().await;
    let verdict = verdict(&load, &kept.snapshot());
    assert_eq!(verdict, Verdict { acknowledged: 700, arrived: 200, twice: 0, lost: 500 });
    assert_eq!(verdict.to_string(), "| 700 | 200 | 0 | 500 |");
}

#[tokio::test]
async fn a_sink_that_went_away_loses_nothing() {
    let sink = sink().await;
    let running = Loader::new(sink.addr()).closed(2, 4).retry(true).duration(Duration::from_secs(60)).start();
    assert!(sink.wait_for(5_000, SOON).await);
    sink.stop().await;
    let before = sink.arrived();
    assert!(Client::connect(sink.addr()).await.is_err());
    sink.restart().await.unwrap();
    assert!(sink.wait_for(before + 5_000, SOON).await);
    running.stop();
    let load = running.finish().await;
    assert!(sink.settle(&load, SOON).await.nothing_lost(), "{load}");
    assert_eq!(load.unresolved, 0);
    assert!(sink.snapshot().accepted > 2);
}

#[tokio::test]
async fn an_answer_before_the_close_is_received() {
    let sink = sink().await;
    sink.answer(Answer::AckThenClose);
    let load = Loader::new(sink.addr()).requests(20).retry(true).run().await;
    assert!(verdict(&load, &sink.snapshot()).is_exact(), "{load}");
    // Every connection ends with its first answer. A request that meets the end of one is sent again.
    assert_eq!((load.acknowledged.len(), load.latency.count()), (2_000, 20));
    assert!(sink.snapshot().accepted >= 20);
}

#[tokio::test]
async fn a_caller_that_left_has_not_delivered() {
    let sink = sink().await;
    sink.answer(Answer::Slow(Duration::from_secs(60)));
    let timeout = Duration::from_millis(20);
    let load = Loader::new(sink.addr()).requests(1).timeout(timeout).run().await;
    assert_eq!((load.timeouts, load.acknowledged.len()), (1, 0));
    assert!(sink.wait_until(|counts| counts.abandoned == 1, SOON).await);
    assert_eq!(sink.arrived(), 0);
}

#[tokio::test]
async fn a_load_that_hangs_ends_with_its_grace() {
    let sink = sink().await;
    sink.answer(Answer::Hang);
    let running = Loader::new(sink.addr()).closed(1, 3).grace(Duration::from_millis(10)).start();
    assert!(sink.wait_until(|counts| counts.requests == 3, SOON).await);
    running.stop();
    let load = running.finish().await;
    assert_eq!((load.unresolved, load.acknowledged.len()), (3, 0));
}

#[tokio::test]
async fn nobody_listens() {
    let target: SocketAddr = reserve();
    let load = Loader::new(target).duration(Duration::from_millis(50)).run().await;
    assert_eq!((load.requests, load.sent_requests), (0, 0));
    assert!(load.connect_errors > 0);
}

#[tokio::test]
async fn a_rate_limit_holds() {
    let sink = sink().await;
    sink.answer(Answer::RateLimited { spans_per_sec: 10_000 });
    let start = Instant::now();
    let load = Loader::new(sink.addr()).closed(1, 10).requests(20).run().await;
    assert!(verdict(&load, &sink.snapshot()).is_exact());
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
}

#[tokio::test]
async fn all_signals_in_all_encodings() {
    let sink = sink().await;
    let mut client = Client::connect(sink.addr()).await.unwrap();
    let template = TraceTemplate::new(1, 3);
    for (signal, message) in [
        (Signal::Traces, template.message(0)),
        (Signal::Metrics, requests::metrics(50)),
        (Signal::Logs, requests::logs(70)),
    ] {
        assert_eq!(client.export(signal, &message).await.unwrap(), Reply::Accepted);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&message).unwrap();
        let zstd = zstd::encode_all(&message[..], 1).unwrap();
        for (encoding, packed) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd)] {
            let mut framed = requests::frame(&packed).to_vec();
            framed[0] = 1;
            let head = Head::new(signal, None, Some(encoding));
            assert_eq!(client.call(&head, framed.into()).await.unwrap(), Reply::Accepted);
        }
    }
    let counts = sink.snapshot();
    assert_eq!((counts.spans, counts.points, counts.logs), (9, 150, 210));
    assert_eq!((sink.arrived(), counts.runs[&1].extra), (363, 6));
    assert_eq!(counts.encodings.values().copied().collect::<Vec<_>>(), [3, 3, 3]);
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let sink = sink().await;
    let mut client = Client::connect(sink.addr()).await.unwrap();
    let template = TraceTemplate::new(1, 3);
    let cut = template.message(0);
    let reply = client.export(Signal::Traces, &cut[..cut.len() - 1]).await.unwrap();
    assert!(matches!(reply, Reply::Refused(Status { code: Code::INVALID_ARGUMENT, .. })), "{reply:?}");

    let bomb = zstd::encode_all(&vec![0; 65 << 20][..], 1).unwrap();
    let mut framed = requests::frame(&bomb).to_vec();
    framed[0] = 1;
    let head = Head::new(Signal::Logs, None, Some("zstd"));
    let reply = client.call(&head, framed.into()).await.unwrap();
    assert!(matches!(reply, Reply::Refused(Status { code: Code::RESOURCE_EXHAUSTED, .. })), "{reply:?}");
    assert_eq!((sink.snapshot().malformed, sink.arrived()), (2, 0));

    // An empty request is a success.
    assert_eq!(client.export(Signal::Traces, &[]).await.unwrap(), Reply::Accepted);
    // One far beyond a stream's window gets through.
    let large = TraceTemplate::new(1, 50_000).message(0);
    assert!(large.len() > 16 << 20);
    assert_eq!(client.export(Signal::Traces, &large).await.unwrap(), Reply::Accepted);
    assert_eq!(sink.arrived(), 50_000);
}

#[tokio::test]
async fn partial_success_is_no_acknowledgement() {
    let sink = sink().await;
    sink.answer_next([Answer::Partial(3, "too old".into()), Answer::Partial(0, "only a warning".into())]);
    let load = Loader::new(sink.addr()).requests(2).run().await;
    assert_eq!((load.partial, load.partial_rejected, load.acknowledged.len()), (1, 3, 100));
}
