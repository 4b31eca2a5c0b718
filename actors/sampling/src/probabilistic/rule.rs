//! The decision about one item, whatever its signal.
//!
//! Source: opentelemetry-collector-contrib `processor/probabilisticsamplerprocessor`, `pkg/sampling`; decisions are
//! the same to the bit.

use watershed_telemetry::trace_state::{Randomness, Threshold};

use super::settings::{Mode, Settings};

/// How an item is judged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// Nothing passes.
    Never,
    /// By a hash.
    Hash { seed: u32, threshold: Threshold },
    /// By the item's randomness, against a threshold of ours.
    Equalizing(Threshold),
    /// By the item's randomness, against a threshold of ours on top of the item's.
    Proportional { ratio: f64, precision: u32 },
}

/// What an item says of its sampling.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    pub(super) randomness: Option<Randomness>,
    pub(super) threshold: Option<Threshold>,
}

/// What a decision was made with: the label `policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Policy {
    TraceIdHash,
    TraceIdW3c,
    SamplingRandomness,
    SamplingPriority,
    MissingRandomness,
    Attribute,
}

/// Randomness, and where it comes from.
pub(super) type Source = (Randomness, Policy);

/// There is nothing to decide with. Every threshold but that of 0 % lets it pass, as the item may be let pass.
pub(super) const MISSING: Source = (Randomness::MAX, Policy::MissingRandomness);

/// The decision about an item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision {
    pub(super) policy: Policy,
    pub(super) passes: bool,
    /// What is to be written into the item if it passes. `None`: it is left alone.
    pub(super) writes: Option<Writes>,
}

/// What an item is to say from now on; `None` leaves what it says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writes {
    pub(super) randomness: Option<Randomness>,
    pub(super) threshold: Option<Threshold>,
}

impl Policy {
    /// otelcol's name; `attribute` is what [`Policy::Attribute`] hashes.
    pub(super) fn label(self, attribute: &str) -> &str {
        match self {
            Self::TraceIdHash => "trace_id_hash",
            Self::TraceIdW3c => "trace_id_w3c",
            Self::SamplingRandomness => "sampling_randomness",
            Self::SamplingPriority => "sampling_priority",
            Self::MissingRandomness => "missing_randomness",
            Self::Attribute => attribute,
        }
    }
}

impl Rule {
    pub(super) fn new(settings: &Settings) -> Self {
        let percentage = settings.sampling_percentage.min(100.0);
        if percentage <= 0.0 {
            return Self::Never;
        }
        let ratio = (f64::from(percentage) / 100.0).max(Threshold::MIN_PROBABILITY);
        let precision = settings.sampling_precision;
        match settings.mode {
            Mode::HashSeed => match buckets(percentage) {
                0 => Self::Never,
                passing => Self::Hash {
                    seed: settings.hash_seed,
                    threshold: Threshold::new(u64::from(BUCKETS.saturating_sub(passing)) << 42),
                },
            },
            Mode::Equalizing => {
                Self::Equalizing(Threshold::of_probability(ratio, precision).unwrap_or(Threshold::NEVER))
            }
            Mode::Proportional => Self::Proportional { ratio, precision },
        }
    }

    /// Decides. `said` is `None` where it could not be read; `hashed` gives what is hashed, if there is anything;
    /// `own` the randomness of the trace id; `priority` a threshold in place of ours.
    pub(super) fn decide(
        &self,
        said: Option<Said>,
        fail_closed: bool,
        hashed: impl FnOnce(u32) -> Option<Source>,
        own: impl FnOnce() -> Option<Randomness>,
        priority: impl FnOnce() -> Option<Threshold>,
    ) -> Decision {
        // Without `said` there is neither a decision nor a trace of it.
        let (source, said, randomness) = match *self {
            Self::Never => (Some((Randomness::MAX, Policy::SamplingPriority)), said, None),
            Self::Hash { seed, .. } => {
                let source = hashed(seed);
                let is_free = |said: &Said| said.randomness.is_none() && said.threshold.is_none();
                (source, said.filter(is_free), source.map(|(randomness, _)| randomness))
            }
            Self::Equalizing(_) | Self::Proportional { .. } => {
                let explicit = |said: Said| Some((said.randomness?, Policy::SamplingRandomness));
                let source =
                    said.and_then(|said| explicit(said).or_else(|| Some((own()?, Policy::TraceIdW3c))));
                (source, said, None)
            }
        };
        let mut arrived = said.and_then(|said| said.threshold);
        let mut is_known = said.is_some() && source.is_some();
        if let (Some((randomness, _)), Some(threshold)) = (source, arrived)
            && !threshold.passes(randomness)
        {
            // It claims to have passed where it can not have.
            (arrived, is_known) = (None, false);
        }
        let (randomness_used, mut policy) = source.unwrap_or(MISSING);
        let mut threshold = match is_known {
            true => self.threshold(arrived),
            false if fail_closed => Threshold::NEVER,
            false => Threshold::ALWAYS,
        };
        if let Some(instead) = priority() {
            (threshold, policy) = (instead, Policy::SamplingPriority);
        }
        // What an item has passed with can only rise.
        let rises = arrived.is_none_or(|arrived| arrived <= threshold);
        let writes = said.map(|_| Writes { randomness, threshold: rises.then_some(threshold) });
        Decision { policy, passes: threshold.passes(randomness_used), writes }
    }

    /// The threshold for an item that has passed `arrived`.
    fn threshold(&self, arrived: Option<Threshold>) -> Threshold {
        match *self {
            Self::Never => Threshold::NEVER,
            Self::Hash { threshold, .. } => threshold,
            Self::Equalizing(threshold) => arrived.map_or(threshold, |arrived| arrived.max(threshold)),
            Self::Proportional { ratio, precision } => {
                let incoming = arrived.map_or(1.0, Threshold::probability);
                Threshold::of_probability(incoming * ratio, precision).unwrap_or(Threshold::NEVER)
            }
        }
    }
}

/// Into how many buckets the hash falls: 14 bits of it.
const BUCKETS: u32 = 1 << 14;

/// How many of the buckets pass. In single precision and rounded down, as otelcol has it.
fn buckets(percentage: f32) -> u32 {
    (percentage * (f64::from(BUCKETS) / 100.0) as f32) as u32
}

/// The randomness of what is hashed: its top 14 bits are the bucket, turned round, since a hash passes below its
/// bound, and randomness above.
pub(super) fn hash(seed: u32, bytes: &[u8]) -> Randomness {
    let hash = fnv1a(&[&seed.to_le_bytes(), bytes]);
    let bucket = u64::from(hash % BUCKETS);
    let unused = u64::from(hash >> 18);
    let mixed = unused ^ unused << 10;
    Randomness::new((u64::from(BUCKETS) - 1 - bucket) << 42 | mixed << 14 | bucket)
}

/// 32-bit FNV-1a.
fn fnv1a(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    bytes.fold(0x811C_9DC5, |hash: u32, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
