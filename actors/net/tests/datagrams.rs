//! Datagrams: sockets that are lent, readers that come and go, and what the kernel loses.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;
use watershed_net::{DatagramService, DatagramSocket, Sockets, StopSignal, serve_datagrams};

const PATIENCE: Duration = Duration::from_secs(30);

/// What has been taken, and how many were too large.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<(Vec<Vec<u8>>, usize)>>);

impl DatagramService for Book {
    fn take(&self, datagram: &[u8], _peer: SocketAddr) {
        self.0.lock().0.push(datagram.to_vec());
    }

    fn too_large(&self, _peer: SocketAddr) {
        self.0.lock().1 += 1;
    }
}

impl Book {
    /// Until so many have come.
    async fn has(&self, taken: usize, too_large: usize) {
        let come = async {
            while self.counts() != (taken, too_large) {
                tokio::task::yield_now().await;
            }
        };
        assert!(timeout(PATIENCE, come).await.is_ok(), "{:?}", self.counts());
    }

    fn counts(&self) -> (usize, usize) {
        let (taken, too_large) = &*self.0.lock();
        (taken.len(), *too_large)
    }
}

fn send(to: &DatagramSocket, datagram: &[u8]) {
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(datagram, to.local_addr()).unwrap();
}

#[tokio::test]
async fn one_address_is_one_socket_and_connections_have_their_own() {
    let sockets = Sockets::new();
    let address = Sockets::new().bind_datagrams("127.0.0.1:0").unwrap().local_addr().to_string();
    let first = sockets.bind_datagrams(&address).unwrap();
    assert!(Arc::ptr_eq(&first, &sockets.bind_datagrams(&address).unwrap()));
    let error = Sockets::new().bind_datagrams(&address).unwrap_err().to_string();
    assert!(error.contains("another process listens there"), "{error}");
    sockets.bind(&address).unwrap();
    sockets.close(&address);
    drop(first);
    Sockets::new().bind_datagrams(&address).unwrap();
}

#[tokio::test]
async fn each_datagram_is_read_once_by_whoever_reads() {
    let socket = Sockets::new().bind_datagrams("127.0.0.1:0").unwrap();
    let (signal, stop) = StopSignal::new();
    let book = Book::default();
    let readers = (0..3).map(|_| serve_datagrams(&book, &socket, 8, 100, stop.clone()));
    let reading = futures_util::future::join_all(readers);
    let sending = async {
        for number in 0..30_u8 {
            send(&socket, &[number]);
        }
        send(&socket, &[0; 8]);
        send(&socket, &[0; 9]);
        send(&socket, &[]);
        book.has(32, 1).await;
        signal.stop();
    };
    tokio::join!(reading, sending);
    let mut taken = book.0.lock().0.clone();
    taken.sort();
    assert_eq!((&taken[0][..], &taken[1][..], &taken[31][..]), (&[][..], &[0][..], &[29][..]));
}

#[tokio::test]
async fn what_has_arrived_by_the_stop_is_read_and_what_comes_later_by_the_next() {
    let socket = Sockets::new().bind_datagrams("127.0.0.1:0").unwrap();
    let book = Book::default();
    let (signal, stop) = StopSignal::new();
    signal.stop();
    for number in 0..5 {
        send(&socket, &[number]);
    }
    serve_datagrams(&book, &socket, 8, 3, stop).await;
    assert_eq!(book.0.lock().0, [[0], [1], [2]], "as many as told");

    let (signal, stop) = StopSignal::new();
    let end = async {
        book.has(5, 0).await;
        signal.stop();
    };
    tokio::join!(serve_datagrams(&book, &socket, 8, 0, stop), end);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn what_the_kernel_loses_is_known() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let socket = Sockets::new().bind_datagrams(address).unwrap();
        socket.set_buffer_size(4096).unwrap();
        assert_eq!(socket.overflows(), 0);
        let sender = UdpSocket::bind(address).unwrap();
        for _ in 0..100 {
            sender.send_to(&[0; 1000], socket.local_addr()).unwrap();
        }
        let book = Book::default();
        let (signal, stop) = StopSignal::new();
        signal.stop();
        serve_datagrams(&book, &socket, 1000, 100, stop).await;
        let taken = book.0.lock().0.len() as u64;
        assert!(taken < 100, "{taken}");
        assert_eq!(taken + socket.overflows(), 100, "{address}");
    }
}
