//! How far a command is: a bar on the terminal of standard error, and nothing anywhere else.

use std::fmt::Display;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::out::complain;

/// A bar. Clones are the same one; with the last it is gone from the terminal.
#[derive(Clone, Debug)]
pub(crate) struct Bar(ProgressBar);

// === impl Bar ===

impl Bar {
    /// Counts bytes up to `total`.
    pub(crate) fn bytes(name: impl Display, total: u64, quiet: bool) -> Self {
        Self::new(name, total, quiet, "{binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}")
    }

    /// Counts records up to `total`.
    pub(crate) fn records(name: impl Display, total: u64, quiet: bool) -> Self {
        Self::new(name, total, quiet, "{human_pos} of {human_len} records, {per_sec}")
    }

    /// Shows nothing.
    pub(crate) fn none() -> Self {
        Self(ProgressBar::hidden())
    }

    fn new(name: impl Display, total: u64, quiet: bool, counts: &str) -> Self {
        // It draws only on a terminal.
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template(&format!("{{prefix}} [{{bar:30}}] {counts}, {{eta}} left"));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.set_prefix(name.to_string());
        Self(bar)
    }

    /// So much more is done.
    pub(crate) fn add(&self, more: u64) {
        self.0.inc(more);
    }

    /// A line on standard error, above the bar.
    pub(crate) fn complain(&self, text: impl Display) {
        self.0.suspend(|| complain(text));
    }
}
