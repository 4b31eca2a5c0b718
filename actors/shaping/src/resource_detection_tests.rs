use std::fs;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use tempfile::TempDir;
use watershed_stage::{Settings as _, Signal};

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const SANDBOX: &str = "ffffffffffffffff0123456789abcdef0123456789abcdef0123456789abcdef";

/// A host with these files and environment variables.
fn host(files: &[(&str, &str)], variables: &[(&'static str, &'static str)]) -> (Host, TempDir) {
    let root = TempDir::new().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let variables = variables.to_vec();
    let variable = move |name: &str| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    (Host::new(root.path(), variable), root)
}

fn settings(text: &str) -> Settings {
    let settings: Settings = toml::from_str(text).unwrap();
    assert_eq!(settings.check(), []);
    settings
}

#[track_caller]
fn assert_detects(
    text: &str,
    files: &[(&str, &str)],
    variables: &[(&'static str, &'static str)],
    expected: &[(&str, &str)],
) {
    let (host, _root) = host(files, variables);
    let found = settings(text).detect(&host);
    let found: Vec<(&str, &str)> =
        found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn the_environment_names_attributes_percent_encoded() {
    let list = " team = a%2Cb , empty= ,,deployment.environment.name=pr%C3%B6d,service.name=no";
    assert_detects(
        "",
        &[],
        &[("OTEL_RESOURCE_ATTRIBUTES", list), ("OTEL_SERVICE_NAME", "shop")],
        &[("deployment.environment.name", "pr\u{f6}d"), ("service.name", "shop"), ("team", "a,b")],
    );
    // One that is malformed makes the list void.
    for list in ["a=1,b", "a=1,=2", "a=%4", "a=%zz", "a=%FF"] {
        let (host, _root) = host(&[], &[]);
        assert_eq!(settings("").detect(&host), BTreeMap::new());
        let variables: [(&str, &'static str); 2] =
            [("OTEL_RESOURCE_ATTRIBUTES", list), ("OTEL_SERVICE_NAME", "shop")];
        assert_detects("", &[], &variables, &[("service.name", "shop")]);
    }
}

#[test]
fn the_system_tells_what_is_switched_on() {
    let files = [
        ("proc/sys/kernel/hostname", "node-7\n"),
        ("etc/machine-id", "abc123\n"),
        ("etc/os-release", "# made up\nNAME=\"Some Linux\"\nVERSION_ID=12\nPRETTY_NAME='Some Linux 12'\n"),
    ];
    let os = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
    let system = "detectors = ['system']\n";
    assert_detects(system, &files, &[], &[("host.name", "node-7"), ("os.type", os)]);
    let more = "[system.resource_attributes]\n'host.name'.enabled = false\n'host.id'.enabled = true\n\
                'os.name'.enabled = true\n'os.version'.enabled = true\n'os.description'.enabled = true";
    assert_detects(
        &(system.to_owned() + more),
        &files,
        &[],
        &[
            ("host.id", "abc123"),
            ("os.description", "Some Linux 12"),
            ("os.name", "Some Linux"),
            ("os.type", os),
            ("os.version", "12"),
        ],
    );
    let no_name = "[system.resource_attributes]\n'os.type'.enabled = false";
    assert_detects(&(system.to_owned() + no_name), &[], &[("HOSTNAME", "h")], &[("host.name", "h")]);
}

#[test]
fn a_container_knows_its_id_under_both_versions_of_cgroups() {
    let detects = |path: &str, text: String, expected: &[(&str, &str)]| {
        assert_detects("detectors = ['container']", &[(path, &text)], &[], expected);
    };
    for group in [
        format!("12:cpu:/docker/{ID}\n"),
        format!("1:name=systemd:/\n0::/system.slice/docker-{ID}.scope\n"),
        format!("1:cpu:/kubepods/besteffort/pod12-34/{ID}\n"),
        format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope\n"),
        format!("9:x:/kubepods-pod1.slice:cri-containerd:{ID}\n"),
    ] {
        detects("proc/self/cgroup", group, &[("container.id", ID)]);
    }
    for mount in [
        format!("1 2 0:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/sda rw\n"),
        format!(
            "1 2 0:1 /run/containerd/io.containerd.grpc.v1.cri/sandboxes/{SANDBOX}/hostname /etc/hostname rw\n\
             1 2 0:1 /var/lib/containers/storage/overlay-containers/{ID}/userdata/resolv.conf /etc/resolv.conf rw\n"
        ),
    ] {
        detects("proc/self/mountinfo", mount, &[("container.id", ID)]);
    }
    detects("proc/self/cgroup", "0::/user.slice/session-2.scope\n".to_owned(), &[]);
    detects("proc/self/mountinfo", format!("1 2 0:1 /sandboxes/{SANDBOX}/hostname /etc/hostname rw\n"), &[]);
}

#[test]
fn a_pod_knows_what_the_downward_api_tells() {
    let files = [
        ("var/run/secrets/kubernetes.io/serviceaccount/namespace", "shops"),
        ("etc/podinfo/labels", "app=\"shop\"\nnote=\"a \\\"b\\\"\\n\"\n"),
    ];
    assert_detects(
        "detectors = ['k8s']\n[k8s.resource_attributes]\n'k8s.pod.ip'.enabled = false",
        &files,
        &[("K8S_NODE_NAME", "n1"), ("POD_NAME", "shop-1"), ("POD_UID", "u"), ("POD_IP", "10.0.0.1")],
        &[
            ("k8s.namespace.name", "shops"),
            ("k8s.node.name", "n1"),
            ("k8s.pod.label.app", "shop"),
            ("k8s.pod.label.note", "a \"b\"\n"),
            ("k8s.pod.name", "shop-1"),
            ("k8s.pod.uid", "u"),
        ],
    );
    // What a manifest says wins over the service account.
    let namespace = [("POD_NAMESPACE", "mine")];
    assert_detects("detectors = ['k8snode']", &files[..1], &namespace, &[("k8s.namespace.name", "mine")]);
}

#[test]
fn the_first_detector_wins_and_the_telemetry_only_without_override() {
    let variables = [("OTEL_RESOURCE_ATTRIBUTES", "host.name=env,new=1")];
    let files = [("proc/sys/kernel/hostname", "os")];
    let (host, _root) = host(&files, &variables);
    let pair = |key: &str, value: &str| KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.into())) }),
        ..Default::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: vec![LogRecord::default()], ..Default::default() }];
    let resource = Some(Resource { attributes: vec![pair("host.name", "sdk")], ..Default::default() });
    let resource_logs = vec![ResourceLogs { resource, scope_logs, ..Default::default() }];
    let request = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let payload = Payload::validate(Signal::Logs, request.into()).unwrap();
    for (text, name) in [
        ("detectors = ['env', 'system']", "env"),
        ("detectors = ['system', 'env']", "os"),
        ("detectors = ['env', 'system']\noverride = false", "sdk"),
    ] {
        let edited = settings(text).edits(&host).apply(&payload);
        let attributes = edited.resources().next().unwrap().resource().attributes();
        assert_eq!(attributes.find("host.name").unwrap().as_str(), Some(name), "{text}");
        assert_eq!(attributes.find("new").unwrap().as_str(), Some("1"), "{text}");
    }
}
