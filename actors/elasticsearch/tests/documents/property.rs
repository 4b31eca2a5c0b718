//! Whatever the request: lines of JSON in pairs, no key twice, each item in its documents, the same cut as whole.

use std::collections::HashSet;

use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use watershed_elasticsearch::document::{Bulk, Mode};
use watershed_telemetry::{Payload, Signal};

use super::oracle::Request;
use super::{bulk, generate, plan, scribe};

/// JSON in which no object has a key twice, as Elasticsearch demands.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;
        macro_rules! scalars {
            ($($visit:ident: $type:ty),*) => { $(fn $visit<E>(self, _: $type) -> Result<Strict, E> { Ok(Strict) })* };
        }
        impl<'de> Visitor<'de> for Look {
            type Value = Strict;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }

            scalars!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
                while seq.next_element::<Strict>()?.is_some() {}
                Ok(Strict)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut keys = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !keys.insert(key.clone()) {
                        return Err(serde::de::Error::custom(format!("{key:?} twice")));
                    }
                    map.next_value::<Strict>()?;
                }
                Ok(Strict)
            }
        }
        deserializer.deserialize_any(Look)
    }
}

fn signal(request: &Request) -> Signal {
    match request {
        Request::Traces(_) => Signal::Traces,
        Request::Metrics(_) => Signal::Metrics,
        Request::Logs(_) => Signal::Logs,
    }
}

fn modes() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Otel, Mode::Ecs, Mode::None, Mode::Raw, Mode::Bodymap])
}

fn validated(request: &Request) -> Option<Payload> {
    Payload::validate(signal(request), request.encode().into()).ok()
}

fn check(bulk: &Bulk) {
    let lines: Vec<&[u8]> = bulk.body.split_inclusive(|byte| *byte == b'\n').collect();
    for line in &lines {
        let read = serde_json::from_slice::<Strict>(line);
        assert!(read.is_ok(), "{}: {}", read.err().unwrap(), String::from_utf8_lossy(line));
        assert!(line.starts_with(b"{") && line.ends_with(b"}\n"));
    }
    let written = bulk.documents.iter().filter(|document| document.flaw.is_none()).count();
    assert_eq!(lines.len(), 2 * written);
    let mut start = 0;
    for document in &bulk.documents {
        let own = &bulk.body[start..document.end];
        let count = own.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(count, if document.flaw.is_some() { 0 } else { 2 });
        start = document.end;
    }
    assert_eq!(start, bulk.body.len());
}

proptest! {
    #[test]
    fn any_request_becomes_lines_of_json(request in generate::request(), mode in modes(), content_ids: bool) {
        let Some(payload) = validated(&request) else { return Ok(()) };
        let mut plan = plan(mode);
        plan.content_ids = content_ids;
        plan.logs_dynamic_id = true;
        let bulk = bulk(&plan, &payload);
        check(&bulk);
        let items: Vec<u32> = bulk.documents.iter().flat_map(|document| bulk.items(document)).copied().collect();
        let distinct: HashSet<u32> = items.iter().copied().collect();
        prop_assert!(items.iter().all(|item| (*item as usize) < payload.items()));
        match payload.signal() {
            // A point without a value has nothing to say.
            Signal::Metrics => prop_assert_eq!(distinct.len(), items.len()),
            _ => prop_assert_eq!(distinct.len(), payload.items()),
        }
        if payload.signal() == Signal::Logs {
            prop_assert_eq!(bulk.documents.len(), payload.items());
        }
    }

    #[test]
    fn bodies_cut_short_and_done_documents_left_out_are_together_the_whole(
        request in generate::request(),
        mode in modes(),
        max_bytes in 1usize..2000,
        done in 0u32..5,
    ) {
        let Some(payload) = validated(&request) else { return Ok(()) };
        let plan = plan(mode);
        let whole = bulk(&plan, &payload);
        let mut scribe = scribe(&plan);
        scribe.max_bytes = max_bytes;
        let is_done = |number: u32| number % 5 == done;
        let (mut from, mut numbers, mut bytes) = (0, Vec::new(), 0);
        loop {
            let mut part = Bulk::default();
            let next = scribe.write(&payload, from, &is_done, &mut part);
            check(&part);
            prop_assert!(part.body.len() <= max_bytes || part.documents.iter().filter(|d| d.flaw.is_none()).count() == 1);
            numbers.extend(part.documents.iter().map(|document| document.number));
            bytes += part.body.len();
            match next {
                None => break,
                Some(next) => {
                    prop_assert!(next > from || from == 0 && next > 0);
                    from = next;
                }
            }
        }
        let rest: Vec<u32> = whole.documents.iter().map(|d| d.number).filter(|number| !is_done(*number)).collect();
        prop_assert_eq!(numbers, rest);
        let mut start = 0;
        let mut expected = 0;
        for document in &whole.documents {
            expected += if is_done(document.number) { 0 } else { document.end - start };
            start = document.end;
        }
        prop_assert_eq!(bytes, expected);
    }
}

#[test]
fn the_judge_sees_a_key_that_is_there_twice() {
    assert!(serde_json::from_str::<Strict>("{\"a\":1,\"a\":2}").is_err());
}
