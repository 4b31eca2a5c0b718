//! The end of what a plan no longer has: along the stream, so that what could still be sent to a stage has ended before
//! the stage is told to.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout_at};
use watershed_net::{Sockets, Stop};
use watershed_stage::{Letters, Message, Metrics, StageSpec};
use watershed_supervise::{Cell, ChildId, Supervisor};

use super::parts::{Child, QueuePart, Role, Served, StagePart};

/// How often it is asked whether something is still in use.
const LOOK: Duration = Duration::from_millis(5);

/// What actors have to end at the least once a journal was waited for, which has no deadline.
const LEAST: Duration = Duration::from_secs(2);

/// How long it may take until a journal has noted what its exporters had last.
const NOTED: Duration = Duration::from_millis(500);

/// Parts that end, in the order in which they do.
#[derive(Default)]
pub(crate) struct Retired {
    pub(crate) served: Vec<Arc<Served>>,
    receivers: Vec<Child>,
    /// By position in their pipelines, first to last; then the queues on disk.
    tiers: Vec<Tier>,
    exporters: Vec<Child>,
    /// Dead letters: closed when all others have ended.
    letters: Vec<Arc<dyn Letters>>,
    /// What was exchanged, and who may still send on it.
    pub(crate) in_use: Vec<InUse>,
    /// What nothing takes the place of, by the labels it is shown under.
    forgotten: Vec<(&'static str, Arc<str>)>,
    /// Another plan is in force, so that what is left on disk is read by no later start.
    for_good: bool,
}

/// Whether what was exchanged is still in use.
pub(crate) type InUse = Box<dyn Fn() -> bool>;

#[derive(Default)]
struct Tier {
    dealers: Vec<Child>,
    children: Vec<Child>,
    keepers: Vec<Keeper>,
}

/// What keeps messages on disk, of this pipeline or, as a queue, of an exporter.
struct Keeper {
    stage: Arc<dyn StageSpec>,
    pipeline: Option<Arc<str>>,
    cells: Vec<Cell<Message>>,
}

// === impl Retired ===

impl Retired {
    /// What is in `role` and not in `beside`.
    pub(crate) fn of(role: &Role, beside: Option<&Role>) -> Self {
        let mut retired = Self { for_good: beside.is_some(), ..Self::default() };
        let served = |served: &&Arc<Served>| {
            beside.is_none_or(|beside| beside.served.iter().all(|other| !Arc::ptr_eq(served, other)))
        };
        retired.served = role.served.iter().filter(served).cloned().collect();
        for (id, part) in &role.receivers {
            if !beside.is_some_and(|beside| is(beside.receivers.get(id), part)) {
                retired.receivers.extend(part.children.iter().cloned());
            }
        }
        for pipeline in &role.plan.pipelines {
            for (position, processor) in pipeline.processors.iter().enumerate() {
                let key = (pipeline.id.clone(), processor.id.clone());
                let Some(part) = role.stages.get(&key) else { continue };
                if !beside.is_some_and(|beside| is(beside.stages.get(&key), part)) {
                    retired.tier(position).stage(part, key.0);
                }
            }
        }
        let last = retired.tiers.len();
        for (id, part) in &role.exporters {
            let next = beside.and_then(|beside| beside.exporters.get(id));
            if is(next, part) {
                continue;
            }
            retired.exporters.extend(part.children.iter().cloned());
            let kept = next.and_then(|next| next.queue.as_ref());
            if let Some(queue) = part.queue.as_ref().filter(|queue| !is(kept, queue)) {
                retired.tier(last).queue(queue);
            }
        }
        for (id, post) in &role.posts {
            if !beside.is_some_and(|beside| is(beside.posts.get(id), post)) {
                retired.letters.extend(post.letters.clone());
            }
        }
        retired.forgotten = beside.map(|beside| vanished(role, beside)).unwrap_or_default();
        retired
    }

    fn tier(&mut self, position: usize) -> &mut Tier {
        while self.tiers.len() <= position {
            self.tiers.push(Tier::default());
        }
        &mut self.tiers[position]
    }

    /// The oldest message that a journal or a stored queue among them keeps, and whose it is.
    pub(crate) fn owed(&self) -> Option<(u64, String)> {
        let keepers = self.tiers.iter().flat_map(|tier| &tier.keepers);
        let oldest = keepers.filter_map(|keeper| Some((keeper.oldest()?, keeper.name())));
        oldest.min()
    }

    /// Serves nothing any more. A socket that nobody in `beside` serves is given up: a connection that is refused goes
    /// elsewhere; one in the backlog of a socket nobody accepts from only waits.
    pub(crate) fn stop(&self, sockets: &Sockets, beside: &[Role]) {
        let is_served = |address: &String| {
            beside.iter().any(|role| role.served.iter().any(|served| served.address == *address))
        };
        for served in &self.served {
            served.stop.stop();
            drop(served.socket.lock().take());
            if !is_served(&served.address) {
                sockets.close(&served.address);
            }
        }
    }

    /// Ends them; those who had not finished by the deadline. What is on disk is waited for without one, until `hurry`.
    pub(crate) async fn end(
        &self,
        supervisor: &Supervisor,
        deadline: Instant,
        hurry: &Stop,
    ) -> Vec<Arc<str>> {
        // Requests in flight are answered first, by half of the time there is.
        let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
        let _ = timeout_at(half, join_all(self.served.iter().map(|served| served.ended()))).await;
        let free = async {
            while self.in_use.iter().any(|in_use| in_use()) {
                sleep(LOOK).await;
            }
        };
        let _ = timeout_at(deadline, free).await;
        let mut unfinished = Vec::new();
        let mut drain = async |children: &[Child]| {
            let ids: Vec<ChildId> = children.iter().map(|child| child.id).collect();
            if !ids.is_empty() {
                let least = Instant::now() + LEAST;
                let by = if self.for_good { deadline.max(least) } else { deadline };
                unfinished.extend(supervisor.drain(&ids, by).await.aborted);
            }
        };
        drain(&self.receivers).await;
        for Tier { dealers, children, keepers } in &self.tiers {
            let empty = async {
                while !keepers.iter().all(Keeper::is_empty) {
                    sleep(LOOK * 10).await;
                }
            };
            tokio::select! {
                biased;
                () = hurry.stopped() => {}
                () = empty => {}
            }
            drain(dealers).await;
            drain(children).await;
        }
        drain(&self.exporters).await;
        for keeper in self.tiers.iter().flat_map(|tier| &tier.keepers) {
            let is_owed = self.for_good && !keeper.is_noted_empty().await;
            let left = keeper.stage.close(keeper.pipeline.as_ref());
            if is_owed || left > 0 {
                unfinished.push(keeper.name().into());
            }
        }
        self.letters.iter().for_each(|letters| letters.close());
        unfinished
    }

    /// Every actor among them.
    pub(crate) fn children(&self) -> Vec<ChildId> {
        let tiers = self.tiers.iter().flat_map(|tier| tier.dealers.iter().chain(&tier.children));
        let all = self.receivers.iter().chain(tiers).chain(&self.exporters);
        all.map(|child| child.id).collect()
    }

    /// Shows no longer what nothing takes the place of.
    pub(crate) fn forget(&self, metrics: &Metrics) {
        self.forgotten.iter().for_each(|(label, value)| metrics.forget_read(label, value));
    }
}

/// What of `role` has no successor in `beside`, by the labels it is shown under.
fn vanished(role: &Role, beside: &Role) -> Vec<(&'static str, Arc<str>)> {
    let still: HashSet<&Arc<str>> = beside.children().map(|child| &child.name).collect();
    let actors = role.children().map(|child| &child.name).filter(|name| !still.contains(name)).cloned();
    let receivers = role.receivers.keys().filter(|id| !beside.receivers.contains_key(*id)).cloned();
    let pipelines = role.posts.keys().filter(|id| !beside.posts.contains_key(*id)).cloned();
    let exporters = role.exporters.keys().filter(|id| !beside.exporters.contains_key(*id)).cloned();
    // A journal is known by its id and that of its pipeline, a stored queue by that of its exporter.
    let journals =
        role.stages.iter().filter(|(key, part)| part.stage.keeps() && !beside.stages.contains_key(*key));
    let journals = journals.map(|((pipeline, id), _)| format!("{id}/{pipeline}").into());
    let stored = |role: &Role, id: &Arc<str>| role.exporters.get(id).is_some_and(|part| part.queue.is_some());
    let queues = role.exporters.keys().filter(|id| stored(role, id) && !stored(beside, id)).cloned();
    let labelled = actors.map(|name| ("actor", name)).chain(receivers.map(|id| ("receiver", id)));
    let labelled = labelled.chain(pipelines.map(|id| ("pipeline", id)));
    let labelled = labelled.chain(exporters.map(|id| ("exporter", id)));
    labelled.chain(journals.chain(queues).map(|name| ("journal", name))).collect()
}

/// Whether a part is the one in another plan.
fn is<T: ?Sized>(other: Option<&Arc<T>>, part: &Arc<T>) -> bool {
    other.is_some_and(|other| Arc::ptr_eq(other, part))
}

// === impl Tier ===

impl Tier {
    fn stage(&mut self, part: &StagePart, pipeline: Arc<str>) {
        self.dealers.extend(part.dealers.iter().cloned());
        self.children.extend(part.children.iter().cloned());
        if part.stage.keeps() {
            let (stage, cells) = (part.stage.clone(), part.by_lane.clone());
            self.keepers.push(Keeper { stage, pipeline: Some(pipeline), cells });
        }
    }

    fn queue(&mut self, part: &QueuePart) {
        self.children.extend(part.children.iter().cloned());
        let (stage, cells) = (part.stage.clone(), part.by_lane.clone());
        self.keepers.push(Keeper { stage, pipeline: None, cells });
    }
}

// === impl Keeper ===

impl Keeper {
    fn oldest(&self) -> Option<u64> {
        self.stage.owes(self.pipeline.as_ref())
    }

    /// Whether it has nothing, be it on disk or on its way there. What has left its mailbox is known to be on disk.
    fn is_empty(&self) -> bool {
        self.cells.iter().all(|cell| cell.depth() == 0) && self.oldest().is_none()
    }

    /// Whether nothing is left on disk, once what ended last is noted.
    async fn is_noted_empty(&self) -> bool {
        let empty = async {
            while self.oldest().is_some() {
                sleep(LOOK).await;
            }
        };
        timeout_at(Instant::now() + NOTED, empty).await.is_ok()
    }

    fn name(&self) -> String {
        match &self.pipeline {
            Some(pipeline) => format!("the journal of pipeline `{pipeline}`"),
            None => "the stored queue of an exporter".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use watershed_delivery::{Budget, Guard, Outcome};
    use watershed_stage::{Context, Env, Placement, Switch, Way};
    use watershed_supervise::{Launch, Limits, Mail as _, Next, Quota};
    use watershed_telemetry::{Payload, Signal};

    use super::*;

    /// A journal that has nothing on disk.
    struct Journal;

    impl StageSpec for Journal {
        fn signals(&self) -> &'static [Signal] {
            &Signal::ALL
        }

        fn placement(&self) -> Placement {
            Placement::Lane
        }

        fn holds(&self) -> bool {
            false
        }

        fn launch(self: Arc<Self>, _: Env, _: Switch<Way>) -> Launch<Message> {
            Arc::new(|_| async { Ok(()) }.boxed_local())
        }
    }

    #[tokio::test]
    async fn what_is_on_its_way_to_a_journal_is_not_overlooked() {
        let cell = Cell::new("journal", Quota::new(Limits::default()));
        let keeper = Keeper { stage: Arc::new(Journal), pipeline: None, cells: vec![cell.clone()] };
        assert!(keeper.is_empty());
        let (guard, _receipt) = Guard::awaited(None);
        let context = Context {
            receiver: "otlp".into(),
            pipeline: "traces".into(),
            origin: Default::default(),
            arrived: 0,
        };
        let message = Message {
            payload: Payload::validate(Signal::Traces, bytes::Bytes::new()).unwrap(),
            context: Arc::new(context),
            guard,
            permit: Budget::new(1).overdraw(0),
            charge: None,
        };
        cell.try_reserve(message.weight()).unwrap().send(message);
        assert!(!keeper.is_empty(), "it waits");
        let mut lease = cell.lend();
        let Next::Mail(ticket) = lease.next().await else { panic!("mail") };
        assert!(!keeper.is_empty(), "it is written");
        lease.finish(ticket, Outcome::Delivered);
        assert!(keeper.is_empty());
    }
}
