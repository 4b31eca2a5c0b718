//! What runs of a role, part by part. A part that the next plan keeps is the same one there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use watershed_delivery::{Budget, Share};
use watershed_net::{DatagramSocket, Socket, StopSignal};
use watershed_stage::{
    Entries, Intake, Ledger, Letters, Message, Metrics, PerSignal, Provided, StageSpec, Switch, Tracing, Way,
};
use watershed_supervise::{Cell, ChildId};

use crate::config::RolePlan;
use crate::engine::Address;

/// The running part of one role.
pub(crate) struct Role {
    pub(crate) metrics: Metrics,
    pub(crate) tracing: Tracing,
    pub(crate) budget: Arc<Budget>,
    /// The plan in force. What was kept of the one before stands in it as it was there: it may have a state.
    pub(crate) plan: Arc<RolePlan>,
    pub(crate) extensions: HashMap<Arc<str>, Provided>,
    pub(crate) receivers: HashMap<Arc<str>, Arc<ReceiverPart>>,
    /// By pipeline and id.
    pub(crate) stages: HashMap<(Arc<str>, Arc<str>), Arc<StagePart>>,
    pub(crate) exporters: HashMap<Arc<str>, Arc<ExporterPart>>,
    /// Dead letters, by pipeline.
    pub(crate) posts: HashMap<Arc<str>, Arc<Post>>,
    pub(crate) served: Vec<Arc<Served>>,
}

/// A receiver: a copy on one lane or on each.
pub(crate) struct ReceiverPart {
    pub(crate) children: Vec<Child>,
    pub(crate) intakes: Vec<Intake>,
    /// By copy.
    pub(crate) entries: Vec<Switch<Entries>>,
}

/// A processor in one pipeline.
pub(crate) struct StagePart {
    pub(crate) stage: Arc<dyn StageSpec>,
    /// Those who deal, where the copies have shares of the traces.
    pub(crate) dealers: Vec<Child>,
    pub(crate) children: Vec<Child>,
    /// What each lane sends to.
    pub(crate) by_lane: Vec<Cell<Message>>,
    /// By dealer and copy, with the lane that it stands on.
    pub(crate) onward: Vec<(usize, Switch<Way>)>,
}

/// An exporter.
pub(crate) struct ExporterPart {
    pub(crate) children: Vec<Child>,
    /// What each lane sends to, its queue on disk left out.
    pub(crate) by_lane: Vec<Cell<Message>>,
    /// Who takes over, by copy.
    pub(crate) heirs: Vec<watch::Sender<Option<Cell<Message>>>>,
    pub(crate) share: Arc<Share>,
    pub(crate) enqueue_failed: PerSignal,
    /// What keeps its queue on disk.
    pub(crate) queue: Option<Arc<QueuePart>>,
}

/// What keeps an exporter's queue on disk. It may outlive the exporter, and serve the next of that id.
pub(crate) struct QueuePart {
    pub(crate) stage: Arc<dyn StageSpec>,
    pub(crate) children: Vec<Child>,
    pub(crate) by_lane: Vec<Cell<Message>>,
    pub(crate) onward: Vec<Switch<Way>>,
}

/// Where a pipeline's dead letters go, and its losses are booked.
pub(crate) struct Post {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) letters: Option<Arc<dyn Letters>>,
}

/// An actor.
#[derive(Clone)]
pub(crate) struct Child {
    pub(crate) id: ChildId,
    pub(crate) name: Arc<str>,
}

/// An address that is served for a component. All that serve it end when it is told to stop.
pub(crate) struct Served {
    pub(crate) class: &'static str,
    pub(crate) component: Arc<str>,
    pub(crate) key: &'static str,
    /// As it is written, which is how the socket is asked for.
    pub(crate) address: String,
    /// The same with its port.
    pub(crate) local_addr: SocketAddr,
    /// Until it is no longer served: a socket that nobody accepts from must not take connections.
    pub(crate) socket: Mutex<Option<Held>>,
    pub(crate) stop: StopSignal,
    /// The other ends are with those who serve connections.
    pub(crate) alive: watch::Sender<()>,
}

/// A socket that is held as long as it is served.
#[derive(Clone)]
pub(crate) enum Held {
    Stream(Arc<Socket>),
    Datagrams(Arc<DatagramSocket>),
}

// === impl Role ===

impl Role {
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Address> {
        let role = &self.plan.name;
        self.served.iter().map(|served| {
            let Served { class, component, key, local_addr, .. } = &**served;
            let (role, component, address) = (role.clone(), component.clone(), *local_addr);
            Address { role, class, component, key, address }
        })
    }

    /// Every actor.
    pub(crate) fn children(&self) -> impl Iterator<Item = &Child> {
        let receivers = self.receivers.values().flat_map(|part| &part.children);
        let stages = self.stages.values().flat_map(|part| part.dealers.iter().chain(&part.children));
        let queues = self.exporters.values().filter_map(|part| part.queue.as_ref());
        let exporters = self.exporters.values().flat_map(|part| &part.children);
        receivers.chain(stages).chain(queues.flat_map(|queue| &queue.children)).chain(exporters)
    }
}

// === impl ExporterPart ===

impl ExporterPart {
    /// What pipelines send to on each lane.
    pub(crate) fn entries(&self) -> &[Cell<Message>] {
        self.queue.as_ref().map_or(&self.by_lane, |queue| &queue.by_lane)
    }

    /// Has everything that is not on the wire go to `next`, which takes its place.
    pub(crate) fn leave_to(&self, next: &ExporterPart) {
        let heirs = match (&self.queue, &next.queue) {
            (None, _) => next.entries(),
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => &next.by_lane,
            // What its own queue on disk gave it is owed to that.
            (Some(_), _) => return,
        };
        for (heir, cell) in self.heirs.iter().zip(heirs) {
            heir.send_replace(Some(cell.clone()));
        }
    }
}

// === impl Served ===

impl Served {
    /// Ready when nothing is served any more.
    pub(crate) async fn ended(&self) {
        self.alive.closed().await;
    }
}

// === impl Held ===

impl Held {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Stream(socket) => socket.local_addr(),
            Self::Datagrams(socket) => socket.local_addr(),
        }
    }
}
