//! Where targets are found: in the settings, in files, at servers.
//!
//! One lane looks for them; all lanes see what it found. What can not be read leaves in force what was there before.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{LocalBoxFuture, join_all};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use tokio::time::Instant;
use watershed_net::HttpClient;
use watershed_stage::{Counter, Env, Failure};

use super::settings::{FileSdSettings, GroupSettings, HttpSdSettings, Settings};
use super::target::{Group, Job, Target};

/// How often files are looked at for whether they have changed.
const LOOK: Duration = Duration::from_secs(2);

/// How long a server may take to tell its targets.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest list of targets, in bytes.
const LARGEST: u64 = 32 << 20;

/// Looks for targets.
pub(crate) struct Discovery<'d> {
    settings: &'d Settings,
    jobs: &'d [Job],
    env: &'d Env,
    /// By source, with the job that it belongs to.
    found: RefCell<Vec<(usize, Vec<Group>)>>,
}

/// What a file looked like, if there is one.
type Stamp = Option<(SystemTime, u64)>;

// === impl Discovery ===

impl<'d> Discovery<'d> {
    pub(crate) fn new(settings: &'d Settings, jobs: &'d [Job], env: &'d Env) -> Self {
        Self { settings, jobs, env, found: RefCell::default() }
    }

    /// Looks for targets, for as long as it is polled.
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let mut sources: Vec<LocalBoxFuture<'_, ()>> = Vec::new();
        for (index, job) in self.settings.config.scrape_configs.iter().enumerate() {
            // Shown from the start.
            self.failures(&job.job_name, "target");
            let fixed = job.static_configs.iter().cloned().map(|group| Group { group, meta: Vec::new() });
            let add = |groups: Vec<Group>| {
                let mut found = self.found.borrow_mut();
                found.push((index, groups));
                found.len() - 1
            };
            add(fixed.collect());
            for files in &job.file_sd_configs {
                let source = add(read_files(files).unwrap_or_else(|error| {
                    self.failed(index, "file", &error);
                    Vec::new()
                }));
                sources.push(Box::pin(self.watch_files(index, source, files)));
            }
            for server in &job.http_sd_configs {
                let source = add(Vec::new());
                let client = server.access().open(self.env)?;
                let url = server.uri().map_err(Failure::new)?;
                sources.push(Box::pin(self.ask(index, source, server, client, url)));
            }
        }
        self.publish();
        join_all(sources).await;
        std::future::pending().await
    }

    /// Tells all lanes which targets there are.
    fn publish(&self) {
        let found = self.found.borrow();
        let mut targets: Vec<Arc<Target>> = Vec::new();
        for job in self.jobs {
            let groups: Vec<Group> = found
                .iter()
                .filter(|(index, _)| *index == job.index)
                .flat_map(|(_, groups)| groups.iter().cloned())
                .collect();
            let (of_job, wrong) = job.targets(self.settings, &groups);
            for error in wrong {
                self.failed(job.index, "target", &error);
            }
            targets.extend(of_job.into_iter().map(Arc::new));
        }
        let sharding = self.settings.sharding;
        targets.retain(|target| target.hash % sharding.shards.max(1) == sharding.shard);
        self.settings.shared.targets().send_replace(Arc::new(targets));
    }

    fn set(&self, source: usize, groups: Vec<Group>) {
        if let Some((_, place)) = self.found.borrow_mut().get_mut(source) {
            *place = groups;
        }
        self.publish();
    }

    fn failures(&self, job: &str, mechanism: &str) -> Counter {
        let labels = [("receiver", &*self.env.id), ("job", job), ("mechanism", mechanism)];
        let help = "Attempts to find targets that failed, and targets that can not be scraped.";
        self.env.metrics.counter("watershed_scrape_discovery_failures", help, &labels)
    }

    fn failed(&self, job: usize, mechanism: &str, error: &str) {
        let job = self.settings.config.scrape_configs.get(job).map_or("", |job| &job.job_name);
        self.failures(job, mechanism).add(1);
        tracing::warn!(receiver = %self.env.id, job, mechanism, "no targets from there: {error}");
    }

    async fn watch_files(&self, job: usize, source: usize, files: &FileSdSettings) {
        let mut stamps = stamps(files);
        let mut read = Instant::now();
        loop {
            tokio::time::sleep(LOOK.min(files.refresh_interval.0)).await;
            let now = self::stamps(files);
            if now == stamps && read.elapsed() < files.refresh_interval.0 {
                continue;
            }
            match read_files(files) {
                Ok(groups) => {
                    (stamps, read) = (now, Instant::now());
                    self.set(source, groups);
                }
                // Tried again at the next look: who writes a file may not have finished.
                Err(error) => self.failed(job, "file", &error),
            }
        }
    }

    async fn ask(&self, job: usize, source: usize, server: &HttpSdSettings, client: HttpClient, url: Uri) {
        loop {
            match self.asked(server, &client, &url).await {
                Ok(groups) => self.set(source, groups),
                Err(error) => self.failed(job, "http", &error),
            }
            tokio::time::sleep(server.refresh_interval.0).await;
        }
    }

    async fn asked(
        &self,
        server: &HttpSdSettings,
        client: &HttpClient,
        url: &Uri,
    ) -> Result<Vec<Group>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let interval = HeaderValue::from(server.refresh_interval.0.as_secs());
        headers.insert("x-prometheus-refresh-interval-seconds", interval);
        if let Some(header) = server.access().header().map_err(|failed| failed.to_string())? {
            headers.insert(AUTHORIZATION, header);
        }
        let permit = self.env.budget.try_take(0).map_err(|exhausted| exhausted.to_string())?;
        let fetch = client.fetch(url, &headers, true, LARGEST, &permit);
        let answer = tokio::time::timeout(PATIENCE, fetch).await;
        let answer = answer
            .map_err(|_| format!("no answer within {PATIENCE:?}"))?
            .map_err(|error| error.to_string())?;
        if answer.status != StatusCode::OK {
            return Err(format!("{url} answers {}", answer.status));
        }
        let kind = answer.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
            return Err(format!("{url} answers {kind:?}, and not application/json"));
        }
        groups(&answer.body, "__meta_url", &url.to_string()).map_err(|error| format!("{url}: {error}"))
    }
}

fn groups(json: &[u8], label: &'static str, from: &str) -> Result<Vec<Group>, serde_json::Error> {
    let groups: Vec<GroupSettings> = serde_json::from_slice(json)?;
    Ok(groups.into_iter().map(|group| Group { group, meta: vec![(label, from.to_owned())] }).collect())
}

fn read_files(files: &FileSdSettings) -> Result<Vec<Group>, String> {
    let mut all = Vec::new();
    for path in paths(files) {
        let name = path.display().to_string();
        let text = std::fs::read(&path).map_err(|error| format!("cannot read {name}: {error}"))?;
        let groups = groups(&text, "__meta_filepath", &name);
        all.extend(groups.map_err(|error| format!("{name}: {error}"))?);
    }
    Ok(all)
}

fn stamps(files: &FileSdSettings) -> Vec<(PathBuf, Stamp)> {
    let stamp = |path: PathBuf| {
        let stamp = std::fs::metadata(&path).ok().and_then(|file| Some((file.modified().ok()?, file.len())));
        (path, stamp)
    };
    paths(files).into_iter().map(stamp).collect()
}

/// The files that there are, in the order of their names.
fn paths(files: &FileSdSettings) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for pattern in &files.files {
        let path = Path::new(pattern);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((before, after)) = name.split_once('*') else {
            paths.push(path.to_owned());
            continue;
        };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut found: Vec<PathBuf> = entries
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let rest = name.strip_prefix(before);
                rest.is_some_and(|rest| rest.ends_with(after))
            })
            .collect();
        found.sort();
        paths.append(&mut found);
    }
    paths
}
