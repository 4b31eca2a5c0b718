//! The backends there are, which of them are used, and the table that every lane deals out by.
//!
//! Resolvers and probes change it, on one lane; all lanes read the table, and none of them waits for another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use watershed_stage::{Env, ExportError, ExporterSpec, Message, Partial, Rate, Seating};
use watershed_supervise::{Cell, ChildId};

use crate::health::{Change, Health, HealthSettings, Probed};
use crate::meters::{BackendMeters, Meters, ResolverMeters};
use crate::plan::{Plan, Policy};
use crate::resolver::ResolverSettings;
use crate::ring::{MOST, Ring};

/// The backends of one balancer.
pub(crate) struct Pool {
    pub(crate) plan: Plan,
    table: ArcSwap<Table>,
    /// Told whenever the table changes, or there is a backend to begin or to end with.
    version: watch::Sender<u64>,
    state: Mutex<State>,
    meters: OnceLock<Meters>,
    /// What all backends together may be sent in a second.
    pub(crate) rate: Arc<Rate>,
    /// Held by every router.
    pub(crate) presence: Arc<()>,
}

/// Whom to give what comes.
#[derive(Default)]
pub(crate) struct Table {
    /// In the order of their names.
    pub(crate) backends: Vec<Arc<Backend>>,
    /// Whom a key belongs to, where that is what counts.
    pub(crate) ring: Option<Arc<Ring>>,
    /// What it replaced.
    before: Option<Before>,
}

/// A table that was replaced, while what began under it may still go on.
struct Before {
    ring: Arc<Ring>,
    /// The numbers that its backends have now; `None` for those that are not used any more.
    now: Vec<Option<usize>>,
    until: Instant,
}

/// How long what began under one table is taken to go on under the next.
const SETTLING: Duration = Duration::from_secs(30);

/// One backend.
pub(crate) struct Backend {
    /// What the resolver calls it: its name on the ring.
    pub(crate) name: Arc<str>,
    /// What is connected to.
    pub(crate) endpoint: String,
    /// The exporter that sends to it.
    pub(crate) exporter: Arc<dyn ExporterSpec>,
    /// Whether it gets anything, and what becomes of what it has.
    pub(crate) seating: watch::Sender<Seating>,
    /// Its exporter's copies, by lane.
    pub(crate) copies: Mutex<BTreeMap<usize, Copy>>,
    /// An export has failed: it should be looked at.
    pub(crate) suspected: Notify,
    health: Mutex<Health>,
    gone: AtomicBool,
    meters: BackendMeters,
}

/// The copy of a backend's exporter on one lane.
#[derive(Clone)]
pub(crate) struct Copy {
    pub(crate) cell: Cell<Message>,
    /// Once it has started.
    pub(crate) child: Option<ChildId>,
}

#[derive(Default)]
struct State {
    /// In order of preference.
    groups: Vec<Group>,
    /// All that are in a group.
    backends: BTreeMap<Arc<str>, Arc<Backend>>,
    /// Those that are in none any more, until their exporters have ended.
    retired: Vec<Arc<Backend>>,
}

struct Group {
    meters: ResolverMeters,
    /// Sorted. `None` before anything is known.
    names: Option<Vec<Arc<str>>>,
}

// === impl Pool ===

impl Pool {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            rate: Arc::new(Rate::new(plan.backends.sending().queue.items_per_second)),
            plan,
            table: ArcSwap::default(),
            version: watch::Sender::new(0),
            state: Mutex::default(),
            meters: OnceLock::new(),
            presence: Arc::default(),
        }
    }

    /// Whether only one lane deals out any more.
    pub(crate) fn has_one_router(&self) -> bool {
        Arc::strong_count(&self.presence) <= 2
    }

    /// What it counts, by the first who asks.
    pub(crate) fn meters(&self, env: &Env) -> &Meters {
        self.meters.get_or_init(|| {
            let meters = Meters::new(env);
            let group =
                |resolver: &ResolverSettings| Group { meters: meters.resolver(resolver.name()), names: None };
            self.state.lock().groups = self.plan.resolvers.iter().map(group).collect();
            meters
        })
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Every backend, also those that are going.
    pub(crate) fn all(&self) -> Vec<Arc<Backend>> {
        let state = self.state.lock();
        state.backends.values().chain(&state.retired).cloned().collect()
    }

    /// A resolver has looked.
    pub(crate) fn resolved(&self, group: usize, found: Result<Vec<String>, String>) {
        let Some(meters) = self.meters.get() else { return };
        let mut state = self.state.lock();
        let Some(group) = state.groups.get_mut(group) else { return };
        group.meters.resolved(found.is_ok());
        let mut names: Vec<Arc<str>> = match found {
            Ok(found) => found.into_iter().map(Into::into).collect(),
            Err(error) => {
                // What was known is a better guess than nothing.
                return tracing::warn!(%error, known = group.names.as_ref().map_or(0, Vec::len), "failed to resolve");
            }
        };
        names.sort_unstable();
        names.dedup();
        names.truncate(MOST);
        if group.names.as_ref() == Some(&names) {
            return;
        }
        group.meters.updated(names.len());
        tracing::info!(backends = ?names, "the backends have changed");
        group.names = Some(names);
        state.enlist(&self.plan, meters);
        self.renew(&state);
    }

    /// A probe has ended.
    pub(crate) fn probed(&self, backend: &Backend, probed: Probed) {
        self.judge(backend, |health, settings, now| health.probed(settings, now, probed));
    }

    /// An attempt has ended, and says perhaps whether the backend works.
    pub(crate) fn tried(
        &self,
        backend: &Backend,
        took: Duration,
        result: &Result<Partial, ExportError>,
        works: Option<bool>,
    ) {
        backend.meters.tried(took, result.is_ok());
        let Some(works) = works.filter(|_| self.plan.health.enabled) else { return };
        if !works {
            backend.suspected.notify_one();
        }
        self.judge(backend, |health, settings, now| health.exported(settings, now, took, works));
    }

    /// A backend's exporter can not be started.
    pub(crate) fn broken(&self, backend: &Backend) {
        self.judge(backend, Health::broken);
    }

    fn judge(
        &self,
        backend: &Backend,
        judge: impl FnOnce(&mut Health, &HealthSettings, Instant) -> Option<Change>,
    ) {
        let change = judge(&mut backend.health.lock(), &self.plan.health, Instant::now());
        match change {
            None => return,
            Some(Change::Returned) => tracing::info!(backend = %backend.name, "a backend works again"),
            Some(Change::Ejected(reason)) => {
                if let Some(meters) = self.meters.get() {
                    meters.ejections(&backend.name, reason).add(1);
                }
                tracing::warn!(backend = %backend.name, reason, "a backend does not work and is left out");
            }
        }
        self.renew(&self.state.lock());
    }

    /// Forgets a backend whose exporters have ended.
    pub(crate) fn forget(&self, backend: &Arc<Backend>) {
        let mut state = self.state.lock();
        state.retired.retain(|retired| !Arc::ptr_eq(retired, backend));
        // One of the same name may have come since.
        let has_heir =
            state.retired.iter().chain(state.backends.values()).any(|other| other.name == backend.name);
        if let Some(meters) = self.meters.get().filter(|_| !has_heir) {
            meters.forget(&backend.name);
        }
    }

    /// Makes the table anew where others are to be used. First it is there, and then the others give back what they have.
    fn renew(&self, state: &State) {
        let used = state.used();
        let table = self.table.load();
        let same = table.backends.len() == used.len()
            && table.backends.iter().zip(&used).all(|(before, after)| Arc::ptr_eq(before, after));
        if !same {
            let names = names_of(&used);
            let by_key = self.plan.policy == Policy::ByKey;
            let ring = by_key.then(|| match &table.ring {
                Some(ring) => ring.after(&names_of(&table.backends), &names),
                None => Ring::new(self.plan.ring, &names),
            });
            let now = Instant::now();
            let before = table.ring.clone().filter(|_| !table.backends.is_empty()).map(|ring| Before {
                ring,
                now: names_of(&table.backends).iter().map(|name| names.binary_search(name).ok()).collect(),
                until: now + SETTLING,
            });
            let is_new =
                |backend: &&Arc<Backend>| table.backends.iter().all(|old| !Arc::ptr_eq(old, backend));
            used.iter().filter(is_new).for_each(|backend| backend.health.lock().begin(now));
            self.table.store(Arc::new(Table { backends: used.clone(), ring: ring.map(Arc::new), before }));
        }
        for backend in state.backends.values().chain(&state.retired) {
            let seating = match used.iter().any(|used| Arc::ptr_eq(used, backend)) {
                true => Seating::Taken,
                false if backend.health.lock().is_lost() => Seating::Lost,
                false => Seating::Vacant,
            };
            backend.seating.send_if_modified(|before| std::mem::replace(before, seating) != seating);
        }
        self.version.send_modify(|version| *version += 1);
    }
}

// === impl Table ===

impl Table {
    /// Whether it has replaced another a short while ago.
    pub(crate) fn is_settling(&self) -> bool {
        self.before.as_ref().is_some_and(|before| Instant::now() < before.until)
    }

    /// Whether a key that belongs to the backend of this number belonged to another before.
    pub(crate) fn has_moved(&self, key: &[u8], to: usize) -> bool {
        let was = |before: &Before| before.now.get(before.ring.at(key)?).copied().flatten();
        self.before.as_ref().is_some_and(|before| was(before) != Some(to))
    }
}

fn names_of(backends: &[Arc<Backend>]) -> Vec<&str> {
    backends.iter().map(|backend| &*backend.name).collect()
}

// === impl State ===

impl State {
    /// Makes backends of the names that have none, and retires those that are in no group any more.
    fn enlist(&mut self, plan: &Plan, meters: &Meters) {
        let names: Vec<Arc<str>> =
            self.groups.iter().filter_map(|group| group.names.clone()).flatten().collect();
        for (_, backend) in self.backends.extract_if(.., |name, _| !names.contains(name)) {
            backend.gone.store(true, Ordering::Relaxed);
            self.retired.push(backend);
        }
        for name in names {
            if !self.backends.contains_key(&name)
                && let Some(backend) = Backend::new(&name, plan, meters)
            {
                self.backends.insert(name, Arc::new(backend));
            }
        }
    }

    /// The backends that work of the first group that has any. Where none works at all, all of the first that has any:
    /// one of them will be back first, and nobody knows which.
    fn used(&self) -> Vec<Arc<Backend>> {
        let members = |group: &Group| {
            let names = group.names.iter().flatten();
            names.filter_map(|name| self.backends.get(name).cloned()).collect::<Vec<_>>()
        };
        let groups: Vec<_> = self.groups.iter().map(members).collect();
        let works = |group: &Vec<Arc<Backend>>| {
            let works = group.iter().filter(|backend| backend.health.lock().is_in());
            works.cloned().collect::<Vec<_>>()
        };
        let first = groups.iter().map(works).find(|working| !working.is_empty());
        first.or_else(|| groups.iter().find(|group| !group.is_empty()).cloned()).unwrap_or_default()
    }
}

// === impl Backend ===

impl Backend {
    fn new(name: &Arc<str>, plan: &Plan, meters: &Meters) -> Option<Self> {
        let endpoint = match plan.backends.endpoint(name) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tracing::error!(%error, "a backend can not be used");
                return None;
            }
        };
        let seating = watch::Sender::new(Seating::Vacant);
        let seated = seating.subscribe();
        meters.used(name, move || *seated.borrow() == Seating::Taken);
        Some(Self {
            name: name.clone(),
            // Two who judge would contradict each other.
            exporter: plan.backends.exporter(&endpoint, plan.health.enabled),
            endpoint,
            seating,
            copies: Mutex::default(),
            suspected: Notify::new(),
            health: Mutex::default(),
            gone: AtomicBool::new(false),
            meters: meters.backend(name),
        })
    }

    /// Whether no resolver knows it any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Whether it is waited for an answer that has to come at once.
    pub(crate) fn is_doubted(&self) -> bool {
        self.health.lock().is_doubted()
    }

    /// Whether it is to be sent to.
    pub(crate) fn is_used(&self) -> bool {
        *self.seating.borrow() == Seating::Taken
    }

    /// When it last answered anything, if it is used.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.health.lock().heard()
    }

    /// Its part of the whole that it would get.
    pub(crate) fn part(&self, settings: &HealthSettings, now: Instant) -> f64 {
        self.health.lock().part(settings, now)
    }

    /// Messages that wait for it or are on their way.
    pub(crate) fn load(&self) -> usize {
        self.copies.lock().values().map(|copy| copy.cell.depth()).sum()
    }
}
