//! Processors: what one is, and the loop that runs it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use watershed_delivery::{Budget, Cause, Outcome, Permit};
use watershed_supervise::{Failure, Launch, Lease, Next, Ticket, caught};
use watershed_telemetry::{Payload, Signal};

use crate::hold::{Hold, Holding, Released};
use crate::message::{Context, Message, wall_clock, weight_of};
use crate::metrics::PerSignal;
use crate::origin::Origin;
use crate::own::Hush;
use crate::registry::{Env, Error, Placement, Settings, StageSpec};
use crate::route::{Ledger, Refusal, Rooms, Switch, Way, by_deadline};
use crate::settings::later;
use crate::shelf::{Lent, Shelf};

/// A stage that stands in a pipeline: it is lent one message at a time and says what goes on.
///
/// A panic, an error of the stage itself or an endless wait ends only this incarnation: the message in hand
/// stays with the cell and is handed to the next one, which [`Processor::build`] makes from the same settings.
/// Futures need not be `Send`, and may be dropped at any await.
pub trait Processor: Sized + 'static {
    /// Its settings.
    type Settings: Settings;

    /// The signals it can handle.
    fn signals() -> &'static [Signal] {
        &Signal::ALL
    }

    /// Where its copies stand.
    fn placement(_settings: &Self::Settings) -> Placement {
        Placement::Lane
    }

    /// Whether it keeps messages beyond [`Processor::handle`] by design, as a sampler does.
    fn holds(_settings: &Self::Settings) -> bool {
        false
    }

    /// Builds one copy.
    fn build(settings: &Arc<Self::Settings>, env: &Env) -> Result<Self, Failure>;

    /// Called once before the first message.
    async fn start(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Handles one message. What it gives to `outlet` goes on once this returns `Ok`, as one message with the
    /// debts of the original; nothing given means dropped by policy, and counted as such.
    async fn handle(
        &mut self,
        payload: Payload,
        context: &Arc<Context>,
        outlet: &mut Outlet,
    ) -> Result<(), Error>;

    /// How often [`Processor::tick`] is called; `None` is never.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// Called every [`Processor::interval`]. What it gives to `outlet` is telemetry of its own making.
    async fn tick(&mut self, _outlet: &mut Outlet) -> Result<(), Error> {
        Ok(())
    }

    /// Called once when everything upstream has ended and the queue is empty.
    async fn drain(&mut self, _outlet: &mut Outlet) -> Result<(), Error> {
        Ok(())
    }
}

/// Takes what a processor passes on. Nothing leaves before the call that gave it has returned, so a stage that
/// is interrupted has sent nothing and can be handed the same message again.
pub struct Outlet {
    staged: Vec<Payload>,
    /// What the message in hand is known by.
    number: Option<u64>,
    /// What is held outlives a panic: the next incarnation has it back.
    holding: Lent<Holding>,
    budget: Arc<Budget>,
}

/// How long what was held waits for a queue that is full.
const AGAIN: Duration = Duration::from_millis(50);

/// A processor kind with its settings.
pub(crate) struct Configured<P: Processor>(pub(crate) Arc<P::Settings>);

/// One copy of a processor and all it needs to run.
struct Host {
    env: Env,
    onward: Switch<Way>,
    context: Arc<Context>,
    ledger: Arc<Ledger>,
    counters: Counters,
}

/// What a processor's copy counts, by signal.
struct Counters {
    incoming: PerSignal,
    outgoing: PerSignal,
    refused: PerSignal,
    dropped: PerSignal,
}

// === impl Outlet ===

impl Outlet {
    /// Passes a payload on.
    pub fn send(&mut self, payload: Payload) {
        self.staged.push(payload);
    }

    /// Keeps `items` items of the message in hand beyond [`Processor::handle`]. They are owed until what stands for
    /// them is [released](Outlet::release): where a journal has them, it has them for so long. A stage that does this
    /// says so by [`Processor::holds`], and has what it holds on its [shelf](Env::shelf): what was held is owed by the
    /// next incarnation after a panic.
    pub fn hold(&mut self, items: usize) -> Hold {
        self.holding.hold(items)
    }

    /// What whoever has the message in hand safe knows it by: if it is handed out again, for others who are to have it,
    /// it is the same. `None` where it is never handed out while it is still held.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// The message in hand has come before, and these parts of it are held: so many of its items are not taken a second
    /// time, but are owed for this time as well.
    pub fn join<'h>(&mut self, held: impl IntoIterator<Item = &'h Hold>, items: usize) {
        self.holding.join(held, items);
    }

    /// Those to whom a part is owed, as a set of bits. Only parts [pass](Outlet::pass) together in which it is the same,
    /// or somebody would be given twice what another lacks.
    pub fn owed(&self, held: &Hold) -> u64 {
        self.holding.branches(held)
    }

    /// So many items of each of these parts go on together, as `payload`. What else there is of them is still held.
    pub fn pass<'h>(&mut self, parts: impl IntoIterator<Item = (&'h Hold, usize)>, payload: Payload) {
        let permit = self.cover(&payload);
        self.holding.pass(parts, payload, permit);
    }

    /// Ends what was held: `payload` goes on in its place, or nothing where it is left out.
    pub fn release(&mut self, held: impl IntoIterator<Item = Hold>, payload: Option<Payload>) {
        let passes = payload.map(|payload| (payload.clone(), self.cover(&payload)));
        self.holding.release(held, passes);
    }

    /// The memory of what goes on, which until it has left is there beside what it was made of: who sends feels it.
    fn cover(&self, payload: &Payload) -> Permit {
        self.budget.overdraw(payload.bytes() as u64)
    }

    /// What was given, if it is anything.
    fn take(&mut self) -> Result<Option<Payload>, Failure> {
        // Requests laid end to end are their merge, so many outputs are one message. One is the usual number.
        let output = if self.staged.len() > 1 {
            let mixed = || Failure::new("passed on several signals at once");
            Some(Payload::concat(self.staged.drain(..)).ok_or_else(mixed)?)
        } else {
            self.staged.pop()
        };
        Ok(output.filter(|output| !output.is_empty()))
    }
}

// === impl Configured ===

impl<P: Processor> StageSpec for Configured<P> {
    fn signals(&self) -> &'static [Signal] {
        P::signals()
    }

    fn placement(&self) -> Placement {
        P::placement(&self.0)
    }

    fn holds(&self) -> bool {
        P::holds(&self.0)
    }

    fn launch(self: Arc<Self>, env: Env, onward: Switch<Way>) -> Launch<Message> {
        let settings = self.0.clone();
        // Those of this cell alone, over all of its incarnations.
        let (held, env) = (Shelf::default(), Env { shelf: Shelf::default(), ..env });
        Arc::new(move |lease| {
            let (settings, env, onward) = (settings.clone(), env.clone(), onward.clone());
            let holding = held.take();
            async move {
                let budget = env.budget.clone();
                let outlet = Outlet { staged: Vec::new(), number: None, holding, budget };
                let stage = P::build(&settings, &env)?;
                Host::new(env, onward).run(stage, lease, outlet).await
            }
            .boxed_local()
        })
    }
}

// === impl Host ===

impl Host {
    fn new(env: Env, onward: Switch<Way>) -> Self {
        let pipeline = env.pipeline.clone().unwrap_or_else(|| env.id.clone());
        let counters = Counters::new(&env, &pipeline);
        let context = Arc::new(Context {
            receiver: env.id.clone(),
            pipeline: pipeline.clone(),
            origin: Origin::default(),
            arrived: wall_clock(),
        });
        let ledger = Ledger::new(pipeline, &env.metrics);
        Self { env, onward, context, ledger, counters }
    }

    async fn run<P: Processor>(
        self,
        mut stage: P,
        mut lease: Lease<Message>,
        mut outlet: Outlet,
    ) -> Result<(), Failure> {
        caught(stage.start()).await??;
        lease.started();
        // What the incarnation before had decided and not sent; what it was about to hold comes again.
        outlet.holding.forget();
        self.let_go(&mut outlet, &lease).await;
        let mut ticks = stage.interval().map(ticks);
        loop {
            // A queue that is never empty must not keep the lane from its neighbours.
            tokio::task::coop::consume_budget().await;
            let next = match &mut ticks {
                None => lease.next().await,
                Some(ticks) => tokio::select! {
                    // Time before mail, of which there may be no end.
                    biased;
                    _ = ticks.tick() => {
                        let ticked = { let _busy = lease.busy(); caught(stage.tick(&mut outlet)).await? };
                        self.emit(ticked, &mut outlet, &lease).await?;
                        self.let_go(&mut outlet, &lease).await;
                        // A tick that takes longer than its interval must leave time for mail.
                        ticks.reset();
                        continue;
                    }
                    next = lease.next() => next,
                },
            };
            match next {
                Next::Mail(ticket) => {
                    self.handle(&mut stage, ticket, &lease, &mut outlet).await?;
                    self.let_go(&mut outlet, &lease).await;
                }
                Next::Control(_) => {}
                Next::Drained => {
                    let drained = {
                        let _busy = lease.busy();
                        caught(stage.drain(&mut outlet)).await?
                    };
                    self.emit(drained, &mut outlet, &lease).await?;
                    self.let_go(&mut outlet, &lease).await;
                    outlet.holding.give_back();
                    return Ok(());
                }
            }
        }
    }

    async fn handle<P: Processor>(
        &self,
        stage: &mut P,
        ticket: Ticket,
        lease: &Lease<Message>,
        outlet: &mut Outlet,
    ) -> Result<(), Failure> {
        let looked = lease.with(&ticket, |mail| {
            let deadline = mail.guard.deadline().map(Instant::from_std);
            let kept = mail.guard.is_kept();
            (mail.payload.clone(), mail.context.clone(), deadline, kept, mail.guard.number())
        });
        let Some((payload, context, deadline, kept, number)) = looked else { return Ok(()) };
        outlet.number = number;
        let (signal, items) = (payload.signal(), payload.items());
        let handled = {
            let _busy = lease.busy();
            // Unwinding ends here, before the stage is dropped: its `Drop` may panic, too.
            Hush::during(context.origin.trace.as_ref(), caught(stage.handle(payload, &context, outlet)))
                .await?
        };
        if let Err(error) = handled {
            outlet.staged.clear();
            outlet.holding.forget();
            let outcome = error.outcome(items)?;
            self.counters.incoming.add(signal, items);
            self.counters.refused.add(signal, items);
            self.ended(items, &outcome);
            lease.finish(ticket, outcome);
            return Ok(());
        }
        let output = outlet.take()?;
        // Only now: what is handed to a successor instead would count twice.
        self.counters.incoming.add(signal, items);
        let passed = output.as_ref().map_or(0, Payload::items);
        let left_out = items.saturating_sub(passed + outlet.holding.asked());
        if left_out > 0 {
            self.counters.dropped.add(signal, left_out);
            self.ended(left_out, &Outcome::Dropped { items: left_out as u64 });
        }
        lease.with(&ticket, |mail| outlet.holding.keep(mail, &self.ledger));
        let Some(output) = output else {
            let dropped = Outcome::Dropped { items: left_out as u64 };
            lease.finish(ticket, if left_out > 0 { dropped } else { Outcome::Delivered });
            return Ok(());
        };
        let way = self.onward.get();
        if kept && way.is_end() {
            if let Some(taken) = lease.take(ticket) {
                way.offer(self.pass(taken.mail, output));
            }
            return Ok(());
        }
        let rooms = match self.reserve(&way, &output, lease, deadline).await {
            Ok(rooms) => rooms,
            Err(refusal) => {
                self.counters.refused.add(output.signal(), output.items());
                lease.finish(ticket, refusal);
                return Ok(());
            }
        };
        if lease.is_withdrawn(&ticket) {
            let outcome = Outcome::refused(Cause::Withdrawn, "its sender is gone");
            self.counters.refused.add(output.signal(), output.items());
            way.ended(output.items(), &outcome);
            lease.finish(ticket, outcome);
            return Ok(());
        }
        if let Some(taken) = lease.take(ticket) {
            rooms.send(self.pass(taken.mail, output));
        }
        Ok(())
    }

    /// The message that goes on.
    fn pass(&self, message: Message, output: Payload) -> Message {
        self.count_out(&output);
        Message { permit: cover(&message, &output), payload: output, ..message }
    }

    /// Sends what a stage made by itself. Nobody waits for it; what is lost of it is counted.
    async fn emit(
        &self,
        made: Result<(), Error>,
        outlet: &mut Outlet,
        lease: &Lease<Message>,
    ) -> Result<(), Failure> {
        if let Err(error) = made {
            outlet.staged.clear();
            if let Error::Failed(failure) = error {
                return Err(failure);
            }
            tracing::warn!(processor = %self.env.id, %error, "tick failed");
            return Ok(());
        }
        let Some(payload) = outlet.take()? else { return Ok(()) };
        let guard = self.ledger.hold(payload.items());
        match self.reserve(&self.onward.get(), &payload, lease, None).await {
            Err(refusal) => guard.resolve(refusal),
            Ok(rooms) => {
                self.count_out(&payload);
                let permit = self.env.budget.overdraw(payload.bytes() as u64);
                let message = Message { payload, context: self.context.clone(), guard, permit, charge: None };
                rooms.send(message);
            }
        }
        Ok(())
    }

    /// Sends on what was released of what was held. It is waited for room: whoever sent it has had its "ok". Who is broken
    /// off meanwhile leaves the rest to the next incarnation.
    async fn let_go(&self, outlet: &mut Outlet, lease: &Lease<Message>) {
        while let Some(released) = outlet.holding.next(&self.ledger) {
            let message = match released {
                Released::Pass(message) => message,
                Released::End { guard, signal, items } => {
                    let dropped = Outcome::Dropped { items: items as u64 };
                    self.counters.dropped.add(signal, items);
                    self.ended(items, &dropped);
                    guard.resolve(if items > 0 { dropped } else { Outcome::Delivered });
                    continue;
                }
            };
            let way = self.onward.get();
            if way.is_end() && message.guard.is_kept() {
                self.count_out(&message.payload);
                way.offer(message);
                continue;
            }
            drop(way);
            let payload = message.payload.clone();
            outlet.holding.going = Some(message);
            let rooms = self.wait_for_room(&payload, lease).await;
            let Some(message) = outlet.holding.going.take() else { continue };
            match rooms {
                Err(refusal) => message.guard.resolve(refusal),
                Ok(rooms) => {
                    self.count_out(&payload);
                    rooms.send(message);
                }
            }
        }
    }

    async fn wait_for_room(&self, payload: &Payload, lease: &Lease<Message>) -> Result<Rooms, Outcome> {
        loop {
            match self.reserve(&self.onward.get(), payload, lease, None).await {
                Err(Outcome::Refused(refusal)) if refusal.cause == Cause::Overload => {
                    tokio::time::sleep(refusal.retry_after.unwrap_or(AGAIN)).await;
                }
                rooms => return rooms,
            }
        }
    }

    /// Books items that came this far and do not go on.
    fn ended(&self, items: usize, outcome: &Outcome) {
        self.onward.look(|way| way.ended(items, outcome));
    }

    fn count_out(&self, payload: &Payload) {
        self.counters.outgoing.add(payload.signal(), payload.items());
    }

    async fn reserve(
        &self,
        way: &Arc<Way>,
        payload: &Payload,
        lease: &Lease<Message>,
        deadline: Option<Instant>,
    ) -> Result<Rooms, Outcome> {
        let weight = weight_of(payload);
        match way.try_reserve(weight) {
            Ok(rooms) => Ok(rooms),
            Err(Refusal::Now(outcome)) => Err(outcome),
            Err(Refusal::Wait) => {
                let since = Instant::now();
                let rooms = by_deadline(deadline, way.reserve(weight), || way.late(weight.items)).await;
                lease.cell().add_blocked(since.elapsed());
                rooms
            }
        }
    }
}

// === impl Counters ===

impl Counters {
    fn new(env: &Env, pipeline: &str) -> Self {
        let labels = [("processor", &*env.id), ("pipeline", pipeline)];
        let items = |names, help| env.metrics.per_signal(names, help, &labels);
        let counters = Self {
            incoming: items(
                [
                    "otelcol_processor_incoming_spans",
                    "otelcol_processor_incoming_metric_points",
                    "otelcol_processor_incoming_log_records",
                ],
                "Items handed to the processor.",
            ),
            outgoing: items(
                [
                    "otelcol_processor_outgoing_spans",
                    "otelcol_processor_outgoing_metric_points",
                    "otelcol_processor_outgoing_log_records",
                ],
                "Items the processor passed on.",
            ),
            refused: items(
                [
                    "otelcol_processor_refused_spans",
                    "otelcol_processor_refused_metric_points",
                    "otelcol_processor_refused_log_records",
                ],
                "Items the processor found fault with, or could not pass on.",
            ),
            dropped: items(
                [
                    "otelcol_processor_dropped_spans",
                    "otelcol_processor_dropped_metric_points",
                    "otelcol_processor_dropped_log_records",
                ],
                "Items the processor left out on purpose.",
            ),
        };
        counters.alias(env, pipeline);
        counters
    }

    /// Shows what is counted under otelcol's other names, newer and older.
    fn alias(&self, env: &Env, pipeline: &str) {
        let accepted = [
            "otelcol_processor_accepted_spans",
            "otelcol_processor_accepted_metric_points",
            "otelcol_processor_accepted_log_records",
        ];
        for (signal, accepted) in Signal::ALL.into_iter().zip(accepted) {
            let labels = [("processor", &*env.id), ("pipeline", pipeline), ("otel_signal", signal.as_str())];
            let alias = |name, labels, counter: &PerSignal| {
                let help = "As incoming and outgoing by signal, under otelcol's other name.";
                env.metrics.alias(name, help, labels, counter.of(signal));
            };
            alias("otelcol_processor_incoming_items", &labels, &self.incoming);
            alias("otelcol_processor_outgoing_items", &labels, &self.outgoing);
            alias(accepted, &labels[..2], &self.outgoing);
        }
    }
}

/// Ticks of a period, the first after one. Ticks that were missed are not made up for.
fn ticks(period: Duration) -> Interval {
    let period = period.max(Duration::from_millis(1));
    let mut ticks = tokio::time::interval_at(later(Instant::now(), period), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The memory of a message's new payload: the same, or of its own where the payload is a copy, since another
/// branch may still hold the original.
fn cover(message: &Message, output: &Payload) -> Permit {
    let bytes = output.bytes() as u64;
    let mut pairs =
        message.payload.requests().iter().flat_map(|from| output.requests().iter().map(move |to| (from, to)));
    if pairs.any(|(from, to)| from.as_ptr_range().contains(&to.as_ptr())) {
        message.permit.cover(bytes);
        message.permit.clone()
    } else {
        message.permit.budget().overdraw(bytes)
    }
}
