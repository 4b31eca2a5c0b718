//! A plan made real: cells and stages on their lanes, from the exporters back to the receivers.
//!
//! Everything a message may reach exists before anything that could send it one, and no connection is served before
//! all roles stand. So a start that fails has taken nothing from anybody.

mod sockets;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::ArbiterHandle;
use tokio::sync::mpsc;
use watershed_delivery::{Budget, Share};
use watershed_net::{BindError, Sockets, StopSignal};
use watershed_stage::{
    Branch, Downstream, Entry, Env, ExporterParts, Extensions, Intake, Ledger, Letters, Message, Metrics,
    Nursery, Part, PerSignal, Placement, ReceiverParts, Request, Shelf, Signal, StageSpec, Tail, Tracing,
    deal, exporter_ended, processor_ended,
};
use watershed_supervise::{Cell, ChildId, ChildSpec, Failure, Limits, Mail, Quota, Restart, Supervisor};

use crate::config::{PipelinePlan, Plan, RolePlan};
use crate::engine::Address;
use crate::gauges;

/// Requests a receiver's or processor's mailbox holds on one lane. Memory is bounded by the budget; this only
/// bounds how long a message may wait.
const MAILBOX: usize = 1024;

/// How long a stage may be busy with one message before it is taken for stuck.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a topology did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket could not be had.
    #[error("{class} {component} ({key}): {source}")]
    Bind {
        /// What wants it: `receiver` or `exporter`.
        class: &'static str,
        /// Its id.
        component: Arc<str>,
        /// The key that names it.
        key: &'static str,
        /// What stood in the way.
        source: BindError,
    },
    /// Two components want one socket.
    #[error("{first} and {second} both listen on {address}: give one of them another address")]
    Twice {
        /// The one that has it.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
        /// What both listen on.
        address: SocketAddr,
    },
    /// A stage did not start.
    #[error("{name} did not start: {source}")]
    Stage {
        /// The stage.
        name: Arc<str>,
        /// What it said.
        source: Failure,
    },
    /// The engine's own thread could not be started.
    #[error("the engine's thread did not start: {0}")]
    Thread(String),
}

/// What topologies are built with, and on.
pub(crate) struct Site {
    pub(crate) lanes: Vec<ArbiterHandle>,
    pub(crate) supervisor: Supervisor,
    pub(crate) sockets: Sockets,
    pub(crate) metrics: Metrics,
    /// Who listens on what.
    pub(crate) claims: RefCell<HashMap<SocketAddr, Arc<str>>>,
    /// Who takes datagrams where.
    pub(crate) datagram_claims: RefCell<HashMap<SocketAddr, Arc<str>>>,
}

/// The running part of one role.
pub(crate) struct Role {
    pub(crate) name: Arc<str>,
    pub(crate) budget: Arc<Budget>,
    /// Addresses listened on.
    pub(crate) addresses: Vec<Address>,
    /// Those addresses as they are written, by which the sockets are closed.
    pub(crate) listening: Vec<String>,
    /// Told first when the role drains.
    pub(crate) stop: StopSignal,
    /// One end of it is held by every task that serves connections.
    pub(crate) serving: mpsc::Receiver<()>,
    pub(crate) receivers: Vec<ChildId>,
    /// By position in the pipeline, first to last.
    pub(crate) processors: Vec<Vec<ChildId>>,
    pub(crate) exporters: Vec<ChildId>,
    /// Stages that keep messages on disk: closed when all others have ended.
    pub(crate) keepers: Vec<Arc<dyn StageSpec>>,
    /// Where dead letters go: closed likewise.
    pub(crate) letters: Vec<Arc<dyn Letters>>,
}

struct Builder<'a> {
    site: &'a Site,
    plan: &'a RolePlan,
    metrics: Metrics,
    tracing: Tracing,
    budget: Arc<Budget>,
    extensions: Extensions,
}

/// The stages of a role, started and not yet fed.
struct Built {
    /// The ways into each receiver, one a copy.
    intakes: HashMap<Arc<str>, Vec<Intake>>,
    receivers: Vec<ChildId>,
    processors: Vec<Vec<ChildId>>,
    exporters: Vec<ChildId>,
    keepers: Vec<Arc<dyn StageSpec>>,
    letters: Vec<Arc<dyn Letters>>,
}

/// An exporter's queue as pipelines see it.
struct ExporterCells {
    /// One a lane; the same one on each if it stands on one only.
    by_lane: Vec<Cell<Message>>,
    share: Arc<Share>,
    enqueue_failed: PerSignal,
    /// What keeps the queue on disk.
    store: Option<Arc<dyn StageSpec>>,
}

// === impl Site ===

impl Site {
    /// Starts all roles of a plan. Nothing is served before everything is built.
    pub(crate) async fn start(&self, plan: &Plan) -> Result<Vec<Role>, StartError> {
        let builders =
            plan.roles.iter().map(|role| Builder::new(self, plan, role)).collect::<Result<Vec<_>, _>>()?;
        // Sockets first: an address in use is the most frequent mistake, and cheap to find out.
        let mut bound = Vec::new();
        for builder in &builders {
            bound.push((builder.bind()?, builder.bind_datagrams()?));
        }
        let mut built = Vec::new();
        for builder in &builders {
            built.push(builder.build().await?);
        }
        let parts = builders.into_iter().zip(built).zip(bound);
        Ok(parts
            .map(|((builder, built), (bound, datagrams))| builder.serve(built, bound, datagrams))
            .collect())
    }
}

// === impl Builder ===

impl<'a> Builder<'a> {
    fn new(site: &'a Site, plan: &Plan, role: &'a RolePlan) -> Result<Self, StartError> {
        let metrics =
            if plan.roles.len() > 1 { site.metrics.scoped("role", &role.name) } else { site.metrics.clone() };
        let budget = Budget::new(role.budget.admission);
        let (tracing, extensions) = (Tracing::default(), Extensions::default());
        let mut builder = Self { site, plan: role, metrics, tracing, budget, extensions };
        let mut extensions = HashMap::new();
        for extension in &role.extensions {
            let env = builder.env(&extension.id, None, 0, 1);
            let built = extension.spec.build(&env).map_err(|source| {
                let name = format!("{}/extensions/{}", role.name, extension.id).into();
                StartError::Stage { name, source }
            })?;
            extensions.insert(extension.id.clone(), built);
        }
        builder.extensions = Extensions::new(extensions);
        Ok(builder)
    }

    async fn build(&self) -> Result<Built, StartError> {
        gauges::budget(&self.metrics, &self.budget);

        let mut exporters = Vec::new();
        let (mut exporter_ids, mut stores) = (Vec::new(), Vec::new());
        for index in 0..self.plan.exporters.len() {
            exporters.push(self.exporter(index, &mut exporter_ids, &mut stores).await?);
        }
        let mut processors: Vec<Vec<ChildId>> = Vec::new();
        let (mut heads, mut letters) = (Vec::new(), Vec::new());
        for pipeline in &self.plan.pipelines {
            heads.push(self.pipeline(pipeline, &exporters, &mut processors, &mut letters).await?);
        }
        let mut receivers = Vec::new();
        let mut intakes = HashMap::new();
        for index in 0..self.plan.receivers.len() {
            let intake = self.receiver(index, &heads, &mut receivers).await?;
            intakes.insert(self.plan.receivers[index].id.clone(), intake);
        }
        // Drained after the processors, and before the exporters.
        processors.push(stores);
        let stages = self.plan.pipelines.iter().flat_map(|pipeline| &pipeline.processors);
        let stages = stages.filter_map(|processor| match processor.spec.part() {
            Part::Stage(stage) if stage.keeps() => Some(stage.clone()),
            _ => None,
        });
        let keepers = stages.chain(exporters.iter().filter_map(|exporter| exporter.store.clone())).collect();
        Ok(Built { intakes, receivers, processors, exporters: exporter_ids, keepers, letters })
    }

    async fn exporter(
        &self,
        index: usize,
        ids: &mut Vec<ChildId>,
        stores: &mut Vec<ChildId>,
    ) -> Result<ExporterCells, StartError> {
        let exporter = &self.plan.exporters[index];
        let name = format!("{}/exporters/{}", self.plan.name, exporter.id);
        let (limits, unit) = exporter.queue_limits();
        let quota = Quota::new(limits);
        let batching = Arc::new(exporter.batching.clone());
        let copies = self.copies(exporter.spec.placement());
        let mut cells = Vec::new();
        for lane in 0..copies {
            let cell = Cell::new(format!("{name}@{lane}"), quota.clone());
            let env = self.env(&exporter.id, None, lane, copies);
            cell.on_ended(exporter_ended(&env));
            let nursery = Nursery::new(self.site.supervisor.clone(), self.child(&name, false, lane));
            let parts = ExporterParts { env, batching: batching.clone(), nursery, seat: None };
            let launch = exporter.spec.launch(parts);
            ids.push(self.start(&cell, &name, exporter.critical, lane, launch).await?);
            cells.push(cell);
        }
        gauges::queue(&self.metrics, &exporter.id, &quota, unit);
        // Half of the memory is promised, in equal parts; the other half is for whoever needs it first.
        let share = self.budget.share(self.budget.limit() / 2 / self.plan.exporters.len().max(1) as u64);
        let mut by_lane = self.every_lane(&cells);
        let mut store = None;
        if let Some(storage) = &exporter.sending.queue.storage {
            let failed = |source| StartError::Stage { name: name.clone().into(), source };
            let stage = self.extensions.storage(storage).map_err(failed)?.queue(&exporter.id);
            by_lane = self.store(index, &stage, &by_lane, stores).await?;
            store = Some(stage);
        }
        Ok(ExporterCells {
            by_lane,
            store,
            share,
            enqueue_failed: self.metrics.per_signal(
                [
                    "otelcol_exporter_enqueue_failed_spans",
                    "otelcol_exporter_enqueue_failed_metric_points",
                    "otelcol_exporter_enqueue_failed_log_records",
                ],
                "Items an optional exporter went without because its queue was full.",
                &[("exporter", &*exporter.id)],
            ),
        })
    }

    /// Starts what keeps an exporter's queue on disk; the cells that stand before those of the exporter.
    async fn store(
        &self,
        index: usize,
        stage: &Arc<dyn StageSpec>,
        exporters: &[Cell<Message>],
        ids: &mut Vec<ChildId>,
    ) -> Result<Vec<Cell<Message>>, StartError> {
        let exporter = &self.plan.exporters[index];
        let name = format!("{}/queues/{}", self.plan.name, exporter.id);
        let mut cells = Vec::new();
        for (lane, next) in exporters.iter().enumerate() {
            let cell = mailbox(format!("{name}@{lane}"));
            let ends = [exporter.id.clone()].into();
            let env = Env { ends, ..self.env(&exporter.id, None, lane, exporters.len()) };
            let launch = stage.clone().launch(env, Downstream::Cell(exporter.id.clone(), next.clone()));
            ids.push(self.start(&cell, &name, exporter.critical, lane, launch).await?);
            cells.push(cell);
        }
        Ok(cells)
    }

    /// Builds a pipeline from its end; what a receiver sees of it, on each lane.
    async fn pipeline(
        &self,
        pipeline: &PipelinePlan,
        exporters: &[ExporterCells],
        ids: &mut Vec<Vec<ChildId>>,
        kept: &mut Vec<Arc<dyn Letters>>,
    ) -> Result<Vec<Downstream>, StartError> {
        let letters = match &pipeline.dead_letters {
            None => None,
            Some(id) => {
                let name = format!("{}/pipelines/{}", self.plan.name, pipeline.id);
                let failed = |source| StartError::Stage { name: name.into(), source };
                let letters = self.extensions.storage(id).and_then(|storage| {
                    storage.letters(
                        &pipeline.id,
                        Ledger::new(pipeline.id.clone(), &self.metrics).lost("dead_letter"),
                    )
                });
                Some(letters.map_err(failed)?)
            }
        };
        kept.extend(letters.clone());
        let ledger = Ledger::with_letters(pipeline.id.clone(), &self.metrics, letters);
        let ends = pipeline.exporters.iter().map(|branch| self.plan.exporters[branch.exporter].id.clone());
        let ends: Arc<[Arc<str>]> = ends.collect();
        let mut downstream: Vec<Downstream> = (0..self.site.lanes.len())
            .map(|lane| {
                let branch = |branch: &crate::config::BranchPlan| {
                    let exporter = &exporters[branch.exporter];
                    Branch {
                        id: self.plan.exporters[branch.exporter].id.clone(),
                        cell: exporter.by_lane[lane].clone(),
                        share: exporter.share.clone(),
                        required: branch.required,
                        on_full: branch.on_full,
                        enqueue_failed: exporter.enqueue_failed.clone(),
                        store: exporter.store.clone(),
                    }
                };
                let branches = pipeline.exporters.iter().map(branch).collect();
                Downstream::Tail(Arc::new(Tail { branches, ack: pipeline.ack, ledger: ledger.clone() }))
            })
            .collect();
        for (position, processor) in pipeline.processors.iter().enumerate().rev() {
            let Part::Stage(stage) = processor.spec.part() else { continue };
            let name = format!("{}/{}/{}", self.plan.name, pipeline.id, processor.id);
            let group = format!("{}/pipelines/{}", self.plan.name, pipeline.id);
            let copies = self.copies(stage.placement());
            let before = pipeline.processors.iter().take(position);
            let notes = before.rev().find_map(|processor| match processor.spec.part() {
                Part::Stage(stage) => stage.notes(&pipeline.id),
                _ => None,
            });
            let env = |lane: usize| Env {
                ends: ends.clone(),
                notes: notes.clone(),
                ..self.env(&processor.id, Some(&pipeline.id), lane, copies)
            };
            // Of each position first those who deal, then those who are dealt to.
            if ids.len() < 2 * position + 2 {
                ids.resize_with(2 * position + 2, Vec::new);
            }
            let mut cells = Vec::new();
            for (lane, next) in downstream.iter().enumerate().take(copies) {
                let cell = mailbox(format!("{name}@{lane}"));
                cell.on_ended(processor_ended(&env(lane), &pipeline.id, next));
                let launch = stage.clone().launch(env(lane), next.clone());
                ids[2 * position + 1]
                    .push(self.start(&cell, &group, processor.critical, lane, launch).await?);
                cells.push(cell);
            }
            if stage.placement() == Placement::Keyed && copies > 1 {
                let shards: Arc<[Cell<Message>]> = std::mem::take(&mut cells).into();
                for (lane, next) in downstream.iter().enumerate() {
                    let cell = mailbox(format!("{name}/deal@{lane}"));
                    cell.on_ended(processor_ended(&env(lane), &pipeline.id, next));
                    let launch = deal(env(lane), shards.clone(), next.clone());
                    ids[2 * position]
                        .push(self.start(&cell, &group, processor.critical, lane, launch).await?);
                    cells.push(cell);
                }
            }
            let cells = self.every_lane(&cells).into_iter();
            downstream = cells.map(|cell| Downstream::Cell(processor.id.clone(), cell)).collect();
        }
        Ok(downstream)
    }

    /// Starts a receiver; the ways into it, one a copy.
    async fn receiver(
        &self,
        index: usize,
        heads: &[Vec<Downstream>],
        ids: &mut Vec<ChildId>,
    ) -> Result<Vec<Intake>, StartError> {
        let receiver = &self.plan.receivers[index];
        let name = format!("{}/receivers/{}", self.plan.name, receiver.id);
        let feeds = |signal: Signal| {
            let pipelines = self.plan.pipelines.iter().zip(heads);
            pipelines.filter(move |(pipeline, _)| {
                pipeline.receivers.contains(&index) && pipeline.signals.contains(&signal)
            })
        };
        let signals: Vec<Signal> =
            Signal::ALL.into_iter().filter(|signal| feeds(*signal).next().is_some()).collect();
        let copies = self.copies(receiver.spec.placement());
        let mut intakes = Vec::new();
        for lane in 0..copies {
            let cell: Cell<Request> = mailbox(format!("{name}@{lane}"));
            let env = self.env(&receiver.id, None, lane, copies);
            let intake = Intake::new(env.clone(), cell.clone(), signals.clone());
            let entries = Signal::ALL.map(|signal| {
                let entry = |(pipeline, head): (&PipelinePlan, &Vec<Downstream>)| Entry {
                    pipeline: pipeline.id.clone(),
                    downstream: head[lane].clone(),
                };
                feeds(signal).map(entry).collect()
            });
            let launch = receiver.spec.launch(ReceiverParts { env, entries, intake: intake.clone() });
            ids.push(self.start(&cell, &name, receiver.critical, lane, launch).await?);
            intakes.push(intake);
        }
        Ok(intakes)
    }

    async fn start<M: Mail>(
        &self,
        cell: &Cell<M>,
        group: &str,
        critical: bool,
        lane: usize,
        launch: watershed_supervise::Launch<M>,
    ) -> Result<ChildId, StartError> {
        let spec = self.child(group, critical, lane);
        gauges::actor(&self.metrics, cell);
        self.site
            .supervisor
            .supervise(cell.clone(), spec, launch)
            .await
            .map_err(|source| StartError::Stage { name: cell.name().clone(), source })
    }

    fn child(&self, group: &str, critical: bool, lane: usize) -> ChildSpec {
        ChildSpec {
            restart: Restart::Permanent,
            critical,
            group: Some(group.into()),
            lane: self.site.lanes[lane].clone(),
            stall_timeout: STALL_TIMEOUT,
        }
    }

    fn env(&self, id: &Arc<str>, pipeline: Option<&Arc<str>>, lane: usize, copies: usize) -> Env {
        Env {
            id: id.clone(),
            pipeline: pipeline.cloned(),
            lane,
            copies,
            budget: self.budget.clone(),
            metrics: self.metrics.clone(),
            tracing: self.tracing.clone(),
            extensions: self.extensions.clone(),
            shelf: Shelf::default(),
            notes: None,
            ends: Arc::default(),
        }
    }

    fn copies(&self, placement: Placement) -> usize {
        match placement {
            Placement::Lane | Placement::Keyed => self.site.lanes.len(),
            Placement::Single => 1,
        }
    }

    /// The cell each lane sends to.
    fn every_lane(&self, cells: &[Cell<Message>]) -> Vec<Cell<Message>> {
        (0..self.site.lanes.len())
            .filter_map(|lane| cells.get(lane).or_else(|| cells.first()).cloned())
            .collect()
    }
}

/// The cell of a stage on one lane.
fn mailbox<M: Mail>(name: String) -> Cell<M> {
    Cell::new(name, Quota::new(Limits { requests: Some(MAILBOX), ..Limits::default() }))
}
