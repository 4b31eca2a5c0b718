//! Whether a backend works, as far as its probes and its exports tell.
//!
//! It is pure: it reads no clock.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use watershed_stage::{Interval, KeyError, Settings};

/// How backends are found out that do not work (`health_check`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthSettings {
    /// Whether backends are probed, and left out while they do not work.
    pub enabled: bool,
    /// What a probe is.
    pub kind: ProbeKind,
    /// The service that a call of `grpc.health.v1.Health/Check` asks about; the whole server if it is empty.
    pub service: String,
    /// How long a backend may say nothing before it is probed, give or take a tenth; what it answers to exports counts.
    /// One whose export has failed is probed at once.
    pub interval: Interval,
    /// How long an answer may take.
    pub timeout: Interval,
    /// So many times `timeout` in a row have to pass without an answer. A connection that is refused is enough by itself.
    pub unhealthy_threshold: u32,
    /// So many probes in a row have to be answered in time before a backend is used again.
    pub healthy_threshold: u32,
    /// So many exports, one after the other, have to fail for a backend to be left out whose probes are answered; `0` is
    /// any number. One that asks for time (`RetryInfo`) works.
    pub failures: u32,
    /// How long such a backend is left out.
    pub ejection_time: Interval,
    /// How long a backend that is used again, or is new, takes to get its whole part where backends take turns
    /// (`round_robin`, `least_loaded`); `0s` is at once. What goes by its key has no smaller part.
    pub slow_start: Interval,
}

/// What a probe is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// A request over a connection that is kept, made with the connection settings of the exporter: over gRPC a call of
    /// `grpc.health.v1.Health/Check`, over HTTP a `GET` of the endpoint. A server that knows neither, and says so, works.
    #[default]
    #[serde(alias = "grpc", alias = "http")]
    Request,
    /// A connection, which is closed again. A process that hangs still takes connections.
    Tcp,
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    Answered,
    /// It says itself that it does not work, or nobody listens there.
    Refused,
    /// No answer since then.
    Silent(Instant),
}

/// A backend's health.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// How often it was waited for an answer in vain, since the last that came.
    silent: u32,
    /// Exports that failed, since the last that did not.
    failed: u32,
    /// When the last of them was counted.
    counted: Option<Instant>,
    /// When it last answered anything.
    heard: Option<Instant>,
    out: Option<Out>,
    /// Since when it is used.
    since: Option<Instant>,
}

/// That it is left out.
#[derive(Debug)]
struct Out {
    since: Instant,
    /// Not before then is it used again.
    until: Instant,
    /// Probes answered in a row.
    answered: u32,
    /// It answers nothing, and so nothing of what is on its way either.
    lost: bool,
}

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is left out, because of that.
    Ejected(&'static str),
    /// It is used again.
    Returned,
}

// === impl HealthSettings ===

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            kind: ProbeKind::default(),
            service: String::new(),
            interval: Interval::millis(400),
            timeout: Interval::millis(200),
            unhealthy_threshold: 2,
            healthy_threshold: 1,
            failures: 5,
            ejection_time: Interval::secs(10),
            slow_start: Interval::secs(10),
        }
    }
}

impl Settings for HealthSettings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        for (key, interval) in [("interval", self.interval), ("timeout", self.timeout)] {
            if interval.0.is_zero() {
                errors.push(KeyError::new(key, "must be positive; `enabled = false` turns the checks off"));
            }
        }
        for (key, number) in
            [("unhealthy_threshold", self.unhealthy_threshold), ("healthy_threshold", self.healthy_threshold)]
        {
            if number == 0 {
                errors.push(KeyError::new(key, "must be positive"));
            }
        }
        if !self.service.is_empty() && self.kind != ProbeKind::Request {
            errors.push(KeyError::new("service", "is asked for by `kind = \"request\"` only"));
        }
        errors
    }
}

// === impl Health ===

impl Health {
    /// Whether the backend is to be used.
    pub(crate) fn is_in(&self) -> bool {
        self.out.is_none()
    }

    /// Whether what is on its way to it is not going to be answered.
    pub(crate) fn is_lost(&self) -> bool {
        self.out.as_ref().is_some_and(|out| out.lost)
    }

    /// Whether it is waited for an answer that has to come at once.
    pub(crate) fn is_doubted(&self) -> bool {
        self.silent > 0 && self.is_in()
    }

    /// When a backend that is used last answered anything.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.heard.filter(|_| self.is_in())
    }

    /// A backend that is new, or used again from `now` on.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// Its part of the whole that it would get, above zero and up to one.
    pub(crate) fn part(&self, settings: &HealthSettings, now: Instant) -> f64 {
        let (Some(since), Some(whole)) = (self.since, settings.slow_start.positive()) else { return 1.0 };
        (now.saturating_duration_since(since).as_secs_f64() / whole.as_secs_f64()).clamp(0.1, 1.0)
    }

    /// A probe has ended, or was waited for.
    pub(crate) fn probed(
        &mut self,
        settings: &HealthSettings,
        now: Instant,
        probed: Probed,
    ) -> Option<Change> {
        match (&mut self.out, probed) {
            (None, Probed::Answered) => (self.silent, self.heard) = (0, Some(now)),
            // One that answers exports meanwhile is slow, and not gone.
            (None, Probed::Silent(since)) if self.heard.is_some_and(|heard| heard > since) => self.silent = 0,
            (None, Probed::Silent(_)) => {
                self.silent += 1;
                if self.silent >= settings.unhealthy_threshold {
                    return self.eject(now, Duration::ZERO, "silent");
                }
            }
            (None, Probed::Refused) => return self.eject(now, Duration::ZERO, "refused"),
            (Some(out), Probed::Answered) => {
                out.answered += 1;
                if out.answered >= settings.healthy_threshold && now >= out.until {
                    return self.back(now);
                }
            }
            (Some(out), Probed::Refused) => {
                // Under load exports may fail faster than a probe tells why: it is not there, so it need not rest, either.
                (out.answered, out.until) = (0, now);
            }
            (Some(out), Probed::Silent(_)) => out.answered = 0,
        }
        None
    }

    /// An export that took so long has ended: it was answered, or it has failed.
    pub(crate) fn exported(
        &mut self,
        settings: &HealthSettings,
        now: Instant,
        took: Duration,
        ok: bool,
    ) -> Option<Change> {
        if ok {
            (self.failed, self.silent, self.heard) = (0, 0, Some(now));
            // Where all are left out, all are used, and one that takes something works. What it took before says nothing.
            let works = self.out.as_ref().is_some_and(|out| out.since + took <= now);
            return if works { self.back(now) } else { None };
        }
        // What was in flight when another failed tells nothing new: a connection takes all of its requests with it.
        if self.counted.is_some_and(|counted| now < counted + took) {
            return None;
        }
        (self.failed, self.counted) = (self.failed.saturating_add(1), Some(now));
        let ejects = settings.failures > 0 && self.failed >= settings.failures && self.is_in();
        if ejects { self.eject(now, settings.ejection_time.0, "failures") } else { None }
    }

    /// It can not even be tried.
    pub(crate) fn broken(&mut self, settings: &HealthSettings, now: Instant) -> Option<Change> {
        let was_in = self.is_in();
        self.eject(now, settings.ejection_time.0, "broken").filter(|_| was_in)
    }

    fn eject(&mut self, now: Instant, rest: Duration, reason: &'static str) -> Option<Change> {
        let until = now + rest.min(Duration::from_secs(86_400));
        self.out = Some(Out { since: now, until, answered: 0, lost: reason == "silent" });
        Some(Change::Ejected(reason))
    }

    fn back(&mut self, now: Instant) -> Option<Change> {
        *self = Self { since: Some(now), heard: Some(now), ..Self::default() };
        Some(Change::Returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fresh() -> (Health, HealthSettings, Instant) {
        (Health::default(), HealthSettings::default(), Instant::now())
    }

    #[test]
    fn a_refused_connection_is_enough_and_silence_has_to_last() {
        let (mut health, settings, now) = fresh();
        assert_eq!(health.probed(&settings, now, Probed::Refused), Some(Change::Ejected("refused")));
        assert!(!health.is_in() && !health.is_lost());
        let (mut health, settings, now) = fresh();
        assert_eq!(health.probed(&settings, now, Probed::Silent(now)), None);
        assert!(health.is_doubted());
        assert_eq!(health.probed(&settings, now, Probed::Answered), None);
        assert!(!health.is_doubted());
        assert_eq!(health.probed(&settings, now + SECOND, Probed::Silent(now + SECOND)), None);
        let ejected = health.probed(&settings, now + 2 * SECOND, Probed::Silent(now + SECOND));
        assert_eq!(ejected, Some(Change::Ejected("silent")));
        assert!(health.is_lost());
    }

    #[test]
    fn what_answers_exports_is_not_silent_however_slow_it_is() {
        let (mut health, settings, now) = fresh();
        for second in 1..10 {
            assert_eq!(health.exported(&settings, now + second * SECOND, 5 * SECOND, true), None);
            let waited = Probed::Silent(now + second * SECOND - SECOND / 2);
            assert_eq!(health.probed(&settings, now + second * SECOND, waited), None);
            assert!(!health.is_doubted());
        }
        assert_eq!(health.heard(), Some(now + 9 * SECOND));
        // One answer does not speak for what comes after it.
        assert_eq!(health.probed(&settings, now + 10 * SECOND, Probed::Silent(now + 9 * SECOND)), None);
        assert!(health.is_doubted());
    }

    #[test]
    fn it_returns_after_as_many_answers_in_a_row_as_are_asked_for() {
        let (mut health, mut settings, now) = fresh();
        settings.healthy_threshold = 2;
        health.probed(&settings, now, Probed::Refused);
        for probed in [Probed::Answered, Probed::Silent(now), Probed::Answered] {
            assert_eq!(health.probed(&settings, now, probed), None);
        }
        assert_eq!(health.probed(&settings, now, Probed::Answered), Some(Change::Returned));
        assert!(health.is_in() && !health.is_doubted());
    }

    #[test]
    fn exports_that_fail_eject_for_a_while_one_whose_probes_are_answered() {
        let (mut health, settings, start) = fresh();
        for (second, ok) in (1..).zip([false, false, true, false, false, false, false]) {
            assert_eq!(health.exported(&settings, start + second * SECOND, SECOND, ok), None);
        }
        let now = start + 8 * SECOND;
        assert_eq!(health.exported(&settings, now, SECOND, false), Some(Change::Ejected("failures")));
        assert_eq!(health.probed(&settings, now + 9 * SECOND, Probed::Answered), None);
        assert_eq!(health.probed(&settings, now + 10 * SECOND, Probed::Answered), Some(Change::Returned));
        // It begins anew.
        assert_eq!(health.exported(&settings, now + 11 * SECOND, SECOND, false), None);
    }

    /// Under much load exports fail faster than the first of them is looked into.
    #[test]
    fn one_that_was_killed_is_back_with_its_first_answer_however_many_exports_failed_before_a_probe_did() {
        let (mut health, settings, now) = fresh();
        let failed = |health: &mut Health| health.exported(&settings, now, Duration::ZERO, false);
        let ejected = (0..settings.failures).filter_map(|_| failed(&mut health)).last();
        assert_eq!(ejected, Some(Change::Ejected("failures")));
        assert_eq!(
            health.probed(&settings, now + SECOND, Probed::Answered),
            None,
            "it works, and fails all the same"
        );
        assert_eq!(health.probed(&settings, now + SECOND, Probed::Refused), None);
        assert_eq!(health.probed(&settings, now + 2 * SECOND, Probed::Answered), Some(Change::Returned));
    }

    #[test]
    fn exports_that_fail_together_are_one_failure() {
        let (mut health, settings, now) = fresh();
        for request in 0..20 {
            let failed = now + Duration::from_millis(request);
            assert_eq!(health.exported(&settings, failed, SECOND, false), None);
        }
        assert_eq!(health.failed, 1);
    }

    #[test]
    fn what_takes_something_is_back_unless_it_was_sent_before() {
        let (mut health, settings, now) = fresh();
        health.probed(&settings, now, Probed::Refused);
        assert_eq!(health.exported(&settings, now + SECOND, SECOND, false), None);
        assert_eq!(health.exported(&settings, now + SECOND, 2 * SECOND, true), None);
        assert_eq!(health.exported(&settings, now + SECOND, SECOND, true), Some(Change::Returned));
    }

    #[test]
    fn it_gets_its_part_little_by_little() {
        let (mut health, settings, now) = fresh();
        assert_eq!(health.part(&settings, now), 1.0);
        health.begin(now);
        assert_eq!(health.part(&settings, now), 0.1);
        assert_eq!(health.part(&settings, now + 5 * SECOND), 0.5);
        assert_eq!(health.part(&settings, now + 60 * SECOND), 1.0);
        let at_once = HealthSettings { slow_start: Interval::secs(0), ..settings };
        assert_eq!(health.part(&at_once, now), 1.0);
    }
}
