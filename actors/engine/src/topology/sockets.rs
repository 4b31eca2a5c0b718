//! The sockets of a role: opened before anything is built, and served once everything is.

use std::net::TcpStream;
use std::sync::Arc;

use tokio::sync::mpsc;
use watershed_net::{DatagramSocket, Socket, Stop, StopSignal};
use watershed_stage::{DatagramListener, Intake, Listener, Serve};

use super::{Builder, Built, Role, StartError};
use crate::engine::Address;
use crate::gauges;

/// Connections that wait for a lane to take them.
const DEALT: usize = 64;

/// A component's socket, and how what connects to it is served.
pub(super) struct Bound {
    class: &'static str,
    component: Arc<str>,
    address: String,
    key: &'static str,
    transport: &'static str,
    serving: Serving,
    socket: Arc<Socket>,
}

/// How connections are served: what comes by them goes into a receiver, and is for an exporter to answer.
enum Serving {
    Receiver(Arc<Serve>),
    Exporter(Arc<Serve<()>>),
}

/// A receiver's socket for datagrams, and how it is read.
pub(super) struct BoundDatagrams {
    receiver: Arc<str>,
    listener: DatagramListener,
    socket: Arc<DatagramSocket>,
}

// === impl Builder ===

impl Builder<'_> {
    pub(super) fn bind(&self) -> Result<Vec<Bound>, StartError> {
        let mut bound = Vec::new();
        for receiver in &self.plan.receivers {
            for listener in receiver.spec.listeners() {
                bound.push(self.listen("receiver", &receiver.id, listener, Serving::Receiver)?);
            }
        }
        for exporter in &self.plan.exporters {
            for listener in exporter.spec.listeners() {
                bound.push(self.listen("exporter", &exporter.id, listener, Serving::Exporter)?);
            }
        }
        Ok(bound)
    }

    fn listen<In>(
        &self,
        class: &'static str,
        id: &Arc<str>,
        listener: Listener<In>,
        serving: fn(Arc<Serve<In>>) -> Serving,
    ) -> Result<Bound, StartError> {
        let Listener { address, key, transport, open, .. } = listener;
        let component = id.clone();
        let socket = self.site.sockets.bind(&address);
        let socket = socket.map_err(|source| StartError::Bind { class, component, key, source })?;
        let name: Arc<str> = format!("{}/{class}s/{id}", self.plan.name).into();
        let at = socket.local_addr();
        if let Some(first) = self.site.claims.borrow_mut().insert(at, name.clone()) {
            return Err(StartError::Twice { first, second: name, address: at });
        }
        let serve = open(&self.env(id, None, 0, 1)).map_err(|source| StartError::Stage { name, source })?;
        let serving = serving(serve);
        Ok(Bound { class, component: id.clone(), address, key, transport, serving, socket })
    }

    pub(super) fn bind_datagrams(&self) -> Result<Vec<BoundDatagrams>, StartError> {
        let mut bound = Vec::new();
        for receiver in &self.plan.receivers {
            for listener in receiver.spec.datagrams() {
                let (class, component, key) = ("receiver", receiver.id.clone(), listener.key);
                let socket = self.site.sockets.bind_datagrams(&listener.address);
                let socket = socket.map_err(|source| StartError::Bind { class, component, key, source })?;
                let name: Arc<str> = format!("{}/receivers/{}", self.plan.name, receiver.id).into();
                let address = socket.local_addr();
                if let Some(first) = self.site.datagram_claims.borrow_mut().insert(address, name.clone()) {
                    return Err(StartError::Twice { first, second: name, address });
                }
                bound.push(BoundDatagrams { receiver: receiver.id.clone(), listener, socket });
            }
        }
        Ok(bound)
    }

    pub(super) fn serve(self, built: Built, bound: Vec<Bound>, datagrams: Vec<BoundDatagrams>) -> Role {
        let (signal, stop) = StopSignal::new();
        let (alive, serving) = mpsc::channel(1);
        let mut addresses = Vec::new();
        let mut listening = Vec::new();
        for Bound { class, component, address, key, transport, serving, socket } in bound {
            let (role, at) = (self.plan.name.clone(), socket.local_addr());
            addresses.push(Address { role, class, component: component.clone(), key, address: at });
            listening.push(address);
            let lanes = match serving {
                Serving::Receiver(serve) => {
                    let Some(intakes) = built.intakes.get(&component) else { continue };
                    let intakes: Vec<Intake> = intakes.iter().map(|intake| intake.over(transport)).collect();
                    self.lanes(&serve, &intakes, &stop, &alive)
                }
                Serving::Exporter(serve) => self.lanes(&serve, &[()], &stop, &alive),
            };
            let (stop, alive) = (stop.clone(), alive.clone());
            actix_rt::spawn(async move {
                socket.deal(lanes, stop).await;
                drop(alive);
            });
        }
        for BoundDatagrams { receiver, listener, socket } in datagrams {
            let DatagramListener { address, key, transport, serve } = listener;
            let (role, at) = (self.plan.name.clone(), socket.local_addr());
            let (class, component) = ("receiver", receiver.clone());
            addresses.push(Address { role, class, component, key, address: at });
            listening.push(address);
            gauges::datagrams(&self.metrics, &receiver, transport, &socket);
            let intakes = built.intakes.get(&receiver).into_iter().flatten();
            for (intake, lane) in intakes.zip(&self.site.lanes) {
                let (intake, socket, serve) = (intake.over(transport), socket.clone(), serve.clone());
                let (stop, alive) = (stop.clone(), alive.clone());
                lane.spawn_fn(move || {
                    actix_rt::spawn(async move {
                        serve(intake, socket, stop).await;
                        drop(alive);
                    });
                });
            }
        }
        let Built { receivers, processors, exporters, keepers, letters, .. } = built;
        let (name, budget) = (self.plan.name.clone(), self.budget);
        let stop = signal;
        Role {
            name,
            budget,
            addresses,
            listening,
            stop,
            serving,
            receivers,
            processors,
            exporters,
            keepers,
            letters,
        }
    }

    /// Serves a listener's connections on every lane; where to deal them.
    fn lanes<In: Clone + Send + 'static>(
        &self,
        serve: &Arc<Serve<In>>,
        intakes: &[In],
        stop: &Stop,
        alive: &mpsc::Sender<()>,
    ) -> Vec<mpsc::Sender<TcpStream>> {
        let mut dealt = Vec::new();
        for (lane, arbiter) in self.site.lanes.iter().enumerate() {
            let Some(intake) = intakes.get(lane).or_else(|| intakes.first()).cloned() else { continue };
            let (sender, connections) = mpsc::channel(DEALT);
            let (serve, stop, alive) = (serve.clone(), stop.clone(), alive.clone());
            let spawned = arbiter.spawn_fn(move || {
                actix_rt::spawn(async move {
                    serve(intake, connections, stop).await;
                    drop(alive);
                });
            });
            if spawned {
                dealt.push(sender);
            }
        }
        dealt
    }
}
