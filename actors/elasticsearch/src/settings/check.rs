//! What settings can not mean.

use http::Uri;
use watershed_net::HttpClient;
use watershed_stage::{CompressionSetting, KeyError, Reference};

use super::Settings;
use super::request::date;

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = self.shared().check();
        self.check_endpoints(&mut errors);
        let both = [
            ("user", self.user.is_some()),
            ("api_key", self.api_key.is_some()),
            ("auth", self.auth.is_some()),
        ];
        let given: Vec<&str> = both.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        if let [first, second, ..] = given[..] {
            errors.push(KeyError::new(second, format!("stands beside `{first}`: keep one of the two")));
        }
        if self.user.is_some() != self.password.is_some() {
            errors.push(KeyError::new("password", "`user` and `password` go together"));
        }
        if self.compression == CompressionSetting::Zstd {
            errors.push(KeyError::new("compression", "Elasticsearch reads `gzip` and `none`"));
        }
        if !(1..=9).contains(&self.compression_params.level) {
            errors.push(KeyError::new("compression_params.level", "must lie between 1 and 9"));
        }
        if self.flush.bytes == 0 {
            errors.push(KeyError::new("flush.bytes", "must be positive"));
        }
        if self.opensearch && self.require_data_stream == Some(true) {
            let text = "OpenSearch can not be asked for that: leave it out, and see that an index template makes data streams of these names";
            errors.push(KeyError::new("require_data_stream", text));
        }
        if self.num_workers == Some(0) {
            errors.push(KeyError::new("num_workers", "must be positive"));
        }
        let mapping = &self.mapping;
        if !mapping.allowed_modes.contains(&mapping.mode) {
            errors.push(KeyError::new("mapping.allowed_modes", "does not contain `mapping.mode`"));
        }
        for (key, index) in [
            ("logs_index", &self.logs_index),
            ("metrics_index", &self.metrics_index),
            ("traces_index", &self.traces_index),
        ] {
            let upper = index.chars().any(char::is_uppercase);
            let wrong = index.starts_with(['-', '_', '+'])
                || index.contains([' ', ',', '#', ':', '/', '\\', '*', '?', '"', '<', '>', '|']);
            if upper || wrong {
                let text = format!(
                    "{index:?} is no name of an index: lower case, without any of ` ,#:/\\*?\"<>|`, not beginning with one of `-_+`"
                );
                errors.push(KeyError::new(key, text));
            }
        }
        if date(&self.logstash_format.date_format, 0).is_none() {
            errors.push(KeyError::new("logstash_format.date_format", "may have %Y, %y, %m, %d and %H"));
        }
        for (index, status) in self.retry.retry_on_status.iter().enumerate() {
            if !(400..600).contains(status) {
                let key = format!("retry.retry_on_status.{index}");
                errors.push(KeyError::new(key, format!("{status} is no status of a failure")));
            }
        }
        errors.extend(self.retry.shared().check().into_iter().map(|error| error.under("retry")));
        errors.extend(self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")));
        errors
    }

    fn references(&self) -> Vec<Reference> {
        self.shared().references()
    }
}

impl Settings {
    fn check_endpoints(&self, errors: &mut Vec<KeyError>) {
        let given = [
            ("endpoint", self.endpoint.is_some()),
            ("endpoints", !self.endpoints.is_empty()),
            ("cloudid", self.cloudid.is_some()),
        ];
        let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        let key = match given[..] {
            [] => "endpoint",
            [key] => key,
            [_, second, ..] => {
                let text = "exactly one of `endpoint`, `endpoints` and `cloudid` must be specified";
                return errors.push(KeyError::new(second, text));
            }
        };
        let urls = match self.urls() {
            Ok(urls) => urls,
            Err(text) => return errors.push(KeyError::new(key, text)),
        };
        if urls.is_empty() {
            let text = "exactly one of `endpoint`, `endpoints` and `cloudid` must be specified, such as \"http://localhost:9200\"";
            errors.push(KeyError::new("endpoint", text));
        }
        for (index, url) in urls.iter().enumerate() {
            let key = if key == "endpoints" { format!("endpoints.{index}") } else { key.to_owned() };
            let checked = url
                .parse::<Uri>()
                .map_err(|_| format!("{url:?} is no URL: write it like \"http://host:9200\""));
            let checked = checked.and_then(|url| HttpClient::check(&url).map_err(|error| error.to_string()));
            errors.extend(checked.err().map(|error| KeyError::new(key, error)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use watershed_stage::Settings as _;

    use super::*;

    fn keys(text: &str) -> Vec<String> {
        let settings: Settings = toml::from_str(text).unwrap();
        settings.check().into_iter().map(|error| error.key).collect()
    }

    #[test]
    fn what_contradicts_itself_is_an_error_at_its_key() {
        let endpoint = "endpoint = \"http://localhost:9200\"\n";
        assert!(keys(endpoint).is_empty());
        for (text, key) in [
            ("endpoints = [\"http://a:9200\"]", "endpoints"),
            ("user = \"u\"\npassword = \"p\"\napi_key = \"k\"", "api_key"),
            ("user = \"u\"", "password"),
            ("compression = \"zstd\"", "compression"),
            ("compression_params = { level = 12 }", "compression_params.level"),
            ("logs_index = \"Logs\"", "logs_index"),
            ("traces_index = \"a b\"", "traces_index"),
            ("logstash_format = { date_format = \"%q\" }", "logstash_format.date_format"),
            ("retry = { retry_on_status = [429, 200] }", "retry.retry_on_status.1"),
            ("mapping = { allowed_modes = [\"ecs\"] }", "mapping.allowed_modes"),
            ("flush = { bytes = 0 }", "flush.bytes"),
            ("num_workers = 0", "num_workers"),
            ("opensearch = true\nrequire_data_stream = true", "require_data_stream"),
        ] {
            assert_eq!(keys(&format!("{endpoint}{text}")), [key], "{text}");
        }
        assert_eq!(keys("endpoints = [\"http://a:9200\", \"a:9200\"]"), ["endpoints.1"]);
        assert_eq!(keys("cloudid = \"nonsense\""), ["cloudid"]);
    }
}
