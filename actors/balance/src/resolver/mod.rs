//! Who the backends are, as far as somebody else knows.

mod dns;
mod file;
mod k8s;

use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::{Env, Failure, KeyError, Settings};

use self::dns::DnsSettings;
use self::file::FileSettings;
use self::k8s::K8sSettings;

/// The port of an endpoint that says none.
const PORT: u16 = 4317;

/// Who knows the backends (`resolver`): exactly one of them.
#[derive(Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResolverSettings {
    /// The configuration.
    #[serde(rename = "static")]
    fixed: Option<StaticSettings>,
    /// The addresses of a name.
    dns: Option<DnsSettings>,
    /// A file, which may change.
    file: Option<FileSettings>,
    /// The pods behind a service of Kubernetes.
    k8s: Option<K8sSettings>,
}

/// A list that does not change.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StaticSettings {
    /// The backends, as `host` or `host:port`; the port is 4317 unless told.
    #[schemars(extend("x-required" = true))]
    hostnames: Vec<String>,
}

/// Hears of every resolution: the names of all backends there are, or why they are not known.
pub(crate) type Report = Arc<dyn Fn(Result<Vec<String>, String>) + Send + Sync>;

/// What looks for backends.
pub(crate) enum Resolver {
    Static(StaticSettings),
    Dns(DnsSettings),
    File(FileSettings),
    K8s(Box<k8s::K8s>),
}

// === impl ResolverSettings ===

impl Settings for ResolverSettings {
    fn check(&self) -> Vec<KeyError> {
        let named = [self.fixed.is_some(), self.dns.is_some(), self.file.is_some(), self.k8s.is_some()];
        let what = "`static`, `dns`, `file` or `k8s`";
        let mut errors = match named.iter().filter(|is| **is).count() {
            1 => Vec::new(),
            0 => {
                vec![KeyError::new("", format!("no resolvers specified for the exporter: add one of {what}"))]
            }
            _ => {
                vec![KeyError::new("", format!("only one resolver should be specified: keep one of {what}"))]
            }
        };
        let fixed = self.fixed.iter().flat_map(|settings| under("static", settings.check()));
        let dns = self.dns.iter().flat_map(|settings| under("dns", settings.check()));
        let file = self.file.iter().flat_map(|settings| under("file", settings.check()));
        let k8s = self.k8s.iter().flat_map(|settings| under("k8s", settings.check()));
        errors.extend(fixed.chain(dns).chain(file).chain(k8s));
        errors
    }
}

fn under(key: &str, errors: Vec<KeyError>) -> impl Iterator<Item = KeyError> {
    errors.into_iter().map(move |error| error.under(key))
}

impl ResolverSettings {
    /// A list that does not change.
    pub fn fixed(hostnames: Vec<String>) -> Self {
        Self { fixed: Some(StaticSettings { hostnames }), ..Self::default() }
    }

    /// What metrics call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self { dns: Some(_), .. } => "dns",
            Self { file: Some(_), .. } => "file",
            Self { k8s: Some(_), .. } => "k8s",
            _ => "static",
        }
    }

    /// The resolver; fails where what it needs can not be read.
    pub(crate) fn open(&self, env: &Env) -> Result<Resolver, Failure> {
        Ok(match self {
            Self { dns: Some(dns), .. } => Resolver::Dns(dns.clone()),
            Self { file: Some(file), .. } => Resolver::File(file.clone()),
            Self { k8s: Some(k8s), .. } => Resolver::K8s(Box::new(k8s.open(env)?)),
            _ => Resolver::Static(self.fixed.clone().unwrap_or_default()),
        })
    }
}

impl Settings for StaticSettings {
    fn check(&self) -> Vec<KeyError> {
        if self.hostnames.is_empty() {
            return vec![KeyError::new(
                "hostnames",
                "lists no backend: write [\"gateway-1:4317\", \"gateway-2:4317\"]",
            )];
        }
        let wrong = |(index, name): (usize, &String)| {
            let error = endpoint(name).err()?;
            Some(KeyError::new(format!("hostnames.{index}"), error))
        };
        self.hostnames.iter().enumerate().filter_map(wrong).collect()
    }
}

// === impl Resolver ===

impl Resolver {
    /// Looks for backends for as long as it is polled.
    pub(crate) async fn run(self, report: Report) {
        match self {
            Self::Static(settings) => report(Ok(settings.hostnames)),
            Self::Dns(settings) => settings.run(&report).await,
            Self::File(settings) => settings.run(&report).await,
            Self::K8s(k8s) => k8s.run(&report).await,
        }
    }
}

/// What is connected to for a backend of this name: with a port. An error says what is wrong with the name.
pub fn endpoint(name: &str) -> Result<String, String> {
    let (scheme, rest) = name.split_once("://").map_or(("", name), |(scheme, rest)| (scheme, rest));
    let (host, port) = match rest.rsplit_once(':') {
        // An IPv6 address has colons of its own.
        Some((host, port)) if !rest.ends_with(']') && (!host.contains(':') || host.ends_with(']')) => {
            (host, port.parse().ok().filter(|port| *port > 0))
        }
        _ => (rest, Some(PORT)),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    // What has colons is an address.
    let is_address = !bare.contains(':') || bare.parse::<IpAddr>().is_ok();
    let is_host = !bare.is_empty() && is_address && !bare.contains(['/', '@', '?', '#', ' ', '\t', '"']);
    let is_scheme = ["", "http", "https"].contains(&scheme);
    let Some(port) = port.filter(|_| is_host && is_scheme) else {
        return Err(format!("\"{name}\" is no backend: write host or host:port, such as \"gateway-1:4317\""));
    };
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    Ok(match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("{scheme}[{address}]:{port}"),
        _ => format!("{scheme}{bare}:{port}"),
    })
}

/// An address as the Go collector's resolvers write it, with a port where one is told.
fn address(ip: IpAddr, port: Option<u16>) -> String {
    let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_get_the_port_that_they_lack() {
        for (name, expected) in [
            ("gateway", "gateway:4317"),
            ("gateway:1", "gateway:1"),
            ("10.0.0.1", "10.0.0.1:4317"),
            ("[::1]", "[::1]:4317"),
            ("::1", "[::1]:4317"),
            ("[2001:db8::1]:55680", "[2001:db8::1]:55680"),
            ("http://gateway:4317", "http://gateway:4317"),
            ("https://gateway", "https://gateway:4317"),
        ] {
            assert_eq!(endpoint(name).as_deref(), Ok(expected), "{name}");
        }
        let wrong =
            ["", ":4317", "a b", "gateway:", "gateway:0", "gateway:http", "ftp://a:1", "http://a/b", "u@h:1"];
        for name in wrong.into_iter().chain([
            "gateway:4317:4317",
            "[gateway:1]:4317",
            "::g",
            "gateway:4317,other:4317",
        ]) {
            assert!(endpoint(name).is_err(), "{name}");
        }
    }
}
