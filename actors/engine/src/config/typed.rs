//! The typed pass: a table is read into settings, and every complaint is traced back to the place that set it.
//!
//! Readers see the values in their original types; a text from outside a file, which has no type, is tried as
//! what it looks like first and as a text second. What came from outside is never quoted.

use watershed_stage::KeyError;

use super::place::Spot;
use super::tree::Node;
use super::wording::{self, Complaint};

/// One complaint about one place.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) at: Spot,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Reads `node` with `parse`. Everything that is wrong is in the answer, except what has been said already.
pub(crate) fn typed<T>(
    node: &Node,
    parse: impl Fn(toml::Value) -> Result<T, Vec<KeyError>>,
) -> Result<T, Vec<Finding>> {
    let mut node = node.clone();
    let errors = loop {
        let errors = match parse(node.to_toml()) {
            Ok(settings) if !node.is_broken() => return Ok(settings),
            Ok(_) => return Err(Vec::new()),
            Err(errors) => errors,
        };
        let mistaken = |error: &&KeyError| matches!(Complaint::read(&error.message), Complaint::Type { .. });
        let mut again = false;
        for error in errors.iter().filter(mistaken) {
            again |= node.scalar_mut(&error.key).is_some_and(|scalar| scalar.read_as_text());
        }
        if !again {
            break errors;
        }
    };
    let secrets = Secrets::of(&node);
    let veiled = secrets.veiled_errors(&node, &parse);
    let mut findings = Vec::new();
    for error in &errors {
        if !is_consequence(error, &errors) {
            findings.extend(finding(&node, error, &secrets, &veiled));
        }
    }
    Err(findings)
}

/// Whether a missing key is only missing because it was misspelt, or because its value could not be read.
fn is_consequence(error: &KeyError, errors: &[KeyError]) -> bool {
    let Complaint::Missing(missing) = Complaint::read(&error.message) else { return false };
    errors.iter().any(|other| {
        let Some(key) = other.key.strip_prefix(&error.key).map(|key| key.trim_start_matches('.')) else {
            return false;
        };
        match Complaint::read(&other.message) {
            Complaint::UnknownKey { name, known } => {
                key == name && wording::near(name, known) == Some(missing)
            }
            Complaint::Missing(_) => false,
            _ => key == missing || key.strip_prefix(missing).is_some_and(|rest| rest.starts_with('.')),
        }
    })
}

/// What to say about one error. `None` if it has been said.
fn finding(node: &Node, error: &KeyError, secrets: &Secrets, veiled: &[KeyError]) -> Option<Finding> {
    let (found, rest) = node.find(&error.key);
    let is_table = found.table().is_some();
    let complaint = Complaint::read(&error.message);
    // What can not be made out may break a rule of its table, but is not what its table lacks.
    if rest.is_empty() && found.is_broken() && (!is_table || matches!(complaint, Complaint::Other(_))) {
        return None;
    }
    let at = if is_table { found.key.clone() } else { found.value.clone() };
    let named = |sentence: String| match error.key.is_empty() {
        true => sentence,
        false => format!("`{}`: {sentence}", error.key),
    };
    Some(match complaint {
        Complaint::UnknownKey { name, known } => Finding {
            at: found.key.clone(),
            message: format!("unknown key `{name}`"),
            help: wording::suggestion(name, "keys here", &known),
        },
        Complaint::Missing(name) => {
            Finding { at, message: named(format!("the key `{name}` is missing")), help: None }
        }
        Complaint::UnknownWord { known } => Finding {
            at,
            message: named(format!(
                "expected one of {}, found {}",
                wording::list(known.iter().copied()),
                wording::value(found)
            )),
            help: found
                .as_scalar()
                .filter(|scalar| scalar.shown.is_none())
                .and_then(|scalar| wording::near(scalar.value.as_str()?, known))
                .map(|near| format!("did you mean `{near}`?")),
        },
        Complaint::Type { expected } | Complaint::Range { expected } => Finding {
            at,
            message: named(format!(
                "expected {}, found {}",
                wording::expected(expected),
                wording::value(found)
            )),
            help: wording::example(expected, found),
        },
        Complaint::Other(message) => match found.as_scalar().and_then(|scalar| scalar.shown.as_deref()) {
            // Its reader may quote any part of it, so the sentence is the one it has for the reference itself.
            Some(shown) => {
                let veiled = veiled.iter().find(|other| other.key == error.key).map(|other| &other.message);
                let message = match veiled.map(|message| Complaint::read(message)) {
                    Some(Complaint::Other(message)) => message.to_owned(),
                    _ => "the value does not fit here".to_owned(),
                };
                let help = format!("the value is that of `{shown}`, and is not shown");
                Finding { at, message: named(message), help: Some(help) }
            }
            None => Finding { at, message: named(secrets.veil(message)), help: None },
        },
    })
}

/// The values of a tree that must not be shown, with what is shown instead.
struct Secrets(Vec<(String, String)>);

// === impl Secrets ===

impl Secrets {
    fn of(node: &Node) -> Self {
        let mut secrets = Vec::new();
        node.each(&mut |scalar| {
            let Some(shown) = &scalar.shown else { return };
            let texts = [scalar.text.clone(), scalar.value.as_str().map(str::to_owned)];
            secrets.extend(texts.into_iter().flatten().map(|text| (text, shown.clone())));
        });
        // The longest first: one secret may be a part of another.
        secrets.retain(|(text, _)| !text.is_empty());
        secrets.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Self(secrets)
    }

    /// What the reader says of the references in place of their values.
    fn veiled_errors<T>(
        &self,
        node: &Node,
        parse: impl Fn(toml::Value) -> Result<T, Vec<KeyError>>,
    ) -> Vec<KeyError> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut veiled = node.clone();
        veiled.each_mut(&mut |_, scalar| {
            if let Some(shown) = &scalar.shown {
                scalar.value = toml::Value::String(shown.clone());
            }
        });
        parse(veiled.to_toml()).err().unwrap_or_default()
    }

    /// A sentence about another key, without the secrets: a word of it that is one is replaced.
    fn veil(&self, message: &str) -> String {
        let mut veiled = message.to_owned();
        for (secret, shown) in &self.0 {
            let mut out = String::with_capacity(veiled.len());
            let mut rest = veiled.as_str();
            while let Some(at) = rest.find(secret.as_str()) {
                let (before, after) = (&rest[..at], &rest[at + secret.len()..]);
                let joined =
                    before.ends_with(char::is_alphanumeric) || after.starts_with(char::is_alphanumeric);
                out.push_str(before);
                // A short one is likely to be a part of an innocent word.
                out.push_str(if joined && secret.len() < 4 { secret } else { shown });
                rest = after;
            }
            out.push_str(rest);
            veiled = out;
        }
        veiled
    }
}
