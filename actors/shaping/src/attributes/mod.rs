//! `attributes` and `resource`: edits of attributes on the wire bytes.

mod edit;
mod given;
mod select;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use watershed_stage::{Context, Counter, Env, Error, Failure, KeyError, Origin, Outlet, Payload, Processor};
use watershed_telemetry::edit::{AttributeEdits, Edited, Selection, Target};

use crate::attributes::edit::Edit;
use crate::attributes::given::Given;
use crate::attributes::select::Match;

/// Edits the attributes of spans, data points and log records.
pub(crate) struct Attributes(Editor);

/// Edits the attributes of resources.
pub(crate) struct Resource(Editor);

/// Settings of `attributes`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttributesSettings {
    /// What to do, in this order.
    #[serde(default)]
    #[schemars(extend("x-required" = true))]
    actions: Vec<Edit>,
    /// Which spans, data points or log records to edit; all if there is none.
    #[serde(default)]
    include: Option<Match>,
    /// Which of them not to edit.
    #[serde(default)]
    exclude: Option<Match>,
}

/// Settings of `resource`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResourceSettings {
    /// What to do, in this order.
    #[serde(default)]
    #[schemars(extend("x-required" = true))]
    attributes: Vec<Edit>,
}

/// Edits, and what they take from the message's origin.
#[derive(Debug)]
struct Edits {
    edits: AttributeEdits,
    given: Vec<Given>,
}

/// One copy of either processor.
struct Editor {
    edits: Edits,
    unconverted: Counter,
}

// === impl Edits ===

impl Edits {
    fn new(target: Target, list: &[Edit]) -> Self {
        let mut given = Vec::new();
        let actions = list.iter().flat_map(|edit| edit.actions(&mut given)).collect();
        Self { edits: AttributeEdits::new(target, actions), given }
    }

    fn apply(&self, payload: &Payload, origin: &Origin) -> Edited {
        let given: Vec<_> = self.given.iter().map(|given| given.value(origin)).collect();
        self.edits.apply_given(payload, &given)
    }
}

// === impl Editor ===

impl Editor {
    fn new(edits: Edits, env: &Env) -> Self {
        let pipeline = env.pipeline.as_ref().unwrap_or(&env.id);
        let unconverted = env.metrics.counter(
            "watershed_processor_attribute_conversions_failed",
            "Attributes that could not be converted and were left as they are.",
            &[("processor", &*env.id), ("pipeline", &**pipeline)],
        );
        Self { edits, unconverted }
    }

    fn handle(&self, payload: &Payload, context: &Context, outlet: &mut Outlet) {
        let edited = self.edits.apply(payload, &context.origin);
        self.unconverted.add(edited.unconverted);
        outlet.send(edited.payload);
    }
}

// === impl Attributes, Resource ===

impl watershed_stage::Settings for AttributesSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = check(&self.actions, "actions");
        errors.extend(self.include.iter().flat_map(|include| include.errors("include")));
        errors.extend(self.exclude.iter().flat_map(|exclude| exclude.errors("exclude")));
        errors
    }
}

impl watershed_stage::Settings for ResourceSettings {
    fn check(&self) -> Vec<KeyError> {
        check(&self.attributes, "attributes")
    }
}

fn check(edits: &[Edit], list: &str) -> Vec<KeyError> {
    if edits.is_empty() {
        return vec![KeyError::new(
            "",
            format!("missing required field \"{list}\": without it nothing is edited"),
        )];
    }
    edits.iter().enumerate().flat_map(|(index, edit)| edit.errors(&format!("{list}.{index}"))).collect()
}

impl AttributesSettings {
    fn edits(&self) -> Edits {
        let Edits { edits, given } = Edits::new(Target::Item, &self.actions);
        let selection = Selection {
            include: self.include.as_ref().map(Match::criteria),
            exclude: self.exclude.as_ref().map(Match::criteria),
        };
        Edits { edits: edits.only(selection), given }
    }
}

impl Processor for Attributes {
    type Settings = AttributesSettings;

    fn build(settings: &Arc<Self::Settings>, env: &Env) -> Result<Self, Failure> {
        Ok(Self(Editor::new(settings.edits(), env)))
    }

    async fn handle(
        &mut self,
        payload: Payload,
        context: &Arc<Context>,
        outlet: &mut Outlet,
    ) -> Result<(), Error> {
        self.0.handle(&payload, context, outlet);
        Ok(())
    }
}

impl Processor for Resource {
    type Settings = ResourceSettings;

    fn build(settings: &Arc<Self::Settings>, env: &Env) -> Result<Self, Failure> {
        Ok(Self(Editor::new(Edits::new(Target::Resource, &settings.attributes), env)))
    }

    async fn handle(
        &mut self,
        payload: Payload,
        context: &Arc<Context>,
        outlet: &mut Outlet,
    ) -> Result<(), Error> {
        self.0.handle(&payload, context, outlet);
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
    use watershed_stage::{Identity, Metadata, Signal};

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

    fn apply(edits: &Edits, request: &ExportLogsServiceRequest) -> ExportLogsServiceRequest {
        let payload = Payload::validate(Signal::Logs, request.encode_to_vec().into()).unwrap();
        let edited = edits.apply(&payload, &Origin::default());
        ExportLogsServiceRequest::decode(edited.payload.to_bytes()).unwrap()
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
        let edited = apply(&attributes.edits(), &logs(&before));
        assert_eq!(of(&edited), [sorted(&before), sorted(&after)]);

        let resource: ResourceSettings = toml::from_str(&format!("attributes = {actions}")).unwrap();
        assert!(watershed_stage::Settings::check(&resource).is_empty());
        let edited = apply(&Edits::new(Target::Resource, &resource.attributes), &logs(&before));
        assert_eq!(of(&edited), [sorted(&after), sorted(&before)]);
    }

    /// The text attributes that `resource` makes of a message of that origin.
    fn given(edits: &str, origin: &Origin) -> Vec<(String, Option<Value>)> {
        let settings: ResourceSettings = toml::from_str(&format!("attributes = [{edits}]")).unwrap();
        assert_eq!(watershed_stage::Settings::check(&settings), []);
        let edits = Edits::new(Target::Resource, &settings.attributes);
        let payload = Payload::validate(Signal::Logs, logs(&[]).encode_to_vec().into()).unwrap();
        let edited = edits.apply(&payload, origin).payload.to_bytes();
        let resource = ExportLogsServiceRequest::decode(edited).unwrap().resource_logs.remove(0).resource;
        resource.unwrap().attributes.into_iter().map(|pair| (pair.key, pair.value.unwrap().value)).collect()
    }

    #[test]
    fn values_come_from_the_requests_origin() {
        let mut headers = http::HeaderMap::new();
        headers.append("x-tenant", "a".parse().unwrap());
        headers.append("X-Tenant", "b".parse().unwrap());
        let identity = Identity([("subject".to_owned(), "ann".to_owned())].into());
        let origin = Origin {
            peer: Some("[::ffff:192.0.2.7]:4317".parse().unwrap()),
            metadata: Metadata::new(headers),
            auth: Some(Arc::new(identity)),
            trace: None,
        };
        let edits = "{ key = '1', action = 'insert', from_context = 'metadata.x-tenant' },
                     { key = '2', action = 'upsert', from_context = 'x-tenant' },
                     { key = '3', action = 'insert', from_context = 'auth.subject' },
                     { key = '4', action = 'insert', from_context = 'client.address' },
                     { key = '5', action = 'insert', from_context = 'auth.none' },
                     { key = '6', action = 'insert', from_context = 'metadata.none', default_value = 7 }";
        let of = |key: &str, value| (key.to_owned(), Some(value));
        let all =
            [of("1", text("a;b")), of("2", text("a;b")), of("3", text("ann")), of("4", text("192.0.2.7"))];
        let default = of("6", Value::IntValue(7));
        assert_eq!(given(edits, &origin), [&all[..], std::slice::from_ref(&default)].concat());
        assert_eq!(given(edits, &Origin::default()), [default]);
    }

    #[test]
    fn only_what_is_included_and_not_excluded_is_edited() {
        let settings = "
            actions = [{ key = 'list', action = 'upsert', value = ['a', 1] }]
            include = { match_type = 'regexp', attributes = [{ key = 'kind', value = '^[xy]$' }] }
            exclude = { match_type = 'strict', attributes = [{ key = 'kind', value = 'y' }] }";
        let settings: AttributesSettings = toml::from_str(settings).unwrap();
        assert_eq!(watershed_stage::Settings::check(&settings), []);
        for (kind, is_edited) in [("x", true), ("y", false), ("xx", false)] {
            let before = logs(&[pair("kind", text(kind))]);
            let after = apply(&settings.edits(), &before);
            assert_eq!(after != before, is_edited, "{kind}");
        }
    }

    #[test]
    fn what_can_not_be_converted_is_told() {
        let edits = "attributes = [{ key = 'n', action = 'convert', converted_type = 'int' }]";
        let settings: ResourceSettings = toml::from_str(edits).unwrap();
        let edits = Edits::new(Target::Resource, &settings.attributes);
        for (value, unconverted) in [("7", 0), ("seven", 1)] {
            let request = logs(&[pair("n", text(value))]).encode_to_vec();
            let payload = Payload::validate(Signal::Logs, request.into()).unwrap();
            assert_eq!(edits.apply(&payload, &Origin::default()).unconverted, unconverted);
        }
    }
}
