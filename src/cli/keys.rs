//! The keys of a kind, read out of the JSON Schema of its settings: what a configuration may say, and what holds
//! where it says nothing. `watershed components` prints them, and the tables of `docs/components` are made of them.

use serde_json::Value;

/// One key of a component's table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Dotted, from the component's table: `actions[].key` in a list of tables, `headers.<name>` in a map.
    pub(crate) name: String,
    /// What may be written: a type, or the values themselves with ` | ` between them.
    pub(crate) values: String,
    /// What holds where it is not written, in TOML; `required`, or empty if nothing does.
    pub(crate) default: String,
    /// What it says.
    pub(crate) about: String,
    /// The name of the type, if that is a table: several kinds may share it.
    pub(crate) table: Option<String>,
}

/// Every key of a kind, in the order in which its settings declare them, and each table before its keys.
pub(crate) fn keys(schema: &Value) -> Vec<Key> {
    let mut reader = Reader { schema, keys: Vec::new() };
    reader.table(schema, "", None);
    reader.keys
}

/// As lines of a table.
pub(crate) fn text(keys: &[Key]) -> String {
    let width = |column: fn(&Key) -> &str| keys.iter().map(|key| column(key).len()).max().unwrap_or(0);
    let (names, values) = (width(|key| &key.name), width(|key| &key.values));
    let defaults = width(|key| &key.default);
    let line = |key: &Key| {
        let Key { name, values: value, default, about, .. } = key;
        let line = format!("  {name:names$}  {value:values$}  {default:defaults$}  {about}");
        line.trim_end().to_owned() + "\n"
    };
    keys.iter().map(line).collect()
}

struct Reader<'s> {
    schema: &'s Value,
    keys: Vec<Key>,
}

// === impl Reader ===

impl<'s> Reader<'s> {
    /// The keys of a table; `given` is what the table that holds it says of their defaults.
    fn table(&mut self, table: &'s Value, prefix: &str, given: Option<&'s Value>) {
        let required: Vec<&str> = list(&table["required"]).filter_map(Value::as_str).collect();
        for (name, property) in table["properties"].as_object().into_iter().flatten() {
            let given = given.and_then(|given| given.get(name)).or_else(|| property.get("default"));
            let is_required = required.contains(&&**name) || property["x-required"] == true;
            self.key(format!("{prefix}{name}"), property, given, is_required);
        }
    }

    fn key(&mut self, mut name: String, property: &'s Value, given: Option<&'s Value>, is_required: bool) {
        let (target, table) = self.resolve(property);
        let entries = &target["additionalProperties"];
        if entries.is_object() {
            name += ".<name>";
        }
        let (item, _) = self.resolve(if entries.is_object() { entries } else { &target["items"] });
        let below = match (item.is_object(), entries.is_object()) {
            (true, false) => format!("{name}[]."),
            _ => format!("{name}."),
        };
        let own = [property, target].into_iter().find_map(|schema| schema["description"].as_str());
        let about =
            std::iter::once(first(own.unwrap_or_default())).chain(variants(target)).chain(variants(item));
        self.keys.push(Key {
            values: self.values(if entries.is_object() { item } else { target }),
            default: match given {
                _ if is_required => "required".into(),
                Some(given) if target["format"] == "size" => size(given),
                given => given.map(toml).unwrap_or_default(),
            },
            about: about.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
            table: table.filter(|_| target["properties"].is_object()).map(str::to_owned),
            name,
        });
        if item.is_object() {
            self.table(item, &below, None);
        } else {
            self.table(target, &below, given);
        }
    }

    /// What a schema stands for, through references and `Option`, and the name that it is referred to by.
    fn resolve(&self, schema: &'s Value) -> (&'s Value, Option<&'s str>) {
        let (mut schema, mut name) = (schema, None);
        loop {
            let some = || list(&schema["anyOf"]).find(|one| one["type"] != "null");
            let reference = schema["$ref"].as_str().and_then(|at| at.strip_prefix('#'));
            schema = match (reference, some()) {
                (Some(at), _) => {
                    name = at.rsplit('/').next();
                    self.schema.pointer(at).unwrap_or(&Value::Null)
                }
                (None, Some(some)) => some,
                (None, None) => return (schema, name),
            };
        }
    }

    /// What may be written where this is wanted.
    fn values(&self, schema: &'s Value) -> String {
        let constants = constants(schema);
        if !constants.is_empty() {
            return constants.iter().map(|value| toml(value)).collect::<Vec<_>>().join(" | ");
        }
        if let Some(format @ ("duration" | "size")) = schema["format"].as_str() {
            return format.into();
        }
        let types = match &schema["type"] {
            Value::String(one) => vec![one.as_str()],
            several => list(several).filter_map(Value::as_str).filter(|one| *one != "null").collect(),
        };
        let types = types.into_iter().map(|one| match one {
            "array" if schema["items"].is_object() => {
                let (item, _) = self.resolve(&schema["items"]);
                match self.values(item) {
                    values if values.contains('"') => format!("list of {values}"),
                    one => format!("list of {one}s"),
                }
            }
            "array" => "list".into(),
            "boolean" => "bool".into(),
            "object" => "table".into(),
            one => one.into(),
        });
        types.collect::<Vec<_>>().join(" or ")
    }
}

/// The values an enum may have.
fn constants(schema: &Value) -> Vec<&Value> {
    let own = std::iter::once(schema).chain(list(&schema["oneOf"]));
    own.flat_map(|schema| list(&schema["enum"]).chain(schema.get("const"))).collect()
}

/// What each value of an enum means, where that is said.
fn variants(schema: &Value) -> impl Iterator<Item = String> {
    list(&schema["oneOf"]).filter_map(|variant| {
        let (value, about) = (variant.get("const")?.as_str()?, variant["description"].as_str()?);
        Some(format!("`{value}`: {}", first(about)))
    })
}

/// The first paragraph, on one line.
fn first(text: &str) -> String {
    text.split("\n\n").next().unwrap_or_default().replace('\n', " ")
}

/// A default as TOML has it. Tables have those of their keys.
fn toml(value: &Value) -> String {
    if value.is_null() || value.is_object() { String::new() } else { value.to_string() }
}

/// A number of bytes as a person writes it.
fn size(value: &Value) -> String {
    match value.as_u64() {
        Some(bytes) if bytes > 0 && bytes % (1 << 20) == 0 => format!("\"{}MiB\"", bytes >> 20),
        _ => toml(value),
    }
}

fn list(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map_or(&[][..], Vec::as_slice).iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(class: &str, kind: &str) -> Vec<Key> {
        keys(crate::kinds().schema(class, kind).unwrap().as_value())
    }

    fn shown(class: &str, kind: &str, name: &str) -> (String, String) {
        let keys = of(class, kind);
        let key =
            keys.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("no {name} in {keys:#?}"));
        (key.values.clone(), key.default.clone())
    }

    #[test]
    fn types_and_defaults_are_those_of_the_settings() {
        for (class, kind, name, values, default) in [
            ("exporter", "otlp", "endpoint", "string", "required"),
            ("exporter", "otlp", "timeout", "duration", "\"5s\""),
            ("exporter", "otlp", "compression", "\"none\" | \"gzip\" | \"zstd\"", "\"gzip\""),
            ("exporter", "otlp", "headers.<name>", "string", ""),
            ("exporter", "otlp", "tls.insecure", "bool", "false"),
            ("exporter", "otlp", "sending_queue.on_full", "\"refuse\" | \"block\" | \"drop\"", ""),
            ("exporter", "otlp", "sending_queue.batch.partition.metadata_keys", "list of strings", "[]"),
            ("receiver", "otlp", "protocols.http.max_request_body_size", "size", "\"64MiB\""),
            ("receiver", "otlp", "protocols.grpc.rate_limit.requests_per_second", "integer", "required"),
            ("processor", "attributes", "actions", "list of tables", "required"),
            ("processor", "attributes", "actions[].value", "string or integer or number or bool or list", ""),
            ("processor", "probabilistic_sampler", "sampling_percentage", "number", "0.0"),
            ("extension", "oauth2_client", "token_url", "string", "required"),
        ] {
            assert_eq!(shown(class, kind, name), (values.into(), default.into()), "{class} {kind} {name}");
        }
    }

    #[test]
    fn every_key_of_every_kind_says_what_it_is() {
        let kinds = crate::kinds();
        let classes = [
            ("receiver", kinds.receivers()),
            ("processor", kinds.processors()),
            ("exporter", kinds.exporters()),
            ("extension", kinds.extensions()),
        ];
        for (class, names) in classes {
            for kind in names {
                for key in of(class, kind) {
                    assert!(!key.about.is_empty() && !key.values.is_empty(), "{class} {kind}: {key:?}");
                }
            }
        }
    }

    #[test]
    fn a_kind_is_known_by_all_its_names() {
        let kinds = crate::kinds();
        assert_eq!(kinds.aliases("exporter", "otlp"), ["otlp_grpc"]);
        assert_eq!(kinds.aliases("exporter", "otlp_grpc"), ["otlp_grpc"]);
        assert!(kinds.aliases("receiver", "otlp").is_empty());
        assert_eq!(of("extension", "oauth2_client"), of("extension", "oauth2client"));
    }

    #[test]
    fn what_the_values_of_a_key_mean_is_said_with_it() {
        let keys = of("exporter", "otlp");
        let key = keys.iter().find(|key| key.name == "sending_queue.on_full").unwrap();
        assert!(key.about.contains("`refuse`: It is refused"), "{}", key.about);
        let lines = text(&keys);
        assert!(lines.lines().all(|line| line.starts_with("  ")), "{lines}");
    }
}
