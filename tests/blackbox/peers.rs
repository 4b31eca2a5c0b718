//! Foreign clients, counted at the destination.
//!
//! A peer that is not installed is skipped with a word: `.ci/run` installs them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use watershed_testkit::{Sink, reserve};

use crate::harness::{PATIENCE, beside_others, drained, start};

/// What a client says it has sent, by signal, and how many requests were not acknowledged.
#[derive(Debug, Deserialize)]
struct Sent {
    sdk: String,
    spans: u64,
    points: u64,
    logs: u64,
    failures: u64,
}

/// An interpreter that has the SDK: the one named by `WATERSHED_PEER_PYTHON`, else `python3`.
fn python() -> Result<String, String> {
    let named = std::env::var("WATERSHED_PEER_PYTHON").ok().filter(|path| !path.is_empty());
    let python = named.clone().unwrap_or_else(|| "python3".to_owned());
    let import = "import opentelemetry.sdk, opentelemetry.exporter.otlp.proto.grpc";
    let tried = Command::new(&python).args(["-c", import]).stderr(Stdio::null()).status();
    match tried {
        Ok(status) if status.success() => Ok(python),
        // Named and unusable is a mistake, not a machine without it.
        _ if named.is_some() => panic!("WATERSHED_PEER_PYTHON={python} can not import the OpenTelemetry SDK"),
        _ => Err(format!("{python} can not import opentelemetry-sdk and its gRPC exporter")),
    }
}

async fn run(python: String, script: &str, environment: BTreeMap<&'static str, String>) -> Sent {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
    let output = tokio::task::spawn_blocking(move || {
        Command::new(python).arg(script).envs(environment).stdin(Stdio::null()).output().unwrap()
    });
    // The script has a deadline of its own; this is for the case that it has none.
    let output = tokio::time::timeout(3 * PATIENCE, output).await.expect("the client did not end").unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {stdout}\n{stderr}", output.status);
    serde_json::from_str(stdout.trim()).unwrap_or_else(|error| panic!("{error}: {stdout}\n{stderr}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_sdk_over_grpc() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => return println!("skipped: {why}"),
    };
    let _turn = beside_others().await;
    for compression in ["none", "gzip"] {
        let sink = Sink::start("127.0.0.1:0").await.unwrap();
        let (agent, gateway) = (reserve(), reserve());
        let engine = start(&format!(
            r#"
[agent]
receivers.otlp.protocols.grpc.endpoint = "{agent}"
processors = {{ memory_limiter.limit_mib = 64, batch.timeout = "50ms" }}
exporters.otlp = {{ endpoint = "http://{gateway}", compression = "zstd" }}
[agent.pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = ["memory_limiter", "batch"]
exporters = ["otlp"]
[gateway]
receivers.otlp.protocols.grpc.endpoint = "{gateway}"
processors = {{ memory_limiter.limit_mib = 64, batch.timeout = "50ms" }}
exporters.otlp = {{ endpoint = "http://{}" }}
[gateway.pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp"]
processors = ["memory_limiter", "batch"]
exporters = ["otlp"]
"#,
            sink.addr()
        ))
        .await;
        let environment = BTreeMap::from([
            ("WATERSHED_ENDPOINT", format!("http://{agent}")),
            ("WATERSHED_COMPRESSION", compression.to_owned()),
        ]);
        let sent = run(python.clone(), "python/otlp_grpc.py", environment).await;
        println!("{compression}: {sent:?}");
        assert!(sent.sdk.starts_with("1."), "{sent:?}");
        assert_eq!((sent.spans, sent.logs, sent.failures), (500, 300, 0), "{sent:?}");
        assert!(sent.points > 0, "{sent:?}");
        // Under `delivered`, what the SDK was told "ok" for is there.
        let counts = sink.snapshot();
        assert_eq!(
            (counts.spans, counts.points, counts.logs),
            (sent.spans, sent.points, sent.logs),
            "{counts}"
        );
        drained(&engine).await;
        assert_eq!(sink.snapshot().taken, counts.taken, "nothing came later");
    }
}
