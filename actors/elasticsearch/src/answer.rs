//! What Elasticsearch says of a `_bulk` request: a verdict a document, in the order of the request.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What became of one document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// An HTTP status.
    pub status: u16,
    /// What kind of error it is, as `mapper_parsing_exception`; empty where there is none.
    pub kind: Cow<'a, str>,
    /// What is wrong.
    pub reason: Cow<'a, str>,
}

/// Reads the body of a good answer, and calls `each` with the verdicts in order, as far as they can be read. `Err` says
/// where that ended.
pub fn read<'a>(body: &'a [u8], each: &mut dyn FnMut(Verdict<'a>)) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    Answer(each).deserialize(&mut deserializer)?;
    deserializer.end()
}

/// How much of a destination's words is kept, in bytes: of a kind of error, and of a reason.
const LONGEST_KIND: usize = 100;
const LONGEST_REASON: usize = 1000;

/// One sentence of an answer that is an error: `type: reason`, or how it begins, if it is something else.
pub fn complaint(body: &[u8]) -> String {
    const LONGEST: usize = 200;
    #[derive(Deserialize)]
    struct Whole<'a> {
        #[serde(borrow)]
        error: Fault<'a>,
    }
    if let Ok(Whole { error }) = serde_json::from_slice::<Whole<'_>>(body) {
        let (kind, reason) = error.parts();
        if !kind.is_empty() {
            return format!("{kind}: {reason}");
        }
    }
    let text = String::from_utf8_lossy(body.get(..body.len().min(LONGEST)).unwrap_or_default());
    text.trim().replace(['\r', '\n'], " ")
}

#[derive(Deserialize)]
struct Item<'a> {
    status: u16,
    #[serde(borrow, default)]
    error: Option<Fault<'a>>,
}

/// An error has had several forms.
#[derive(Deserialize)]
#[serde(untagged)]
enum Fault<'a> {
    Parts {
        #[serde(borrow, rename = "type", default)]
        kind: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        reason: Option<Cow<'a, str>>,
    },
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(IgnoredAny),
}

impl<'a> Fault<'a> {
    fn parts(self) -> (Cow<'a, str>, Cow<'a, str>) {
        let (kind, reason) = match self {
            Self::Parts { kind, reason } => (kind.unwrap_or_default(), reason.unwrap_or_default()),
            Self::Text(text) => ("error".into(), text),
            Self::Other(_) => ("error".into(), "".into()),
        };
        (cut(kind, LONGEST_KIND), cut(reason, LONGEST_REASON))
    }
}

/// The beginning of a text.
fn cut(text: Cow<'_, str>, longest: usize) -> Cow<'_, str> {
    let end = text.floor_char_boundary(longest);
    match text {
        Cow::Borrowed(text) => text.get(..end).unwrap_or_default().into(),
        Cow::Owned(mut text) => {
            text.truncate(end);
            text.into()
        }
    }
}

/// `{"items":[...], ...}`
struct Answer<'e, 'a>(&'e mut dyn FnMut(Verdict<'a>));

/// `[...]`
struct Items<'e, 'a>(&'e mut dyn FnMut(Verdict<'a>));

/// `{"create":{"status":201}}`
struct Action<'e, 'a>(&'e mut dyn FnMut(Verdict<'a>));

macro_rules! seed {
    ($name:ident, $how:ident) => {
        impl<'a> DeserializeSeed<'a> for $name<'_, 'a> {
            type Value = ();

            fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
                deserializer.$how(self)
            }
        }
    };
}

seed!(Answer, deserialize_map);
seed!(Items, deserialize_seq);
seed!(Action, deserialize_map);

impl<'a> Visitor<'a> for Answer<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `items`")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'a, str>>()? {
            if key == "items" {
                map.next_value_seed(Items(&mut *self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

impl<'a> Visitor<'a> for Items<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of items")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Action(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

impl<'a> Visitor<'a> for Action<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with one action")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        // There is one action. Were there none, those after it would be taken for others' verdicts.
        let mut verdict = None;
        while map.next_key::<IgnoredAny>()?.is_some() {
            let Item { status, error } = map.next_value()?;
            let (kind, reason) = error.map(Fault::parts).unwrap_or_default();
            verdict = Some(Verdict { status, kind, reason });
        }
        (self.0)(verdict.ok_or_else(|| serde::de::Error::custom("an item without its action"))?);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdicts(body: &str) -> (Vec<Verdict<'_>>, bool) {
        let mut all = Vec::new();
        let is_whole = read(body.as_bytes(), &mut |verdict| all.push(verdict)).is_ok();
        (all, is_whole)
    }

    #[test]
    fn each_document_has_its_verdict() {
        let body = r#"{"took":3,"errors":true,"items":[{"create":{"_index":"a","status":201,"_shards":{"total":1}}},
            {"create":{"status":400,"error":{"type":"document_parsing_exception","reason":"[1:2] \"x\"","caused_by":{}}}},
            {"index":{"status":429,"error":"busy"}}, {"create":{"status":201,"failure_store":"used"}}]}"#;
        let (all, is_whole) = verdicts(body);
        assert!(is_whole);
        assert_eq!(all.iter().map(|verdict| verdict.status).collect::<Vec<_>>(), [201, 400, 429, 201]);
        assert_eq!((&*all[1].kind, &*all[1].reason), ("document_parsing_exception", "[1:2] \"x\""));
        assert_eq!((&*all[2].kind, &*all[2].reason), ("error", "busy"));
    }

    proptest! {
        #[test]
        fn a_beginning_has_the_first_verdicts_of_the_whole(
            statuses in prop::collection::vec(100u16..600, 0..9),
            cut in any::<prop::sample::Index>(),
            noise: Vec<u8>,
        ) {
            let items = statuses.iter().map(|status| format!("{{\"create\":{{\"status\":{status}}}}}"));
            let body = format!("{{\"items\":[{}]}}", items.collect::<Vec<_>>().join(","));
            let end = cut.index(body.len() + 1);
            let (all, is_whole) = verdicts(&body[..end]);
            prop_assert_eq!(is_whole, end == body.len());
            let read: Vec<u16> = all.iter().map(|verdict| verdict.status).collect();
            prop_assert!(statuses.starts_with(&read));
            prop_assert!(!is_whole || read == statuses);
            let _ = (super::read(&noise, &mut |_| {}), complaint(&noise));
        }
    }

    #[test]
    fn an_answer_that_breaks_off_counts_as_far_as_it_goes() {
        for (body, count) in [
            (r#"{"items":[{"create":{"status":201}},{"create":{"st"#, 1),
            (r#"{"items":[{"create":{"status":201}},{},{"create":{"status":201}}]}"#, 1),
            (r#"{"items":[{"create":{"status":"no"}}]}"#, 0),
            ("<html>", 0),
            ("", 0),
        ] {
            let (all, is_whole) = verdicts(body);
            assert_eq!((all.len(), is_whole), (count, false), "{body}");
        }
        assert_eq!(verdicts("{}"), (vec![], true));
    }

    #[test]
    fn a_destination_does_not_say_more_than_is_worth_keeping() {
        for of in ["x", "ä", "\\u00e4"] {
            let long = of.repeat(5000);
            let body = format!(
                r#"{{"items":[{{"create":{{"status":400,"error":{{"type":"{long}","reason":"{long}"}}}}}}]}}"#
            );
            let (all, _) = verdicts(&body);
            assert!(all[0].kind.len() == 100 && all[0].reason.len() == 1000, "{all:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_one_sentence() {
        let body = br#"{"error":{"root_cause":[],"type":"security_exception","reason":"no"},"status":403}"#;
        assert_eq!(complaint(body), "security_exception: no");
        assert_eq!(complaint(b"<html>\n bad gateway"), "<html>  bad gateway");
    }
}
