//! Each part of a role: the one that runs where the plan keeps it, or else a new one beside it.

use std::sync::Arc;

use tokio::sync::watch;
use watershed_stage::{
    Branch, Downstream, Entries, Entry, Env, ExporterParts, Intake, Ledger, Message, Nursery, Part,
    Placement, ReceiverParts, Request, Signal, StageSpec, Switch, Tail, Way, deal, exporter_ended,
    processor_ended,
};
use watershed_supervise::{Cell, Limits, Mail, Quota};

use super::parts::{ExporterPart, Post, QueuePart, ReceiverPart, StagePart};
use super::retire::InUse;
use super::{Draft, Exchange, Role, StartError};
use crate::config::{BranchPlan, ExporterPlan, PipelinePlan};
use crate::gauges;

/// Requests a receiver's or processor's mailbox holds on one lane. Memory is bounded by the budget; this only
/// bounds how long a message may wait.
const MAILBOX: usize = 1024;

// === impl Draft ===

impl<'a> Draft<'a> {
    pub(super) async fn exporter(&mut self, exporter: &ExporterPlan) -> Result<(), StartError> {
        let id = &exporter.id;
        if let Some(part) =
            self.old.filter(|_| self.keeps("exporter", id)).and_then(|old| old.exporters.get(id))
        {
            self.next.exporters.insert(id.clone(), part.clone());
            return Ok(());
        }
        let name = format!("{}/exporters/{id}", self.next.plan.name);
        let (limits, unit) = exporter.queue_limits();
        let quota = Quota::new(limits);
        let batching = Arc::new(exporter.batching.clone());
        let copies = self.copies(exporter.spec.placement());
        let (mut cells, mut heirs, mut children) = (Vec::new(), Vec::new(), Vec::new());
        for lane in 0..copies {
            let cell = Cell::new(format!("{name}@{lane}"), quota.clone());
            let env = self.env(id, None, lane, copies);
            cell.on_ended(exporter_ended(&env));
            let nursery = Nursery::new(self.site.supervisor.clone(), self.child(&name, false, lane));
            let heir = watch::Sender::new(None);
            let (batching, take_over) = (batching.clone(), heir.subscribe());
            let parts = ExporterParts { env, batching, nursery, seat: None, heir: take_over };
            let launch = exporter.spec.launch(parts);
            children.push(self.start(&cell, &name, exporter.critical, lane, launch).await?);
            cells.push(cell);
            heirs.push(heir);
        }
        gauges::queue(&self.next.metrics, id, &quota, unit);
        let by_lane = self.every_lane(&cells);
        let queue = match &exporter.sending.queue.storage {
            Some(storage) => Some(self.queue(exporter, storage, &by_lane).await?),
            None => None,
        };
        // Half of the memory is promised, in equal parts; the other half is for whoever needs it first.
        let equal = self.next.budget.limit() / 2 / self.next.plan.exporters.len().max(1) as u64;
        let part = ExporterPart {
            children,
            by_lane,
            heirs,
            share: self.next.budget.share(equal),
            enqueue_failed: self.next.metrics.per_signal(
                [
                    "otelcol_exporter_enqueue_failed_spans",
                    "otelcol_exporter_enqueue_failed_metric_points",
                    "otelcol_exporter_enqueue_failed_log_records",
                ],
                "Items an optional exporter went without because its queue was full.",
                &[("exporter", &**id)],
            ),
            queue,
        };
        self.loose.clear();
        self.next.exporters.insert(id.clone(), Arc::new(part));
        Ok(())
    }

    /// What keeps an exporter's queue on disk. One that is there serves the next exporter of that id, which has what the
    /// one before did not send.
    async fn queue(
        &mut self,
        exporter: &ExporterPlan,
        storage: &str,
        exporters: &[Cell<Message>],
    ) -> Result<Arc<QueuePart>, StartError> {
        let id = &exporter.id;
        let name = format!("{}/queues/{id}", self.next.plan.name);
        let env = |draft: &Self, lane| Env {
            ends: [id.clone()].into(),
            ..draft.env(id, None, lane, exporters.len())
        };
        let way =
            |env: &Env, next: &Cell<Message>| Way::new(Downstream::Cell(id.clone(), next.clone()), env, id);
        let stored = |old: &'a Role| {
            let before = old.plan.exporters.iter().find(|before| before.id == *id)?;
            let same = before.sending.queue.storage.as_deref() == Some(storage);
            old.exporters.get(id).filter(|_| same)?.queue.clone()
        };
        let kept = self.old.filter(|_| self.keeps("extension", storage)).and_then(stored);
        if let Some(queue) = kept {
            for (lane, (switch, next)) in queue.onward.iter().zip(exporters).enumerate() {
                let way = way(&env(self, lane), next);
                self.exchanges.push(exchange(switch, way));
            }
            return Ok(queue);
        }
        let failed = |source| StartError::Stage { name: name.clone().into(), source };
        let stage = self.extensions.storage(storage).map_err(failed)?.queue(id);
        let (mut by_lane, mut children, mut onward) = (Vec::new(), Vec::new(), Vec::new());
        for (lane, next) in exporters.iter().enumerate() {
            let cell = mailbox(format!("{name}@{lane}"));
            let env = env(self, lane);
            let switch = Switch::from(way(&env, next));
            let launch = stage.clone().launch(env, switch.clone());
            children.push(self.start(&cell, &name, exporter.critical, lane, launch).await?);
            by_lane.push(cell);
            onward.push(switch);
        }
        Ok(Arc::new(QueuePart { stage, children, by_lane, onward }))
    }

    /// Where a pipeline's dead letters go.
    fn post(&self, pipeline: &PipelinePlan) -> Result<Arc<Post>, StartError> {
        let (id, storage) = (&pipeline.id, &pipeline.dead_letters);
        let kept = |old: &'a Role| {
            let before = old.plan.pipelines.iter().find(|before| before.id == *id)?;
            let same = before.dead_letters == *storage
                && storage.as_ref().is_none_or(|storage| self.keeps("extension", storage));
            old.posts.get(id).filter(|_| same).cloned()
        };
        if let Some(post) = self.old.and_then(kept) {
            return Ok(post);
        }
        let metrics = &self.next.metrics;
        let letters = storage.as_ref().map(|storage| {
            let lost = Ledger::new(id.clone(), metrics).lost("dead_letter");
            let letters = self.extensions.storage(storage).and_then(|storage| storage.letters(id, lost));
            let name = format!("{}/pipelines/{id}", self.next.plan.name);
            letters.map_err(|source| StartError::Stage { name: name.into(), source })
        });
        let letters = letters.transpose()?;
        Ok(Arc::new(Post { ledger: Ledger::with_letters(id.clone(), metrics, letters.clone()), letters }))
    }

    /// Builds a pipeline from its end; what a receiver sees of it, on each lane.
    pub(super) async fn pipeline(&mut self, pipeline: &PipelinePlan) -> Result<Vec<Downstream>, StartError> {
        let post = self.post(pipeline)?;
        let mut downstream: Vec<Downstream> =
            (0..self.site.lanes.len()).map(|lane| self.tail(pipeline, &post, lane)).collect();
        self.next.posts.insert(pipeline.id.clone(), post);
        for position in (0..pipeline.processors.len()).rev() {
            let processor = &pipeline.processors[position];
            let key = (pipeline.id.clone(), processor.id.clone());
            let kept = self.diff.is_some_and(|diff| diff.keeps_processor(&key.0, &key.1));
            let part = match self.old.filter(|_| kept).and_then(|old| old.stages.get(&key)) {
                Some(part) => {
                    for (lane, switch) in &part.onward {
                        let env = self.env(&processor.id, Some(&pipeline.id), *lane, 1);
                        let way = Way::new(downstream[*lane].clone(), &env, &pipeline.id);
                        self.exchanges.push(exchange(switch, way));
                    }
                    part.clone()
                }
                None => {
                    let Part::Stage(stage) = processor.spec.part() else { continue };
                    let part = self.stage(pipeline, position, stage, &downstream).await?;
                    self.loose.clear();
                    Arc::new(part)
                }
            };
            let cell = |cell: &Cell<Message>| Downstream::Cell(processor.id.clone(), cell.clone());
            downstream = part.by_lane.iter().map(cell).collect();
            self.next.stages.insert(key, part);
        }
        Ok(downstream)
    }

    /// The end of a pipeline on one lane.
    fn tail(&self, pipeline: &PipelinePlan, post: &Post, lane: usize) -> Downstream {
        let branch = |branch: &BranchPlan| {
            let id = self.next.plan.exporters.get(branch.exporter)?.id.clone();
            let exporter = self.next.exporters.get(&id)?;
            Some(Branch {
                id,
                cell: exporter.entries().get(lane)?.clone(),
                share: exporter.share.clone(),
                required: branch.required,
                on_full: branch.on_full,
                enqueue_failed: exporter.enqueue_failed.clone(),
                store: exporter.queue.as_ref().map(|queue| queue.stage.clone()),
            })
        };
        let branches = pipeline.exporters.iter().filter_map(branch).collect();
        Downstream::Tail(Arc::new(Tail { branches, ack: pipeline.ack, ledger: post.ledger.clone() }))
    }

    async fn stage(
        &mut self,
        pipeline: &PipelinePlan,
        position: usize,
        stage: &Arc<dyn StageSpec>,
        downstream: &[Downstream],
    ) -> Result<StagePart, StartError> {
        let processor = &pipeline.processors[position];
        let name = format!("{}/{}/{}", self.next.plan.name, pipeline.id, processor.id);
        let group = format!("{}/pipelines/{}", self.next.plan.name, pipeline.id);
        let copies = self.copies(stage.placement());
        let before = pipeline.processors.iter().take(position);
        let notes = before.rev().find_map(|processor| match processor.spec.part() {
            Part::Stage(stage) => stage.notes(&pipeline.id),
            _ => None,
        });
        let exporter = |branch: &BranchPlan| self.next.plan.exporters[branch.exporter].id.clone();
        let ends: Arc<[Arc<str>]> = pipeline.exporters.iter().map(exporter).collect();
        let env = |draft: &Self, lane: usize| Env {
            ends: ends.clone(),
            notes: notes.clone(),
            ..draft.env(&processor.id, Some(&pipeline.id), lane, copies)
        };
        let (mut cells, mut dealers, mut children, mut onward) = (vec![], vec![], vec![], vec![]);
        for (lane, next) in downstream.iter().enumerate().take(copies) {
            let cell = mailbox(format!("{name}@{lane}"));
            let env = env(self, lane);
            let switch = Switch::from(Way::new(next.clone(), &env, &pipeline.id));
            cell.on_ended(processor_ended(switch.clone()));
            let launch = stage.clone().launch(env, switch.clone());
            children.push(self.start(&cell, &group, processor.critical, lane, launch).await?);
            cells.push(cell);
            onward.push((lane, switch));
        }
        if stage.placement() == Placement::Keyed && copies > 1 {
            let shards: Arc<[Cell<Message>]> = std::mem::take(&mut cells).into();
            for (lane, next) in downstream.iter().enumerate() {
                let cell = mailbox(format!("{name}/deal@{lane}"));
                let env = env(self, lane);
                let switch = Switch::from(Way::new(next.clone(), &env, &pipeline.id));
                cell.on_ended(processor_ended(switch.clone()));
                let launch = deal(env, shards.clone(), switch.clone());
                dealers.push(self.start(&cell, &group, processor.critical, lane, launch).await?);
                cells.push(cell);
                onward.push((lane, switch));
            }
        }
        let by_lane = self.every_lane(&cells);
        Ok(StagePart { stage: stage.clone(), dealers, children, by_lane, onward })
    }

    /// Starts a receiver, or leads the one that runs to where its pipelines are.
    pub(super) async fn receiver(
        &mut self,
        index: usize,
        heads: &[Vec<Downstream>],
    ) -> Result<(), StartError> {
        let plan = self.next.plan.clone();
        let receiver = &plan.receivers[index];
        let id = &receiver.id;
        let entries = |env: &Env| {
            Entries::new(Signal::ALL.map(|signal| {
                let pipelines = plan.pipelines.iter().zip(heads);
                let fed = pipelines.filter(|(pipeline, _)| {
                    pipeline.receivers.contains(&index) && pipeline.signals.contains(&signal)
                });
                let entry = |(pipeline, head): (&PipelinePlan, &Vec<Downstream>)| {
                    Entry::new(pipeline.id.clone(), head[env.lane].clone(), env)
                };
                fed.map(entry).collect()
            }))
        };
        let kept = self.old.filter(|_| self.keeps("receiver", id));
        if let Some(part) = kept.and_then(|old| old.receivers.get(id)) {
            for (lane, switch) in part.entries.iter().enumerate() {
                let env = self.env(id, None, lane, part.entries.len());
                self.exchanges.push(exchange(switch, entries(&env)));
            }
            self.next.receivers.insert(id.clone(), part.clone());
            return Ok(());
        }
        let name = format!("{}/receivers/{id}", plan.name);
        let copies = self.copies(receiver.spec.placement());
        let mut part = ReceiverPart { children: Vec::new(), intakes: Vec::new(), entries: Vec::new() };
        for lane in 0..copies {
            let cell: Cell<Request> = mailbox(format!("{name}@{lane}"));
            let env = self.env(id, None, lane, copies);
            let entries = Switch::from(entries(&env));
            let intake = Intake::new(env.clone(), cell.clone(), entries.clone());
            let parts = ReceiverParts { env, entries: entries.clone(), intake: intake.clone() };
            let launch = receiver.spec.launch(parts);
            part.children.push(self.start(&cell, &name, receiver.critical, lane, launch).await?);
            part.intakes.push(intake);
            part.entries.push(entries);
        }
        self.loose.clear();
        self.next.receivers.insert(id.clone(), Arc::new(part));
        Ok(())
    }
}

/// An exchange to be made.
fn exchange<T: 'static>(switch: &Switch<T>, with: T) -> Exchange {
    let switch = switch.clone();
    Box::new(move || {
        let before = switch.exchange(with);
        let in_use: InUse = Box::new(move || Arc::strong_count(&before) > 1);
        in_use
    })
}

/// The cell of a stage on one lane.
fn mailbox<M: Mail>(name: String) -> Cell<M> {
    Cell::new(name, Quota::new(Limits { requests: Some(MAILBOX), ..Limits::default() }))
}
