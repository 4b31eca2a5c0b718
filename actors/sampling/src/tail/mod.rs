//! `tail_sampling`: decides about whole traces, once they had the time to come.
//!
//! A shard of the traces lives on each lane. Its clock are the arrivals of what it is given, so that what a journal
//! hands out again is decided as it was at first. At each beat of it the traces that are due are judged, and their
//! spans go on together in large requests, or go.

mod arrived;
mod decided;
mod limits;
mod meters;
mod metrics;
mod notes;
mod policy;
mod settings;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;
use watershed_stage::{
    Context, Env, Error, Failure, Lent, Note, Outlet, Payload, Placement, Processor, Signal, Unfinished,
    wall_clock,
};
use watershed_telemetry::sheaf::{Bundle, Sheaf};
use watershed_telemetry::view::SpanView;

use arrived::{Arrived, Fate, hash};
use decided::SECOND;
use limits::Limits;
use metrics::{Counters, Early};
use notes::{note, read_note, share};
use policy::{Policies, Verdict};
pub(crate) use settings::Settings;
use store::{Came, Earlier, Passing, SPAN, Store, Ticket};

/// Up to which size spans go on in one request, more or less.
const LARGE: usize = 1 << 20;

/// How many requests that can not be one are put together side by side.
const KINDS: usize = 8;

/// What came at most so long ago has just come: time goes on by itself.
const LIVE: u64 = 2 * SECOND;

/// After so long without a message, nothing older than now is still to come.
const QUIET: Duration = Duration::from_secs(10);

/// What a journal hands out again may be overtaken by what has just come: that is so where time leaps by more than this,
/// or what comes is older by more.
const SLACK: u64 = SECOND;

/// For how long after that nothing is decided which is not due by the older of the two.
const OVERTAKEN: Duration = Duration::from_secs(2);

/// Traces that are decided early at once, at least: room for one would not last.
const ROOM: usize = 64;

/// Room for so many spans of a message is kept for the next.
const USUAL: usize = 1 << 14;

/// So much may be taken for the spans of one message beside its bytes, however little all of them together may.
const BESIDE: u64 = 16 << 20;

/// How long decisions are not tried again that could not be written down, the first time and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Decides about traces.
pub(crate) struct TailSampling {
    env: Env,
    settings: Arc<Settings>,
    policies: Policies,
    counters: Counters,
    store: Lent<Store>,
    limits: Limits,
    /// When the last message that was taken came, and whether it had just arrived somewhere else.
    heard: Option<(Instant, bool)>,
    /// When something was last seen to be overtaken, and what time it was for that.
    overtaken: Option<(Instant, u64)>,
    /// Decisions could not be written down so often, and are not tried again until then.
    pause: Option<(u32, Instant)>,
    /// Spans of the message in hand.
    arrived: Vec<Arrived>,
    /// Whether policies ask for the flags of spans.
    flags: bool,
}

/// A decision about to be carried out.
struct Judged {
    ticket: Ticket,
    hash: u64,
    id: [u8; 16],
    /// When the first message came that has spans of it.
    began: u64,
    sampled: bool,
}

impl Processor for TailSampling {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Traces]
    }

    fn placement(_: &Settings) -> Placement {
        Placement::Keyed
    }

    fn holds(_: &Settings) -> bool {
        true
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let policies = Policies::new(settings, env.pipeline.as_ref().unwrap_or(&env.id))?;
        let counters = Counters::new(env, &policies);
        let limits = Limits::new(settings, env);
        let mut store: Lent<Store> = env.shelf.take();
        // The incarnation before may have been broken off.
        store.put_back();
        if store.clock.now == 0 {
            store.expect(settings.expected_new_traces_per_sec / env.copies.max(1), hash);
        }
        // What is held must not wait for another message.
        let heard = (store.traces() > 0).then(|| (Instant::now(), false));
        Ok(Self {
            flags: policies.want_flags(),
            settings: settings.clone(),
            env: env.clone(),
            policies,
            counters,
            store,
            limits,
            heard,
            overtaken: None,
            pause: None,
            arrived: Vec::new(),
        })
    }

    async fn start(&mut self) -> Result<(), Failure> {
        let Some(notes) = self.env.notes.as_ref().filter(|_| !self.store.is_told) else { return Ok(()) };
        let Env { lane, copies, .. } = self.env;
        let unfinished = notes.unfinished();
        let read = notes.read(&self.env.id, Box::new(move |note| share(&note, lane, copies).into()));
        for Note { from, until, text } in read.await? {
            for (id, sampled) in read_note(&text) {
                let limit = self.limits.capacity;
                self.store.decided.add(hash(&id), sampled, (from, until), limit, &unfinished);
            }
            // There may be many, and the lane has others to serve.
            tokio::task::yield_now().await;
        }
        self.store.is_told = true;
        Ok(())
    }

    async fn handle(
        &mut self,
        payload: Payload,
        context: &Arc<Context>,
        outlet: &mut Outlet,
    ) -> Result<(), Error> {
        let heard = (Instant::now(), wall_clock().saturating_sub(context.arrived) < LIVE);
        let before = self.store.clock.now;
        self.store.clock.now = before.max(context.arrived);
        if self.env.notes.is_some() && context.arrived > before.saturating_add(SLACK) {
            self.overtaken = Some((Instant::now(), before));
        }
        self.settle(outlet).await;
        let groups: usize = payload.requests().iter().map(|request| Sheaf::weight(request)).sum();
        let beside = payload.items() * (size_of::<Arrived>() + SPAN) + groups;
        if beside as u64 > self.limits.bytes.max(BESIDE) {
            self.counters.too_many.add(payload.items() as u64);
            let message =
                "more spans than can be held at once: send fewer in a request, or raise `max_bytes`";
            return Err(Error::reject(message));
        }
        if let Err(refused) = self.make_room((payload.bytes() + beside) as u64, outlet).await {
            // It comes again and again, and must not keep time from going on.
            self.heard.get_or_insert(heard);
            return Err(refused);
        }
        let earlier = self.store.earlier(outlet.number());
        let (mut passing, mut held, mut undecided) = (Bundle::default(), 0, false);
        let mut arrived = std::mem::take(&mut self.arrived);
        arrived.clear();
        let flags = self.flags;
        let mut sheaves: SmallVec<[(Sheaf, usize); 1]> = SmallVec::new();
        for request in payload.requests() {
            let before = arrived.len();
            let note = |span: SpanView<'_>, spot| arrived.push(Arrived::new(&span, spot, flags));
            let sheaf = Sheaf::read(request.clone(), note);
            sheaves.push((sheaf, arrived.len() - before));
        }
        #[cfg(test)]
        tests::break_here("before a message is taken in");
        let mut rest = &mut arrived[..];
        for (sheaf, spans) in sheaves {
            let (own, others) = rest.split_at_mut(spans);
            let taken = self.take_in(sheaf, own, (context, &earlier), outlet, &mut passing);
            (held, undecided) = (held + taken.0, undecided | taken.1);
            rest = others;
        }
        // What comes for a branch that was away, all of it decided, says nothing of the time: it may come for hours.
        let before = self.heard.filter(|_| !undecided);
        self.heard = before.or(Some(heard));
        self.arrived = arrived;
        if held > 0 {
            outlet.join(earlier.requests.iter().filter_map(|request| self.store.hold(*request)), held);
        }
        self.arrived.clear();
        self.arrived.shrink_to(USUAL);
        self.pass(passing, outlet);
        Ok(())
    }

    fn interval(&self) -> Option<Duration> {
        Some(Duration::from_nanos(self.limits.beat))
    }

    async fn tick(&mut self, outlet: &mut Outlet) -> Result<(), Error> {
        if let Some((heard, live)) = self.heard {
            let clock = &mut self.store.clock;
            if live || heard.elapsed() >= QUIET {
                clock.now = clock.now.max(wall_clock());
            }
            self.settle(outlet).await;
        }
        self.counters.show(self.store.traces(), self.store.bytes());
        Ok(())
    }

    async fn drain(&mut self, outlet: &mut Outlet) -> Result<(), Error> {
        // Who has it on disk will hand it out again, and the rest of each trace with it.
        if self.env.notes.as_ref().is_some_and(|notes| notes.comes_again()) {
            return Ok(());
        }
        let rest = self.store.oldest(usize::MAX);
        self.decide(rest, self.settings.drop_pending_traces_on_shutdown, outlet).await;
        Ok(())
    }
}

impl TailSampling {
    /// Holds the spans of a request that wait, and lets the others follow the decision about their trace. How many are
    /// held already, and whether any are new that are undecided.
    fn take_in(
        &mut self,
        sheaf: Sheaf,
        arrived: &mut [Arrived],
        (context, earlier): (&Arc<Context>, &Earlier),
        outlet: &mut Outlet,
        passing: &mut Bundle,
    ) -> (usize, bool) {
        let (mut waiting, mut held, mut at_once, mut undecided) = (0, 0, Vec::new(), false);
        for span in arrived.iter_mut() {
            span.fate = self.fate(span, context.arrived, earlier);
            undecided |= span.fate == Fate::Waits;
            match span.fate {
                Fate::Waits | Fate::Follows(_) => waiting += 1,
                Fate::Held => held += 1,
                Fate::Passes => at_once.push(span.spot),
                Fate::Goes => {}
            }
        }
        passing.add(&sheaf, &at_once);
        let is_old = context.arrived.saturating_add(SLACK) < self.store.clock.now;
        if undecided && is_old && self.env.notes.is_some() {
            self.overtaken = Some((Instant::now(), context.arrived));
        }
        if waiting > 0 {
            let hold = outlet.hold(waiting);
            let permit = self.env.budget.overdraw((waiting * SPAN + sheaf.beside()) as u64);
            let came =
                Came { sheaf, hold, context: context.clone(), number: outlet.number(), _permit: permit };
            let (new, too_large) = self.store.add(came, arrived, self.limits.largest, hash);
            self.counters.new_traces.add(new as u64);
            self.counters.too_large.add(too_large as u64);
        }
        (held, undecided)
    }

    /// Lets go on what does not wait. Without a journal it goes as if it had been held, which waits for room: who was
    /// refused it would send all of its message again, and what was held of that would be held twice.
    fn pass(&self, passing: Bundle, outlet: &mut Outlet) {
        match passing.spans() {
            0 => {}
            spans if self.env.notes.is_none() => {
                let hold = outlet.hold(spans);
                outlet.pass([(&hold, spans)], passing.finish());
                outlet.release([hold], None);
            }
            _ => outlet.send(passing.finish()),
        }
    }

    fn fate(&self, span: &Arrived, came: u64, earlier: &Earlier) -> Fate {
        if let Some(fate) = self.store.fate(span, earlier) {
            return fate;
        }
        let Some(decision) = self.store.decided.of(span.hash) else { return Fate::Waits };
        let sampled = decision.sampled;
        self.counters.late[usize::from(!sampled)].add(1);
        self.counters.late_age.record(decision.age(came));
        let is_noted = self.env.notes.is_none() || decision.covers(came, self.limits.noted);
        match (sampled, !is_noted) {
            (sampled, true) => Fate::Follows(sampled),
            (true, false) => Fate::Passes,
            (false, false) => Fate::Goes,
        }
    }

    /// Decides what is due at the last beat, if that is not done.
    async fn settle(&mut self, outlet: &mut Outlet) {
        if self.is_pausing() {
            return;
        }
        let Limits { wait, after_root, beat, .. } = self.limits;
        let now = match self.overtaken {
            Some((at, time)) if at.elapsed() < OVERTAKEN => time,
            _ => self.store.clock.now,
        };
        let now = now / beat * beat;
        if now > self.store.clock.settled {
            let due = self.store.due(now, wait, after_root);
            if self.decide(due, false, outlet).await {
                self.store.clock.settled = now;
            }
        }
    }

    /// Decides about the oldest traces until there is room for more, and for so many bytes.
    async fn make_room(&mut self, bytes: u64, outlet: &mut Outlet) -> Result<(), Error> {
        loop {
            let traces = self.store.traces();
            let early = if traces >= self.limits.traces {
                Early::Traces
            } else if self.store.bytes() + bytes > self.limits.bytes && traces > 0 {
                Early::Bytes
            } else {
                return Ok(());
            };
            if self.settings.block_on_overflow {
                return Err(Error::refuse("as many traces wait for a decision as may"));
            }
            if self.is_pausing() {
                return Err(Error::refuse("decisions can not be written down"));
            }
            let oldest = self.store.oldest(ROOM.max(traces / 20));
            if oldest.is_empty() {
                return Ok(());
            }
            self.counters.early[usize::from(early == Early::Bytes)].add(oldest.len() as u64);
            if !self.decide(oldest, false, outlet).await {
                return Err(Error::refuse("decisions can not be written down"));
            }
        }
    }

    /// Decides about these traces, as many at once as a note takes where there are notes; false where some of the
    /// decisions could not be noted: those stand and are put off.
    async fn decide(&mut self, tickets: Vec<Ticket>, leave_out: bool, outlet: &mut Outlet) -> bool {
        if tickets.is_empty() {
            return true;
        }
        let began = Instant::now();
        let at_once = if self.env.notes.is_some() { notes::MOST } else { tickets.len() };
        for some in tickets.chunks(at_once) {
            if !self.decide_at_once(some, leave_out, outlet).await {
                return false;
            }
        }
        self.counters.took.record(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        true
    }

    /// Judges these traces, has the decisions noted where they must be, and carries them out; false where they could not
    /// be noted, and nothing has changed.
    async fn decide_at_once(&mut self, tickets: &[Ticket], leave_out: bool, outlet: &mut Outlet) -> bool {
        let now = self.store.clock.now;
        self.policies.begin();
        let judged: Vec<Judged> =
            tickets.iter().filter_map(|ticket| self.judge(*ticket, now, leave_out)).collect();
        // Whole seconds, as they are remembered.
        let back = (now / SECOND * SECOND).saturating_sub(self.limits.noted);
        let from = judged.iter().map(|judged| judged.began).fold(back, u64::min) / SECOND * SECOND;
        if let Some(notes) = &self.env.notes {
            let note =
                Note { from, until: now, text: note(judged.iter().map(|it| (it.id, it.sampled))).into() };
            if let Err(failure) = notes.write(&self.env.id, note).await {
                self.put_off(&failure);
                return false;
            }
            self.pause = None;
        }
        #[cfg(test)]
        tests::break_here("before decisions are carried out");
        self.carry_out(judged, (from, now), outlet);
        true
    }

    fn is_pausing(&self) -> bool {
        self.pause.is_some_and(|(_, until)| Instant::now() < until)
    }

    /// Decisions could not be written down: they stand, and are tried again later.
    fn put_off(&mut self, failure: &Failure) {
        tracing::error!(processor = %self.env.id, error = %failure, "decisions can not be written down, and wait");
        let times = self.pause.map_or(0, |(times, _)| times);
        let pause = PAUSES.0.saturating_mul(1 << times.min(10)).min(PAUSES.1);
        self.pause = Some((times + 1, Instant::now() + pause));
        self.store.put_back();
    }

    fn judge(&mut self, ticket: Ticket, now: u64, leave_out: bool) -> Option<Judged> {
        let trace = self.store.trace(ticket)?;
        let (facts, began) = (trace.facts, Store::began(trace));
        let sampled = match trace.known {
            Some(sampled) => sampled,
            None if leave_out => false,
            None => {
                let spans = self.store.spans(trace);
                let told = |policy, said| self.counters.said(policy, said, facts.spans);
                let verdict = self.policies.judge(&facts, &spans, now, told);
                self.counters.decided(verdict);
                verdict == Verdict::Sampled
            }
        };
        // It is asked once: what limits a rate would count it again.
        self.store.know(ticket, sampled);
        Some(Judged { ticket, hash: hash(&facts.id), id: facts.id, began, sampled })
    }

    /// From here on nothing may fail.
    fn carry_out(&mut self, judged: Vec<Judged>, noted: (u64, u64), outlet: &mut Outlet) {
        let notes = self.env.notes.as_ref();
        let unfinished = notes.map_or_else(|| Unfinished::new([]), |notes| notes.unfinished());
        let (mut passing, mut ended) = (Passing::default(), Vec::new());
        for Judged { ticket, hash, sampled, .. } in judged {
            self.store.close(ticket, hash, sampled.then_some(&mut passing), &mut ended);
            self.store.decided.add(hash, sampled, noted, self.limits.capacity, &unfinished);
        }
        let mut all: Vec<Going<'_>> = Vec::new();
        passing.take(&self.store, |sheaf, hold, context, spots| {
            let owed = outlet.owed(hold);
            let place = all.iter().position(|going| going.agrees(context, owed)).unwrap_or_else(|| {
                if all.len() == KINDS {
                    all.remove(0).leave(outlet);
                }
                all.push(Going::new(context, owed));
                all.len() - 1
            });
            all[place].bundle.add(sheaf, spots);
            all[place].parts.push((hold, spots.len()));
            if all[place].bundle.bytes() >= LARGE {
                all.swap_remove(place).leave(outlet);
            }
        });
        all.into_iter().for_each(|going| going.leave(outlet));
        for request in ended {
            outlet.release(self.store.end(request), None);
        }
    }
}

/// A request that is put together of what is sampled.
struct Going<'h> {
    bundle: Bundle,
    parts: Vec<(&'h watershed_stage::Hold, usize)>,
    context: Arc<Context>,
    /// To whom.
    owed: u64,
}

impl Going<'_> {
    fn new(context: &Arc<Context>, owed: u64) -> Self {
        Self { bundle: Bundle::default(), parts: Vec::new(), context: context.clone(), owed }
    }

    /// Whether what came so may go along: it is for the same, and what the senders said of themselves agrees.
    fn agrees(&self, context: &Context, owed: u64) -> bool {
        self.owed == owed && self.context.origin.agrees(&context.origin)
    }

    fn leave(self, outlet: &mut Outlet) {
        outlet.pass(self.parts, self.bundle.finish());
    }
}
