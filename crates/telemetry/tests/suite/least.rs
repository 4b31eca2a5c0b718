//! The smallest part is known without cutting.

use proptest::prelude::*;
use watershed_telemetry::wire::put_bytes_field;
use watershed_telemetry::{Payload, Signal};

fn field(number: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes_field(&mut out, number, value);
    out
}

/// An item with a name of so many bytes; a metric has two points.
fn item(signal: Signal, name: usize) -> Vec<u8> {
    let name = "n".repeat(name);
    let item = match signal {
        Signal::Traces => field(5, name.as_bytes()),
        Signal::Logs => field(3, name.as_bytes()),
        Signal::Metrics => {
            let points = [field(1, &[]), field(1, &[])].concat();
            [field(1, name.as_bytes()), field(5, &points)].concat()
        }
    };
    field(2, &item)
}

/// Scopes of items with such names under a resource whose attribute has such a key.
fn group(signal: Signal, key: &str, scopes: &[Vec<usize>]) -> Vec<u8> {
    let resource = field(1, &field(1, &field(1, key.as_bytes())));
    let scopes = scopes.iter().enumerate().flat_map(|(index, names)| {
        let scope = field(1, &field(1, "s".repeat(index).as_bytes()));
        let items: Vec<u8> = names.iter().flat_map(|name| item(signal, *name)).collect();
        field(2, &[scope, items].concat())
    });
    field(1, &[resource, scopes.collect()].concat())
}

fn payload(signal: Signal, groups: &[Vec<u8>]) -> Payload {
    Payload::validate(signal, groups.concat().into()).unwrap()
}

fn parts(payload: &Payload) -> Vec<Payload> {
    payload.clone().split_by_items(1)
}

proptest! {
    #[test]
    fn it_is_the_smallest_of_all_parts_if_they_have_a_large_resource_in_common(
        signal in proptest::sample::select(Signal::ALL.to_vec()),
        scopes in proptest::collection::vec(proptest::collection::vec(0..200usize, 1..5), 1..4),
        more in proptest::collection::vec(proptest::collection::vec(0..200usize, 1..5), 1..3),
    ) {
        let key = "k".repeat(10_000);
        let whole = payload(signal, &[group(signal, &key, &scopes), group(signal, &key, &more)]);
        let parts = parts(&whole);
        let smallest = parts.iter().map(Payload::bytes).min();
        for one in &parts {
            prop_assert_eq!(whole.least_beside(one), smallest);
            prop_assert_eq!(one.least_beside(one), Some(one.bytes()));
        }
    }
}

#[test]
fn nothing_is_said_of_parts_that_repeat_something_else() {
    let [one, other, small] = ["k".repeat(10_000), "j".repeat(1_000), "k".into()]
        .map(|key: String| group(Signal::Logs, &key, &[vec![10, 20]]));
    let of = |groups: &[Vec<u8>]| payload(Signal::Logs, groups);
    let first = |groups: &[Vec<u8>]| parts(&of(groups)).swap_remove(0);
    let part = first(std::slice::from_ref(&one));
    assert_eq!(of(&[one.clone(), one.clone()]).least_beside(&part), Some(part.bytes()));
    assert_eq!(of(&[one.clone(), other]).least_beside(&part), None);
    assert_eq!(of(&[one, small.clone()]).least_beside(&part), None);
    // It is the item that makes it large.
    let part = first(&[group(Signal::Logs, "k", &[vec![100]])]);
    assert_eq!(of(&[small]).least_beside(&part), None);
}

#[test]
fn a_large_scope_counts_as_a_large_resource_does() {
    let scope = |name: &str| {
        let scope = field(1, &field(1, name.as_bytes()));
        let spans: Vec<u8> = [10, 5].iter().flat_map(|name| item(Signal::Traces, *name)).collect();
        payload(Signal::Traces, &[field(1, &field(2, &[scope, spans].concat()))])
    };
    let whole = scope(&"x".repeat(1_000));
    let parts = parts(&whole);
    assert_eq!(whole.least_beside(&parts[0]), Some(parts[1].bytes()));
    assert_eq!(scope(&"y".repeat(1_000)).least_beside(&parts[0]), None);
}
