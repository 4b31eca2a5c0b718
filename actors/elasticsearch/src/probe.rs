//! What nodes are asked beside the requests: whether they answer again, and which others there are.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{self, Either, LocalBoxFuture};
use http::uri::InvalidUri;
use tokio::time::Instant;

use crate::answer;
use crate::exporter::{Call, Elasticsearch};
use crate::nodes::{DISCOVERY, Target, discovered};

/// How long a node may take to say that it is there, or which others are.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node that was left out, and is asked whether it answers.
pub(crate) struct Probe {
    node: Target,
    asks: LocalBoxFuture<'static, Result<(), String>>,
}

// === impl Elasticsearch ===

impl Elasticsearch {
    /// Does `work`, and meanwhile asks a node that was left out whether it answers. That must not hold up the work: what
    /// is not answered by its end is waited for beside the next.
    pub(crate) async fn probing<T>(&self, call: &Call, work: impl Future<Output = T>) -> T {
        // It waits in three places of this, and is as large as all that a request takes.
        let work = Box::pin(work);
        let Ok(mut probe) = self.probe.try_lock() else { return work.await };
        if probe.is_none() {
            *probe = self.due(call);
        }
        let Some(Probe { node, asks }) = &mut *probe else {
            drop(probe);
            return work.await;
        };
        match future::select(work, asks).await {
            Either::Left((ended, _)) => ended,
            Either::Right((answer, work)) => {
                match answer {
                    Ok(()) => self.answered(node),
                    Err(error) => self.failed(node, &error),
                }
                *probe = None;
                drop(probe);
                work.await
            }
        }
    }

    /// A node whose time it is to be asked.
    fn due(&self, call: &Call) -> Option<Probe> {
        let node = self.nodes.due(Instant::now())?;
        let (client, headers) = (self.client.clone(), call.headers.clone());
        let url = format!("{}/", node.base).parse();
        let asks = async move {
            let url = url.map_err(|error: InvalidUri| error.to_string())?;
            let answer = client.get(&url, &headers, PATIENCE).await.map_err(|error| error.to_string())?;
            if answer.status.is_server_error() { Err(answer.status.to_string()) } else { Ok(()) }
        };
        Some(Probe { node, asks: asks.boxed_local() })
    }

    /// Asks the cluster for its nodes, if it is time to.
    pub(crate) async fn discover(&self, call: &Call) {
        let now = Instant::now();
        if self.asks_at.get().is_none_or(|at| at > now) {
            return;
        }
        self.asks_at.set(self.settings.discover.interval.positive().map(|interval| now + interval));
        let Some(node) = self.nodes.pick() else { return };
        let found = match format!("{}{DISCOVERY}", node.base).parse() {
            Ok(url) => match self.client.get(&url, &call.headers, PATIENCE).await {
                Ok(answer) if answer.status.is_success() => {
                    discovered(&answer.body, &node.base).map_err(|error| error.to_string())
                }
                Ok(answer) => Err(format!("HTTP {}: {}", answer.status, answer::complaint(&answer.body))),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        match found {
            Ok(urls) => self.nodes.replace(&urls),
            Err(error) => tracing::warn!(exporter = %self.env.id, node = %node.base, %error,
                "The cluster does not say which nodes it has. Those that are known stay in use."),
        }
    }
}
