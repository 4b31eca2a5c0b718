//! What a lane carries, as far as this crate has to know.

use std::ops::Add;

use watershed_delivery::Outcome;

/// A message that can be queued, handed out, handed out again, and ended.
pub trait Mail: Send + Sized + 'static {
    /// What it takes up of a bound.
    fn weight(&self) -> Weight;

    /// Whether its sender was answered or is gone, so that handling it can only duplicate. Such mail is never
    /// handed out. Called under the lane's lock: must neither block nor wake.
    fn is_withdrawn(&self) -> bool;

    /// The halves of a merged message, or the message itself where it can not be divided.
    fn bisect(self) -> Result<(Self, Self), Self>;

    /// Ends the message.
    fn settle(self, outcome: Outcome);
}

/// What a message takes up, in each dimension that can be bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Requests, as their senders count them.
    pub requests: usize,
    /// Spans, data points or log records.
    pub items: usize,
    /// Bytes kept alive.
    pub bytes: usize,
}

// === impl Weight ===

impl Weight {
    /// The smaller of the two in each dimension.
    pub(crate) fn min(self, other: Self) -> Self {
        Self {
            requests: self.requests.min(other.requests),
            items: self.items.min(other.items),
            bytes: self.bytes.min(other.bytes),
        }
    }

    /// What is left without `other`, never below zero.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            items: self.items.saturating_sub(other.items),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl Add for Weight {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            items: self.items.saturating_add(other.items),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

impl std::iter::Sum for Weight {
    fn sum<I: Iterator<Item = Self>>(weights: I) -> Self {
        weights.fold(Self::default(), Add::add)
    }
}
