//! An exporter that is one of several destinations of another one: where it stands, and what it leaves behind.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use watershed_supervise::{Cell, ChildId, ChildSpec, DrainReport, Failure, Launch, Supervisor};
use watershed_telemetry::Payload;

use super::batch::Job;
use super::lane::Lane;
use super::{ExportError, Exporter, Partial, Rate};
use crate::message::Message;
use crate::metrics::Counter;

/// Where an exporter starts actors of its own, one for each of its destinations: on its own lane, under the same
/// supervisor, each for itself.
#[derive(Clone)]
pub struct Nursery {
    supervisor: Supervisor,
    spec: ChildSpec,
}

/// The place of an exporter among several that stand for each other. What it has not put on the wire is not its own:
/// it goes back to whoever dealt it out when the exporter has to leave its place, and is dealt out anew.
#[derive(Clone)]
pub struct Seat {
    /// Whether it has its place.
    pub seating: watch::Receiver<Seating>,
    /// Where it goes back to. Its quota is that of the exporter's own cell.
    pub back: Cell<Message>,
    /// Told of every attempt.
    pub tried: Tried,
    /// What all of them together may be sent in a second.
    pub rate: Arc<Rate>,
    /// Counts the items that go back.
    pub returned: Counter,
}

/// Whether an exporter has its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seating {
    /// It sends.
    Taken,
    /// Nothing is sent, and everything that is not on the wire goes back.
    Vacant,
    /// What is on the wire goes back as well: nobody is there to answer it.
    Lost,
}

/// Told how long an attempt took, what came of it, and whether that says that the destination works. It does if it took
/// something, said anything but "not now", or asks for time; an attempt that its senders cut short says nothing.
pub type Tried = Arc<dyn Fn(Duration, &Result<Partial, ExportError>, Option<bool>) + Send + Sync>;

/// When the exporter has left its place, or has taken it again, or has an heir; never, where it has neither.
pub(super) async fn reseated(seat: &mut Option<Seat>, heir: &mut watch::Receiver<Option<Cell<Message>>>) {
    tokio::select! {
        () = changed(seat.as_mut().map(|seat| &mut seat.seating)) => {}
        () = changed(Some(heir)) => {}
    }
}

/// When that has changed; never, where nobody is left who could change it.
async fn changed<T>(watched: Option<&mut watch::Receiver<T>>) {
    let changed = match watched {
        Some(watched) => watched.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

/// When nobody is there to answer what is on the wire; never, where there is no seat.
pub(super) async fn lost(seating: Option<watch::Receiver<Seating>>) {
    let lost = match seating {
        Some(mut seating) => seating.wait_for(|seating| *seating == Seating::Lost).await.is_ok(),
        None => false,
    };
    if !lost {
        std::future::pending().await
    }
}

// === impl Nursery ===

impl Nursery {
    /// A nursery whose actors are supervised as `spec` says.
    pub fn new(supervisor: Supervisor, spec: ChildSpec) -> Self {
        Self { supervisor, spec }
    }

    /// Starts an actor; once it has started, or with the reason why it has not.
    pub async fn start(&self, cell: Cell<Message>, launch: Launch<Message>) -> Result<ChildId, Failure> {
        // Of no group, not of one that is called as it is: another may have its name, before a restart or a reload is over.
        let spec = ChildSpec { group: None, ..self.spec.clone() };
        self.supervisor.supervise(cell, spec, launch).await
    }

    /// Lets actors finish what they hold, until the deadline, and ends them.
    pub async fn drain(&self, children: &[ChildId], deadline: Instant) -> DrainReport {
        self.supervisor.drain(children, deadline).await
    }
}

// === impl Lane ===

impl<E: Exporter> Lane<E> {
    /// Whether what it has belongs to others.
    pub(super) fn is_vacant(&self) -> bool {
        let left = self.parts.seat.as_ref().is_some_and(|seat| *seat.seating.borrow() != Seating::Taken);
        left || self.parts.heir.borrow().is_some()
    }

    /// The place was left or taken: what may be sent begins small again.
    pub(super) fn reseated(&mut self) {
        if !self.is_vacant() {
            self.concurrency.restart();
            self.show_concurrency();
        }
    }

    /// Gives everything back that no attempt is under way for.
    pub(super) fn leave_seat(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            self.hand_back(pending.into_job());
        }
        for job in std::mem::take(&mut self.ready) {
            self.hand_back(job);
        }
    }

    /// Gives the messages of a job back, as far as they have not been sent.
    pub(super) fn hand_back(&self, mut job: Job) {
        let seat = self.parts.seat.as_ref();
        let heir = self.parts.heir.borrow().clone();
        let Some(back) = heir.or_else(|| seat.map(|seat| seat.back.clone())) else { return };
        let Some(rest) = Payload::concat(std::mem::take(&mut job.parts)) else { return self.settle(job) };
        // Of several none has been sent in part.
        let alone = job.members.len() == 1;
        for member in job.members {
            let Some(taken) = self.lease.take(member.ticket) else { continue };
            let (mut message, grant) = taken.into_parts();
            if alone {
                // What came of the parts before is owed to the same sender.
                message.guard.fork().resolve(job.outcome.clone());
                message.payload = rest.clone();
            }
            if job.past > 0 {
                message.guard = message.guard.cut();
            }
            if let Some(seat) = seat {
                seat.returned.add(message.payload.items() as u64);
            }
            back.adopt(grant).send(message);
        }
    }
}
