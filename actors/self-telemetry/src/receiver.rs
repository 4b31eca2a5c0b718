//! The `self_telemetry` receiver.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;
use tokio::time::MissedTickBehavior;
use watershed_stage::delivery::Outcome;
use watershed_stage::{Env, Failure, Intake, Origin, Placement, Receiver, Signal};

use crate::logs::{self, Listening};
use crate::metrics;
use crate::queue::{Losses, Queue};
use crate::settings::Settings;
use crate::traces::{self, Spans};

/// How often spans and log records are told.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the answer is waited for. What is refused is lost: it is not worth the memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells what its engine (and, of the log, its process) does.
pub(crate) struct SelfTelemetry {
    settings: Arc<Settings>,
    env: Env,
    resource: Resource,
}

// === impl SelfTelemetry ===

impl Receiver for SelfTelemetry {
    type Settings = Settings;

    fn placement(_: &Settings) -> Placement {
        Placement::Single
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let resource = (&settings.resource()).into();
        Ok(Self { settings: settings.clone(), env: env.clone(), resource })
    }

    async fn run(&self, intake: Intake) -> Result<(), Failure> {
        tokio::join!(self.metrics(&intake), self.traces(&intake), self.logs(&intake));
        Ok(())
    }
}

impl SelfTelemetry {
    async fn metrics(&self, intake: &Intake) {
        let losses = self.losses(Signal::Metrics);
        let (interval, since) = (self.settings.metrics.interval.0, self.settings.birth.at);
        let mut ticks = ticks(interval);
        while intake.wants(Signal::Metrics) {
            ticks.tick().await;
            let readings = self.env.metrics.read();
            let points = readings.iter().map(|reading| reading.series.len()).sum();
            let now = opentelemetry::time::now();
            let request = metrics::request(readings, self.resource.clone(), since, now);
            self.send(intake, &losses, points, &request).await;
        }
    }

    async fn traces(&self, intake: &Intake) {
        if !intake.wants(Signal::Traces) {
            return;
        }
        let losses = self.losses(Signal::Traces);
        let queue = Arc::new(Queue::new(losses.clone()));
        let spans = Spans::new(queue.clone(), self.settings.traces.sampling_ratio);
        let _recording = self.env.tracing.record(Box::new(spans));
        let mut ticks = ticks(INTERVAL);
        loop {
            ticks.tick().await;
            let spans = queue.take();
            if !spans.is_empty() {
                let (count, request) = (spans.len(), traces::request(spans, self.resource.clone()));
                self.send(intake, &losses, count, &request).await;
            }
        }
    }

    async fn logs(&self, intake: &Intake) {
        if !intake.wants(Signal::Logs) {
            return;
        }
        let losses = self.losses(Signal::Logs);
        let listening = Listening::start(self.settings.logs.level.into(), Queue::new(losses.clone()));
        let mut ticks = ticks(INTERVAL);
        loop {
            ticks.tick().await;
            let records = listening.take();
            if !records.is_empty() {
                let (count, request) = (records.len(), logs::request(records, self.resource.clone()));
                self.send(intake, &losses, count, &request).await;
            }
        }
    }

    /// Sends a request into the pipelines, and counts its items as lost if they do not take it. Nothing of that is
    /// logged: it would be one more thing to tell.
    async fn send(&self, intake: &Intake, losses: &Losses, items: usize, request: &impl Message) {
        let body = request.encode_to_vec();
        let Ok(permit) = intake.admit(body.len() as u64) else { return losses.add("memory", items) };
        let origin = Origin { trace: Some(self.settings.birth.trace.clone()), ..Origin::default() };
        match intake.submit(losses.signal(), body, origin, permit, PATIENCE).await {
            Outcome::Refused(_) => losses.add("refused", items),
            Outcome::Rejected(_) => losses.add("rejected", items),
            Outcome::Dropped { .. } | Outcome::Delivered => {}
        }
    }

    fn losses(&self, signal: Signal) -> Losses {
        Losses::new(&self.env, signal)
    }
}

fn ticks(interval: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
