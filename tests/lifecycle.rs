//! Ends of the server, wanted and unwanted: what was acked is there afterwards.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{CLOSE, Client, Event, PATIENCE, SITE, Server, cell, number, update, upgrade_request, version};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

on_durable_stores!(
    sigterm_while_clients_send_loses_no_acked_update,
    sigint_while_clients_send_loses_no_acked_update,
    kill_9_loses_no_acked_update,
    a_pipeline_that_is_killed_keeps_a_prefix,
);

/// Changes of each update, which must be there all or none.
const CHANGES: usize = 3;

/// What one writer knows when its connection is over.
#[derive(Default)]
struct Sent {
    /// Client versions of all updates that were sent, even in part.
    all: BTreeSet<u64>,
    /// The server's versions of those acked, by the client's version.
    acked: BTreeMap<u64, u64>,
    /// Those answered by an error.
    refused: BTreeSet<u64>,
    close_code: Option<u16>,
}

/// The changes of one update of a writer, each to a row of its own.
fn changes_of(writer: usize, n: u64) -> Vec<Value> {
    (0..CHANGES).map(|i| json!(["todos", format!("{writer}/{n}/{i}"), "c", n, 1, n, SITE, 1, i])).collect()
}

/// Sends updates, a few in flight at a time, until the connection is over.
fn send_until_closed(mut client: Client, writer: usize, first: u64, acks: &AtomicU64) -> Sent {
    const IN_FLIGHT: u64 = 8;
    let mut sent = Sent::default();
    let mut next = first;
    let mut writable = true;
    loop {
        while writable && next - first < (sent.acked.len() + sent.refused.len()) as u64 + IN_FLIGHT {
            sent.all.insert(next);
            let text = update(next, &changes_of(writer, next)).to_string();
            writable = client.try_send(&common::frame(common::TEXT, text.as_bytes())).is_ok();
            next += 1;
        }
        match client.event(PATIENCE) {
            Event::Frame(frame) if frame.opcode == CLOSE => {
                sent.close_code = frame.close_code();
                let _ = client.try_send(&common::frame(CLOSE, &frame.payload));
                writable = false;
            }
            Event::Frame(frame) => {
                let message: Value = serde_json::from_slice(&frame.payload).unwrap();
                match message["type"].as_str() {
                    Some("ack") => {
                        sent.acked.insert(message["received"].as_u64().unwrap(), version(&message));
                        acks.fetch_add(1, Ordering::Relaxed);
                    }
                    Some("error") => {
                        assert_eq!(message["code"], "shutting_down", "{message}");
                        sent.refused.insert(message["received"].as_u64().unwrap());
                    }
                    _ => {}
                }
            }
            Event::Ended => return sent,
            Event::Nothing => panic!("writer {writer} hears nothing more"),
        }
    }
}

/// Lets writers send until `enough` updates are acked, then ends the server by `end`, and gives what was sent.
fn interrupt<T>(server: Server, first: u64, enough: u64, end: impl FnOnce(Server) -> T) -> (Vec<Sent>, T) {
    let acks = AtomicU64::new(0);
    let clients: Vec<_> = (0..3).map(|_| server.connect("list")).collect();
    thread::scope(|scope| {
        let acks = &acks;
        let writers: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(writer, client)| scope.spawn(move || send_until_closed(client, writer, first, acks)))
            .collect();
        while acks.load(Ordering::Relaxed) < enough && !writers.iter().any(|writer| writer.is_finished()) {
            thread::sleep(Duration::from_millis(2));
        }
        let ended = end(server);
        (writers.into_iter().map(|writer| writer.join().unwrap()).collect(), ended)
    })
}

/// Opens the data again and compares it with what the writers know. Gives the version.
fn assert_kept(data: &Path, store: &str, sent: &[Sent]) -> u64 {
    let server = Server::at(data, store, &[]);
    let mut client = server.connect("list");
    let mut stored: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut versions = BTreeSet::new();
    for row in client.pull_rows(0) {
        let (update, _) = row[1].as_str().unwrap().rsplit_once('/').unwrap();
        stored.entry(update.to_owned()).or_default().insert(number(&row, 5));
        *counts.entry(update.to_owned()).or_default() += 1;
        versions.insert(number(&row, 5));
    }
    for (writer, sent) in sent.iter().enumerate() {
        for (n, version) in &sent.acked {
            let found = stored.get(&format!("{writer}/{n}"));
            assert_eq!(
                found,
                Some(&BTreeSet::from([*version])),
                "update {writer}/{n} was acked as {version}"
            );
        }
        for n in &sent.refused {
            assert!(
                !stored.contains_key(&format!("{writer}/{n}")),
                "update {writer}/{n} was refused, yet is there"
            );
        }
    }
    for (update, versions) in &stored {
        let (writer, n) = update.split_once('/').unwrap();
        let known = &sent[writer.parse::<usize>().unwrap()].all;
        assert!(known.contains(&n.parse().unwrap()), "update {update} was never sent");
        assert_eq!((counts[update], versions.len()), (CHANGES, 1), "update {update} is there in part");
    }
    let tail = client.connected_version();
    assert_eq!(versions, (1..=tail).collect(), "versions are dense");
    tail
}

fn a_signal_loses_no_acked_update(store: &str, signal: &str) {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let (sent, code) = interrupt(Server::at(&data, store, &[]), 1, 60, |mut server| {
        server.signal(signal);
        server.wait().code()
    });
    assert_eq!(code, Some(0), "the exit code");
    for sent in &sent {
        assert_eq!(sent.close_code, Some(1001), "the close code");
    }
    assert_kept(&data, store, &sent);
}

fn sigterm_while_clients_send_loses_no_acked_update(store: &str) {
    a_signal_loses_no_acked_update(store, "TERM");
}

fn sigint_while_clients_send_loses_no_acked_update(store: &str) {
    a_signal_loses_no_acked_update(store, "INT");
}

fn kill_9_loses_no_acked_update(store: &str) {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let mut site = None;
    let mut known: Vec<Sent> = (0..3).map(|_| Sent::default()).collect();
    for round in 0..4 {
        let server = Server::at(&data, store, &[]);
        let list = server.connect("list").connected;
        // It is made with its first update.
        if list["version"] != 0 {
            assert_eq!(site.get_or_insert(list["siteId"].clone()), &list["siteId"]);
        }
        let (sent, ()) = interrupt(server, round * 1_000_000 + 1, 10 + 15 * round, Server::kill);
        for (known, sent) in known.iter_mut().zip(sent) {
            known.all.extend(sent.all);
            known.acked.extend(sent.acked);
        }
        let acked = known.iter().flat_map(|sent| sent.acked.values()).max().copied().unwrap_or(0);
        assert!(assert_kept(&data, store, &known) >= acked);
    }
}

/// One connection sends many updates at once: they are merged in their order, so what is kept is a prefix.
fn a_pipeline_that_is_killed_keeps_a_prefix(store: &str) {
    const SENT: u64 = 400;
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let server = Server::at(&data, store, &[]);
    let mut client = server.connect("list");
    for n in 1..=SENT {
        client.send_json(&update(n, &[cell(&format!("k{n}"), "c", n, 1)]));
    }
    let mut acked = 0;
    while acked < SENT / 10 {
        acked = version(&client.recv_type("ack"));
    }
    server.kill();
    // Acks that were on their way count as well.
    while let Event::Frame(frame) = client.event(PATIENCE) {
        let message: Value = serde_json::from_slice(&frame.payload).unwrap();
        acked = version(&message);
    }

    let server = Server::at(&data, store, &[]);
    let rows = server.connect("list").pull_rows(0);
    let kept: Vec<_> = rows.iter().map(|row| number(row, 3)).collect();
    assert!(kept.len() as u64 >= acked, "{acked} acked, {} kept", kept.len());
    assert!(kept.iter().copied().eq(1..=kept.len() as u64), "a prefix: {kept:?}");
}

#[test]
fn an_idle_server_ends_at_once_and_tells_its_clients() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start("sqlite");
        let mut clients: Vec<_> = (0..5).map(|n| server.connect(&format!("list{n}"))).collect();
        clients[0].update(1, &[cell("k", "c", "v", 1)]);
        server.signal(signal);
        for client in &mut clients {
            client.expect_close(1001);
        }
        assert_eq!(server.wait().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_client_that_does_not_answer_the_close_does_not_hold_the_end_up() {
    let mut server = Server::with("memory", &[("drain-timeout-ms", "1000")]);
    let open = server.connect("list");
    // Neither does a request that was never finished.
    let half = server.tcp();
    std::io::Write::write_all(&mut &half, b"GET / HT").unwrap();
    let idle = server.tcp();
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    drop((open, half, idle));
}

#[test]
fn an_ending_server_takes_no_new_connections() {
    let mut server = Server::start("memory");
    let addr = server.addr;
    server.signal("TERM");
    server.wait();
    assert!(std::net::TcpStream::connect(addr).is_err());
}

/// A load balancer must see it, and a new client must be told to go elsewhere.
#[test]
fn while_it_drains_it_is_not_ready_and_takes_nobody_in() {
    let mut server = Server::with("memory", &[("close-timeout-ms", "3000")]);
    assert_eq!(server.http_get("/readyz").status, 200);
    // It never answers the close, so the drain waits for it as long as it may.
    let mut client = server.connect("list");
    server.signal("TERM");
    assert_eq!(client.recv_frame().close_code(), Some(1001));
    assert_eq!(server.http_get("/readyz").status, 503);
    assert_eq!(server.http_get("/healthz").status, 200);
    assert_eq!(server.http(&upgrade_request("/?channel=list")).status, 503);
    assert!(server.wait().success());
}
