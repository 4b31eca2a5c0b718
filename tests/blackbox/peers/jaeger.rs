//! Jaeger's clients → our receiver → a sink that counts.

use tokio::time::Instant;
use watershed_testkit::{Sink, reserve};

use super::Sent;
use crate::harness::peer::Peer;
use crate::harness::{PATIENCE, beside_others, drained, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_jaegers_python_clients_send_arrives() {
    let _turn = beside_others().await;
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let [grpc, http, udp] = [reserve(), reserve(), reserve()];
    let engine = start(&format!(
        r#"
[receivers.jaeger.protocols]
grpc.endpoint = "{grpc}"
thrift_http.endpoint = "{http}"
thrift_compact.endpoint = "{udp}"
[exporters.otlp]
endpoint = "http://{}"
[pipelines.traces]
receivers = ["jaeger"]
exporters = ["otlp"]
"#,
        sink.addr()
    ))
    .await;
    let ways = [
        ("jaeger/grpc", grpc.to_string()),
        ("jaeger/thrift_http", format!("http://{http}/api/traces?format=jaeger.thrift")),
        ("jaeger/thrift_compact", udp.to_string()),
    ];
    for (protocol, address) in ways {
        let begin = Instant::now();
        let environment = [("WATERSHED_ENDPOINT", address), ("WATERSHED_PROTOCOL", protocol.to_owned())];
        let Some(output) = Peer::spawn("python-jaeger", &[], &environment).output().await else { return };
        let sent = Sent::told(&output);
        println!("{protocol}: {sent:?} in {:?}", begin.elapsed());
        assert_eq!((sent.spans, sent.failures), (500, 0), "{protocol}");
        assert!(sink.wait_until(|counts| counts.spans >= 500, PATIENCE).await);
        let counts = sink.snapshot();
        assert_eq!((counts.spans, counts.malformed), (500, 0), "{protocol}: {counts}");
        sink.reset();
    }
    drained(&engine).await;
    assert_eq!(sink.snapshot().requests, 0, "nothing came later");
}
