//! Reading expositions without a receiver around it: for benches, fuzzers and whoever has some in a file.

use watershed_stage::delivery::Permit;

use super::labels::Labels;
use super::parse::{Format, Parser};
use super::policy::Policy;
use super::relabel::RelabelSettings;
use super::series::{Scrape, Series};

/// The expositions of one target, as its scrapes would give them.
#[derive(Debug)]
pub struct Exposition {
    series: Series,
    policy: Policy,
    labels: Labels,
    permit: Permit,
}

/// What an exposition is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// Text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Delimited `io.prometheus.client.MetricFamily`s, with native histograms.
    Protobuf,
}

/// Why an exposition can not be read: what is wrong, and in which line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

// === impl Exposition ===

impl Exposition {
    /// A target of this job and instance. What is known of its series, and what is made of them, is charged to the
    /// budget of `permit`.
    pub fn new(job: &str, instance: &str, permit: Permit) -> Self {
        Self {
            series: Series::new(permit.budget().overdraw(0)),
            policy: Policy {
                honor_timestamps: true,
                adjust_start_time: true,
                body_size_limit: 64 << 20,
                ..Policy::default()
            },
            labels: [("job", job), ("instance", instance)].into_iter().collect(),
            permit,
        }
    }

    /// Reads what the target exposes at `time`, in nanoseconds since 1970, and gives it as an
    /// `ExportMetricsServiceRequest` with how many samples it had. Series that were there before and are not any more
    /// end with a marker.
    pub fn read(
        &mut self,
        format: ExpositionFormat,
        body: &[u8],
        time: u64,
    ) -> Result<(Vec<u8>, u64), Unreadable> {
        let format = match format {
            ExpositionFormat::Text => Format::Text,
            ExpositionFormat::OpenMetrics => Format::OpenMetrics,
            ExpositionFormat::Protobuf => Format::Protobuf { native: true },
        };
        let permit = self.permit.budget().overdraw(0);
        let mut scrape = Scrape::begin(&mut self.series, &self.policy, &self.labels, time, &permit, 0);
        let mut parser = Parser::new(format, body);
        loop {
            match parser.step(&mut scrape) {
                Ok(true) => {}
                Ok(false) => break,
                Err(failed) => {
                    scrape.fail();
                    return Err(Unreadable(failed.to_string()));
                }
            }
        }
        let samples = scrape.counts().samples;
        let request = scrape.finish("http").map_err(|failed| Unreadable(failed.to_string()))?;
        self.series.compact();
        Ok((request.bytes, samples))
    }
}

/// What a rule with the action `replace` and this regular expression makes of a value; `None` if the expression is none.
pub fn relabel(regex: &str, replacement: &str, value: &str) -> Option<String> {
    let rule = RelabelSettings {
        source_labels: vec!["from".into()],
        regex: regex.into(),
        target_label: "to".into(),
        replacement: replacement.into(),
        ..RelabelSettings::default()
    };
    let mut labels: Labels = [("from", value)].into_iter().collect();
    rule.compile().ok()?.apply(&mut labels);
    Some(labels.get("to").to_owned())
}
