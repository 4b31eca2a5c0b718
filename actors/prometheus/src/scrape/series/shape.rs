//! What a sample is: the type its family was declared with, and the part it plays.
//!
//! Source: opentelemetry-specification, `compatibility/prometheus_and_openmetrics.md`, "Prometheus Metric points to OTLP".

use crate::scrape::error::{Failed, Reason};

/// The longest unit of a family, in bytes.
const LONGEST_UNIT: usize = 128;

/// The type of a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    #[default]
    Unknown,
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
    StateSet,
}

/// A family as an exposition declares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Type,
    pub(crate) help: String,
    pub(crate) unit: String,
}

/// What becomes of points in OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Gauge,
    /// A sum that only grows.
    Counter,
    /// A sum that need not: info and state set.
    State,
    Histogram,
    Summary,
    /// A native histogram.
    Exponential,
}

/// The part that a series plays in its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It is the point.
    Number,
    /// A native histogram.
    Native,
    Bucket,
    Quantile,
    Sum,
    Count,
    /// When the point's counting began.
    Created,
    /// Attributes of the resource.
    TargetInfo,
}

// === impl Family ===

impl Family {
    /// Sets its unit, which each of its metrics has a copy of.
    pub(crate) fn measure(&mut self, unit: &str) -> Result<(), Failed> {
        if unit.len() > LONGEST_UNIT {
            let message = format!("the unit of a family is longer than {LONGEST_UNIT} bytes");
            return Err(Failed::new(Reason::Limit, message));
        }
        unit.clone_into(&mut self.unit);
        Ok(())
    }

    /// What it takes, about, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (2 * size_of::<Self>() + self.name.len() + self.help.len() + self.unit.len()) as u64
    }
}

// === impl Type ===

impl Type {
    /// As `# TYPE` names it, in either format.
    pub(crate) fn read(word: &[u8], open_metrics: bool) -> Option<Self> {
        Some(match word {
            b"counter" => Self::Counter,
            b"gauge" => Self::Gauge,
            b"histogram" => Self::Histogram,
            b"summary" => Self::Summary,
            b"untyped" if !open_metrics => Self::Unknown,
            b"unknown" => Self::Unknown,
            b"gaugehistogram" => Self::GaugeHistogram,
            b"info" => Self::Info,
            b"stateset" => Self::StateSet,
            _ => return None,
        })
    }

    /// The value of `prometheus.type`, by which an exporter gives the family back its type.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
        }
    }

    /// What a sample is whose name goes on after its family's with `suffix`. `None` if the sample is not of the family,
    /// `Some(None)` if it is and has no place in OTLP.
    pub(crate) fn role(self, suffix: &[u8]) -> Option<Option<Role>> {
        Some(Some(match (self, suffix) {
            (Self::Histogram, b"_bucket") => Role::Bucket,
            (Self::Histogram | Self::Summary, b"_sum") => Role::Sum,
            (Self::Histogram | Self::Summary, b"_count") => Role::Count,
            (Self::Histogram | Self::Summary | Self::Counter, b"_created") => Role::Created,
            (Self::Summary, b"") => Role::Quantile,
            (Self::Counter, b"" | b"_total") | (Self::Info, b"" | b"_info") => Role::Number,
            (Self::GaugeHistogram, b"_bucket" | b"_gsum" | b"_gcount" | b"_sum" | b"_count" | b"") => {
                return Some(None);
            }
            (Self::Gauge | Self::Unknown | Self::StateSet, b"") => Role::Number,
            _ => return None,
        }))
    }

    /// What points of the family become that are a number each.
    pub(crate) fn number(self) -> Kind {
        match self {
            Self::Counter => Kind::Counter,
            Self::Info | Self::StateSet => Kind::State,
            _ => Kind::Gauge,
        }
    }
}

// === impl Role ===

impl Role {
    /// What a series of that part has after the name of its metric.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Bucket => "_bucket",
            Self::Sum => "_sum",
            Self::Count => "_count",
            Self::Created => "_created",
            Self::Number | Self::Native | Self::Quantile | Self::TargetInfo => "",
        }
    }

    /// The label that is no attribute, but says which part it is.
    pub(crate) fn bound(self) -> Option<&'static str> {
        match self {
            Self::Bucket => Some("le"),
            Self::Quantile => Some("quantile"),
            _ => None,
        }
    }
}

/// A unit as UCUM writes it, which OTLP wants (specification, "Unit").
pub(crate) fn ucum(unit: &str) -> String {
    let word = |word: &str| -> Option<&'static str> {
        Some(match word {
            "days" | "day" => "d",
            "hours" | "hour" => "h",
            "minutes" | "minute" => "min",
            "seconds" | "second" => "s",
            "milliseconds" | "millisecond" => "ms",
            "microseconds" | "microsecond" => "us",
            "nanoseconds" | "nanosecond" => "ns",
            "bytes" => "By",
            "kibibytes" => "KiBy",
            "mebibytes" => "MiBy",
            "gibibytes" => "GiBy",
            "tibibytes" => "TiBy",
            "kilobytes" => "KBy",
            "megabytes" => "MBy",
            "gigabytes" => "GBy",
            "terabytes" => "TBy",
            "meters" => "m",
            "volts" => "V",
            "amperes" => "A",
            "joules" => "J",
            "watts" => "W",
            "grams" => "g",
            "celsius" => "Cel",
            "hertz" => "Hz",
            "ratio" => "1",
            "percent" => "%",
            _ => return None,
        })
    };
    match unit.split_once("_per_") {
        Some((of, per)) => match (word(of), word(per).or(Some(per))) {
            (Some(of), Some(per)) => format!("{of}/{per}"),
            _ => unit.to_owned(),
        },
        None => word(unit).unwrap_or(unit).to_owned(),
    }
}
