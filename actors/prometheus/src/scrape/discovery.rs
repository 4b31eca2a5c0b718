//! Where targets are found: in the settings, in files, at servers.
//!
//! One lane looks for them; all lanes see what it found. What can not be read leaves in force what was there before.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::{LocalBoxFuture, join_all};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use tokio::time::Instant;
use watershed_net::HttpClient;
use watershed_stage::delivery::{Budget, Permit};
use watershed_stage::{Counter, Env, Failure};

use super::settings::{FileSdSettings, GroupSettings, HttpSdSettings, Settings};
use super::target::{Group, Job, Target, Terms};

/// How often files are looked at for whether they have changed.
const LOOK: Duration = Duration::from_secs(2);

/// How long a server may take to tell its targets.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest list of targets, in bytes.
const LARGEST: u64 = 32 << 20;

/// What a text of a list takes in memory beside its bytes, at most, and what a table or a list in it does.
const TEXT: u64 = 80;
const TABLE: u64 = 800;

/// What a target takes beside its labels, with the loop that scrapes it, about.
const TARGET: u64 = 4 << 10;

/// Looks for targets.
pub(crate) struct Discovery<'d> {
    settings: &'d Settings,
    jobs: &'d [Job],
    env: &'d Env,
    /// By source.
    found: RefCell<Vec<Source>>,
    /// The memory of the targets in force.
    permit: Permit,
}

/// What a source told last.
struct Source {
    job: usize,
    lists: Vec<Arc<List>>,
}

/// A list of targets, and the memory that it was granted.
struct List {
    groups: Vec<Group>,
    _permit: Option<Permit>,
}

/// The files of a source, and what was in them when they could be read last.
#[derive(Default)]
struct Files(BTreeMap<PathBuf, (Stamp, Arc<List>)>);

/// What a file looked like; `None` if it is to be read again.
type Stamp = Option<(SystemTime, u64)>;

// === impl Discovery ===

impl<'d> Discovery<'d> {
    pub(crate) fn new(settings: &'d Settings, jobs: &'d [Job], env: &'d Env) -> Self {
        Self { settings, jobs, env, found: RefCell::default(), permit: env.budget.overdraw(0) }
    }

    /// Looks for targets, for as long as it is polled.
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let mut sources: Vec<LocalBoxFuture<'_, ()>> = Vec::new();
        for (index, job) in self.settings.config.scrape_configs.iter().enumerate() {
            // Shown from the start.
            self.failures(&job.job_name, "target");
            let fixed = job.static_configs.iter().cloned().map(|group| Group { group, meta: None });
            let fixed = Arc::new(List { groups: fixed.collect(), _permit: None });
            let add = |lists: Vec<Arc<List>>| {
                let mut found = self.found.borrow_mut();
                found.push(Source { job: index, lists });
                found.len() - 1
            };
            add(vec![fixed]);
            for settings in &job.file_sd_configs {
                let mut files = Files::default();
                self.look(index, &mut files, settings, true);
                let source = add(files.lists());
                sources.push(Box::pin(self.watch_files(index, source, files, settings)));
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

    /// Tells all lanes which targets there are, if there is memory for them.
    fn publish(&self) {
        let found = self.found.borrow();
        let groups_of = |index: usize| {
            let of_job = found.iter().filter(move |source| source.job == index);
            of_job.flat_map(|source| &source.lists).flat_map(|list| &list.groups)
        };
        // Each target has a copy of what is said of its group.
        let more: u64 = self.jobs.iter().flat_map(|job| groups_of(job.index)).map(weight_of).sum();
        if let Err(exhausted) = self.permit.try_cover(self.permit.bytes() + more) {
            let error = format!("{exhausted}: the targets stay those that they were");
            return self.jobs.iter().for_each(|job| self.failed(job.index, "target", &error));
        }
        let mut targets: Vec<(Arc<Target>, Terms)> = Vec::new();
        for job in self.jobs {
            let (of_job, wrong) = job.targets(self.settings, groups_of(job.index));
            for error in wrong {
                self.failed(job.index, "target", &error);
            }
            targets.extend(of_job.into_iter().map(|(target, terms)| (Arc::new(target), terms)));
        }
        let sharding = self.settings.sharding;
        targets.retain(|(target, _)| target.hash % sharding.shards.max(1) == sharding.shard);
        let labels = targets.iter().flat_map(|(target, _)| target.labels.iter());
        let held: usize = labels.map(|(name, value)| name.len() + value.len()).sum();
        self.permit.trim(held as u64 + TARGET * targets.len() as u64);
        self.settings.shared.targets().send_replace(Arc::new(targets));
    }

    fn set(&self, source: usize, lists: Vec<Arc<List>>) {
        if let Some(source) = self.found.borrow_mut().get_mut(source) {
            source.lists = lists;
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

    /// Reads the files that have changed, or all. Whether there is something else in them than there was.
    fn look(&self, job: usize, files: &mut Files, settings: &FileSdSettings, all: bool) -> bool {
        files.look(&paths(settings), all, &self.env.budget, |error| self.failed(job, "file", &error))
    }

    async fn watch_files(&self, job: usize, source: usize, mut files: Files, settings: &FileSdSettings) {
        let mut read = Instant::now();
        loop {
            tokio::time::sleep(LOOK.min(settings.refresh_interval.0)).await;
            let all = read.elapsed() >= settings.refresh_interval.0;
            if all {
                read = Instant::now();
            }
            if self.look(job, &mut files, settings, all) {
                self.set(source, files.lists());
            }
        }
    }

    async fn ask(&self, job: usize, source: usize, server: &HttpSdSettings, client: HttpClient, url: Uri) {
        loop {
            match self.asked(server, &client, &url).await {
                Ok(list) => self.set(source, vec![Arc::new(list)]),
                Err(error) => self.failed(job, "http", &error),
            }
            tokio::time::sleep(server.refresh_interval.0).await;
        }
    }

    async fn asked(&self, server: &HttpSdSettings, client: &HttpClient, url: &Uri) -> Result<List, String> {
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
        List::read(&answer.body, "__meta_url", &url.to_string(), permit)
    }
}

// === impl List ===

impl List {
    /// The list that these bytes are, `from` where the label says. `permit` covers the bytes, and then the list.
    fn read(json: &[u8], label: &'static str, from: &str, permit: Permit) -> Result<Self, String> {
        let weight = weight(json);
        permit.try_cover(json.len() as u64 + weight).map_err(|exhausted| format!("{from}: {exhausted}"))?;
        let groups: Vec<GroupSettings> =
            serde_json::from_slice(json).map_err(|error| format!("{from}: {error}"))?;
        let meta = Some((label, Arc::from(from)));
        let groups = groups.into_iter().map(|group| Group { group, meta: meta.clone() }).collect();
        permit.trim(weight);
        Ok(Self { groups, _permit: Some(permit) })
    }
}

// === impl Files ===

impl Files {
    /// Looks at the files at `paths`, and reads those that have changed, or all. Whether something is now another. One
    /// that can not be read stays what it was, and is tried again: who writes it may not have finished. One that has gone
    /// takes its targets along.
    fn look(
        &mut self,
        paths: &[PathBuf],
        all: bool,
        budget: &Arc<Budget>,
        mut failed: impl FnMut(String),
    ) -> bool {
        let before = self.0.len();
        self.0.retain(|path, _| paths.contains(path) && path.exists());
        let mut changed = self.0.len() < before;
        for path in paths {
            let is = std::fs::metadata(path).ok().and_then(|file| Some((file.modified().ok()?, file.len())));
            let known = self.0.get_mut(path);
            if !path.exists() || !all && is.is_some() && known.as_ref().is_some_and(|(was, _)| *was == is) {
                continue;
            }
            match read_file(path, budget) {
                Ok(list) => {
                    self.0.insert(path.clone(), (is, Arc::new(list)));
                    changed = true;
                }
                Err(error) => {
                    if let Some((was, _)) = known {
                        *was = None;
                    }
                    failed(error);
                }
            }
        }
        changed
    }

    fn lists(&self) -> Vec<Arc<List>> {
        self.0.values().map(|(_, list)| list.clone()).collect()
    }
}

fn read_file(path: &Path, budget: &Arc<Budget>) -> Result<List, String> {
    let name = path.display().to_string();
    let unreadable = |error| format!("cannot read {name}: {error}");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length > LARGEST {
        return Err(format!("{name} is longer than {LARGEST} bytes"));
    }
    let permit = budget.try_take(length).map_err(|exhausted| format!("{name}: {exhausted}"))?;
    let mut json = Vec::new();
    file.take(length).read_to_end(&mut json).map_err(unreadable)?;
    List::read(&json, "__meta_filepath", &name, permit)
}

/// What a list takes once it is read, at most, in bytes.
fn weight(json: &[u8]) -> u64 {
    let count = |of: &[u8]| json.iter().filter(|byte| of.contains(byte)).count() as u64;
    json.len() as u64 + count(b"\"") / 2 * TEXT + count(b"{[") * TABLE
}

/// What the targets of a group take, about, in bytes.
fn weight_of(group: &Group) -> u64 {
    let Group { group, meta } = group;
    let labels = group.labels.iter().map(|(name, value)| name.len() + value.len() + 48).sum::<usize>();
    let meta = meta.as_ref().map_or(0, |(_, from)| from.len());
    (TARGET + (labels + meta) as u64) * group.targets.len() as u64
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

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(files: &Files) -> Vec<String> {
        let lists = files.lists();
        lists.iter().flat_map(|list| &list.groups).flat_map(|group| group.group.targets.clone()).collect()
    }

    #[test]
    fn each_file_stands_for_itself() {
        let folder = tempfile::tempdir().unwrap();
        let budget = Budget::new(1 << 20);
        let path = |name: &str| folder.path().join(name);
        let settings = FileSdSettings {
            files: vec![path("*.json").display().to_string(), path("named.json").display().to_string()],
            ..FileSdSettings::default()
        };
        let mut files = Files::default();
        let mut look = |expected: &[&str], wrong: usize| {
            let mut errors = Vec::new();
            let changed = files.look(&paths(&settings), false, &budget, |error| errors.push(error));
            assert_eq!(
                (targets(&files), errors.len()),
                (expected.iter().map(|x| x.to_string()).collect(), wrong)
            );
            changed
        };
        let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
        assert!(!look(&[], 0), "none has to be there");
        write("a.json", "[{\"targets\": [\"a:1\"]}]");
        write("b.json", "nonsense");
        write("c.json", "[{\"targets\": [\"c:1\"]}]");
        assert!(look(&["a:1", "c:1"], 1), "a bad one stands in nobody's way");
        assert!(!look(&["a:1", "c:1"], 1), "and is tried again");
        write("b.json", "[{\"targets\": [\"b:1\"]}]");
        assert!(look(&["a:1", "b:1", "c:1"], 0));
        write("b.json", "[{\"targets\": [");
        write("c.json", "[{\"targets\": [\"c:1\", \"c:2\"]}]");
        assert!(look(&["a:1", "b:1", "c:1", "c:2"], 1), "what can not be read stays what it was");
        std::fs::remove_file(path("a.json")).unwrap();
        std::fs::remove_file(path("b.json")).unwrap();
        assert!(look(&["c:1", "c:2"], 0), "what has gone has gone");
        assert!(!look(&["c:1", "c:2"], 0));
        drop(files);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_list_is_granted_its_memory() {
        for json in [
            format!("[{}]", vec!["{}"; 10_000].join(",")),
            format!("[{}]", vec!["[]"; 10_000].join(",")),
            format!("[{{\"targets\":[{}]}}]", vec!["\"a\""; 10_000].join(",")),
            format!("[{}]", vec!["{\"labels\":{\"a\":\"\"}}"; 10_000].join(",")),
        ] {
            let read =
                |memory| List::read(json.as_bytes(), "__meta_url", "u", Budget::new(memory).overdraw(0));
            assert!(read(100 << 10).is_err());
            let list = read(64 << 20).map_err(|error| panic!("{error}")).unwrap();
            let texts = |group: &Group| {
                let targets =
                    group.group.targets.iter().map(|text| text.capacity() + 2 * size_of::<String>());
                // A node of a map has room for eleven.
                let labels = group.group.labels.len().div_ceil(5) * 11 * 2 * size_of::<String>();
                size_of::<Group>() + targets.sum::<usize>() + labels
            };
            let taken: usize = list.groups.iter().map(texts).sum();
            assert!(taken as u64 <= weight(json.as_bytes()), "{taken}: {}", &json[..30]);
        }
        let twice = weight_of(&Group {
            group: serde_json::from_str("{\"targets\":[\"a\",\"b\"],\"labels\":{\"x\":\"yyyy\"}}").unwrap(),
            meta: None,
        });
        assert!(twice >= 2 * (TARGET + 5), "each target has its labels");
    }
}
