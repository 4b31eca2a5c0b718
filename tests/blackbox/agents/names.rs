//! A name with several addresses: as much of a DNS server as that takes, and the file that points a client to it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// The one name that it knows.
pub const NAME: &str = "agents.example";

/// Bytes of a message before its question.
const HEADER: usize = 12;
const A: u16 = 1;

/// The server. It ends with this.
pub struct Names {
    directory: TempDir,
    _task: JoinSet<()>,
}

impl Names {
    /// Serves the addresses of [`NAME`] on port 53, which is where clients ask; `None` where that may not be opened.
    pub async fn start(at: Ipv4Addr, addresses: Vec<Ipv4Addr>) -> Option<Names> {
        let socket = match UdpSocket::bind(SocketAddr::from((at, 53))).await {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                println!("skipped: port 53 of {at}: {error}");
                return None;
            }
            socket => socket.unwrap(),
        };
        let directory = tempfile::tempdir().unwrap();
        let text = format!("nameserver {at}\noptions timeout:2 attempts:5\n");
        std::fs::write(directory.path().join("resolv.conf"), text).unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut query = [0; 512];
            while let Ok((size, from)) = socket.recv_from(&mut query).await {
                if let Some(answer) = answer(&query[..size], &addresses) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Some(Names { directory, _task: task })
    }

    /// What is to lie over a client's /etc/resolv.conf.
    pub fn conf(&self) -> PathBuf {
        self.directory.path().join("resolv.conf")
    }
}

/// The answer to a query (RFC 1035): the addresses to a question for those, none to one for something else, and to one
/// about another name that there is none.
fn answer(query: &[u8], addresses: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let (mut name, mut rest) = (Vec::new(), query.get(HEADER..)?);
    loop {
        let (&length, after) = rest.split_first()?;
        if length == 0 {
            rest = after;
            break;
        }
        let (label, after) = after.split_at_checked(length.into())?;
        name.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        rest = after;
    }
    let kind = u16::from_be_bytes(rest.first_chunk::<2>().copied()?);
    let question = &query[HEADER..query.len() - rest.len() + 4];
    let is_known = name.join(".") == NAME;
    let found = if is_known && kind == A { addresses } else { &[] };
    // The identifier; an authoritative answer to a query that wanted recursion, which is available; 3: no such name.
    let mut message = query[..2].to_vec();
    message.extend([0x85, if is_known { 0x80 } else { 0x83 }]);
    for count in [1, found.len() as u16, 0, 0] {
        message.extend(count.to_be_bytes());
    }
    message.extend(question);
    for address in found {
        // The name of the question, by its place; class IN, for five seconds, four bytes.
        message.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        message.extend(address.octets());
    }
    Some(message)
}
