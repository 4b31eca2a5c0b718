//! Bad input on every port: valid requests of all signals, formats, encodings and compressions, damaged at random. Each
//! is answered or its connection closed, datagrams apart; nothing panics, hangs, keeps memory or harms the next.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use watershed::stage::{Signal as Telemetry, telemetry};
use watershed_testkit::call::{Client, Head, Reply};
use watershed_testkit::grpc::Signal;
use watershed_testkit::requests::{self, Foreign, Template, TraceTemplate};
use watershed_testkit::web::{Io, JSON, PROTOBUF, path};
use watershed_testkit::{Sink, reserve, wait_until};
use watershed_thrift::Protocol;

use crate::harness::process::Program;
use crate::harness::tls::{Authority, Files, connect};
use crate::harness::{PATIENCE, beside_others, call, http, metric, post};
use crate::jaeger::{batch_over_http, datagram, emit_batch};
use crate::relay_http::{Pack, gzip, plain, snappy_block, snappy_frames, zlib, zstd};
use crate::zipkin;

/// Everything that listens.
const RECEIVERS: [&str; 6] = ["otlp", "otlp/tls", "jaeger", "jaeger/tls", "zipkin", "zipkin/tls"];

/// How many attack at once.
const ATTACKERS: u64 = 16;

/// How long an answer, or the end of the connection, may take.
const ANSWER: Duration = Duration::from_secs(20);

/// How long the sender of a part waits before it ends the connection.
const PAUSE: Duration = Duration::from_millis(100);

/// By how much the process may have grown: what the budget may hold, and what an allocator keeps for the next time.
const GROWTH: f64 = (64 << 20) as f64;

fn knob(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 below none.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A range of `bytes`, mostly a short one.
    fn range(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let from = self.below(bytes.len());
        let longest = *self.of(&[1, 4, 32, bytes.len()]);
        from..(from + 1 + self.below(longest)).min(bytes.len())
    }
}

/// What readers stumble over: ends of ranges, of words and of nesting.
const STUMBLES: [&[u8]; 18] = [
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x0b\x0b\x0b\x0b\x0c",
    b"\xed\xa0\x80",
    b"\r\n\r\n",
    b"\r\nContent-Length: 99999999999999999999\r\n",
    b"\r\nTransfer-Encoding: chunked\r\n",
    b"{\"a\":[",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\"\\ud800\"",
    b"-1e999",
    b"null",
    b"18446744073709551616",
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
];

/// Damages `bytes` in one to four places; `others` are what pieces may come from.
fn mutate(dice: &mut Dice, mut bytes: Vec<u8>, others: &[Seed]) -> Vec<u8> {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        let range = dice.range(&bytes);
        match dice.below(9) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            1 if !bytes.is_empty() => {
                bytes[at] = *dice.of(&[0, 1, 0x7f, 0x80, 0xfe, 0xff, b'"', b'}', b'\n'])
            }
            2 => drop(bytes.drain(range)),
            3 => {
                let again = bytes[range].to_vec();
                bytes.splice(at..at, again);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.splice(range, dice.of(&STUMBLES).iter().copied())),
            6 => drop(bytes.splice(at..at, dice.of(&STUMBLES).iter().copied())),
            7 => {
                let noise: Vec<u8> = range.clone().map(|_| dice.next() as u8).collect();
                bytes.splice(range, noise);
            }
            _ => {
                let other = &dice.of(others).body;
                let piece = other[dice.range(other)].to_vec();
                bytes.splice(range, piece);
            }
        }
    }
    bytes
}

/// A request that is good: what it says, and how it is put on the wire.
#[derive(Clone)]
struct Seed {
    /// Protobuf or JSON.
    body: Vec<u8>,
    pack: Pack,
    frame: Frame,
    door: Door,
}

/// Where a request goes: the place of its port.
#[derive(Clone, Copy)]
enum Door {
    Grpc,
    Http,
    Jaeger,
    JaegerHttp,
    Zipkin,
}

#[derive(Clone)]
enum Frame {
    /// A head without its end and length.
    Http { head: String, chunked: bool },
    /// What a client of HTTP/2 sends before it sends data.
    Grpc { prefix: Vec<u8>, compressed: bool },
}

impl Frame {
    /// All that is sent.
    fn wrap(&self, packed: &[u8]) -> Vec<u8> {
        match self {
            Frame::Http { head, chunked: false } => {
                let length = format!("content-length: {}\r\n\r\n", packed.len());
                [head.as_bytes(), length.as_bytes(), packed].concat()
            }
            Frame::Http { head, chunked: true } => {
                let size = format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n", packed.len());
                let end: &[u8] = if packed.is_empty() { b"\r\n" } else { b"\r\n0\r\n\r\n" };
                [head.as_bytes(), size.as_bytes(), packed, end].concat()
            }
            Frame::Grpc { prefix, compressed } => {
                let length = (packed.len() as u32).to_be_bytes();
                let message = [&[u8::from(*compressed)][..], &length, packed].concat();
                let mut bytes = prefix.clone();
                let mut pieces = message.chunks(16 << 10).peekable();
                while let Some(piece) = pieces.next() {
                    // DATA (0), END_STREAM on the last, of stream 1 (RFC 9113, 4.1, 6.1).
                    bytes.extend_from_slice(&(piece.len() as u32).to_be_bytes()[1..]);
                    bytes.extend_from_slice(&[0, u8::from(pieces.peek().is_none()), 0, 0, 0, 1]);
                    bytes.extend_from_slice(piece);
                }
                bytes
            }
        }
    }

    fn is_grpc(&self) -> bool {
        matches!(self, Frame::Grpc { .. })
    }
}

/// What the kit's client sends to `to` before the data of a call, taken down on the way.
async fn prefix(to: SocketAddr, head: Head) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = listener.local_addr().unwrap();
    let record = async {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(to).await.unwrap();
        let (mut from_server, mut to_server) = server.split();
        let (mut from_client, mut to_client) = client.split();
        let mut seen = Vec::new();
        let up = async {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                seen.extend_from_slice(&buffer[..count]);
                if to_server.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = up => {}
            _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
        }
        seen
    };
    let ask = async {
        let mut client = Client::connect(between).await.unwrap();
        // Empty, which is a good request whatever the coding says of it.
        let _ = client.call(&head, requests::frame(b"")).await;
    };
    let (seen, ()) = tokio::join!(record, ask);
    // The preface, then frames: the first of DATA ends what comes before.
    let mut at = 24;
    while seen[at + 3] != 0 {
        let length = u32::from_be_bytes([0, seen[at], seen[at + 1], seen[at + 2]]) as usize;
        at += 9 + length;
    }
    seen[..at].to_vec()
}

/// The head of a request but for its length.
fn head(path: &str, media: &str, coding: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: {media}\r\n\
         content-encoding: {coding}\r\n"
    )
}

/// Good requests of every signal, encoding, compression and protocol.
async fn seeds(ports: &Ports) -> Vec<Seed> {
    let [grpc, _, jaeger, ..] = ports.plain;
    let mut seeds = others(jaeger).await;
    for (signal, telemetry, message) in [
        (Signal::Traces, Telemetry::Traces, TraceTemplate::new(1, 6).message(0)),
        (Signal::Metrics, Telemetry::Metrics, requests::metrics(6)),
        (Signal::Logs, Telemetry::Logs, requests::logs(3)),
    ] {
        let mut json = Vec::new();
        telemetry::json::encode(telemetry, &message, &mut json).unwrap();
        let codings: [(&str, Pack); 6] = [
            ("identity", plain),
            ("gzip", gzip),
            ("zstd", zstd),
            ("deflate", zlib),
            ("snappy", snappy_frames),
            ("snappy", snappy_block),
        ];
        for (index, (coding, pack)) in codings.into_iter().enumerate() {
            for (media, body) in [(PROTOBUF, &message[..]), (JSON, &json[..])] {
                let frame = Frame::Http { head: head(path(signal), media, coding), chunked: index % 2 == 1 };
                seeds.push(Seed { body: body.to_vec(), pack, frame, door: Door::Http });
            }
            let prefix = prefix(grpc, Head::new(signal, None, (index > 0).then_some(coding))).await;
            let frame = Frame::Grpc { prefix, compressed: index > 0 };
            seeds.push(Seed { body: message.to_vec(), pack, frame, door: Door::Grpc });
        }
    }
    seeds
}

/// The same of what is not OTLP.
async fn others(jaeger: SocketAddr) -> Vec<Seed> {
    let spans = |format| Template::foreign(format, 1, 6).message(0).to_vec();
    let v2 = Foreign::Zipkin.path();
    let posted = [
        (Door::JaegerHttp, "/api/traces", zipkin::THRIFT, batch_over_http(6)),
        (Door::Zipkin, v2, Foreign::Zipkin.media(), spans(Foreign::Zipkin)),
        (Door::Zipkin, v2, JSON, spans(Foreign::ZipkinJson)),
        (Door::Zipkin, zipkin::V1, JSON, zipkin::V1_SPANS.as_bytes().to_vec()),
        (Door::Zipkin, zipkin::V1, zipkin::THRIFT, zipkin::thrift()),
    ];
    let codings: [(&str, Pack); 3] = [("identity", plain), ("gzip", gzip), ("zstd", zstd)];
    let mut seeds = Vec::new();
    for (index, (coding, pack)) in codings.into_iter().enumerate() {
        for (door, path, media, body) in posted.clone() {
            let frame = Frame::Http { head: head(path, media, coding), chunked: index % 2 == 1 };
            seeds.push(Seed { body, pack, frame, door });
        }
        let head = Head::grpc(Foreign::Jaeger.path(), None, (index > 0).then_some(coding));
        let frame = Frame::Grpc { prefix: prefix(jaeger, head).await, compressed: index > 0 };
        seeds.push(Seed { body: spans(Foreign::Jaeger), pack, frame, door: Door::Jaeger });
    }
    seeds
}

/// The ports by [`Door`], and whom to trust behind half of them; and Jaeger's two for datagrams.
struct Ports {
    plain: [SocketAddr; 5],
    tls: [SocketAddr; 5],
    udp: [(SocketAddr, Protocol); 2],
    authority: Authority,
}

impl Ports {
    async fn open(&self, seed: &Seed, is_tls: bool) -> Box<dyn Io> {
        let index = seed.door as usize;
        if is_tls {
            let alpn: &[u8] = if seed.frame.is_grpc() { b"h2" } else { b"http/1.1" };
            Box::new(connect(self.tls[index], &self.authority, alpn).await.unwrap())
        } else {
            Box::new(TcpStream::connect(self.plain[index]).await.unwrap())
        }
    }
}

/// Sends `bytes` where `seed` goes and gives what is answered: until the call is answered or the connection ends. What
/// is not `whole` may be waited for; then the connection ends here, and has to end there.
async fn exchange(ports: &Ports, seed: &Seed, is_tls: bool, bytes: &[u8], whole: bool) -> Option<Vec<u8>> {
    let mut io = ports.open(seed, is_tls).await;
    let mut answer = Vec::new();
    let talk = async {
        // Who does not like the beginning need not read the end.
        let _ = io.write_all(bytes).await;
        // After an answer over HTTP the connection ends: the head says so.
        while !seed.frame.is_grpc() || !is_answered(&answer) {
            if !matches!(io.read_buf(&mut answer).await, Ok(1..)) {
                break;
            }
        }
    };
    if timeout(if whole { ANSWER } else { PAUSE }, talk).await.is_err() {
        let _ = io.shutdown().await;
        let end = timeout(ANSWER, io.read_to_end(&mut answer)).await;
        return end.ok().filter(|_| !whole).map(|_| answer);
    }
    Some(answer)
}

/// Whether these frames end a call or a connection (RFC 9113, 6): HEADERS with END_STREAM, RST_STREAM, GOAWAY.
fn is_answered(mut frames: &[u8]) -> bool {
    while let Some(([a, b, c, kind, flags, ..], tail)) = frames.split_first_chunk::<9>() {
        if matches!((kind, flags & 1), (1, 1) | (3 | 7, _)) {
            return true;
        }
        frames = tail.get(u32::from_be_bytes([0, *a, *b, *c]) as usize..).unwrap_or_default();
    }
    false
}

/// What came of the attempts.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// By what was damaged.
    attempts: BTreeMap<&'static str, u64>,
    /// Statuses of HTTP; 0 is a connection closed without one.
    statuses: BTreeMap<u16, u64>,
    /// Well-framed HTTP requests that were not taken.
    refused: u64,
    /// Connections over gRPC that were closed without a word.
    closed: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        for (what, count) in other.attempts {
            *self.attempts.entry(what).or_default() += count;
        }
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.refused += other.refused;
        self.closed += other.closed;
    }
}

/// One attacker, until `end`.
async fn attack(ports: Arc<Ports>, seeds: Arc<Vec<Seed>>, mut dice: Dice, end: Instant) -> Tally {
    let mut tally = Tally::default();
    while Instant::now() < end {
        let seed = dice.of(&seeds).clone();
        let (what, bytes) = match dice.below(4) {
            0 => ("frames", mutate(&mut dice, seed.frame.wrap(&(seed.pack)(&seed.body)), &seeds)),
            1 => ("compressed", seed.frame.wrap(&mutate(&mut dice, (seed.pack)(&seed.body), &seeds))),
            _ => ("message", seed.frame.wrap(&(seed.pack)(&mutate(&mut dice, seed.body.clone(), &seeds)))),
        };
        let (is_grpc, is_tls) = (seed.frame.is_grpc(), dice.below(4) == 0);
        let Some(answer) = exchange(&ports, &seed, is_tls, &bytes, what != "frames").await else {
            panic!("grpc {is_grpc}, tls {is_tls}: neither answered nor closed: {}", bytes.escape_ascii());
        };
        *tally.attempts.entry(what).or_default() += 1;
        if is_grpc {
            tally.closed += u64::from(answer.is_empty());
            continue;
        }
        let status = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.split_at_checked(3));
        let status = status.map_or(0, |(digits, _)| String::from_utf8_lossy(digits).parse().unwrap());
        assert_ne!(status, 500, "{}\n{}", bytes.escape_ascii(), answer.escape_ascii());
        *tally.statuses.entry(status).or_default() += 1;
        if what != "frames" {
            assert_ne!(status, 0, "a whole request was not answered: {}", bytes.escape_ascii());
            tally.refused += u64::from(!matches!(status, 200 | 202));
        }
    }
    tally
}

/// OTLP's and Zipkin's.
const OK: [&[u8]; 2] = [b"HTTP/1.1 200 ", b"HTTP/1.1 202 "];

/// Damages datagrams, which nobody answers, until `end`, and says how many.
async fn rain(ports: Arc<Ports>, seeds: Arc<Vec<Seed>>, mut dice: Dice, end: Instant) -> u64 {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut sent = 0;
    while Instant::now() < end {
        let (to, protocol) = *dice.of(&ports.udp);
        let bytes = mutate(&mut dice, emit_batch(protocol, 6), &seeds);
        // What is larger than a datagram can be is none.
        sent += u64::from(socket.send_to(&bytes, to).await.is_ok());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sent
}

/// Sends every seed as it is to its port, plain and inside TLS.
async fn good(ports: &Arc<Ports>, seeds: &[Seed]) {
    let mut sent = JoinSet::new();
    for (seed, is_tls) in seeds.iter().flat_map(|seed| [(seed.clone(), false), (seed.clone(), true)]) {
        let ports = ports.clone();
        sent.spawn(async move {
            let bytes = seed.frame.wrap(&(seed.pack)(&seed.body));
            let ask = async || exchange(&ports, &seed, is_tls, &bytes, true).await;
            let mut answer = ask().await.expect("an answer");
            // A slow machine may well ask to be asked again.
            while answer.starts_with(b"HTTP/1.1 503 ") {
                answer = ask().await.expect("an answer");
            }
            let is_good = seed.frame.is_grpc() || OK.iter().any(|ok| answer.starts_with(ok));
            let case = format!("tls {is_tls}: {}\n{}", bytes.escape_ascii(), answer.escape_ascii());
            assert!(is_good && !answer.is_empty(), "{case}");
        });
    }
    sent.join_all().await;
}

async fn scrape(program: &Program) -> String {
    http::get(program.metrics, "/metrics").await.expect("it serves its metrics").1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_harms_nothing() {
    let _turn = beside_others().await;
    let lasts = Duration::from_secs(knob("WATERSHED_MUTATION_SECONDS").unwrap_or(5));
    let seed = knob("WATERSHED_MUTATION_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("WATERSHED_MUTATION_SEED={seed}");

    let files = Files::new();
    let authority = Authority::new("the shop's");
    let identity = files.identity("server", &authority.issue("127.0.0.1"));
    let tls = format!("tls = {{ {} }}", identity.trim().replace('\n', ", "));
    let sink = Sink::start("127.0.0.1:0").await.unwrap();
    let (plain, secure, udp) =
        ([(); 5].map(|()| reserve()), [(); 5].map(|()| reserve()), [(); 2].map(|()| reserve()));
    let [grpc, http_port, jaeger, thrift, zipkin] = plain;
    let [tls_grpc, tls_http, tls_jaeger, tls_thrift, tls_zipkin] = secure;
    let [compact, binary] = udp;
    let (out, destination) = (files.path("out.json"), sink.addr());
    let mut program = Program::run(&format!(
        r#"
[receivers.otlp.protocols]
grpc = {{ endpoint = "{grpc}" }}
http = {{ endpoint = "{http_port}" }}
[receivers."otlp/tls".protocols]
grpc = {{ endpoint = "{tls_grpc}", {tls} }}
http = {{ endpoint = "{tls_http}", {tls} }}
[receivers.jaeger.protocols]
grpc = {{ endpoint = "{jaeger}" }}
thrift_http = {{ endpoint = "{thrift}" }}
thrift_compact = {{ endpoint = "{compact}" }}
thrift_binary = {{ endpoint = "{binary}" }}
[receivers."jaeger/tls".protocols]
grpc = {{ endpoint = "{tls_jaeger}", {tls} }}
thrift_http = {{ endpoint = "{tls_thrift}", {tls} }}
[receivers]
zipkin = {{ endpoint = "{zipkin}" }}
"zipkin/tls" = {{ endpoint = "{tls_zipkin}", {tls} }}
[processors.memory_limiter]
limit_mib = 32
[processors.attributes]
actions = [
    {{ key = "url.path", pattern = "(?<order>[0-9]+)$", action = "extract" }},
    {{ pattern = "^http", action = "hash" }},
    {{ key = "log.index", converted_type = "string", action = "convert" }},
]
[processors.redaction]
allow_all_keys = true
presets = {{ email = "mask", card = "hash", token = "mask", phone = "delete", ip = "mask", iban = "mask" }}
summary = "debug"
[processors.filter]
error_mode = "silent"
traces.span = ['name == "none" or attributes["http.response.status_code"] == 503']
metrics.datapoint = ['IsMatch(metric.name, "_6$")']
logs.log_record = ['IsMatch(body, "nothing")']
[exporters.otlp]
endpoint = "http://{destination}"
retry_on_failure = {{ enabled = false }}
[exporters.file]
path = {out:?}
rotation = {{ max_megabytes = 16, max_backups = 1 }}
[exporters.debug]
verbosity = "detailed"
sampling_thereafter = 20
[pipelines.everything]
signals = ["traces", "metrics", "logs"]
receivers = ["otlp", "otlp/tls"]
processors = ["memory_limiter", "attributes", "redaction", "filter"]
exporters = ["otlp", "file", "debug"]
ack = "delivered"
[pipelines.traces]
receivers = ["jaeger", "jaeger/tls", "zipkin", "zipkin/tls"]
processors = ["memory_limiter", "attributes", "redaction", "filter"]
exporters = ["otlp", "debug"]
ack = "delivered"
"#
    ))
    .await;
    let udp = [(compact, Protocol::Compact), (binary, Protocol::Binary)];
    let ports = Arc::new(Ports { plain, tls: secure, udp, authority });
    let seeds = Arc::new(seeds(&ports).await);
    good(&ports, &seeds).await;
    let arrived = sink.snapshot();
    // Two of three and more are HTTP's, whose answers were read.
    assert!(arrived.taken >= 4 * seeds.len() as u64 / 3 && arrived.malformed == 0, "{arrived}");
    let before = metric(&scrape(&program).await, "otelcol_process_memory_rss");

    let end = Instant::now() + lasts;
    let mut attackers = JoinSet::new();
    for number in 0..ATTACKERS {
        // Far apart in the sequence of one seed.
        let dice = Dice(seed.wrapping_add(number << 48));
        attackers.spawn(attack(ports.clone(), seeds.clone(), dice, end));
    }
    let mut datagrams = JoinSet::new();
    datagrams.spawn(rain(ports.clone(), seeds.clone(), Dice(!seed), end));
    let mut tally = Tally::default();
    while let Some(done) = attackers.join_next().await {
        tally.add(done.unwrap_or_else(|failure| panic!("{failure}\n{}", program.stderr())));
    }

    // As before, for everybody.
    good(&ports, &seeds).await;
    let fresh = TraceTemplate::new(u64::MAX, 3).message(0);
    assert_eq!(call(grpc, Signal::Traces, &[], &fresh).await, Reply::Accepted);
    assert_eq!(post(http_port, Signal::Traces, &[], &fresh).await.status, 200);
    assert_eq!(sink.snapshot().runs[&u64::MAX].seen.len(), 3);
    assert!(datagrams.join_next().await.unwrap().unwrap() > 0);
    for ((to, protocol), transport) in udp.into_iter().zip(["udp_thrift_compact", "udp_thrift_binary"]) {
        let series =
            format!("otelcol_receiver_accepted_spans{{receiver=\"jaeger\",transport=\"{transport}\"}}");
        let before = metric(&scrape(&program).await, &series);
        let taken = async || {
            datagram(to, &emit_batch(protocol, 6));
            metric(&scrape(&program).await, &series) >= before + 6.0
        };
        assert!(wait_until(taken, PATIENCE).await, "{transport}: {}", program.stderr());
    }
    http::wait_for(program.health, "/", 200).await;

    let mut text = String::new();
    let emptied = wait_until(
        async || {
            text = scrape(&program).await;
            metric(&text, "watershed_budget_used_bytes") == 0.0
        },
        PATIENCE,
    );
    assert!(emptied.await, "memory is kept:\n{text}");
    let refused: f64 = ["memory", "too_large", "refused", "rejected", "transport", "panic"]
        .iter()
        .flat_map(|reason| {
            RECEIVERS.map(|receiver| {
                let labels = format!("{{receiver=\"{receiver}\",reason=\"{reason}\"}}");
                let series = format!("watershed_receiver_refused_requests{labels}");
                assert!(text.contains(&series), "{series} is missing:\n{text}");
                let count = metric(&text, &series);
                assert!(*reason != "panic" || count == 0.0, "{series} {count}\n{}", program.stderr());
                count
            })
        })
        .sum();
    assert!(refused >= tally.refused as f64, "{refused} counted of {tally:?}");
    assert_eq!(metric(&text, "watershed_actor_restarts"), 0.0, "{text}");
    let grown = metric(&text, "otelcol_process_memory_rss") - before;
    println!(
        "{tally:?}\n{refused} refused and counted; {}; grown by {grown} bytes from {before}",
        sink.snapshot()
    );
    assert!(grown < GROWTH, "grown by {grown} bytes");
    assert!(tally.attempts.values().all(|count| *count > 0) && tally.attempts.len() == 3);

    program.signal("TERM");
    assert_eq!(program.exit().await, Some(0), "{}", program.stderr());
    assert!(!program.stderr().contains("panicked"), "{}", program.stderr());
}
