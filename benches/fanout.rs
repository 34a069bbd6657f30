//! From a sender's write until the last byte has reached the last follower: the real server, real WebSockets over
//! loopback, everything in this process. The followers only count, all on one thread, which takes its share of the
//! cores; so do the sender and the kernel.
//!
//! One iteration is one write, of one update or of sixteen, and the throughput counts deliveries: an update that has
//! reached one follower.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use causeway::config::Config;
use causeway::server::Server;
use causeway_storage::{ChangeStore, Durability, StoreOptions};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use common::{NewCell, Source};

/// How long to wait for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longer than any bench: nobody here answers pings.
const NEVER_MS: u64 = 86_400_000;

/// What a follower reads at once, in bytes.
const READ_BYTES: usize = 64 * 1024;

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

const HANDSHAKE: &str = "GET /?channel=bench HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn fan_out(c: &mut Criterion) {
    // A follower is two files here.
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let mut group = c.benchmark_group("fanout");
    group.sampling_mode(SamplingMode::Flat);
    for (store, label) in [("memory", "memory"), ("sqlite", "sqlite-durability-full")] {
        for updates in [1, 16] {
            for followers in [1, common::size(100, 10), common::size(1000, 50)] {
                let mut bench = None;
                group.throughput(Throughput::Elements((updates * followers) as u64));
                let id = BenchmarkId::new(format!("{label}/updates-{updates}"), followers);
                group.bench_function(id, |b| {
                    // This closure runs once a sample, and not at all if the bench is not asked for.
                    let bench = bench.get_or_insert_with(|| Bench::start(store, updates, followers));
                    b.iter_custom(|iterations| (0..iterations).map(|_| bench.round()).sum());
                });
                if let Some(bench) = bench {
                    bench.stop();
                }
            }
        }
    }
    group.finish();
}

/// A server, its followers and their sender.
struct Bench {
    sender: Sender,
    followers: Followers,
    relay: Relay,
}

impl Bench {
    fn start(store: &str, updates: usize, followers: usize) -> Self {
        let relay = Relay::start(store);
        let followers = Followers::start(relay.address, followers, updates as u64);
        Bench { sender: Sender::connect(relay.address, updates), followers, relay }
    }

    /// Sends once and waits for everyone.
    fn round(&mut self) -> Duration {
        let message = self.sender.next_write();
        let start = Instant::now();
        self.sender.stream.write_all(&message).unwrap();
        self.followers.wait();
        let elapsed = start.elapsed();
        self.sender.take_acks();
        elapsed
    }

    fn stop(self) {
        drop(self.sender);
        self.relay.stop();
        self.followers.join();
    }
}

/// The server, on a runtime of its own.
struct Relay {
    runtime: tokio::runtime::Runtime,
    server: Arc<Server>,
    store: Arc<dyn ChangeStore>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<bool>,
    _dir: TempDir,
}

impl Relay {
    fn start(store: &str) -> Self {
        let dir = common::data_dir();
        let config = Config {
            listen: "127.0.0.1:0".into(),
            ping_interval_ms: NEVER_MS,
            pong_timeout_ms: NEVER_MS,
            ..Config::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.io_thread_count())
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let options = StoreOptions { durability: Durability::Full, ..StoreOptions::new(dir.path()) };
        let store = (causeway_storage::backend(store).unwrap().open)(&options).unwrap();
        let (server, listener, address) = Server::bind(&config, None).unwrap();
        server.open(store.clone(), None).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = runtime.spawn(server.clone().run(listener, async { drop(stopped.await) }));
        drop(entered);
        Relay { runtime, server, store, address, stop, running, _dir: dir }
    }

    /// Drains, which closes the followers' connections.
    fn stop(self) {
        self.stop.send(()).unwrap();
        assert!(self.runtime.block_on(self.running).unwrap(), "the server drains in time");
        self.server.relay().unwrap().shards.stop();
        self.store.close().unwrap();
    }
}

/// Connects and takes the greeting.
fn connect(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(HANDSHAKE.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Byte by byte: what follows is not ours to take.
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend_from_slice(&byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    let greeting = read_message(&mut stream);
    assert_eq!((&greeting["type"], &greeting["version"]), (&json!("connected"), &json!(0)));
    stream
}

/// Reads one short message.
fn read_message(stream: &mut TcpStream) -> Value {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0], TEXT);
    let len = match head[1] {
        126 => {
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            u16::from_be_bytes(len)
        }
        len => {
            assert!(len < 126, "a short message");
            u16::from(len)
        }
    };
    let mut payload = vec![0; usize::from(len)];
    stream.read_exact(&mut payload).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// Writes new values of the same few cells, so that the channel stays as small as it was.
struct Sender {
    stream: TcpStream,
    /// One for each update of a write.
    cells: Vec<NewCell>,
    /// The version of the last update: the sender's own and, as it is the only one, the channel's.
    version: u64,
}

impl Sender {
    fn connect(address: SocketAddr, updates: usize) -> Self {
        Sender { stream: connect(address), cells: Source::new().cells(updates), version: 0 }
    }

    fn next_write(&mut self) -> Vec<u8> {
        let mut message = Vec::new();
        for cell in &mut self.cells {
            self.version += 1;
            let update = json!({
                "type": "update", "siteId": common::SITE, "version": self.version, "channel": "bench",
                "changes": [cell.json()],
            });
            cell.col_version += 1;
            write_frame(update.to_string().as_bytes(), &mut message);
        }
        message
    }

    /// Takes an ack for each update of the last write: all were merged, each as a version of its own.
    fn take_acks(&mut self) {
        let first = self.version - self.cells.len() as u64 + 1;
        for version in first..=self.version {
            let ack = read_message(&mut self.stream);
            let answer = (&ack["type"], &ack["version"], &ack["received"]);
            assert_eq!(answer, (&json!("ack"), &json!(version), &json!(version)));
        }
    }
}

/// Appends a text frame, masked with zeroes.
fn write_frame(payload: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(payload.len()).unwrap();
    assert!(len > 125, "its length stands in two bytes");
    out.extend_from_slice(&[TEXT, 0x80 | 126]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// The followers, all on one thread.
struct Followers {
    thread: JoinHandle<()>,
    /// Hears of every round that has reached everyone.
    rounds: mpsc::Receiver<()>,
}

impl Followers {
    fn start(address: SocketAddr, count: usize, updates: u64) -> Self {
        let streams: Vec<TcpStream> = (0..count).map(|_| connect(address)).collect();
        let (reached_all, rounds) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let round = Rc::new(Round {
                followers: streams.len(),
                updates,
                frames: Cell::new(updates),
                bytes: Cell::new(None),
                reached: Cell::new(0),
                reached_all,
                buffer: RefCell::new(vec![0; READ_BYTES]),
            });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let mut all = JoinSet::new();
                for stream in streams {
                    stream.set_nonblocking(true).unwrap();
                    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                    all.spawn_local(follow(stream, round.clone()));
                }
                while let Some(follower) = all.join_next().await {
                    follower.unwrap();
                }
            });
        });
        Followers { thread, rounds }
    }

    fn wait(&self) {
        self.rounds.recv_timeout(PATIENCE).expect("every follower gets every update");
    }

    fn join(self) {
        self.thread.join().unwrap();
        assert!(self.rounds.try_recv().is_err(), "nobody got more than was sent");
    }
}

/// What the followers know of the round that is on its way.
struct Round {
    followers: usize,
    /// Updates of a round.
    updates: u64,
    /// Frames that each follower will have got with it since it connected.
    frames: Cell<u64>,
    /// The same in bytes, once the first has them.
    bytes: Cell<Option<u64>>,
    /// The followers that have them.
    reached: Cell<usize>,
    reached_all: mpsc::Sender<()>,
    buffer: RefCell<Vec<u8>>,
}

impl Round {
    /// Notes that a follower has got so much since it connected.
    fn got(&self, frames: u64, bytes: u64) {
        assert!(frames <= self.frames.get(), "a frame that nobody sent");
        if frames < self.frames.get() {
            return;
        }
        let others = self.bytes.replace(Some(bytes)).unwrap_or(bytes);
        assert_eq!(bytes, others, "every follower gets the same bytes");
        self.reached.set(self.reached.get() + 1);
        if self.reached.get() == self.followers {
            self.reached.set(0);
            self.frames.set(frames + self.updates);
            self.bytes.set(None);
            self.reached_all.send(()).unwrap();
        }
    }
}

/// Reads until the server closes.
async fn follow(mut stream: tokio::net::TcpStream, round: Rc<Round>) {
    let mut counter = Counter::default();
    while !counter.closed {
        let before = (counter.frames, counter.bytes);
        poll_fn(|cx| {
            let mut buffer = round.buffer.borrow_mut();
            let mut read = ReadBuf::new(&mut buffer);
            let ready = Pin::new(&mut stream).poll_read(cx, &mut read);
            ready.map_ok(|()| counter.take(read.filled()))
        })
        .await
        .unwrap();
        assert!(counter.bytes > before.1, "an end without a close");
        if counter.frames > before.0 {
            round.got(counter.frames, counter.bytes);
        }
    }
}

/// Counts frames in a stream of bytes, and looks at nothing but their heads.
#[derive(Default)]
struct Counter {
    frames: u64,
    bytes: u64,
    closed: bool,
    /// The head of the frame that is arriving.
    head: Vec<u8>,
    /// What is to come of its payload.
    payload_left: usize,
}

impl Counter {
    fn take(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while let Some((&first, rest)) = bytes.split_first() {
            if self.payload_left == 0 {
                bytes = rest;
                self.head.push(first);
                self.payload_left = match self.head[..] {
                    [CLOSE, ..] => {
                        self.closed = true;
                        return;
                    }
                    [TEXT, len @ 1..=125] => usize::from(len),
                    [TEXT, 126, high, low] => usize::from(u16::from_be_bytes([high, low])),
                    [TEXT] | [TEXT, 126] | [TEXT, 126, _] => 0,
                    _ => panic!("not the head of a short text frame: {:?}", self.head),
                };
                continue;
            }
            let taken = self.payload_left.min(bytes.len());
            bytes = &bytes[taken..];
            self.payload_left -= taken;
            if self.payload_left == 0 {
                self.frames += 1;
                self.head.clear();
            }
        }
    }
}

criterion_group! { name = benches; config = common::settings(); targets = fan_out }
criterion_main!(benches);
