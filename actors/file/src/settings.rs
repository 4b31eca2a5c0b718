//! What `file` may be told, under otelcol's keys.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use watershed_stage::{Interval, KeyError, QueueSettings, RetrySettings};

use crate::log::Place;
use crate::record::Framing;
use crate::rotation::Rotation;
use crate::writer::Shared;

/// Settings of `file`, under otelcol's keys and with its defaults.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The file that is written to.
    pub path: String,
    /// Go on at the end of a file that is there already. Without it, and without `rotation`, the file is emptied when
    /// the process starts.
    #[serde(default)]
    pub append: bool,
    /// When the file is put aside and a new one begun; never, unless the table is present.
    #[serde(default)]
    pub rotation: Option<Rotate>,
    /// What a record holds.
    #[serde(default)]
    pub format: Format,
    /// What is done to each record.
    #[serde(default)]
    pub compression: Compression,
    /// How compression is done.
    #[serde(default)]
    pub compression_params: CompressionParams,
    /// When written data is forced onto the disk.
    #[serde(default)]
    pub sync: Sync,
    /// How long after it was written data is forced onto the disk, under `sync = "interval"`.
    #[serde(default = "second")]
    pub flush_interval: Interval,
    /// Make the directories that lead to `path`.
    #[serde(default)]
    pub create_directory: bool,
    /// Permissions of directories that are made, in octal.
    #[serde(default = "permissions")]
    pub directory_permissions: String,
    /// What happens when writing fails.
    #[serde(default)]
    pub retry_on_failure: RetrySettings,
    /// What waits to be written.
    #[serde(default)]
    pub sending_queue: QueueSettings,
    /// Known, so that it can be said that it does not work here.
    #[serde(default)]
    #[schemars(skip)]
    group_by: Option<IgnoredAny>,
    #[serde(default)]
    #[schemars(skip)]
    encoding: Option<IgnoredAny>,
    /// The open file. It outlives the exporter's incarnations, as the data in it does.
    #[serde(skip)]
    pub writer: Shared,
}

/// When a file is put aside, and for how long it is kept.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rotate {
    /// A file is put aside before it exceeds so many MiB; 0 is 100.
    max_megabytes: u32,
    /// Files that were put aside are removed after so many days; 0 keeps them.
    max_days: u32,
    /// So many files that were put aside are kept; 0 keeps all.
    max_backups: usize,
    /// Name them by local time instead of UTC.
    localtime: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// One OTLP/JSON object a line.
    #[default]
    Json,
    /// OTLP requests in protobuf, each after its length in four bytes, most significant first.
    Proto,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compression {
    #[default]
    #[serde(alias = "")]
    None,
    /// Each record is one zstd frame, after its length in four bytes, most significant first.
    Zstd,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CompressionParams {
    /// zstd's level, 1 to 22.
    pub level: i32,
}

/// When written data is forced onto the disk (`fsync`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sync {
    /// When the operating system sees fit.
    Never,
    /// `flush_interval` after it was written.
    #[default]
    Interval,
    /// Before it counts as delivered.
    Always,
}

fn second() -> Interval {
    Interval::secs(1)
}

fn permissions() -> String {
    "0755".into()
}

// === impl Settings ===

impl watershed_stage::Settings for Settings {
    fn check(&self) -> Vec<KeyError> {
        let mut errors = Vec::new();
        let mut error = |key: &str, message: &str| errors.push(KeyError::new(key, message));
        if self.path.is_empty() {
            error("path", "path must be non-empty");
        } else if PathBuf::from(&self.path).file_name().is_none() || self.path.ends_with('/') {
            error("path", "must name a file, not a directory");
        }
        if self.append && self.compression != Compression::None {
            error("append", "append and compression enabled at the same time is not supported");
        }
        if self.append && self.rotation.is_some() {
            let message = "append and rotation enabled at the same time is not supported: a file that rotates is \
                           always gone on with";
            error("append", message);
        }
        if self.flush_interval <= Interval::secs(0) {
            let message =
                "flush_interval must be larger than zero; `sync = \"always\"` forces out each batch";
            error("flush_interval", message);
        }
        if !(1..=22).contains(&self.compression_params.level) {
            error("compression_params.level", "must lie between 1 and 22");
        }
        if self.permissions().is_none() {
            error("directory_permissions", "must be permissions in octal: write it like \"0755\"");
        }
        if self.group_by.is_some() {
            let message = "this version writes to one file only: send to several `file` exporters instead";
            error("group_by", message);
        }
        if self.encoding.is_some() {
            error("encoding", "this version has no encoding extensions: use `format`");
        }
        errors.extend(self.retry_on_failure.check().into_iter().map(|error| error.under("retry_on_failure")));
        errors.extend(self.sending_queue.check().into_iter().map(|error| error.under("sending_queue")));
        errors
    }
}

impl Settings {
    /// How records are told apart: by lines where they are text, else by their lengths.
    pub fn framing(&self) -> Framing {
        match (self.format, self.compression) {
            (Format::Json, Compression::None) => Framing::Lines,
            _ => Framing::Prefixed,
        }
    }

    /// Where records go.
    pub fn place(&self) -> Place {
        let path = PathBuf::from(&self.path);
        let rotation = self.rotation.as_ref().map(|rotate| Rotation {
            max_bytes: u64::from(if rotate.max_megabytes == 0 { 100 } else { rotate.max_megabytes }) << 20,
            max_days: rotate.max_days,
            max_backups: rotate.max_backups,
            local: rotate.localtime,
        });
        Place {
            append: self.append || rotation.is_some(),
            path,
            rotation,
            framing: self.framing(),
            directories: self.create_directory.then(|| self.permissions()).flatten(),
            syncs: self.sync != Sync::Never,
        }
    }

    fn permissions(&self) -> Option<u32> {
        u32::from_str_radix(&self.directory_permissions, 8).ok().filter(|mode| *mode <= 0o7777)
    }
}

// === impl Rotate ===

impl Default for Rotate {
    fn default() -> Self {
        Self { max_megabytes: 100, max_days: 0, max_backups: 100, localtime: false }
    }
}

// === impl CompressionParams ===

impl Default for CompressionParams {
    fn default() -> Self {
        Self { level: 3 }
    }
}

#[cfg(test)]
mod tests {
    use watershed_stage::Settings as _;

    use super::*;

    fn errors(text: &str) -> Vec<(String, String)> {
        let settings: Settings = toml::from_str(text).unwrap();
        settings.check().into_iter().map(|error| (error.key, error.message)).collect()
    }

    #[test]
    fn defaults_are_otelcols() {
        let settings: Settings = toml::from_str("path = '/tmp/a.json'\nrotation = {}").unwrap();
        assert!(settings.check().is_empty());
        assert_eq!((settings.format, settings.compression), (Format::Json, Compression::None));
        assert_eq!((settings.append, settings.flush_interval), (false, Interval::secs(1)));
        let rotation = settings.place().rotation.unwrap();
        assert_eq!((rotation.max_bytes, rotation.max_days, rotation.max_backups), (100 << 20, 0, 100));
        assert_eq!(settings.place().directories, None);
        assert!(settings.place().append, "what rotates is gone on with");
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let text = "path = ''\nappend = true\nrotation = {}\ncompression = 'zstd'\nflush_interval = '0s'\n\
                    compression_params.level = 23\ndirectory_permissions = '888'\n\
                    group_by = { enabled = true }\nencoding = 'otlp_encoding'\nsending_queue.queue_size = 0";
        let keys: Vec<String> = errors(text).into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "path",
                "append",
                "append",
                "flush_interval",
                "compression_params.level",
                "directory_permissions",
                "group_by",
                "encoding",
                "sending_queue.queue_size",
            ]
        );
    }

    #[test]
    fn a_path_names_a_file() {
        for path in ["/tmp/", "/", "..", "a/.."] {
            assert_eq!(errors(&format!("path = '{path}'"))[0].0, "path", "{path}");
        }
        assert!(errors("path = '/dev/stdout'").is_empty());
    }
}
