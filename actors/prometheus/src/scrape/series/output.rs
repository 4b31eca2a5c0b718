//! A scrape as an OTLP request, written once all sizes are known.

use watershed_stage::delivery::Permit;
use watershed_telemetry::wire::{self, WireType};

use super::point::Exemplar;
use super::scrape::Scrape;
use super::shape::ucum;
use super::{Counts, Declared, Group, Kind, Metric, Series};
use crate::scrape::error::Failed;
use crate::scrape::labels::{Labels, NAME};

/// The scope of what names none.
const SCOPE: &str = "watershed/prometheus";

/// What the label of a scope begins with.
const SCOPE_LABEL: &str = "otel_scope_";

/// A scrape, ready to be sent.
#[derive(Debug)]
pub(crate) struct Request {
    /// An `ExportMetricsServiceRequest`.
    pub(crate) bytes: Vec<u8>,
    pub(crate) counts: Counts,
}

/// Memory that is asked for before it is taken.
pub(super) struct Room<'p> {
    permit: &'p Permit,
    /// The length of the body.
    body: u64,
    total: u64,
}

/// How a metric is written.
struct Head {
    metric: u32,
    /// Whether its description is.
    described: bool,
    /// With all of it, in bytes.
    length: usize,
}

/// How often families are described.
struct Copies {
    /// Families that are already.
    seen: Vec<bool>,
    /// Bytes for doing it again.
    left: u64,
    scratch: Vec<u8>,
}

/// Copies of descriptions may take so many bytes more than the body that they came in.
const COPIES: u64 = 1 << 20;

// === impl Room ===

impl<'p> Room<'p> {
    pub(super) fn new(permit: &'p Permit, body: u64) -> Self {
        Self { permit, body, total: body }
    }

    /// Makes place for `more` elements.
    #[inline]
    pub(super) fn reserve<T>(&mut self, vec: &mut Vec<T>, more: usize) -> Result<(), Failed> {
        if vec.capacity() - vec.len() >= more { Ok(()) } else { self.grow(vec, more) }
    }

    #[cold]
    fn grow<T>(&mut self, vec: &mut Vec<T>, more: usize) -> Result<(), Failed> {
        let capacity = (vec.len() + more).max(2 * vec.capacity());
        let total = self.total + ((capacity - vec.capacity()) * size_of::<T>()) as u64;
        self.permit.try_cover(total)?;
        self.total = total;
        vec.reserve_exact(capacity - vec.len());
        Ok(())
    }
}

// === impl Scrape ===

impl Scrape<'_> {
    /// Takes back all that was read: the scrape failed, and its target exposes nothing.
    pub(crate) fn fail(&mut self) {
        let series = &mut *self.series;
        let scrape = series.scrape;
        for point in series.points.iter_mut().filter(|point| point.seen == scrape) {
            point.seen = if point.was { scrape - 1 } else { 0 };
        }
        series.entries.iter_mut().filter(|entry| entry.seen == scrape).for_each(|entry| entry.seen = 0);
        series.groups.iter_mut().for_each(|group| group.info_in = 0);
        for id in self.active.drain(..) {
            if let Some(metric) = series.metrics.get_mut(id as usize) {
                metric.points.clear();
                metric.active_in = 0;
            }
        }
        self.tallied.clear();
        self.counts = Counts::default();
    }

    /// What was counted so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// The request: what was read, and a marker for each point of the scrape before that was not. `scheme` is that of
    /// the target's URL.
    pub(crate) fn finish(mut self, scheme: &str) -> Result<Request, Failed> {
        self.write_tallied()?;
        let last = self.series.scrape - 1;
        for id in 0..self.series.points.len() as u32 {
            let gone = self.series.points.get(id as usize);
            if gone.is_some_and(|point| point.seen == last && point.tracked) {
                self.write_marker(id)?;
            }
        }
        Ok(Request { bytes: self.encode(scheme)?, counts: self.counts })
    }

    fn encode(&mut self, scheme: &str) -> Result<Vec<u8>, Failed> {
        let series = &*self.series;
        let group_of = |metric: u32| {
            let group = series.metrics.get(metric as usize)?.group;
            series.groups.get(group as usize).map(|known| (&known.job, &known.instance, group))
        };
        self.active.sort_by(|one, other| group_of(*one).cmp(&group_of(*other)));
        let mut copies = Copies::new(series, self.room.body);
        let heads: Vec<Head> = self.active.iter().filter_map(|id| series.head(*id, &mut copies)).collect();
        let mut bytes = Vec::new();
        let total: usize = heads.iter().map(|head| head.length + 16).sum();
        self.room.reserve(&mut bytes, total + 1024)?;
        let same_resource = |one: &Head, other: &Head| {
            let key = |head: &Head| group_of(head.metric).map(|(job, instance, _)| (job, instance));
            key(one) == key(other)
        };
        let same_group = |one: &Head, other: &Head| group_of(one.metric) == group_of(other.metric);
        let of_scope = |heads: &[Head]| {
            let group = heads.first().and_then(|head| series.group(head.metric));
            let metrics = heads.iter().map(|head| field_length(head.length)).sum::<usize>();
            group.map_or(0, Group::scope_length) + metrics
        };
        for of_resource in heads.chunk_by(same_resource) {
            let Some(resource) = of_resource.first().and_then(|head| series.group(head.metric)) else {
                continue;
            };
            let resource = series.resource(resource, scheme);
            let scopes = || of_resource.chunk_by(same_group);
            let length = field_length(resource.len())
                + scopes().map(|heads| field_length(of_scope(heads))).sum::<usize>();
            self.room.reserve(&mut bytes, field_length(length))?;
            put_head(&mut bytes, 1, length);
            wire::put_bytes_field(&mut bytes, 1, &resource);
            for heads in scopes() {
                put_head(&mut bytes, 2, of_scope(heads));
                if let Some(group) = heads.first().and_then(|head| series.group(head.metric)) {
                    group.put_scope(&mut bytes);
                }
                heads.iter().for_each(|head| series.put_metric(&mut bytes, head));
            }
        }
        Ok(bytes)
    }
}

impl Drop for Scrape<'_> {
    /// However a scrape ends, nothing of it is left for the next.
    fn drop(&mut self) {
        for id in &self.active {
            if let Some(metric) = self.series.metrics.get_mut(*id as usize) {
                metric.points = Vec::new();
            }
        }
    }
}

// === impl Series ===

impl Series {
    fn group(&self, metric: u32) -> Option<&Group> {
        self.groups.get(self.metrics.get(metric as usize)?.group as usize)
    }

    /// How a metric is written, if it has any points.
    fn head(&self, id: u32, copies: &mut Copies) -> Option<Head> {
        let metric = self.metrics.get(id as usize).filter(|metric| !metric.points.is_empty())?;
        let help = &self.families.get(metric.family as usize)?.family.help;
        let described = !help.is_empty() && copies.allow(metric.family, help.len());
        copies.scratch.clear();
        self.put_named(&mut copies.scratch, metric, false);
        let (_, tail) = metric.kind.data();
        let length = copies.scratch.len()
            + if described { field_length(help.len()) } else { 0 }
            + field_length(metric.points.len() + tail.len());
        Some(Head { metric: id, described, length })
    }

    /// A metric but for its points.
    fn put_named(&self, bytes: &mut Vec<u8>, metric: &Metric, described: bool) {
        let Some(Declared { family, .. }) = self.families.get(metric.family as usize) else { return };
        wire::put_bytes_field(bytes, 1, metric.name.as_bytes());
        if described {
            wire::put_bytes_field(bytes, 2, family.help.as_bytes());
        }
        if !family.unit.is_empty() {
            wire::put_bytes_field(bytes, 3, ucum(&family.unit).as_bytes());
        }
        // Specification: the type MUST be kept under this name.
        put_attribute(bytes, 12, "prometheus.type", family.kind.name());
    }

    fn put_metric(&self, bytes: &mut Vec<u8>, head: &Head) {
        let Some(metric) = self.metrics.get(head.metric as usize) else { return };
        put_head(bytes, 2, head.length);
        self.put_named(bytes, metric, head.described);
        let (field, tail) = metric.kind.data();
        put_head(bytes, field, metric.points.len() + tail.len());
        bytes.extend_from_slice(&metric.points);
        bytes.extend_from_slice(tail);
    }

    /// The `Resource` of a group (specification, "Resource Attributes").
    fn resource(&self, group: &Group, scheme: &str) -> Vec<u8> {
        let mut resource = Vec::new();
        let (address, port) = match group.instance.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
            _ => (&*group.instance, ""),
        };
        for (key, value) in [
            ("service.name", &*group.job),
            ("service.instance.id", &*group.instance),
            ("server.address", address.trim_start_matches('[').trim_end_matches(']')),
            ("server.port", port),
            ("url.scheme", scheme),
        ] {
            if !value.is_empty() {
                put_attribute(&mut resource, 1, key, value);
            }
        }
        let plain = Group { job: group.job.clone(), instance: group.instance.clone(), ..Group::default() };
        let parts = plain.parts();
        let is_it = |id| self.groups.get(id as usize).is_some_and(|known| known.parts() == parts);
        let info = self.by_scope.find(self.hash(&parts), is_it).and_then(|id| self.groups.get(id as usize));
        if let Some(info) = info.filter(|info| info.info_in == self.scrape) {
            resource.extend_from_slice(self.slice(info.info));
        }
        resource
    }
}

// === impl Copies ===

impl Copies {
    fn new(series: &Series, body: u64) -> Self {
        Self { seen: vec![false; series.families.len()], left: body + COPIES, scratch: Vec::new() }
    }

    /// Whether a family is described once more. What is in one body may be a description and thousands of scopes of it.
    fn allow(&mut self, family: u32, length: usize) -> bool {
        let Some(seen) = self.seen.get_mut(family as usize) else { return false };
        if std::mem::replace(seen, true) {
            match self.left.checked_sub(length as u64) {
                Some(left) => self.left = left,
                None => return false,
            }
        }
        true
    }
}

// === impl Kind ===

impl Kind {
    /// The number of the field that holds a metric's points, and what follows them.
    fn data(self) -> (u32, &'static [u8]) {
        match self {
            Self::Gauge => (5, &[]),
            // Cumulative, and growing.
            Self::Counter => (7, &[0x10, 2, 0x18, 1]),
            Self::State => (7, &[0x10, 2]),
            Self::Histogram => (9, &[0x10, 2]),
            Self::Exponential => (10, &[0x10, 2]),
            Self::Summary => (11, &[]),
        }
    }
}

// === impl Group ===

impl Group {
    /// The scope and the resource that labels name.
    pub(super) fn new(labels: &Labels) -> Self {
        let mut scope = Vec::new();
        for (field, label) in [(1, "otel_scope_name"), (2, "otel_scope_version")] {
            let value = labels.get(label);
            if !value.is_empty() {
                wire::put_bytes_field(&mut scope, field, value.as_bytes());
            }
        }
        for (name, value) in labels.iter() {
            match name.strip_prefix(SCOPE_LABEL) {
                None | Some("name" | "version" | "schema_url") => {}
                Some(name) => put_attribute(&mut scope, 3, name, value),
            }
        }
        Self {
            job: labels.get("job").into(),
            instance: labels.get("instance").into(),
            scope,
            schema_url: labels.get("otel_scope_schema_url").into(),
            ..Self::default()
        }
    }

    /// What tells it from others.
    pub(super) fn parts(&self) -> [&[u8]; 4] {
        [self.job.as_bytes(), self.instance.as_bytes(), &self.scope, self.schema_url.as_bytes()]
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.parts().iter().map(|part| part.len()).sum::<usize>() + 2 * size_of::<Self>()) as u64
    }

    /// What a scope has before its metrics.
    fn put_scope(&self, bytes: &mut Vec<u8>) {
        if self.scope.is_empty() {
            let mut scope = Vec::with_capacity(48);
            wire::put_bytes_field(&mut scope, 1, SCOPE.as_bytes());
            wire::put_bytes_field(&mut scope, 2, env!("CARGO_PKG_VERSION").as_bytes());
            wire::put_bytes_field(bytes, 1, &scope);
        } else {
            wire::put_bytes_field(bytes, 1, &self.scope);
        }
        if !self.schema_url.is_empty() {
            wire::put_bytes_field(bytes, 3, self.schema_url.as_bytes());
        }
    }

    /// The length of that.
    fn scope_length(&self) -> usize {
        let scope = match self.scope.len() {
            0 => field_length(SCOPE.len()) + field_length(env!("CARGO_PKG_VERSION").len()),
            length => length,
        };
        let schema_url = self.schema_url.len();
        field_length(scope) + if schema_url == 0 { 0 } else { field_length(schema_url) }
    }
}

/// Labels as fields of number `field`, but for those that have a place elsewhere: `but`, the name, and what names
/// resource and scope.
pub(super) fn attributes(field: u32, labels: &Labels, but: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in labels.iter() {
        let elsewhere = matches!(name, NAME | "job" | "instance") || name.starts_with(SCOPE_LABEL);
        if !elsewhere && Some(name) != but {
            put_attribute(&mut bytes, field, name, value);
        }
    }
    bytes
}

/// An exemplar as a field of number `field`.
pub(super) fn exemplar_field(field: u32, exemplar: &Exemplar<'_>, time: u64) -> Vec<u8> {
    let mut inside = Vec::new();
    wire::put_fixed64_field(&mut inside, 2, exemplar.time.unwrap_or(time));
    wire::put_fixed64_field(&mut inside, 3, exemplar.value.to_bits());
    for (name, value) in &exemplar.labels {
        let id = match &**name {
            "span_id" => hex::<8>(value).map(|id| (4, id.to_vec())),
            "trace_id" => hex::<16>(value).map(|id| (5, id.to_vec())),
            _ => None,
        };
        match id {
            Some((field, id)) => wire::put_bytes_field(&mut inside, field, &id),
            None => put_attribute(&mut inside, 7, name, value),
        }
    }
    let mut bytes = Vec::with_capacity(inside.len() + 4);
    wire::put_bytes_field(&mut bytes, field, &inside);
    bytes
}

fn hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut id = [0; BYTES];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

/// A `KeyValue` of text.
fn put_attribute(bytes: &mut Vec<u8>, field: u32, key: &str, value: &str) {
    let any = field_length(value.len());
    put_head(bytes, field, field_length(key.len()) + field_length(any));
    wire::put_bytes_field(bytes, 1, key.as_bytes());
    put_head(bytes, 2, any);
    wire::put_bytes_field(bytes, 1, value.as_bytes());
}

fn put_head(bytes: &mut Vec<u8>, field: u32, length: usize) {
    wire::put_tag(bytes, field, WireType::Bytes);
    wire::put_varint(bytes, length as u64);
}

/// The length of a field of a number below 16 that holds `length` bytes.
fn field_length(length: usize) -> usize {
    1 + varint_length(length as u64) + length
}

fn varint_length(value: u64) -> usize {
    (63 - (value | 1).leading_zeros() as usize) / 7 + 1
}
