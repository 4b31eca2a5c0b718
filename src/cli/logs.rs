//! The log of the process: where it goes, what is in it, and how a panic looks in it.

use std::io::{IsTerminal as _, Stderr, Write, stderr};
use std::panic::PanicHookInfo;

use crate::engine::config::LogEncoding;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The environment variable that wins over the configuration and loses to the flag.
const VARIABLE: &str = "WATERSHED_LOG";

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The line under which a terminal shows progress is erased before a log line is written, and is shown again
/// by the next progress.
const ERASE: &[u8] = b"\r\x1b[K";

/// Installs the log and the panic hook. `level` is a level or a list of directives.
pub(crate) fn install(level: &str, format: Format, progress: bool) -> Result<(), String> {
    let directives = directives(level);
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        format!(
            "error: log level \"{level}\": {error}\n  use error, warn, info, debug or trace, or directives such as \
             \"info,watershed_otlp=debug\" (--log-level, {VARIABLE} or service.telemetry.logs.level)"
        )
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(stderr().is_terminal())
        .with_writer(move || Log::new(progress));
    let lines = match format {
        Format::Text => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let log = tracing_subscriber::registry().with(filter).with(lines);
    #[cfg(feature = "self-telemetry")]
    let log = log.with(watershed_self_telemetry::log_layer());
    log.try_init().map_err(|error| format!("the log could not be installed: {error}"))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// The level that counts: the flag's, the environment's or the configuration's.
pub(crate) fn level(flag: Option<&str>, configured: &str) -> String {
    let environment = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty());
    flag.map(str::to_owned).or(environment).unwrap_or_else(|| configured.to_owned())
}

/// A bare level is meant for Watershed. Its libraries would drown it, and the web server of the endpoints tells
/// of every start and stop what the line that names its address has told.
fn directives(level: &str) -> String {
    match level.to_ascii_lowercase().as_str() {
        "info" => "info,actix_server=warn".to_owned(),
        verbose @ ("debug" | "trace") => format!("info,actix_server=warn,watershed={verbose}"),
        // otelcol's spelling of it.
        "warning" => "warn".to_owned(),
        _ => level.to_owned(),
    }
}

/// One line, in the log like everything else: whoever supervises the actor says what follows from it.
fn log_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let text = payload.downcast_ref::<&'static str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = one_line(text.unwrap_or("a panic without a message"));
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    tracing::error!(thread, location, "panicked: {message}");
}

/// `assert_eq!` and its like write several.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}

// === impl Format ===

impl From<LogEncoding> for Format {
    fn from(encoding: LogEncoding) -> Self {
        match encoding {
            LogEncoding::Console => Self::Text,
            LogEncoding::Json => Self::Json,
        }
    }
}

/// Where log lines go.
struct Log {
    out: Stderr,
    erase: bool,
}

// === impl Log ===

impl Log {
    fn new(erase: bool) -> Self {
        Self { out: stderr(), erase }
    }
}

impl Write for Log {
    /// Never fails: a log that can not be written is nothing a stage should end by, and whoever logs would only
    /// try to say so on the same stream.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if std::mem::take(&mut self.erase) {
            let _ = self.out.write_all(ERASE);
        }
        let _ = self.out.write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _ = self.out.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_meant_for_watershed() {
        assert_eq!(directives("debug"), "info,actix_server=warn,watershed=debug");
        assert_eq!(directives("INFO"), "info,actix_server=warn");
        assert_eq!(directives("error"), "error");
        assert_eq!(directives("warn,h2=trace"), "warn,h2=trace");
    }

    #[test]
    fn a_panic_is_one_line() {
        assert_eq!(
            one_line("left is not right\n  left: 1\n right: 2"),
            "left is not right, left: 1, right: 2"
        );
    }

    #[test]
    fn the_flag_wins() {
        assert_eq!(level(Some("trace"), "info"), "trace");
    }
}
