//! The exporter `load_balancing`: it deals what comes to it out to the exporters of its backends.
//!
//! Each lane has a copy of it and of every backend's exporter, so that nothing crosses lanes. A message moves from cell to
//! cell with the room that it was granted at first, of which its parts have parts: so all backends together hold no more
//! than the queue is allowed to, one that hangs included, and what a backend gives back always finds room.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::time::Instant;
use watershed_otlp::OtlpGrpc;
use watershed_stage::delivery::{Cause, Outcome};
use watershed_stage::{
    Exporter as _, ExporterParts, ExporterSpec, Failure, Message, OVERHEAD, Payload, Placement, Reference,
    Seat, Sending, Settings as _, Signal, exporter_ended,
};
use watershed_supervise::{Cell, ChildId, Control, Grant, Launch, Lease, Mail as _, Next, Ticket, Weight};
use watershed_telemetry::deal::deal;

use crate::key::Keys;
use crate::pool::{Backend, Copy, Pool, Table};
use crate::probe;
use crate::resolver::Report;
use crate::settings::{ANY, Policy, Settings};

/// How long the exporter of a backend that is gone may take to end what it has on the wire.
const FAREWELL: Duration = Duration::from_secs(300);

/// How long a sender is asked to wait while no backend is known.
const NOBODY: Duration = Duration::from_secs(1);

/// A configured `load_balancing`.
pub(crate) struct Balancer {
    pool: Arc<Pool>,
}

/// Its copy on one lane.
struct Router {
    pool: Arc<Pool>,
    parts: ExporterParts,
    lease: Lease<Message>,
    changes: watch::Receiver<u64>,
    table: Arc<Table>,
    /// The backends' cells on this lane, in the order of the table; `None` before one is served.
    cells: Vec<Option<Cell<Message>>>,
    /// In the order of [`Signal::ALL`].
    keys: [Keys; 3],
    turns: Turns,
    /// What can go to nobody now.
    parked: Vec<Ticket>,
    chores: FuturesUnordered<LocalBoxFuture<'static, Chore>>,
    /// The deadline of the drain, once there is one.
    deadline: Option<Instant>,
}

/// Whose turn it is.
#[derive(Default)]
struct Turns {
    /// What each backend is owed, where they take turns.
    credits: Vec<f64>,
    turn: usize,
}

/// The parts of a message, each with the cell that it goes to.
type Dealt = SmallVec<[(Cell<Message>, Payload); 1]>;

/// What is waited for.
enum Chore {
    /// A backend's exporter has started, or has not.
    Started(Arc<Backend>, Result<ChildId, Failure>),
    /// One has ended.
    Ended,
}

// === impl Balancer ===

impl Balancer {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { pool: Arc::new(Pool::new(settings)) }
    }
}

impl ExporterSpec for Balancer {
    fn signals(&self) -> &'static [Signal] {
        self.pool.settings.signals()
    }

    fn placement(&self) -> Placement {
        Placement::Lane
    }

    fn sending(&self) -> Sending {
        OtlpGrpc::sending(&self.pool.settings.otlp(ANY))
    }

    fn references(&self) -> Vec<Reference> {
        self.pool.settings.references()
    }

    fn launch(&self, parts: ExporterParts) -> Launch<Message> {
        let pool = self.pool.clone();
        pool.meters(&parts.env);
        Arc::new(move |lease| {
            let (pool, parts) = (pool.clone(), parts.clone());
            async move { Router::new(pool, parts, lease)?.run().await }.boxed_local()
        })
    }
}

// === impl Router ===

impl Router {
    fn new(pool: Arc<Pool>, parts: ExporterParts, lease: Lease<Message>) -> Result<Self, Failure> {
        // What is wrong with every backend's exporter is wrong with this one: it must be known at the start.
        OtlpGrpc::build(&Arc::new(pool.settings.otlp(ANY)), &parts.env)?;
        Ok(Self {
            changes: pool.changes(),
            table: Arc::default(),
            cells: Vec::new(),
            keys: pool.settings.keys(),
            turns: Turns::default(),
            parked: Vec::new(),
            chores: FuturesUnordered::new(),
            deadline: None,
            pool,
            parts,
            lease,
        })
    }

    async fn run(mut self) -> Result<(), Failure> {
        // One copy looks after the backends of all.
        let mut keeper = match self.parts.env.lane {
            0 => keep(self.pool.clone(), &self.parts)?,
            _ => std::future::pending().boxed_local(),
        };
        // A list that does not change is known before anybody can send anything.
        let _ = futures_util::poll!(&mut keeper);
        self.heed();
        while self.cells.iter().any(Option::is_none)
            && let Some(chore) = self.chores.next().await
        {
            self.done(chore);
        }
        self.lease.started();
        let mut drained = false;
        loop {
            // A queue that is never empty must not keep the lane from its neighbours.
            tokio::task::coop::consume_budget().await;
            if drained {
                // The queue was empty once, but is still open: backends that fail give back what they have.
                if let Some(ticket) = self.lease.try_next() {
                    self.heed();
                    self.route(ticket);
                    continue;
                }
                if self.chores.is_empty() && !self.end_all() {
                    return Ok(());
                }
            }
            tokio::select! {
                biased;
                Some(chore) = self.chores.next(), if !self.chores.is_empty() => self.done(chore),
                () = &mut keeper => keeper = std::future::pending().boxed_local(),
                Ok(()) = self.changes.changed() => self.heed(),
                next = self.lease.next(), if !drained => match next {
                    Next::Mail(ticket) => self.route(ticket),
                    Next::Control(Control::Drain { deadline }) => self.deadline = Some(deadline),
                    // Without having been asked to drain: the lease has ended, and nothing is ours any more.
                    Next::Drained if self.deadline.is_none() => return Ok(()),
                    Next::Drained => drained = true,
                },
            }
        }
    }

    /// Follows the pool: starts the exporters of new backends, ends those of old ones, and deals by the new table.
    fn heed(&mut self) {
        self.changes.mark_unchanged();
        for backend in self.pool.all() {
            if backend.is_gone() {
                self.end(&backend);
            } else if !*backend.vacant.borrow() {
                self.begin(&backend);
            }
        }
        let table = self.pool.table();
        if !Arc::ptr_eq(&table, &self.table) {
            self.table = table;
            self.turns = Turns { credits: vec![0.0; self.table.backends.len()], turn: self.turns.turn };
        }
        self.look_up();
    }

    /// Finds the cells of the table's backends, and tries again what could go to nobody.
    fn look_up(&mut self) {
        let lane = self.parts.env.lane;
        let cell = |backend: &Arc<Backend>| {
            let copies = backend.copies.lock();
            copies.get(&lane).filter(|copy| copy.child.is_some()).map(|copy| copy.cell.clone())
        };
        self.cells = self.table.backends.iter().map(cell).collect();
        for ticket in std::mem::take(&mut self.parked) {
            self.route(ticket);
        }
    }

    /// Starts a backend's exporter on this lane, unless there is one.
    fn begin(&self, backend: &Arc<Backend>) {
        let ExporterParts { env, batching, nursery, .. } = &self.parts;
        let mut copies = backend.copies.lock();
        if copies.get(&env.lane).is_some_and(|copy| !copy.cell.state().is_final()) {
            return;
        }
        let own = self.lease.cell();
        let cell = Cell::new(format!("{}/{}", own.name(), backend.name), own.quota().clone());
        cell.on_ended(exporter_ended(env));
        let tried = {
            let (pool, backend) = (self.pool.clone(), Arc::downgrade(backend));
            move |took, result: &_, fair| {
                if let Some(backend) = backend.upgrade() {
                    pool.tried(&backend, took, result, fair);
                }
            }
        };
        let seat = Seat {
            vacant: backend.vacant.subscribe(),
            back: own.clone(),
            tried: Arc::new(tried),
            returned: self.pool.meters(env).rerouted.clone(),
        };
        let (batching, nursery) = (batching.clone(), nursery.clone());
        let (seat, heir) = (Some(seat), watch::Sender::new(None).subscribe());
        let parts = ExporterParts { env: env.clone(), batching, nursery: nursery.clone(), seat, heir };
        let launch = backend.exporter.launch(parts);
        copies.insert(env.lane, Copy { cell: cell.clone(), child: None });
        let backend = backend.clone();
        let start = async move { Chore::Started(backend, nursery.start(cell, launch).await) };
        self.chores.push(start.boxed_local());
    }

    /// Ends a backend's exporter on this lane: it has a while for what is on the wire, and gives back the rest.
    fn end(&self, backend: &Arc<Backend>) -> bool {
        let mut copies = backend.copies.lock();
        // One that is about to start is ended once it has.
        let child = copies.get(&self.parts.env.lane).and_then(|copy| copy.child);
        if let Some(child) = child {
            copies.remove(&self.parts.env.lane);
            let nursery = self.parts.nursery.clone();
            let deadline = self.deadline.unwrap_or_else(|| Instant::now() + FAREWELL);
            let end = async move {
                nursery.drain(&[child], deadline).await;
                Chore::Ended
            };
            self.chores.push(end.boxed_local());
        }
        if copies.is_empty() && backend.is_gone() {
            drop(copies);
            self.pool.forget(backend);
        }
        child.is_some()
    }

    /// Ends all exporters on this lane; whether there was one.
    fn end_all(&mut self) -> bool {
        for ticket in std::mem::take(&mut self.parked) {
            self.lease.give_back(ticket, Outcome::refused(Cause::Shutdown, "no backend is known"));
        }
        self.cells.iter_mut().for_each(|cell| *cell = None);
        self.pool.all().iter().filter(|backend| self.end(backend)).count() > 0
    }

    fn done(&mut self, chore: Chore) {
        let Chore::Started(backend, started) = chore else { return };
        let lane = self.parts.env.lane;
        match started {
            Ok(child) => {
                if let Some(copy) = backend.copies.lock().get_mut(&lane) {
                    copy.child = Some(child);
                }
                if backend.is_gone() {
                    self.end(&backend);
                }
            }
            Err(error) => {
                tracing::error!(backend = %backend.name, %error, "the exporter of a backend did not start");
                backend.copies.lock().remove(&lane);
                self.pool.broken(&backend);
            }
        }
        self.look_up();
    }

    /// Sends a message on its way, as a whole or in parts.
    fn route(&mut self, ticket: Ticket) {
        let look = |mail: &Message| {
            (mail.payload.clone(), mail.guard.is_awaited() || mail.guard.is_kept(), mail.is_withdrawn())
        };
        let Some((payload, comes_again, is_withdrawn)) = self.lease.with(&ticket, look) else { return };
        if is_withdrawn {
            let outcome = Outcome::refused(Cause::Withdrawn, "nobody waits for it any more");
            return self.lease.give_back(ticket, outcome);
        }
        if self.table.backends.is_empty() && comes_again {
            let outcome = Outcome::refused_for(Cause::Destination, "no backend is known", NOBODY);
            return self.lease.give_back(ticket, outcome);
        }
        let dealt = self.deal(&payload);
        let dealt: Option<Dealt> =
            dealt.into_iter().map(|(way, part)| Some((self.cells.get(way)?.clone()?, part))).collect();
        let Some(dealt) = dealt else { return self.parked.push(ticket) };
        if let Some(taken) = self.lease.take(ticket) {
            let (message, grant) = taken.into_parts();
            send(message, grant, dealt);
        }
    }

    /// The parts of a payload, each with the number of the backend that it is for.
    fn deal(&mut self, payload: &Payload) -> SmallVec<[(usize, Payload); 1]> {
        let Self { table, turns, keys, .. } = self;
        let settings = &self.pool.settings;
        match (settings.policy, &table.ring) {
            (Policy::ByKey, Some(ring)) => {
                let keys = &mut keys[payload.signal() as usize];
                let anyone = turns.next(table.backends.len());
                deal(payload, keys.grain(payload.signal()), table.backends.len(), |unit| {
                    keys.of(&unit).and_then(|key| ring.at(key)).unwrap_or(anyone)
                })
            }
            (Policy::LeastLoaded, _) => {
                let now = Instant::now();
                let load = |backend: &Arc<Backend>| {
                    (backend.load() + 1) as f64 / backend.part(&settings.health_check, now)
                };
                let loads: SmallVec<[f64; 16]> = table.backends.iter().map(load).collect();
                [(turns.least(&loads), payload.clone())].into_iter().collect()
            }
            _ => {
                let now = Instant::now();
                let part = |backend: &Arc<Backend>| backend.part(&settings.health_check, now);
                let parts: SmallVec<[f64; 16]> = table.backends.iter().map(part).collect();
                [(turns.weighted(&parts), payload.clone())].into_iter().collect()
            }
        }
    }
}

/// Looks for backends, and probes those that there are.
fn keep(pool: Arc<Pool>, parts: &ExporterParts) -> Result<LocalBoxFuture<'static, ()>, Failure> {
    let env = parts.env.clone();
    let mut tasks: FuturesUnordered<LocalBoxFuture<'static, ()>> = FuturesUnordered::new();
    for (group, resolver) in pool.settings.resolvers().into_iter().enumerate() {
        let told = pool.clone();
        let report: Report = Arc::new(move |found| told.resolved(group, found));
        tasks.push(resolver.open(&env)?.run(report).boxed_local());
    }
    let mut changes = pool.changes();
    Ok(async move {
        let mut probed: Vec<Arc<Backend>> = Vec::new();
        loop {
            if pool.settings.health_check.enabled {
                probed.retain(|backend| !backend.is_gone());
                for backend in pool.all() {
                    if !backend.is_gone() && probed.iter().all(|other| !Arc::ptr_eq(other, &backend)) {
                        tasks.push(probe::watch(pool.clone(), backend.clone(), env.clone()).boxed_local());
                        probed.push(backend);
                    }
                }
            }
            tokio::select! {
                Some(()) = tasks.next(), if !tasks.is_empty() => {}
                _ = changes.changed() => {}
            }
        }
    }
    .boxed_local())
}

/// Sends the parts of a message, each with its part of the debt, the room and the memory. There is at least one.
fn send(mut message: Message, mut grant: Grant, dealt: Dealt) {
    let last = dealt.len().saturating_sub(1);
    for (index, (cell, payload)) in dealt.into_iter().enumerate() {
        if index == last {
            if last > 0 {
                message.permit = message.permit.budget().overdraw(payload.bytes() as u64);
            }
            message.payload = payload;
            return cell.adopt(grant).send(message);
        }
        let bytes = payload.bytes();
        let (own, rest) = grant.split(Weight { requests: 1, items: payload.items(), bytes });
        grant = rest;
        let charge = message.charge.take().map(|charge| {
            let (own, rest) = charge.split((bytes + OVERHEAD) as u64);
            message.charge = Some(rest);
            own
        });
        // What it was made of goes with the last part.
        let permit = message.permit.budget().overdraw(bytes as u64);
        let (context, guard) = (message.context.clone(), message.guard.fork());
        cell.adopt(own).send(Message { payload, context, guard, permit, charge });
    }
}

// === impl Turns ===

impl Turns {
    /// The next of so many.
    fn next(&mut self, count: usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn.checked_rem(count).unwrap_or_default()
    }

    /// Whose turn it is where each gets its part, and no one several times while others wait.
    fn weighted(&mut self, parts: &[f64]) -> usize {
        self.credits.resize(parts.len(), 0.0);
        self.credits.iter_mut().zip(parts).for_each(|(credit, part)| *credit += part);
        let most = |best: usize, at: usize| if self.credits[at] > self.credits[best] { at } else { best };
        let best = (0..parts.len()).fold(0, most);
        if let Some(credit) = self.credits.get_mut(best) {
            *credit -= parts.iter().sum::<f64>();
        }
        best
    }

    /// Who has least; of several, each in turn.
    fn least(&mut self, loads: &[f64]) -> usize {
        let first = self.next(loads.len());
        let order = (first..loads.len()).chain(0..first);
        order.reduce(|best, at| if loads[at] < loads[best] { at } else { best }).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(mut turn: impl FnMut() -> usize, count: usize) -> [usize; 3] {
        let mut taken = [0; 3];
        (0..count).for_each(|_| taken[turn()] += 1);
        taken
    }

    #[test]
    fn turns_go_by_parts() {
        let mut turns = Turns::default();
        assert_eq!(taken(|| turns.weighted(&[1.0, 1.0, 1.0]), 300), [100, 100, 100]);
        assert_eq!(taken(|| turns.weighted(&[1.0, 0.1, 1.0]), 210), [100, 10, 100]);
    }

    #[test]
    fn the_least_loaded_is_taken_and_of_equals_each() {
        let mut turns = Turns::default();
        assert_eq!(taken(|| turns.least(&[2.0, 1.0, 3.0]), 10), [0, 10, 0]);
        assert_eq!(taken(|| turns.least(&[1.0, 5.0, 1.0]), 30)[1], 0);
        assert_eq!(taken(|| turns.least(&[1.0, 1.0, 1.0]), 30), [10, 10, 10]);
    }
}
