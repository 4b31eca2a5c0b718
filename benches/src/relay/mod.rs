//! The two hand-written relays. They differ in one thing, the [`Payload`]: bytes or decoded structs.
//!
//! Both merge a fixed number of requests and send them on with tonic, and answer "ok" as soon as a request is queued, or
//! as soon as the sink has it: the same promise as Watershed's, without supervision, retries or checks.

mod forward;
mod ingress;
mod payload;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Server};
use watershed_testkit::grpc::Signal;

use crate::cli::Shape;
use ingress::Ingress;
pub use payload::{Decoded, Payload, Raw};

/// Merged requests on their way at the same time.
pub const IN_FLIGHT: usize = 4;

/// How a relay is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The sink.
    pub target: SocketAddr,
    /// Requests merged into one.
    pub merge: usize,
    /// Threads.
    pub shape: Shape,
    /// What comes.
    pub signal: Signal,
    /// "Ok" is said when the sink has said it.
    pub waits: bool,
    /// Bytes that it may hold; beyond them, senders wait.
    pub ahead: usize,
}

/// Relays until the process is killed.
pub fn run<P: Payload>(options: &Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen)?;
    let cores = match options.shape {
        Shape::Cores => std::thread::available_parallelism()?.get(),
        Shape::Single | Shape::Multi => 1,
    };
    let room = Arc::new(Semaphore::new(options.ahead));
    let lanes = (0..cores).map(|_| lane::<P>(options, &room)).collect::<anyhow::Result<Vec<_>>>()?;
    for lane in lanes.iter().cycle() {
        let (tcp, _) = listener.accept()?;
        tcp.set_nodelay(true)?;
        tcp.set_nonblocking(true)?;
        lane.blocking_send(tcp)?;
    }
    Ok(())
}

/// A runtime on a thread of its own that serves the connections sent to it.
fn lane<P: Payload>(
    options: &Options,
    room: &Arc<Semaphore>,
) -> anyhow::Result<mpsc::Sender<std::net::TcpStream>> {
    let mut runtime = match options.shape {
        Shape::Multi => tokio::runtime::Builder::new_multi_thread(),
        Shape::Single | Shape::Cores => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    let (connections, incoming) = mpsc::channel(64);
    let (options, room) = (options.clone(), room.clone());
    std::thread::spawn(move || {
        let served = runtime.block_on(serve::<P>(incoming, &options, room));
        eprintln!("a relay's lane ended: {served:?}");
        std::process::exit(1);
    });
    Ok(connections)
}

async fn serve<P: Payload>(
    incoming: mpsc::Receiver<std::net::TcpStream>,
    options: &Options,
    room: Arc<Semaphore>,
) -> anyhow::Result<()> {
    let Options { target, merge, signal, waits, ahead, .. } = *options;
    let channel = Endpoint::from_shared(format!("http://{target}"))?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .connect_lazy();
    let (queue, queued) = mpsc::unbounded_channel();
    tokio::spawn(forward::forward::<P>(queued, channel, merge, signal));
    let incoming = tokio_stream::StreamExt::map(ReceiverStream::new(incoming), TcpStream::from_std);
    Server::builder()
        // Room for all that a connection has in flight, so that no sender waits for a window update.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        // How large frames are is left to the loader.
        .max_frame_size(1 << 20)
        .serve_with_incoming(Ingress::<P> { queue, room, ahead, waits }, incoming)
        .await?;
    Ok(())
}
