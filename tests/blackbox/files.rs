//! Exporters that write: what was acknowledged is in the file whatever happens to the process, and can be read back.

use std::fs;
use std::path::Path;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use watershed_testkit::call::Reply;
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::{self, SpanKey, TraceTemplate};
use watershed_testkit::{Loader, SeqSet, reserve, wait_until};

use crate::harness::process::Program;
use crate::harness::tls::Files;
use crate::harness::{PATIENCE, beside_others, call, drained, http, metric, otlp, start};

/// A collector that listens there and writes here.
fn writing(listen: &str, path: &Path, settings: &str) -> String {
    format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "{listen}"
[exporters.file]
path = {path:?}
{settings}
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
exporters = ["file"]
ack = "delivered"
"#
    )
}

/// The whole records of a file: lines, or what comes after its length; a part of one at the end is left out.
fn records(path: &Path, are_lines: bool) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let mut records = Vec::new();
    let mut rest = &bytes[..];
    if are_lines {
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            records.push(rest[..end].to_vec());
            rest = &rest[end + 1..];
        }
        return records;
    }
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((record, tail)) = tail.split_at_checked(length) else { break };
        records.push(record.to_vec());
        rest = tail;
    }
    records
}

/// A trace and a span id of each span in a record, as OTLP/JSON or protobuf has it.
fn ids(record: &[u8], is_json: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    if !is_json {
        let request = ExportTraceServiceRequest::decode(record).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        return scopes.flat_map(|scope| scope.spans).map(|span| (span.trace_id, span.span_id)).collect();
    }
    let hex = |digits: &serde_json::Value| -> Vec<u8> {
        let digits = digits.as_str().unwrap().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    };
    let request: serde_json::Value = serde_json::from_slice(record).unwrap();
    let list = |value: &serde_json::Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let scopes =
        list(&request, "resourceSpans").into_iter().flat_map(|resource| list(&resource, "scopeSpans"));
    let spans = scopes.flat_map(|scope| list(&scope, "spans"));
    spans.map(|span| (hex(&span["traceId"]), hex(&span["spanId"]))).collect()
}

/// The numbered spans of `run` in a file, and how many were there before.
fn written(path: &Path, run: u64, format: &str, compression: &str) -> (SeqSet, u64) {
    let (mut seen, mut twice) = (SeqSet::default(), 0);
    for record in records(path, (format, compression) == ("json", "none")) {
        let record = if compression == "zstd" { zstd::decode_all(&record[..]).unwrap() } else { record };
        for (trace, span) in ids(&record, format == "json") {
            let key = SpanKey::read(&trace, &span).expect("a span of the kit");
            assert_eq!(key.run, run);
            twice += u64::from(!seen.insert(key.seq));
        }
    }
    (seen, twice)
}

/// "Delivered" is in the operating system's hands: a process that is killed takes none of it along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_the_process() {
    let _turn = beside_others().await;
    for format in ["json", "proto"] {
        for compression in ["none", "zstd"] {
            let files = Files::new();
            let (path, listen) = (files.path("traces"), reserve());
            let settings = format!("format = {format:?}\ncompression = {compression:?}");
            let mut program = Program::run(&writing(&listen.to_string(), &path, &settings)).await;
            let load = Loader::new(listen).spans_per_request(10).closed(2, 8).duration(PATIENCE).start();
            let flows = wait_until(async || load.acknowledged() >= 2_000, PATIENCE);
            assert!(flows.await, "{}", load.progress());
            program.signal("KILL");
            assert_eq!(program.exit().await, None);
            load.stop();
            let load = load.finish().await;
            let case = format!("{format}, {compression}: {load}");
            let (seen, twice) = written(&path, load.run, format, compression);
            assert!(load.acknowledged.len() >= 2_000, "{case}");
            assert_eq!((load.acknowledged.missing_from(&seen), twice), (0, 0), "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_put_aside_before_it_is_too_large() {
    let _turn = beside_others().await;
    let files = Files::new();
    let path = files.path("out/traces.json");
    let settings = "create_directory = true\nrotation = { max_megabytes = 1 }";
    let engine = start(&writing("127.0.0.1:0", &path, settings)).await;
    let load = Loader::new(otlp(&engine)).closed(1, 4).requests(60).run().await;
    assert_eq!((load.acknowledged.len(), load.refusals()), (6_000, 0), "{load}");
    let rotations = metric(&engine.metrics().render(), "watershed_file_rotations{exporter=\"file\"}");
    drained(&engine).await;

    let (mut all, mut count) = (SeqSet::default(), 0);
    for entry in fs::read_dir(files.path("out")).unwrap() {
        let entry = entry.unwrap();
        let (seen, twice) = written(&entry.path(), load.run, "json", "none");
        assert!(entry.metadata().unwrap().len() <= 1 << 20 && twice == 0, "{entry:?}");
        assert_eq!(seen.ranges().into_iter().map(|range| all.insert_range(range)).sum::<u64>(), seen.len());
        count += 1;
    }
    assert!(count > 3, "{count} files");
    assert_eq!(rotations, f64::from(count - 1));
    assert_eq!((all.len(), load.acknowledged.missing_from(&all)), (6_000, 0));

    // Of old ones, only so many are kept.
    let settings = "rotation = { max_megabytes = 1, max_backups = 1 }";
    let engine = start(&writing("127.0.0.1:0", &path, settings)).await;
    Loader::new(otlp(&engine)).closed(1, 4).requests(30).run().await;
    let pruned = wait_until(async || fs::read_dir(files.path("out")).unwrap().count() == 2, PATIENCE);
    assert!(pruned.await, "old files are not removed");
    drained(&engine).await;
}

/// `debug` shows every field, `nop` takes everything; both say "delivered".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debug_shows_everything_and_nop_takes_everything() {
    let _turn = beside_others().await;
    let listen = reserve();
    let mut program = Program::run(&format!(
        r#"
[receivers.otlp.protocols.grpc]
endpoint = "{listen}"
[exporters.debug]
verbosity = "detailed"
[exporters.nop]
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
exporters = ["debug", "nop"]
ack = "delivered"
"#
    ))
    .await;
    for (signal, message) in [
        (Signal::Traces, TraceTemplate::new(0xabc, 3).message(0)),
        (Signal::Metrics, requests::metrics(2)),
        (Signal::Logs, requests::logs(4)),
    ] {
        assert_eq!(call(listen, signal, &[], &message).await, Reply::Accepted);
    }
    let (_, metrics) = http::get(program.metrics, "/metrics").await.unwrap();
    for exporter in ["debug", "nop"] {
        for (items, count) in [("spans", 3.0), ("metric_points", 2.0), ("log_records", 4.0)] {
            let series = format!("otelcol_exporter_sent_{items}{{exporter=\"{exporter}\"}}");
            assert_eq!(metric(&metrics, &series), count, "{series}:\n{metrics}");
        }
    }
    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0));
    let log = program.stderr();
    for shown in [
        "ResourceSpans #0",
        "-> service.name: Str(orders)",
        "Span #2",
        "Trace ID       : 0000000000000abc0000000000000002",
        "-> app.cart.total: Double(21.99)",
        "ResourceMetrics #0",
        "Name: http.server.metric_1",
        "LogRecord #3",
        "Body: Str(order 3 accepted and handed to fulfilment)",
    ] {
        assert!(log.contains(shown), "{shown} is missing:\n{log}");
    }
}
