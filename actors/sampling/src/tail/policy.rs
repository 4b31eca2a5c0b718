//! Policies: what says of a trace that it is to be kept.
//!
//! Source: opentelemetry-collector-contrib `processor/tailsamplingprocessor`. Most decide by [`Facts`], which are summed
//! up as spans come; only those that ask for attributes look at spans again.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use regex::RegexSet;
use watershed_stage::Failure;
use watershed_telemetry::view::{Attributes, ResourceView, SpanView, Value};

use super::meters::{Meter, Shared, Turn};
use super::settings::{self, Kind};

/// Bit n of [`Facts::seen`]: a span of status n. Then those of what else was seen.
pub(super) const STATUSES: u8 = 0b111;
/// A span with the W3C flag `sampled`.
pub(super) const SAMPLED_FLAG: u8 = 1 << 3;
/// A span without a parent.
pub(super) const ROOT: u8 = 1 << 4;

/// What is known of a trace without another look at its spans.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) id: [u8; 16],
    /// The first start of a span, in Unix nanoseconds; `u64::MAX` where none has one.
    pub(super) start: u64,
    /// The last end.
    pub(super) end: u64,
    pub(super) spans: u32,
    pub(super) bytes: u64,
    pub(super) seen: u8,
}

/// The spans of a trace.
pub(super) trait Spans {
    /// Whether `is` holds for any of them. It is shown a resource with the first of the spans under it alone, since who
    /// sends may have put a large one over many spans.
    fn any(&self, is: &mut dyn FnMut(SpanView<'_>, Option<Named<'_>>) -> bool) -> bool;
}

/// A resource, behind what names it for as long as no other spans come.
pub(super) type Named<'a> = (u64, ResourceView<'a>);

/// What a trace is judged by.
pub(super) struct Policies {
    /// Those that drop first.
    policies: Vec<Policy>,
    first_match: bool,
}

/// One of them, by its name.
pub(super) struct Policy {
    pub(super) name: String,
    rule: Rule,
    drops: bool,
}

/// What a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Sampled,
    NotSampled,
    Dropped,
}

/// What a rule says of resources, by what names them: a large one may stand over the spans of many traces.
#[derive(Default)]
struct Known(hashbrown::HashMap<u64, bool>);

enum Rule {
    Always,
    Latency {
        over: u64,
        up_to: Option<u64>,
    },
    Numeric {
        key: String,
        least: Option<i64>,
        most: Option<i64>,
        invert: bool,
        known: Known,
    },
    Probabilistic {
        state: u64,
        threshold: u64,
    },
    /// Any of these bits was seen.
    Seen(u8),
    Text {
        key: String,
        texts: Texts,
        invert: bool,
        known: Known,
    },
    TraceState {
        key: String,
        values: Vec<String>,
    },
    Spans(Shared),
    Bytes(Shared),
    Count {
        least: u64,
        most: Option<u64>,
    },
    Truth {
        key: String,
        value: bool,
        invert: bool,
        known: Known,
    },
    All(Vec<Rule>),
    Not(Box<Rule>),
    Composite(Composite),
    #[cfg(test)]
    Panics,
}

/// Texts that match.
enum Texts {
    These(Vec<String>),
    Expressions { set: RegexSet, known: HashMap<Box<str>, bool>, most: usize },
}

/// Policies in their order, and what each of them may have.
struct Composite {
    parts: Vec<Rule>,
    meter: Shared,
}

// === impl Policies ===

impl Policies {
    /// The policies of one copy, which shares with the others in its pipeline what is counted by the second.
    pub(super) fn new(settings: &settings::Settings, pipeline: &str) -> Result<Self, Failure> {
        let mut meters = settings.meters.of(pipeline);
        let policy = |policy: &settings::Policy| {
            let rule = Rule::new(policy, &mut meters)?;
            Ok(Policy { name: policy.name.clone(), rule, drops: policy.r#type == Kind::Drop })
        };
        let mut policies = settings.policies.iter().map(policy).collect::<Result<Vec<_>, Failure>>()?;
        policies.sort_by_key(|policy| !policy.drops);
        Ok(Self { policies, first_match: settings.sample_on_first_match })
    }

    /// In the order in which they are asked.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter()
    }

    /// Whether they ask for the flags of spans.
    pub(super) fn want_flags(&self) -> bool {
        self.policies.iter().any(|policy| policy.rule.wants_flags())
    }

    /// Other spans have come: resources have other names now.
    pub(super) fn begin(&mut self) {
        self.policies.iter_mut().for_each(|policy| policy.rule.forget());
    }

    /// Judges a trace at a time: what drops wins over what samples, and that over what does not. `told` hears what each
    /// policy says; `None` of one that failed, which is as if it were not there.
    pub(super) fn judge(
        &mut self,
        facts: &Facts,
        spans: &dyn Spans,
        now: u64,
        mut told: impl FnMut(usize, Option<Verdict>),
    ) -> Verdict {
        let mut verdict = Verdict::NotSampled;
        for (number, policy) in self.policies.iter_mut().enumerate() {
            // One trace that a policy can not bear must not hold up all others for ever.
            let said = catch_unwind(AssertUnwindSafe(|| policy.rule.samples(facts, spans, now))).ok();
            let said = said.map(|samples| match (samples, policy.drops) {
                (true, true) => Verdict::Dropped,
                (true, false) => Verdict::Sampled,
                (false, _) => Verdict::NotSampled,
            });
            told(number, said);
            match said {
                Some(Verdict::Dropped) => return Verdict::Dropped,
                Some(Verdict::Sampled) => verdict = Verdict::Sampled,
                _ => {}
            }
            if verdict == Verdict::Sampled && self.first_match {
                break;
            }
        }
        verdict
    }
}

// === impl Verdict ===

impl Verdict {
    /// The label `decision`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Sampled => "sampled",
            Self::NotSampled => "not_sampled",
            Self::Dropped => "dropped",
        }
    }

    /// The label `sampled`.
    pub(super) fn sampled(self) -> &'static str {
        if self == Self::Sampled { "true" } else { "false" }
    }
}

// === impl Rule ===

impl Rule {
    fn new(policy: &settings::Policy, meters: &mut Turn<'_>) -> Result<Self, Failure> {
        let settings::Policy { name, r#type, .. } = policy;
        let missing = || Failure::new(format!("policy `{name}` has no table for its type"));
        Ok(match r#type {
            Kind::AlwaysSample => Self::Always,
            Kind::TraceFlags => Self::Seen(SAMPLED_FLAG),
            Kind::Latency => {
                let it = policy.latency.as_ref().ok_or_else(missing)?;
                Self::Latency { over: it.threshold_ms, up_to: set(it.upper_threshold_ms) }
            }
            Kind::NumericAttribute => {
                let it = policy.numeric_attribute.as_ref().ok_or_else(missing)?;
                let bound = |bound: i64| (bound != 0).then_some(bound);
                let (least, most) = (bound(it.min_value), bound(it.max_value));
                let known = Known::default();
                Self::Numeric { key: it.key.clone(), least, most, invert: it.invert_match, known }
            }
            Kind::Probabilistic => {
                let it = policy.probabilistic.as_ref().ok_or_else(missing)?;
                let salt = if it.hash_salt.is_empty() { DEFAULT_SALT } else { &it.hash_salt };
                let threshold = threshold(it.sampling_percentage / 100.0);
                Self::Probabilistic { state: fnv(FNV_OFFSET, salt.as_bytes()), threshold }
            }
            Kind::StatusCode => {
                let it = policy.status_code.as_ref().ok_or_else(missing)?;
                let codes = it.status_codes.iter().filter_map(|code| settings::status(code));
                Self::Seen(codes.fold(0, |mask, code| mask | 1 << code))
            }
            Kind::StringAttribute => {
                let it = policy.string_attribute.as_ref().ok_or_else(missing)?;
                let (texts, known) = (Texts::new(it)?, Known::default());
                Self::Text { key: it.key.clone(), texts, invert: it.invert_match, known }
            }
            Kind::TraceState => {
                let it = policy.trace_state.as_ref().ok_or_else(missing)?;
                Self::TraceState { key: it.key.clone(), values: it.values.clone() }
            }
            Kind::RateLimiting => {
                let it = policy.rate_limiting.as_ref().ok_or_else(missing)?;
                Self::Spans(meters.next(|| Meter::bucket(it.spans_per_second, it.burst_capacity)))
            }
            Kind::BytesLimiting => {
                let it = policy.bytes_limiting.as_ref().ok_or_else(missing)?;
                Self::Bytes(meters.next(|| Meter::bucket(it.bytes_per_second, it.burst_capacity)))
            }
            Kind::SpanCount => {
                let it = policy.span_count.as_ref().ok_or_else(missing)?;
                Self::Count { least: it.min_spans, most: set(it.max_spans) }
            }
            Kind::BooleanAttribute => {
                let it = policy.boolean_attribute.as_ref().ok_or_else(missing)?;
                let known = Known::default();
                Self::Truth { key: it.key.clone(), value: it.value, invert: it.invert_match, known }
            }
            Kind::And => Self::all(&policy.and.as_ref().ok_or_else(missing)?.and_sub_policy, meters)?,
            Kind::Drop => Self::all(&policy.drop.as_ref().ok_or_else(missing)?.drop_sub_policy, meters)?,
            Kind::Not => {
                let it = policy.not.as_ref().ok_or_else(missing)?;
                Self::Not(Box::new(Rule::new(&it.not_sub_policy, meters)?))
            }
            Kind::Composite => {
                Self::Composite(Composite::new(policy.composite.as_ref().ok_or_else(missing)?, meters)?)
            }
            Kind::OttlCondition => return Err(Failure::new("`ottl_condition` is not supported yet")),
            #[cfg(test)]
            Kind::Panics => Self::Panics,
        })
    }

    fn all(policies: &[settings::Policy], meters: &mut Turn<'_>) -> Result<Self, Failure> {
        Ok(Self::All(policies.iter().map(|policy| Rule::new(policy, meters)).collect::<Result<_, _>>()?))
    }

    fn wants_flags(&self) -> bool {
        match self {
            Self::Seen(bits) => bits & SAMPLED_FLAG != 0,
            Self::All(rules) => rules.iter().any(Self::wants_flags),
            Self::Not(rule) => rule.wants_flags(),
            Self::Composite(composite) => composite.parts.iter().any(Self::wants_flags),
            _ => false,
        }
    }

    /// Forgets what it knows of resources.
    fn forget(&mut self) {
        match self {
            Self::Numeric { known, .. } | Self::Text { known, .. } | Self::Truth { known, .. } => {
                known.clear()
            }
            Self::All(rules) => rules.iter_mut().for_each(Self::forget),
            Self::Not(rule) => rule.forget(),
            Self::Composite(composite) => composite.parts.iter_mut().for_each(Self::forget),
            _ => {}
        }
    }

    fn samples(&mut self, facts: &Facts, spans: &dyn Spans, now: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Latency { over, up_to } => {
                let took = facts.end.saturating_sub(facts.start) / 1_000_000;
                took > *over && up_to.is_none_or(|most| took <= most)
            }
            Self::Numeric { key, least, most, invert, known } => {
                let fits =
                    |number: i64| least.is_none_or(|it| number >= it) && most.is_none_or(|it| number <= it);
                *invert
                    != attribute(spans, key, known, |value| match value {
                        Value::Int(number) => fits(number),
                        _ => false,
                    })
            }
            Self::Probabilistic { state, threshold } => fnv(*state, &facts.id) <= *threshold,
            Self::Seen(bits) => facts.seen & *bits != 0,
            Self::Text { key, texts, invert, known } => {
                *invert
                    != attribute(spans, key, known, |value| match value {
                        Value::Str(text) => texts.match_text(text),
                        _ => false,
                    })
            }
            Self::TraceState { key, values } => spans.any(&mut |span, _| {
                member(span.trace_state(), key).is_some_and(|value| values.iter().any(|it| it == value))
            }),
            Self::Spans(meter) => meter.lock().take(0, facts.spans.into(), now),
            Self::Bytes(meter) => meter.lock().take(0, facts.bytes, now),
            Self::Count { least, most } => {
                let spans = u64::from(facts.spans);
                spans >= *least && most.is_none_or(|most| spans <= most)
            }
            Self::Truth { key, value, invert, known } => {
                *invert != attribute(spans, key, known, |it| matches!(it, Value::Bool(it) if it == *value))
            }
            Self::All(rules) => rules.iter_mut().all(|rule| rule.samples(facts, spans, now)),
            Self::Not(rule) => !rule.samples(facts, spans, now),
            Self::Composite(composite) => composite.samples(facts, spans, now),
            #[cfg(test)]
            Self::Panics => match attribute(spans, "panics", &mut Known::default(), |_| true) {
                true => panic!("as it was told"),
                false => false,
            },
        }
    }
}

/// 0 stands for no bound.
fn set(bound: u64) -> Option<u64> {
    (bound > 0).then_some(bound)
}

/// Whether an attribute of this key of any resource or span is so.
fn attribute(
    spans: &dyn Spans,
    key: &str,
    Known(known): &mut Known,
    mut is: impl FnMut(Value<'_>) -> bool,
) -> bool {
    let mut found = |attributes: Attributes<'_>| attributes.find(key).is_some_and(|value| is(value.value()));
    spans.any(&mut |span, resource| {
        let of_resource =
            resource.is_some_and(|(name, it)| *known.entry(name).or_insert_with(|| found(it.attributes())));
        of_resource || found(span.attributes())
    })
}

/// The value of a member of a `tracestate` (W3C Trace Context, 3.3.1).
fn member<'s>(state: &'s str, key: &str) -> Option<&'s str> {
    let members = state.split(',').filter_map(|member| member.trim_matches([' ', '\t']).split_once('='));
    members.into_iter().find_map(|(name, value)| (name == key).then_some(value))
}

// === impl Known ===

impl Known {
    /// How many there is room for in any case.
    const USUAL: usize = 1 << 12;

    fn clear(&mut self) {
        self.0.clear();
        self.0.shrink_to(Self::USUAL);
    }
}

// === impl Texts ===

impl Texts {
    fn new(settings: &settings::StringAttribute) -> Result<Self, Failure> {
        if !settings.enabled_regex_matching {
            return Ok(Self::These(settings.values.clone()));
        }
        let set = RegexSet::new(&settings.values).map_err(|error| Failure::from_error(&error))?;
        let most = if settings.cache_max_size == 0 { 128 } else { settings.cache_max_size };
        Ok(Self::Expressions { set, known: HashMap::new(), most })
    }

    fn match_text(&mut self, text: &str) -> bool {
        match self {
            Self::These(texts) => texts.iter().any(|it| it == text),
            Self::Expressions { set, known, most } => match known.get(text) {
                Some(matches) => *matches,
                None if text.len() > LONG => set.is_match(text),
                None => {
                    let matches = set.is_match(text);
                    // Which is there is of no account as long as those that come often soon are.
                    if known.len() >= *most {
                        known.clear();
                    }
                    known.insert(text.into(), matches);
                    matches
                }
            },
        }
    }
}

// === impl Composite ===

impl Composite {
    fn new(settings: &settings::Composite, meters: &mut Turn<'_>) -> Result<Self, Failure> {
        let most = settings.max_total_spans_per_second;
        let policies = &settings.composite_sub_policy;
        let share = |policy: &&settings::Policy| {
            let given = settings.rate_allocation.iter().find(|it| it.policy == policy.name && it.percent > 0);
            given.map_or(most / policies.len().max(1) as u64, |it| most.saturating_mul(it.percent) / 100)
        };
        let ordered =
            settings.policy_order.iter().filter_map(|name| policies.iter().find(|it| it.name == *name));
        let rest = policies.iter().filter(|it| !settings.policy_order.contains(&it.name));
        let ordered: Vec<&settings::Policy> = ordered.chain(rest).collect();
        let meter = meters.next(|| Meter::window(most, ordered.iter().map(share)));
        let parts = ordered.into_iter().map(|policy| Rule::new(policy, meters));
        Ok(Self { parts: parts.collect::<Result<_, Failure>>()?, meter })
    }

    fn samples(&mut self, facts: &Facts, spans: &dyn Spans, now: u64) -> bool {
        let part = self.parts.iter_mut().position(|rule| rule.samples(facts, spans, now));
        part.is_some_and(|part| self.meter.lock().take(part, facts.spans.into(), now))
    }
}

/// Longer texts are matched each time: who sends would choose how much is kept.
const LONG: usize = 256;

/// otelcol's salt where none is set.
const DEFAULT_SALT: &str = "default-hash-seed";

pub(super) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a of 64 bits, going on from `state`.
pub(super) fn fnv(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// The part `ratio` of `u64::MAX` as the Go collector has it: multiplied as floats of 64 bits, cut to a whole number.
pub(super) fn threshold(ratio: f64) -> u64 {
    if ratio.is_nan() || ratio <= 0.0 {
        return 0;
    }
    if ratio >= 1.0 {
        return u64::MAX;
    }
    let bits = ratio.to_bits();
    let (exponent, fraction) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
    let (mantissa, exponent) = match exponent {
        0 => (fraction, -1074),
        exponent => (fraction | 1 << 52, exponent - 1075),
    };
    let product = u128::from(mantissa) * u128::from(u64::MAX);
    let excess = (64 - product.leading_zeros() as i32).max(0);
    // Half to even.
    let half = if excess == 0 { 0 } else { 1_u128 << (excess - 1) };
    let (mut rounded, rest) = (product >> excess, product & ((half << 1).max(1) - 1));
    if excess > 0 && (rest > half || (rest == half && rounded & 1 == 1)) {
        rounded += 1;
    }
    let shift = exponent + excess;
    if shift <= -128 { 0 } else { u64::try_from(rounded >> -shift.min(0)).unwrap_or(u64::MAX) }
}
