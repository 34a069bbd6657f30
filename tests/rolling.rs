//! A rolling restart: servers one after the other over one data directory, behind one address, under clients that write and
//! read all the while and come back at their cursor. Nothing acked is lost, nothing is skipped, and nobody is told anything
//! but 1001 and 503.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{CLOSE, Client, Event, SITE, Server, TEXT, changes, frame, keys, number, pull, update, version};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

on_durable_stores!(a_rolling_restart_loses_and_skips_nothing);

const SERVERS: usize = 4;
const WRITERS: usize = 3;
const READERS: usize = 3;
const CHANNEL: &str = "list";

/// Acks between two restarts.
const ACKS: u64 = 300;

/// Acks that a reader is away for after each restart.
const MISSED: u64 = 50;

/// Updates that a writer has under way.
const IN_FLIGHT: usize = 8;

/// A client's pause before it comes back.
const PAUSE: Duration = Duration::from_millis(10);

/// An address that stays while what is behind it changes.
struct Proxy {
    addr: SocketAddr,
    upstream: Arc<Mutex<SocketAddr>>,
}

impl Proxy {
    fn before(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy { addr: listener.local_addr().unwrap(), upstream: Arc::new(Mutex::new(upstream)) };
        let upstream = proxy.upstream.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let upstream = *upstream.lock().unwrap();
                thread::spawn(move || Self::pass(client, upstream));
            }
        });
        proxy
    }

    /// Passes bytes on both ways. Who gets no answer from behind is answered 503, as by any proxy.
    fn pass(mut client: TcpStream, upstream: SocketAddr) {
        let answered = TcpStream::connect(upstream).is_ok_and(|mut server| {
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            let mut first = [0; 4096];
            let read = server.read(&mut first).unwrap_or(0);
            let _ = client.write_all(&first[..read]);
            let _ = std::io::copy(&mut server, &mut client);
            read > 0
        });
        if !answered {
            let _ = client.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
        }
        let _ = client.shutdown(Shutdown::Write);
    }

    /// Connects, as often as it takes.
    fn connect(&self) -> Client {
        loop {
            match Client::try_connect(self.addr, CHANNEL) {
                Ok(client) => return client,
                Err(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
            }
            thread::sleep(PAUSE);
        }
    }
}

/// What a message or an end is to a client that follows the rules.
enum Heard {
    Message(Value),
    /// The server has gone away; the client is to come back.
    GoneAway,
    Nothing,
}

fn hear(client: &mut Client, who: &str) -> Heard {
    match client.event(Duration::from_millis(100)) {
        Event::Frame(frame) if frame.opcode == CLOSE => {
            assert_eq!(frame.close_code(), Some(1001), "{who} is told to go");
            let _ = client.try_send(&common::frame(CLOSE, &frame.payload));
            Heard::GoneAway
        }
        Event::Frame(frame) => {
            let message: Value = serde_json::from_slice(&frame.payload).unwrap();
            assert_ne!(message["type"], "error", "{who}: {message}");
            Heard::Message(message)
        }
        Event::Ended => panic!("{who}: the connection ended without a close"),
        Event::Nothing => Heard::Nothing,
    }
}

/// Writes until it is told to stop, and gives the version that each of its updates was acked at.
fn write(proxy: &Proxy, writer: usize, acks: &AtomicU64, stop: &AtomicBool) -> BTreeMap<u64, u64> {
    let who = format!("writer {writer}");
    let mut acked = BTreeMap::new();
    let mut waiting = BTreeSet::new();
    let mut next = 1;
    loop {
        let mut client = proxy.connect();
        let send = |client: &mut Client, n: u64| {
            let change = json!(["todos", format!("{writer}/{n}"), "c", n, 1, n, SITE, 1, 0]);
            // What cannot be sent any more is sent to the next one.
            let _ = client.try_send(&frame(TEXT, update(n, &[change]).to_string().as_bytes()));
        };
        waiting.iter().for_each(|n| send(&mut client, *n));
        loop {
            while waiting.len() < IN_FLIGHT && !stop.load(Relaxed) {
                waiting.insert(next);
                send(&mut client, next);
                next += 1;
            }
            if waiting.is_empty() {
                return acked;
            }
            match hear(&mut client, &who) {
                Heard::Message(message) if message["type"] == "ack" => {
                    let n = message["received"].as_u64().unwrap();
                    assert!(waiting.remove(&n), "{who}: an ack of {n}, which is not waiting");
                    acked.insert(n, version(&message));
                    acks.fetch_add(1, Relaxed);
                }
                Heard::Message(_) | Heard::Nothing => {}
                Heard::GoneAway => break,
            }
        }
    }
}

/// Follows until it has all up to the version that `last` names when it is not 0. Gives the key of every row that it was
/// sent, and how often it connected.
fn read(proxy: &Proxy, reader: usize, acks: &AtomicU64, last: &AtomicU64) -> (BTreeSet<String>, usize) {
    let who = format!("reader {reader}");
    let (mut rows, mut cursor, mut connects) = (BTreeSet::new(), 0, 0);
    loop {
        // It comes back when others have written more: what it would skip is there to be skipped.
        let more = acks.load(Relaxed) + MISSED;
        while connects > 0 && acks.load(Relaxed) < more && last.load(Relaxed) == 0 {
            thread::sleep(PAUSE);
        }
        let mut client = proxy.connect();
        connects += 1;
        client.send_json(&pull(cursor));
        loop {
            if last.load(Relaxed) > 0 && cursor >= last.load(Relaxed) {
                return (rows, connects);
            }
            match hear(&mut client, &who) {
                Heard::Message(message) if message["type"] == "update" => {
                    assert!(version(&message) >= cursor, "{who}: from {cursor} back to {message}");
                    cursor = version(&message);
                    rows.extend(keys(changes(&message)));
                }
                Heard::Message(_) | Heard::Nothing => {}
                Heard::GoneAway => break,
            }
        }
    }
}

fn a_rolling_restart_loses_and_skips_nothing(store: &str) {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let mut server = Server::at(&data, store, &[]);
    let proxy = Proxy::before(server.addr);
    let (acks, stop, last) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let (written, held) = thread::scope(|scope| {
        let (proxy, acks, stop, last) = (&proxy, &acks, &stop, &last);
        let writers: Vec<_> =
            (0..WRITERS).map(|n| scope.spawn(move || write(proxy, n, acks, stop))).collect();
        let readers: Vec<_> = (0..READERS).map(|n| scope.spawn(move || read(proxy, n, acks, last))).collect();
        let is_over = || writers.iter().any(|w| w.is_finished()) || readers.iter().any(|r| r.is_finished());
        for n in 1..=SERVERS {
            let enough = acks.load(Relaxed) + ACKS;
            while acks.load(Relaxed) < enough && !is_over() {
                thread::sleep(Duration::from_millis(1));
            }
            if n < SERVERS && !is_over() {
                server.signal("TERM");
                assert_eq!(server.wait().code(), Some(0), "server {n}");
                server = Server::at(&data, store, &[]);
                *proxy.upstream.lock().unwrap() = server.addr;
            }
        }
        stop.store(true, Relaxed);
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        last.store(proxy.connect().connected_version(), Relaxed);
        (written, readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>())
    });

    let kept = proxy.connect().pull_rows(0);
    let kept: BTreeMap<_, _> =
        kept.iter().map(|row| (row[1].as_str().unwrap().to_owned(), number(row, 5))).collect();
    let tail = last.load(Relaxed);
    let versions: BTreeSet<_> = kept.values().copied().collect();
    assert!(versions.iter().copied().eq(1..=tail), "versions are dense up to {tail}");
    for (writer, acked) in written.iter().enumerate() {
        assert!(acked.keys().copied().eq(1..=acked.len() as u64), "all that writer {writer} sent is acked");
        for (n, version) in acked {
            let at = kept
                .get(&format!("{writer}/{n}"))
                .unwrap_or_else(|| panic!("{writer}/{n} was acked and is lost"));
            assert!(at <= version, "{writer}/{n} is of version {at}, and was acked at {version}");
        }
    }
    assert_eq!(kept.len(), written.iter().map(BTreeMap::len).sum::<usize>(), "and nothing else is there");
    for (reader, (rows, connects)) in held.into_iter().enumerate() {
        assert!(rows.iter().eq(kept.keys()), "reader {reader} holds {} rows of {}", rows.len(), kept.len());
        assert!(connects >= SERVERS, "reader {reader} connected {connects} times");
    }
}
