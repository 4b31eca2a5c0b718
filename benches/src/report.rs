//! What was measured, as a table and as a chart.

use std::fmt::Write;

use crate::case::{Case, PLAIN};
use crate::cli::{Cli, Relay};
use crate::player::Turn;
use crate::table;

/// The turns of one relay at one case.
struct Row<'a> {
    relay: Relay,
    turns: Vec<&'a Turn>,
}

impl Row<'_> {
    fn all(&self, value: fn(&Turn) -> f64) -> Vec<f64> {
        self.turns.iter().map(|turn| value(turn)).collect()
    }

    fn median(&self, value: fn(&Turn) -> f64) -> f64 {
        table::median(self.all(value))
    }

    fn cpu(&self) -> f64 {
        self.median(|turn| turn.cpu_us_per_item)
    }

    /// How many times `base`'s it is: the geometric mean over the rounds. The turns of one round lie beside each other, so
    /// what slows a machine for minutes is in both and cancels out; it is the part of a figure that a second run finds
    /// again.
    fn times(&self, base: &Self, value: fn(&Turn) -> f64) -> f64 {
        let rounds = self.turns.iter().zip(&base.turns);
        let logarithms = rounds.map(|(own, base)| (value(own) / value(base)).ln());
        (logarithms.sum::<f64>() / self.turns.len() as f64).exp()
    }

    fn peak(&self) -> f64 {
        self.median(|turn| turn.peak_rss_bytes as f64)
    }
}

/// The relays that took part in a case, in the order of their turns.
fn rows<'a>(case: &Case, turns: &'a [Turn]) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for turn in turns.iter().filter(|turn| turn.case == case.name) {
        match rows.iter_mut().find(|row| row.relay == turn.relay) {
            Some(row) => row.turns.push(turn),
            None => rows.push(Row { relay: turn.relay, turns: vec![turn] }),
        }
    }
    rows
}

/// Prints a table for each case.
pub fn print(cli: &Cli, cases: &[Case], turns: &[Turn]) {
    println!(
        "{} requests in flight a connection; {} rounds of {:?}; floor and conventional: {:?}",
        cli.in_flight.unwrap_or(4),
        cli.rounds,
        cli.duration(PLAIN.seconds()),
        cli.shape,
    );
    let head = [
        "relay",
        "CPU us an item",
        "to floor",
        "x ours",
        "merged",
        "peak RSS",
        "x ours",
        "bytes out",
        "p50",
        "p99",
        "items/s",
        "CPU",
        "refused",
        "twice",
    ];
    for case in cases {
        let rows = rows(case, turns);
        let of = |relay: Relay| rows.iter().find(|row| row.relay == relay);
        let times = |row: &Row<'_>, base: Relay, value: fn(&Turn) -> f64| {
            of(base).map_or("-".to_owned(), |base| format!("{:.2}", row.times(base, value)))
        };
        let (cpu, peak) = (|turn: &Turn| turn.cpu_us_per_item, |turn: &Turn| turn.peak_rss_bytes as f64);
        let cells = rows.iter().map(|row| {
            vec![
                row.relay.to_string(),
                table::spread(&row.all(cpu)),
                times(row, Relay::Floor, cpu),
                times(row, Relay::Watershed, cpu),
                format!("{:.1}", row.median(|turn| turn.merge_factor)),
                table::mib(row.peak() as u64),
                times(row, Relay::Watershed, peak),
                format!("{:.1}", row.median(|turn| turn.bytes_out_per_item)),
                table::millis(row.median(|turn| turn.p50_ns as f64) as u64),
                table::millis(row.median(|turn| turn.p99_ns as f64) as u64),
                format!("{:.0} k", row.median(|turn| turn.items_per_second) / 1e3),
                format!("{:.0} %", row.median(|turn| turn.cpu_percent)),
                format!("{:.2}", row.median(|turn| turn.refused_per_ok)),
                format!("{:.0}", row.all(|turn| turn.verdict.twice as f64).iter().sum::<f64>()),
            ]
        });
        println!("\n{}: {}\n", case.name, case.about);
        table::print(&head, &cells.collect::<Vec<_>>());
    }
}

const BAR: f64 = 14.0;
const LABELS: f64 = 250.0;
const WIDTH: f64 = 900.0;

/// CPU an item as bars: every case's relays beside each other, on a logarithmic scale, since costs lie a factor of a
/// hundred apart.
pub fn chart(cases: &[Case], turns: &[Turn]) -> String {
    let all: Vec<(&Case, Vec<Row<'_>>)> = cases.iter().map(|case| (case, rows(case, turns))).collect();
    let costs = || all.iter().flat_map(|(_, rows)| rows.iter().map(Row::cpu));
    let least = costs().fold(f64::INFINITY, f64::min) / 2.0;
    let most = costs().fold(0.0, f64::max);
    let room = WIDTH - LABELS - 60.0;
    let length = |cost: f64| (cost / least).ln() / (most / least).ln() * room;
    let lines: usize = all.iter().map(|(_, rows)| rows.len() + 1).sum();
    let height = (lines + 1) as f64 * BAR + 20.0;
    let mut svg = String::new();
    // Writing to text does not fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"14\" font-weight=\"bold\">CPU microseconds an item, user and system; logarithmic, shorter is better</text>"
    );
    let mut y = 20.0 + BAR;
    for (case, rows) in &all {
        for (index, row) in rows.iter().enumerate() {
            let base = y + BAR - 4.0;
            if index == 0 {
                let _ =
                    writeln!(svg, "<text x=\"10\" y=\"{base}\" font-weight=\"bold\">{}</text>", case.name);
            }
            let colour = match row.relay {
                Relay::Watershed => "#1b6ca8",
                Relay::Floor => "#9aa5b1",
                Relay::Conventional => "#c9b458",
                Relay::Otelcol => "#d9822b",
                Relay::Rotel => "#8c5a9e",
            };
            let (cost, long) = (row.cpu(), length(row.cpu()));
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LABELS}\" y=\"{y}\" width=\"{long:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{base}\">{cost:.2}</text>",
                LABELS - 6.0,
                row.relay,
                BAR - 3.0,
                LABELS + long + 4.0,
            );
            y += BAR;
        }
        y += BAR;
    }
    svg.push_str("</svg>\n");
    svg
}
