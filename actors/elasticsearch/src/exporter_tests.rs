//! One export against a double that answers with what it is told.

#![allow(clippy::unwrap_used)]

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
    let scope_logs = vec![ScopeLogs { log_records: vec![LogRecord::default()], ..Default::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..Default::default() }];
    let request = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let part = |_| Payload::validate(Signal::Logs, request.clone().into()).unwrap();
    let payload = Payload::concat((0..requests).map(part)).unwrap();
    let context =
        Context { receiver: "r".into(), pipeline: "p".into(), origin: Origin::default(), arrived: 0 };
    Batch { payload, context: Arc::new(context), trace: None, timeout: None }
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
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                break head.len() + 4 + length.parse::<usize>().unwrap();
            }
        };
        while request.len() < length {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        if *status > 0 {
            let length = answer.len();
            let head =
                format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all((head + answer).as_bytes()).await.unwrap();
        }
    }
}

/// How many of two records are rejected, of which each is a request's body.
async fn rejected(answers: &[(u16, &str)]) -> u64 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_addr().unwrap();
    let settings = format!("endpoint = 'http://{url}'\ncompression = 'none'\nflush.bytes = 1");
    let exporter = Elasticsearch::build(&Arc::new(toml::from_str(&settings).unwrap()), &env()).unwrap();
    let batch = batch(2);
    let (partial, ()) = future::join(exporter.export(&batch), serve(&listener, answers)).await;
    partial.unwrap().rejected
}

#[tokio::test]
async fn a_conflict_after_an_answer_that_was_lost_within_one_export_is_a_copy() {
    let lost = [(0, ""), (502, "<html>"), (500, "{}"), (200, r#"{"items":[{"cr"#), (200, r#"{"items":[]}"#)];
    for lost in lost {
        assert_eq!(rejected(&[TAKEN, lost, KNOWN]).await, 0, "{lost:?}");
    }
    assert_eq!(rejected(&[TAKEN, BUSY, KNOWN]).await, 1);
}
