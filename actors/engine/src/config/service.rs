//! `[service]`: what concerns the process and not one role.

use std::time::Duration;

use watershed_stage::Interval;

use super::diagnostic::Report;
use super::fields::Fields;
use super::place::Spot;
use super::plan::{LogEncoding, ServicePlan};
use super::tree::Node;
use super::wording;

/// Each lane is a thread with a runtime.
const MOST_LANES: usize = 1024;

const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// What holds where nothing is said.
pub(crate) fn defaults() -> ServicePlan {
    ServicePlan {
        lanes: None,
        shutdown_timeout: Duration::from_secs(30),
        log_level: "info".to_owned(),
        log_encoding: LogEncoding::Console,
        metrics: Some("127.0.0.1:8888".to_owned()),
        health: Some("127.0.0.1:13133".to_owned()),
    }
}

/// Reads the table, if there is one.
pub(crate) fn read(node: Option<&Node>, report: &mut Report) -> ServicePlan {
    let mut plan = defaults();
    let Some(node) = node else { return plan };
    let mut service = Fields::of(node, report);
    if let Some((lanes, at)) = service.value::<usize>("lanes", report) {
        if lanes > MOST_LANES {
            let help = "leave it out for one each core".to_owned();
            report.error(&at, format!("`lanes`: at most {MOST_LANES}, each is a thread"), Some(help));
        }
        if lanes == 0 {
            let help = "leave it out for one lane for each core".to_owned();
            report.error(&at, "`lanes`: there must be at least one", Some(help));
        }
        plan.lanes = Some(lanes);
    }
    if let Some((timeout, _)) = service.value::<Interval>("shutdown_timeout", report) {
        plan.shutdown_timeout = timeout.0;
    }
    if let Some(mut telemetry) = service.table("telemetry", report) {
        if let Some(mut logs) = telemetry.table("logs", report) {
            if let Some((level, at)) = logs.value::<String>("level", report) {
                plan.log_level = log_level(level, &at, report);
            }
            if let Some((encoding, _)) = logs.value("encoding", report) {
                plan.log_encoding = encoding;
            }
            logs.finish(&[], report);
        }
        if let Some(mut metrics) = telemetry.table("metrics", report) {
            address(&mut metrics, "address", &mut plan.metrics, report);
            metrics.finish(&[("readers", "metrics are served at `address`")], report);
        }
        telemetry.finish(&[], report);
    }
    if let Some(mut health) = service.table("health", report) {
        address(&mut health, "endpoint", &mut plan.health, report);
        health.finish(&[], report);
    }
    let elsewhere = [
        ("pipelines", "pipelines stand at the top level: `[pipelines.traces]`"),
        ("extensions", "health stands in `[service.health]`; there are no other extensions"),
    ];
    service.finish(&elsewhere, report);
    plan
}

/// A level in either case, or directives for single targets.
fn log_level(level: String, at: &Spot, report: &mut Report) -> String {
    let lower = level.to_lowercase();
    if LEVELS.contains(&lower.as_str()) || lower == "off" {
        return lower;
    }
    if !level.contains(['=', ',']) {
        let help = wording::suggestion(&lower, "levels", &LEVELS);
        report.error(at, "`level`: this is no level of the log", help);
    }
    level
}

/// `host:port`, or an empty text for none.
fn address(fields: &mut Fields<'_>, key: &'static str, address: &mut Option<String>, report: &mut Report) {
    let Some((text, at)) = fields.value::<String>(key, report) else { return };
    let is_address =
        text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !text.is_empty() && !is_address {
        let help = "write it like \"127.0.0.1:8888\", or \"\" for none".to_owned();
        report.error(&at, format!("`{key}`: expected a host and a port"), Some(help));
    }
    *address = Some(text).filter(|text| !text.is_empty());
}
