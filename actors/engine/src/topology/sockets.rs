//! The sockets of a role: opened before anything is built, and served once everything is.
//!
//! An address that is the same in the next plan keeps its socket, whatever else changes about its component: who deals
//! from it ends, the next one begins, and what connects meanwhile waits in the backlog.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use watershed_net::{Socket, Stop, StopSignal};
use watershed_stage::{DatagramListener, Intake, Listener, Serve, ServeDatagrams};

use super::parts::{Held, Role, Served};
use super::{Draft, Site, StartError};
use crate::gauges;

/// Connections that wait for a lane to take them.
const DEALT: usize = 64;

/// A component's socket, and how what comes by it is served.
pub(super) struct Bound {
    class: &'static str,
    component: Arc<str>,
    key: &'static str,
    address: String,
    transport: &'static str,
    serving: Serving,
    socket: Held,
}

/// How it is served: what comes goes into a receiver, or is for an exporter to answer.
enum Serving {
    Receiver(Arc<Serve>),
    Exporter(Arc<Serve<()>>),
    Datagrams(Arc<ServeDatagrams>),
}

// === impl Draft ===

impl Draft<'_> {
    /// Opens the sockets of what is not kept.
    pub(super) fn bind(&mut self) -> Result<(), StartError> {
        let plan = self.next.plan.clone();
        for receiver in &plan.receivers {
            for listener in receiver.spec.listeners() {
                self.listen("receiver", &receiver.id, listener, Serving::Receiver)?;
            }
            for listener in receiver.spec.datagrams() {
                self.receive(&receiver.id, listener)?;
            }
        }
        for exporter in &plan.exporters {
            for listener in exporter.spec.listeners() {
                self.listen("exporter", &exporter.id, listener, Serving::Exporter)?;
            }
        }
        Ok(())
    }

    fn listen<In>(
        &mut self,
        class: &'static str,
        id: &Arc<str>,
        listener: Listener<In>,
        serving: fn(Arc<Serve<In>>) -> Serving,
    ) -> Result<(), StartError> {
        let Listener { address, key, transport, open, .. } = listener;
        let name: Arc<str> = format!("{}/{class}s/{id}", self.next.plan.name).into();
        if let Some(served) = self.kept(class, id, key) {
            self.site.claim(false, served.local_addr, &name)?;
            self.next.served.push(served);
            return Ok(());
        }
        self.asked.push(address.clone());
        let socket = match self.held(class, id, key, &address) {
            Some(socket @ Held::Stream(_)) => Ok(socket),
            _ => self.site.sockets.bind(&address).map(Held::Stream),
        };
        let component = id.clone();
        let socket = socket.map_err(|source| StartError::Bind { class, component, key, source })?;
        self.site.claim(false, socket.local_addr(), &name)?;
        let serve = open(&self.env(id, None, 0, 1)).map_err(|source| StartError::Stage { name, source })?;
        let (component, serving) = (id.clone(), serving(serve));
        self.bound.push(Bound { class, component, key, address, transport, serving, socket });
        Ok(())
    }

    fn receive(&mut self, id: &Arc<str>, listener: DatagramListener) -> Result<(), StartError> {
        let DatagramListener { address, key, transport, serve } = listener;
        let class = "receiver";
        let name: Arc<str> = format!("{}/receivers/{id}", self.next.plan.name).into();
        if let Some(served) = self.kept(class, id, key) {
            self.site.claim(true, served.local_addr, &name)?;
            self.next.served.push(served);
            return Ok(());
        }
        self.asked.push(address.clone());
        let socket = match self.held(class, id, key, &address) {
            Some(socket @ Held::Datagrams(_)) => Ok(socket),
            _ => self.site.sockets.bind_datagrams(&address).map(Held::Datagrams),
        };
        let component = id.clone();
        let socket = socket.map_err(|source| StartError::Bind { class, component, key, source })?;
        self.site.claim(true, socket.local_addr(), &name)?;
        let (component, serving) = (id.clone(), Serving::Datagrams(serve));
        self.bound.push(Bound { class, component, key, address, transport, serving, socket });
        Ok(())
    }

    /// What is served already, for a component that is kept.
    fn kept(&self, class: &'static str, id: &Arc<str>, key: &'static str) -> Option<Arc<Served>> {
        let old = self.old.filter(|_| self.keeps(class, id))?;
        find(old, class, id, key).cloned()
    }

    /// The socket that a component has had for this address. With port 0 nobody else could tell which one that is.
    fn held(&self, class: &'static str, id: &Arc<str>, key: &'static str, address: &str) -> Option<Held> {
        let served = find(self.old?, class, id, key)?;
        served.socket.lock().clone().filter(|_| served.address == address)
    }

    /// Serves the sockets that were opened.
    pub(super) fn serve(&mut self) {
        for bound in std::mem::take(&mut self.bound) {
            let served = bound.serve(self.site, &self.next);
            self.next.served.push(Arc::new(served));
        }
    }
}

fn find<'r>(
    role: &'r Role,
    class: &'static str,
    id: &Arc<str>,
    key: &'static str,
) -> Option<&'r Arc<Served>> {
    role.served.iter().find(|served| (served.class, &served.component, served.key) == (class, id, key))
}

// === impl Site ===

impl Site {
    /// Two components can not have one address.
    fn claim(&self, datagrams: bool, address: SocketAddr, name: &Arc<str>) -> Result<(), StartError> {
        match self.claims.borrow_mut().insert((datagrams, address), name.clone()) {
            Some(first) => Err(StartError::Twice { first, second: name.clone(), address }),
            None => Ok(()),
        }
    }
}

// === impl Bound ===

impl Bound {
    fn serve(self, site: &Site, role: &Role) -> Served {
        let Self { class, component, key, address, transport, serving, socket } = self;
        let (signal, stop) = StopSignal::new();
        let (alive, lives) = watch::channel(());
        let intakes = role.receivers.get(&component).map_or(&[][..], |receiver| &receiver.intakes[..]);
        let intakes = || intakes.iter().map(|intake| intake.over(transport)).collect::<Vec<Intake>>();
        match (&socket, serving) {
            (Held::Stream(socket), Serving::Receiver(serve)) => {
                deal(socket, lanes(site, &serve, &intakes(), &stop, &lives), &stop, &lives);
            }
            (Held::Stream(socket), Serving::Exporter(serve)) => {
                deal(socket, lanes(site, &serve, &[()], &stop, &lives), &stop, &lives);
            }
            (Held::Datagrams(socket), Serving::Datagrams(serve)) => {
                gauges::datagrams(&role.metrics, &component, transport, socket);
                for (intake, lane) in intakes().into_iter().zip(&site.lanes) {
                    let (socket, serve) = (socket.clone(), serve.clone());
                    let (stop, lives) = (stop.clone(), lives.clone());
                    lane.spawn_fn(move || {
                        actix_rt::spawn(async move {
                            serve(intake, socket, stop).await;
                            drop(lives);
                        });
                    });
                }
            }
            // Nothing of that is ever put together.
            (Held::Datagrams(_), _) | (Held::Stream(_), Serving::Datagrams(_)) => {}
        }
        let (local_addr, socket) = (socket.local_addr(), Mutex::new(Some(socket)));
        Served { class, component, key, address, local_addr, socket, stop: signal, alive }
    }
}

/// Deals a socket's connections to the lanes.
fn deal(socket: &Arc<Socket>, lanes: Vec<mpsc::Sender<TcpStream>>, stop: &Stop, lives: &watch::Receiver<()>) {
    let (socket, stop, lives) = (socket.clone(), stop.clone(), lives.clone());
    actix_rt::spawn(async move {
        socket.deal(lanes, stop).await;
        drop(lives);
    });
}

/// Serves a listener's connections on every lane; where to deal them.
fn lanes<In: Clone + Send + 'static>(
    site: &Site,
    serve: &Arc<Serve<In>>,
    intakes: &[In],
    stop: &Stop,
    lives: &watch::Receiver<()>,
) -> Vec<mpsc::Sender<TcpStream>> {
    let mut dealt = Vec::new();
    for (lane, arbiter) in site.lanes.iter().enumerate() {
        let Some(intake) = intakes.get(lane).or_else(|| intakes.first()).cloned() else { continue };
        let (sender, connections) = mpsc::channel(DEALT);
        let (serve, stop, lives) = (serve.clone(), stop.clone(), lives.clone());
        let spawned = arbiter.spawn_fn(move || {
            actix_rt::spawn(async move {
                serve(intake, connections, stop).await;
                drop(lives);
            });
        });
        if spawned {
            dealt.push(sender);
        }
    }
    dealt
}
