//! What the process says of its health, in the words of otelcol's `health_check`.

use std::time::{Duration, SystemTime};

use crate::engine::Health;
use serde_json::{Value, json};

use super::time;

/// Where the process is in its life.
pub(super) enum Phase {
    /// Not every receiver listens yet.
    Starting,
    /// Told to stop: a load balancer must look elsewhere, while what is held is sent on.
    Draining,
    /// Started.
    Serving {
        /// What the supervisor sees.
        health: Health,
        /// When it had started.
        up_since: SystemTime,
        /// How long ago that was.
        uptime: Duration,
    },
}

/// An HTTP answer.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

// === impl Phase ===

impl Phase {
    /// Whether the process should be sent data: `/` and `/readyz`.
    pub(super) fn ready(&self) -> Answer {
        match self {
            Self::Starting => unavailable("starting"),
            Self::Draining => unavailable("draining"),
            Self::Serving { health, up_since, uptime } if health.ok => Answer {
                status: 200,
                body: json!({
                    "status": "Server available",
                    "upSince": time::rfc3339(*up_since),
                    "uptime": time::go(*uptime),
                }),
            },
            Self::Serving { health, .. } => {
                let mut answer = unavailable("failing");
                answer.body["failed"] = json!(names(&health.failed));
                answer.body["open"] = json!(names(&health.open));
                answer.body["stuck"] = json!(names(&health.stuck));
                answer
            }
        }
    }

    /// Whether a restart of the process would help: `/livez`. A failed pipeline is no reason, since the others
    /// run on, and neither is a drain; a lane that no longer turns is, for nothing inside can free it.
    pub(super) fn live(&self) -> Answer {
        match self {
            Self::Serving { health, .. } if !health.stuck.is_empty() => {
                Answer { status: 503, body: json!({ "status": "stuck", "stuck": names(&health.stuck) }) }
            }
            _ => Answer { status: 200, body: json!({ "status": "alive" }) },
        }
    }
}

fn unavailable(reason: &str) -> Answer {
    Answer { status: 503, body: json!({ "status": "Server not available", "reason": reason }) }
}

fn names(names: &[std::sync::Arc<str>]) -> Vec<&str> {
    names.iter().map(|name| &**name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(health: Health) -> Phase {
        Phase::Serving { health, up_since: SystemTime::UNIX_EPOCH, uptime: Duration::from_millis(61_500) }
    }

    #[test]
    fn a_healthy_server_says_what_otelcol_says() {
        let answer = serving(Health { ok: true, ..Health::default() }).ready();
        assert_eq!(answer.status, 200);
        let body = r#"{"status":"Server available","upSince":"1970-01-01T00:00:00Z","uptime":"1m1.5s"}"#;
        assert_eq!(answer.body, serde_json::from_str::<Value>(body).unwrap());
    }

    #[test]
    fn an_unhealthy_server_names_what_has_failed() {
        let health = Health { failed: vec!["agent/pipelines/logs".into()], ..Health::default() };
        let phase = serving(health);
        let answer = phase.ready();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.body["status"], "Server not available");
        assert_eq!(answer.body["failed"], json!(["agent/pipelines/logs"]));
        assert_eq!(phase.live().status, 200, "a restart would stop the pipelines that still run");
    }

    #[test]
    fn a_stuck_lane_is_worth_a_restart() {
        let health = Health { stuck: vec!["lane 1".into()], ..Health::default() };
        assert_eq!(serving(health).live().status, 503);
    }

    #[test]
    fn starting_and_draining_are_not_ready_but_alive() {
        for phase in [Phase::Starting, Phase::Draining] {
            assert_eq!(phase.ready().status, 503);
            assert_eq!(phase.live().status, 200);
        }
    }
}
