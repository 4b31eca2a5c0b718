//! Which items are edited: what otelcol's processors call `include` and `exclude`.

use std::ops::Range;

use regex::{Regex, RegexSet};

use crate::edit::revision::Revision;
use crate::edit::value::AttributeValue;
use crate::edit::{OWNER, holds, text};
use crate::message::Message;
use crate::schema::Kind;
use crate::view::{
    AnyValueView, Attributes, LogRecordView, MetricView, ResourceView, ScopeView, SpanView, Value,
};

/// Those that meet `include`, where it is there, and not `exclude`. By default, all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// What an item has to be.
    pub include: Option<Criteria>,
    /// What it must not be.
    pub exclude: Option<Criteria>,
}

/// What an item can be asked. It meets the criteria if it meets each; without any it does.
///
/// A question that does not arise, as that for a metric's span name, is answered with no.
#[derive(Clone, Debug, Default)]
pub struct Criteria {
    /// The resource's `service.name`, which has to be there, as text.
    pub services: Option<Texts>,
    /// The resource's attributes by key, all of which have to be there.
    pub resources: Vec<(String, Wanted)>,
    /// The scope, which has to be one of these unless there is none.
    pub libraries: Vec<Library>,
    /// The item's attributes by key, all of which have to be there.
    pub attributes: Vec<(String, Wanted)>,
    /// The span's name.
    pub span_names: Option<Texts>,
    /// The span's kind by the name in `trace.proto`, as `SPAN_KIND_SERVER`.
    pub span_kinds: Option<Texts>,
    /// The log record's body, as text.
    pub log_bodies: Option<Texts>,
    /// The log record's severity text.
    pub log_severity_texts: Option<Texts>,
    /// The log record's severity number.
    pub log_severity: Option<Severity>,
    /// The name of the data point's metric.
    pub metric_names: Option<Texts>,
}

/// Texts, of which one has to fit.
#[derive(Clone, Debug)]
pub enum Texts {
    /// It is one of these.
    Exactly(Vec<String>),
    /// One of these matches anywhere in it.
    Matching(RegexSet),
}

/// What an attribute's value has to be.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// Anything.
    Any,
    /// This, of the same type.
    Exactly(AttributeValue),
    /// A string, number or boolean that matches as text.
    Matching(Regex),
}

/// An instrumentation scope.
#[derive(Clone, Debug)]
pub struct Library {
    /// Its name.
    pub name: Texts,
    /// Its version; `None` is any.
    pub version: Option<Texts>,
}

/// A severity number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Severity {
    /// The lowest.
    pub min: i32,
    /// Whether records without any are meant.
    pub match_undefined: bool,
}

/// Whether an item may still be selected, from what is known of it on the way down.
#[derive(Clone, Copy)]
struct Fits {
    include: bool,
    exclude: bool,
}

// === impl Selection ===

impl Selection {
    /// Calls `edit` with every item that is selected.
    pub(super) fn walk<'a>(
        &self,
        revision: &mut Revision<'a>,
        kind: Kind,
        edit: &mut impl FnMut(&mut Revision<'a>, Kind, Range<usize>),
    ) {
        let all = revision.all();
        if self.include.is_none() && self.exclude.is_none() {
            return revision.walk(kind, all, &is_item, edit);
        }
        let fits = self.narrow(Fits { include: true, exclude: true }, |criteria| criteria.concern(kind));
        revision.walk(kind, all, &holds(Kind::Resource), &mut |revision, kind, range| {
            let resource = Message::new(revision.bytes(range.clone())).child(OWNER);
            let fits = self.narrow(fits, |criteria| criteria.meets_resource(resource));
            if !fits.include {
                return;
            }
            revision.walk(kind, range, &holds(Kind::Scope), &mut |revision, kind, range| {
                let scope = Message::new(revision.bytes(range.clone())).child(OWNER);
                let fits = self.narrow(fits, |criteria| criteria.meets_scope(scope));
                self.walk_scope(revision, kind, range, fits, edit);
            });
        });
    }

    fn walk_scope<'a>(
        &self,
        revision: &mut Revision<'a>,
        kind: Kind,
        range: Range<usize>,
        fits: Fits,
        edit: &mut impl FnMut(&mut Revision<'a>, Kind, Range<usize>),
    ) {
        if !fits.include {
            return;
        }
        let mut edit_item = |revision: &mut Revision<'a>, kind: Kind, range: Range<usize>, fits: Fits| {
            let item = Message::new(revision.bytes(range.clone()));
            let fits = self.narrow(fits, |criteria| criteria.meets_item(kind, item));
            if fits.include && !fits.exclude {
                edit(revision, kind, range);
            }
        };
        let is_metric_or_item = |kind| kind == Kind::Metric || is_item(kind);
        revision.walk(kind, range, &is_metric_or_item, &mut |revision, kind, range| {
            if kind != Kind::Metric {
                return edit_item(revision, kind, range, fits);
            }
            let metric = Message::new(revision.bytes(range.clone())).into();
            let fits = self.narrow(fits, |criteria| criteria.meets_metric(metric));
            revision.walk(kind, range, &is_item, &mut |revision, kind, range| {
                edit_item(revision, kind, range, fits);
            });
        });
    }

    fn narrow(&self, fits: Fits, meets: impl Fn(&Criteria) -> bool) -> Fits {
        Fits {
            include: fits.include && self.include.as_ref().is_none_or(&meets),
            exclude: fits.exclude && self.exclude.as_ref().is_some_and(&meets),
        }
    }
}

fn is_item(kind: Kind) -> bool {
    use Kind::{ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint, SummaryDataPoint};
    use Kind::{LogRecord, Span};
    matches!(
        kind,
        Span | LogRecord
            | NumberDataPoint
            | HistogramDataPoint
            | ExponentialHistogramDataPoint
            | SummaryDataPoint
    )
}

// === impl Criteria ===

impl Criteria {
    /// Whether what is asked can be answered by requests of that kind.
    fn concern(&self, request: Kind) -> bool {
        let asks_spans = self.span_names.is_some() || self.span_kinds.is_some();
        let asks_metrics = self.metric_names.is_some();
        let asks_logs =
            self.log_bodies.is_some() || self.log_severity_texts.is_some() || self.log_severity.is_some();
        (!asks_spans || request == Kind::TracesRequest)
            && (!asks_metrics || request == Kind::MetricsRequest)
            && (!asks_logs || request == Kind::LogsRequest)
    }

    fn meets_resource(&self, resource: ResourceView<'_>) -> bool {
        let service = || resource.attributes().find("service.name").map(text::text);
        let names = self.services.as_ref();
        names.is_none_or(|names| service().is_some_and(|name| names.fit(&name)))
            && meet(&self.resources, resource.attributes())
    }

    fn meets_scope(&self, scope: ScopeView<'_>) -> bool {
        let is =
            |library: &Library| library.name.fit(scope.name()) && fits(&library.version, || scope.version());
        self.libraries.is_empty() || self.libraries.iter().any(is)
    }

    fn meets_metric(&self, metric: MetricView<'_>) -> bool {
        fits(&self.metric_names, || metric.name())
    }

    fn meets_item(&self, kind: Kind, item: Message<'_>) -> bool {
        let meets = match kind {
            Kind::Span => self.meets_span(item.into()),
            Kind::LogRecord => self.meets_log_record(item.into()),
            _ => true,
        };
        meets && meet(&self.attributes, Attributes::new(item, kind.attributes().unwrap_or_default()))
    }

    fn meets_span(&self, span: SpanView<'_>) -> bool {
        let kind = || match span.kind() {
            0 => "SPAN_KIND_UNSPECIFIED",
            1 => "SPAN_KIND_INTERNAL",
            2 => "SPAN_KIND_SERVER",
            3 => "SPAN_KIND_CLIENT",
            4 => "SPAN_KIND_PRODUCER",
            5 => "SPAN_KIND_CONSUMER",
            _ => "",
        };
        fits(&self.span_names, || span.name()) && fits(&self.span_kinds, kind)
    }

    fn meets_log_record(&self, record: LogRecordView<'_>) -> bool {
        let severity = self.log_severity.is_none_or(|severity| match record.severity_number() {
            0 => severity.match_undefined,
            number => number >= severity.min,
        });
        severity
            && fits(&self.log_severity_texts, || record.severity_text())
            && self.log_bodies.as_ref().is_none_or(|bodies| bodies.fit(&text::text(record.body())))
    }
}

/// Whether the text fits, if any text is asked for.
fn fits<'a>(texts: &Option<Texts>, text: impl FnOnce() -> &'a str) -> bool {
    texts.as_ref().is_none_or(|texts| texts.fit(text()))
}

/// Whether all that is wanted is among the attributes.
fn meet(wanted: &[(String, Wanted)], attributes: Attributes<'_>) -> bool {
    wanted.iter().all(|(key, wanted)| attributes.find(key).is_some_and(|value| wanted.is(value)))
}

// === impl Texts, Wanted ===

impl Texts {
    fn fit(&self, text: &str) -> bool {
        match self {
            Self::Exactly(texts) => texts.iter().any(|one| one == text),
            Self::Matching(patterns) => patterns.is_match(text),
        }
    }
}

impl Wanted {
    fn is(&self, found: AnyValueView<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(value) => same(Message::new(value.as_wire()).into(), found),
            Self::Matching(pattern) => match found.value() {
                Value::Empty | Value::Bytes(_) | Value::Array(_) | Value::KvList(_) => false,
                Value::Str(_) | Value::Bool(_) | Value::Int(_) | Value::Double(_) => {
                    pattern.is_match(&text::text(found))
                }
            },
        }
    }
}

/// Whether a value is the one that is wanted, which is a string, number, boolean or an array of them.
fn same(wanted: AnyValueView<'_>, found: AnyValueView<'_>) -> bool {
    match (wanted.value(), found.value()) {
        (Value::Str(wanted), Value::Str(found)) => wanted == found,
        (Value::Bool(wanted), Value::Bool(found)) => wanted == found,
        (Value::Int(wanted), Value::Int(found)) => wanted == found,
        (Value::Double(wanted), Value::Double(found)) => wanted == found,
        (Value::Array(mut wanted), Value::Array(mut found)) => loop {
            match (wanted.next(), found.next()) {
                (None, None) => return true,
                (Some(wanted), Some(found)) if same(wanted, found) => {}
                _ => return false,
            }
        },
        _ => false,
    }
}
