//! What the process says of its health: in the words of otelcol's `health_check`, and to who wants it verbose with a
//! line for each thing that was looked at, as the servers of Kubernetes do.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::engine::{Health, Observation, State};
use serde_json::{Value, json};

use super::time;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Whether the topology has been up: once it has, for ever.
    Startup,
    /// Whether a restart of the process would help. A failed pipeline is no reason, since the others run on, and neither
    /// is a drain; a thread that no longer turns is, for nothing inside can free it.
    Live,
    /// Whether the process should be sent data.
    Ready,
}

/// Where the process is in its life.
pub(super) enum Phase {
    /// Not every receiver listens yet.
    Starting,
    /// It has started.
    Up(Seen),
}

/// An engine as it is now.
pub(super) struct Seen {
    /// Told to stop: a load balancer must look elsewhere, while what is held is sent on.
    pub(super) is_draining: bool,
    /// What the supervisor sees.
    pub(super) health: Health,
    /// Every actor.
    pub(super) actors: Vec<Observation>,
    /// The budget of each role, if it has a name: what is taken, and all there is.
    pub(super) memory: Vec<(String, f64, f64)>,
    /// When it had started.
    pub(super) up_since: SystemTime,
    /// How long ago that was.
    pub(super) uptime: Duration,
}

/// An HTTP answer.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// One thing that was looked at.
struct Check {
    name: String,
    /// Why it failed.
    failure: Option<String>,
    /// What else there is to know.
    note: String,
}

// === impl Probe ===

impl Probe {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "startupz",
            Self::Live => "livez",
            Self::Ready => "readyz",
        }
    }
}

// === impl Phase ===

impl Phase {
    /// The answer for a machine: the status, and in the body what is wrong and with what.
    pub(super) fn answer(&self, probe: Probe) -> Answer {
        if self.checks(probe).iter().any(|check| check.failure.is_some()) {
            return Answer { status: 503, body: self.complaint(probe) };
        }
        let body = match (probe, self) {
            (Probe::Ready, Self::Up(seen)) => json!({
                "status": "Server available",
                "upSince": time::rfc3339(seen.up_since),
                "uptime": time::go(seen.uptime),
            }),
            (Probe::Startup, _) => json!({ "status": "started" }),
            _ => json!({ "status": "alive" }),
        };
        Answer { status: 200, body }
    }

    /// The answer for people: the status, and a line for each check.
    pub(super) fn verbose(&self, probe: Probe) -> (u16, String) {
        let (mut status, mut text) = (200, String::new());
        for Check { name, failure, note } in self.checks(probe) {
            // Writing to a String can not fail.
            let _ = match failure {
                Some(failure) => {
                    status = 503;
                    writeln!(text, "[-]{name} failed: {failure}")
                }
                None => writeln!(text, "[+]{name} ok{note}"),
            };
        }
        let end = if status == 200 { "passed" } else { "failed" };
        let _ = writeln!(text, "{} check {end}", probe.name());
        (status, text)
    }

    fn checks(&self, probe: Probe) -> Vec<Check> {
        // That this answers at all is what is checked first.
        let mut checks = vec![Check::new("ping")];
        match (probe, self) {
            (Probe::Live, Self::Starting) => {}
            (_, Self::Starting) => {
                checks.push(Check::new("started").failed(Some("not every receiver listens yet")))
            }
            (Probe::Startup, Self::Up(_)) => checks.push(Check::new("started")),
            (Probe::Live, Self::Up(seen)) => seen.turns(&mut checks),
            (Probe::Ready, Self::Up(seen)) => {
                checks.push(Check::new("started"));
                checks.push(Check::new("serving").failed(seen.is_draining.then_some("draining")));
                seen.turns(&mut checks);
                checks.extend(seen.actors.iter().map(Check::of_actor));
                checks.extend(seen.memory.iter().map(Check::of_memory));
            }
        }
        checks
    }

    fn complaint(&self, probe: Probe) -> Value {
        let unavailable = |reason| json!({ "status": "Server not available", "reason": reason });
        let Self::Up(seen) = self else { return unavailable("starting") };
        let Health { failed, open, stuck, .. } = &seen.health;
        if probe == Probe::Live {
            return json!({ "status": "stuck", "stuck": names(stuck) });
        }
        if seen.is_draining {
            return unavailable("draining");
        }
        let mut body = unavailable("failing");
        body["failed"] = json!(names(failed));
        body["open"] = json!(names(open));
        body["stuck"] = json!(names(stuck));
        let broken = seen.actors.iter().filter_map(|actor| Some((&*actor.name, broken(actor)?)));
        body["components"] = broken.map(|(name, why)| (name.to_owned(), json!(why))).collect();
        body
    }
}

// === impl Seen ===

impl Seen {
    /// The threads of the engine.
    fn turns(&self, checks: &mut Vec<Check>) {
        let stuck = &self.health.stuck;
        if stuck.is_empty() {
            checks.push(Check::new("lanes"));
        }
        checks.extend(stuck.iter().map(|lane| Check::new(lane).failed(Some("no longer turns"))));
    }
}

// === impl Check ===

impl Check {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), failure: None, note: String::new() }
    }

    fn failed(self, why: Option<&str>) -> Self {
        Self { failure: why.map(str::to_owned), ..self }
    }

    fn of_actor(actor: &Observation) -> Self {
        let note = match actor.state {
            State::Running => String::new(),
            state => format!(": {}{}", state.as_str(), last_words(actor)),
        };
        Self { name: actor.name.to_string(), failure: broken(actor), note }
    }

    /// Never a failure: overload is answered request by request, with a time to come back. An instance that were taken out
    /// for it would hand its load to the others, which would be the next.
    fn of_memory((role, used, limit): &(String, f64, f64)) -> Self {
        let of = if role.is_empty() { String::new() } else { format!(" of {role}") };
        let full = if used >= limit { ", refusing for now" } else { "" };
        let percent = 100.0 * used / limit.max(1.0);
        Self { note: format!(": {percent:.0} % taken{full}"), ..Self::new(&format!("memory{of}")) }
    }
}

/// Why an actor makes the process unready; `None` if it does not.
fn broken(actor: &Observation) -> Option<String> {
    let state = match actor.state {
        State::Failed => "given up",
        State::Open => "fails again and again, and is tried now and then",
        _ => return None,
    };
    Some(format!("{state}{}", last_words(actor)))
}

fn last_words(actor: &Observation) -> String {
    actor.last_failure.as_ref().map(|failure| format!(": {}", failure.message)).unwrap_or_default()
}

fn names(names: &[std::sync::Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(health: Health) -> Phase {
        Phase::Up(Seen {
            is_draining: false,
            health,
            actors: Vec::new(),
            memory: vec![("agent".into(), 100.0, 100.0)],
            up_since: SystemTime::UNIX_EPOCH,
            uptime: Duration::from_millis(61_500),
        })
    }

    fn draining() -> Phase {
        let Phase::Up(seen) = up(Health { ok: true, ..Health::default() }) else { unreachable!() };
        Phase::Up(Seen { is_draining: true, ..seen })
    }

    fn statuses(phase: &Phase) -> [u16; 3] {
        [Probe::Startup, Probe::Live, Probe::Ready].map(|probe| {
            let answer = phase.answer(probe);
            assert_eq!(answer.status, phase.verbose(probe).0, "{probe:?}");
            answer.status
        })
    }

    #[test]
    fn a_healthy_server_says_what_otelcol_says() {
        let answer = up(Health { ok: true, ..Health::default() }).answer(Probe::Ready);
        assert_eq!(answer.status, 200);
        let body = r#"{"status":"Server available","upSince":"1970-01-01T00:00:00Z","uptime":"1m1.5s"}"#;
        assert_eq!(answer.body, serde_json::from_str::<Value>(body).unwrap());
    }

    #[test]
    fn a_stuck_lane_is_worth_a_restart() {
        let phase = up(Health { stuck: vec!["lane 1".into()], ..Health::default() });
        assert_eq!(statuses(&phase), [200, 503, 503]);
        assert_eq!(phase.answer(Probe::Live).body["stuck"], json!(["lane 1"]));
        assert_eq!(
            phase.verbose(Probe::Live).1,
            "[+]ping ok\n[-]lane 1 failed: no longer turns\nlivez check failed\n"
        );
    }

    #[test]
    fn starting_and_draining_are_not_ready_but_alive() {
        assert_eq!(statuses(&Phase::Starting), [503, 200, 503]);
        assert_eq!(statuses(&draining()), [200, 200, 503]);
        assert_eq!(draining().answer(Probe::Ready).body["reason"], "draining");
        assert!(draining().verbose(Probe::Ready).1.contains("[-]serving failed: draining\n"));
    }

    #[test]
    fn overload_is_told_but_does_not_send_the_load_elsewhere() {
        let phase = up(Health { ok: true, ..Health::default() });
        assert_eq!(statuses(&phase), [200; 3]);
        let (_, text) = phase.verbose(Probe::Ready);
        assert!(text.contains("[+]memory of agent ok: 100 % taken, refusing for now\n"), "{text}");
        assert!(text.ends_with("readyz check passed\n"), "{text}");
    }
}
