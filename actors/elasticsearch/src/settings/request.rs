//! What settings say of requests: where they go, who sends them, and what they ask for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use watershed_net::{Compression, HttpClient};
use watershed_stage::{CompressionSetting, Credentials, Env, Failure};

use super::{LogstashSettings, Settings};

/// Where endpoints are taken from if the settings have none.
const ENDPOINTS: &str = "ELASTICSEARCH_URL";

impl Settings {
    /// A client for one lane, which reads answers up to a size in bytes, and the headers of its requests.
    pub(crate) fn open(&self, env: &Env, largest: u64) -> Result<(HttpClient, Credentials), Failure> {
        self.shared().open_with(env, |options| {
            if self.compression == CompressionSetting::Gzip {
                options.compression = Compression::Gzip(self.compression_params.level);
            }
            options.max_response_size = largest;
            // What nothing is said of may come in any coding (RFC 9110, 12.5.3).
            options.headers.push(("accept-encoding".to_owned(), "identity".to_owned()));
            options.headers.extend(self.authorization().map(|value| ("authorization".to_owned(), value)));
        })
    }

    /// The URLs of all nodes that are known without asking.
    pub(crate) fn urls(&self) -> Result<Vec<String>, String> {
        if let Some(id) = &self.cloudid {
            return cloud(id).map(|url| vec![url]);
        }
        if let Some(url) = &self.endpoint {
            return Ok(vec![url.clone()]);
        }
        if !self.endpoints.is_empty() {
            return Ok(self.endpoints.clone());
        }
        let from_environment = std::env::var(ENDPOINTS).unwrap_or_default();
        let urls = from_environment.split(',').map(str::trim).filter(|url| !url.is_empty());
        Ok(urls.map(str::to_owned).collect())
    }

    /// `Authorization`, if the settings say it.
    fn authorization(&self) -> Option<String> {
        if let Some(key) = &self.api_key {
            return Some(format!("ApiKey {key}"));
        }
        let (user, password) = (self.user.as_ref()?, self.password.as_ref()?);
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    /// What the names of indices end with, of what came at a time in nanoseconds since 1970.
    pub(crate) fn suffix(&self, arrived: u64) -> String {
        let LogstashSettings { enabled, prefix_separator, date_format } = &self.logstash_format;
        let date = date(date_format, arrived).filter(|_| *enabled);
        date.map_or_else(String::new, |date| format!("{prefix_separator}{date}"))
    }

    /// What follows the path of a `_bulk` request. Only what is read of an answer is asked for.
    pub(crate) fn query(&self) -> String {
        let mut query = "filter_path=items.*.status,items.*.error.type,items.*.error.reason".to_owned();
        if !self.pipeline.is_empty() {
            query.push_str("&pipeline=");
            for byte in self.pipeline.bytes() {
                if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                    query.push(byte.into());
                } else {
                    query.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        if let Some(include) = self.include_source_on_error {
            query.push_str(&format!("&include_source_on_error={include}"));
        }
        query
    }
}

/// The URL in the id of a deployment: `name:` and the base64 of `host$elasticsearch$kibana`.
fn cloud(id: &str) -> Result<String, String> {
    let wrong = || format!("{id:?} is no id of a deployment: copy it from Elastic's console");
    let (_, encoded) = id.split_once(':').ok_or_else(wrong)?;
    let decoded = STANDARD.decode(encoded).map_err(|_| wrong())?;
    let decoded = String::from_utf8(decoded).map_err(|_| wrong())?;
    match decoded.split('$').collect::<Vec<_>>()[..] {
        [host, elasticsearch, ..] if !host.is_empty() && !elasticsearch.is_empty() => {
            Ok(format!("https://{elasticsearch}.{host}"))
        }
        _ => Err(wrong()),
    }
}

/// A date in a format of a few letters; `None` if it has others.
pub(super) fn date(format: &str, nanos: u64) -> Option<String> {
    let (year, month, day) = crate::document::date(nanos);
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        match c {
            '%' => text.push_str(&match rest.next()? {
                'Y' => format!("{year:04}"),
                'y' => format!("{:02}", year % 100),
                'm' => format!("{month:02}"),
                'd' => format!("{day:02}"),
                'H' => format!("{:02}", nanos / 3_600_000_000_000 % 24),
                '%' => "%".to_owned(),
                _ => return None,
            }),
            c => text.push(c),
        }
    }
    Some(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_deployment_is_its_url() {
        let id = format!("mine:{}", STANDARD.encode("eu.cloud.es.io:443$abc$def"));
        assert_eq!(cloud(&id).as_deref(), Ok("https://abc.eu.cloud.es.io:443"));
    }

    #[test]
    fn dates_and_queries_are_made_of_the_settings() {
        let settings: Settings = toml::from_str(
            "pipeline = \"a b\"\ninclude_source_on_error = false\nlogstash_format = { enabled = true, date_format = \"%y.%m-%H\" }",
        )
        .unwrap();
        assert_eq!(settings.suffix(1_721_314_113_467_654_123), "-24.07-14");
        assert!(settings.query().ends_with("&pipeline=a%20b&include_source_on_error=false"));
        assert_eq!(Settings::default().suffix(1), "");
    }
}
