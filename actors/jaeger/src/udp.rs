//! Over UDP: each datagram is a call of `emitBatch` that nobody answers, so what is not taken is lost, and counted.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use watershed_net::{DatagramService, serve_datagrams};
use watershed_stage::{Body, Intake, Origin, ServeDatagrams, Signal, TurnedAway};

use crate::settings::UdpSettings;

/// The service of one lane.
struct Service {
    intake: Intake,
    format: &'static str,
    /// A permit for each datagram that may be on its way.
    queue: Arc<Semaphore>,
}

impl DatagramService for Service {
    fn take(&self, datagram: &[u8], peer: SocketAddr) {
        let Ok(place) = self.queue.clone().try_acquire_owned() else {
            return self.intake.turned_away(TurnedAway::QueueFull);
        };
        let Ok(permit) = self.intake.admit(datagram.len() as u64) else { return };
        let body = Body { format: self.format, bytes: Bytes::copy_from_slice(datagram) };
        let origin = Origin { peer: Some(peer), ..Origin::default() };
        self.intake.offer(Signal::Traces, body, origin, permit, place);
    }

    fn too_large(&self, _peer: SocketAddr) {
        self.intake.turned_away(TurnedAway::TooLarge);
    }
}

/// What reads from a socket on each lane.
pub(crate) fn serve(settings: UdpSettings, format: &'static str) -> Arc<ServeDatagrams> {
    let queue = Arc::new(Semaphore::new(settings.queue_size.min(Semaphore::MAX_PERMITS)));
    let UdpSettings { workers, queue_size, .. } = settings;
    let (largest, buffer) = (settings.max_packet_size.0 as usize, settings.socket_buffer_size.0 as usize);
    Arc::new(move |intake, socket, stop| {
        let queue = queue.clone();
        Box::pin(async move {
            let lane = intake.env().lane;
            if lane == 0
                && buffer > 0
                && let Err(error) = socket.set_buffer_size(buffer)
            {
                tracing::warn!(receiver = %intake.id(), %error, "the kernel buffers no more than before");
            }
            if lane < workers {
                let service = Service { intake, format, queue };
                serve_datagrams(&service, &socket, largest, queue_size, stop).await;
            }
        })
    })
}
