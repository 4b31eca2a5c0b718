//! One role: its pipelines' names resolved, the rules across components checked, its plan made.

use std::collections::HashMap;
use std::sync::Arc;

use watershed_stage::{
    BatchSettings, BudgetSettings, ExporterSpec, ExtensionSpec, Listener, Part, PipelineBatch, ProcessorSpec,
    ReceiverSpec, Reference, Registry, Security, Signal,
};

use super::components::Class;
use super::diagnostic::Report;
use super::fields::{Fields, Item, Strings};
use super::pipeline::Pipeline;
use super::place::Spot;
use super::plan::{
    BudgetPlan, ExporterPlan, ExtensionPlan, PipelinePlan, ProcessorPlan, ReceiverPlan, RolePlan,
};
use super::promise::{self, Custody, End};
use super::tree::Node;
use super::wording;
use super::written::Written;

/// What a role is checked against.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'r> {
    pub(crate) registry: &'r Registry,
    /// The memory of the machine or cgroup.
    pub(crate) memory: Option<u64>,
    /// How many roles share it.
    pub(crate) roles: usize,
}

/// A role in the making.
struct Role<'r> {
    surroundings: Surroundings<'r>,
    receivers: Class<'r, dyn ReceiverSpec>,
    processors: Class<'r, dyn ProcessorSpec>,
    exporters: Class<'r, dyn ExporterSpec>,
    extensions: Class<'r, dyn ExtensionSpec>,
    plan: RolePlan,
    /// The memory limiters that pipelines name, each once.
    limiters: Vec<(Arc<str>, BudgetSettings, Spot)>,
    /// What pipelines name for their dead letters.
    letters: Vec<(Reference, Option<Spot>)>,
}

/// A component of a pipeline.
struct Member<S: ?Sized> {
    id: Arc<str>,
    spec: Arc<S>,
    critical: bool,
    written: Arc<Written>,
    /// Where the pipeline names it.
    at: Spot,
}

/// The names of a pipeline's processors in their parts.
#[derive(Default)]
struct Parts {
    stages: Vec<ProcessorPlan>,
    /// Which of the stages have messages in their hands.
    custody: Custody,
    batching: Option<(Arc<str>, BatchSettings)>,
}

/// Checks the collector in `fields`. The plan is good only if nothing was reported.
pub(crate) fn read(
    name: &str,
    mut fields: Fields<'_>,
    surroundings: Surroundings<'_>,
    report: &mut Report,
) -> RolePlan {
    let registry = surroundings.registry;
    let mut role = Role {
        surroundings,
        receivers: Class::receivers(registry),
        processors: Class::processors(registry),
        exporters: Class::exporters(registry),
        extensions: Class::extensions(registry),
        plan: RolePlan {
            name: name.into(),
            budget: BudgetPlan::default_of(surroundings.memory, surroundings.roles),
            receivers: Vec::new(),
            exporters: Vec::new(),
            extensions: Vec::new(),
            pipelines: Vec::new(),
        },
        limiters: Vec::new(),
        letters: Vec::new(),
    };
    declare(&mut role.receivers, &mut fields, report);
    declare(&mut role.processors, &mut fields, report);
    declare(&mut role.exporters, &mut fields, report);
    declare(&mut role.extensions, &mut fields, report);
    let section = fields.node("pipelines");
    let mut pipelines: Vec<(&String, &Node)> = section.and_then(Node::table).into_iter().flatten().collect();
    pipelines.sort_by_key(|(_, node)| (node.key.text, node.key.span.start));
    for (id, node) in &pipelines {
        let pipeline = Pipeline::read(id, node, report);
        role.pipeline(&pipeline, report);
    }
    match section {
        Some(node) if node.table().is_none() => {
            report.error(&node.value, format!("expected a table, found {}", wording::value(node)), None);
        }
        _ if pipelines.is_empty() && fields.is_table() => {
            let at = section.map_or(&fields.at, |node| &node.key);
            let help = "add one: `[pipelines.traces]` with `receivers` and `exporters`".to_owned();
            report.error(at, format!("the {name} has no pipelines: there is nothing to do"), Some(help));
        }
        _ => {}
    }
    let elsewhere = [
        ("service", "it concerns the process: put it at the top level of the file"),
        ("connectors", "there are no connectors yet"),
    ];
    fields.finish(&elsewhere, report);
    role.finish(report)
}

fn declare<S: ?Sized>(class: &mut Class<'_, S>, fields: &mut Fields<'_>, report: &mut Report) {
    if let Some(section) = fields.node(class.section) {
        class.declare(section, report);
    }
}

// === impl Role ===

impl Role<'_> {
    fn pipeline(&mut self, pipeline: &Pipeline, report: &mut Report) {
        let receivers = members(&mut self.receivers, &pipeline.receivers, &pipeline.id, report);
        let processors = members(&mut self.processors, &pipeline.processors, &pipeline.id, report);
        let exporters = members(&mut self.exporters, &pipeline.exporters, &pipeline.id, report);
        for member in &receivers {
            // One receiver of a pipeline for several signals may bring only some of them.
            let brings = pipeline.signals.iter().any(|signal| member.spec.signals().contains(signal));
            if !brings && !pipeline.signals.is_empty() {
                unsupported("receiver", member, member.spec.signals(), pipeline, report);
            }
        }
        for member in &exporters {
            if !pipeline.signals.iter().all(|signal| member.spec.signals().contains(signal)) {
                unsupported("exporter", member, member.spec.signals(), pipeline, report);
            }
        }
        let parts = self.parts(processors, pipeline, report);
        let mut ends = Vec::new();
        for member in &exporters {
            let exporter = self.exporter(member);
            let sending = self.plan.exporters.get(exporter).map(|exporter| &exporter.sending);
            ends.extend(sending.map(|sending| End {
                exporter,
                id: member.id.clone(),
                queue: sending.queue.clone(),
                on_full_at:
                    self.exporters.key(&member.id, "sending_queue.on_full").unwrap_or(member.at.clone()),
            }));
        }
        let promise = promise::of(pipeline, &parts.custody, &ends, report);
        self.letters.extend(pipeline.dead_letters.clone().map(|(id, at)| {
            (Reference { key: "dead_letters".to_owned(), id, role: watershed_stage::Role::Storage }, Some(at))
        }));
        let notes = self.batch(pipeline, &parts, &ends);
        let receivers = receivers.iter().map(|member| self.receiver(member)).collect();
        self.plan.pipelines.push(PipelinePlan {
            id: pipeline.id.clone(),
            signals: pipeline.signals.clone(),
            receivers,
            processors: parts.stages,
            exporters: promise.branches,
            ack: promise.ack,
            ack_reason: promise.reason,
            dead_letters: pipeline.dead_letters.as_ref().map(|(id, _)| id.as_str().into()),
            notes,
        });
    }

    /// Puts each processor into its part.
    fn parts(
        &mut self,
        processors: Vec<Member<dyn ProcessorSpec>>,
        pipeline: &Pipeline,
        report: &mut Report,
    ) -> Parts {
        let mut parts = Parts::default();
        let first = pipeline.processors.items.first().map(|item| item.at.clone());
        for member in processors {
            match member.spec.part() {
                Part::Stage(stage) => {
                    if !pipeline.signals.iter().all(|signal| stage.signals().contains(signal)) {
                        unsupported("processor", &member, stage.signals(), pipeline, report);
                    }
                    if stage.keeps() {
                        parts.custody.keeper.get_or_insert_with(|| member.id.clone());
                    } else if stage.holds() && parts.custody.keeper.is_none() {
                        parts.custody.holding.push(member.id.clone());
                    }
                }
                Part::Batching(settings) => {
                    match &parts.batching {
                        Some((other, _)) => {
                            let message =
                                format!("pipeline `{}` is batched by `{other}` already", pipeline.id);
                            report.error(&member.at, message, Some("name one of the two".to_owned()));
                        }
                        None => parts.batching = Some((member.id.clone(), settings.clone())),
                    }
                    continue;
                }
                Part::Budget(settings) => {
                    if first.as_ref() != Some(&member.at) {
                        let message = format!("`{}` is not the first processor of its pipeline", member.id);
                        let help =
                            "it is the budget of the whole role: its position does not matter".to_owned();
                        report.warn(Some(&member.at), message, Some(help));
                    }
                    if self.limiters.iter().all(|(id, ..)| *id != member.id) {
                        self.limiters.push((member.id.clone(), settings.clone(), member.at.clone()));
                    }
                    continue;
                }
            }
            let Member { id, spec, critical, written, .. } = member;
            parts.stages.push(ProcessorPlan { id, spec, critical, written });
        }
        parts
    }

    /// Hands a pipeline's batching to its exporters. One that batches by its own settings keeps to them.
    fn batch(&mut self, pipeline: &Pipeline, parts: &Parts, ends: &[End]) -> Vec<String> {
        let mut notes = Vec::new();
        for end in ends {
            let Some(exporter) = self.plan.exporters.get_mut(end.exporter) else { continue };
            let Some((id, settings)) = &parts.batching else {
                exporter.unmerged = true;
                continue;
            };
            if exporter.sending.queue.batch.is_some() {
                let own = format!("the exporter's own `sending_queue.batch` wins over processor `{id}`");
                notes.push(format!("exporter `{}`: {own}", exporter.id));
            } else {
                let batch = PipelineBatch { processor: id.clone(), settings: settings.clone() };
                exporter.batching.insert(pipeline.id.clone(), batch);
            }
        }
        notes
    }

    /// The number of a receiver in the plan.
    fn receiver(&mut self, member: &Member<dyn ReceiverSpec>) -> usize {
        let receivers = &mut self.plan.receivers;
        receivers.iter().position(|receiver| receiver.id == member.id).unwrap_or_else(|| {
            let (id, spec, critical) = (member.id.clone(), member.spec.clone(), member.critical);
            receivers.push(ReceiverPlan { id, spec, critical, written: member.written.clone() });
            receivers.len() - 1
        })
    }

    /// The number of an exporter in the plan.
    fn exporter(&mut self, member: &Member<dyn ExporterSpec>) -> usize {
        let exporters = &mut self.plan.exporters;
        exporters.iter().position(|exporter| exporter.id == member.id).unwrap_or_else(|| {
            let (id, spec, critical) = (member.id.clone(), member.spec.clone(), member.critical);
            let sending = spec.sending();
            exporters.push(ExporterPlan {
                id,
                spec,
                critical,
                written: member.written.clone(),
                sending,
                batching: HashMap::new(),
                unmerged: false,
            });
            exporters.len() - 1
        })
    }

    /// What can only be said once every pipeline is known.
    fn finish(mut self, report: &mut Report) -> RolePlan {
        self.budget(report);
        self.addresses(report);
        self.datagrams(report);
        self.references(report);
        self.receivers.warn_unused(report);
        self.processors.warn_unused(report);
        self.exporters.warn_unused(report);
        self.extensions.warn_unused(report);
        self.plan
    }

    fn budget(&mut self, report: &mut Report) {
        let mut limiters = self.limiters.iter();
        let Some((id, settings, at)) = limiters.next() else { return };
        for (other, _, at) in limiters.filter(|(_, other, _)| other != settings) {
            let message = format!("`{other}` and `{id}` say different things of the same memory");
            let help =
                "a role has one budget: name the same memory limiter in all of its pipelines".to_owned();
            report.error(at, message, Some(help));
        }
        match BudgetPlan::of(settings, id.clone(), self.surroundings.memory) {
            Ok(budget) => self.plan.budget = budget,
            Err(message) => report.error(&self.processors.key(id, "").unwrap_or(at.clone()), message, None),
        }
    }

    /// Finds the extensions that receivers and exporters name.
    fn references(&mut self, report: &mut Report) {
        let mut references = std::mem::take(&mut self.letters);
        for receiver in &self.plan.receivers {
            let spots = |reference: Reference| {
                let at = self.receivers.key(&receiver.id, &reference.key);
                (reference, at)
            };
            references.extend(receiver.spec.references().into_iter().map(spots));
        }
        for exporter in &self.plan.exporters {
            let spots = |reference: Reference| {
                let at = self.exporters.key(&exporter.id, &reference.key);
                (reference, at)
            };
            references.extend(exporter.spec.references().into_iter().map(spots));
        }
        for (Reference { id, role, .. }, at) in references {
            let Some(at) = at else { continue };
            let item = Item { text: id.clone(), shown: id.clone(), at: at.clone() };
            let Some(component) = self.extensions.named(&item, report) else { continue };
            let Some(spec) = component.spec.clone() else { continue };
            if !spec.roles().contains(&role) {
                report.error(&at, format!("extension `{id}` can not {}", role.describe()), None);
            }
            let (id, written) = (component.id.clone(), component.written.clone());
            if self.plan.extensions.iter().all(|extension| extension.id != id) {
                self.plan.extensions.push(ExtensionPlan { id, spec, written });
            }
        }
    }

    /// Two receivers can not take datagrams at one address, and nothing keeps them secret.
    fn datagrams(&self, report: &mut Report) {
        let mut taken: HashMap<String, Arc<str>> = HashMap::new();
        for receiver in &self.plan.receivers {
            let id = &receiver.id;
            for listener in receiver.spec.datagrams() {
                let at = self.receivers.key(id, listener.key);
                if !is_loopback(&listener.address) {
                    let message = format!(
                        "receiver `{id}` takes datagrams from other machines: anybody can read and forge them"
                    );
                    let help =
                        "listen on localhost, and let a collector on each machine pass them on".to_owned();
                    report.warn(at.as_ref(), message, Some(help));
                }
                if listener.address.ends_with(":0") {
                    continue;
                }
                if let Some(other) = taken.insert(listener.address, id.clone())
                    && let Some(at) = at
                {
                    let message = format!("receivers `{other}` and `{id}` want the same address");
                    report.error(&at, message, Some(format!("set another `{}`", listener.key)));
                }
            }
        }
    }

    /// Two components can not listen on the same address. Those of other roles may: roles may run apart.
    fn addresses(&self, report: &mut Report) {
        let mut taken: HashMap<String, String> = HashMap::new();
        for receiver in &self.plan.receivers {
            let name = format!("receiver `{}`", receiver.id);
            for Listener { address, key, security, .. } in receiver.spec.listeners() {
                let at = self.receivers.key(&receiver.id, key);
                listens(&name, "takes plain text from", (address, key, security), at, &mut taken, report);
            }
        }
        for exporter in &self.plan.exporters {
            let name = format!("exporter `{}`", exporter.id);
            for Listener { address, key, security, .. } in exporter.spec.listeners() {
                let at = self.exporters.key(&exporter.id, key);
                listens(&name, "speaks plain text to", (address, key, security), at, &mut taken, report);
            }
        }
    }
}

/// Checks what a component listens on against what others do, and against who can read along.
fn listens(
    name: &str,
    does: &str,
    (address, key, security): (String, &str, Security),
    at: Option<Spot>,
    taken: &mut HashMap<String, String>,
    report: &mut Report,
) {
    if !security.tls && !is_loopback(&address) {
        let message = format!("{name} {does} other machines: anybody on the way can read it");
        let help = format!("give `{key}` a `tls` beside it, if the network is not yours");
        report.warn(at.as_ref(), message, Some(help));
    }
    if address.ends_with(":0") {
        return;
    }
    match (taken.get(&address), at) {
        (Some(other), Some(at)) if other != name => {
            let message = format!("{other} and {name} want the same address");
            report.error(&at, message, Some(format!("set another `{key}`")));
        }
        (Some(_), _) => {}
        (None, _) => {
            taken.insert(address, name.to_owned());
        }
    }
}

/// Whether only this machine can reach an address.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// The components that a list of a pipeline names. What is wrong with the list is reported.
fn members<S: ?Sized>(
    class: &mut Class<'_, S>,
    names: &Strings,
    pipeline: &str,
    report: &mut Report,
) -> Vec<Member<S>> {
    let mut members = Vec::new();
    for (number, item) in names.items.iter().enumerate() {
        if names.items.iter().take(number).any(|other| other.text == item.text) {
            let message = format!("pipeline `{pipeline}` names {} `{}` twice", class.word, item.shown);
            report.error(&item.at, message, None);
            continue;
        }
        let Some(component) = class.named(item, report) else { continue };
        if let Some(spec) = component.spec.clone() {
            let (id, critical) = (component.id.clone(), component.critical);
            let written = component.written.clone();
            members.push(Member { id, spec, critical, written, at: item.at.clone() });
        }
    }
    members
}

fn unsupported<S: ?Sized>(
    word: &str,
    member: &Member<S>,
    supported: &[Signal],
    pipeline: &Pipeline,
    report: &mut Report,
) {
    let missing =
        pipeline.signals.iter().filter(|signal| !supported.contains(signal)).map(|signal| signal.as_str());
    let message = format!("{word} `{}` does not support {}", member.id, wording::list(missing));
    let help = format!("it supports {}", wording::list(supported.iter().map(|signal| signal.as_str())));
    report.error(&member.at, message, Some(help));
}
