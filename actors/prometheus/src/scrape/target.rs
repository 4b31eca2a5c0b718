//! Jobs, and the targets that groups become under their rules.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::Uri;
use tokio::sync::{Semaphore, watch};
use watershed_stage::Interval;

use super::labels::Labels;
use super::policy::Policy;
use super::relabel::{self, Relabel};
use super::settings::{GroupSettings, JobSettings, Scheme, Settings};

/// A job that is ready.
pub(crate) struct Job {
    /// Its place among the settings'.
    pub(crate) index: usize,
    pub(crate) relabel: Vec<Relabel>,
    pub(crate) policy: Policy,
}

/// One target of a job: what it is. While that stays the same its series go on, on whatever terms.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// The place of its job.
    pub(crate) job: usize,
    /// What its series are labelled with.
    pub(crate) labels: Labels,
    pub(crate) url: Uri,
    /// A hash of what it is, the same in each replica.
    pub(crate) hash: u64,
}

/// On which terms a target is scraped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    /// Its job has more targets than it may have.
    pub(crate) over_limit: bool,
}

/// All targets of this replica.
pub(crate) type Targets = Arc<Vec<(Arc<Target>, Terms)>>;

/// What the lanes of a receiver share.
#[derive(Default)]
pub(crate) struct Shared {
    /// `None` before discovery has begun.
    targets: OnceLock<watch::Sender<Targets>>,
    turns: OnceLock<Semaphore>,
}

/// A group, and what its discovery says of it.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) group: GroupSettings,
    pub(crate) meta: Option<(&'static str, Arc<str>)>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn targets(&self) -> &watch::Sender<Targets> {
        self.targets.get_or_init(|| watch::Sender::new(Targets::default()))
    }

    /// Turns of those who scrape.
    pub(crate) fn turns(&self, most: usize) -> &Semaphore {
        self.turns.get_or_init(|| Semaphore::new(most.min(Semaphore::MAX_PERMITS)))
    }
}

// === impl Job ===

impl Job {
    /// The jobs of settings that were checked.
    pub(crate) fn all(settings: &Settings) -> Vec<Job> {
        let jobs = settings.config.scrape_configs.iter().enumerate();
        jobs.map(|(index, job)| {
            let rules = |rules| relabel::compile("", rules).unwrap_or_default();
            let policy = Policy {
                honor_labels: job.honor_labels,
                honor_timestamps: job.honor_timestamps,
                track_timestamps_staleness: job.track_timestamps_staleness,
                adjust_start_time: settings.adjust_start_time,
                metric_relabel: rules(&job.metric_relabel_configs),
                body_size_limit: job.body_size_limit.0,
                sample_limit: job.sample_limit,
                label_limit: job.label_limit,
                label_name_length_limit: job.label_name_length_limit,
                label_value_length_limit: job.label_value_length_limit,
            };
            Job { index, relabel: rules(&job.relabel_configs), policy }
        })
        .collect()
    }

    /// The targets of these groups, each once; and what is wrong with those that are none.
    pub(crate) fn targets<'g>(
        &self,
        settings: &Settings,
        groups: impl Iterator<Item = &'g Group>,
    ) -> (Vec<(Target, Terms)>, Vec<String>) {
        let (mut targets, mut wrong) = (Vec::new(), Vec::new());
        let Some(job) = settings.config.scrape_configs.get(self.index) else { return (targets, wrong) };
        for group in groups {
            for address in &group.group.targets {
                match self.target(settings, job, group, address) {
                    Ok(Some(target)) => targets.push(target),
                    Ok(None) => {}
                    Err(error) => wrong.push(format!("{address:?}: {error}")),
                }
            }
        }
        targets.sort_by(|(one, _): &(Target, Terms), (other, _)| {
            (one.hash, &one.labels).cmp(&(other.hash, &other.labels))
        });
        targets.dedup_by(|(one, _), (other, _)| one == other);
        if job.target_limit != 0 && targets.len() > job.target_limit {
            targets.iter_mut().for_each(|(_, terms)| terms.over_limit = true);
        }
        (targets, wrong)
    }

    fn target(
        &self,
        settings: &Settings,
        job: &JobSettings,
        group: &Group,
        address: &str,
    ) -> Result<Option<(Target, Terms)>, String> {
        let (interval, timeout) = job.times(&settings.config.global);
        let mut labels = Labels::default();
        labels.set("__address__", address);
        labels.set("__scheme__", if job.scheme == Scheme::Https { "https" } else { "http" });
        labels.set("__metrics_path__", job.metrics_path.as_str());
        labels.set("__scrape_interval__", text(interval));
        labels.set("__scrape_timeout__", text(timeout));
        labels.set("job", job.job_name.as_str());
        for (name, values) in &job.params {
            labels.set(&format!("__param_{name}"), values.first().cloned().unwrap_or_default());
        }
        group.meta.iter().for_each(|(name, value)| labels.set(name, &**value));
        group.group.labels.iter().for_each(|(name, value)| labels.set(name, value.as_str()));
        if !self.relabel.iter().all(|rule| rule.apply(&mut labels)) {
            return Ok(None);
        }
        let address = labels.get("__address__").to_owned();
        if address.is_empty() {
            return Err("it has no address (__address__)".into());
        }
        if address.contains('/') {
            return Err(format!("the address {address:?} is no host:port"));
        }
        let time = |name: &str| {
            let value = serde_json::Value::from(labels.get(name));
            let time: Interval = serde_json::from_value(value).map_err(|error| format!("{name}: {error}"))?;
            time.positive().ok_or_else(|| format!("{name} is 0"))
        };
        let (interval, timeout) = (time("__scrape_interval__")?, time("__scrape_timeout__")?);
        if timeout > interval {
            return Err(format!("its timeout, {timeout:?}, is longer than its interval, {interval:?}"));
        }
        let url = url(job, &labels, &address)?;
        labels.retain(|name| !name.starts_with("__"));
        if !labels.contains("instance") {
            labels.set("instance", address);
        }
        let mut identity = url.to_string();
        for (name, value) in labels.iter() {
            identity.extend(["\0", name, "\0", value]);
        }
        let hash = relabel::hash(identity.as_bytes());
        let target = Target { job: self.index, labels, url, hash };
        Ok(Some((target, Terms { interval, timeout, over_limit: false })))
    }
}

fn url(job: &JobSettings, labels: &Labels, address: &str) -> Result<Uri, String> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, values) in &job.params {
        for value in values.iter().skip(1) {
            query.append_pair(name, value);
        }
    }
    for (name, value) in labels.iter() {
        if let Some(name) = name.strip_prefix("__param_") {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    let path = labels.get("__metrics_path__");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mark = match (query.is_empty(), path.contains('?')) {
        (true, _) => "",
        (false, true) => "&",
        (false, false) => "?",
    };
    let url = format!("{}://{address}{slash}{path}{mark}{query}", labels.get("__scheme__"));
    let url: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    watershed_net::HttpClient::check(&url).map_err(|error| error.to_string())?;
    Ok(url)
}

/// An interval, as it is read again.
fn text(interval: Interval) -> String {
    format!("{}ms", interval.0.as_millis())
}

#[cfg(test)]
mod tests {
    use watershed_stage::Settings as _;

    use super::*;

    type Pairs = Vec<(String, String)>;

    /// The targets of the only job of these settings, as labels and URLs.
    fn targets(job: &str) -> (Vec<(Pairs, String)>, Vec<String>) {
        let text = format!("[[config.scrape_configs]]\njob_name = \"j\"\n{job}");
        let settings: Settings = toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(settings.check(), []);
        let groups: Vec<Group> = settings.config.scrape_configs[0]
            .static_configs
            .iter()
            .map(|group| Group { group: group.clone(), meta: Some(("__meta_url", "http://sd".into())) })
            .collect();
        let (targets, wrong) = Job::all(&settings)[0].targets(&settings, groups.iter());
        let mut told: Vec<_> = targets
            .iter()
            .map(|(target, _)| {
                let labels = target.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
                (labels.collect(), target.url.to_string())
            })
            .collect();
        told.sort();
        (told, wrong)
    }

    fn labels(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_target_is_its_address_its_labels_and_its_url() {
        let (told, wrong) = targets(
            "params = { module = [\"a b\", \"c\"] }\nmetrics_path = \"/probe\"\n\
             static_configs = [{ targets = [\"h:1\", \"h:1\"], labels = { env = \"x\", __tmp = \"y\" } }]\n",
        );
        assert_eq!(wrong, [""; 0]);
        let labels = labels(&[("env", "x"), ("instance", "h:1"), ("job", "j")]);
        assert_eq!(told, [(labels, "http://h:1/probe?module=c&module=a+b".to_owned())]);
    }

    #[test]
    fn relabelling_makes_of_targets_what_it_wants() {
        let rules = "static_configs = [{ targets = [\"a:1\", \"b:2\", \"c:3\", \"d:4\"] }]\n\
            [[config.scrape_configs.relabel_configs]]\nsource_labels = [\"__address__\"]\nregex = \"c:.*\"\naction = \"drop\"\n\
            [[config.scrape_configs.relabel_configs]]\nsource_labels = [\"__address__\"]\nregex = \"(b):.*\"\ntarget_label = \"__scheme__\"\nreplacement = \"https\"\n\
            [[config.scrape_configs.relabel_configs]]\nsource_labels = [\"__meta_url\"]\ntarget_label = \"sd\"\n\
            [[config.scrape_configs.relabel_configs]]\nsource_labels = [\"__address__\"]\nregex = \"d:.*\"\ntarget_label = \"__address__\"\nreplacement = \"\"\n\
            [[config.scrape_configs.relabel_configs]]\nsource_labels = [\"__address__\"]\nregex = \"a:.*\"\ntarget_label = \"instance\"\nreplacement = \"first\"\n";
        let (told, wrong) = targets(rules);
        assert_eq!(wrong, ["\"d:4\": it has no address (__address__)"]);
        let sd = ("sd", "http://sd");
        assert_eq!(
            told,
            [
                (labels(&[("instance", "b:2"), ("job", "j"), sd]), "https://b:2/metrics".to_owned()),
                (labels(&[("instance", "first"), ("job", "j"), sd]), "http://a:1/metrics".to_owned()),
            ]
        );
    }

    #[test]
    fn too_many_targets_are_none() {
        let settings: Settings = toml::from_str(
            "[[config.scrape_configs]]\njob_name = \"j\"\ntarget_limit = 1\nstatic_configs = [{ targets = [\"a:1\", \"b:1\"] }]",
        )
        .unwrap();
        let group = settings.config.scrape_configs[0].static_configs[0].clone();
        let (targets, _) = Job::all(&settings)[0].targets(&settings, [Group { group, meta: None }].iter());
        assert!(targets.len() == 2 && targets.iter().all(|(_, terms)| terms.over_limit));
    }

    #[test]
    fn a_target_stays_itself_on_other_terms() {
        let of = |more: &str| {
            let job = format!(
                "[[config.scrape_configs]]\njob_name = \"j\"\n{more}\nstatic_configs = [{{ targets = [\"a:1\", \"b:1\"] }}]"
            );
            let settings: Settings = toml::from_str(&job).unwrap();
            let group = settings.config.scrape_configs[0].static_configs[0].clone();
            Job::all(&settings)[0].targets(&settings, [Group { group, meta: None }].iter()).0
        };
        let plain = of("");
        for more in ["scrape_interval = \"5s\"", "scrape_timeout = \"1s\"", "target_limit = 1"] {
            for ((target, terms), (other, others)) in plain.iter().zip(of(more)) {
                assert!(*target == other && *terms != others, "{more}");
            }
        }
        assert!(plain[0].0 != of("metrics_path = \"/m\"")[0].0);
    }

    #[test]
    fn what_can_not_be_is_said_by_key() {
        for (text, key) in [
            ("", "config.scrape_configs"),
            ("[[config.scrape_configs]]\nstatic_configs = [{ targets = [\"a:1\"] }]", "job_name"),
            ("[[config.scrape_configs]]\njob_name = \"j\"", "static_configs"),
            ("sharding = { shards = 2, shard = 2 }\n@", "sharding.shard"),
            ("@scrape_interval = \"0s\"", "scrape_interval"),
            ("@scrape_interval = \"5s\"\nscrape_timeout = \"6s\"", "scrape_timeout"),
            ("@follow_redirects = true", "follow_redirects"),
            ("@convert_classic_histograms_to_nhcb = true", "convert_classic_histograms_to_nhcb"),
            ("@file_sd_configs = [{ files = [\"a.yml\"] }]", "file_sd_configs.0.files"),
            ("@http_sd_configs = [{ url = \"sd\" }]", "http_sd_configs.0.url"),
            ("@relabel_configs = [{ regex = \"(\", action = \"keep\" }]", "relabel_configs.0.regex"),
            (
                "@relabel_configs = [{ action = \"hashmod\", target_label = \"x\" }]",
                "relabel_configs.0.modulus",
            ),
            (
                "@metric_relabel_configs = [{ action = \"lowercase\" }]",
                "metric_relabel_configs.0.target_label",
            ),
            (
                "@basic_auth = { username = \"u\", password = \"p\", password_file = \"f\" }",
                "basic_auth.password_file",
            ),
            ("@tls_config = { cert_file = \"c\" }", "tls_config"),
            ("@proxy_url = \"socks5://p\"", "proxy_url"),
        ] {
            let job =
                "[[config.scrape_configs]]\njob_name = \"j\"\nstatic_configs = [{ targets = [\"a:1\"] }]\n";
            let settings: Settings = toml::from_str(&text.replace('@', job)).unwrap();
            let errors = settings.check();
            assert!(errors.iter().any(|error| error.key.ends_with(key)), "{text}: {errors:?}");
        }
    }
}
