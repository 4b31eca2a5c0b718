//! What the gate of a receiver asks, in which order, and what it says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;
use parking_lot::Mutex;
use watershed_stage::{
    AuthSettings, Denied, Entries, Extensions, Gate, Identity, Intake, Provided, RateLimitSettings,
    ServerAuth, Unauthenticated,
};

use crate::common::{Bench, paused, secs};

/// Answers as it is told to, and counts how often it is asked.
struct Door {
    answer: Mutex<Result<Identity, Unauthenticated>>,
    asked: AtomicUsize,
}

impl ServerAuth for Door {
    fn authenticate(&self, _: &HeaderMap) -> Result<Identity, Unauthenticated> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.answer.lock().clone()
    }
}

const WRONG: Unauthenticated = Unauthenticated { reason: "wrong", challenge: None, retry_after: None };

/// The gate, its door, the way in behind it, and what that has counted of a reason.
fn gate(limit: &str) -> (Gate, Arc<Door>, Intake, impl Fn(&str) -> u64 + use<>) {
    let bench = Bench::new();
    let answer = Mutex::new(Ok(Identity([("username".to_owned(), "ann".to_owned())].into())));
    let door = Arc::new(Door { answer, asked: AtomicUsize::new(0) });
    let provided = Provided { server_auth: Some(door.clone()), ..Provided::default() };
    let mut env = bench.env("rx");
    env.extensions = Extensions::new(HashMap::from([("door".into(), provided)]));
    let auth = AuthSettings { authenticator: "door".into() };
    let limit: RateLimitSettings = toml::from_str(limit).unwrap();
    let gate = Gate::new(&env, Some(&auth), Some(&limit), false).unwrap();
    let intake = Intake::new(env, bench.cell("rx", 1), Entries::default().into());
    let series = "watershed_receiver_refused_requests";
    let counted =
        move |reason: &str| bench.metric(&format!("{series}{{receiver=\"rx\",reason=\"{reason}\"}}"));
    (gate, door, intake, counted)
}

#[test]
fn who_comes_too_often_is_not_asked_who_it_is_unless_that_tells() {
    paused(async {
        for (by, asked) in [("address", 1), ("identity", 2)] {
            let (gate, door, intake, counted) = gate(&format!("requests_per_second = 1\nby = '{by}'"));
            gate.pass(&intake, &HeaderMap::new(), None).unwrap();
            let denied = gate.pass(&intake, &HeaderMap::new(), None).unwrap_err();
            assert!(matches!(denied, Denied::TooOften(_)), "{denied:?}");
            assert_eq!((door.asked.load(Ordering::Relaxed), counted("rate_limit")), (asked, 1), "{by}");
        }
    });
}

#[test]
fn who_is_locked_out_while_its_body_comes_does_not_go_on_as_nobody() {
    paused(async {
        let (gate, door, intake, counted) = gate("requests_per_second = 9");
        gate.pass(&intake, &HeaderMap::new(), None).unwrap();
        assert!(gate.origin(&intake, HeaderMap::new(), None).unwrap().auth.is_some());
        *door.answer.lock() = Err(WRONG);
        assert_eq!(gate.origin(&intake, HeaderMap::new(), None).unwrap_err(), Denied::Unauthenticated(WRONG));
        assert_eq!(counted("unauthenticated"), 1);
    });
}

#[test]
fn who_can_not_be_asked_now_may_come_again() {
    paused(async {
        let (gate, door, intake, _) = gate("requests_per_second = 9");
        *door.answer.lock() = Err(Unauthenticated { retry_after: Some(secs(3)), ..WRONG });
        let denied = gate.pass(&intake, &HeaderMap::new(), None);
        assert_eq!(denied, Err(Denied::NotNow("wrong", secs(3))));
    });
}
