//! Sees Arbiters that no longer turn: a thread of its own, since a blocked thread can not watch itself.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use actix_rt::ArbiterHandle;
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use crate::supervisor::{Event, Shared, Supervisor};

/// How often an Arbiter says that it turns, unless the limit asks for more.
const BEAT: Duration = Duration::from_millis(500);

/// A thread that watches Arbiters, until it is dropped.
#[derive(Debug)]
pub struct Watchdog {
    watch: Arc<Watch>,
    beat: Duration,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Watch {
    lanes: Mutex<Lanes>,
    stop: Condvar,
}

#[derive(Debug, Default)]
struct Lanes {
    stopped: bool,
    watched: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    name: Arc<str>,
    /// Turned by a task on the Arbiter.
    turns: Arc<AtomicU64>,
    seen: u64,
    since: Instant,
    stuck: bool,
}

// === impl Watchdog ===

impl Watchdog {
    /// How long an Arbiter may be silent, unless told otherwise.
    pub const LIMIT: Duration = Duration::from_secs(10);

    /// Starts a watchdog that reports to `supervisor` what is silent for longer than `limit`.
    pub fn start(supervisor: &Supervisor, limit: Duration) -> io::Result<Self> {
        let watch = Arc::new(Watch::default());
        let beat = BEAT.min(limit / 4);
        let thread = {
            let watch = watch.clone();
            let shared = supervisor.shared().clone();
            std::thread::Builder::new()
                .name("watchdog".into())
                .spawn(move || watch.run(&shared, beat, limit))?
        };
        Ok(Self { watch, beat, thread: Some(thread) })
    }

    /// Watches one more Arbiter.
    pub fn watch(&self, name: impl Into<Arc<str>>, lane: &ArbiterHandle) {
        let turns = Arc::new(AtomicU64::new(0));
        self.watch.lanes.lock().watched.push(Watched {
            name: name.into(),
            turns: turns.clone(),
            seen: 0,
            since: Instant::now(),
            stuck: false,
        });
        // An Arbiter that is already gone is silent, which is what there is to see.
        lane.spawn(turn(Arc::downgrade(&turns), self.beat));
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.watch.lanes.lock().stopped = true;
        self.watch.stop.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // The tasks on the Arbiters end when they find their counters gone.
        self.watch.lanes.lock().watched.clear();
    }
}

async fn turn(turns: Weak<AtomicU64>, beat: Duration) {
    while let Some(turns) = turns.upgrade() {
        turns.fetch_add(1, Ordering::Relaxed);
        drop(turns);
        tokio::time::sleep(beat).await;
    }
}

// === impl Watch ===

impl Watch {
    fn run(&self, shared: &Shared, beat: Duration, limit: Duration) {
        let mut lanes = self.lanes.lock();
        let mut last = Instant::now();
        while !lanes.stopped {
            let mut changed = Vec::new();
            let now = Instant::now();
            // Where the whole process was stopped, this thread was too: it can say nothing of that time.
            let absent = now.duration_since(last).saturating_sub(beat);
            last = now;
            for lane in &mut lanes.watched {
                if lane.look(now, absent, limit) {
                    changed.push((lane.name.clone(), lane.stuck));
                }
            }
            for (lane, stuck) in changed {
                shared.report(lane, stuck);
            }
            self.stop.wait_for(&mut lanes, beat);
        }
        shared.stuck.lock().retain(|stuck| lanes.watched.iter().all(|lane| lane.name != *stuck));
    }
}

impl Watched {
    /// Whether it became stuck, or is so no longer. Nobody looked for so long before.
    fn look(&mut self, now: Instant, absent: Duration, limit: Duration) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);
        self.since += absent;
        if turns != self.seen {
            self.seen = turns;
            self.since = now;
        }
        let stuck = now.duration_since(self.since) > limit;
        std::mem::replace(&mut self.stuck, stuck) != stuck
    }
}

impl Shared {
    fn report(&self, lane: Arc<str>, stuck: bool) {
        let mut list = self.stuck.lock();
        list.retain(|name| *name != lane);
        if stuck {
            tracing::error!(%lane, "an Arbiter no longer turns");
            list.push(lane.clone());
        } else {
            tracing::warn!(%lane, "an Arbiter turns again");
        }
        drop(list);
        self.emit(if stuck { Event::LaneStuck { lane } } else { Event::LaneRecovered { lane } });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_not_blamed_for_the_time_in_which_nobody_watched() {
        let (began, limit) = (Instant::now(), Duration::from_secs(10));
        let turns = Arc::new(AtomicU64::new(1));
        let mut lane =
            Watched { name: "lane".into(), turns: turns.clone(), seen: 1, since: began, stuck: false };
        let mut look = |at: u64, absent: u64| {
            lane.look(began + Duration::from_secs(at), Duration::from_secs(absent), limit);
            lane.stuck
        };
        // Stopped for a minute, and one beat after.
        assert_eq!([look(1, 0), look(61, 59), look(62, 0)], [false; 3]);
        assert_eq!([look(69, 0), look(70, 0)], [false, true]);
        assert!(look(131, 60), "it was stuck before");
        turns.fetch_add(1, Ordering::Relaxed);
        assert!(!look(132, 0));
    }
}
