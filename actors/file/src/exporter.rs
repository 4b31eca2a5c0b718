//! The exporter: a batch is a record, and delivered when the file has it.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::sync::oneshot;
use watershed_stage::{Batch, Env, ExportError, Exporter, Failure, Partial, Placement, Sending};

use crate::record::Encoder;
use crate::settings::Settings;
use crate::writer::{ENDED, Job};

/// Writes batches to a file.
pub(crate) struct File {
    settings: Arc<Settings>,
    env: Env,
    encoder: RefCell<Encoder>,
}

// === impl File ===

impl Exporter for File {
    type Settings = Settings;

    fn placement(_: &Settings) -> Placement {
        Placement::Single
    }

    fn sending(settings: &Settings) -> Sending {
        let (retry, queue) = (settings.retry_on_failure.clone(), settings.sending_queue.clone());
        Sending { timeout: None, retry, queue }
    }

    fn build(settings: &Arc<Settings>, env: &Env) -> Result<Self, Failure> {
        let failed = |error| Failure::new(format!("`path` = {:?}: {error}", settings.path));
        let encoder = RefCell::new(Encoder::new(settings).map_err(failed)?);
        settings.writer.open(settings, env).map_err(failed)?;
        Ok(Self { settings: settings.clone(), env: env.clone(), encoder })
    }

    async fn export(&self, batch: &Batch) -> Result<Partial, ExportError> {
        // A request without a byte is a record without one, which a reader would take for the end.
        if batch.payload.bytes() == 0 {
            return Ok(Partial::default());
        }
        let record = self.encoder.borrow_mut().record(&batch.payload)?;
        let permit = self.env.budget.overdraw(record.len() as u64);
        let (done, answer) = oneshot::channel();
        self.settings.writer.start(&self.settings, &self.env).map_err(|error| self.failed(&error))?;
        let job = Job { record, permit, done };
        self.settings.writer.send(job).map_err(|reason| self.failed(&reason))?;
        match answer.await {
            Ok(Ok(())) => Ok(Partial::default()),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(self.failed(&ENDED)),
        }
    }
}

impl File {
    /// Disks are emptied and mounted again: whatever is wrong with one may pass.
    fn failed(&self, error: &dyn std::fmt::Display) -> ExportError {
        let reason = format!("{}: {error}", self.settings.path).into();
        ExportError::Retryable { reason, retry_after: None }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use prost::Message;
    use watershed_delivery::Budget;
    use watershed_stage::{Context, Extensions, Metrics, Origin, Payload, Registry, Shelf, Signal, Tracing};

    use super::*;

    fn env() -> Env {
        Env {
            id: "file".into(),
            pipeline: None,
            lane: 0,
            copies: 1,
            budget: Budget::new(1 << 20),
            metrics: Metrics::default(),
            tracing: Tracing::default(),
            extensions: Extensions::default(),
            shelf: Shelf::default(),
            notes: None,
            ends: Arc::default(),
        }
    }

    fn settings(path: &Path, more: &str) -> Arc<Settings> {
        Arc::new(toml::from_str(&format!("path = {path:?}\nformat = 'proto'\n{more}")).unwrap())
    }

    fn request(name: &str) -> ExportLogsServiceRequest {
        let log_records = vec![LogRecord { event_name: name.into(), ..Default::default() }];
        let scope_logs = vec![ScopeLogs { log_records, ..Default::default() }];
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..Default::default() }] }
    }

    /// A batch of one request a name.
    fn batch(names: &[&str]) -> Batch {
        let part =
            |name: &&str| Payload::validate(Signal::Logs, request(name).encode_to_vec().into()).unwrap();
        let payload = Payload::concat(names.iter().map(part)).unwrap();
        let context =
            Context { receiver: "r".into(), pipeline: "p".into(), origin: Origin::default(), arrived: 0 };
        Batch { payload, context: Arc::new(context), trace: None, timeout: None, merged: false }
    }

    /// The names in each record of a file.
    fn names(path: &Path, inflate: bool) -> Vec<Vec<String>> {
        let bytes = fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let (record, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
            let record = if inflate { zstd::decode_all(record).unwrap() } else { record.to_vec() };
            let request = ExportLogsServiceRequest::decode(&record[..]).unwrap();
            let logs = request.resource_logs.into_iter().flat_map(|logs| logs.scope_logs);
            records.push(logs.flat_map(|logs| logs.log_records).map(|record| record.event_name).collect());
            rest = tail;
        }
        assert!(rest.is_empty());
        records
    }

    #[tokio::test]
    async fn batches_are_read_back_as_they_were_in_all_ways_to_write_them() {
        let directory = tempfile::tempdir().unwrap();
        for (index, sync) in ["never", "interval", "always"].iter().enumerate() {
            for compression in ["none", "zstd"] {
                let path = directory.path().join(format!("{index}-{compression}"));
                let settings = settings(&path, &format!("sync = '{sync}'\ncompression = '{compression}'"));
                let env = env();
                let file = File::build(&settings, &env).unwrap();
                file.export(&batch(&["a"])).await.unwrap();
                file.export(&batch(&["b", "c"])).await.unwrap();
                assert_eq!(names(&path, compression == "zstd"), [vec!["a"], vec!["b", "c"]]);
                let written = fs::metadata(&path).unwrap().len();
                assert_eq!(env.metrics.total("watershed_file_written_bytes"), written);
                assert_eq!(env.budget.used(), 0);
            }
        }
    }

    #[tokio::test]
    async fn a_restarted_exporter_keeps_what_was_delivered_and_a_new_process_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let first = settings(&path, "");
        File::build(&first, &env()).unwrap().export(&batch(&["a"])).await.unwrap();
        File::build(&first, &env()).unwrap().export(&batch(&["b"])).await.unwrap();
        assert_eq!(names(&path, false), [["a"], ["b"]]);
        let second = settings(&path, "");
        let error = File::build(&second, &env()).err().unwrap().message;
        assert!(error.contains("another exporter"), "{error}");
        drop(first);
        // The thread closes the file in its own time.
        while File::build(&second, &env()).is_err() {
            tokio::task::yield_now().await;
        }
        assert!(names(&path, false).is_empty());
    }

    #[tokio::test]
    async fn what_can_not_be_written_now_is_to_be_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inner/a");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let env = env();
        let file = File::build(&settings(&path, ""), &env).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        let error = file.export(&batch(&["a"])).await.unwrap_err();
        assert!(matches!(error, ExportError::Retryable { .. }), "{error:?}");
        assert_eq!(env.metrics.total("watershed_file_write_errors"), 1);
        fs::create_dir(path.parent().unwrap()).unwrap();
        file.export(&batch(&["a"])).await.unwrap();
        assert_eq!(names(&path, false), [["a"]]);
    }

    #[tokio::test]
    async fn a_file_that_can_not_be_opened_fails_the_start_and_every_export_until_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inner/a");
        let settings = settings(&path, "");
        let error = File::build(&settings, &env()).err().unwrap().message;
        assert!(error.contains("inner/a") && error.contains("os error 2"), "{error}");
        // As after a start that did not wait for a slow disk.
        let encoder = RefCell::new(Encoder::new(&settings).unwrap());
        let file = File { settings, env: env(), encoder };
        file.export(&batch(&["a"])).await.unwrap_err();
        fs::create_dir(path.parent().unwrap()).unwrap();
        while file.export(&batch(&["b"])).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(names(&path, false), [["b"]]);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_keeps_whole_records() {
        // Every write to it fails with ENOSPC.
        let file = File::build(&settings(Path::new("/dev/full"), ""), &env()).unwrap();
        let error = file.export(&batch(&["a"])).await.unwrap_err();
        assert!(
            matches!(&error, ExportError::Retryable { reason, .. } if reason.contains("os error 28")),
            "{error}"
        );
    }

    #[test]
    fn it_has_one_owner() {
        let registry = crate::register(Registry::new());
        let table = toml::from_str("path = '/tmp/a'").unwrap();
        let file = registry.parse_exporter("file", table).unwrap().ok().unwrap();
        assert_eq!((file.placement(), file.sending().timeout), (Placement::Single, None));
    }
}
