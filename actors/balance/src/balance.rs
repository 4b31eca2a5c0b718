//! The balancer: it deals what comes to it out to the exporters of its backends.
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
use tokio::time::{Instant, sleep};
use watershed_stage::delivery::{Cause, Outcome};
use watershed_stage::{
    ExporterParts, ExporterSpec, Failure, Message, Nursery, OVERHEAD, Payload, Placement, Reference, Seat,
    Sending, Signal, exporter_ended,
};
use watershed_supervise::{Cell, ChildId, Control, Grant, Launch, Lease, Mail as _, Next, Ticket, Weight};
use watershed_telemetry::deal::deal;

use crate::key::Keys;
use crate::plan::{Plan, Policy};
use crate::pool::{Backend, Copy, Pool, Table};
use crate::probe;
use crate::resolver::Report;
use crate::turns::Turns;

/// How long the exporter of a backend that is gone may take to end what it has on the wire.
const FAREWELL: Duration = Duration::from_secs(300);

/// How long a sender is asked to wait while no backend is known.
const NOBODY: Duration = Duration::from_secs(1);

/// How long a backend is left alone whose exporter does not start.
const BROKEN: Duration = Duration::from_secs(1);

/// How often it is looked, in a drain, whether something has come back.
const TICK: Duration = Duration::from_millis(20);

/// An exporter to several backends.
pub struct Balancer {
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
    /// Exporters that are about to start.
    starting: usize,
    /// Those of backends that are gone, and have something on the wire.
    leaving: Vec<ChildId>,
    /// That it is there.
    _presence: Arc<()>,
    /// The deadline of the drain, once there is one.
    deadline: Option<Instant>,
    /// The queue was empty in a drain. It is still open: backends that fail give back what they have.
    drained: bool,
}

/// The parts of a message, each with the cell that it goes to.
type Dealt = SmallVec<[(Cell<Message>, Payload); 1]>;

/// What is waited for.
enum Chore {
    /// A backend's exporter has started, or has not.
    Started(Arc<Backend>, Result<ChildId, Failure>),
    /// One that did not start may be tried again.
    Rested(Arc<Backend>),
    /// One has ended.
    Ended(ChildId),
}

// === impl Balancer ===

impl Balancer {
    /// What a plan says.
    pub fn new(plan: Plan) -> Self {
        Self { pool: Arc::new(Pool::new(plan)) }
    }
}

impl ExporterSpec for Balancer {
    fn signals(&self) -> &'static [Signal] {
        self.pool.plan.signals()
    }

    fn placement(&self) -> Placement {
        Placement::Lane
    }

    fn sending(&self) -> Sending {
        self.pool.plan.backends.sending()
    }

    fn references(&self) -> Vec<Reference> {
        self.pool.plan.references.clone()
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
        pool.plan.backends.check(&parts.env)?;
        for backend in pool.all() {
            // Nobody waits any more for what the incarnation before was about to start.
            backend.copies.lock().retain(|lane, copy| *lane != parts.env.lane || copy.child.is_some());
        }
        Ok(Self {
            _presence: pool.presence.clone(),
            changes: pool.changes(),
            table: Arc::default(),
            cells: Vec::new(),
            keys: pool.plan.keys(),
            turns: Turns::default(),
            parked: Vec::new(),
            chores: FuturesUnordered::new(),
            starting: 0,
            leaving: Vec::new(),
            deadline: None,
            drained: false,
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
        while self.starting > 0
            && let Some(chore) = self.chores.next().await
        {
            self.done(chore);
        }
        self.lease.started();
        loop {
            // A queue that is never empty must not keep the lane from its neighbours.
            tokio::task::coop::consume_budget().await;
            if self.drained {
                while let Some(ticket) = self.lease.try_next() {
                    self.heed();
                    self.route(ticket);
                }
                if !self.parked.is_empty() {
                    // Those that could take it may have ended already.
                    self.heed();
                }
                // The first copy looks after the backends for as long as the others need them.
                let is_free = self.parts.env.lane > 0 || self.pool.has_one_router();
                if self.chores.is_empty() && !self.end_all() && is_free {
                    return Ok(());
                }
            }
            tokio::select! {
                biased;
                Some(chore) = self.chores.next(), if !self.chores.is_empty() => self.done(chore),
                () = &mut keeper => keeper = std::future::pending().boxed_local(),
                Ok(()) = self.changes.changed() => self.heed(),
                next = self.lease.next(), if !self.drained => match next {
                    Next::Mail(ticket) => self.route(ticket),
                    Next::Control(Control::Drain { deadline }) => self.hurry(deadline),
                    // Without having been asked to drain: the lease has ended, and nothing is ours any more.
                    Next::Drained if self.deadline.is_none() => return Ok(()),
                    Next::Drained => self.drained = true,
                },
                () = sleep(TICK), if self.drained => {}
            }
        }
    }

    /// Follows the pool: starts the exporters of new backends, ends those of old ones, and deals by the new table.
    fn heed(&mut self) {
        self.changes.mark_unchanged();
        for backend in self.pool.all() {
            if backend.is_gone() {
                self.end(&backend);
            } else if backend.is_used() && (!self.drained || !self.parked.is_empty()) {
                self.begin(&backend);
            }
        }
        let table = self.pool.table();
        if !Arc::ptr_eq(&table, &self.table) {
            self.table = table;
            self.turns.begin(self.table.backends.len());
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
    fn begin(&mut self, backend: &Arc<Backend>) {
        let ExporterParts { env, batching, nursery, .. } = &self.parts;
        let mut copies = backend.copies.lock();
        if let Some(copy) = copies.get(&env.lane) {
            // One without a child is about to start, or could not be started a moment ago.
            let Some(child) = copy.child.filter(|_| copy.cell.state().is_final()) else { return };
            self.leaving.push(child);
            self.chores.push(farewell(nursery, child, self.deadline));
        }
        let own = self.lease.cell();
        let cell = Cell::new(format!("{}/{}", own.name(), backend.name), own.quota().clone());
        cell.on_ended(exporter_ended(env));
        let tried = {
            let (pool, backend) = (self.pool.clone(), Arc::downgrade(backend));
            move |took, result: &_, works| {
                if let Some(backend) = backend.upgrade() {
                    pool.tried(&backend, took, result, works);
                }
            }
        };
        let seat = Seat {
            seating: backend.seating.subscribe(),
            back: own.clone(),
            tried: Arc::new(tried),
            rate: self.pool.rate.clone(),
            returned: self.pool.meters(env).rerouted.clone(),
        };
        let (batching, nursery) = (batching.clone(), nursery.clone());
        let (seat, heir) = (Some(seat), watch::Sender::new(None).subscribe());
        let parts = ExporterParts { env: env.clone(), batching, nursery: nursery.clone(), seat, heir };
        let launch = backend.exporter.launch(parts);
        copies.insert(env.lane, Copy { cell: cell.clone(), child: None });
        drop(copies);
        let backend = backend.clone();
        self.starting += 1;
        let start = async move { Chore::Started(backend, nursery.start(cell, launch).await) };
        self.chores.push(start.boxed_local());
    }

    /// Ends a backend's exporter on this lane: it has a while for what is on the wire, and gives back the rest.
    fn end(&mut self, backend: &Arc<Backend>) -> bool {
        let mut copies = backend.copies.lock();
        // One that is about to start is ended once it has.
        let child = copies.get(&self.parts.env.lane).and_then(|copy| copy.child);
        if let Some(child) = child {
            copies.remove(&self.parts.env.lane);
            self.leaving.push(child);
            self.chores.push(farewell(&self.parts.nursery, child, self.deadline));
        }
        if copies.is_empty() && backend.is_gone() {
            drop(copies);
            self.pool.forget(backend);
        }
        child.is_some()
    }

    /// From now on there is a deadline, also for those that are leaving.
    fn hurry(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
        let leaving = self.leaving.iter();
        self.chores.extend(leaving.map(|child| farewell(&self.parts.nursery, *child, Some(deadline))));
    }

    /// Ends all exporters on this lane; whether there was one.
    fn end_all(&mut self) -> bool {
        for ticket in std::mem::take(&mut self.parked) {
            self.lease.give_back(ticket, Outcome::refused(Cause::Shutdown, "no backend is known"));
        }
        self.cells.iter_mut().for_each(|cell| *cell = None);
        let mut some = false;
        for backend in self.pool.all() {
            some |= self.end(&backend);
        }
        some
    }

    fn done(&mut self, chore: Chore) {
        let lane = self.parts.env.lane;
        match chore {
            Chore::Ended(child) => self.leaving.retain(|other| *other != child),
            Chore::Rested(backend) => {
                backend.copies.lock().remove(&lane);
                self.heed();
            }
            Chore::Started(backend, started) => {
                self.starting -= 1;
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
                        self.pool.broken(&backend);
                        let rest = async move {
                            sleep(BROKEN).await;
                            Chore::Rested(backend)
                        };
                        self.chores.push(rest.boxed_local());
                    }
                }
                self.look_up();
            }
        }
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
        let Plan { policy, health, .. } = &self.pool.plan;
        match (policy, &table.ring) {
            (Policy::ByKey, Some(ring)) => {
                let keys = &mut keys[payload.signal() as usize];
                let anyone = turns.next(table.backends.len());
                let (settling, mut moved) = (table.is_settling(), 0);
                let dealt = deal(payload, keys.grain(payload.signal()), table.backends.len(), |unit| {
                    let Some(key) = keys.of(&unit) else { return anyone };
                    let Some(way) = ring.at(key) else { return anyone };
                    moved += u64::from(settling && table.has_moved(key, way));
                    way
                });
                if moved > 0 {
                    self.pool.meters(&self.parts.env).moved.add(moved);
                }
                dealt
            }
            (Policy::LeastLoaded, _) => {
                let now = Instant::now();
                let load = |backend: &Arc<Backend>| (backend.load() + 1) as f64 / backend.part(health, now);
                let loads: SmallVec<[f64; 16]> = table.backends.iter().map(load).collect();
                [(turns.least(&loads), payload.clone())].into_iter().collect()
            }
            _ => {
                let now = Instant::now();
                let part = |backend: &Arc<Backend>| backend.part(health, now);
                let parts: SmallVec<[f64; 16]> = table.backends.iter().map(part).collect();
                [(turns.weighted(&parts), payload.clone())].into_iter().collect()
            }
        }
    }
}

/// Lets an exporter end what it has on the wire.
fn farewell(nursery: &Nursery, child: ChildId, deadline: Option<Instant>) -> LocalBoxFuture<'static, Chore> {
    let nursery = nursery.clone();
    let deadline = deadline.unwrap_or_else(|| Instant::now() + FAREWELL);
    let end = async move {
        nursery.drain(&[child], deadline).await;
        Chore::Ended(child)
    };
    end.boxed_local()
}

/// Looks for backends, and probes those that there are.
fn keep(pool: Arc<Pool>, parts: &ExporterParts) -> Result<LocalBoxFuture<'static, ()>, Failure> {
    let env = parts.env.clone();
    let mut tasks: FuturesUnordered<LocalBoxFuture<'static, ()>> = FuturesUnordered::new();
    for (group, resolver) in pool.plan.resolvers.iter().enumerate() {
        let told = pool.clone();
        let report: Report = Arc::new(move |found| told.resolved(group, found));
        tasks.push(resolver.open(&env)?.run(report).boxed_local());
    }
    let mut changes = pool.changes();
    Ok(async move {
        let mut probed: Vec<Arc<Backend>> = Vec::new();
        loop {
            if pool.plan.health.enabled {
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
    if last > 0 {
        message.guard = message.guard.cut();
    }
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
