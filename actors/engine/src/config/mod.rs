//! From TOML to a checked plan.
//!
//! Everything is checked before anything starts, and everything that is wrong is told at once, each with its
//! place and what would be right. The way there:
//!
//! 1. every text is read with the place of each key and value (`tree`), and its references are expanded
//!    (`expand`);
//! 2. the layers, files, environment and command line, are merged, and each value keeps its place (`layers`);
//! 3. each component's table is read into the settings of its kind, and complaints are traced back (`typed`);
//! 4. names are resolved and the rules across components checked (`role`, `promise`).

mod components;
mod describe;
mod diagnostic;
mod diff;
mod expand;
mod fields;
mod graph;
mod layers;
mod memory;
mod pipeline;
mod place;
mod plan;
mod promise;
mod role;
mod service;
mod source;
mod tree;
mod typed;
mod wording;
mod written;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use diff::{Change, Class, Diff, Fate, RoleDiff};
pub use place::Place;
pub use plan::{
    BranchPlan, BudgetPlan, ExporterPlan, ExtensionPlan, LogEncoding, PipelinePlan, Plan, ProcessorPlan,
    ReceiverPlan, RolePlan, ServicePlan,
};
pub use source::Sources;

use watershed_stage::Registry;

use diagnostic::Report;
use fields::Fields;
use role::Surroundings;
use tree::Node;

/// The tables of a file that has roles.
const ROLES: [&str; 2] = ["agent", "gateway"];

/// The tables of a collector.
const SECTIONS: [&str; 4] = ["receivers", "processors", "exporters", "pipelines"];

/// Reads, merges and checks a configuration whose components are of the kinds in `registry`.
pub fn load(sources: &Sources, registry: &Registry) -> Result<Plan, Diagnostics> {
    let mut report = Report::default();
    let memory = memory::total();
    let mut roles = Vec::new();
    let mut service = service::defaults();
    if let Some(layers) = layers::read(sources, &mut report) {
        match layers::merge(&layers) {
            Ok(root) => {
                service = service::read(root.get("service"), &mut report);
                roles = read_roles(&root, registry, memory, &mut report);
            }
            Err(error) => report.error_nowhere(format!("the layers can not be merged: {error}"), None),
        }
    }
    let limits: u64 = roles.iter().map(|role| role.budget.limit).fold(0, u64::saturating_add);
    if let Some(memory) = memory.filter(|memory| limits > *memory) {
        let (limits, memory) = (limits / memory::MIB, memory / memory::MIB);
        report.warn(
            None,
            format!("the memory budgets, {limits} MiB, exceed the memory of {memory} MiB"),
            None,
        );
    }
    let warnings = report.finish()?;
    Ok(Plan { roles, service, warnings, memory })
}

fn read_roles(root: &Node, registry: &Registry, memory: Option<u64>, report: &mut Report) -> Vec<RolePlan> {
    let mut fields = Fields::of(root, report);
    let _ = fields.node("service");
    let named: Vec<(&str, &Node)> =
        ROLES.into_iter().filter_map(|name| Some((name, fields.node(name)?))).collect();
    let surroundings = Surroundings { registry, memory, roles: named.len().max(1) };
    if named.is_empty() {
        return vec![role::read("collector", fields, surroundings, report)];
    }
    for section in SECTIONS {
        if let Some(node) = fields.node(section) {
            let message = format!("`{section}` stands beside `[agent]` or `[gateway]`");
            let help = "a file is one collector or has roles: put it into one of them".to_owned();
            report.error(&node.key, message, Some(help));
        }
    }
    fields.finish(&[], report);
    let mut roles = Vec::new();
    for (name, node) in named {
        let fields = Fields::of(node, report);
        roles.push(role::read(name, fields, surroundings, report));
    }
    roles
}
