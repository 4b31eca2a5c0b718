//! The stage: a loop for each target of its lane.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use watershed_stage::{Env, Failure, Intake, Placement, Receiver, Signal};

use super::discovery::Discovery;
use super::keep::{Keeper, Kind};
use super::settings::Settings;
use super::target::{Job, Target, Targets, Terms};

/// Scrapes targets.
pub(crate) struct Prometheus {
    settings: Arc<Settings>,
    env: Env,
    jobs: Vec<Job>,
    kinds: Vec<Kind>,
}

// === impl Prometheus ===

impl Receiver for Prometheus {
    type Settings = Settings;

    fn signals() -> &'static [Signal] {
        &[Signal::Metrics]
    }

    fn placement(_: &Settings) -> Placement {
        Placement::Lane
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let jobs = Job::all(settings);
        let configs = settings.config.scrape_configs.iter();
        let kinds: Result<_, _> = configs.map(|job| Kind::new(job, &settings.config.global, env)).collect();
        Ok(Self { settings: settings.clone(), env: env.clone(), jobs, kinds: kinds? })
    }

    async fn run(&self, intake: Intake) -> Result<(), Failure> {
        if self.env.lane != 0 {
            return self.scrape(&intake).await;
        }
        let discovery = Discovery::new(&self.settings, &self.jobs, &self.env);
        tokio::select! {
            ended = discovery.run() => ended,
            ended = self.scrape(&intake) => ended,
        }
    }
}

impl Prometheus {
    /// Scrapes the targets that fall to this lane, as they come and go.
    async fn scrape(&self, intake: &Intake) -> Result<(), Failure> {
        let mut found = self.settings.shared.targets().subscribe();
        let mut kept: HashMap<Arc<Target>, watch::Sender<Option<Terms>>> = HashMap::new();
        let mut loops: FuturesUnordered<LocalBoxFuture<'_, Arc<Target>>> = FuturesUnordered::new();
        found.mark_changed();
        loop {
            tokio::select! {
                changed = found.changed() => {
                    changed.map_err(|_| Failure::new("nobody looks for targets any more"))?;
                    let targets = found.borrow_and_update().clone();
                    self.update(&targets, &mut kept, &loops, intake);
                }
                Some(gone) = loops.next(), if !loops.is_empty() => {
                    kept.remove(&gone);
                    // It may have come back while it ended.
                    let targets = found.borrow().clone();
                    self.update(&targets, &mut kept, &loops, intake);
                }
            }
        }
    }

    /// Begins to scrape what is new, and tells the loops of what has gone, has come back, or is scraped otherwise.
    fn update<'a>(
        &'a self,
        targets: &Targets,
        kept: &mut HashMap<Arc<Target>, watch::Sender<Option<Terms>>>,
        loops: &FuturesUnordered<LocalBoxFuture<'a, Arc<Target>>>,
        intake: &Intake,
    ) {
        let (shards, copies) = (self.settings.sharding.shards.max(1), self.env.copies.max(1) as u64);
        let own = |target: &Target| target.hash / shards % copies == self.env.lane as u64;
        let own = targets.iter().filter(|(target, _)| own(target));
        let mut there: HashMap<&Arc<Target>, Terms> = own.map(|(target, terms)| (target, *terms)).collect();
        for (target, told) in kept.iter() {
            let terms = there.remove(target);
            told.send_if_modified(|told| std::mem::replace(told, terms) != terms);
        }
        for (target, terms) in there {
            let (Some(job), Some(kind)) = (self.jobs.get(target.job), self.kinds.get(target.job)) else {
                continue;
            };
            let (sender, told) = watch::channel(Some(terms));
            kept.insert(target.clone(), sender);
            let keeper = Keeper::new(&self.settings, job, kind, target.clone(), terms, intake.clone());
            loops.push(keeper.run(told).boxed_local());
        }
    }
}
