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

/// Who has the data of a pipeline before its exporters do.
#[derive(Default)]
pub(crate) struct Custody {
    /// Stages that hold messages in memory, before any that keeps them on disk.
    pub(crate) holding: Vec<Arc<str>>,
    /// The first stage that keeps them on disk.
    pub(crate) keeper: Option<Arc<str>>,
}

/// What a pipeline promises.
pub(crate) struct Promise {
    pub(crate) ack: Ack,
    pub(crate) reason: String,
    pub(crate) branches: Vec<BranchPlan>,
}

/// The promise a pipeline asks for, or else the strongest it can keep.
pub(crate) fn of(pipeline: &Pipeline, custody: &Custody, ends: &[End], report: &mut Report) -> Promise {
    let (ack, reason) = match &pipeline.ack {
        Some((ack, at)) => {
            if let Some(obstacle) = obstacle(*ack, custody, ends) {
                let message = format!("`ack`: \"{ack}\" can not be promised: {obstacle}");
                let (strongest, _) = strongest(custody, ends);
                let help = format!("leave `ack` out, or say \"{strongest}\"");
                report.error(at, message, Some(help));
            }
            (*ack, "as configured".to_owned())
        }
        None => strongest(custody, ends),
    };
    let kept = custody.keeper.is_some();
    let branches = ends.iter().map(|end| branch(end, ack, kept, ends.len(), pipeline, report)).collect();
    Promise { ack, reason, branches }
}

/// The strongest promise that can be kept, and why it is that.
fn strongest(custody: &Custody, ends: &[End]) -> (Ack, String) {
    let stored = ends.iter().filter(|end| end.queue.storage.is_some()).count();
    match custody {
        Custody { holding, .. } if !holding.is_empty() => {
            (Ack::Accepted, format!("{} holds data", list(holding)))
        }
        Custody { keeper: Some(keeper), .. } => (Ack::Journaled, format!("`{keeper}` keeps data on disk")),
        _ if none_required(ends) => (Ack::Accepted, "no exporter is required".to_owned()),
        _ if stored > 0 && stored == ends.len() => {
            (Ack::Journaled, "the queue of every exporter is on disk".to_owned())
        }
        _ if stored > 0 => {
            (Ack::Accepted, "the queues of some exporters are on disk, others are not".to_owned())
        }
        _ => (Ack::Delivered, "nothing in the pipeline holds data".to_owned()),
    }
}

/// Why a promise can not be kept.
fn obstacle(ack: Ack, custody: &Custody, ends: &[End]) -> Option<String> {
    let required = |end: &&End| end.queue.required != Some(false);
    let stored = ends.iter().filter(required).find(|end| end.queue.storage.is_some());
    match ack {
        Ack::Accepted => None,
        _ if !custody.holding.is_empty() => Some(format!("{} holds data", list(&custody.holding))),
        Ack::Journaled if custody.keeper.is_some() => None,
        _ if none_required(ends) => Some("no exporter is required".to_owned()),
        Ack::Journaled if stored.is_none() => Some(
            "nothing keeps data on disk, neither a `journal` among the processors nor `sending_queue.storage`"
                .to_owned(),
        ),
        Ack::Journaled => None,
        Ack::Delivered => match (&custody.keeper, stored) {
            (Some(keeper), _) => Some(format!("`{keeper}` says \"ok\" for what it has on disk")),
            (None, Some(end)) => Some(format!("the queue of `{}` says \"ok\" for what it has on disk", end.id)),
            (None, None) => None,
        },
    }
}

/// Under `delivered` every exporter is required unless it says otherwise; here all of them do.
fn none_required(ends: &[End]) -> bool {
    !ends.is_empty() && ends.iter().all(|end| end.queue.required == Some(false))
}

fn list(ids: &[Arc<str>]) -> String {
    wording::list(ids.iter().map(|id| &**id))
}

fn branch(
    end: &End,
    ack: Ack,
    kept: bool,
    ends: usize,
    pipeline: &Pipeline,
    report: &mut Report,
) -> BranchPlan {
    // What is kept on disk stays there until each exporter has it.
    let by_default = kept || ack != Ack::Accepted || ends == 1;
    let required = end.queue.required.unwrap_or(by_default);
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
