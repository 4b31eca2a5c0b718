//! What becomes of one target: a scrape each interval, until it has gone.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderValue, StatusCode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use watershed_net::{FetchError, Fetched, HttpClient, HttpErrorKind};
use watershed_stage::delivery::{Outcome, Permit};
use watershed_stage::{Counter, Env, Failure, Held, Intake, Origin, Signal, wall_clock};
use watershed_supervise::caught;

use super::error::{Failed, Reason};
use super::negotiate;
use super::parse::{Format, Parser};
use super::series::{Request, Scrape, Series};
use super::settings::{GlobalSettings, JobSettings, Settings};
use super::target::{Job, Target, Terms};

/// A target that has gone is waited for so long, in intervals: one that is only told anew must not flap.
const GRACE: f64 = 2.1;

/// How long the pipelines may take to say what becomes of a scrape.
const PATIENCE: Duration = Duration::from_secs(8);

/// What a scrape is granted before it is known how large it is, in bytes.
const FIRST: u64 = 4 << 10;

/// What a job's targets are scraped with, on one lane.
pub(crate) struct Kind {
    client: HttpClient,
    accept: HeaderValue,
    counters: Counters,
}

/// What is counted of a job.
struct Counters {
    env: Env,
    job: String,
    scrapes: Counter,
    duplicates: Counter,
    unmapped: Counter,
    exemplars: Counter,
    missed: Counter,
    refused: Counter,
    rejected: Counter,
}

/// Scrapes one target.
pub(crate) struct Keeper<'k> {
    settings: &'k Settings,
    job: &'k Job,
    kind: &'k Kind,
    target: Arc<Target>,
    /// The last that were told.
    terms: Terms,
    intake: Intake,
    /// Whether the last scrape succeeded, and the level that says so.
    health: Option<(bool, Held)>,
}

// === impl Kind ===

impl Kind {
    pub(crate) fn new(job: &JobSettings, global: &GlobalSettings, env: &Env) -> Result<Self, Failure> {
        let client = job.access().open(env)?;
        let accept = negotiate::accept(&job.protocols(global));
        Ok(Self { client, accept, counters: Counters::new(env, &job.job_name) })
    }
}

// === impl Counters ===

impl Counters {
    fn new(env: &Env, job: &str) -> Self {
        let labels = [("receiver", &*env.id), ("job", job)];
        let dropped = |reason| {
            let labels = [&labels[..], &[("reason", reason)]].concat();
            env.metrics.counter(
                "watershed_scrape_dropped_samples",
                "Samples and exemplars that were left out, by reason.",
                &labels,
            )
        };
        let lost = |reason| {
            let labels = [&labels[..], &[("reason", reason)]].concat();
            let help = "Points that were scraped and that no pipeline took, by reason.";
            env.metrics.counter("watershed_scrape_lost_points", help, &labels)
        };
        let scrapes = [&labels[..], &[("outcome", "ok")]].concat();
        let missed = "Scrapes that were not begun: the one before, or its turn, took too long.";
        Self {
            env: env.clone(),
            job: job.to_owned(),
            scrapes: env.metrics.counter(SCRAPES.0, SCRAPES.1, &scrapes),
            duplicates: dropped("duplicate"),
            unmapped: dropped("unmapped"),
            exemplars: dropped("exemplar"),
            missed: env.metrics.counter("watershed_scrape_missed", missed, &labels),
            refused: lost("refused"),
            rejected: lost("rejected"),
        }
    }

    fn labels<'l>(&'l self, name: &'l str, value: &'l str) -> [(&'l str, &'l str); 3] {
        [("receiver", &*self.env.id), ("job", &self.job), (name, value)]
    }

    fn failed(&self, reason: Reason) {
        let labels = self.labels("outcome", reason.name());
        self.env.metrics.counter(SCRAPES.0, SCRAPES.1, &labels).add(1);
    }

    fn health(&self, up: bool) -> Held {
        let help = "Targets, by how their last scrape ended.";
        let labels = self.labels("health", if up { "up" } else { "down" });
        self.env.metrics.level("watershed_scrape_targets", help, &labels).hold()
    }
}

const SCRAPES: (&str, &str) = ("watershed_scrapes", "Scrapes, by how they ended.");

// === impl Keeper ===

impl<'k> Keeper<'k> {
    pub(crate) fn new(
        settings: &'k Settings,
        job: &'k Job,
        kind: &'k Kind,
        target: Arc<Target>,
        terms: Terms,
        intake: Intake,
    ) -> Self {
        Self { settings, job, kind, target, terms, intake, health: None }
    }

    /// Scrapes on the terms that are told until the target has gone for good, and gives it back.
    pub(crate) async fn run(mut self, mut told: watch::Receiver<Option<Terms>>) -> Arc<Target> {
        let mut series = Series::new(self.intake.budget().overdraw(0));
        let mut next = Instant::now() + self.offset();
        loop {
            let terms = *told.borrow_and_update();
            if let Some(terms) = terms {
                let before = std::mem::replace(&mut self.terms, terms);
                if before.interval != terms.interval {
                    next = Instant::now() + self.offset();
                }
                tokio::select! {
                    () = sleep_until(next) => {}
                    // The one who tells may be dropped only with this.
                    _ = told.changed() => continue,
                }
                self.scrape(&mut series).await;
                let (now, interval) = (Instant::now(), self.terms.interval);
                next += interval;
                if next <= now {
                    let late = now.duration_since(next).div_duration_f64(interval) as u32 + 1;
                    self.kind.counters.missed.add(late.into());
                    next += interval.saturating_mul(late);
                }
            } else {
                tokio::select! {
                    () = sleep_until(next + self.terms.interval.mul_f64(GRACE - 1.0)) => {}
                    _ = told.changed() => {
                        next = next.max(Instant::now());
                        continue;
                    }
                }
                self.health = None;
                self.end(&mut series).await;
                return self.target;
            }
        }
    }

    /// How long until the first scrape: the targets of all replicas are spread over the interval.
    fn offset(&self) -> Duration {
        let interval = u64::try_from(self.terms.interval.as_nanos()).unwrap_or(u64::MAX).max(1);
        // A time of the clock, not of the start: it stays the same over restarts.
        let (now, due) = (wall_clock() % interval, self.target.hash % interval);
        Duration::from_nanos((due + interval - now) % interval)
    }

    async fn scrape(&mut self, series: &mut Series) {
        let Ok(turn) = self.settings.shared.turns(self.settings.max_concurrent_scrapes).acquire().await
        else {
            return;
        };
        let (time, began) = (wall_clock(), Instant::now());
        let Ok(permit) = self.intake.admit(FIRST) else {
            // Nothing is known of the target: no marker is due, and nobody could carry it.
            return self.kind.counters.failed(Reason::Memory);
        };
        let deadline = began + self.terms.timeout;
        let fetched = match timeout_at(deadline, self.fetch(&permit)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(self.late()),
        };
        let work = self.read(series, &fetched, time, began, deadline, &permit);
        let (result, request) = match caught(work).await {
            Ok(Ok((result, request))) => (result, Some(request)),
            Ok(Err(failed)) => (Err(failed), None),
            Err(failure) => {
                // Whatever it was about, it is not known what is still right.
                series.clear();
                return self.note(Err(Failed::new(Reason::Panic, failure.message)));
            }
        };
        drop((fetched, turn));
        self.note(result);
        series.compact();
        if let Some(request) = request {
            self.send(request, permit).await;
        }
    }

    async fn fetch(&self, permit: &Permit) -> Result<(Format, Vec<u8>), Failed> {
        let Some(job) = self.settings.config.scrape_configs.get(self.job.index) else {
            return Err(Failed::new(Reason::Limit, "there is no such job"));
        };
        if self.terms.over_limit {
            let message = format!("its job has more targets than target_limit = {}", job.target_limit);
            return Err(Failed::new(Reason::Limit, message));
        }
        let mut headers = negotiate::headers(&self.kind.accept, self.terms.timeout);
        if let Some(header) = job.access().header()? {
            headers.insert(AUTHORIZATION, header);
        }
        let limit = match job.body_size_limit.0 {
            0 => permit.budget().most(),
            limit => limit,
        };
        let fetch = self.kind.client.fetch(&self.target.url, &headers, job.enable_compression, limit, permit);
        let Fetched { status, headers, body } = fetch.await.map_err(failed)?;
        if status != StatusCode::OK {
            return Err(Failed::new(Reason::Status, format!("it answers {status}")));
        }
        let content_type = headers.get(http::header::CONTENT_TYPE);
        let native = job.scrape_native_histograms;
        Ok((negotiate::format(content_type, job.fallback_scrape_protocol, native)?, body))
    }

    /// Reads what was fetched, leaving the lane to others from time to time, and adds what is said of the scrape itself.
    async fn read(
        &self,
        series: &mut Series,
        fetched: &Result<(Format, Vec<u8>), Failed>,
        time: u64,
        began: Instant,
        deadline: Instant,
        permit: &Permit,
    ) -> Result<(Result<(), Failed>, Request), Failed> {
        let body = fetched.as_ref().map_or(&[][..], |(_, body)| body);
        let mut scrape =
            Scrape::begin(series, &self.job.policy, &self.target.labels, time, permit, body.len() as u64);
        let result = match fetched {
            Err(failed) => Err(failed.clone()),
            Ok((format, body)) => {
                let mut parser = Parser::new(*format, body);
                loop {
                    match parser.step(&mut scrape) {
                        Ok(false) => break Ok(()),
                        Ok(true) if Instant::now() >= deadline => break Err(self.late()),
                        Ok(true) => tokio::task::yield_now().await,
                        Err(failed) => break Err(failed),
                    }
                }
            }
        };
        let counts = scrape.counts();
        if result.is_err() {
            scrape.fail();
        }
        let failed = f64::from(u8::from(result.is_err()));
        for (name, value) in [
            ("up", 1.0 - failed),
            ("scrape_duration_seconds", began.elapsed().as_secs_f64()),
            ("scrape_samples_scraped", counts.samples as f64 * (1.0 - failed)),
            ("scrape_samples_post_metric_relabeling", counts.kept as f64 * (1.0 - failed)),
            ("scrape_series_added", counts.added as f64 * (1.0 - failed)),
        ] {
            scrape.report(name, value)?;
        }
        let request = scrape.finish(self.target.url.scheme_str().unwrap_or_default())?;
        Ok((result, request))
    }

    fn late(&self) -> Failed {
        let timeout = self.terms.timeout;
        Failed::new(Reason::Timeout, format!("it took longer than {timeout:?}: see scrape_timeout"))
    }

    /// Counts how a scrape ended, and says so in the log where that has changed.
    fn note(&mut self, result: Result<(), Failed>) {
        let up = result.is_ok();
        let changed = self.health.as_ref().is_none_or(|(was, _)| *was != up);
        if changed {
            self.health = Some((up, self.kind.counters.health(up)));
        }
        let (receiver, url) = (self.intake.id(), &self.target.url);
        match result {
            Ok(()) => self.kind.counters.scrapes.add(1),
            Err(failed) => {
                self.kind.counters.failed(failed.reason);
                let Failed { reason, message } = failed;
                let message: Cow<'_, str> = message;
                if changed {
                    tracing::warn!(%receiver, target = %url, %reason, "cannot scrape: {message}");
                } else {
                    tracing::debug!(%receiver, target = %url, %reason, "still cannot scrape: {message}");
                }
            }
        }
    }

    /// Sends what was scraped. What is not taken is lost, and counted: there is a scrape after it, and no use in an
    /// older one.
    async fn send(&self, request: Request, permit: Permit) {
        let Request { bytes, counts } = request;
        let counters = &self.kind.counters;
        counters.duplicates.add(counts.duplicates);
        counters.unmapped.add(counts.unmapped);
        counters.exemplars.add(counts.exemplars);
        // The body has gone.
        permit.trim(bytes.capacity() as u64);
        let patience = self.terms.interval.min(PATIENCE);
        let outcome = self.intake.submit(Signal::Metrics, bytes, Origin::default(), permit, patience).await;
        match outcome {
            Outcome::Refused(_) => counters.refused.add(counts.points),
            Outcome::Rejected(_) => counters.rejected.add(counts.points),
            Outcome::Dropped { .. } | Outcome::Delivered => {}
        }
    }

    /// Has all series of the target end.
    async fn end(&self, series: &mut Series) {
        if series.len() == 0 {
            return;
        }
        let permit = self.intake.budget().overdraw(0);
        let scheme = self.target.url.scheme_str().unwrap_or_default();
        let scrape = Scrape::begin(series, &self.job.policy, &self.target.labels, wall_clock(), &permit, 0);
        match scrape.finish(scheme) {
            Ok(request) => self.send(request, permit).await,
            Err(failed) => self.kind.counters.failed(failed.reason),
        }
    }
}

fn failed(error: FetchError) -> Failed {
    let reason = match &error {
        FetchError::Memory => Reason::Memory,
        FetchError::TooLarge(_) => Reason::Limit,
        FetchError::Encoding(_) => Reason::Parse,
        FetchError::Http(error) => match error.kind {
            HttpErrorKind::TimedOut => Reason::Timeout,
            HttpErrorKind::TooLarge => Reason::Limit,
            _ => Reason::Connect,
        },
    };
    match error {
        FetchError::TooLarge(limit) => {
            Failed::new(reason, format!("it answers more than {limit} bytes: see body_size_limit"))
        }
        error => Failed::new(reason, error.to_string()),
    }
}
