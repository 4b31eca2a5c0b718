//! `headers_setter`: headers for an exporter, out of what came with the telemetry.

use std::sync::Arc;

use futures_util::future::{FutureExt as _, LocalBoxFuture};
use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use watershed_stage::{
    AuthError, ClientAuth, Dependence, Env, Extension, Failure, Headers, KeyError, Origin, Provided, Role,
};

use crate::credentials::secret_value;
use crate::file::Source;

/// Writes headers.
pub(crate) struct HeadersSetter {
    rules: Vec<Rule>,
}

/// Settings of `headers_setter`, under otelcol's keys. They may hold tokens: never printed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// What is done, in this order.
    headers: Vec<HeaderSettings>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct HeaderSettings {
    /// What is done with the header.
    action: Action,
    /// The header's name.
    #[schemars(extend("x-required" = true))]
    key: String,
    /// The value.
    value: Option<String>,
    /// A file that holds the value, read again when it changes.
    value_file: Option<String>,
    /// The metadata key whose value it is. The receiver must keep it (`include_metadata`).
    from_context: Option<String>,
    /// The attribute, given by the receiver's authenticator, whose value it is.
    from_attribute: Option<String>,
    /// The value where there is none in the context.
    default_value: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Action {
    /// Writes the header where no earlier entry has.
    Insert,
    /// Writes the header where an earlier entry has.
    Update,
    /// Writes the header.
    #[default]
    Upsert,
    /// Takes out what earlier entries have written.
    Delete,
}

struct Rule {
    action: Action,
    name: HeaderName,
    value: Value,
    default: Option<String>,
}

enum Value {
    None,
    Source(Source<String>),
    Metadata(String),
    Attribute(String),
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        if self.headers.is_empty() {
            return vec![KeyError::new("headers", "missing headers configuration: list at least one")];
        }
        let checked = self.headers.iter().enumerate();
        checked
            .flat_map(|(index, header)| {
                header.check().into_iter().map(move |error| error.under(&format!("headers.{index}")))
            })
            .collect()
    }
}

impl HeaderSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if self.key.is_empty() {
            errors.push(KeyError::new("key", "missing header name"));
        } else if self.key.parse::<HeaderName>().is_err() {
            errors.push(KeyError::new("key", "is not a name of a header"));
        }
        let sources = [&self.value, &self.value_file, &self.from_context, &self.from_attribute];
        let expected = "'value', 'value_file', 'from_context' or 'from_attribute'";
        match (sources.into_iter().flatten().count(), self.action) {
            (1, _) | (0, Action::Delete) => {}
            (0, _) => errors.push(KeyError::new("", format!("missing header source, must be {expected}"))),
            (_, _) => {
                errors.push(KeyError::new("", format!("invalid header source, must be one of {expected}")));
            }
        }
        if self.default_value.is_some() && self.from_context.is_none() && self.from_attribute.is_none() {
            let message = "goes with 'from_context' and 'from_attribute' only";
            errors.push(KeyError::new("default_value", message));
        }
        for (key, value) in [("value", &self.value), ("default_value", &self.default_value)] {
            if value.as_ref().is_some_and(|value| secret_value(value).is_none()) {
                errors.push(KeyError::new(key, "has characters that no header may hold"));
            }
        }
        errors
    }
}

// === impl HeadersSetter ===

impl Extension for HeadersSetter {
    type Settings = Settings;

    fn roles(_: &Settings) -> &'static [Role] {
        &[Role::ClientAuth]
    }

    fn build(settings: &Arc<Settings>, _: &Env) -> Result<Provided, Failure> {
        Ok(Provided { client_auth: Some(Arc::new(Self::new(settings)?)), ..Provided::default() })
    }
}

impl HeadersSetter {
    fn new(settings: &Settings) -> Result<Self, Failure> {
        let rules = settings.headers.iter().enumerate().map(|(index, header)| Rule::new(index, header));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    fn written(&self, origin: &Origin) -> Result<Headers, AuthError> {
        let mut headers = Headers::new();
        for rule in &self.rules {
            let is_there = headers.iter().any(|(name, _)| *name == rule.name);
            match rule.action {
                Action::Insert if is_there => continue,
                Action::Update if !is_there => continue,
                Action::Delete => {
                    headers.retain(|(name, _)| *name != rule.name);
                    continue;
                }
                Action::Insert | Action::Update | Action::Upsert => {}
            }
            let Some(value) = rule.value(origin)? else { continue };
            let unfit = || {
                let name = &rule.name;
                let reason = format!("what is to be sent as `{name}` has characters that no header may hold");
                match rule.value {
                    // The file may be put right.
                    Value::Source(_) => AuthError::Retryable(reason),
                    _ => AuthError::Permanent(reason),
                }
            };
            let value = secret_value(&value).ok_or_else(unfit)?;
            headers.retain(|(name, _)| *name != rule.name);
            headers.push((rule.name.clone(), value));
        }
        Ok(headers)
    }
}

impl ClientAuth for HeadersSetter {
    fn headers<'a>(&'a self, origin: &'a Origin) -> LocalBoxFuture<'a, Result<Headers, AuthError>> {
        std::future::ready(self.written(origin)).boxed_local()
    }

    fn depends(&self) -> Dependence {
        let keys = self.rules.iter().filter_map(|rule| match &rule.value {
            Value::Metadata(key) => Some(key.clone()),
            _ => None,
        });
        let identity = self.rules.iter().any(|rule| matches!(rule.value, Value::Attribute(_)));
        Dependence { metadata_keys: keys.collect(), identity }
    }
}

// === impl Rule ===

impl Rule {
    fn new(index: usize, settings: &HeaderSettings) -> Result<Self, Failure> {
        let key = || format!("headers.{index}");
        let name = settings.key.parse().map_err(|_| Failure::new(format!("`{}.key` is no header", key())))?;
        let HeaderSettings { value, value_file, from_context, from_attribute, .. } = settings;
        let value = match (value, value_file, from_context, from_attribute) {
            (Some(value), ..) => Value::Source(Source::fixed(value.clone())),
            (_, Some(file), ..) => {
                let key = format!("{}.value_file", key());
                Value::Source(Source::file(&key, file, |text| Ok(text.trim().to_owned()))?)
            }
            (_, _, Some(key), _) => Value::Metadata(key.clone()),
            (_, _, _, Some(attribute)) => Value::Attribute(attribute.clone()),
            _ => Value::None,
        };
        Ok(Self { action: settings.action, name, value, default: settings.default_value.clone() })
    }

    /// The value for data from `origin`; nothing is sent where there is none.
    fn value(&self, origin: &Origin) -> Result<Option<String>, AuthError> {
        let found = match &self.value {
            Value::None => None,
            Value::Source(source) => Some((*source.get()).clone()),
            Value::Metadata(key) => {
                let mut values = origin.metadata.get(key);
                let first = values.next().map(str::to_owned);
                if values.next().is_some() {
                    let many =
                        format!("several values of `{key}` came with the data, and only one can be sent");
                    return Err(AuthError::Permanent(many));
                }
                first
            }
            Value::Attribute(attribute) => {
                origin.auth.as_ref().and_then(|identity| identity.0.get(attribute)).cloned()
            }
        };
        Ok(found.or_else(|| self.default.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use http::HeaderMap;
    use watershed_stage::{Identity, Metadata, Settings as _};

    use super::*;

    fn setter(text: &str) -> HeadersSetter {
        let settings: Settings = toml::from_str(text).unwrap();
        assert_eq!(settings.check(), []);
        HeadersSetter::new(&settings).unwrap()
    }

    fn origin(metadata: &[(&'static str, &str)]) -> Origin {
        let headers: HeaderMap = metadata
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let identity = Identity([("username".to_owned(), "ann".to_owned())].into());
        Origin { metadata: Metadata::new(headers), auth: Some(Arc::new(identity)), ..Origin::default() }
    }

    fn written(setter: &HeadersSetter, origin: &Origin) -> Vec<String> {
        let headers = setter.written(origin).unwrap();
        headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn values_come_from_the_settings_the_context_and_the_authenticator() {
        let setter = setter(
            "headers = [
                { key = 'X-Fixed', value = 'v' },
                { key = 'X-Scope-OrgID', from_context = 'Tenant', default_value = 'nobody' },
                { key = 'X-User', from_attribute = 'username' },
                { key = 'X-Absent', from_attribute = 'subject' },
            ]",
        );
        assert_eq!(
            written(&setter, &origin(&[("tenant", "acme")])),
            ["x-fixed=v", "x-scope-orgid=acme", "x-user=ann"]
        );
        assert_eq!(written(&setter, &Origin::default()), ["x-fixed=v", "x-scope-orgid=nobody"]);
        let error = setter.written(&origin(&[("tenant", "a"), ("tenant", "b")])).unwrap_err();
        assert!(matches!(&error, AuthError::Permanent(reason) if reason.contains("`Tenant`")), "{error}");
        assert_eq!(setter.depends().metadata_keys, ["Tenant"]);
        assert!(setter.written(&Origin::default()).unwrap()[0].1.is_sensitive());
    }

    #[test]
    fn actions_look_at_what_earlier_entries_wrote() {
        let setter = setter(
            "headers = [
                { action = 'update', key = 'a', value = '0' },
                { action = 'insert', key = 'a', value = '1' },
                { action = 'insert', key = 'A', value = '2' },
                { key = 'b', value = '3' },
                { action = 'update', key = 'b', value = '4' },
                { key = 'c', value = '5' },
                { action = 'delete', key = 'c' },
            ]",
        );
        assert_eq!(written(&setter, &Origin::default()), ["a=1", "b=4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_of_a_file_changes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value");
        fs::write(&path, "one\n").unwrap();
        let setter = setter(&format!("headers = [{{ key = 'a', value_file = {path:?} }}]"));
        assert_eq!(written(&setter, &Origin::default()), ["a=one"]);
        fs::write(&path, "three\n").unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(written(&setter, &Origin::default()), ["a=three"]);
        fs::write(&path, "two\nlines\n").unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        let error = setter.written(&Origin::default()).unwrap_err();
        assert!(matches!(&error, AuthError::Retryable(reason) if !reason.contains("lines")), "{error}");
    }

    #[test]
    fn settings_are_checked_with_the_place_of_what_is_wrong() {
        let errors = |text: &str| -> Vec<(String, String)> {
            let settings: Settings = toml::from_str(text).unwrap();
            settings.check().into_iter().map(|error| (error.key, error.message)).collect()
        };
        assert_eq!(errors("headers = []")[0].0, "headers");
        let wrong = errors(
            "headers = [
                { key = 'a', value = 'b' },
                { value = 'b' },
                { key = 'a b' },
                { key = 'a', value = 'b', from_context = 'c' },
                { key = 'a', value = 'b', default_value = 'c' },
                { key = 'a', value = \"b\\nc\" },
            ]",
        );
        let keys: Vec<&str> = wrong.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "headers.1.key",
                "headers.2.key",
                "headers.2",
                "headers.3",
                "headers.4.default_value",
                "headers.5.value",
            ]
        );
    }
}
