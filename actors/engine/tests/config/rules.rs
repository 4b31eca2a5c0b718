//! Rules across components.

use crate::{around, errors, plan};

const OTLP: &str = "receivers = [\"otlp\"]\nexporters = [\"debug\"]\n";

#[test]
fn a_reference_must_name_something() {
    let text = r#"[processors."batch/small"]
[pipelines.traces]
receivers = ["otlp/x", "otlp/", "kafka", "kafka/x"]
processors = ["batch/smal"]
exporters = ["otlp"]
"#;
    let found = crate::bad(&crate::file(text)).errors;
    let told: Vec<String> = found.iter().map(crate::located).collect();
    assert_eq!(
        told,
        [
            "f.toml:3:14 receiver `otlp/x` is not declared",
            "f.toml:3:24 `otlp/` is no id of a receiver: it is a type, or a type and a name, `type/name`",
            "f.toml:3:33 there is no receiver type `kafka`",
            "f.toml:3:42 there is no receiver type `kafka`",
            "f.toml:4:15 processor `batch/smal` is not declared",
            "f.toml:5:14 exporter `otlp` can not do with its defaults: the key `endpoint` is missing",
        ]
    );
    assert_eq!(found[0].help.as_deref(), Some("declare it: `[receivers.\"otlp/x\"]`"));
    assert_eq!(found[2].help.as_deref(), Some("receiver types: `otlp`, `otlp_grpc`, `zipkin`"));
    assert_eq!(found[4].help.as_deref(), Some("did you mean `batch/small`?"));
    assert_eq!(found[5].help.as_deref(), Some("declare it: `[exporters.otlp]`"));
}

#[test]
fn a_pipeline_has_receivers_and_exporters() {
    let text = "[pipelines.traces]\nexporters = []\n[pipelines.logs]\nreceivers = [5]\nexporters = \"debug\"";
    assert_eq!(
        errors(text),
        [
            "f.toml:1:12 pipeline `traces` has no receivers",
            "f.toml:2:13 pipeline `traces` has no exporters",
            "f.toml:4:14 `receivers`: expected a string, found the number 5",
            "f.toml:5:13 `exporters`: expected a list of strings, found the string \"debug\"",
        ]
    );
}

#[test]
fn nothing_is_named_twice() {
    let text = "[pipelines.traces]\nreceivers = [\"otlp\", \"otlp\"]\nprocessors = [\"attributes\", \"batch\", \"attributes\"]\n\
        exporters = [\"debug\", \"debug\"]\n[processors.\"batch/2\"]\n[pipelines.logs]\n\
        receivers = [\"otlp\"]\nprocessors = [\"batch\", \"batch/2\"]\nexporters = [\"debug\"]";
    assert_eq!(
        errors(text),
        [
            "f.toml:2:22 pipeline `traces` names receiver `otlp` twice",
            "f.toml:3:38 pipeline `traces` names processor `attributes` twice",
            "f.toml:4:23 pipeline `traces` names exporter `debug` twice",
            "f.toml:8:24 pipeline `logs` is batched by `batch` already",
        ]
    );
}

#[test]
fn a_pipeline_carries_signals() {
    let text = format!(
        "[pipelines.trace]\n{OTLP}[pipelines.profiles]\n{OTLP}[pipelines.\"logs/x\"]\nsignals = [\"traces\", \"log\", \"traces\"]\n{OTLP}[pipelines.x]\nsignals = []\n{OTLP}"
    );
    assert_eq!(
        errors(&text),
        [
            "f.toml:1:12 `trace` is no signal",
            "f.toml:4:12 `profiles` is no signal",
            "f.toml:7:12 pipeline `logs/x` does not carry logs, as its name says",
            "f.toml:8:22 `log` is no signal",
            "f.toml:8:29 `traces` is listed twice",
            "f.toml:12:11 pipeline `x` has no signals",
        ]
    );
}

#[test]
fn components_support_their_pipelines_signals() {
    let text = "[pipelines.logs]\nreceivers = [\"zipkin\"]\nprocessors = [\"tail_sampling\"]\nexporters = [\"debug\"]";
    let expected = [
        "f.toml:2:14 receiver `zipkin` does not support `logs`",
        "f.toml:3:15 processor `tail_sampling` does not support `logs`",
    ];
    assert_eq!(errors(text), expected);
    // One of several receivers may bring only some of the signals.
    let text = "[pipelines.all]\nsignals = [\"traces\", \"logs\"]\nreceivers = [\"zipkin\", \"otlp\"]\nexporters = [\"debug\"]";
    assert_eq!(plan(text).roles[0].pipelines[0].signals.len(), 2);
}

#[test]
fn keys_are_known() {
    let text = format!(
        "colour = 1\n[connectors]\n[service]\nlane = 2\npipelines = {{}}\n[service.telemetry.logs]\nlevel = \"inof\"\n[pipelines.traces]\nprocesors = []\nack = \"deliverd\"\n{OTLP}[pipelines.logs]\nack = \"journaled\"\n{OTLP}"
    );
    let found = crate::bad(&crate::file(&text)).errors;
    let told: Vec<String> = found.iter().map(crate::located).collect();
    assert_eq!(
        told,
        [
            "f.toml:1:1 unknown key `colour`",
            "f.toml:2:2 unknown key `connectors`",
            "f.toml:4:1 unknown key `lane`",
            "f.toml:5:1 unknown key `pipelines`",
            "f.toml:7:9 `level`: this is no level of the log",
            "f.toml:9:1 unknown key `procesors`",
            "f.toml:10:7 `ack`: this is no promise",
            "f.toml:14:7 `ack`: \"journaled\" can not be promised: nothing keeps data on disk, neither a `journal` among the \
         processors nor `sending_queue.storage`",
        ]
    );
    assert!(found[2].help.as_deref().unwrap().starts_with("did you mean `lanes`?"));
    assert!(found[5].help.as_deref().unwrap().starts_with("did you mean `processors`?"));
    assert!(found[7].help.as_deref().unwrap().contains("say \"delivered\""));
}

#[test]
fn service_is_checked() {
    let text = around(
        "[service]\nlanes = 0\nshutdown_timeout = 30\n[service.telemetry.logs]\nencoding = \"xml\"\n[service.telemetry.metrics]\naddress = \"8888\"\n[service.health]\nendpoint = \"x:y\"",
    );
    assert_eq!(
        errors(&text),
        [
            "f.toml:2:9 `lanes`: there must be at least one",
            "f.toml:3:20 `shutdown_timeout`: expected a string, found the number 30",
            "f.toml:5:12 `encoding`: expected one of `console`, `json`, found the string \"xml\"",
            "f.toml:7:11 `address`: expected a host and a port",
            "f.toml:9:12 `endpoint`: expected a host and a port",
        ]
    );
}

#[test]
fn a_role_has_one_budget() {
    let limiters = "[processors.memory_limiter]\ncheck_interval = \"1s\"\nlimit_mib = 100\n[processors.\"memory_limiter/2\"]\ncheck_interval = \"1s\"\nlimit_mib = 200\n";
    let pipelines = "[pipelines.traces]\nprocessors = [\"memory_limiter\"]\nreceivers = [\"otlp\"]\nexporters = [\"debug\"]\n\
        [pipelines.logs]\nprocessors = [\"memory_limiter/2\"]\nreceivers = [\"otlp\"]\nexporters = [\"debug\"]\n";
    let text = format!("{limiters}{pipelines}");
    assert_eq!(
        errors(&text),
        ["f.toml:12:15 `memory_limiter/2` and `memory_limiter` say different things of the same memory"]
    );
    // The same twice is one.
    assert_eq!(plan(&text.replace("200", "100")).roles[0].budget.limit, 100 << 20);
}

#[test]
fn a_promise_must_be_one_that_can_be_kept() {
    let pipeline =
        |rest: &str| format!("[pipelines.traces]\nreceivers = [\"otlp\"]\nexporters = [\"debug\"]\n{rest}");
    assert_eq!(
        errors(&pipeline("processors = [\"tail_sampling\"]\nack = \"delivered\"")),
        ["f.toml:5:7 `ack`: \"delivered\" can not be promised: `tail_sampling` holds data"]
    );
    assert_eq!(
        errors(&pipeline("ack = \"delivered\"\n[exporters.debug.sending_queue]\nrequired = false")),
        ["f.toml:4:7 `ack`: \"delivered\" can not be promised: no exporter is required"]
    );
    assert_eq!(
        errors(&pipeline("[exporters.debug.sending_queue]\non_full = \"drop\"")),
        ["f.toml:5:11 exporter `debug` can not drop: pipeline `traces` requires it"]
    );
}

#[test]
fn two_receivers_want_two_addresses() {
    let text = "[receivers.otlp.protocols.grpc]\nendpoint = \"localhost:4317\"\n[receivers.\"otlp/2\".protocols.http]\nendpoint = \"localhost:4317\"\n\
        [pipelines.traces]\nreceivers = [\"otlp\", \"otlp/2\"]\nexporters = [\"debug\"]";
    assert_eq!(errors(text), ["f.toml:4:12 receiver `otlp` and receiver `otlp/2` want the same address"]);
    assert_eq!(plan(&text.replace("4317", "0")).roles[0].receivers.len(), 2);
}

#[test]
fn roles_and_a_collector_do_not_mix() {
    let text =
        format!("[receivers.otlp]\n[agent.pipelines.traces]\n{OTLP}[agent.service]\n[gateway.receivers]");
    assert_eq!(
        errors(&text),
        [
            "f.toml:1:2 `receivers` stands beside `[agent]` or `[gateway]`",
            "f.toml:5:8 unknown key `service`",
            "f.toml:6:2 the gateway has no pipelines: there is nothing to do",
        ]
    );
}

#[test]
fn critical_is_a_boolean() {
    let text = around("receivers.otlp = { critical = \"no\" }\nexporters.debug.critical = 1");
    assert_eq!(
        errors(&text),
        [
            "f.toml:1:31 `critical`: expected `true` or `false`, found the string \"no\"",
            "f.toml:2:28 `critical`: expected `true` or `false`, found the number 1",
        ]
    );
}
