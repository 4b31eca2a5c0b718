//! Payloads as wholes: joining and taking apart.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use watershed_telemetry::{Payload, Signal};

use crate::generate;
use crate::oracle::Request;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn concat_is_prosts_merge(requests in vec(generate::request(), 1..5)) {
        let signal = requests[0].signal();
        let encoded: Vec<Bytes> =
            requests.iter().filter(|request| request.signal() == signal).map(|r| r.encode().into()).collect();
        let parts: Vec<Payload> =
            encoded.iter().map(|bytes| Payload::validate(signal, bytes.clone()).unwrap()).collect();
        let whole = Payload::concat(parts.clone()).unwrap();
        prop_assert_eq!(whole.requests().len(), parts.len());
        prop_assert_eq!(whole.items(), parts.iter().map(Payload::items).sum::<usize>());
        prop_assert_eq!(whole.bytes(), encoded.iter().map(Bytes::len).sum::<usize>());
        for (ours, given) in whole.requests().iter().zip(&encoded) {
            prop_assert_eq!(ours.as_ptr(), given.as_ptr());
        }

        let joined = whole.to_bytes();
        prop_assert_eq!(&joined, &encoded.concat());
        let merged = Request::decode(signal, &joined).unwrap();
        prop_assert_eq!(merged.items(), whole.items());
        prop_assert_eq!(Request::view(&whole).normal(), merged.normal());

        let apart = whole.split_requests();
        prop_assert_eq!(apart.len(), parts.len());
        for (apart, part) in apart.iter().zip(&parts) {
            prop_assert_eq!((apart.items(), apart.bytes()), (part.items(), part.bytes()));
            prop_assert_eq!(apart.requests()[0].as_ptr(), part.requests()[0].as_ptr());
        }
    }
}

#[test]
fn signals_do_not_mix() {
    let empty = |signal| Payload::validate(signal, Bytes::new()).unwrap();
    assert!(Payload::concat([]).is_none());
    assert!(Payload::concat([empty(Signal::Logs), empty(Signal::Traces)]).is_none());
    let both = Payload::concat([empty(Signal::Logs), empty(Signal::Logs)]).unwrap();
    assert!(both.is_empty());
    assert_eq!(both.to_bytes(), Bytes::new());
    assert_eq!(both.split_requests().len(), 2);
}

#[test]
fn a_single_request_is_handed_out_without_a_copy() {
    let bytes = Bytes::from(vec![0x0A, 0]);
    let payload = Payload::validate(Signal::Metrics, bytes.clone()).unwrap();
    assert_eq!(payload.to_bytes().as_ptr(), bytes.as_ptr());
}

#[test]
fn signals_have_names() {
    let names = Signal::ALL.map(|signal| (signal.to_string(), signal.item_name()));
    let expected = [("traces", "spans"), ("metrics", "metric_points"), ("logs", "log_records")];
    assert_eq!(names, expected.map(|(name, items)| (name.to_owned(), items)));
}
