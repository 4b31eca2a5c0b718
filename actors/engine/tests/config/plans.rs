//! What a plan decides.

use std::time::Duration;

use watershed_engine::config::{LogEncoding, Severity};
use watershed_stage::{Ack, OnFull, Signal};

use crate::{GOOD, around, plan};

const ROLES: &str = r#"
[agent.receivers.otlp.protocols.grpc]
endpoint = "localhost:4317"
[agent.exporters.otlp]
endpoint = "http://localhost:4320"
[agent.pipelines.all]
signals = ["logs", "traces"]
receivers = ["otlp"]
exporters = ["otlp"]

[gateway.receivers.otlp.protocols.grpc]
endpoint = "localhost:4320"
[gateway.exporters."otlp/a"]
endpoint = "http://localhost:4321"
critical = true
[gateway.exporters."otlp/b"]
endpoint = "http://localhost:4322"
sending_queue.batch = {}
sending_queue.required = false
[gateway.pipelines."traces/sampled"]
receivers = ["otlp", "zipkin"]
processors = ["attributes", "tail_sampling"]
exporters = ["otlp/a", "otlp/b"]
[gateway.pipelines.traces]
receivers = ["otlp"]
processors = ["batch"]
exporters = ["otlp/b", "otlp/a"]

[service]
lanes = 2
shutdown_timeout = "5s"
telemetry.logs = { level = "DEBUG", encoding = "json" }
telemetry.metrics.address = ""
health.endpoint = "0.0.0.0:1"
"#;

#[test]
fn one_collector() {
    let plan = plan(GOOD);
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
    let [role] = plan.roles.as_slice() else { panic!("{plan:?}") };
    assert_eq!(&*role.name, "collector");
    assert_eq!((role.budget.limit, role.budget.admission), (256 << 20, (256 << 20) - (256 << 20) / 5));
    assert_eq!(role.budget.check_interval, Duration::from_secs(1));
    let pipeline = &role.pipelines[0];
    assert_eq!((&*pipeline.id, pipeline.signals.as_slice()), ("traces", [Signal::Traces].as_slice()));
    assert!(pipeline.processors.is_empty(), "batch and memory_limiter are no stages");
    assert_eq!(pipeline.ack, Ack::Delivered);
    assert_eq!(role.exporters[0].batching["traces"].settings.min_size, 100);
    assert!(role.receivers[0].critical && !role.exporters[0].critical);
    assert_eq!(plan.service.metrics.as_deref(), Some("127.0.0.1:8888"));
    assert_eq!(plan.service.shutdown_timeout, Duration::from_secs(30));
}

#[test]
fn two_roles() {
    let plan = plan(ROLES);
    let names: Vec<&str> = plan.roles.iter().map(|role| &*role.name).collect();
    assert_eq!(names, ["agent", "gateway"]);
    assert_eq!(plan.roles[0].pipelines[0].signals, [Signal::Logs, Signal::Traces]);
    let gateway = &plan.roles[1];
    assert!(gateway.exporters[0].critical);
    let ids: Vec<&str> = gateway.pipelines.iter().map(|pipeline| &*pipeline.id).collect();
    assert_eq!(ids, ["traces/sampled", "traces"]);
    assert_eq!(gateway.pipelines[0].receivers, [0, 1]);
    assert_eq!(
        gateway.pipelines[1].exporters.iter().map(|branch| branch.exporter).collect::<Vec<_>>(),
        [1, 0]
    );
    assert_eq!(plan.service.lanes, Some(2));
    assert_eq!(plan.service.log_level, "debug");
    assert_eq!(plan.service.log_encoding, LogEncoding::Json);
    assert_eq!((plan.service.metrics.as_deref(), plan.service.health.as_deref()), (None, Some("0.0.0.0:1")));
    assert!(plan.clone().only_role("x").unwrap_err().contains("`agent`, `gateway`"));
    let shared = plan.roles[1].budget.limit;
    let alone = plan.only_role("gateway").unwrap();
    assert_eq!(alone.roles.len(), 1);
    assert!(alone.roles[0].budget.limit >= shared);
}

#[test]
fn a_promise_is_the_strongest_that_can_be_kept() {
    let gateway = &plan(ROLES).roles[1];
    let branches = |pipeline: usize| -> Vec<(bool, OnFull)> {
        gateway.pipelines[pipeline].exporters.iter().map(|branch| (branch.required, branch.on_full)).collect()
    };
    assert_eq!(gateway.pipelines[0].ack, Ack::Accepted);
    // The first is optional only by default: what the second would not have either, it refuses.
    assert_eq!(branches(0), [(false, OnFull::Refuse), (false, OnFull::Drop)]);
    assert_eq!(gateway.pipelines[1].ack, Ack::Delivered);
    assert_eq!(branches(1), [(false, OnFull::Drop), (true, OnFull::Refuse)]);
}

#[test]
fn the_only_exporter_is_required() {
    let branch = |rest: &str| {
        let text = format!("{}{rest}", around(""));
        plan(&text).roles[0].pipelines[0].exporters[0].clone()
    };
    assert!(branch("ack = \"accepted\"").required);
    assert_eq!(branch("[exporters.debug.sending_queue]\nblock_on_overflow = true").on_full, OnFull::Block);
    let optional = branch("[exporters.debug.sending_queue]\nrequired = false");
    assert_eq!((optional.required, optional.on_full), (false, OnFull::Drop));
}

#[test]
fn warnings_do_not_stand_in_the_way() {
    let plan = plan(
        "[processors.attributes]\n[processors.memory_limiter]\ncheck_interval = \"1s\"\nlimit_percentage = 10\n\
         [pipelines.traces]\nreceivers = [\"otlp\"]\nprocessors = [\"batch\", \"memory_limiter\"]\nexporters = [\"debug\"]",
    );
    let told: Vec<String> = plan.warnings.iter().map(crate::located).collect();
    assert_eq!(
        told,
        [
            "f.toml:1:13 processor `attributes` is configured, but no pipeline uses it",
            "f.toml:7:24 `memory_limiter` is not the first processor of its pipeline",
        ]
    );
    assert!(plan.warnings.iter().all(|warning| warning.severity == Severity::Warning));
}

#[test]
fn a_plan_is_described() {
    let text = plan(ROLES).describe();
    let gateway = text.split("gateway\n").nth(1).unwrap();
    for line in [
        "  pipeline traces/sampled: otlp (grpc localhost:4320, plain text), zipkin -> attributes -> tail_sampling -> \
         otlp/a (optional), otlp/b (optional); ack = accepted: `tail_sampling` holds data",
        "    signals     traces",
        "    ok means    accepted: it lies in the queues of the exporters",
        "    ok means    delivered: every required exporter's destination has it",
        "    exporter    `otlp/b`, optional, drops when full, batches of 8192 items or 200ms (its own setting)",
        "    exporter    `otlp/a`, required, refuses when full, batches of 8192 items or 200ms (the pipeline's batching)",
        "    note        exporter `otlp/b`: the exporter's own `sending_queue.batch` wins over processor `batch`",
    ] {
        assert!(gateway.lines().any(|other| other == line), "{line}\nis not in\n{gateway}");
    }
}

#[test]
fn plain_text_from_other_machines_is_told() {
    let warned = |endpoint: &str| {
        let text = GOOD.replace("endpoint = \"localhost:4317\"", &format!("endpoint = \"{endpoint}\""));
        assert!(text.contains(&format!("\"{endpoint}\"")), "{text}");
        let plan = plan(&text);
        plan.warnings.iter().any(|warning| warning.message.contains("takes plain text from other machines"))
    };
    for local in ["localhost:1", "127.0.0.2:1", "[::1]:1"] {
        assert!(!warned(local), "{local}");
    }
    for open in ["0.0.0.0:1", "[::]:1", "example.com:1"] {
        assert!(warned(open), "{open}");
    }
}

#[test]
fn a_plan_is_drawn() {
    let drawing = plan(ROLES).graph();
    let expected = "\
agent
  all
    otlp ─────▶ otlp
gateway
  traces/sampled
    otlp   ─┬─▶ attributes ─▶ tail_sampling ─┬─▶ otlp/a (optional)
    zipkin ─┘                                └─▶ otlp/b (optional)
  traces
    otlp ───┬─▶ otlp/b (optional)
            └─▶ otlp/a
";
    assert_eq!(drawing, expected);
    let dot = plan(ROLES).graph_dot();
    assert!(
        dot.contains("\"gateway/receiver/zipkin\" -> \"gateway/traces/sampled/processor/attributes\""),
        "{dot}"
    );
    assert!(dot.contains("-> \"gateway/exporter/otlp/a\" [label=\"traces\", style=solid]"), "{dot}");
}
