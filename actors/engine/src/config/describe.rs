//! A plan in words: what is promised and why, what is batched where, how much memory there is.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use watershed_stage::{Ack, BatchSettings, DatagramListener, Listener, OnFull, Sizer};

use super::memory::MIB;
use super::plan::{BranchPlan, PipelinePlan, Plan, ReceiverPlan, RolePlan};
use crate::engine::Address;

/// Width of what stands before a line's text.
const LABEL: usize = 12;

// === impl Plan ===

impl Plan {
    /// What the plan promises and decides, role by role and pipeline by pipeline.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.roles.iter().try_for_each(|role| role.describe(&mut text));
        text
    }

    /// Each pipeline in one line, after its role: where it listens, what it passes, where it ends, and what its
    /// "ok" means. Ports are those of `listening` where it has them.
    pub fn routes(&self, listening: &[Address]) -> Vec<(Arc<str>, String)> {
        let of = |role: &RolePlan| {
            let routes = role.pipelines.iter().map(|pipeline| role.route(pipeline, listening));
            routes.map(|route| (role.name.clone(), route)).collect::<Vec<_>>()
        };
        self.roles.iter().flat_map(of).collect()
    }
}

// === impl RolePlan ===

impl RolePlan {
    fn describe(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "{}", self.name)?;
        let budget = &self.budget;
        let origin = match &budget.limiter {
            Some(limiter) => format!("by `{limiter}`"),
            None => "by default".to_owned(),
        };
        let (limit, admission) = (budget.limit / MIB, budget.admission / MIB);
        line(out, 2, "memory", &format!("{limit} MiB {origin}; requests are refused above {admission} MiB"))?;
        self.pipelines.iter().try_for_each(|pipeline| self.pipeline(pipeline, out))
    }

    fn pipeline(&self, pipeline: &PipelinePlan, out: &mut String) -> fmt::Result {
        let signals: Vec<&str> = pipeline.signals.iter().map(|signal| signal.as_str()).collect();
        let means = match pipeline.ack {
            Ack::Accepted => "accepted: it lies in the queues of the exporters",
            Ack::Journaled => {
                "journaled: it lies on disk for every required exporter, or its destination has it"
            }
            Ack::Delivered => "delivered: every required exporter's destination has it",
        };
        writeln!(out, "  {}", self.route(pipeline, &[]))?;
        line(out, 4, "signals", &signals.join(", "))?;
        line(out, 4, "ok means", means)?;
        for branch in &pipeline.exporters {
            line(out, 4, "exporter", &self.branch(pipeline, branch))?;
        }
        pipeline.notes.iter().try_for_each(|note| line(out, 4, "note", note))
    }

    /// A pipeline in one line: where it listens, what it passes, where it ends, and what its "ok" means.
    fn route(&self, pipeline: &PipelinePlan, listening: &[Address]) -> String {
        let receivers = pipeline.receivers.iter().filter_map(|receiver| self.receivers.get(*receiver));
        let receivers: Vec<String> = receivers
            .map(|receiver| {
                let datagrams = self.datagrams(receiver, listening);
                self.listens("receiver", &receiver.id, receiver.spec.listeners(), datagrams, listening)
            })
            .collect();
        let exporter = |branch: &BranchPlan| {
            let exporter = self.exporters.get(branch.exporter)?;
            let text = self.listens("exporter", &exporter.id, exporter.spec.listeners(), vec![], listening);
            Some(if branch.required { text } else { format!("{text} (optional)") })
        };
        let exporters: Vec<String> = pipeline.exporters.iter().filter_map(exporter).collect();
        let mut way = receivers.join(", ");
        for processor in &pipeline.processors {
            let _ = write!(way, " -> {}", processor.id);
        }
        let PipelinePlan { id, ack, ack_reason: why, .. } = pipeline;
        format!("pipeline {id}: {way} -> {}; ack = {ack}: {why}", exporters.join(", "))
    }

    /// A component and its addresses: those listened on, or else those that are configured.
    fn listens<In>(
        &self,
        class: &str,
        id: &Arc<str>,
        listeners: Vec<Listener<In>>,
        datagrams: Vec<String>,
        listening: &[Address],
    ) -> String {
        let at = |listener: Listener<In>| {
            let found = listening.iter().find(|address| {
                (&address.role, address.class, &address.component, address.key)
                    == (&self.name, class, id, listener.key)
            });
            let address = found.map_or(listener.address, |found| found.address.to_string());
            format!("{} {address}, {}", listener.transport, listener.security)
        };
        let places: Vec<String> = listeners.into_iter().map(at).chain(datagrams).collect();
        if places.is_empty() {
            return id.to_string();
        }
        format!("{id} ({})", places.join("; "))
    }

    /// Where a receiver takes datagrams, which nothing protects.
    fn datagrams(&self, receiver: &ReceiverPlan, listening: &[Address]) -> Vec<String> {
        let at = |listener: DatagramListener| {
            let found = listening.iter().find(|address| {
                (&address.role, &address.component, address.key) == (&self.name, &receiver.id, listener.key)
            });
            let address = found.map_or(listener.address, |found| found.address.to_string());
            format!("{} {address}, plain text", listener.transport)
        };
        receiver.spec.datagrams().into_iter().map(at).collect()
    }

    fn branch(&self, pipeline: &PipelinePlan, branch: &BranchPlan) -> String {
        let Some(exporter) = self.exporters.get(branch.exporter) else { return String::new() };
        let required = if branch.required { "required" } else { "optional" };
        let full = match branch.on_full {
            OnFull::Refuse if branch.required => "refuses",
            OnFull::Refuse => "goes without",
            OnFull::Block => "blocks",
            OnFull::Drop => "drops",
        };
        let own = exporter.sending.queue.batch.as_ref().map(|settings| (settings, "its own setting"));
        let from_pipeline =
            exporter.batching.get(&pipeline.id).map(|batch| (&batch.settings, "the pipeline's batching"));
        let batching = match own.or(from_pipeline) {
            Some((settings, origin)) => format!("batches {} ({origin})", batches(settings)),
            None => "no batching".to_owned(),
        };
        let store = exporter.sending.queue.storage.as_ref();
        let store = store.map_or(String::new(), |id| format!(", on disk by `{id}`"));
        format!("`{}`, {required}, {full} when full{store}, {batching}", exporter.id)
    }
}

fn batches(settings: &BatchSettings) -> String {
    let unit = match settings.sizer {
        Sizer::Requests => "requests",
        Sizer::Items => "items",
        Sizer::Bytes => "bytes",
    };
    let mut text = format!("of {} {unit} or {:?}", settings.min_size, settings.flush_timeout.0);
    if settings.max_size > 0 {
        let _ = write!(text, ", at most {} {unit}", settings.max_size);
    }
    text
}

fn line(out: &mut String, indent: usize, label: &str, text: &str) -> fmt::Result {
    writeln!(out, "{:indent$}{label:LABEL$}{text}", "")
}
