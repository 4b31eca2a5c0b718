//! The backstop behind the budgets: the process as the system sees it.
//!
//! Budgets count the bytes of telemetry; what they can not see (an allocator that keeps pages, an embedder's
//! own stages) shows in the resident set. While that has grown above the limit, budgets grant only half.

use std::sync::Arc;
use std::time::Duration;

use watershed_delivery::Budget;

use crate::config::BudgetPlan;

/// What a process needs besides telemetry: code, stacks, tables, idle pages of the allocator.
const BASE: u64 = 64 << 20;

/// Looks at the resident set for ever, and sets or clears the alarm of the budgets.
pub(crate) async fn watch(budgets: Vec<(BudgetPlan, Arc<Budget>)>) {
    // What the host had before the engine started is not the engine's.
    let before = resident().unwrap_or(0);
    let limit =
        budgets.iter().map(|(plan, _)| plan.limit).fold(before.saturating_add(BASE), u64::saturating_add);
    let interval =
        budgets.iter().map(|(plan, _)| plan.check_interval).min().unwrap_or(Duration::from_secs(1));
    let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(100)));
    let mut alarmed = false;
    loop {
        ticks.tick().await;
        let Some(resident) = resident() else { return };
        let over = resident > limit;
        if over != alarmed {
            alarmed = over;
            if over {
                tracing::warn!(
                    resident,
                    limit,
                    "memory usage is above the limit; granting half of the budget"
                );
            } else {
                tracing::info!(resident, limit, "memory usage is back within limits");
            }
        }
        for (_, budget) in &budgets {
            budget.set_alarm(over);
        }
    }
}

/// The resident set of this process, in bytes; `None` where there is no procfs.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
