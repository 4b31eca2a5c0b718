//! Series that are new: the family that each is of, its labels as the job wants them, and where its point is.

use std::borrow::Cow;

use watershed_stage::delivery::Exhausted;

use super::output::attributes;
use super::scrape::Scrape;
use super::shape::Role;
use super::{
    DROPPED, Declared, Entry, Group, Kind, Metric, NONE, OWN, Point, SERIES, Series, Tally, Type, UNMAPPED,
};
use crate::scrape::error::Failed;
use crate::scrape::labels::{Labels, NAME};
use crate::scrape::parse::number;

/// Memory is asked for in steps of so many bytes.
const STEP: u64 = 64 << 10;

// === impl Scrape ===

impl Scrape<'_> {
    /// The place of the family that was declared last.
    pub(super) fn resolve(&mut self) -> Result<u32, Failed> {
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
                series.reserve(Tally::BYTES)?;
                series.tallies.push(Tally::default());
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

// === impl Series ===

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
