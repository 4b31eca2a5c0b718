//! The addresses of a name, asked for again and again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};
use watershed_stage::{Interval, KeyError, Settings};

use super::{PORT, Report, address};

/// A name with addresses (`resolver.dns`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DnsSettings {
    /// The name. Each of its A and AAAA records is a backend; a headless service of Kubernetes has one for each pod
    /// that is ready.
    #[schemars(extend("x-required" = true))]
    hostname: String,
    /// The port of all of them; 4317 unless told. As in otelcol, one that is told is a part of the backends' names on the
    /// ring.
    port: Option<u16>,
    /// How often it is asked for.
    interval: Interval,
    /// How long one answer may take.
    timeout: Interval,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { hostname: String::new(), port: None, interval: Interval::secs(5), timeout: Interval::secs(1) }
    }
}

impl Settings for DnsSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.hostname.is_empty() {
            errors.push(KeyError::new("hostname", "no hostname specified to resolve the backends"));
        }
        if self.port == Some(0) {
            errors.push(KeyError::new("port", "must be a port from 1 to 65535"));
        }
        for (key, interval) in [("interval", self.interval), ("timeout", self.timeout)] {
            if interval.0.is_zero() {
                errors.push(KeyError::new(key, "must be positive"));
            }
        }
        errors
    }
}

impl DnsSettings {
    pub(super) async fn run(self, report: &Report) {
        loop {
            report(self.resolve().await);
            sleep(self.interval.0).await;
        }
    }

    /// Asks the system, on a thread of its own: its resolver knows `/etc/hosts` and search domains, and waits.
    async fn resolve(&self) -> Result<Vec<String>, String> {
        let lookup = lookup_host((self.hostname.as_str(), self.port.unwrap_or(PORT)));
        let found = timeout(self.timeout.0, lookup).await;
        let found =
            found.map_err(|_| format!("no answer for {} within {:?}", self.hostname, self.timeout.0))?;
        let found = found.map_err(|error| format!("{}: {error}", self.hostname))?;
        Ok(found.map(|found| address(found.ip(), self.port)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str) -> DnsSettings {
        toml::from_str(toml).unwrap()
    }

    #[tokio::test]
    async fn a_name_is_all_its_addresses() {
        let found = settings("hostname = \"localhost\"\nport = 1234").resolve().await.unwrap();
        assert!(found.contains(&"127.0.0.1:1234".to_owned()), "{found:?}");
        let found = settings("hostname = \"127.0.0.1\"").resolve().await.unwrap();
        assert_eq!(found, ["127.0.0.1"]);
        let found = settings("hostname = \"::1\"\nport = 4317").resolve().await.unwrap();
        assert_eq!(found, ["[::1]:4317"]);
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_an_error() {
        let error =
            settings("hostname = \"no-such-host.invalid\"\ntimeout = \"20s\"").resolve().await.unwrap_err();
        assert!(error.contains("no-such-host.invalid"), "{error}");
    }
}
