//! What a policy is told: its tables, and what is wrong with them.

use std::borrow::Cow;

use regex::RegexSet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use watershed_stage::KeyError;

/// One policy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tail) struct Policy {
    /// What metrics call it: not empty, and no other's.
    #[serde(default)]
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) name: String,
    /// What it is: the table of the same name has its settings.
    pub(in crate::tail) r#type: Kind,
    /// How long it took from the first start of a span to the last end.
    #[serde(default)]
    pub(in crate::tail) latency: Option<Latency>,
    /// A whole number among the attributes of a resource or span.
    #[serde(default)]
    pub(in crate::tail) numeric_attribute: Option<NumericAttribute>,
    /// So many percent of the traces, by a hash of the trace id.
    #[serde(default)]
    pub(in crate::tail) probabilistic: Option<Probabilistic>,
    /// The status of any span.
    #[serde(default)]
    pub(in crate::tail) status_code: Option<StatusCode>,
    /// A text among the attributes of a resource or span.
    #[serde(default)]
    pub(in crate::tail) string_attribute: Option<StringAttribute>,
    /// A member of the `tracestate` of any span.
    #[serde(default)]
    pub(in crate::tail) trace_state: Option<TraceState>,
    /// So many spans a second.
    #[serde(default)]
    pub(in crate::tail) rate_limiting: Option<RateLimiting>,
    /// So many bytes a second.
    #[serde(default)]
    pub(in crate::tail) bytes_limiting: Option<BytesLimiting>,
    /// How many spans it has.
    #[serde(default)]
    pub(in crate::tail) span_count: Option<SpanCount>,
    /// A truth value among the attributes of a resource or span.
    #[serde(default)]
    pub(in crate::tail) boolean_attribute: Option<BooleanAttribute>,
    /// Not supported yet.
    #[serde(default)]
    #[schemars(with = "Option<Nested>")]
    pub(in crate::tail) ottl_condition: Option<toml::Table>,
    /// Policies all of which must sample.
    #[serde(default)]
    pub(in crate::tail) and: Option<And>,
    /// A policy that must not sample.
    #[serde(default)]
    pub(in crate::tail) not: Option<Not>,
    /// Policies which, where all of them sample, leave the trace out whatever others say.
    #[serde(default)]
    pub(in crate::tail) drop: Option<Drop>,
    /// Policies that share a number of spans a second.
    #[serde(default)]
    pub(in crate::tail) composite: Option<Composite>,
}

/// A policy's type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::tail) enum Kind {
    #[default]
    AlwaysSample,
    Latency,
    NumericAttribute,
    Probabilistic,
    StatusCode,
    StringAttribute,
    TraceState,
    TraceFlags,
    RateLimiting,
    BytesLimiting,
    SpanCount,
    BooleanAttribute,
    OttlCondition,
    And,
    Not,
    Drop,
    Composite,
    /// Panics where a span says so.
    #[cfg(test)]
    Panics,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct Latency {
    /// Longer than this.
    pub(in crate::tail) threshold_ms: u64,
    /// And no longer than this; 0 is no bound.
    pub(in crate::tail) upper_threshold_ms: u64,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct NumericAttribute {
    /// The attribute.
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) key: String,
    /// At least this; 0 is no bound.
    pub(in crate::tail) min_value: i64,
    /// At most this; 0 is no bound.
    pub(in crate::tail) max_value: i64,
    /// Samples the traces in which no attribute is in these bounds.
    pub(in crate::tail) invert_match: bool,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct Probabilistic {
    /// Goes into the hash: all collectors of a tier need the same one.
    pub(in crate::tail) hash_salt: String,
    /// How many percent; 100 and more is all.
    pub(in crate::tail) sampling_percentage: f64,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct StatusCode {
    /// Any of `OK`, `ERROR`, `UNSET`.
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) status_codes: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct StringAttribute {
    /// The attribute.
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) key: String,
    /// Any of these texts.
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) values: Vec<String>,
    /// Whether they are regular expressions, which match anywhere in the text.
    pub(in crate::tail) enabled_regex_matching: bool,
    /// How many texts are remembered with whether an expression matches; 0 is 128.
    pub(in crate::tail) cache_max_size: usize,
    /// Samples the traces in which no attribute matches.
    pub(in crate::tail) invert_match: bool,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct TraceState {
    /// The member.
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) key: String,
    /// Any of these values.
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) values: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct RateLimiting {
    /// Spans a second.
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) spans_per_second: u64,
    /// How many may come at once; 0 is twice as many.
    pub(in crate::tail) burst_capacity: u64,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct BytesLimiting {
    /// Bytes a second.
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) bytes_per_second: u64,
    /// How many may come at once; 0 is twice as many. A larger trace is never sampled.
    pub(in crate::tail) burst_capacity: u64,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct SpanCount {
    /// At least so many.
    pub(in crate::tail) min_spans: u64,
    /// At most so many; 0 is no bound.
    pub(in crate::tail) max_spans: u64,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::tail) struct BooleanAttribute {
    /// The attribute.
    #[schemars(extend("x-required" = true))]
    pub(in crate::tail) key: String,
    /// The value.
    pub(in crate::tail) value: bool,
    /// Samples the traces in which no attribute has it.
    pub(in crate::tail) invert_match: bool,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tail) struct And {
    /// Policies, as in `policies`.
    #[schemars(with = "Vec<Nested>", extend("x-required" = true))]
    pub(in crate::tail) and_sub_policy: Vec<Policy>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tail) struct Not {
    /// A policy, as in `policies`.
    #[schemars(with = "Nested", extend("x-required" = true))]
    pub(in crate::tail) not_sub_policy: Box<Policy>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tail) struct Drop {
    /// Policies, as in `policies`.
    #[schemars(with = "Vec<Nested>", extend("x-required" = true))]
    pub(in crate::tail) drop_sub_policy: Vec<Policy>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tail) struct Composite {
    /// Spans a second.
    pub(in crate::tail) max_total_spans_per_second: u64,
    /// Policies by name: the first that samples decides.
    pub(in crate::tail) policy_order: Vec<String>,
    /// Policies, as in `policies`.
    #[schemars(with = "Vec<Nested>", extend("x-required" = true))]
    pub(in crate::tail) composite_sub_policy: Vec<Policy>,
    /// What each may have of the spans; by default they share alike.
    #[serde(default)]
    pub(in crate::tail) rate_allocation: Vec<RateAllocation>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tail) struct RateAllocation {
    /// A policy's name.
    pub(in crate::tail) policy: String,
    /// Its percentage; 0 is an equal share.
    pub(in crate::tail) percent: u64,
}

/// A table that is described elsewhere.
struct Nested;

impl JsonSchema for Nested {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Nested".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }
}

/// What is wrong with a list of policies. Names must differ where they are told apart by them.
pub(super) fn list(key: &str, policies: &[Policy], named: bool) -> Vec<KeyError> {
    let mut errors = Vec::new();
    for (index, policy) in policies.iter().enumerate() {
        let at = format!("{key}.{index}");
        let mut wrong = |message: String| errors.push(KeyError::new(format!("{at}.name"), message));
        if named && policy.name.is_empty() {
            wrong("a policy needs a name: metrics count by it".to_owned());
        } else if named && policies.iter().take(index).any(|other| other.name == policy.name) {
            wrong(format!("there is another policy `{}`: give one of them another name", policy.name));
        }
        errors.extend(policy.check().into_iter().map(|error| error.under(&at)));
    }
    errors
}

// === impl Policy ===

impl Policy {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let mut wrong = |key: &str, message: String| errors.push(KeyError::new(key, message));
        let missing = |key: &str| (key.to_owned(), format!("`type = \"{key}\"` needs the table `{key}`"));
        let table = |there: bool, key: &str| if there { None } else { Some(missing(key)) };
        let absent = match self.r#type {
            Kind::AlwaysSample | Kind::TraceFlags => None,
            #[cfg(test)]
            Kind::Panics => None,
            Kind::OttlCondition => None,
            Kind::Latency => table(self.latency.is_some(), "latency"),
            Kind::NumericAttribute => table(self.numeric_attribute.is_some(), "numeric_attribute"),
            Kind::Probabilistic => table(self.probabilistic.is_some(), "probabilistic"),
            Kind::StatusCode => table(self.status_code.is_some(), "status_code"),
            Kind::StringAttribute => table(self.string_attribute.is_some(), "string_attribute"),
            Kind::TraceState => table(self.trace_state.is_some(), "trace_state"),
            Kind::RateLimiting => table(self.rate_limiting.is_some(), "rate_limiting"),
            Kind::BytesLimiting => table(self.bytes_limiting.is_some(), "bytes_limiting"),
            Kind::SpanCount => table(self.span_count.is_some(), "span_count"),
            Kind::BooleanAttribute => table(self.boolean_attribute.is_some(), "boolean_attribute"),
            Kind::And => table(self.and.is_some(), "and"),
            Kind::Not => table(self.not.is_some(), "not"),
            Kind::Drop => table(self.drop.is_some(), "drop"),
            Kind::Composite => table(self.composite.is_some(), "composite"),
        };
        if self.r#type == Kind::OttlCondition || self.ottl_condition.is_some() {
            let message = "\"ottl_condition\" comes with a later version: use the attribute policies";
            wrong("type", message.to_owned());
        }
        if let Some((key, message)) = absent {
            wrong(&key, message);
        }
        let keys = [
            ("numeric_attribute", self.numeric_attribute.as_ref().map(|it| &it.key)),
            ("string_attribute", self.string_attribute.as_ref().map(|it| &it.key)),
            ("trace_state", self.trace_state.as_ref().map(|it| &it.key)),
            ("boolean_attribute", self.boolean_attribute.as_ref().map(|it| &it.key)),
        ];
        for (table, _) in keys.iter().filter(|(_, key)| key.is_some_and(String::is_empty)) {
            wrong(&format!("{table}.key"), "names what is looked at: it is missing".to_owned());
        }
        if let Some(StringAttribute { values, enabled_regex_matching, .. }) = &self.string_attribute {
            if values.is_empty() {
                wrong("string_attribute.values", "name at least one value".to_owned());
            }
            if *enabled_regex_matching && let Err(error) = RegexSet::new(values) {
                wrong("string_attribute.values", format!("no regular expression: {error}"));
            }
        }
        if let Some(Probabilistic { sampling_percentage, .. }) = self.probabilistic
            && !(0.0..).contains(&sampling_percentage)
        {
            let message = format!("{sampling_percentage} is no percentage: write a number from 0 to 100");
            wrong("probabilistic.sampling_percentage", message);
        }
        if let Some(StatusCode { status_codes }) = &self.status_code {
            if status_codes.is_empty() {
                wrong("status_code.status_codes", "name at least one of OK, ERROR, UNSET".to_owned());
            }
            for unknown in status_codes.iter().filter(|code| status(code).is_none()) {
                let message = format!("`{unknown}` is none of OK, ERROR, UNSET");
                wrong("status_code.status_codes", message);
            }
        }
        if let Some(Latency { threshold_ms, upper_threshold_ms }) = self.latency
            && upper_threshold_ms > 0
            && upper_threshold_ms <= threshold_ms
        {
            let message = "must be above `threshold_ms`, or 0 for no bound".to_owned();
            wrong("latency.upper_threshold_ms", message);
        }
        if let Some(NumericAttribute { min_value, max_value, .. }) = self.numeric_attribute
            && max_value != 0
            && min_value > max_value
        {
            wrong("numeric_attribute.max_value", "must not be below `min_value`".to_owned());
        }
        for (is, key) in [
            (
                self.rate_limiting.as_ref().is_some_and(|it| it.spans_per_second == 0),
                "rate_limiting.spans_per_second",
            ),
            (
                self.bytes_limiting.as_ref().is_some_and(|it| it.bytes_per_second == 0),
                "bytes_limiting.bytes_per_second",
            ),
        ] {
            if is {
                wrong(key, "must be 1 or more".to_owned());
            }
        }
        errors.extend(self.below());
        errors
    }

    /// What is wrong with the policies inside.
    fn below(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        if let Some(Not { not_sub_policy }) = &self.not {
            errors.extend(not_sub_policy.check().into_iter().map(|error| error.under("not.not_sub_policy")));
        }
        let mut inside = |key: &str, policies: &[Policy], named: bool| {
            if policies.is_empty() {
                errors.push(KeyError::new(key, "name at least one policy"));
            }
            errors.extend(list(key, policies, named));
            for (index, _) in policies.iter().enumerate().filter(|(_, it)| it.r#type == Kind::Drop) {
                let message = "a `drop` policy stands in `policies` alone: inside others say `not`";
                errors.push(KeyError::new(format!("{key}.{index}.type"), message));
            }
        };
        if let Some(And { and_sub_policy }) = &self.and {
            inside("and.and_sub_policy", and_sub_policy, false);
        }
        if let Some(Drop { drop_sub_policy }) = &self.drop {
            inside("drop.drop_sub_policy", drop_sub_policy, false);
        }
        let Some(composite) = &self.composite else { return errors };
        inside("composite.composite_sub_policy", &composite.composite_sub_policy, true);
        let is_known =
            |name: &String| composite.composite_sub_policy.iter().any(|policy| policy.name == *name);
        let order = composite.policy_order.iter().map(|name| ("composite.policy_order", name));
        let allocated = composite.rate_allocation.iter().map(|it| ("composite.rate_allocation", &it.policy));
        for (key, name) in order.chain(allocated).filter(|(_, name)| !is_known(name)) {
            let message = format!("there is no policy `{name}` in `composite_sub_policy`");
            errors.push(KeyError::new(key, message));
        }
        if composite.max_total_spans_per_second == 0 {
            let key = "composite.max_total_spans_per_second";
            errors.push(KeyError::new(key, "must be 1 or more"));
        }
        errors
    }
}

/// A status by its name (`StatusCode` of `trace.proto`).
pub(in crate::tail) fn status(name: &str) -> Option<i32> {
    match name {
        "UNSET" => Some(0),
        "OK" => Some(1),
        "ERROR" => Some(2),
        _ => None,
    }
}
