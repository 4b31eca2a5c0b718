//! `attributes` and `resource`: insert, update, upsert and delete, on the wire bytes.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{Context, Env, Error, Failure, KeyError, Outlet, Payload, Processor};
use watershed_telemetry::edit::{Action, AttributeEdits, AttributeValue, Target};

/// Edits the attributes of spans, data points and log records.
pub(crate) struct Attributes(AttributeEdits);

/// Edits the attributes of resources.
pub(crate) struct Resource(AttributeEdits);

/// Settings of `attributes`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttributesSettings {
    /// What to do, in this order.
    #[serde(default)]
    actions: Vec<Edit>,
}

/// Settings of `resource`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResourceSettings {
    /// What to do, in this order.
    #[serde(default)]
    attributes: Vec<Edit>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Edit {
    key: String,
    action: Verb,
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    value: Option<toml::Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Insert,
    Update,
    Upsert,
    Delete,
}

// === impl Edit ===

impl Edit {
    fn errors(&self, list: &str, index: usize) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let at = |key: &str| format!("{list}.{index}{key}");
        if self.key.is_empty() {
            errors.push(KeyError::new(at(".key"), "an attribute has a name: it must not be empty"));
        }
        match (&self.value, self.verb_needs_value()) {
            (None, true) => errors.push(KeyError::new(at(""), "needs a `value` to write")),
            (Some(_), false) => errors.push(KeyError::new(at(".value"), "`delete` takes no value")),
            (Some(value), true) if attribute(value).is_none() => {
                let kind = value.type_str();
                let message =
                    format!("an attribute is a string, an integer, a float or a boolean, not a {kind}");
                errors.push(KeyError::new(at(".value"), message));
            }
            _ => {}
        }
        errors
    }

    fn verb_needs_value(&self) -> bool {
        self.action != Verb::Delete
    }

    fn action(&self) -> Option<Action> {
        let key = self.key.clone();
        if self.action == Verb::Delete {
            return Some(Action::Delete { key });
        }
        let value = attribute(self.value.as_ref()?)?.into();
        Some(match self.action {
            Verb::Insert => Action::Insert { key, value },
            Verb::Update => Action::Update { key, value },
            Verb::Upsert | Verb::Delete => Action::Upsert { key, value },
        })
    }
}

fn attribute(value: &toml::Value) -> Option<AttributeValue> {
    match value {
        toml::Value::String(text) => Some(text.as_str().into()),
        toml::Value::Integer(number) => Some((*number).into()),
        toml::Value::Float(number) => Some((*number).into()),
        toml::Value::Boolean(truth) => Some((*truth).into()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

fn check(edits: &[Edit], list: &str) -> Vec<KeyError> {
    if edits.is_empty() {
        return vec![KeyError::new(
            "",
            format!("missing required field \"{list}\": without it nothing is edited"),
        )];
    }
    edits.iter().enumerate().flat_map(|(index, edit)| edit.errors(list, index)).collect()
}

fn edits(target: Target, edits: &[Edit]) -> AttributeEdits {
    AttributeEdits::new(target, edits.iter().filter_map(Edit::action).collect())
}

// === impl Attributes, Resource ===

impl watershed_stage::Settings for AttributesSettings {
    fn check(&self) -> Vec<KeyError> {
        check(&self.actions, "actions")
    }
}

impl watershed_stage::Settings for ResourceSettings {
    fn check(&self) -> Vec<KeyError> {
        check(&self.attributes, "attributes")
    }
}

impl Processor for Attributes {
    type Settings = AttributesSettings;

    fn build(settings: &Arc<Self::Settings>, _env: &Env) -> Result<Self, Failure> {
        Ok(Self(edits(Target::Item, &settings.actions)))
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        outlet.send(self.0.apply(&payload));
        Ok(())
    }
}

impl Processor for Resource {
    type Settings = ResourceSettings;

    fn build(settings: &Arc<Self::Settings>, _env: &Env) -> Result<Self, Failure> {
        Ok(Self(edits(Target::Resource, &settings.attributes)))
    }

    async fn handle(&mut self, payload: Payload, _: &Arc<Context>, outlet: &mut Outlet) -> Result<(), Error> {
        outlet.send(self.0.apply(&payload));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
    use prost::Message as _;
    use watershed_stage::Signal;

    use super::*;

    fn pair(key: &str, value: Value) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
    }

    fn text(text: &str) -> Value {
        Value::StringValue(text.into())
    }

    /// One log record with these attributes, of a resource with the same.
    fn logs(pairs: &[KeyValue]) -> ExportLogsServiceRequest {
        let record = LogRecord { attributes: pairs.to_vec(), ..Default::default() };
        let scope_logs = vec![ScopeLogs { log_records: vec![record], ..Default::default() }];
        let resource = Some(ProtoResource { attributes: pairs.to_vec(), ..Default::default() });
        let resource_logs = vec![ResourceLogs { resource, scope_logs, ..Default::default() }];
        ExportLogsServiceRequest { resource_logs }
    }

    fn apply(edits: &AttributeEdits, request: &ExportLogsServiceRequest) -> ExportLogsServiceRequest {
        let payload = Payload::validate(Signal::Logs, request.encode_to_vec().into()).unwrap();
        ExportLogsServiceRequest::decode(edits.apply(&payload).to_bytes()).unwrap()
    }

    #[test]
    fn edits_are_made_in_order_on_what_they_are_for() {
        let actions = "[
             { key = 'kept', action = 'insert', value = 'no' },
             { key = 'new', action = 'insert', value = 1.5 },
             { key = 'none', action = 'update', value = 'no' },
             { key = 'old', action = 'update', value = 7 },
             { key = 'put', action = 'upsert', value = false },
             { key = 'gone', action = 'delete' },
             { key = 'new', action = 'upsert', value = 'twice' }]";
        let before = [pair("kept", text("yes")), pair("old", text("x")), pair("gone", text("x"))];
        let after = [
            pair("kept", text("yes")),
            pair("old", Value::IntValue(7)),
            pair("new", text("twice")),
            pair("put", Value::BoolValue(false)),
        ];
        let of = |request: &ExportLogsServiceRequest| {
            let group = &request.resource_logs[0];
            let items = group.scope_logs[0].log_records[0].attributes.clone();
            let mut both = [group.resource.clone().unwrap().attributes, items];
            both.iter_mut().for_each(|pairs| pairs.sort_by(|a, b| a.key.cmp(&b.key)));
            both
        };
        let sorted = |pairs: &[KeyValue]| of(&logs(pairs))[0].clone();

        let attributes: AttributesSettings = toml::from_str(&format!("actions = {actions}")).unwrap();
        assert!(watershed_stage::Settings::check(&attributes).is_empty());
        let edited = apply(&edits(Target::Item, &attributes.actions), &logs(&before));
        assert_eq!(of(&edited), [sorted(&before), sorted(&after)]);

        let resource: ResourceSettings = toml::from_str(&format!("attributes = {actions}")).unwrap();
        assert!(watershed_stage::Settings::check(&resource).is_empty());
        let edited = apply(&edits(Target::Resource, &resource.attributes), &logs(&before));
        assert_eq!(of(&edited), [sorted(&after), sorted(&before)]);
    }
}
