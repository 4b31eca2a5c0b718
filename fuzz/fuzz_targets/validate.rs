//! Bytes from outside against prost. The first byte chooses the signal and the bounds of the cuts.
//!
//! Either both sides accept the bytes or neither does, ids and nesting apart; and what is accepted reads the same,
//! and can be split, dealt out, joined and edited without a loss.

#![no_main]

#[allow(dead_code)]
#[path = "../../crates/telemetry/tests/suite/oracle.rs"]
mod oracle;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use oracle::Request;
use watershed_telemetry::deal::{Grain, deal};
use watershed_telemetry::edit::{Action, AttributeEdits, Target};
use watershed_telemetry::{Flaw, Payload, Signal};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let signal = Signal::ALL[usize::from(choice) % 3];
    let decoded = Request::decode(signal, data);
    let payload = match Payload::validate(signal, Bytes::copy_from_slice(data)) {
        Ok(payload) => payload,
        Err(invalid) => {
            let own = matches!(invalid.flaw(), Flaw::TraceId | Flaw::SpanId | Flaw::Depth);
            assert!(own || decoded.is_err(), "prost accepts: {invalid}");
            assert!(invalid.to_string().len() < 400 && invalid.offset() < data.len());
            return;
        }
    };
    let decoded = decoded.expect("prost refuses what was accepted");
    assert_eq!(payload.items(), decoded.items());
    assert_eq!(Request::view(&payload).normal(), decoded.clone().normal());

    let bound = usize::from(choice / 3);
    let by_items = payload.clone().split_by_items(bound);
    assert!(by_items.iter().all(|part| part.items() <= bound.max(1)));
    check(&payload, by_items);
    check(&payload, payload.clone().split_by_bytes(16 * bound));

    for grain in [Grain::Groups, Grain::Items, Grain::Points] {
        let mut turn = 0;
        let dealt = deal(&payload, grain, 1 + bound % 4, |_| {
            turn += 1 + bound / 4;
            turn % 4
        });
        check(&payload, dealt.into_iter().map(|(_, part)| part).collect());
    }

    for target in [Target::Resource, Target::Scope, Target::Item] {
        let key = || "k".to_owned();
        let upsert =
            AttributeEdits::new(target, vec![Action::Upsert { key: key(), value: "some text".into() }]);
        let upserted = upsert.apply(&payload);
        check(&payload, vec![upserted.clone()]);
        assert_eq!(upsert.apply(&upserted).to_bytes(), upserted.to_bytes());
        let delete = AttributeEdits::new(target, vec![Action::Delete { key: key() }]);
        let (deleted, again) = (delete.apply(&payload), delete.apply(&upserted));
        assert_eq!(deleted.items(), again.items());
        check(&payload, vec![deleted]);
    }
});

/// Every part is a request of its own, and together they have the items of the whole.
fn check(payload: &Payload, parts: Vec<Payload>) {
    let items = parts.iter().map(Payload::items).sum::<usize>();
    assert_eq!(items, payload.items());
    for part in &parts {
        let bytes = part.to_bytes();
        assert_eq!(part.bytes(), bytes.len());
        let again = Payload::validate(part.signal(), bytes.clone()).expect("a part is a valid request");
        assert_eq!(again.items(), part.items());
        assert_eq!(Request::decode(part.signal(), &bytes).expect("prost reads a part").items(), part.items());
    }
    let whole = Payload::concat(parts).expect("there is a part");
    assert_eq!(Request::view(&whole).items(), items);
    assert!(whole.split_requests().iter().map(Payload::items).sum::<usize>() == items);
}
