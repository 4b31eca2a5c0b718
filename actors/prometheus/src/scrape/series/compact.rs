//! Forgetting what no scrape has shown for a while.

use super::{Entry, NONE, OWN, Point, SERIES, Series, Slice, Tally};

/// What is kept grows to twice what it was after the last rewrite, and so many bytes more, before the next is thought of.
const SPARE: u64 = 256 << 10;

// === impl Series ===

impl Series {
    /// Forgets what the last scrape did not show, once that is a good part of what is known. What a rewrite costs is paid
    /// by what has come since the one before.
    pub(crate) fn compact(&mut self) {
        let scrape = self.scrape;
        if self.held <= 2 * self.kept + SPARE {
            return;
        }
        let series = self.entries.iter().filter(|entry| entry.seen != scrape);
        let families = self.families.iter().filter(|known| known.seen != scrape);
        let gone = series.map(|entry| u64::from(entry.text.len) + SERIES).sum::<u64>()
            + families.map(|known| known.family.bytes()).sum::<u64>();
        if 4 * gone < self.held {
            self.kept = self.held;
            return;
        }
        let old = std::mem::take(self);
        self.permit = old.permit.clone();
        self.clear();
        self.scrape = scrape;
        self.hasher = old.hasher.clone();
        self.families.clear();
        let mut families = Moved::new(old.families.len());
        let mut groups = Moved::new(old.groups.len());
        let mut metrics = Moved::new(old.metrics.len());
        let mut points = Moved::new(old.points.len());
        families.keep(0);
        families.keep(OWN);
        for entry in old.entries.iter().filter(|entry| entry.seen == scrape) {
            families.keep(entry.family);
            if let Some(point) = old.points.get(entry.point as usize) {
                points.keep(entry.point);
                if let Some(metric) = old.metrics.get(point.metric as usize) {
                    metrics.keep(point.metric);
                    families.keep(metric.family);
                    groups.keep(metric.group);
                }
            }
        }
        let arena = &old.arena;
        let text = |slice: Slice| {
            let at = slice.at as usize;
            arena.get(at..at + slice.len as usize).unwrap_or_default()
        };
        for (id, family) in old.families.into_iter().enumerate() {
            if families.place(id, self.families.len()) {
                let hash = self.hash(&[&family.family.name, &[family.family.kind as u8]]);
                if !family.family.name.is_empty() {
                    self.by_family.insert(hash, self.families.len() as u32);
                }
                self.held += family.family.bytes();
                self.families.push(family);
            }
        }
        for (id, group) in old.groups.into_iter().enumerate() {
            if groups.place(id, self.groups.len()) {
                self.held += group.bytes();
                self.by_scope.insert(self.hash(&group.parts()), self.groups.len() as u32);
                self.groups.push(group);
            }
        }
        for (id, mut metric) in old.metrics.into_iter().enumerate() {
            if metrics.place(id, self.metrics.len()) {
                metric.group = groups.get(metric.group);
                metric.family = families.get(metric.family);
                let hash =
                    self.hash(&[&metric.group.to_le_bytes(), metric.name.as_bytes(), &[metric.kind as u8]]);
                self.held += (metric.name.len() + 2 * size_of_val(&metric)) as u64;
                self.by_name.insert(hash, self.metrics.len() as u32);
                self.metrics.push(metric);
            }
        }
        let mut tallies: Vec<Option<Tally>> = old.tallies.into_iter().map(Some).collect();
        for (id, point) in old.points.iter().enumerate() {
            if !points.place(id, self.points.len()) {
                continue;
            }
            let labels = text(point.attributes);
            let metric = metrics.get(point.metric);
            let tally = match tallies.get_mut(point.tally as usize).and_then(Option::take) {
                Some(tally) => {
                    self.tallies.push(tally);
                    self.held += Tally::BYTES;
                    self.tallies.len() as u32 - 1
                }
                None => NONE,
            };
            self.held += labels.len() as u64;
            let hash = self.hash(&[&metric.to_le_bytes(), labels]);
            self.by_labels.insert(hash, self.points.len() as u32);
            let attributes = Self::push(&mut self.arena, &[labels]);
            self.points.push(Point { metric, attributes, tally, ..*point });
        }
        // The hash of a text depends on its parts, which only the table knows.
        let mut hashes = vec![0; old.entries.len()];
        for (hash, id) in old.by_text.0.iter() {
            if let Some(place) = hashes.get_mut(*id as usize) {
                *place = *hash;
            }
        }
        for (entry, hash) in old.entries.iter().zip(hashes).filter(|(entry, _)| entry.seen == scrape) {
            let bytes = text(entry.text);
            self.held += bytes.len() as u64 + SERIES;
            let entry = Entry {
                text: Self::push(&mut self.arena, &[bytes]),
                point: if (entry.point as usize) < old.points.len() {
                    points.get(entry.point)
                } else {
                    entry.point
                },
                family: families.get(entry.family),
                ..*entry
            };
            self.by_text.insert(hash, self.entries.len() as u32);
            self.entries.push(entry);
        }
        self.hold(self.held);
        self.kept = self.held;
    }
}

/// Where the elements of a table have gone, if they are to be kept.
struct Moved(Vec<u32>);

// === impl Moved ===

impl Moved {
    fn new(length: usize) -> Self {
        Self(vec![NONE; length])
    }

    fn keep(&mut self, id: u32) {
        if let Some(place) = self.0.get_mut(id as usize) {
            *place = 0;
        }
    }

    /// Notes that what was at `id` is at `to` now. Whether it is to be kept.
    fn place(&mut self, id: usize, to: usize) -> bool {
        match self.0.get_mut(id) {
            Some(place) if *place != NONE => {
                *place = to as u32;
                true
            }
            _ => false,
        }
    }

    fn get(&self, id: u32) -> u32 {
        self.0.get(id as usize).copied().unwrap_or(NONE)
    }
}
