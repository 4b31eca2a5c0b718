//! What tests of parsers and series have in common: a target whose expositions are handed in.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint};
use prost::Message as _;
use watershed_stage::delivery::Budget;
use watershed_stage::telemetry::{Payload, Signal};

use super::error::Failed;
use super::labels::Labels;
use super::parse::{Format, Parser};
use super::policy::Policy;
use super::series::{Counts, Scrape, Series};

/// The time of the first scrape; each is a second after the one before.
pub(crate) const TIME: u64 = 1_000_000_000;

/// A target.
pub(crate) struct Target {
    pub(crate) policy: Policy,
    pub(crate) labels: Labels,
    pub(crate) series: Series,
    pub(crate) counts: Counts,
    pub(crate) budget: Arc<Budget>,
    time: u64,
}

impl Default for Target {
    fn default() -> Self {
        Self::new(1 << 30)
    }
}

impl Target {
    /// One whose series and scrapes share so many bytes.
    pub(crate) fn new(memory: u64) -> Self {
        let labels = [("job", "j"), ("instance", "h:9100")].into_iter().collect();
        let policy = Policy { honor_timestamps: true, adjust_start_time: true, ..Policy::default() };
        let budget = Budget::new(memory);
        let series = Series::new(budget.overdraw(0));
        Self { policy, labels, series, counts: Counts::default(), budget, time: 0 }
    }

    /// Scrapes this. A scrape that fails gives the markers of what was there before.
    pub(crate) fn scrape(
        &mut self,
        format: Format,
        body: &[u8],
    ) -> (Result<(), Failed>, ExportMetricsServiceRequest) {
        self.time += TIME;
        let permit = self.budget.overdraw(0);
        let mut scrape = Scrape::begin(&mut self.series, &self.policy, &self.labels, self.time, &permit, 0);
        let mut parser = Parser::new(format, body);
        let result = loop {
            match parser.step(&mut scrape) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(failed) => break Err(failed),
            }
        };
        if result.is_err() {
            scrape.fail();
        }
        let request = scrape.finish("http").unwrap();
        self.counts = request.counts;
        self.series.compact();
        let payload = Payload::validate(Signal::Metrics, request.bytes.clone().into()).unwrap();
        assert_eq!(payload.items() as u64, request.counts.points);
        (result, ExportMetricsServiceRequest::decode(&*request.bytes).unwrap())
    }

    pub(crate) fn good(&mut self, format: Format, body: impl AsRef<[u8]>) -> ExportMetricsServiceRequest {
        let (result, request) = self.scrape(format, body.as_ref());
        result.unwrap();
        request
    }
}

/// The metrics of all scopes of one scrape of this.
pub(crate) fn metrics(format: Format, body: impl AsRef<[u8]>) -> Vec<Metric> {
    all(Target::default().good(format, body))
}

pub(crate) fn all(request: ExportMetricsServiceRequest) -> Vec<Metric> {
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    scopes.flat_map(|scope| scope.metrics).collect()
}

/// Why it is no exposition.
pub(crate) fn wrong(format: Format, body: impl AsRef<[u8]>) -> String {
    Target::default().scrape(format, body.as_ref()).0.unwrap_err().to_string()
}

pub(crate) fn pairs(attributes: &[KeyValue]) -> Vec<(&str, &str)> {
    attributes
        .iter()
        .map(|pair| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(any_value::Value::StringValue(text)) => (&*pair.key, &**text),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// The points of a metric of numbers: attributes, value (none of a marker), start and time.
pub(crate) type Point<'m> = (Vec<(&'m str, &'m str)>, Option<f64>, u64, u64);

pub(crate) fn points(metric: &Metric) -> Vec<Point<'_>> {
    let points: &[NumberDataPoint] = match metric.data.as_ref().unwrap() {
        Data::Gauge(gauge) => &gauge.data_points,
        Data::Sum(sum) => &sum.data_points,
        other => panic!("{other:?}"),
    };
    let point = |point: &'_ NumberDataPoint| {
        assert_eq!(point.flags == 1, point.value.is_none());
        let value = point.value.map(|value| match value {
            Number::AsDouble(value) => value,
            Number::AsInt(_) => panic!("a whole number"),
        });
        (value, point.start_time_unix_nano, point.time_unix_nano)
    };
    points
        .iter()
        .map(|one| {
            let (value, start, time) = point(one);
            (pairs(&one.attributes), value, start, time)
        })
        .collect()
}

/// `prometheus.type`.
pub(crate) fn kind(metric: &Metric) -> &str {
    pairs(&metric.metadata).iter().find(|(key, _)| *key == "prometheus.type").unwrap().1
}

/// By name; there is one.
pub(crate) fn named<'m>(metrics: &'m [Metric], name: &str) -> &'m Metric {
    let mut found = metrics.iter().filter(|metric| metric.name == name);
    let one = found.next().unwrap_or_else(|| panic!("no {name} in {metrics:#?}"));
    assert!(found.next().is_none(), "{name} twice");
    one
}
