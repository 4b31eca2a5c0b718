//! One scrape, sample by sample.

use std::borrow::Cow;

use watershed_stage::delivery::{Exhausted, Permit};

use super::output::{Room, attributes};
use super::point::{Exemplar, Exemplars, Native};
use super::shape::Role;
use super::{
    DROPPED, Declared, Entry, Family, Group, Kind, Metric, NONE, OWN, Point, SERIES, Series, Type, UNMAPPED,
};
use crate::scrape::error::{Failed, Reason};
use crate::scrape::labels::{Labels, NAME};
use crate::scrape::parse::number;
use crate::scrape::policy::Policy;

/// A scrape that is being read. What it found becomes a request with [`Scrape::finish`], or is taken back with
/// [`Scrape::fail`].
pub(crate) struct Scrape<'s> {
    pub(super) series: &'s mut Series,
    policy: &'s Policy,
    /// The labels of the target.
    target: &'s Labels,
    /// When it began, in nanoseconds since 1970.
    pub(super) time: u64,
    pub(super) room: Room<'s>,
    /// What the exposition declared last.
    family: Family,
    /// Its place, once a sample was looked at under it.
    family_id: Option<u32>,
    /// The series that is likely next, and the family.
    next: u32,
    next_family: u32,
    /// Metrics that have points, in the order in which they came.
    pub(super) active: Vec<u32>,
    /// Points of several series.
    pub(super) tallied: Vec<u32>,
    pub(super) counts: Counts,
    /// Bytes of text that were made of a shorter form, and how many may be.
    made: u64,
    most: u64,
}

/// What was counted in a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Samples that were read.
    pub(crate) samples: u64,
    /// Those that relabelling left.
    pub(crate) kept: u64,
    /// Those of series that the scrape before did not have.
    pub(crate) added: u64,
    /// Those left out because the same scrape had their series already.
    pub(crate) duplicates: u64,
    /// Those that OTLP has no place for.
    pub(crate) unmapped: u64,
    /// Exemplars left out: they are too long, or too many.
    pub(crate) exemplars: u64,
    /// Points that came out, markers of what has gone among them.
    pub(crate) points: u64,
}

// === impl Scrape ===

impl<'s> Scrape<'s> {
    /// Begins a scrape at `time`. What comes of it is charged to `permit`, which covers its `body`, of so many bytes.
    pub(crate) fn begin(
        series: &'s mut Series,
        policy: &'s Policy,
        target: &'s Labels,
        time: u64,
        permit: &'s Permit,
        body: u64,
    ) -> Self {
        series.scrape += 1;
        Self {
            series,
            policy,
            target,
            time,
            room: Room::new(permit, body),
            family: Family::default(),
            family_id: None,
            next: 0,
            next_family: 1,
            active: Vec::new(),
            tallied: Vec::new(),
            counts: Counts::default(),
            made: 0,
            most: match policy.body_size_limit {
                0 => permit.budget().most(),
                limit => limit,
            },
        }
    }

    /// Bytes of text that were made so far: a measure of work that the length of the body is not.
    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// Makes so many bytes of something shorter, if a body of text could be so long: what does not repeat its labels
    /// must not be a way around that.
    pub(super) fn make(&mut self, bytes: usize) -> Result<(), Failed> {
        self.made += bytes as u64;
        if self.made > self.most {
            let message = format!("as text it would be longer than {} bytes: see body_size_limit", self.most);
            return Err(Failed::new(Reason::Limit, message));
        }
        Ok(())
    }

    /// Declares the family that the next samples belong to. What is said of the same one again adds to it.
    pub(crate) fn declare(&mut self, name: &[u8]) -> &mut Family {
        self.family_id = None;
        if self.family.name != name {
            self.family.name.clear();
            self.family.name.extend_from_slice(name);
            self.family.kind = Type::Unknown;
            self.family.help.clear();
            self.family.unit.clear();
        }
        &mut self.family
    }

    /// The series that is likely next, if the line begins with its text: the series and the length of that.
    #[inline]
    pub(crate) fn expect(&mut self, line: &[u8]) -> Result<Option<(u32, usize)>, Failed> {
        let Some(entry) = self.series.entries.get(self.next as usize) else { return Ok(None) };
        let text = self.series.slice(entry.text);
        let Some(rest) = line.strip_prefix(text) else { return Ok(None) };
        // A name goes on, or its labels follow after a blank.
        let ends = matches!(rest, [b' ' | b'\t', next, ..] if !matches!(next, b' ' | b'\t' | b'{'))
            && !text.is_empty();
        let (id, length) = (self.next, text.len());
        Ok((ends && self.is_current(id)?).then_some((id, length)))
    }

    /// The series of that text, if there was one that is still what it was.
    pub(crate) fn find(&mut self, parts: &[&[u8]]) -> Result<Option<u32>, Failed> {
        let next = self.series.entries.get(self.next as usize);
        let id = match next.filter(|entry| super::is_joined(self.series.slice(entry.text), parts)) {
            Some(_) => self.next,
            None => match self.series.find(parts) {
                Some(id) => id,
                None => return Ok(None),
            },
        };
        Ok(self.is_current(id)?.then_some(id))
    }

    /// The same, of a text that is not the body's.
    pub(crate) fn look(&mut self, parts: &[&[u8]]) -> Result<Option<u32>, Failed> {
        self.make(parts.iter().map(|part| part.len()).sum())?;
        self.find(parts)
    }

    /// Whether the series is still declared as it was when it was first seen.
    #[inline]
    fn is_current(&mut self, id: u32) -> Result<bool, Failed> {
        let family_id = match self.family_id {
            Some(id) => id,
            None => self.resolve()?,
        };
        let Some(entry) = self.series.entries.get(id as usize) else { return Ok(false) };
        if entry.family == 0 {
            // Nothing had declared it.
            let text = self.series.slice(entry.text);
            return Ok(family_id == 0 || !text.starts_with(&self.family.name));
        }
        let family = self.series.families.get(entry.family as usize);
        Ok(family.is_some_and(|family| family.seen == self.series.scrape))
    }

    /// The place of the family that was declared last.
    fn resolve(&mut self) -> Result<u32, Failed> {
        let id = if self.family.name.is_empty() { 0 } else { self.intern_family()? };
        self.next_family = id + 1;
        self.family_id = Some(id);
        Ok(id)
    }

    fn intern_family(&mut self) -> Result<u32, Failed> {
        let Self { series, family, next_family, .. } = self;
        let is_it = |id: u32| {
            let known = series.families.get(id as usize).map(|known| &known.family);
            known.is_some_and(|known| known.name == family.name && known.kind == family.kind)
        };
        let id = if is_it(*next_family) {
            *next_family
        } else {
            let hash = series.hash(&[&family.name, &[family.kind as u8]]);
            match series.by_family.find(hash, is_it) {
                Some(id) => id,
                None => {
                    series.reserve(family.bytes())?;
                    let id = series.families.len() as u32;
                    series.by_family.insert(hash, id);
                    series.families.push(Declared { family: family.clone(), seen: 0 });
                    id
                }
            }
        };
        if series.families.get(id as usize).is_some_and(|known| known.family != *family) {
            series.reserve(family.bytes())?;
        }
        if let Some(known) = series.families.get_mut(id as usize) {
            known.seen = series.scrape;
            if known.family != *family {
                series.held = series.held.saturating_sub(known.family.bytes());
                known.family = family.clone();
            }
        }
        Ok(id)
    }

    /// Makes a series of that text known. `labels` are as they were scraped, the name among them.
    pub(crate) fn add(&mut self, parts: &[&[u8]], labels: Labels, native: bool) -> Result<u32, Failed> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let known = self.series.find(parts);
        if known.is_none() {
            self.series.reserve(length as u64 + SERIES)?;
        }
        let (family, role) = self.part(labels.get(NAME).as_bytes(), native)?;
        let kind = self.series.families.get(family as usize).map_or(Type::Unknown, |known| known.family.kind);
        let (mut point, mut bound, mut as_role) = (UNMAPPED, 0.0, Role::Number);
        match (role, self.relabel(labels)?) {
            (_, None) => point = DROPPED,
            (None, Some(_)) => {}
            (Some(role), Some(labels)) => {
                if let Some(found) = self.place(family, kind, role, &labels)? {
                    (point, bound, as_role) = found;
                }
            }
        }
        let series = &mut *self.series;
        let entry = |text| Entry { text, point, family, role: as_role, bound, seen: 0 };
        // A series whose declaration has changed takes the place of the one before.
        if let Some(id) = known {
            if let Some(old) = series.entries.get_mut(id as usize) {
                *old = Entry { seen: old.seen, ..entry(old.text) };
            }
            return Ok(id);
        }
        let text = Series::push(&mut series.arena, parts);
        Ok(series.insert(parts, entry(text)))
    }

    /// The family that a sample of this name is of, and the part it plays there.
    fn part(&mut self, name: &[u8], native: bool) -> Result<(u32, Option<Role>), Failed> {
        let current = match self.family_id {
            Some(id) => id,
            None => self.resolve()?,
        };
        if native {
            return Ok((current, (self.family.kind == Type::Histogram).then_some(Role::Native)));
        }
        let suffix = name.strip_prefix(self.family.name.as_slice()).filter(|_| current != 0);
        if let Some(role) = suffix.and_then(|suffix| self.family.kind.role(suffix)) {
            return Ok((current, role));
        }
        // Text 0.0.4 has no rule that would keep a family together.
        let suffixes: [&[u8]; 8] =
            [b"", b"_total", b"_bucket", b"_sum", b"_count", b"_created", b"_info", b"_gcount"];
        let types = [Type::Counter, Type::Histogram, Type::Summary, Type::Gauge, Type::Info, Type::StateSet];
        for suffix in suffixes {
            let Some(base) = name.strip_suffix(suffix) else { continue };
            for kind in types {
                let Some(role) = kind.role(suffix) else { continue };
                let series = &*self.series;
                let found = series.by_family.find(series.hash(&[base, &[kind as u8]]), |id| {
                    series.families.get(id as usize).is_some_and(|known| {
                        known.seen == series.scrape && known.family.name == base && known.family.kind == kind
                    })
                });
                if let Some(id) = found {
                    return Ok((id, role));
                }
            }
        }
        Ok((0, Some(Role::Number)))
    }

    /// The labels as the job wants them: those of the target added, and relabelled. `None` if it does not want them.
    fn relabel(&self, mut labels: Labels) -> Result<Option<Labels>, Failed> {
        let mut conflicts: Vec<(&str, String)> = Vec::new();
        for (name, value) in self.target.iter() {
            if !self.policy.honor_labels {
                let scraped = labels.get(name);
                if !scraped.is_empty() {
                    conflicts.push((name, scraped.to_owned()));
                }
                labels.set(name, value);
            } else if !labels.contains(name) {
                labels.set(name, value);
            }
        }
        labels.settle();
        // As Prometheus has it: the shortest name has the first choice.
        conflicts.sort_by_key(|(name, _)| name.len());
        for (name, scraped) in conflicts {
            let mut exported = format!("exported_{name}");
            while labels.contains(&exported) {
                exported.insert_str(0, "exported_");
            }
            labels.set(&exported, scraped);
        }
        if !self.policy.metric_relabel.iter().all(|rule| rule.apply(&mut labels)) {
            return Ok(None);
        }
        if labels.get(NAME).is_empty() {
            return Err(Failed::parse("a series is left without a name: see metric_relabel_configs"));
        }
        self.policy.check(&labels)?;
        Ok(Some(labels))
    }

    /// The point of a series, its bound and its part; none if OTLP has no place for it.
    fn place(
        &mut self,
        family: u32,
        kind: Type,
        role: Role,
        labels: &Labels,
    ) -> Result<Option<(u32, f64, Role)>, Failed> {
        let full = labels.get(NAME);
        let bound = match role.bound().map(|label| labels.get(label)) {
            None => 0.0,
            Some(text) => match number::float(text.as_bytes()) {
                Some(bound) => bound,
                None => return Ok(None),
            },
        };
        // A series that was renamed out of its family is a number of its own.
        let (name, role) = match full.strip_suffix(role.suffix()) {
            Some("") | None => (full, Role::Number),
            Some(name) => (name, role),
        };
        let kind = match role {
            Role::Number if full == "target_info" => return self.target_info(labels).map(Some),
            Role::Number => kind.number(),
            Role::Native => Kind::Exponential,
            _ => match kind {
                Type::Summary => Kind::Summary,
                Type::Counter => Kind::Counter,
                _ => Kind::Histogram,
            },
        };
        let name = match (role, kind) {
            (Role::Created, Kind::Counter) => Cow::Owned(format!("{name}_total")),
            _ => Cow::Borrowed(name),
        };
        let group = self.group(labels)?;
        let metric = self.metric(group, &name, kind, family)?;
        let tag = match kind {
            Kind::Histogram => 9,
            Kind::Exponential => 1,
            Kind::Gauge | Kind::Counter | Kind::State | Kind::Summary => 7,
        };
        let encoded = attributes(tag, labels, role.bound());
        Ok(Some((self.point(metric, kind, &encoded)?, bound, role)))
    }

    /// `target_info` describes its resource (specification, "Resource Attributes").
    fn target_info(&mut self, labels: &Labels) -> Result<(u32, f64, Role), Failed> {
        let group = self.group(
            &[("job", labels.get("job")), ("instance", labels.get("instance"))].into_iter().collect(),
        )?;
        let encoded = attributes(1, labels, None);
        let metric = self.metric(group, "target_info", Kind::State, 0)?;
        Ok((self.point(metric, Kind::State, &encoded)?, 0.0, Role::TargetInfo))
    }

    fn group(&mut self, labels: &Labels) -> Result<u32, Failed> {
        let group = Group::new(labels);
        let series = &mut *self.series;
        let parts = group.parts();
        let hash = series.hash(&parts);
        let same = |id| series.groups.get(id as usize).is_some_and(|known| known.parts() == parts);
        if let Some(id) = series.by_scope.find(hash, same) {
            return Ok(id);
        }
        series.reserve(group.bytes())?;
        let id = series.groups.len() as u32;
        series.groups.push(group);
        series.by_scope.insert(hash, id);
        Ok(id)
    }

    fn metric(&mut self, group: u32, name: &str, kind: Kind, family: u32) -> Result<u32, Failed> {
        let series = &mut *self.series;
        let hash = series.hash(&[&group.to_le_bytes(), name.as_bytes(), &[kind as u8]]);
        let same = |id| {
            let known = series.metrics.get(id as usize);
            known.is_some_and(|known| (known.group, &*known.name, known.kind) == (group, name, kind))
        };
        if let Some(id) = series.by_name.find(hash, same) {
            if let Some(known) = series.metrics.get_mut(id as usize) {
                known.family = family;
            }
            return Ok(id);
        }
        series.reserve((name.len() + 2 * size_of::<Metric>()) as u64)?;
        let id = series.metrics.len() as u32;
        series.metrics.push(Metric {
            group,
            name: name.into(),
            kind,
            family,
            points: Vec::new(),
            active_in: 0,
        });
        series.by_name.insert(hash, id);
        Ok(id)
    }

    fn point(&mut self, metric: u32, kind: Kind, attributes: &[u8]) -> Result<u32, Failed> {
        let series = &mut *self.series;
        let hash = series.hash(&[&metric.to_le_bytes(), attributes]);
        let same = |id| {
            let known = series.points.get(id as usize);
            known.is_some_and(|known| known.metric == metric && series.slice(known.attributes) == attributes)
        };
        if let Some(id) = series.by_labels.find(hash, same) {
            return Ok(id);
        }
        series.reserve(attributes.len() as u64)?;
        let tally = match kind {
            Kind::Histogram | Kind::Summary => {
                series.reserve(super::Tally::BYTES)?;
                series.tallies.push(super::Tally::default());
                series.tallies.len() as u32 - 1
            }
            _ => NONE,
        };
        let id = series.points.len() as u32;
        let attributes = Series::push(&mut series.arena, &[attributes]);
        series.points.push(Point::new(metric, attributes, tally));
        series.by_labels.insert(hash, id);
        Ok(id)
    }

    /// Takes a sample of a series: its value, its time if it has one, and what else is known of it.
    #[inline]
    pub(crate) fn number(
        &mut self,
        id: u32,
        value: f64,
        time: Option<u64>,
        created: Option<u64>,
        exemplar: Option<&Exemplar<'_>>,
    ) -> Result<(), Failed> {
        let time = time.filter(|_| self.policy.honor_timestamps);
        let Some(entry) = self.count(id, time.is_some())? else { return Ok(()) };
        let stale = value.to_bits() == number::STALE;
        let fitting = exemplar.filter(|exemplar| exemplar.fits());
        self.counts.exemplars += u64::from(exemplar.is_some() && fitting.is_none());
        match entry.role {
            Role::Number => self.write_number(entry.point, value, stale, time, created, fitting),
            Role::TargetInfo => {
                self.describe(entry.point);
                Ok(())
            }
            Role::Created => {
                self.created(entry.point, value);
                Ok(())
            }
            Role::Native => Ok(()),
            Role::Bucket | Role::Quantile | Role::Sum | Role::Count => {
                self.gather(&entry, value, stale, time, created, fitting)
            }
        }
    }

    /// Takes a native histogram, and whether its counts are whole numbers: others have no place in OTLP.
    pub(crate) fn native(
        &mut self,
        id: u32,
        native: &Native,
        exact: bool,
        time: Option<u64>,
        exemplars: &Exemplars<'_>,
    ) -> Result<(), Failed> {
        let time = time.filter(|_| self.policy.honor_timestamps);
        let Some(entry) = self.count(id, time.is_some())? else { return Ok(()) };
        if entry.role == Role::Native
            && !(exact && self.write_native(entry.point, native, time, exemplars)?)
        {
            self.counts.unmapped += 1;
        }
        Ok(())
    }

    /// Counts a sample; its series, if it has a point that is to be written.
    #[inline]
    fn count(&mut self, id: u32, timed: bool) -> Result<Option<Entry>, Failed> {
        let scrape = self.series.scrape;
        self.counts.samples += 1;
        self.next = id + 1;
        let Some(entry) = self.series.entries.get_mut(id as usize) else { return Ok(None) };
        let seen = std::mem::replace(&mut entry.seen, scrape);
        let entry = *entry;
        if entry.point == DROPPED {
            return Ok(None);
        }
        // The same series may come with several times.
        if seen == scrape && !timed {
            self.counts.duplicates += 1;
            return Ok(None);
        }
        self.counts.kept += 1;
        if self.policy.sample_limit != 0 && self.counts.kept > self.policy.sample_limit {
            let message = format!("more than {} samples: see sample_limit", self.policy.sample_limit);
            return Err(Failed::new(Reason::Limit, message));
        }
        self.counts.added += u64::from(seen + 1 < scrape);
        if entry.point == UNMAPPED {
            self.counts.unmapped += 1;
            return Ok(None);
        }
        Ok(Some(entry))
    }

    /// Marks a point as being there, and its metric as having one. Whether it is there for the first time in this scrape.
    #[inline]
    pub(super) fn touch(&mut self, id: u32, timed: bool) -> bool {
        let series = &mut *self.series;
        let Some(point) = series.points.get_mut(id as usize) else { return false };
        let first = point.seen != series.scrape;
        if first {
            point.was = point.seen + 1 == series.scrape;
            point.seen = series.scrape;
            point.tracked = !timed || self.policy.track_timestamps_staleness;
            if !point.was {
                point.start = 0;
            }
        }
        if let Some(metric) = series.metrics.get_mut(point.metric as usize)
            && metric.active_in != series.scrape
        {
            metric.active_in = series.scrape;
            self.active.push(point.metric);
        }
        first
    }

    /// When what a point counts began: as the target says it, or as it looks from here. `count` is what it counts now.
    pub(super) fn start(&mut self, id: u32, created: Option<u64>, count: f64, time: u64) -> u64 {
        let scrape = self.series.scrape;
        let Some(point) = self.series.points.get_mut(id as usize) else { return 0 };
        let created = created.or((point.created_in == scrape).then_some(point.created));
        let reset = count < point.last;
        point.last = count;
        if let Some(created) = created {
            point.start = created;
        } else if !self.policy.adjust_start_time {
            point.start = 0;
        } else if point.start == 0 || reset {
            point.start = time;
        }
        point.start
    }

    /// What the target says of the start of a point, which may have been written already.
    fn created(&mut self, id: u32, value: f64) {
        let series = &mut *self.series;
        let Some(created) = number::seconds(value) else { return };
        let Some(point) = series.points.get_mut(id as usize) else { return };
        (point.created, point.created_in) = (created, series.scrape);
        if point.seen == series.scrape && point.tally == NONE {
            point.start = created;
            let at = point.start_at as usize;
            if let Some(metric) = series.metrics.get_mut(point.metric as usize)
                && let Some(start) = metric.points.get_mut(at..at + 8)
            {
                start.copy_from_slice(&created.to_le_bytes());
            }
        }
    }

    /// Has the attributes of `target_info` go to its resource.
    fn describe(&mut self, id: u32) {
        let series = &mut *self.series;
        let Some(point) = series.points.get(id as usize) else { return };
        let Some(metric) = series.metrics.get(point.metric as usize) else { return };
        if let Some(group) = series.groups.get_mut(metric.group as usize) {
            (group.info, group.info_in) = (point.attributes, series.scrape);
        }
    }

    /// Adds a gauge about the scrape itself, which nothing relabels.
    pub(crate) fn report(&mut self, name: &'static str, value: f64) -> Result<(), Failed> {
        // No line has such a text.
        let parts: [&[u8]; 2] = [b"\n", name.as_bytes()];
        let id = match self.series.find(&parts) {
            Some(id) => id,
            None => {
                let mut labels = self.target.clone();
                labels.set(NAME, name);
                self.series.reserve(name.len() as u64 + SERIES)?;
                let group = self.group(&labels)?;
                let metric = self.metric(group, name, Kind::Gauge, OWN)?;
                let point = self.point(metric, Kind::Gauge, &attributes(7, &labels, None))?;
                let series = &mut *self.series;
                let text = Series::push(&mut series.arena, &parts);
                series.insert(
                    &parts,
                    Entry { text, point, family: OWN, role: Role::Number, bound: 0.0, seen: 0 },
                )
            }
        };
        let Some(entry) = self.series.entries.get_mut(id as usize) else { return Ok(()) };
        entry.seen = self.series.scrape;
        let point = entry.point;
        self.write_number(point, value, false, None, None, None)
    }
}

impl Series {
    fn insert(&mut self, parts: &[&[u8]], entry: Entry) -> u32 {
        let id = self.entries.len() as u32;
        self.by_text.insert(self.hash(parts), id);
        self.entries.push(entry);
        id
    }

    /// Charges more to what is held, if there is room.
    fn reserve(&mut self, more: u64) -> Result<(), Failed> {
        if self.arena.len() as u64 + more > u64::from(u32::MAX) {
            return Err(Exhausted::ForEver.into());
        }
        let held = self.held + more;
        if let Some(permit) = &self.permit
            && permit.bytes() < held
        {
            // In steps: asking is an atomic that all lanes share.
            permit.try_cover(held + STEP).or_else(|_| permit.try_cover(held))?;
        }
        self.held = held;
        Ok(())
    }
}

/// Memory is asked for in steps of so many bytes.
const STEP: u64 = 64 << 10;
