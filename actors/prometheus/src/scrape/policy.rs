//! What a job wants of the samples of its targets.

use super::error::{Failed, Reason};
use super::labels::Labels;
use super::relabel::Relabel;

/// What a job wants of the samples of its targets. A limit of 0 is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policy {
    /// Where a scraped label is named as one of the target, the scraped one is kept.
    pub(crate) honor_labels: bool,
    /// The times that samples come with are believed.
    pub(crate) honor_timestamps: bool,
    /// What came with a time leaves a marker when it goes, too.
    pub(crate) track_timestamps_staleness: bool,
    /// What does not say when its counting began has begun when it was first seen, or was reset.
    pub(crate) adjust_start_time: bool,
    pub(crate) metric_relabel: Vec<Relabel>,
    /// What a body would be at most if it were text, in bytes.
    pub(crate) body_size_limit: u64,
    pub(crate) sample_limit: u64,
    pub(crate) label_limit: usize,
    pub(crate) label_name_length_limit: usize,
    pub(crate) label_value_length_limit: usize,
}

// === impl Policy ===

impl Policy {
    /// Whether the labels of a series are within the limits.
    pub(crate) fn check(&self, labels: &Labels) -> Result<(), Failed> {
        let is_over = |limit: usize, value: usize| limit != 0 && value > limit;
        let over = |what: &str, key: &str, limit: usize| {
            Err(Failed::new(Reason::Limit, format!("a series has {what}: see {key} = {limit}")))
        };
        if is_over(self.label_limit, labels.len()) {
            return over(&format!("{} labels", labels.len()), "label_limit", self.label_limit);
        }
        for (name, value) in labels.iter() {
            if is_over(self.label_name_length_limit, name.len()) {
                let what = format!("a label name of {} bytes", name.len());
                return over(&what, "label_name_length_limit", self.label_name_length_limit);
            }
            if is_over(self.label_value_length_limit, value.len()) {
                let what = format!("a value of {} bytes in the label {name}", value.len());
                return over(&what, "label_value_length_limit", self.label_value_length_limit);
            }
        }
        Ok(())
    }
}
