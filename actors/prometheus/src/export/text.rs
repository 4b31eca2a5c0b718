//! Families as text: Prometheus' own format 0.0.4, and OpenMetrics 1.0.
//!
//! Sources: `prometheus/docs: docs/instrumenting/exposition_formats.md`, `docs/specs/om/open_metrics_spec.md`.

use super::negotiate::{Format, Syntax};
use super::series::{Exemplar, Series, State};
use super::store::Family;
use crate::labels::{underscored as underscored_labels, unpack};
use crate::naming::{is_plain, underscored};
use crate::translate::{Kind, millis};

/// Writes one family.
pub(super) struct TextWriter<'w> {
    pub(super) out: &'w mut Vec<u8>,
    pub(super) format: Format,
    /// Whether samples carry their time.
    pub(super) timestamps: bool,
}

/// What stands behind a sample's name and labels.
#[derive(Clone, Copy)]
struct Sample<'s> {
    suffix: &'s str,
    /// `le` or `quantile`.
    extra: Option<(&'s str, f64)>,
    value: f64,
    exemplar: Option<&'s Exemplar>,
}

/// The name of a family in a format: OpenMetrics names a counter and an info without their suffix.
pub(super) fn family_name(family: &Family, format: Format) -> String {
    let name = match (format.syntax, family.kind) {
        (Syntax::OpenMetrics, Kind::Counter) => family.name.strip_suffix("_total"),
        (Syntax::OpenMetrics, Kind::Info) => family.name.strip_suffix("_info"),
        _ => None,
    };
    let name = name.unwrap_or(&family.name);
    if format.utf8 || is_plain(name, true) {
        return name.to_owned();
    }
    let mut out = String::with_capacity(name.len());
    underscored(name, true, &mut out);
    out
}

// === impl TextWriter ===

impl TextWriter<'_> {
    pub(super) fn family(&mut self, family: &Family, name: &str) {
        let open = self.format.syntax == Syntax::OpenMetrics;
        let kind = match (family.kind, open) {
            (Kind::Counter, _) => "counter",
            // One that could not be called so has no suffix, and is one of another kind there.
            (Kind::Info, true) if family.name.ends_with("_info") => "info",
            (Kind::Gauge | Kind::Info | Kind::StateSet, _) => "gauge",
            (Kind::Unknown, true) => "unknown",
            (Kind::Unknown, false) => "untyped",
            (Kind::Histogram, _) => "histogram",
            (Kind::Summary, _) => "summary",
        };
        let has_unit = open && kind != "info" && !family.unit.is_empty();
        let unit = &*family.unit;
        if !family.help.is_empty() {
            self.metadata("HELP", name);
            escape(self.out, &family.help, open);
            self.out.push(b'\n');
        }
        self.metadata("TYPE", name);
        self.out.extend_from_slice(kind.as_bytes());
        self.out.push(b'\n');
        if has_unit && name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_')) {
            self.metadata("UNIT", name);
            self.out.extend_from_slice(unit.as_bytes());
            self.out.push(b'\n');
        }
        let suffix = match (open, family.kind) {
            (true, Kind::Counter) => "_total",
            (true, Kind::Info) if kind == "info" => "_info",
            _ => "",
        };
        family.series.iter().for_each(|series| self.series(name, suffix, series));
    }

    fn metadata(&mut self, what: &str, name: &str) {
        self.out.extend_from_slice(b"# ");
        self.out.extend_from_slice(what.as_bytes());
        self.out.push(b' ');
        if is_plain(name, true) {
            self.out.extend_from_slice(name.as_bytes());
        } else {
            self.quoted(name, "");
        }
        self.out.push(b' ');
    }

    fn series(&mut self, name: &str, suffix: &str, series: &Series) {
        let plain = |suffix, value| Sample { suffix, extra: None, value, exemplar: None };
        let exemplar = |at: usize| series.exemplars.get(at).and_then(Option::as_ref);
        match &series.state {
            State::Number(value) => {
                let exemplar = exemplar(0).filter(|_| suffix == "_total");
                self.sample(name, series, Sample { exemplar, ..plain(suffix, *value) });
            }
            State::Classic(classic) => {
                for (at, (bound, count)) in classic.buckets.iter().enumerate() {
                    let (extra, value) = (Some(("le", *bound)), *count as f64);
                    let sample = Sample { extra, exemplar: exemplar(at), ..plain("_bucket", value) };
                    self.sample(name, series, sample);
                }
                self.totals(name, series, classic.sum, classic.count());
            }
            State::Native(native) => {
                // Text has no words for its buckets.
                let extra = Some(("le", f64::INFINITY));
                self.sample(name, series, Sample { extra, ..plain("_bucket", native.count as f64) });
                self.totals(name, series, Some(native.sum), native.count);
            }
            State::Summary(summary) => {
                for (quantile, value) in &summary.quantiles {
                    let extra = Some(("quantile", *quantile));
                    self.sample(name, series, Sample { extra, ..plain("", *value) });
                }
                self.totals(name, series, Some(summary.sum), summary.count);
            }
        }
    }

    fn totals(&mut self, name: &str, series: &Series, sum: Option<f64>, count: u64) {
        let plain = |suffix, value| Sample { suffix, extra: None, value, exemplar: None };
        if let Some(sum) = sum {
            self.sample(name, series, plain("_sum", sum));
        } else if self.format.syntax == Syntax::OpenMetrics {
            // The one is not there without the other.
            return;
        }
        self.sample(name, series, plain("_count", count as f64));
    }

    fn sample(&mut self, name: &str, series: &Series, sample: Sample<'_>) {
        let plain = is_plain(name, true);
        if plain {
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(sample.suffix.as_bytes());
        }
        let mut labels = unpack(&series.labels).peekable();
        if !plain || labels.peek().is_some() || sample.extra.is_some() {
            self.out.push(b'{');
            if !plain {
                self.quoted(name, sample.suffix);
            }
            self.labels(labels);
            if let Some((name, value)) = sample.extra {
                self.comma();
                self.out.extend_from_slice(name.as_bytes());
                self.out.extend_from_slice(b"=\"");
                number(self.out, value, self.format.syntax == Syntax::OpenMetrics);
                self.out.push(b'"');
            }
            self.out.push(b'}');
        }
        self.out.push(b' ');
        number(self.out, sample.value, false);
        if self.timestamps {
            self.out.push(b' ');
            self.time(series.time);
        }
        if let Some(exemplar) = sample.exemplar.filter(|_| self.format.syntax == Syntax::OpenMetrics) {
            self.out.extend_from_slice(b" # {");
            self.labels(unpack(&exemplar.labels));
            self.out.extend_from_slice(b"} ");
            number(self.out, exemplar.value, false);
            if exemplar.time > 0 {
                self.out.push(b' ');
                self.time(exemplar.time);
            }
        }
        self.out.push(b'\n');
    }

    fn labels<'l>(&mut self, labels: impl Iterator<Item = (&'l str, &'l str)> + Clone) {
        let escaped = if self.format.utf8 { None } else { underscored_labels(labels.clone()) };
        match escaped {
            None => labels.for_each(|(name, value)| self.label(name, value)),
            Some(escaped) => escaped.iter().for_each(|(name, value)| self.label(name, value)),
        }
    }

    fn label(&mut self, name: &str, value: &str) {
        self.comma();
        if is_plain(name, false) {
            self.out.extend_from_slice(name.as_bytes());
        } else {
            self.quoted(name, "");
        }
        self.out.extend_from_slice(b"=\"");
        escape(self.out, value, true);
        self.out.push(b'"');
    }

    fn comma(&mut self) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
    }

    fn quoted(&mut self, name: &str, suffix: &str) {
        self.out.push(b'"');
        escape(self.out, name, true);
        self.out.extend_from_slice(suffix.as_bytes());
        self.out.push(b'"');
    }

    /// Milliseconds; OpenMetrics has seconds.
    fn time(&mut self, nanos: u64) {
        let millis = millis(nanos);
        let mut buffer = itoa::Buffer::new();
        if self.format.syntax != Syntax::OpenMetrics {
            return self.out.extend_from_slice(buffer.format(millis).as_bytes());
        }
        self.out.extend_from_slice(buffer.format(millis / 1000).as_bytes());
        let rest = (millis % 1000) as u32;
        let digits = [rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8);
        self.out.push(b'.');
        self.out.extend_from_slice(&digits);
    }
}

/// Backslash and line feed, and where they end the text, quotes.
fn escape(out: &mut Vec<u8>, text: &str, quotes: bool) {
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let escaped: &[u8] = match byte {
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'"' if quotes => b"\\\"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        out.extend_from_slice(escaped);
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
}

/// A number; `canonical` is what OpenMetrics wants of `le` and `quantile`: always with a fraction or an exponent.
fn number(out: &mut Vec<u8>, value: f64, canonical: bool) {
    const EXACT: f64 = 1e15;
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else if !canonical && value == value.trunc() && value.abs() < EXACT {
        out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    }
}
