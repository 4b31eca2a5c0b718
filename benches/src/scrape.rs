//! What scraping costs: one target with many series, scraped each second, beside the OpenTelemetry Collector.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use crate::case::Tls;
use crate::cli::{Cli, Relay};
use crate::process::{Child, own};
use crate::sink::SinkProcess;
use crate::{peers, table};

/// Lines of samples in an exposition, about, unless `--items` says otherwise.
const SERIES: usize = 20_000;

/// Scrapes before those that are measured: caches are made at the first.
const WARM: u64 = 3;

/// How long after it was answered a scrape is certainly over: the next is to come after that.
const REST: Duration = Duration::from_millis(700);

/// How long a scrape may be waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Series that a scrape has beside the target's: `up` and four of its kind.
const OWN: u64 = 5;

/// Where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Exporter {
    /// Nowhere: what is left is reading.
    Nop,
    /// Over gRPC to a sink that counts.
    Otlp,
}

#[derive(Debug, Serialize)]
struct Turn {
    relay: Relay,
    exporter: Exporter,
    /// Lines of samples that were read.
    series: u64,
    cpu_ns: u64,
    peak_rss_bytes: u64,
}

/// Measures each relay that is there, in turns, and prints.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let relays = [Relay::Watershed].into_iter().chain((*peers::HAS_FULL).then_some(Relay::Otelcol));
    let relays = cli.relays(&relays.collect::<Vec<_>>());
    let mut turns = Vec::new();
    for _ in 0..cli.rounds {
        for exporter in [Exporter::Nop, Exporter::Otlp] {
            for relay in &relays {
                turns.push(turn(cli, *relay, exporter).with_context(|| format!("{relay}"))?);
            }
        }
    }
    if cli.json {
        println!("{}", serde_json::to_string_pretty(&turns)?);
    } else {
        print(cli, &relays, &turns);
    }
    Ok(())
}

fn turn(cli: &Cli, relay: Relay, exporter: Exporter) -> anyhow::Result<Turn> {
    let target = Target::start(cli.items.unwrap_or(SERIES))?;
    let mut sink = SinkProcess::start(Tls::Off, Path::new(""))?;
    let directory = tempfile::tempdir()?;
    let mut command = match relay {
        Relay::Watershed => {
            let config = directory.path().join("watershed.toml");
            std::fs::write(&config, config_of(cli, exporter, target.address, sink.addr))?;
            let mut command = own(relay)?;
            command.arg("--config").arg(config);
            command
        }
        Relay::Otelcol => {
            let mut command = peers::full_collector("scrape");
            let exporter = if exporter == Exporter::Nop { "nop" } else { "otlp_grpc" };
            command.env("TARGET", target.address.to_string()).env("SINK", sink.addr.to_string());
            command.env("EXPORTER", exporter);
            command
        }
        other => bail!("{other} does not scrape"),
    };
    let child = Child::spawn(command_in(&mut command, directory.path()))?;
    target.wait_for(WARM)?;
    std::thread::sleep(REST);
    let (before, points) = (child.usage()?, sink.snapshot()?.points);
    let scrapes = cli.duration(8.0).as_secs();
    target.wait_for(WARM + scrapes)?;
    std::thread::sleep(REST);
    let (after, arrived) = (child.usage()?, sink.snapshot()?.points - points);
    ensure!(target.scrapes() == WARM + scrapes, "a scrape takes longer than its second");
    let expected = if exporter == Exporter::Otlp { scrapes * (target.points + OWN) } else { 0 };
    ensure!(arrived == expected, "{arrived} points arrived, of {expected}");
    Ok(Turn {
        relay,
        exporter,
        series: scrapes * target.series,
        cpu_ns: after.since(before).as_nanos() as u64,
        peak_rss_bytes: after.peak_rss,
    })
}

/// In a folder of its own, so that nothing that it writes is left.
fn command_in<'c>(command: &'c mut Command, directory: &Path) -> &'c mut Command {
    command.current_dir(directory)
}

fn config_of(cli: &Cli, exporter: Exporter, target: SocketAddr, sink: SocketAddr) -> String {
    let Cli { budget_mib, .. } = cli;
    let exporter = if exporter == Exporter::Nop { "nop" } else { "otlp" };
    format!(
        r#"[[receivers.prometheus.config.scrape_configs]]
job_name = "bench"
scrape_interval = "1s"
static_configs = [{{ targets = ["{target}"] }}]

[processors.memory_limiter]
check_interval = "1s"
limit_mib = {budget_mib}

[processors.batch]
send_batch_size = 8192
timeout = "200ms"

[exporters.nop]

[exporters.otlp]
endpoint = "http://{sink}"
compression = "none"
tls = {{ insecure = true }}

[pipelines.metrics]
receivers = ["prometheus"]
processors = ["memory_limiter", "batch"]
exporters = ["{exporter}"]
"#
    )
}

fn print(cli: &Cli, relays: &[Relay], turns: &[Turn]) {
    let series = turns.first().map_or(0, |turn| turn.series) / cli.duration(8.0).as_secs().max(1);
    println!(
        "one target of {series} series in text 0.0.4, scraped each second; median of {} turns",
        cli.rounds
    );
    let mut rows = Vec::new();
    for exporter in [Exporter::Nop, Exporter::Otlp] {
        let of = |relay: Relay, value: fn(&Turn) -> f64| {
            let all = turns.iter().filter(|turn| turn.relay == relay && turn.exporter == exporter);
            table::median(all.map(value))
        };
        let cost = |relay| of(relay, |turn| turn.cpu_ns as f64 / turn.series as f64 / 1e3);
        for relay in relays {
            rows.push(vec![
                format!("{exporter:?}").to_lowercase(),
                relay.to_string(),
                format!("{:.3} s", cost(*relay)),
                format!("{:.0}", 1e6 / cost(*relay)),
                format!("{:.2}", cost(*relay) / cost(Relay::Watershed)),
                table::mib(of(*relay, |turn| turn.peak_rss_bytes as f64) as u64),
            ]);
        }
    }
    let head =
        ["exporter", "relay", "CPU a million series", "series a CPU second", "of watershed", "peak RSS"];
    table::print(&head, &rows);
}

/// What is scraped, in threads of this process: its CPU is nobody's.
struct Target {
    address: SocketAddr,
    /// Lines of samples.
    series: u64,
    /// What they are in OTLP.
    points: u64,
    scrapes: Arc<AtomicU64>,
}

// === impl Target ===

impl Target {
    fn start(series: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let scrapes = Arc::new(AtomicU64::new(0));
        let exposed = exposition(series, 0);
        let counted = scrapes.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = counted.clone();
                std::thread::spawn(move || serve(stream, series, &counted));
            }
        });
        Ok(Self { address, series: exposed.series, points: exposed.points, scrapes })
    }

    fn scrapes(&self) -> u64 {
        self.scrapes.load(Ordering::Acquire)
    }

    /// Waits until it was scraped so often.
    fn wait_for(&self, scrapes: u64) -> anyhow::Result<()> {
        let (mut last, mut since) = (self.scrapes(), Instant::now());
        while last < scrapes {
            ensure!(since.elapsed() < PATIENCE, "nobody scrapes");
            std::thread::sleep(Duration::from_millis(5));
            if self.scrapes() > last {
                (last, since) = (self.scrapes(), Instant::now());
            }
        }
        Ok(())
    }
}

/// Answers each request with the next exposition, made in the time between.
fn serve(mut stream: TcpStream, series: usize, scrapes: &AtomicU64) {
    let mut next = exposition(series, scrapes.load(Ordering::Acquire)).text;
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        head.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            next.len()
        );
        if stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(next.as_bytes())).is_err() {
            return;
        }
        let scrape = scrapes.fetch_add(1, Ordering::AcqRel) + 1;
        next = exposition(series, scrape).text;
    }
}

/// What a target says.
struct Exposed {
    text: String,
    series: u64,
    points: u64,
}

/// Counters, gauges and histograms of ten buckets, a third of the lines each, in families of sixty lines; five labels a
/// series. Four of five values are others at each scrape.
fn exposition(series: usize, scrape: u64) -> Exposed {
    let (mut text, mut lines, mut points) = (String::new(), 0, 0);
    for family in 0..series.div_ceil(60) {
        let (kind, suffix) = [("counter", "_total"), ("gauge", ""), ("histogram", "_seconds")][family % 3];
        // Writing to a String can not fail.
        let _ = write!(
            text,
            "# HELP app_metric_{family}{suffix} What the application did there.\n# TYPE app_metric_{family}{suffix} {kind}\n"
        );
        for member in 0..if kind == "histogram" { 5 } else { 60 } {
            let at = family * 60 + member;
            let labels = format!(
                "code=\"{}\",handler=\"/api/v1/resource/{}\",method=\"{}\",namespace=\"production\",pod=\"frontend-7c9d8b5f6-{at:05}\"",
                200 + at % 5,
                at / 15,
                ["GET", "POST", "PUT"][at % 3],
            );
            let value = at as u64 + if at % 5 == 0 { 0 } else { 3 * scrape };
            points += 1;
            if kind != "histogram" {
                lines += 1;
                let fraction = if kind == "gauge" { ".25" } else { "" };
                let _ = writeln!(text, "app_metric_{family}{suffix}{{{labels}}} {value}{fraction}");
                continue;
            }
            lines += 12;
            let bounds = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf"];
            for (bucket, bound) in (1..).zip(bounds) {
                let count = value * bucket;
                let _ =
                    writeln!(text, "app_metric_{family}{suffix}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let _ = write!(
                text,
                "app_metric_{family}{suffix}_sum{{{labels}}} {value}.5\napp_metric_{family}{suffix}_count{{{labels}}} {}\n",
                value * 10,
            );
        }
    }
    Exposed { text, series: lines, points }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exposition_has_what_it_says() {
        let Exposed { text, series, points } = exposition(600, 7);
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count() as u64, series);
        assert_eq!(series, 600);
        assert_eq!(points, 7 * 60 + 3 * 5);
        assert_ne!(text, exposition(600, 8).text);
    }
}
