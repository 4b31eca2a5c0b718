//! Settings out of TOML, with every error at once.

use crate::registry::{KeyError, Settings};

/// Reads settings, collecting every error: what can not be read is taken out and the rest read again, so that
/// three mistakes in one component are three messages and not three runs.
pub(crate) fn read<S: Settings>(mut value: toml::Value) -> Result<S, Vec<KeyError>> {
    let mut errors: Vec<KeyError> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize::<_, S>(value.clone()) {
            Ok(settings) if errors.is_empty() => {
                errors = settings.check();
                return if errors.is_empty() { Ok(settings) } else { Err(errors) };
            }
            Ok(settings) => {
                // What was taken out is not to be missed as well, nor is the whole to be judged without it.
                let wrong: Vec<String> = errors.iter().map(|error| error.key.clone()).collect();
                let about = |error: &KeyError| wrong.iter().any(|key| related(key, &error.key));
                errors.extend(settings.check().into_iter().filter(|error| !about(error)));
                return Err(errors);
            }
            Err(error) => error,
        };
        let path: Vec<String> = error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                serde_path_to_error::Segment::Map { key } => Some(key.clone()),
                serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
                serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
            })
            .collect();
        let message = error.inner().to_string().trim().to_owned();
        let error = KeyError { key: path.join("."), message };
        if !misses_what_was_taken_out(&error, &errors) {
            errors.push(error);
        }
        if !remove(&mut value, &path) {
            return Err(errors);
        }
    }
}

/// Whether one key is the other, or holds it. The whole table holds every key.
fn related(one: &str, other: &str) -> bool {
    let holds = |outer: &str, inner: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with('.'))
    };
    holds(one, other) || holds(other, one)
}

/// serde's word for a required field that is not there, where it is not because its value was wrong.
fn misses_what_was_taken_out(error: &KeyError, errors: &[KeyError]) -> bool {
    let Some(field) = error.message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'))
    else {
        return false;
    };
    let missing = KeyError::new(field, "").under(&error.key);
    errors.iter().any(|earlier| related(&earlier.key, missing.key.trim_start_matches('.')))
}

/// Takes the value at `path` out, or all of the list it stands in. False if there was none.
fn remove(value: &mut toml::Value, path: &[String]) -> bool {
    match (value, path) {
        (toml::Value::Table(table), [key]) => table.remove(key).is_some(),
        (toml::Value::Table(table), [key, _, ..])
            if matches!(table.get(key), Some(toml::Value::Array(_))) =>
        {
            table.remove(key).is_some()
        }
        (toml::Value::Table(table), [key, rest @ ..]) => {
            table.get_mut(key).is_some_and(|inner| remove(inner, rest))
        }
        _ => false,
    }
}
