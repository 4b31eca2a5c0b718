//! Receivers: what one is, how requests are admitted to it, and the loop that runs it.
//!
//! A receiver is in two parts. Its connections are served by `net`'s tasks and outlive every incarnation; what
//! they admit lands in the receiver's mailbox. The stage proper takes requests from there, one at a time,
//! decodes them and sends them into its pipelines, under the same protection as any other stage: a request that
//! makes it panic is handed to its successor, and is blamed only with proof.

use std::net::TcpStream;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{Fuse, LocalBoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use watershed_delivery::{Cause, Exhausted, Fault, Outcome, Permit};
use watershed_net::{DatagramSocket, Stop};
use watershed_supervise::{Failure, Launch, Lease, Next, Ticket, caught};
use watershed_telemetry::{Payload, Signal};

use crate::extension::Reference;
use crate::intake::Intake;
use crate::message::{Body, Context, Message, OVERHEAD, Request, wall_clock, weight_of};
use crate::metrics::by_signal;
use crate::registry::{Env, Error, Placement, ReceiverSpec, Settings};
use crate::route::{Entries, Entry, Refusal, Rooms, Switch, by_deadline};

/// A source of telemetry.
pub trait Receiver: Sized + 'static {
    /// Its settings.
    type Settings: Settings;

    /// The signals it can produce.
    fn signals() -> &'static [Signal] {
        &Signal::ALL
    }

    /// Where its copies stand. A receiver with a source of its own ([`Receiver::run`]) is usually `Single`.
    fn placement(_settings: &Self::Settings) -> Placement {
        Placement::Lane
    }

    /// The sockets it wants and how the connections to them are served.
    fn listeners(_settings: &Arc<Self::Settings>) -> Vec<Listener> {
        Vec::new()
    }

    /// The sockets it takes datagrams from. What comes by them has no sender that could be told to come again
    /// ([`Intake::offer`]).
    fn datagrams(_settings: &Arc<Self::Settings>) -> Vec<DatagramListener> {
        Vec::new()
    }

    /// Builds one copy.
    fn build(settings: &Arc<Self::Settings>, env: &Env) -> Result<Self, Failure>;

    /// Runs beside the mailbox, for receivers that fetch rather than listen. An error restarts the receiver;
    /// `Ok` means that the source has ended. Dropped when the receiver is drained.
    async fn run(&self, _intake: Intake) -> Result<(), Failure> {
        std::future::pending().await
    }

    /// Makes OTLP of a request's body. The default is for bodies that are OTLP: validation.
    ///
    /// `permit` covers the body; it is to cover what is made of it as well, before that is made.
    fn decode(&self, signal: Signal, body: Body, _permit: &Permit) -> Result<Payload, Error> {
        Payload::validate(signal, body.bytes).map_err(|invalid| Error::reject(invalid.to_string()))
    }
}

/// Makes something of a body that `permit` covers: `make` asks before what it takes beside the body may grow to so many
/// bytes.
pub fn granted<T>(
    permit: &Permit,
    make: impl FnOnce(&mut dyn FnMut(usize) -> bool) -> T,
) -> Result<T, Exhausted> {
    let (held, mut granted) = (permit.bytes(), Ok(()));
    let made = make(&mut |total| {
        // A permit looks only at what is to be added to it.
        let (wanted, most) = (held + total as u64, permit.budget().limit());
        granted = if wanted > most { Err(Exhausted::ForEver) } else { permit.try_cover(wanted) };
        granted.is_ok()
    });
    granted.map(|()| made)
}

/// One address a receiver or an exporter listens on. The socket belongs to the engine and is lent: neither a restart
/// of the stage nor a new name for it refuses a connection.
///
/// What comes in goes into a receiver by its [`Intake`]. Into an exporter nothing does: its `In` is `()`.
pub struct Listener<In = Intake> {
    /// `host:port`.
    pub address: String,
    /// The key that names it, for messages: `protocols.grpc.endpoint`.
    pub key: &'static str,
    /// What is spoken, as a label: `grpc`, `http`.
    pub transport: &'static str,
    /// Who can read along, and who may send.
    pub security: Security,
    /// Makes ready to serve: reads certificates, finds extensions. Called once, for all lanes.
    pub open: Arc<Open<In>>,
}

/// What stands between a listener and the network. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The extension that is asked who may send.
    pub auth: Option<String>,
}

/// Makes a listener ready.
pub type Open<In = Intake> = dyn Fn(&Env) -> Result<Arc<Serve<In>>, Failure> + Send + Sync;

/// Serves the connections dealt to one lane until told to stop.
pub type Serve<In = Intake> =
    dyn Fn(In, mpsc::Receiver<TcpStream>, Stop) -> LocalBoxFuture<'static, ()> + Send + Sync;

/// One address a receiver takes datagrams at (UDP). The socket is lent as that of a [`Listener`].
pub struct DatagramListener {
    /// `host:port`.
    pub address: String,
    /// The key that names it, for messages.
    pub key: &'static str,
    /// What is spoken, as a label.
    pub transport: &'static str,
    /// Reads from it.
    pub serve: Arc<ServeDatagrams>,
}

/// Reads on one lane from a socket that every lane reads from, until told to stop.
pub type ServeDatagrams =
    dyn Fn(Intake, Arc<DatagramSocket>, Stop) -> LocalBoxFuture<'static, ()> + Send + Sync;

/// What a receiver's copy runs with.
#[derive(Clone)]
pub struct ReceiverParts {
    /// Id, lane, budget, metrics.
    pub env: Env,
    /// The pipelines it feeds.
    pub entries: Switch<Entries>,
    /// The way into its own mailbox.
    pub intake: Intake,
}

/// A receiver kind with its settings.
pub(crate) struct Configured<R: Receiver>(pub(crate) Arc<R::Settings>);

/// One copy of a receiver and all it needs to run.
struct Host<R> {
    stage: R,
    parts: ReceiverParts,
}

/// A request on its way out of the receiver.
struct Outgoing {
    ticket: Ticket,
    payload: Payload,
    /// The pipelines as they were when it was looked at.
    entries: Arc<Entries>,
}

// === impl Security ===

impl std::fmt::Display for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.tls { "TLS" } else { "plain text" })?;
        match &self.auth {
            Some(auth) => write!(f, ", auth `{auth}`"),
            None => Ok(()),
        }
    }
}

// === impl Configured ===

impl<R: Receiver> ReceiverSpec for Configured<R> {
    fn signals(&self) -> &'static [Signal] {
        R::signals()
    }

    fn placement(&self) -> Placement {
        R::placement(&self.0)
    }

    fn listeners(&self) -> Vec<Listener> {
        R::listeners(&self.0)
    }

    fn datagrams(&self) -> Vec<DatagramListener> {
        R::datagrams(&self.0)
    }

    fn references(&self) -> Vec<Reference> {
        self.0.references()
    }

    fn launch(&self, parts: ReceiverParts) -> Launch<Request> {
        let settings = self.0.clone();
        Arc::new(move |lease| {
            let (settings, parts) = (settings.clone(), parts.clone());
            async move {
                let stage = R::build(&settings, &parts.env)?;
                Host { stage, parts }.serve(lease).await
            }
            .boxed_local()
        })
    }
}

// === impl Host ===

impl<R: Receiver> Host<R> {
    async fn serve(self, mut lease: Lease<Request>) -> Result<(), Failure> {
        lease.started();
        let mut source = std::pin::pin!(caught(self.stage.run(self.parts.intake.clone())).fuse());
        // Requests that wait for room in a pipeline that blocks must not hold up those for other pipelines. Those
        // of one signal want the same rooms, and take turns.
        let turns = Signal::ALL.map(|_| Mutex::new(()));
        let mut waiting = FuturesUnordered::new();
        let mut drained = false;
        while !drained || !waiting.is_empty() {
            // A mailbox that is never empty must not keep the lane from its neighbours.
            tokio::task::coop::consume_budget().await;
            tokio::select! {
                biased;
                Some((outgoing, rooms)) = waiting.next(), if !waiting.is_empty() => {
                    self.commit(&lease, outgoing, rooms);
                }
                ended = &mut source => ended??,
                next = lease.next(), if !drained => match next {
                    Next::Mail(ticket) => {
                        if let Some((outgoing, deadline)) = self.handle(&lease, ticket).await? {
                            let turn = by_signal(&turns, outgoing.payload.signal());
                            waiting.push(wait(turn, outgoing, deadline));
                        }
                    }
                    // A source that goes on would keep the mailbox from ever being empty.
                    Next::Control(_) => source.set(Fuse::terminated()),
                    Next::Drained => drained = true,
                },
            }
        }
        Ok(())
    }

    /// Decodes one request and sends it on; gives it back if a pipeline has to be waited for.
    async fn handle(
        &self,
        lease: &Lease<Request>,
        ticket: Ticket,
    ) -> Result<Option<(Outgoing, Option<Instant>)>, Failure> {
        let request = lease.with(&ticket, |request| {
            let deadline = request.guard.deadline().map(Instant::from_std);
            let Request { body, permit, items, .. } = request;
            (request.signal, body.clone(), permit.clone(), items.clone(), deadline)
        });
        let Some((signal, body, permit, items, deadline)) = request else { return Ok(None) };
        let decoded = {
            let _busy = lease.busy();
            caught(async { self.stage.decode(signal, body, &permit) }).await?
        };
        let payload = match decoded {
            Ok(payload) => payload,
            Err(error) => {
                lease.finish(ticket, error.outcome(0)?);
                return Ok(None);
            }
        };
        items.set(payload.items());
        if payload.is_empty() {
            // OTLP: an empty request succeeds (specification, "OTLP/gRPC Response").
            lease.finish(ticket, Outcome::Delivered);
            return Ok(None);
        }
        let outgoing = Outgoing { ticket, payload, entries: self.parts.entries.get() };
        match outgoing.try_reserve() {
            Ok(rooms) => self.commit(lease, outgoing, Ok(rooms)),
            Err(Refusal::Now(outcome)) => lease.finish(outgoing.ticket, outcome),
            Err(Refusal::Wait) => return Ok(Some((outgoing, deadline))),
        }
        Ok(None)
    }

    fn commit(
        &self,
        lease: &Lease<Request>,
        Outgoing { ticket, payload, entries }: Outgoing,
        rooms: Result<Vec<Rooms>, Outcome>,
    ) {
        let entries = entries.of(payload.signal());
        let rooms = match rooms {
            Ok(rooms) if !lease.is_withdrawn(&ticket) => rooms,
            Ok(_) => {
                let outcome = Outcome::refused(Cause::Withdrawn, "its sender is gone");
                entries.iter().for_each(|entry| entry.way().ended(payload.items(), &outcome));
                return lease.finish(ticket, outcome);
            }
            Err(outcome) => return lease.finish(ticket, outcome),
        };
        if entries.is_empty() {
            let reason = format!("no pipeline takes {} from {}", payload.signal(), self.parts.env.id);
            return lease.finish(ticket, Outcome::rejected(Fault::Invalid, payload.items() as u64, reason));
        }
        let Some(taken) = lease.take(ticket) else { return };
        let Request { body, origin, guard, permit, .. } = taken.mail;
        drop(body);
        // What was transcoded has gone; what was kept of the head stays.
        let held = (payload.bytes() + origin.bytes() + OVERHEAD) as u64;
        permit.cover(held);
        permit.trim(held);
        let guards = guard.split(entries.len());
        let arrived = wall_clock();
        for ((entry, rooms), guard) in entries.iter().zip(rooms).zip(guards) {
            let context = Context {
                receiver: self.parts.env.id.clone(),
                pipeline: entry.pipeline().clone(),
                origin: origin.clone(),
                arrived,
            };
            rooms.send(Message {
                payload: payload.clone(),
                context: Arc::new(context),
                guard,
                permit: permit.clone(),
                charge: None,
            });
        }
    }
}

/// Room for a request in every pipeline, once there is.
async fn wait(
    turn: &Mutex<()>,
    outgoing: Outgoing,
    deadline: Option<Instant>,
) -> (Outgoing, Result<Vec<Rooms>, Outcome>) {
    let rooms = async {
        let _turn = turn.lock().await;
        outgoing.reserve().await
    };
    let items = outgoing.payload.items();
    let late = || outgoing.pipelines().iter().for_each(|entry| entry.way().late(items));
    let rooms = by_deadline(deadline, rooms, late).await;
    (outgoing, rooms)
}

// === impl Outgoing ===

impl Outgoing {
    fn pipelines(&self) -> &[Entry] {
        self.entries.of(self.payload.signal())
    }

    fn try_reserve(&self) -> Result<Vec<Rooms>, Refusal> {
        let weight = weight_of(&self.payload);
        self.pipelines().iter().map(|entry| entry.way().try_reserve(weight)).collect()
    }

    /// Room in every pipeline. While one is waited for, nothing is held in the others: they have other senders,
    /// and what frees the one may have to pass through them.
    async fn reserve(&self) -> Result<Vec<Rooms>, Outcome> {
        let (entries, weight) = (self.pipelines(), weight_of(&self.payload));
        let mut full = 0;
        'wait: loop {
            let mut rooms = Vec::with_capacity(entries.len());
            let mut waited = match entries.get(full) {
                Some(entry) => Some(entry.way().reserve(weight).await?),
                None => None,
            };
            for (index, entry) in entries.iter().enumerate() {
                let room = match waited.take_if(|_| index == full) {
                    Some(room) => Ok(room),
                    None => entry.way().try_reserve(weight),
                };
                match room {
                    Ok(room) => rooms.push(room),
                    Err(Refusal::Now(outcome)) => return Err(outcome),
                    Err(Refusal::Wait) => {
                        full = index;
                        continue 'wait;
                    }
                }
            }
            return Ok(rooms);
        }
    }
}
