//! What an "ok" to a sender means, and which exporters it depends on.

use std::sync::Arc;

use watershed_stage::{Ack, OnFull, QueueSettings};

use super::diagnostic::Report;
use super::pipeline::Pipeline;
use super::place::Spot;
use super::plan::BranchPlan;
use super::wording;

/// An exporter at the end of a pipeline.
pub(crate) struct End {
    /// Which of the role's exporters.
    pub(crate) exporter: usize,
    pub(crate) id: Arc<str>,
    pub(crate) queue: QueueSettings,
    /// Where its `on_full` is set.
    pub(crate) on_full_at: Spot,
}

/// What a pipeline promises.
pub(crate) struct Promise {
    pub(crate) ack: Ack,
    pub(crate) reason: String,
    pub(crate) branches: Vec<BranchPlan>,
}

/// The promise a pipeline asks for, or else the strongest it can keep.
pub(crate) fn of(pipeline: &Pipeline, holding: &[Arc<str>], ends: &[End], report: &mut Report) -> Promise {
    let held = || wording::list(holding.iter().map(|id| &**id));
    // Under `delivered` every exporter is required unless it says otherwise.
    let optional = !ends.is_empty() && ends.iter().all(|end| end.queue.required == Some(false));
    let (ack, reason) = match &pipeline.ack {
        Some((Ack::Delivered, at)) => {
            let help = "leave `ack` out, or say \"accepted\"".to_owned();
            if !holding.is_empty() {
                let message = format!("`ack`: \"delivered\" can not be promised: {} holds data", held());
                report.error(at, message, Some(help));
            } else if optional {
                let message = "`ack`: \"delivered\" promises nothing where no exporter is required";
                report.error(at, message, Some(help));
            }
            (Ack::Delivered, "as configured".to_owned())
        }
        Some((Ack::Accepted, _)) => (Ack::Accepted, "as configured".to_owned()),
        None if !holding.is_empty() => (Ack::Accepted, format!("{} holds data", held())),
        None if optional => (Ack::Accepted, "no exporter is required".to_owned()),
        None => (Ack::Delivered, "nothing in the pipeline holds data".to_owned()),
    };
    let branches = ends.iter().map(|end| branch(end, ack, ends.len(), pipeline, report)).collect();
    Promise { ack, reason, branches }
}

fn branch(end: &End, ack: Ack, ends: usize, pipeline: &Pipeline, report: &mut Report) -> BranchPlan {
    let required = end.queue.required.unwrap_or(ack == Ack::Delivered || ends == 1);
    // An exporter that is optional only by default still refuses what no other exporter would have.
    let on_full = end.queue.on_full.unwrap_or(match (end.queue.block_on_overflow, end.queue.required) {
        (true, _) => OnFull::Block,
        (false, Some(false)) => OnFull::Drop,
        (false, _) => OnFull::Refuse,
    });
    if required && on_full == OnFull::Drop {
        let message = format!("exporter `{}` can not drop: pipeline `{}` requires it", end.id, pipeline.id);
        let help = "say `required = false` beside it, or use \"refuse\" or \"block\"".to_owned();
        report.error(&end.on_full_at, message, Some(help));
    }
    BranchPlan { exporter: end.exporter, required, on_full }
}
