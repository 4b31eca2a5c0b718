//! A plan as a drawing.

use std::fmt::{self, Write as _};

use super::plan::{PipelinePlan, Plan, RolePlan};

// === impl Plan ===

impl Plan {
    /// The topology for a terminal.
    pub fn graph(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.roles.iter().try_for_each(|role| {
            writeln!(out, "{}", role.name)?;
            role.pipelines.iter().try_for_each(|pipeline| role.draw(pipeline, &mut out))
        });
        out
    }

    /// The topology for Graphviz. Receivers and exporters are shared by pipelines, processors are not.
    pub fn graph_dot(&self) -> String {
        let mut out = String::from("digraph watershed {\n  rankdir=LR;\n  node [shape=box];\n");
        let _ = self.roles.iter().try_for_each(|role| role.dot(&mut out));
        out.push_str("}\n");
        out
    }
}

// === impl RolePlan ===

impl RolePlan {
    fn draw(&self, pipeline: &PipelinePlan, out: &mut String) -> fmt::Result {
        let ids = |numbers: &[usize]| -> Vec<&str> {
            numbers
                .iter()
                .filter_map(|number| self.receivers.get(*number))
                .map(|receiver| &*receiver.id)
                .collect()
        };
        let left = ids(&pipeline.receivers);
        let right: Vec<String> = pipeline
            .exporters
            .iter()
            .filter_map(|branch| Some((self.exporters.get(branch.exporter)?, branch.required)))
            .map(|(exporter, required)| {
                format!("{}{}", exporter.id, if required { "" } else { " (optional)" })
            })
            .collect();
        let processors: String =
            pipeline.processors.iter().map(|processor| format!("▶ {} ─", processor.id)).collect();
        let width = left.iter().map(|id| id.chars().count()).max().unwrap_or(0);
        writeln!(out, "  {}", pipeline.id)?;
        for row in 0..left.len().max(right.len()) {
            let line = match left.get(row) {
                Some(id) => format!("{id:width$} ─{}", joint(row, left.len(), ["─", "┬", "┤", "┘"])),
                None => format!("{:width$}   ", ""),
            };
            let middle = match row {
                0 => format!("─{processors}"),
                _ => " ".repeat(1 + processors.chars().count()),
            };
            let end = match right.get(row) {
                Some(id) => format!("{}─▶ {id}", joint(row, right.len(), ["─", "┬", "├", "└"])),
                None => String::new(),
            };
            writeln!(out, "    {}", format!("{line}{middle}{end}").trim_end())?;
        }
        Ok(())
    }

    fn dot(&self, out: &mut String) -> fmt::Result {
        let role = &self.name;
        writeln!(out, "  subgraph {:?} {{\n    label={role:?};", format!("cluster_{role}"))?;
        let node = |out: &mut String, class: &str, id: &str| {
            writeln!(out, "    {:?} [label={id:?}];", format!("{role}/{class}/{id}"))
        };
        self.receivers.iter().try_for_each(|receiver| node(out, "receiver", &receiver.id))?;
        self.exporters.iter().try_for_each(|exporter| node(out, "exporter", &exporter.id))?;
        for pipeline in &self.pipelines {
            let mut from: Vec<String> = pipeline
                .receivers
                .iter()
                .filter_map(|number| Some(format!("{role}/receiver/{}", self.receivers.get(*number)?.id)))
                .collect();
            for processor in &pipeline.processors {
                let class = format!("{}/processor", pipeline.id);
                node(out, &class, &processor.id)?;
                let to = format!("{role}/{class}/{}", processor.id);
                from.iter().try_for_each(|from| {
                    writeln!(out, "    {from:?} -> {to:?} [label={:?}];", pipeline.id)
                })?;
                from = vec![to];
            }
            for branch in &pipeline.exporters {
                let Some(exporter) = self.exporters.get(branch.exporter) else { continue };
                let to = format!("{role}/exporter/{}", exporter.id);
                let style = if branch.required { "solid" } else { "dashed" };
                for from in &from {
                    writeln!(out, "    {from:?} -> {to:?} [label={:?}, style={style}];", pipeline.id)?;
                }
            }
        }
        writeln!(out, "  }}")
    }
}

/// The piece of a line for one row of several: alone, first, between, last.
fn joint(row: usize, rows: usize, [alone, first, between, last]: [&str; 4]) -> &str {
    match row {
        0 if rows == 1 => alone,
        0 => first,
        row if row + 1 == rows => last,
        _ => between,
    }
}
