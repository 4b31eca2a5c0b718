//! The checked plan: what will run, with every default decided and every name resolved.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use watershed_stage::{
    Ack, BatchSettings, BudgetLimit, BudgetSettings, ExporterSpec, ExtensionSpec, OnFull, PipelineBatch,
    ProcessorSpec, ReceiverSpec, Sending, Signal, Sizer,
};
use watershed_supervise::Limits;

use super::diagnostic::Diagnostic;
use super::memory::MIB;
use super::written::Written;

/// The budget of a role that names none is half of the memory, but no more than this.
const DEFAULT_BUDGET: u64 = 1 << 30;

/// A configuration that can be started.
#[derive(Clone)]
pub struct Plan {
    /// The roles: the agent before the gateway it sends to, which is the order of a drain.
    pub roles: Vec<RolePlan>,
    /// What concerns the process.
    pub service: ServicePlan,
    /// What does not stand in the way of starting.
    pub warnings: Vec<Diagnostic>,
    /// The memory of the machine or cgroup.
    pub(crate) memory: Option<u64>,
}

/// One collector.
#[derive(Clone)]
pub struct RolePlan {
    /// `agent`, `gateway`, or `collector` for a file without roles.
    pub name: Arc<str>,
    /// Its memory.
    pub budget: BudgetPlan,
    /// The receivers that pipelines use.
    pub receivers: Vec<ReceiverPlan>,
    /// The exporters that pipelines use.
    pub exporters: Vec<ExporterPlan>,
    /// The extensions that receivers and exporters name.
    pub extensions: Vec<ExtensionPlan>,
    /// The pipelines, in the order of the text.
    pub pipelines: Vec<PipelinePlan>,
}

/// The memory of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetPlan {
    /// The hard limit, in bytes.
    pub limit: u64,
    /// What is granted to incoming requests: the limit less what is left free for growth inside.
    pub admission: u64,
    /// How often the process as a whole is looked at.
    pub check_interval: Duration,
    /// The processor that says so; `None` for the default.
    pub limiter: Option<Arc<str>>,
}

/// A receiver.
#[derive(Clone)]
pub struct ReceiverPlan {
    /// Its id.
    pub id: Arc<str>,
    /// What it is.
    pub spec: Arc<dyn ReceiverSpec>,
    /// Whether the process ends when it can not be kept up.
    pub critical: bool,
    /// What it is configured with.
    pub(crate) written: Arc<Written>,
}

/// An exporter.
#[derive(Clone)]
pub struct ExporterPlan {
    /// Its id.
    pub id: Arc<str>,
    /// What it is.
    pub spec: Arc<dyn ExporterSpec>,
    /// Whether the process ends when it can not be kept up.
    pub critical: bool,
    /// What it is configured with.
    pub(crate) written: Arc<Written>,
    /// Queue, batching, retries and timeout.
    pub sending: Sending,
    /// How what comes from a pipeline is batched, where a `batch` processor says so and the exporter's own
    /// `sending_queue.batch` does not.
    pub batching: HashMap<Arc<str>, PipelineBatch>,
    /// Whether what comes from some pipeline is sent as it came.
    pub unmerged: bool,
}

/// An extension.
#[derive(Clone)]
pub struct ExtensionPlan {
    /// Its id.
    pub id: Arc<str>,
    /// What it is.
    pub spec: Arc<dyn ExtensionSpec>,
    /// What it is configured with.
    pub(crate) written: Arc<Written>,
}

/// A pipeline.
#[derive(Clone)]
pub struct PipelinePlan {
    /// Its id.
    pub id: Arc<str>,
    /// What it carries.
    pub signals: Vec<Signal>,
    /// Which of the role's receivers feed it.
    pub receivers: Vec<usize>,
    /// The processors that handle messages, in order.
    pub processors: Vec<ProcessorPlan>,
    /// Where it ends.
    pub exporters: Vec<BranchPlan>,
    /// What an "ok" to a sender means.
    pub ack: Ack,
    /// Why.
    pub ack_reason: String,
    /// The extension that keeps what was acknowledged and nobody will ever take.
    pub dead_letters: Option<Arc<str>>,
    /// What else a reader of the plan should know.
    pub notes: Vec<String>,
}

/// A processor of a pipeline.
#[derive(Clone)]
pub struct ProcessorPlan {
    /// Its id.
    pub id: Arc<str>,
    /// What it is; its part is a stage.
    pub spec: Arc<dyn ProcessorSpec>,
    /// Whether the process ends when it can not be kept up.
    pub critical: bool,
    /// What it is configured with.
    pub(crate) written: Arc<Written>,
}

/// An exporter as the end of one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchPlan {
    /// Which of the role's exporters.
    pub exporter: usize,
    /// Whether an "ok" depends on it.
    pub required: bool,
    /// What happens when its queue is full.
    pub on_full: OnFull,
}

/// What concerns the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// How many lanes; `None` is one for each core.
    pub lanes: Option<usize>,
    /// How long a drain may take.
    pub shutdown_timeout: Duration,
    /// The filter of the log: a level, or directives such as `info,watershed_engine=debug`.
    pub log_level: String,
    /// How the log is written.
    pub log_encoding: LogEncoding,
    /// Where metrics are served; `None` is nowhere.
    pub metrics: Option<String>,
    /// Where health is served; `None` is nowhere.
    pub health: Option<String>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogEncoding {
    /// For people.
    Console,
    /// A JSON object a line.
    Json,
}

// === impl Plan ===

impl Plan {
    /// The plan of one role alone. A budget that was a default is that of the only role.
    pub fn only_role(mut self, name: &str) -> Result<Self, String> {
        let names: Vec<&str> = self.roles.iter().map(|role| &*role.name).collect();
        if !names.contains(&name) {
            return Err(format!(
                "there is no role `{name}` in the configuration: it has {}",
                super::wording::list(names)
            ));
        }
        self.roles.retain(|role| &*role.name == name);
        for role in self.roles.iter_mut().filter(|role| role.budget.limiter.is_none()) {
            role.budget = BudgetPlan::default_of(self.memory, 1);
        }
        Ok(self)
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

// === impl BudgetPlan ===

impl BudgetPlan {
    /// The budget of one of so many roles, none of which names one: together they have half of the memory.
    pub(crate) fn default_of(memory: Option<u64>, roles: usize) -> Self {
        let roles = roles.max(1) as u64;
        let half = memory.map_or(DEFAULT_BUDGET, |memory| memory / 2);
        let limit = (half / roles).clamp(MIB, DEFAULT_BUDGET);
        Self { limit, admission: limit - limit / 5, check_interval: Duration::from_secs(1), limiter: None }
    }

    /// The budget that a processor names.
    pub(crate) fn of(
        settings: &BudgetSettings,
        limiter: Arc<str>,
        memory: Option<u64>,
    ) -> Result<Self, &'static str> {
        let bytes = |limit: BudgetLimit| match (limit, memory) {
            (BudgetLimit::Bytes(bytes), _) => Ok(bytes),
            (BudgetLimit::Percent(percent), Some(memory)) => Ok(memory / 100 * u64::from(percent)),
            (BudgetLimit::Percent(_), None) => {
                Err("the memory of this machine is unknown, so that a percentage says nothing")
            }
        };
        let limit = bytes(settings.limit)?;
        let spike = settings.spike.map_or(Ok(limit / 5), bytes)?;
        match limit.checked_sub(spike) {
            None | Some(0) => Err("the limit less the spike leaves nothing for incoming requests"),
            Some(admission) => {
                Ok(Self { limit, admission, check_interval: settings.check_interval, limiter: Some(limiter) })
            }
        }
    }
}

// === impl ExporterPlan ===

impl ExporterPlan {
    /// The bound of an exporter's queue, and how many of its units are one of the sizer's.
    ///
    /// What is merged waits as batches do in otelcol: a request is then as much as a batch, and not whatever small part of
    /// one a sender has sent. One that is larger than a batch is a request, too.
    pub(crate) fn queue_limits(&self) -> (Limits, usize) {
        let queue = &self.sending.queue;
        if !queue.enabled {
            // Without a queue, what is held is what is in flight.
            return (Limits { requests: Some(queue.num_consumers), ..Limits::default() }, 1);
        }
        let batch = self.batch().filter(|_| queue.sizer == Sizer::Requests);
        let (sizer, unit) = batch.map_or((queue.sizer, 1), |batch| (batch.sizer, batch.min_size));
        let size = Some(queue.queue_size.saturating_mul(unit));
        let limits = Limits { each: batch.map(|_| unit), ..Limits::default() };
        let limits = match sizer {
            Sizer::Requests => Limits { requests: size, ..limits },
            Sizer::Items => Limits { items: size, ..limits },
            Sizer::Bytes => Limits { bytes: size, ..limits },
        };
        (limits, unit)
    }

    /// The smallest batch, if everything that is sent is merged into batches of some size.
    fn batch(&self) -> Option<&BatchSettings> {
        let own = self.sending.queue.batch.as_ref();
        let theirs = self.batching.values().map(|batch| &batch.settings);
        let batches: Vec<_> = own.map_or_else(|| theirs.collect(), |own| vec![own]);
        let least = *batches.iter().min_by_key(|batch| batch.min_size)?;
        let alike = batches.iter().all(|batch| batch.min_size > 0 && batch.sizer == least.sizer);
        (alike && (own.is_some() || !self.unmerged)).then_some(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(limit: BudgetLimit, spike: Option<BudgetLimit>) -> BudgetSettings {
        BudgetSettings { check_interval: Duration::from_secs(1), limit, spike }
    }

    fn admission(
        limit: BudgetLimit,
        spike: Option<BudgetLimit>,
        memory: Option<u64>,
    ) -> Result<u64, &'static str> {
        BudgetPlan::of(&settings(limit, spike), "memory_limiter".into(), memory).map(|plan| plan.admission)
    }

    #[test]
    fn a_percentage_is_of_all_memory() {
        let percent = BudgetLimit::Percent;
        assert_eq!(admission(BudgetLimit::Bytes(1000), None, None), Ok(800));
        assert_eq!(admission(percent(50), Some(percent(20)), Some(1000)), Ok(300));
        assert_eq!(admission(BudgetLimit::Bytes(1000), Some(BudgetLimit::Bytes(100)), None), Ok(900));
        assert!(admission(percent(50), None, None).is_err());
        assert!(admission(BudgetLimit::Bytes(100), Some(percent(20)), Some(1000)).is_err());
    }

    #[test]
    fn roles_share_half_of_the_memory() {
        assert_eq!(BudgetPlan::default_of(Some(64 << 30), 1).limit, 1 << 30);
        assert_eq!(BudgetPlan::default_of(Some(1 << 30), 1).limit, 512 << 20);
        assert_eq!(BudgetPlan::default_of(Some(1 << 30), 2).limit, 256 << 20);
        assert_eq!(BudgetPlan::default_of(None, 1).limit, 1 << 30);
    }
}
