//! A double of Elasticsearch that does as it is told: what it takes it keeps, and it remembers what it was sent.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flate2::read::GzDecoder;
use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use watershed_testkit::requests::SpanKey;
use watershed_testkit::web;

/// What a node does about a `_bulk` request.
pub enum Does {
    /// Gives each document this status; 201 keeps it, unless its id is there already, which is 409.
    Judges(fn(&Document) -> u16),
    /// The same, but breaks off its answer behind so many bytes.
    BreaksOff(usize),
    /// Answers this status to all of it, with this header, and takes nothing.
    Says(u16, &'static str),
    /// Closes the connection, and has taken nothing.
    Closes,
    /// Takes everything, and closes the connection without a word.
    TakesAndCloses,
    /// Takes everything, and says so after so long.
    IsSlow(Duration),
}

/// A document as it was sent.
#[derive(Clone, Debug)]
pub struct Document {
    /// What stands in the action, beside `create`.
    pub action: Value,
    pub source: Value,
    /// How often it was sent before.
    pub before: u32,
}

/// A request as it was sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// The first line.
    pub start: String,
    pub headers: HeaderMap,
    /// Bytes of the body, inflated.
    pub bytes: usize,
    pub node: usize,
}

/// What all nodes of a cluster have.
#[derive(Default)]
pub struct Cluster {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Vec<Document>,
    ids: HashMap<String, ()>,
    sent: HashMap<String, u32>,
    requests: Vec<Request>,
    addresses: Vec<SocketAddr>,
}

/// A node. It ends, with all its connections, with this.
pub struct Node {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl Document {
    /// The number that the loader gave it.
    pub fn number(&self) -> u64 {
        let bytes = |key: &str| {
            let text = self.source[key].as_str().unwrap_or_default();
            (0..text.len() / 2)
                .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
                .collect::<Vec<_>>()
        };
        SpanKey::read(&bytes("trace_id"), &bytes("span_id")).unwrap().seq
    }
}

impl Cluster {
    pub fn new() -> Arc<Cluster> {
        Arc::default()
    }

    /// Starts a node, which does what `script` says to the request of each number.
    pub async fn node(self: &Arc<Self>, script: impl Fn(usize) -> Does + Send + Sync + 'static) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let node = {
            let mut state = self.state.lock();
            state.addresses.push(address);
            state.addresses.len() - 1
        };
        let (cluster, script) = (self.clone(), Arc::new(script));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (cluster, script) = (cluster.clone(), script.clone());
                connections.spawn(async move { cluster.serve(node, stream, &*script).await });
            }
        });
        Node { address, _task: task }
    }

    async fn serve(&self, node: usize, stream: TcpStream, script: &(dyn Fn(usize) -> Does + Send + Sync)) {
        let mut io = BufReader::new(stream);
        while let Ok(Some(message)) = web::read(&mut io).await {
            if message.start.starts_with("GET") {
                let nodes: BTreeMap<String, Value> = self
                    .state
                    .lock()
                    .addresses
                    .iter()
                    .enumerate()
                    .map(|(index, address)| {
                        (
                            index.to_string(),
                            json!({"roles": ["data"], "http": {"publish_address": address.to_string()}}),
                        )
                    })
                    .collect();
                let body = json!({ "nodes": nodes }).to_string();
                if io.get_mut().write_all(reply(200, "", body.as_bytes()).as_slice()).await.is_err() {
                    return;
                }
                continue;
            }
            let mut body = Vec::new();
            match message.headers.get("content-encoding") {
                Some(_) => drop(GzDecoder::new(&*message.body).read_to_end(&mut body).unwrap()),
                None => body = message.body,
            }
            let (number, documents) = self.sent(node, message.start, message.headers, &body);
            let answer = match script(number) {
                Does::Judges(judge) => self.judged(documents, judge),
                Does::BreaksOff(bytes) => {
                    let mut answer = self.judged(documents, |_| 201);
                    answer.truncate(bytes);
                    answer
                }
                Does::Says(status, header) => {
                    let answer =
                        reply(status, header, br#"{"error":{"type":"told_so","reason":"by the script"}}"#);
                    if io.get_mut().write_all(&answer).await.is_err() {
                        return;
                    }
                    continue;
                }
                Does::Closes => return,
                Does::TakesAndCloses => {
                    self.judged(documents, |_| 201);
                    return;
                }
                Does::IsSlow(wait) => {
                    let answer = self.judged(documents, |_| 201);
                    tokio::time::sleep(wait).await;
                    answer
                }
            };
            if io.get_mut().write_all(&reply(200, "", &answer)).await.is_err() {
                return;
            }
        }
    }

    fn sent(&self, node: usize, start: String, headers: HeaderMap, body: &[u8]) -> (usize, Vec<Document>) {
        assert_eq!(body.last(), Some(&b'\n'));
        let lines: Vec<Value> = body[..body.len() - 1]
            .split(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let mut state = self.state.lock();
        state.requests.push(Request { start, headers, bytes: body.len(), node });
        let documents = lines.chunks(2).map(|pair| {
            let (action, source) = (pair[0]["create"].clone(), pair[1].clone());
            let count = state.sent.entry(source.to_string()).or_default();
            *count += 1;
            Document { action, source, before: *count - 1 }
        });
        let documents = documents.collect();
        (state.requests.len() - 1, documents)
    }

    fn judged(&self, documents: Vec<Document>, judge: fn(&Document) -> u16) -> Vec<u8> {
        let mut state = self.state.lock();
        let mut items = Vec::new();
        for document in documents {
            let mut status = judge(&document);
            let id = document.action["_id"].as_str().map(|id| format!("{}/{id}", document.action["_index"]));
            if status == 201 && id.is_some_and(|id| state.ids.insert(id, ()).is_some()) {
                status = 409;
            }
            items.push(match status {
                201 => json!({"create": {"status": 201}}),
                status => json!({"create": {"status": status, "error": {"type": format!("error_{status}"), "reason": "so"}}}),
            });
            if status == 201 {
                state.kept.push(document);
            }
        }
        json!({ "items": items }).to_string().into_bytes()
    }

    /// How many documents are kept.
    pub fn count(&self) -> usize {
        self.state.lock().kept.len()
    }

    pub fn kept(&self) -> Vec<Document> {
        self.state.lock().kept.clone()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().requests.clone()
    }

    /// How often each document was sent.
    pub fn sent_counts(&self) -> Vec<(Value, u32)> {
        let state = self.state.lock();
        state.sent.iter().map(|(source, count)| (serde_json::from_str(source).unwrap(), *count)).collect()
    }

    /// How often the documents of each number are kept.
    pub fn numbers(&self) -> BTreeMap<u64, usize> {
        let mut numbers = BTreeMap::new();
        for document in &self.state.lock().kept {
            *numbers.entry(document.number()).or_default() += 1;
        }
        numbers
    }
}

impl Node {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn reply(status: u16, header: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} So\r\n{header}content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
