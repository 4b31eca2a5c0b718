//! One scrape, sample by sample.

use watershed_stage::delivery::Permit;

use super::output::Room;
use super::point::{Exemplar, Exemplars, Native};
use super::shape::Role;
use super::{DROPPED, Entry, Family, NONE, Series, Type, UNMAPPED};
use crate::scrape::error::{Failed, Reason};
use crate::scrape::labels::Labels;
use crate::scrape::parse::number;
use crate::scrape::policy::Policy;

/// A scrape that is being read. What it found becomes a request with [`Scrape::finish`], or is taken back with
/// [`Scrape::fail`].
pub(crate) struct Scrape<'s> {
    pub(super) series: &'s mut Series,
    pub(super) policy: &'s Policy,
    /// The labels of the target.
    pub(super) target: &'s Labels,
    /// When it began, in nanoseconds since 1970.
    pub(super) time: u64,
    pub(super) room: Room<'s>,
    /// What the exposition declared last.
    pub(super) family: Family,
    /// Its place, once a sample was looked at under it.
    pub(super) family_id: Option<u32>,
    /// The series that is likely next, and the family.
    next: u32,
    pub(super) next_family: u32,
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
}
