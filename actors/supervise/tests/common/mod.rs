//! A message that reports how it ended, and the loop of a stage that does as it is told.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_rt::{Arbiter, System};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::Instant;
use watershed_delivery::{Cause, Fault, Outcome};
use watershed_supervise::{
    Cell, ChildSpec, Control, Event, Failure, Launch, Lease, Limits, Mail, Next, Policy, Quota, Weight,
};

/// How each part of each message ended.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<BTreeMap<u32, Vec<End>>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Delivered,
    Poison,
    Refused(&'static str),
    /// Dropped without an outcome.
    Lost,
}

pub struct Letter {
    pub parts: Vec<u32>,
    pub withdrawn: Arc<AtomicBool>,
    log: Log,
}

impl Log {
    pub fn letter(&self, part: u32) -> Letter {
        self.merged([part])
    }

    pub fn merged(&self, parts: impl IntoIterator<Item = u32>) -> Letter {
        Letter { parts: parts.into_iter().collect(), withdrawn: Arc::default(), log: self.clone() }
    }

    /// How a part ended; panics where it ended more than once.
    pub fn end(&self, part: u32) -> Option<End> {
        let log = self.0.lock();
        let ends = log.get(&part)?;
        assert_eq!(ends.len(), 1, "part {part} ended as {ends:?}");
        Some(ends[0])
    }

    pub fn ends(&self, parts: impl IntoIterator<Item = u32>) -> Vec<End> {
        parts
            .into_iter()
            .map(|part| self.end(part).unwrap_or_else(|| panic!("{part} has not ended")))
            .collect()
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Waits until so many parts have ended.
    pub async fn reach(&self, parts: usize) {
        until(&format!("{parts} ends"), || self.len() >= parts).await;
    }

    fn note(&self, parts: &[u32], end: End) {
        let mut log = self.0.lock();
        for part in parts {
            log.entry(*part).or_default().push(end);
        }
    }
}

impl Mail for Letter {
    fn weight(&self) -> Weight {
        Weight { requests: 1, items: self.parts.len(), bytes: 10 * self.parts.len() }
    }

    fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::SeqCst)
    }

    fn bisect(mut self) -> Result<(Self, Self), Self> {
        if self.parts.len() < 2 {
            return Err(self);
        }
        let right = self.parts.split_off(self.parts.len() / 2);
        let left = std::mem::take(&mut self.parts);
        Ok((self.log.merged(left), self.log.merged(right)))
    }

    fn settle(mut self, outcome: Outcome) {
        let end = match outcome {
            Outcome::Delivered => End::Delivered,
            Outcome::Rejected(rejection) => {
                assert_eq!(rejection.fault, Fault::Poison);
                assert_eq!(rejection.items, self.parts.len() as u64);
                End::Poison
            }
            Outcome::Refused(refusal) => End::Refused(match refusal.cause {
                Cause::Shutdown => "shutdown",
                Cause::Failure => "failure",
                Cause::Withdrawn => "withdrawn",
                _ => "other",
            }),
            Outcome::Dropped { .. } => End::Lost,
        };
        self.log.note(&std::mem::take(&mut self.parts), end);
    }
}

impl Drop for Letter {
    fn drop(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        self.log.note(&parts, End::Lost);
    }
}

/// Runs a test on one runtime in paused time.
pub fn paused<F: Future>(test: F) -> F::Output {
    run(true, test)
}

/// Runs a test in real time.
pub fn real<F: Future>(test: F) -> F::Output {
    run(false, test)
}

fn run<F: Future>(paused: bool, test: F) -> F::Output {
    System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(paused).build().unwrap()
    })
    .block_on(async {
        // A real hour of patience in paused time costs nothing.
        let patience = Duration::from_secs(if paused { 3_600 } else { 20 });
        tokio::time::timeout(patience, test).await.expect("the test hangs")
    })
}

/// Waits until something is so; looks every millisecond.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..200_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

/// Waits for an event.
pub async fn event(events: &mut broadcast::Receiver<Event>, mut wanted: impl FnMut(&Event) -> bool) -> Event {
    loop {
        let event = events.recv().await.expect("the supervisor lives");
        if wanted(&event) {
            return event;
        }
    }
}

pub fn spec() -> ChildSpec {
    ChildSpec::new(Arbiter::current())
}

pub fn cell(name: &str, requests: usize) -> Cell<Letter> {
    Cell::new(name, Quota::new(Limits { requests: Some(requests), ..Limits::default() }))
}

pub fn send(cell: &Cell<Letter>, letter: Letter) {
    cell.try_reserve(letter.weight()).expect("room").send(letter);
}

/// What a stage does with a message: nothing, wait, or panic.
pub type Handle = Arc<dyn Fn(Vec<u32>) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync>;

pub fn handle(on: impl Fn(Vec<u32>) + Send + Sync + 'static) -> Handle {
    Arc::new(move |parts| {
        on(parts);
        Box::pin(async {})
    })
}

/// A stage that delivers one message after another.
pub fn stage(handle: Handle) -> Launch<Letter> {
    launch(move |lease| {
        let handle = handle.clone();
        async move {
            lease.started();
            serve(lease, handle).await
        }
    })
}

pub fn launch<F, L>(launch: L) -> Launch<Letter>
where
    F: Future<Output = Result<(), Failure>> + 'static,
    L: Fn(Lease<Letter>) -> F + Send + Sync + 'static,
{
    Arc::new(move |lease| -> LocalBoxFuture<'static, _> { launch(lease).boxed_local() })
}

pub async fn serve(mut lease: Lease<Letter>, handle: Handle) -> Result<(), Failure> {
    loop {
        match lease.next().await {
            Next::Mail(ticket) => {
                let parts = lease.with(&ticket, |letter| letter.parts.clone()).expect("in its slot");
                let busy = lease.busy();
                handle(parts).await;
                drop(busy);
                lease.finish(ticket, Outcome::Delivered);
            }
            Next::Control(Control::Drain { .. }) => {}
            Next::Drained => return Ok(()),
        }
    }
}

/// Panics when it is dropped.
pub struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("in drop");
    }
}

pub const POLICY: Policy = Policy {
    base: Duration::from_millis(100),
    cap: Duration::from_secs(30),
    intensity: 5,
    window: Duration::from_secs(60),
    cool_down: Duration::from_secs(10),
    start_timeout: Duration::from_secs(30),
    abort_grace: Duration::from_secs(1),
    seed: Some(42),
};

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// A stage that panics for as long as it is told to, each time at the same place.
pub fn broken(broken: &Arc<AtomicBool>) -> Launch<Letter> {
    let broken = broken.clone();
    stage(handle(move |parts| assert!(!broken.load(Ordering::SeqCst), "broken on {parts:?}")))
}

/// Panics on a part, however often it comes.
pub fn allergic(to: u32) -> Launch<Letter> {
    stage(handle(move |parts| assert!(!parts.contains(&to), "allergic to {parts:?}")))
}

/// Everything was returned, and nothing ended twice or never.
pub fn nothing_leaked(cell: &Cell<Letter>) {
    assert_eq!(cell.quota().used(), Weight::default());
    let seen = cell.observe();
    assert_eq!((seen.queued, seen.in_hand, seen.suspects), (0, 0, 0));
}

/// Hands out guards, and notes when one of them is dropped.
#[derive(Clone)]
pub struct Flag(Arc<AtomicBool>);

pub struct Raised(Arc<AtomicBool>);

impl Flag {
    pub fn new() -> (Self, Arc<AtomicBool>) {
        let dropped = Arc::new(AtomicBool::new(false));
        (Self(dropped.clone()), dropped)
    }

    pub fn raise(&self) -> Raised {
        Raised(self.0.clone())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
