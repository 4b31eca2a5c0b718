//! A span that has just come: what of it is looked at at once, and what becomes of it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

use watershed_telemetry::sheaf::Spot;
use watershed_telemetry::view::SpanView;

use super::policy::{ROOT, SAMPLED_FLAG, STATUSES};

/// A span that has just come.
#[derive(Clone, Copy)]
pub(super) struct Arrived {
    pub(super) hash: u64,
    pub(super) id: [u8; 16],
    pub(super) spot: Spot,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) seen: u8,
    pub(super) fate: Fate,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It waits for a decision.
    Waits,
    /// It has come before with the same message, and waits since then.
    Held,
    /// It waits until the decision, which is known, is noted for it, too.
    Follows(bool),
    /// It goes on at once.
    Passes,
    /// It goes.
    Goes,
}

// === impl Arrived ===

impl Arrived {
    pub(super) fn new(span: &SpanView<'_>, spot: Spot, flags: bool) -> Self {
        let outline = span.outline();
        let id = outline.trace_id.try_into().unwrap_or_default();
        let status = u8::try_from(outline.status.code()).ok().filter(|code| *code < 3).unwrap_or_default();
        let mut seen = (1 << status) & STATUSES;
        // Some say that there is none by an id of zeros.
        if outline.parent_span_id.is_empty() || outline.parent_span_id == [0; 8] {
            seen |= ROOT;
        }
        if flags && span.flags() & 1 == 1 {
            seen |= SAMPLED_FLAG;
        }
        let start = Some(outline.start_time_unix_nano).filter(|start| *start > 0).unwrap_or(u64::MAX);
        let end = outline.end_time_unix_nano;
        Self { hash: hash(&id), id, spot, start, end, seen, fate: Fate::Waits }
    }
}

/// The hash of a trace id. Ids may be chosen by who sends, so that it takes a key that nobody knows.
pub(super) fn hash(id: &[u8; 16]) -> u64 {
    static KEYS: LazyLock<(u64, u64)> = LazyLock::new(|| {
        let random = RandomState::new();
        (random.hash_one(0), random.hash_one(1))
    });
    let whole = u128::from_le_bytes(*id);
    let fold = |one: u64, other: u64| {
        let product = u128::from(one) * u128::from(other);
        product as u64 ^ (product >> 64) as u64
    };
    let (low, high) = (whole as u64 ^ KEYS.0, (whole >> 64) as u64 ^ KEYS.1);
    fold(fold(low, high) ^ KEYS.0, fold(low.rotate_left(29) ^ KEYS.1, high | 1) | 1)
}
