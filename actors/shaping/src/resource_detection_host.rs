//! What a machine, a container and a pod say of themselves.
//!
//! Names are those of the OpenTelemetry semantic conventions (`host`, `os`, `container`, `k8s`). What can not be read
//! is not there: a detector that does not fit the place finds nothing.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

/// Attributes found, by name. A name may come twice: the first holds.
pub(crate) type Found = Vec<(String, String)>;

/// Where files and environment variables are read.
pub(crate) struct Host {
    root: PathBuf,
    variable: Variable,
}

/// The value of an environment variable.
type Variable = Box<dyn Fn(&str) -> Option<String>>;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    System,
    Container,
    K8s,
}

/// Environment variables that manifests use for the downward API, with the attribute that each becomes.
const DOWNWARD: [(&str, &[&str]); 9] = [
    ("k8s.cluster.name", &["K8S_CLUSTER_NAME"]),
    ("k8s.node.name", &["K8S_NODE_NAME", "NODE_NAME"]),
    ("k8s.node.uid", &["K8S_NODE_UID"]),
    ("k8s.namespace.name", &["K8S_NAMESPACE_NAME", "K8S_NAMESPACE", "K8S_POD_NAMESPACE", "POD_NAMESPACE"]),
    ("k8s.pod.name", &["K8S_POD_NAME", "POD_NAME"]),
    ("k8s.pod.uid", &["K8S_POD_UID", "POD_UID"]),
    ("k8s.pod.ip", &["K8S_POD_IP", "POD_IP"]),
    ("k8s.container.name", &["K8S_CONTAINER_NAME", "CONTAINER_NAME"]),
    ("k8s.deployment.name", &["K8S_DEPLOYMENT_NAME"]),
];

/// Where the namespace stands in every pod that has a service account.
const NAMESPACE: &str = "var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// One for each label of the pod, after this.
const POD_LABEL: &str = "k8s.pod.label";

// === impl Part ===

impl Part {
    pub(crate) const ALL: [Part; 3] = [Part::System, Part::Container, Part::K8s];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Container => "container",
            Self::K8s => "k8s",
        }
    }

    /// The attributes, and whether each is written unless told otherwise.
    pub(crate) fn attributes(self) -> &'static [(&'static str, bool)] {
        match self {
            // As otelcol has it.
            Self::System => &[
                ("host.name", true),
                ("host.id", false),
                ("host.arch", false),
                ("os.type", true),
                ("os.name", false),
                ("os.version", false),
                ("os.description", false),
            ],
            Self::Container => &[("container.id", true)],
            Self::K8s => &[
                ("k8s.cluster.name", true),
                ("k8s.node.name", true),
                ("k8s.node.uid", true),
                ("k8s.namespace.name", true),
                ("k8s.pod.name", true),
                ("k8s.pod.uid", true),
                ("k8s.pod.ip", true),
                ("k8s.container.name", true),
                ("k8s.deployment.name", true),
            ],
        }
    }

    /// Whether there is such an attribute. Pods have labels of any name.
    pub(crate) fn knows(self, name: &str) -> bool {
        self.attributes().iter().any(|(known, _)| *known == name) || self == Self::K8s && is_label(name)
    }

    /// Whether an attribute is written unless told otherwise.
    pub(crate) fn is_default(self, name: &str) -> bool {
        let known = self.attributes().iter().find(|(known, _)| *known == name);
        known.map_or(is_label(name), |(_, is_default)| *is_default)
    }
}

fn is_label(name: &str) -> bool {
    name.strip_prefix(POD_LABEL).is_some_and(|rest| rest.starts_with('.'))
}

// === impl Host ===

impl Host {
    /// The one this process runs on.
    pub(crate) fn here() -> Self {
        Self::new("/", |name| std::env::var(name).ok())
    }

    pub(crate) fn new(root: impl Into<PathBuf>, variable: impl Fn(&str) -> Option<String> + 'static) -> Self {
        Self { root: root.into(), variable: Box::new(variable) }
    }

    pub(crate) fn detect(&self, part: Part) -> Found {
        match part {
            Part::System => self.system(),
            Part::Container => {
                self.container_id().into_iter().map(|id| ("container.id".to_owned(), id)).collect()
            }
            Part::K8s => self.k8s(),
        }
    }

    /// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`. Source: OpenTelemetry specification, `resource/sdk.md`.
    pub(crate) fn environment(&self) -> Found {
        let mut found = Found::new();
        if let Some(name) = self.variable("OTEL_SERVICE_NAME") {
            found.push(("service.name".to_owned(), name));
        }
        let list = self.variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        match attributes(&list) {
            Some(attributes) => found.extend(attributes),
            // The specification: one that is malformed makes all of it void.
            None => tracing::warn!("OTEL_RESOURCE_ATTRIBUTES is not key=value,key=value and is ignored"),
        }
        found
    }

    fn system(&self) -> Found {
        let release = self.file("etc/os-release").or_else(|| self.file("usr/lib/os-release"));
        let release = release.unwrap_or_default();
        let of_release =
            |key: &str| assigned(&release).find(|(name, _)| *name == key).map(|(_, value)| value);
        let first = |paths: [&str; 2]| paths.iter().find_map(|path| self.line(path));
        let name =
            || first(["proc/sys/kernel/hostname", "etc/hostname"]).or_else(|| self.variable("HOSTNAME"));
        let found = [
            ("host.name", name()),
            ("host.id", first(["etc/machine-id", "var/lib/dbus/machine-id"])),
            ("host.arch", Some(arch(std::env::consts::ARCH).to_owned())),
            ("os.type", Some(os(std::env::consts::OS).to_owned())),
            ("os.name", of_release("NAME")),
            ("os.version", of_release("VERSION_ID")),
            ("os.description", of_release("PRETTY_NAME")),
        ];
        found.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// Version 1 of cgroups tells the id by the path; version 2 does not, but what is mounted over `/etc/hostname` and
    /// its like lies in the container's directory.
    fn container_id(&self) -> Option<String> {
        let groups = self.file("proc/self/cgroup").unwrap_or_default();
        let by_group = groups.lines().find_map(|line| {
            let last = line.rsplit(['/', ':']).next()?.trim_end_matches(".scope");
            let id = last.rsplit('-').next()?;
            is_container_id(id).then(|| id.to_owned())
        });
        by_group.or_else(|| {
            let mounts = self.file("proc/self/mountinfo")?;
            mounts.lines().find_map(container_of_mount)
        })
    }

    fn k8s(&self) -> Found {
        let variables = DOWNWARD.iter().filter_map(|(attribute, names)| {
            let value = names.iter().find_map(|name| self.variable(name))?;
            Some(((*attribute).to_owned(), value))
        });
        let mut found: Found = variables.collect();
        let namespace = self.line(NAMESPACE).map(|name| ("k8s.namespace.name".to_owned(), name));
        found.extend(namespace);
        let labels = self.file("etc/podinfo/labels").unwrap_or_default();
        found.extend(assigned(&labels).map(|(key, value)| (format!("{POD_LABEL}.{key}"), value)));
        found
    }

    /// An environment variable that is set to something.
    fn variable(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    fn file(&self, path: &str) -> Option<String> {
        const MAX_BYTES: u64 = 1 << 20;
        let mut text = String::new();
        File::open(self.root.join(path)).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The first line of a file, if there is anything in it.
    fn line(&self, path: &str) -> Option<String> {
        let text = self.file(path)?;
        let line = text.lines().next()?.trim();
        (!line.is_empty()).then(|| line.to_owned())
    }
}

/// `key=value,key=value`, percent-encoded. `None` if it is malformed.
fn attributes(list: &str) -> Option<Found> {
    let pairs = list.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        let key = decoded(key.trim())?;
        (!key.is_empty()).then_some((key, decoded(value.trim())?))
    };
    pairs.map(pair).collect()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = after.split_first_chunk::<2>()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(digits[0])? << 4 | digit(digits[1])?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Lines of `key=value` or `key="value"`, as `os-release` and the downward API write them.
fn assigned(text: &str) -> impl Iterator<Item = (&str, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key, unquoted(value)))
}

fn unquoted(value: &str) -> String {
    let inner = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let Some(inner) = inner else { return value.to_owned() };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(next) = chars.next() {
        match next {
            '\\' => text.extend(chars.next().map(|escaped| if escaped == 'n' { '\n' } else { escaped })),
            next => text.push(next),
        }
    }
    text
}

/// 64 hexadecimal digits.
fn is_container_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The container in whose directory a mount's root lies. A pod's sandbox has an id, too, which is not the container's.
fn container_of_mount(line: &str) -> Option<String> {
    let mut parts = line.split('/').peekable();
    while let Some(part) = parts.next() {
        if (part == "containers" || part == "overlay-containers")
            && let Some(id) = parts.peek().filter(|id| is_container_id(id))
        {
            return Some((*id).to_owned());
        }
    }
    None
}

/// Rust's name of an architecture as the semantic conventions have it.
fn arch(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        "powerpc" => "ppc32",
        "powerpc64" => "ppc64",
        name => name,
    }
}

/// Rust's name of an operating system as the semantic conventions have it.
fn os(name: &str) -> &str {
    match name {
        "macos" => "darwin",
        name => name,
    }
}
