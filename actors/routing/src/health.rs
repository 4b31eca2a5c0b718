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
pub(crate) struct HealthSettings {
    /// Whether backends are probed, and left out while they do not work.
    pub(crate) enabled: bool,
    /// What a probe is.
    pub(crate) kind: ProbeKind,
    /// The service that a `grpc` probe asks about; the whole server if it is empty.
    pub(crate) service: String,
    /// How often each backend is probed, give or take a tenth. One whose export has failed is probed at once.
    pub(crate) interval: Interval,
    /// How long an answer may take.
    pub(crate) timeout: Interval,
    /// So many probes in a row have to be without an answer; the next follows at once. A connection that is refused is
    /// enough by itself.
    pub(crate) unhealthy_threshold: u32,
    /// So many probes in a row have to be answered before a backend is used again.
    pub(crate) healthy_threshold: u32,
    /// So many exports in a row have to fail for a backend to be left out whose probes are answered; `0` is any number.
    /// One that asks for time (`RetryInfo`) works.
    pub(crate) failures: u32,
    /// How long such a backend is left out.
    pub(crate) ejection_time: Interval,
    /// How long a backend that is used again, or is new, takes to get its whole part under `round_robin` and
    /// `least_loaded`; `0s` is at once. A ring knows no smaller part.
    pub(crate) slow_start: Interval,
}

/// What a probe is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProbeKind {
    /// A connection, which is closed again.
    #[default]
    Tcp,
    /// A call of `grpc.health.v1.Health/Check`, over the connection settings of `protocol.otlp`.
    Grpc,
}

/// What a probe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    Answered,
    /// It says itself that it does not work, or nobody listens there.
    Refused,
    /// No answer.
    Silent,
}

/// A backend's health.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Probes without an answer, since the last with one.
    silent: u32,
    /// Exports that failed, since the last that did not.
    failed: u32,
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
            interval: Interval::secs(1),
            timeout: Interval::millis(500),
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
        if !self.service.is_empty() && self.kind != ProbeKind::Grpc {
            errors.push(KeyError::new("service", "is asked for by `kind = \"grpc\"` only"));
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

    /// Whether it is waited for an answer that has to come at once.
    pub(crate) fn is_doubted(&self) -> bool {
        self.silent > 0 && self.is_in()
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

    /// A probe has ended.
    pub(crate) fn probed(
        &mut self,
        settings: &HealthSettings,
        now: Instant,
        probed: Probed,
    ) -> Option<Change> {
        match (probed, &mut self.out) {
            (Probed::Answered, None) => self.silent = 0,
            (Probed::Answered, Some(out)) => {
                (self.silent, out.answered) = (0, out.answered + 1);
                if out.answered >= settings.healthy_threshold && now >= out.until {
                    return self.back(now);
                }
            }
            (_, Some(out)) => out.answered = 0,
            (Probed::Refused, None) => return self.eject(now, Duration::ZERO, "refused"),
            (Probed::Silent, None) => {
                self.silent += 1;
                if self.silent >= settings.unhealthy_threshold {
                    return self.eject(now, Duration::ZERO, "silent");
                }
            }
        }
        None
    }

    /// An export that took so long has ended.
    pub(crate) fn exported(
        &mut self,
        settings: &HealthSettings,
        now: Instant,
        took: Duration,
        ok: bool,
    ) -> Option<Change> {
        if ok {
            self.failed = 0;
            // Where all are left out, all are used, and one that takes something works. What it took before says nothing.
            let works = self.out.as_ref().is_some_and(|out| out.since + took <= now);
            return if works { self.back(now) } else { None };
        }
        self.failed = self.failed.saturating_add(1);
        let ejects = settings.failures > 0 && self.failed >= settings.failures && self.is_in();
        if ejects { self.eject(now, settings.ejection_time.0, "failures") } else { None }
    }

    /// It can not even be tried.
    pub(crate) fn broken(&mut self, settings: &HealthSettings, now: Instant) -> Option<Change> {
        let was_in = self.is_in();
        self.eject(now, settings.ejection_time.0, "broken").filter(|_| was_in)
    }

    fn eject(&mut self, now: Instant, rest: Duration, reason: &'static str) -> Option<Change> {
        self.out = Some(Out { since: now, until: now + rest.min(Duration::from_secs(86_400)), answered: 0 });
        Some(Change::Ejected(reason))
    }

    fn back(&mut self, now: Instant) -> Option<Change> {
        *self = Self { since: Some(now), ..Self::default() };
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
        assert!(!health.is_in());
        let (mut health, settings, now) = fresh();
        assert_eq!(health.probed(&settings, now, Probed::Silent), None);
        assert!(health.is_doubted());
        assert_eq!(health.probed(&settings, now, Probed::Answered), None);
        assert!(!health.is_doubted());
        assert_eq!(health.probed(&settings, now, Probed::Silent), None);
        assert_eq!(health.probed(&settings, now, Probed::Silent), Some(Change::Ejected("silent")));
    }

    #[test]
    fn it_returns_after_as_many_answers_in_a_row_as_are_asked_for() {
        let (mut health, mut settings, now) = fresh();
        settings.healthy_threshold = 2;
        health.probed(&settings, now, Probed::Refused);
        for probed in [Probed::Answered, Probed::Silent, Probed::Answered] {
            assert_eq!(health.probed(&settings, now, probed), None);
        }
        assert_eq!(health.probed(&settings, now, Probed::Answered), Some(Change::Returned));
        assert!(health.is_in() && !health.is_doubted());
    }

    #[test]
    fn exports_that_fail_eject_for_a_while_one_whose_probes_are_answered() {
        let (mut health, settings, now) = fresh();
        for ok in [false, false, true, false, false, false, false] {
            assert_eq!(health.exported(&settings, now, SECOND, ok), None);
        }
        assert_eq!(health.exported(&settings, now, SECOND, false), Some(Change::Ejected("failures")));
        assert_eq!(health.probed(&settings, now + 9 * SECOND, Probed::Answered), None);
        assert_eq!(health.probed(&settings, now + 10 * SECOND, Probed::Answered), Some(Change::Returned));
        // It begins anew.
        assert_eq!(health.exported(&settings, now, SECOND, false), None);
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
