//! What a sender is told, and when: the wire answers of OTLP over gRPC.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use parking_lot::Mutex;
use tokio::time::Instant;
use watershed::engine::Engine;
use watershed_testkit::call::{Client, Head, Reply};
use watershed_testkit::grpc::{Code, Signal, Status};
use watershed_testkit::requests::{self, TraceTemplate};
use watershed_testkit::{Answer, Sink, reserve};

use crate::harness::{PATIENCE, beside_others, drained, metric, otlp, relay, start};

/// A client's own timeout in these tests.
const CLIENT: Duration = Duration::from_secs(4);

async fn sink() -> Sink {
    Sink::start("127.0.0.1:0").await.unwrap()
}

async fn client(engine: &Engine) -> Client {
    Client::connect(otlp(engine)).await.unwrap()
}

fn refusal(reply: Reply) -> Status {
    match reply {
        Reply::Refused(status) => status,
        other => panic!("not refused: {other:?}"),
    }
}

/// One request of `spans` spans with the client's timeout; how it was answered and how soon.
async fn send(client: &mut Client, message: &[u8]) -> (Reply, Duration) {
    let head = Head::new(Signal::Traces, Some(CLIENT), None);
    let since = Instant::now();
    let reply = client.call(&head, requests::frame(message)).await.expect("an answer before the deadline");
    (reply, since.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_is_invalid() {
    let _turn = beside_others().await;
    let sink = sink().await;
    let engine = start(&relay(sink.addr(), "accepted", "")).await;
    let mut client = client(&engine).await;
    let good = TraceTemplate::new(1, 3).message(0);
    let flipped = {
        let mut bytes = good.to_vec();
        bytes[0] = 0x0f;
        bytes
    };
    for bad in [&b"\xff\xff\xff\xff"[..], &good[..good.len() - 1], &flipped, b"not protobuf at all"] {
        let status = refusal(client.export(Signal::Traces, bad).await.unwrap());
        assert_eq!((status.code, status.retry_delay), (Code::INVALID_ARGUMENT, None), "{status}");
        assert!(!status.message.is_empty());
    }
    // The connection and the receiver are none the worse for it.
    assert_eq!(client.export(Signal::Traces, &good).await.unwrap(), Reply::Accepted);
    drained(&engine).await;
    assert_eq!((sink.arrived(), sink.snapshot().malformed), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_for_good() {
    let _turn = beside_others().await;
    let sink = sink().await;
    let limit = "endpoint = \"127.0.0.1:0\"\nmax_recv_msg_size_mib = 1";
    let engine =
        start(&relay(sink.addr(), "accepted", "").replace("endpoint = \"127.0.0.1:0\"", limit)).await;
    let mut client = client(&engine).await;
    let large = TraceTemplate::new(1, 5_000).message(0);
    assert!(large.len() > 1 << 20);
    let status = refusal(client.export(Signal::Traces, &large).await.unwrap());
    assert_eq!((status.code, status.retry_delay), (Code::RESOURCE_EXHAUSTED, None), "{status}");

    // Small on the wire, large once inflated: as an honest request, and as a bomb.
    for (inflated, signal) in [(large.to_vec(), Signal::Traces), (vec![0; 256 << 20], Signal::Logs)] {
        let packed = zstd::encode_all(&inflated[..], 1).unwrap();
        assert!(packed.len() < 1 << 20);
        let mut framed = requests::frame(&packed).to_vec();
        framed[0] = 1;
        let head = Head::new(signal, None, Some("zstd"));
        let status = refusal(client.call(&head, framed.into()).await.unwrap());
        assert_eq!((status.code, status.retry_delay), (Code::RESOURCE_EXHAUSTED, None), "{status}");
    }
    let small = TraceTemplate::new(1, 3).message(0);
    assert_eq!(client.export(Signal::Traces, &small).await.unwrap(), Reply::Accepted);
    drained(&engine).await;
    assert_eq!(sink.arrived(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exceeds_the_whole_budget_is_refused_for_good() {
    let _turn = beside_others().await;
    let sink = sink().await;
    let engine = start(&relay(sink.addr(), "accepted", "").replace("limit_mib = 256", "limit_mib = 2")).await;
    let mut client = client(&engine).await;
    let status =
        refusal(client.export(Signal::Traces, &TraceTemplate::new(1, 10_000).message(0)).await.unwrap());
    assert_eq!((status.code, status.retry_delay), (Code::RESOURCE_EXHAUSTED, None), "{status}");
    drained(&engine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_for_a_method_or_a_signal_is_unimplemented() {
    let _turn = beside_others().await;
    let sink = sink().await;
    let only_traces =
        relay(sink.addr(), "accepted", "").replace(r#""traces", "metrics", "logs""#, r#""traces""#);
    let engine = start(&only_traces).await;
    let mut ours = client(&engine).await;
    for (signal, message) in [(Signal::Metrics, requests::metrics(3)), (Signal::Logs, requests::logs(3))] {
        let status = refusal(ours.export(signal, &message).await.unwrap());
        assert_eq!((status.code, status.retry_delay), (Code::UNIMPLEMENTED, None), "{status}");
    }
    // tonic's client, with something before the path: no method of ours.
    let address = otlp(&engine);
    let channel =
        tonic::transport::Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap();
    let elsewhere = format!("http://{address}/elsewhere").parse().unwrap();
    let mut tonic = TraceServiceClient::with_origin(channel.clone(), elsewhere);
    let status = tonic.export(ExportTraceServiceRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented, "{status}");
    // The same client with the right path.
    let mut tonic = TraceServiceClient::new(channel);
    let response = tonic.export(requests::trace_request(7, 2)).await.unwrap().into_inner();
    assert!(response.partial_success.is_none_or(|partial| partial.rejected_spans == 0));
    drained(&engine).await;
    assert_eq!(sink.arrived(), 1, "two spans of the same number");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_request_is_a_success() {
    let _turn = beside_others().await;
    for ack in ["accepted", "delivered"] {
        let sink = sink().await;
        let engine = start(&relay(sink.addr(), ack, "")).await;
        let mut client = client(&engine).await;
        for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
            assert_eq!(client.export(signal, &[]).await.unwrap(), Reply::Accepted, "{ack}");
        }
        drained(&engine).await;
        assert_eq!(sink.snapshot().requests, 0, "nothing is nothing to send");
    }
}

/// The destination does not exist: told before the deadline, with a time to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_down_is_unavailable() {
    let _turn = beside_others().await;
    // As a user writes it, and with retries that would go on for ever.
    for settings in ["", "retry_on_failure = { initial_interval = \"5ms\", max_interval = \"50ms\" }"] {
        let text = relay(reserve(), "delivered", settings);
        let own = "retry_on_failure = { initial_interval = \"20ms\", max_interval = \"100ms\" }\n";
        let engine = start(&if settings.is_empty() { text } else { text.replacen(own, "", 1) }).await;
        let mut client = client(&engine).await;
        let (reply, took) = send(&mut client, &TraceTemplate::new(1, 3).message(0)).await;
        let status = refusal(reply);
        assert_eq!(status.code, Code::UNAVAILABLE, "{status}");
        assert!(status.retry_delay.is_some(), "{status}");
        assert!(took < CLIENT, "{took:?}");
        drained(&engine).await;
    }
}

/// The destination hangs: told before the deadline, and what was not sent by then never is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_hangs_is_unavailable_and_the_request_withdrawn() {
    let _turn = beside_others().await;
    let sink = sink().await;
    sink.answer(Answer::Hang);
    let engine =
        start(&relay(sink.addr(), "delivered", "sending_queue = { num_consumers = 1 }\ntimeout = \"30s\""))
            .await;
    let mut client = client(&engine).await;
    let (reply, took) = send(&mut client, &TraceTemplate::new(1, 3).message(0)).await;
    let status = refusal(reply);
    assert!(status.code == Code::UNAVAILABLE && status.retry_delay.is_some(), "{status}");
    assert!(took < CLIENT, "{took:?}");
    sink.answer(Answer::Ok);
    // One more, to see that the way is free and that the first is not before it.
    let (reply, _) = send(&mut client, &TraceTemplate::new(2, 5).message(0)).await;
    assert_eq!(reply, Reply::Accepted);
    drained(&engine).await;
    assert_eq!(sink.snapshot().runs.keys().collect::<Vec<_>>(), [&2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_of_the_destination_is_passed_through() {
    let _turn = beside_others().await;
    let sink = sink().await;
    let engine = start(&relay(sink.addr(), "delivered", "")).await;
    let mut client = client(&engine).await;
    for code in [Code::INVALID_ARGUMENT, Code::PERMISSION_DENIED, Code::UNAUTHENTICATED] {
        sink.answer(Answer::Status(code, "not with me".into()));
        let (reply, took) = send(&mut client, &TraceTemplate::new(1, 3).message(0)).await;
        let status = refusal(reply);
        assert_eq!((status.code, status.retry_delay), (code, None), "{status}");
        assert!(status.message.contains("not with me") && took < CLIENT, "{status} after {took:?}");
    }
    assert_eq!(sink.snapshot().requests, 3, "what is rejected is not tried again");
    drained(&engine).await;
}

/// Under `accepted` an outage is not the sender's business: it arrives when the destination is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_outlives_an_outage() {
    let _turn = beside_others().await;
    let sink = sink().await;
    sink.stop().await;
    let engine = start(&relay(sink.addr(), "accepted", "")).await;
    let mut client = client(&engine).await;
    for first in [0, 3, 6] {
        let (reply, _) = send(&mut client, &TraceTemplate::new(1, 3).message(first)).await;
        assert_eq!(reply, Reply::Accepted);
    }
    sink.restart().await.unwrap();
    assert!(sink.wait_for(9, PATIENCE).await, "{}", sink.snapshot());
    drained(&engine).await;
    assert_eq!(sink.snapshot().spans, 9);
}

/// One member of a merged request is wrong: it alone is rejected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_poisonous_member_does_not_take_the_others_with_it() {
    let _turn = beside_others().await;
    let sink = sink().await;
    // Good requests have ten spans, the bad one seven: so the sink knows it in any company. The first is held
    // up until the others have gathered behind it.
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = sizes.clone();
    sink.answer_by(move |arrival| {
        seen.lock().push(arrival.items);
        match arrival.items % 10 {
            7 => Answer::Status(Code::INVALID_ARGUMENT, "one of them is bad".into()),
            _ if arrival.index == 0 => Answer::Slow(Duration::from_secs(1)),
            _ => Answer::Ok,
        }
    });
    let text = relay(sink.addr(), "delivered", "sending_queue = { num_consumers = 1 }");
    let engine = start(&format!("service.lanes = 1\n{text}")).await;
    let connection = client(&engine).await;
    let call = |run: u64, spans: usize| {
        let mut connection = connection.clone();
        async move { connection.export(Signal::Traces, &TraceTemplate::new(run, spans).message(0)).await.unwrap() }
    };
    let first = async { call(0, 10).await };
    let others = async {
        assert!(sink.wait_until(|counts| counts.requests == 1, PATIENCE).await);
        tokio::join!(call(1, 10), call(2, 10), call(3, 7), call(4, 10), call(5, 10))
    };
    let (first, (a, b, bad, c, d)) = tokio::join!(first, others);
    assert_eq!([first, a, b, c, d], [const { Reply::Accepted }; 5]);
    let status = refusal(bad);
    assert_eq!((status.code, status.retry_delay), (Code::INVALID_ARGUMENT, None), "{status}");
    let sizes = sizes.lock().clone();
    assert!(sizes.iter().any(|items| *items > 10 && items % 10 == 7), "nothing was merged: {sizes:?}");
    drained(&engine).await;
    let counts = sink.snapshot();
    assert_eq!(counts.runs.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 4, 5]);
    assert_eq!(counts.spans, 50, "nothing twice: {sizes:?}");
}

/// Where messages are merged the queue counts batches, however little of one a sender sends at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_batches_does_not_count_small_requests() {
    let _turn = beside_others().await;
    let sink = sink().await;
    sink.answer(Answer::Hang);
    let queue = "sending_queue = { queue_size = 2, batch = { min_size = 50, flush_timeout = \"60s\" } }";
    let engine = start(&relay(sink.addr(), "accepted", queue)).await;
    let mut client = client(&engine).await;
    let message: Bytes = TraceTemplate::new(1, 10).message(0);
    for number in 0..10 {
        let (reply, _) = send(&mut client, &message).await;
        assert_eq!(reply, Reply::Accepted, "request {number}");
    }
    let (reply, _) = send(&mut client, &message).await;
    assert_eq!(refusal(reply).code, Code::UNAVAILABLE);
    let metrics = engine.metrics().render();
    let queue = ["size", "capacity"].map(|what| {
        let name = format!("otelcol_exporter_queue_{what}{{exporter=\"otlp\"}}");
        metric(&metrics, &name)
    });
    assert_eq!(queue, [2.0, 2.0], "{metrics}");
    let _ = engine.drain(Duration::from_millis(100)).await;
}

/// No room: refused at once, with a time to wait, and counted by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_a_retryable_refusal() {
    let _turn = beside_others().await;
    let sink = sink().await;
    sink.answer(Answer::Hang);
    let queue = "timeout = \"1s\"\nsending_queue = { queue_size = 30, sizer = \"items\" }";
    let engine = start(&relay(sink.addr(), "accepted", queue)).await;
    let mut client = client(&engine).await;
    let message: Bytes = TraceTemplate::new(1, 10).message(0);
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(send(&mut client, &message).await);
    }
    let (refused, taken): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(reply, _)| *reply != Reply::Accepted);
    assert_eq!((taken.len(), refused.len()), (3, 5));
    for (reply, took) in refused {
        let status = refusal(reply);
        assert!(status.code == Code::UNAVAILABLE && status.retry_delay.is_some(), "{status}");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    let metrics = engine.metrics().render();
    assert!(metric(&metrics, "otelcol_receiver_refused_spans") >= 50.0, "{metrics}");
    sink.answer(Answer::Ok);
    // What hangs is given up after the exporter's timeout and sent again.
    assert!(sink.wait_until(|counts| counts.spans == 30, PATIENCE).await, "{}", sink.snapshot());
    drained(&engine).await;
}
