//! One export against a double that answers with what it is told.

#![allow(clippy::unwrap_used)]

use futures_util::FutureExt as _;
use futures_util::future::{self, Either};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use watershed_delivery::Budget;
use watershed_stage::{Context, Extensions, Metrics, Origin, Payload, Shelf, Signal, Tracing};

use super::*;

const TAKEN: (u16, &str) = (200, r#"{"items":[{"create":{"status":201}}]}"#);
const BUSY: (u16, &str) = (200, r#"{"items":[{"create":{"status":429}}]}"#);
const WRONG: (u16, &str) = (200, r#"{"items":[{"create":{"status":400}}]}"#);
const KNOWN: (u16, &str) = (200, r#"{"items":[{"create":{"status":409}}]}"#);

fn env() -> Env {
    Env {
        id: "elasticsearch".into(),
        pipeline: None,
        lane: 0,
        copies: 1,
        budget: Budget::new(1 << 20),
        metrics: Metrics::default(),
        tracing: Tracing::default(),
        extensions: Extensions::default(),
        shelf: Shelf::default(),
        notes: None,
        ends: Arc::default(),
    }
}

/// Requests of one log record each.
fn batch(requests: usize) -> Batch {
    merged((0..requests).map(|_| request(1)))
}

/// One request of log records.
fn records(records: usize) -> Batch {
    merged([request(records)])
}

fn request(records: usize) -> Payload {
    let scope_logs =
        vec![ScopeLogs { log_records: vec![LogRecord::default(); records], ..Default::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..Default::default() }];
    let request = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    Payload::validate(Signal::Logs, request.into()).unwrap()
}

fn merged(requests: impl IntoIterator<Item = Payload>) -> Batch {
    let payload = Payload::concat(requests).unwrap();
    let context =
        Context { receiver: "r".into(), pipeline: "p".into(), origin: Origin::default(), arrived: 0 };
    Batch { payload, context: Arc::new(context), trace: None, timeout: None, merged: false }
}

/// The exporter in front of listeners, with these settings beside.
fn exporter(listeners: &[&TcpListener], settings: &str) -> Elasticsearch {
    let urls = listeners.iter().map(|listener| format!("'{}'", url(listener))).collect::<Vec<_>>().join(",");
    let settings = format!("endpoints = [{urls}]\ncompression = 'none'\n{settings}");
    Elasticsearch::build(&Arc::new(toml::from_str(&settings).unwrap()), &env()).unwrap()
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn url(listener: &TcpListener) -> String {
    format!("http://{}", listener.local_addr().unwrap())
}

/// Answers requests in order, each on a connection of its own. An answer without a status is none.
async fn serve(listener: &TcpListener, answers: &[(u16, &str)]) {
    for (status, answer) in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let length = loop {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
            if let Some((head, _)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                break head.len() + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
            }
        };
        while request.len() < length {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        if *status > 0 {
            let length = answer.len();
            let head =
                format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            // It may have read enough.
            let _ = stream.write_all((head + answer).as_bytes()).await;
        }
    }
}

/// What becomes of so many records, each in a request of its own to the destination.
async fn exported(records: usize, settings: &str, answers: &[(u16, &str)]) -> Result<Partial, ExportError> {
    let listener = listener().await;
    let settings = format!("flush.bytes = 1\nretry.initial_interval = '1ms'\n{settings}");
    let (exporter, batch) = (exporter(&[&listener], &settings), batch(records));
    future::join(exporter.export(&batch), serve(&listener, answers)).await.0
}

#[tokio::test]
async fn a_conflict_after_an_answer_that_was_lost_within_one_export_is_a_copy() {
    let lost = [(0, ""), (502, "<html>"), (500, "{}"), (200, r#"{"items":[{"cr"#), (200, r#"{"items":[]}"#)];
    for lost in lost {
        assert_eq!(exported(2, "", &[TAKEN, lost, KNOWN]).await.unwrap().rejected, 0, "{lost:?}");
    }
    assert_eq!(exported(2, "", &[TAKEN, BUSY, KNOWN]).await.unwrap().rejected, 1);
}

#[tokio::test]
async fn what_is_left_when_there_are_no_more_retries_is_told_apart_from_what_was_rejected() {
    let most = |retries| format!("retry.max_retries = {retries}");
    let given_up = |left: &[u32], rejected: &[u32]| {
        let (left, rejected) = (left.to_vec(), rejected.to_vec());
        let reason = "1 of 1 documents are not taken: 429 : ".into();
        Err(ExportError::Exhausted { reason, retry_after: None, left, rejected })
    };
    assert_eq!(exported(3, &most(0), &[TAKEN, WRONG, BUSY]).await, given_up(&[2], &[1]));
    assert_eq!(exported(3, &most(1), &[TAKEN, WRONG, BUSY, BUSY]).await, given_up(&[2], &[1]));
    assert_eq!(exported(2, &most(1), &[TAKEN, BUSY, TAKEN]).await.unwrap().rejected, 0);
    assert_eq!(exported(3, "retry.enabled = false", &[BUSY, TAKEN, BUSY]).await, given_up(&[0, 2], &[]));
    let reason = |error| match error {
        ExportError::Exhausted { reason, retry_after, .. } => (reason.into_owned(), retry_after),
        error => unreachable!("{error:?}"),
    };
    let (reason, retry_after) = reason(exported(1, &most(0), &[(503, "{}")]).await.unwrap_err());
    assert!(reason.contains("503") && retry_after.is_none(), "{reason}");
}

#[tokio::test]
async fn what_is_refused_with_others_and_then_alone_is_counted_once() {
    let listener = listener().await;
    let (exporter, refused) = (exporter(&[&listener], ""), (400, "{}"));
    let [one, other] = [request(2), request(1)];
    let merged = Batch { merged: true, ..merged([one.clone(), other.clone()]) };
    let counted = || exporter.env.metrics.total("watershed_elasticsearch_rejected_documents");
    for (batch, answer, count) in
        [(merged, refused, 0), (self::merged([one]), refused, 2), (self::merged([other]), TAKEN, 2)]
    {
        let (result, ()) = future::join(exporter.export(&batch), serve(&listener, &[answer])).await;
        let is_refused = matches!(result, Err(ExportError::Permanent { .. }));
        assert_eq!((is_refused, counted()), (answer == refused, count));
    }
    assert_eq!(exporter.counters.rejected.get(), 2);
}

#[tokio::test]
async fn whoever_sends_to_opensearch_unawares_is_told() {
    let said = r#"{"error":{"type":"illegal_argument_exception","reason":"Action/metadata line [1] contains an unknown parameter [require_data_stream]"}}"#;
    let error = exported(1, "", &[(400, said)]).await.unwrap_err();
    assert!(error.to_string().ends_with("set `opensearch = true`"), "{error}");
}

#[tokio::test]
async fn an_attempt_that_was_cut_short_is_one_of_those_that_may_be_made() {
    let listener = listener().await;
    let (exporter, batch) = (exporter(&[&listener], "retry.max_retries = 1"), batch(2));
    for _ in 0..2 {
        let export = std::pin::pin!(exporter.export(&batch));
        let asked = std::pin::pin!(serve(&listener, &[(0, "")]));
        assert!(matches!(future::select(asked, export).await, Either::Left(_)));
    }
    let error = exporter.export(&batch).await.unwrap_err();
    assert!(matches!(error, ExportError::Exhausted { left, .. } if left == [0, 1]));
}

#[tokio::test]
async fn more_verdicts_than_are_read_are_asked_for_in_halves() {
    let listener = listener().await;
    let (exporter, batch) = (exporter(&[&listener], ""), batch(2));
    let endless = " ".repeat(LARGEST_ANSWER as usize + 1);
    let answers = [(200, &*endless), KNOWN, TAKEN];
    let (partial, ()) = future::join(exporter.export(&batch), serve(&listener, &answers)).await;
    assert_eq!(partial.unwrap().rejected, 0);
}

#[tokio::test]
async fn a_node_that_answers_more_slowly_than_requests_take_comes_back() {
    let (fast, slow) = (listener().await, listener().await);
    let (exporter, batch) = (exporter(&[&fast, &slow], ""), batch(1));
    exporter.nodes.failed(&url(&slow), Instant::now() - Duration::from_secs(2));
    let (partial, ()) = future::join(exporter.export(&batch), serve(&fast, &[TAKEN])).await;
    partial.unwrap();
    let answers = async {
        serve(&slow, &[(200, "{}")]).await;
        while exporter.nodes.pick() == exporter.nodes.pick() {
            tokio::task::yield_now().await;
        }
        serve(&fast, &[TAKEN]).await;
    };
    let (partial, ()) = future::join(exporter.export(&batch), answers).await;
    partial.unwrap();
}

#[tokio::test]
async fn any_number_of_records_without_a_document_is_rejected_without_a_request() {
    let listener = listener().await;
    let exporter = exporter(&[&listener], "mapping.mode = 'bodymap'");
    let (one, many) = (exporter.export(&batch(1)).await, exporter.export(&records(70_000)).await);
    for (result, records) in [(one, 1), (many, 70_000)] {
        let Partial { rejected, which, message } = result.unwrap();
        assert_eq!((rejected, &*message), (records, "body_no_map"));
        assert!(which.unwrap().into_iter().eq(0..records as u32));
    }
    assert!(listener.accept().now_or_never().is_none());
}
