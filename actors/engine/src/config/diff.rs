//! What another plan changes, part by part: what `validate --diff` shows and what a reload does.
//!
//! A part is kept if everything that it is built with is the same: its settings with all references resolved, the
//! extensions that it names, and what it is told of its place. What lies behind it is not among that: ways are
//! exchanged while stages run.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use watershed_stage::{Part, Reference};

use super::memory::MIB;
use super::plan::{BranchPlan, ExporterPlan, PipelinePlan, Plan, ProcessorPlan, RolePlan, ServicePlan};
use super::written::Written;

/// What a reload from one plan to another does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Each role's parts.
    pub roles: Vec<RoleDiff>,
    /// Why a reload would be refused: what can not change, or not be given up, while it runs. Empty where it would not.
    pub obstacles: Vec<String>,
    /// The keys of the process that are in force at once.
    pub keys: Vec<String>,
    /// Those that take effect at its next start.
    pub later: Vec<String>,
}

/// What becomes of the parts of one role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleDiff {
    /// The role.
    pub name: Arc<str>,
    /// Its parts, those of the new plan first.
    pub changes: Vec<Change>,
}

/// What becomes of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is.
    pub class: Class,
    /// The pipeline that a processor stands in.
    pub pipeline: Option<Arc<str>>,
    /// Its id.
    pub id: Arc<str>,
    /// What becomes of it.
    pub fate: Fate,
    /// The keys that have changed, or other reasons. Never a value, which may be secret.
    pub why: Vec<String>,
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Shared by others.
    Extension,
    /// A source.
    Receiver,
    /// The way from receivers to exporters: which it passes, and what an ok means.
    Pipeline,
    /// A stage of one pipeline.
    Processor,
    /// A destination.
    Exporter,
}

/// What becomes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs on, with what it holds.
    Kept,
    /// Another one takes its place, beside which it ends; a pipeline's ways are exchanged.
    Changed,
    /// It begins.
    New,
    /// It ends.
    Gone,
}

// === impl Plan ===

impl Plan {
    /// What a reload from this plan to `new` does.
    pub fn diff(&self, new: &Plan) -> Diff {
        let mut diff = Diff::default();
        let names = |plan: &Plan| plan.roles.iter().map(|role| role.name.clone()).collect::<Vec<_>>();
        if names(self) != names(new) {
            let list = |plan: &Plan| names(plan).join(", ");
            let message =
                format!("the roles can not change while it runs: {}, now {}", list(self), list(new));
            diff.obstacles.push(message);
        }
        self.service.compare(&new.service, &mut diff);
        for new in &new.roles {
            let Some(old) = self.roles.iter().find(|old| old.name == new.name) else { continue };
            let mut role = Comparison { old, new, diff: RoleDiff::default(), obstacles: Vec::new() };
            role.run();
            let several = self.roles.len() > 1;
            let named = |obstacle| if several { format!("{}: {obstacle}", new.name) } else { obstacle };
            diff.obstacles.extend(role.obstacles.into_iter().map(named));
            diff.roles.push(RoleDiff { name: new.name.clone(), ..role.diff });
        }
        diff
    }
}

impl ServicePlan {
    fn compare(&self, new: &Self, diff: &mut Diff) {
        if self.lanes != new.lanes {
            let lanes =
                |plan: &Self| plan.lanes.map_or("one each core".to_owned(), |lanes| lanes.to_string());
            let (old, new) = (lanes(self), lanes(new));
            diff.obstacles.push(format!("`service.lanes` can not change while it runs: {old}, now {new}"));
        }
        if self.shutdown_timeout != new.shutdown_timeout {
            diff.keys.push("service.shutdown_timeout".to_owned());
        }
        let later = [
            ("service.telemetry.logs.level", self.log_level != new.log_level),
            ("service.telemetry.logs.encoding", self.log_encoding != new.log_encoding),
            ("service.telemetry.metrics.address", self.metrics != new.metrics),
            ("service.health.endpoint", self.health != new.health),
        ];
        let later = later.into_iter().filter(|(_, changed)| *changed);
        diff.later.extend(later.map(|(key, _)| key.to_owned()));
    }
}

/// A role before and after.
struct Comparison<'a> {
    old: &'a RolePlan,
    new: &'a RolePlan,
    diff: RoleDiff,
    obstacles: Vec<String>,
}

// === impl Comparison ===

impl Comparison<'_> {
    fn run(&mut self) {
        let (old, new) = (self.old, self.new);
        let is_default = |role: &RolePlan| role.budget.limiter.is_none();
        // What is half of the machine's memory may come out differently each time it is asked for.
        if old.budget != new.budget && !(is_default(old) && is_default(new)) {
            let (old, new) = (old.budget.limit / MIB, new.budget.limit / MIB);
            let message = format!("the memory budget can not change while it runs: {old} MiB, now {new} MiB");
            self.obstacles.push(message);
        }
        let before = old.extensions.iter().map(|part| (&part.id, &*part.written)).collect();
        let after = new.extensions.iter().map(|part| (&part.id, &*part.written, Vec::new())).collect();
        self.compare(Class::Extension, before, after);
        let before = old.receivers.iter().map(|part| (&part.id, &*part.written)).collect();
        let mut after = Vec::new();
        for part in &new.receivers {
            let mut why = self.named(&part.spec.references());
            // Who fetches does so for the signals that are wanted when it begins.
            let fetches = part.spec.listeners().is_empty() && part.spec.datagrams().is_empty();
            if fetches && wanted(old, &part.id) != wanted(new, &part.id) {
                why.push("signals".to_owned());
            }
            after.push((&part.id, &*part.written, why));
        }
        self.compare(Class::Receiver, before, after);
        for pipeline in &new.pipelines {
            self.pipeline(pipeline);
        }
        for pipeline in &old.pipelines {
            if new.pipelines.iter().all(|other| other.id != pipeline.id) {
                self.tell(Class::Pipeline, None, &pipeline.id, Fate::Gone, Vec::new());
                for processor in &pipeline.processors {
                    self.tell(Class::Processor, Some(&pipeline.id), &processor.id, Fate::Gone, Vec::new());
                }
            }
        }

        let before = old.exporters.iter().map(|part| (&part.id, &*part.written)).collect();
        let mut after = Vec::new();
        for part in &new.exporters {
            let mut why = self.named(&part.spec.references());
            if let Some(other) = old.exporters.iter().find(|other| other.id == part.id) {
                if (&part.batching, part.unmerged) != (&other.batching, other.unmerged) {
                    why.push("batching by its pipelines".to_owned());
                }
                self.storage(other, part);
            }
            after.push((&part.id, &*part.written, why));
        }
        self.compare(Class::Exporter, before, after);
    }

    /// Why a part is not the same although its settings are: what it names has changed.
    fn named(&self, references: &[Reference]) -> Vec<String> {
        let changed = references.iter().filter(|reference| !self.diff.keeps(Class::Extension, &reference.id));
        let changed: BTreeSet<&str> = changed.map(|reference| &*reference.id).collect();
        changed.into_iter().map(|id| format!("extension {id}")).collect()
    }

    /// Two at once can not write one directory.
    fn storage(&mut self, old: &ExporterPlan, new: &ExporterPlan) {
        let storage = |plan: &ExporterPlan| plan.sending.queue.storage.clone();
        let Some(id) = storage(new).filter(|id| storage(old).as_ref() == Some(id)) else { return };
        let written = |role: &RolePlan| {
            let found = role.extensions.iter().find(|extension| *extension.id == *id);
            found.map(|extension| extension.written.clone())
        };
        let (Some(old), Some(now)) = (written(self.old), written(self.new)) else { return };
        if *old != *now && old.agrees(&now, "directory") {
            self.obstacles.push(format!(
                "extension `{id}` keeps the queue of exporter `{}`, and can not change while it does: give it another \
                 `directory`, or restart",
                new.id
            ));
        }
    }

    fn pipeline(&mut self, new: &PipelinePlan) {
        let Some(old) = self.old.pipelines.iter().find(|old| old.id == new.id) else {
            self.tell(Class::Pipeline, None, &new.id, Fate::New, Vec::new());
            for processor in &new.processors {
                self.tell(Class::Processor, Some(&new.id), &processor.id, Fate::New, Vec::new());
            }
            return;
        };
        let why = self.ways(old, new);
        let fate = if why.is_empty() { Fate::Kept } else { Fate::Changed };
        self.tell(Class::Pipeline, None, &new.id, fate, why);
        // While ways are exchanged one after another, stages that change places could go round in circles.
        let common = |one: &PipelinePlan, other: &PipelinePlan| {
            let is_there = |id: &Arc<str>| other.processors.iter().any(|processor| processor.id == *id);
            let ids = one.processors.iter().map(|processor| processor.id.clone());
            ids.filter(is_there).collect::<Vec<_>>()
        };
        let reordered = common(old, new) != common(new, old);
        let mut kept = HashSet::new();
        for (position, processor) in new.processors.iter().enumerate() {
            let Some(place) = old.processors.iter().position(|other| other.id == processor.id) else {
                self.tell(Class::Processor, Some(&new.id), &processor.id, Fate::New, Vec::new());
                continue;
            };
            let other = &old.processors[place];
            let mut why = other.written.differences(&processor.written);
            if reordered {
                why.push("order".to_owned());
            }
            let journal = keeper_before(&new.processors[..position]);
            if journal != keeper_before(&old.processors[..place])
                || journal.as_ref().is_some_and(|journal| !kept.contains(journal))
            {
                why.push("the journal before it".to_owned());
            }
            if keeps(processor) {
                self.journal((old, other), (new, processor), &mut why);
            }
            let fate = if why.is_empty() { Fate::Kept } else { Fate::Changed };
            if fate == Fate::Kept {
                kept.insert(processor.id.clone());
            }
            self.tell(Class::Processor, Some(&new.id), &processor.id, fate, why);
        }
        for processor in &old.processors {
            if new.processors.iter().all(|other| other.id != processor.id) {
                self.tell(Class::Processor, Some(&new.id), &processor.id, Fate::Gone, Vec::new());
            }
        }
    }

    /// A journal is told at its start whom it keeps messages for, and two at once can not write one directory.
    fn journal(
        &mut self,
        (old, before): (&PipelinePlan, &ProcessorPlan),
        (new, after): (&PipelinePlan, &ProcessorPlan),
        why: &mut Vec<String>,
    ) {
        let ends = |role: &RolePlan, pipeline: &PipelinePlan| {
            let ids = pipeline.exporters.iter().map(|branch| exporter(role, branch));
            ids.collect::<BTreeSet<_>>()
        };
        if ends(self.old, old) != ends(self.new, new) {
            why.push("the exporters behind it".to_owned());
        }
        if !why.is_empty() && before.written.agrees(&after.written, "directory") {
            self.obstacles.push(format!(
                "journal `{}` of pipeline `{}` can not change while it runs ({}): restart, or drain it by taking its \
                 pipeline out first",
                after.id,
                new.id,
                why.join(", ")
            ));
        }
    }

    /// What is different about a pipeline's ways.
    fn ways(&self, old: &PipelinePlan, new: &PipelinePlan) -> Vec<String> {
        let receivers = |role: &RolePlan, pipeline: &PipelinePlan| {
            let ids = pipeline.receivers.iter().filter_map(|receiver| role.receivers.get(*receiver));
            ids.map(|receiver| receiver.id.clone()).collect::<BTreeSet<_>>()
        };
        let processors = |pipeline: &PipelinePlan| {
            pipeline.processors.iter().map(|processor| processor.id.clone()).collect::<Vec<_>>()
        };
        let exporters = |role: &RolePlan, pipeline: &PipelinePlan| {
            let branch = |branch: &BranchPlan| (exporter(role, branch), branch.required, branch.on_full);
            pipeline.exporters.iter().map(branch).collect::<Vec<_>>()
        };
        let different = [
            ("signals", old.signals != new.signals),
            ("receivers", receivers(self.old, old) != receivers(self.new, new)),
            ("processors", processors(old) != processors(new)),
            ("exporters", exporters(self.old, old) != exporters(self.new, new)),
            ("ack", old.ack != new.ack),
            ("dead_letters", old.dead_letters != new.dead_letters),
        ];
        let different = different.into_iter().filter(|(_, different)| *different);
        different.map(|(key, _)| key.to_owned()).collect()
    }

    /// Components by id and settings, before and after, with other reasons why one is not the same.
    fn compare(
        &mut self,
        class: Class,
        mut before: HashMap<&Arc<str>, &Written>,
        after: Vec<(&Arc<str>, &Written, Vec<String>)>,
    ) {
        for (id, written, why) in after {
            let (fate, why) = match before.remove(id) {
                None => (Fate::New, Vec::new()),
                Some(old) => {
                    let why = [old.differences(written), why].concat();
                    (if why.is_empty() { Fate::Kept } else { Fate::Changed }, why)
                }
            };
            self.tell(class, None, id, fate, why);
        }
        let mut gone: Vec<&Arc<str>> = before.into_keys().collect();
        gone.sort();
        gone.into_iter().for_each(|id| self.tell(class, None, id, Fate::Gone, Vec::new()));
    }

    fn tell(
        &mut self,
        class: Class,
        pipeline: Option<&Arc<str>>,
        id: &Arc<str>,
        fate: Fate,
        why: Vec<String>,
    ) {
        self.diff.changes.push(Change { class, pipeline: pipeline.cloned(), id: id.clone(), fate, why });
    }
}

/// The signals that pipelines want of a receiver.
fn wanted<'p>(role: &'p RolePlan, id: &Arc<str>) -> BTreeSet<&'p str> {
    let index = role.receivers.iter().position(|receiver| receiver.id == *id);
    let pipelines = role.pipelines.iter();
    let fed = pipelines.filter(|pipeline| index.is_some_and(|index| pipeline.receivers.contains(&index)));
    fed.flat_map(|pipeline| &pipeline.signals).map(|signal| signal.as_str()).collect()
}

fn exporter(role: &RolePlan, branch: &BranchPlan) -> Option<Arc<str>> {
    role.exporters.get(branch.exporter).map(|exporter| exporter.id.clone())
}

fn keeps(processor: &ProcessorPlan) -> bool {
    matches!(processor.spec.part(), Part::Stage(stage) if stage.keeps())
}

/// The last of these stages that keeps messages on disk: what stages behind it note lies beside that.
fn keeper_before(processors: &[ProcessorPlan]) -> Option<Arc<str>> {
    processors.iter().rev().find(|processor| keeps(processor)).map(|processor| processor.id.clone())
}

// === impl Diff ===

impl Diff {
    /// Whether nothing changes at all.
    pub fn is_empty(&self) -> bool {
        let kept = |role: &RoleDiff| role.changes.iter().all(|change| change.fate == Fate::Kept);
        let said = [&self.obstacles, &self.keys, &self.later];
        said.iter().all(|list| list.is_empty()) && self.roles.iter().all(kept)
    }

    /// What is not kept, in one line: `exporter otlp changed (endpoint), pipeline logs new`.
    pub fn summary(&self) -> String {
        let several = self.roles.len() > 1;
        let mut parts: Vec<String> = self.keys.iter().map(|key| format!("`{key}` changed")).collect();
        for role in &self.roles {
            for change in role.changes.iter().filter(|change| change.fate != Fate::Kept) {
                let role = if several { format!("{} ", role.name) } else { String::new() };
                let why = if change.why.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", change.why.join(", "))
                };
                parts.push(format!("{role}{} {}{why}", change.what(), change.fate));
            }
        }
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    }
}

/// A line for each part: `=` kept, `~` changed, `+` new, `-` gone; then `!` for what stands in the way and `?` for what
/// waits for the next start.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for role in &self.roles {
            writeln!(f, "{}", role.name)?;
            for change in &role.changes {
                let mark = match change.fate {
                    Fate::Kept => '=',
                    Fate::Changed => '~',
                    Fate::New => '+',
                    Fate::Gone => '-',
                };
                write!(f, "  {mark} {}", change.what())?;
                match change.why.is_empty() {
                    true => writeln!(f)?,
                    false => writeln!(f, ": {}", change.why.join(", "))?,
                }
            }
        }
        self.keys.iter().try_for_each(|key| writeln!(f, "~ `{key}`"))?;
        self.obstacles.iter().try_for_each(|obstacle| writeln!(f, "! {obstacle}"))?;
        self.later.iter().try_for_each(|key| writeln!(f, "? `{key}` takes effect at the next start"))
    }
}

// === impl RoleDiff ===

impl RoleDiff {
    /// Whether a part that is no processor runs on.
    pub fn keeps(&self, class: Class, id: &str) -> bool {
        self.fate(class, None, id) == Some(Fate::Kept)
    }

    /// Whether a stage of a pipeline runs on.
    pub fn keeps_processor(&self, pipeline: &str, id: &str) -> bool {
        self.fate(Class::Processor, Some(pipeline), id) == Some(Fate::Kept)
    }

    fn fate(&self, class: Class, pipeline: Option<&str>, id: &str) -> Option<Fate> {
        let same = |change: &&Change| {
            (change.class, change.pipeline.as_deref(), &*change.id) == (class, pipeline, id)
        };
        self.changes.iter().find(same).map(|change| change.fate)
    }
}

// === impl Change ===

impl Change {
    /// What it is, in words: `processor traces/batch`.
    fn what(&self) -> String {
        match &self.pipeline {
            Some(pipeline) => format!("{} {} of pipeline {pipeline}", self.class, self.id),
            None => format!("{} {}", self.class, self.id),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Extension => "extension",
            Self::Receiver => "receiver",
            Self::Pipeline => "pipeline",
            Self::Processor => "processor",
            Self::Exporter => "exporter",
        })
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Changed => "changed",
            Self::New => "new",
            Self::Gone => "gone",
        })
    }
}
