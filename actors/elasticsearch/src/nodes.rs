//! The nodes of a cluster: each in turn, and none that has failed until it answers again.

use std::cell::RefCell;
use std::time::Duration;

use http::Uri;
use serde::Deserialize;
use tokio::time::Instant;

/// How long a node that has failed is left alone: the first time, and at most.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

/// The nodes, as one lane knows them.
pub(crate) struct Nodes {
    query: String,
    state: RefCell<State>,
}

struct State {
    nodes: Vec<Node>,
    next: usize,
}

#[derive(Clone)]
struct Node {
    /// Its URL, without a slash at the end.
    base: String,
    bulk: Uri,
    /// Failures since it last answered.
    failures: u32,
    /// Left alone until then.
    rests: Option<Instant>,
    /// It is being asked whether it answers.
    probed: bool,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The node's URL.
    pub(crate) base: String,
    /// Where its `_bulk` is.
    pub(crate) bulk: Uri,
}

// === impl Nodes ===

impl Nodes {
    /// Those of these URLs, of which what is no URL is left out.
    pub(crate) fn new(urls: &[String], query: String) -> Self {
        let nodes = urls.iter().filter_map(|url| Node::new(url, &query)).collect();
        Self { query, state: RefCell::new(State { nodes, next: 0 }) }
    }

    pub(crate) fn count(&self) -> usize {
        self.state.borrow().nodes.len()
    }

    /// The next node that is not left alone; if all are, the one that has been for longest.
    pub(crate) fn pick(&self) -> Option<Target> {
        let mut state = self.state.borrow_mut();
        let State { nodes, next } = &mut *state;
        let count = nodes.len().max(1);
        let turn = (0..count).map(|step| (*next + step) % count);
        let up = turn.clone().find(|index| nodes.get(*index).is_some_and(|node| node.rests.is_none()));
        let index = up.or_else(|| turn.min_by_key(|index| nodes.get(*index).and_then(|node| node.rests)))?;
        *next = index + 1;
        nodes.get(index).map(Node::target)
    }

    /// A node that has been left alone for long enough to be asked whether it answers. It is nobody else's to ask until
    /// it is said to have failed or succeeded.
    pub(crate) fn due(&self, now: Instant) -> Option<Target> {
        let mut state = self.state.borrow_mut();
        let is_due = |node: &&mut Node| !node.probed && node.rests.is_some_and(|until| until <= now);
        let node = state.nodes.iter_mut().find(is_due)?;
        node.probed = true;
        Some(node.target())
    }

    /// A node could not be reached, or did not answer. Whether it is left alone from now on.
    pub(crate) fn failed(&self, base: &str, now: Instant) -> bool {
        let mut state = self.state.borrow_mut();
        let alone = state.nodes.len() < 2;
        let Some(node) = state.nodes.iter_mut().find(|node| node.base == base) else { return false };
        node.probed = false;
        // The only node there is may as well be asked again: when, is said by the back-off.
        if alone {
            return false;
        }
        let was_up = node.rests.is_none();
        let rest = REST.saturating_mul(1 << node.failures.min(10)).min(LONGEST_REST);
        node.failures += 1;
        node.rests = Some(now + rest);
        was_up
    }

    /// A node has answered. Whether it comes back by that.
    pub(crate) fn succeeded(&self, base: &str) -> bool {
        let mut state = self.state.borrow_mut();
        let Some(node) = state.nodes.iter_mut().find(|node| node.base == base) else { return false };
        (node.failures, node.probed) = (0, false);
        node.rests.take().is_some()
    }

    /// Takes these for all the nodes there are. What is known of those that stay, stays known.
    pub(crate) fn replace(&self, urls: &[String]) {
        let mut state = self.state.borrow_mut();
        let node = |url: &String| {
            let node = Node::new(url, &self.query)?;
            let known = state.nodes.iter().find(|known| known.base == node.base);
            Some(known.cloned().unwrap_or(node))
        };
        let nodes: Vec<Node> = urls.iter().filter_map(node).collect();
        if !nodes.is_empty() {
            state.nodes = nodes;
        }
    }
}

impl Node {
    fn new(url: &str, query: &str) -> Option<Self> {
        let base = url.trim_end_matches('/').to_owned();
        let bulk = format!("{base}/_bulk?{query}").parse().ok()?;
        Some(Self { base, bulk, failures: 0, rests: None, probed: false })
    }

    fn target(&self) -> Target {
        Target { base: self.base.clone(), bulk: self.bulk.clone() }
    }
}

/// Where to ask a node for all of them.
pub(crate) const DISCOVERY: &str = "/_nodes/http?filter_path=nodes.*.roles,nodes.*.http.publish_address";

/// The URLs in an answer to that, with the scheme of `base`; of those that hold data or take requests.
pub(crate) fn discovered(body: &[u8], base: &str) -> Result<Vec<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        nodes: std::collections::BTreeMap<String, Found>,
    }
    #[derive(Deserialize)]
    struct Found {
        #[serde(default)]
        roles: Vec<String>,
        http: Option<Address>,
    }
    #[derive(Deserialize)]
    struct Address {
        publish_address: String,
    }
    let answer: Answer = serde_json::from_slice(body)?;
    let scheme = base.split("://").next().unwrap_or("http");
    let works =
        |found: &Found| !matches!(&found.roles[..], [role] if role == "master" || role == "cluster_manager");
    let address = |found: Found| {
        let address = found.http?.publish_address;
        // `name/address:port`, where the node has a name.
        Some(match address.split_once('/') {
            None => address,
            Some((name, rest)) => match rest.rsplit_once(':') {
                Some((_, port)) => format!("{name}:{port}"),
                None => name.to_owned(),
            },
        })
    };
    let addresses = answer.nodes.into_values().filter(works).filter_map(address);
    Ok(addresses.map(|address| format!("{scheme}://{address}")).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Nodes {
        let urls: Vec<String> = (0..count).map(|index| format!("http://n{index}:9200/")).collect();
        Nodes::new(&urls, "q".to_owned())
    }

    fn picks(nodes: &Nodes, count: usize) -> Vec<String> {
        (0..count).map(|_| nodes.pick().unwrap().base[7..9].to_owned()).collect()
    }

    #[tokio::test]
    async fn nodes_take_turns_and_those_that_fail_are_left_out_until_they_answer() {
        let (nodes, now) = (nodes(3), Instant::now());
        assert_eq!(picks(&nodes, 4), ["n0", "n1", "n2", "n0"]);
        assert!(nodes.failed("http://n1:9200", now));
        assert!(!nodes.failed("http://n1:9200", now), "it was down already");
        assert_eq!(picks(&nodes, 3), ["n2", "n0", "n2"]);
        assert_eq!(nodes.due(now + REST), None);
        let due = nodes.due(now + 2 * REST).unwrap();
        assert_eq!(due.bulk, "http://n1:9200/_bulk?q");
        assert_eq!(nodes.due(now + 2 * REST), None, "it is being asked");
        assert!(nodes.succeeded(&due.base));
        assert_eq!(picks(&nodes, 3), ["n0", "n1", "n2"]);
    }

    #[tokio::test]
    async fn if_all_have_failed_the_first_of_them_is_asked() {
        let (nodes, now) = (nodes(2), Instant::now());
        nodes.failed("http://n1:9200", now);
        nodes.failed("http://n0:9200", now + REST);
        assert_eq!(picks(&nodes, 1), ["n1"]);
    }

    #[tokio::test]
    async fn the_only_node_is_never_left_out() {
        let nodes = nodes(1);
        assert!(!nodes.failed("http://n0:9200", Instant::now()));
        assert_eq!(picks(&nodes, 2), ["n0", "n0"]);
    }

    #[tokio::test]
    async fn what_is_known_of_a_node_outlives_a_discovery() {
        let body = br#"{"nodes":{"a":{"roles":["master"],"http":{"publish_address":"10.0.0.1:9200"}},
            "b":{"roles":["data","master"],"http":{"publish_address":"es.local/10.0.0.2:9201"}},
            "c":{"http":{"publish_address":"n0:9200"}},"d":{"roles":["data"]}}}"#;
        let found = discovered(body, "http://n0:9200").unwrap();
        assert_eq!(found, ["http://es.local:9201", "http://n0:9200"]);
        let nodes = nodes(2);
        nodes.failed("http://n0:9200", Instant::now());
        nodes.replace(&found);
        assert_eq!(nodes.count(), 2);
        assert_eq!(picks(&nodes, 2), ["es", "es"]);
        nodes.replace(&[]);
        assert_eq!(nodes.count(), 2);
    }
}
