//! Clients that read slowly or not at all.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{CLOSE, Client, Event, PATIENCE, Server, cell, changes, keys, pull, version};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::thread;
use std::time::Duration;

on_every_store!(
    a_slow_reader_keeps_its_connection_and_gets_everything,
    a_client_that_takes_no_byte_is_closed
);

/// More than the kernel takes for one connection on loopback, so that the server's own queue fills.
const LARGE_UPDATES: u64 = 400;
const LARGE_VALUE: usize = 60_000;

/// Writes large updates, each acked before the next, and gives their keys.
fn write_a_lot(writer: &mut Client, versions: RangeInclusive<u64>) -> BTreeSet<String> {
    let value = "x".repeat(LARGE_VALUE);
    let write = |n| {
        let key = format!("k{n}");
        assert_eq!(writer.update(n, &[cell(&key, "c", value.clone(), 1)])["version"], n);
        key
    };
    versions.map(write).collect()
}

/// Reads on up to a version. The versions never fall, and nothing live comes between two pages.
fn read_up_to(client: &mut Client, last: u64) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    let (mut reached, mut paging) = (0, false);
    while reached < last || paging {
        let message = client.recv_type("update");
        assert!(version(&message) >= reached, "the version fell from {reached}");
        reached = version(&message);
        held.extend(keys(changes(&message)));
        let more = message["more"].as_bool();
        assert!(!paging || more.is_some(), "a live update of version {reached} between two pages");
        paging = more == Some(true);
    }
    held
}

fn a_slow_reader_keeps_its_connection_and_gets_everything(store: &str) {
    let server = Server::with(store, &[("outbox-max-bytes", "65536"), ("page-max-bytes", "200000")]);
    let mut writer = server.connect("list");
    let mut follower = server.connect("list");
    let mut puller = server.connect("list");
    puller.send_json(&pull(0));
    // Nobody reads while everything is written; the last one asks for more than it can be given at once.
    let mut all = write_a_lot(&mut writer, 1..=LARGE_UPDATES * 3 / 4);
    let mut late = server.connect("list");
    late.send_json(&pull(0));
    all.extend(write_a_lot(&mut writer, LARGE_UPDATES * 3 / 4 + 1..=LARGE_UPDATES));

    for (who, client) in [("follower", &mut follower), ("puller", &mut puller), ("late", &mut late)] {
        assert_eq!(read_up_to(client, LARGE_UPDATES), all, "{who}");
    }
    // All are live again.
    writer.update(LARGE_UPDATES + 1, &[cell("last", "c", "v", 1)]);
    for client in [&mut follower, &mut puller, &mut late] {
        let mut message = client.recv_type("update");
        while version(&message) == LARGE_UPDATES {
            assert!(changes(&message).is_empty(), "{message}");
            message = client.recv_type("update");
        }
        assert_eq!(keys(changes(&message)), ["last"]);
    }
    assert_eq!(follower.update(1, &[cell("its own", "c", "v", 1)])["version"], LARGE_UPDATES + 2);
}

/// More passes by than the process may ever hold for those who do not read it.
#[test]
fn memory_stays_bounded_behind_clients_that_do_not_read() {
    const WRITES: u64 = 160;
    const MOST_BYTES: u64 = 100 << 20;
    const VALUE: usize = 1_000_000;
    let server = Server::with("memory", &[("slow-client-timeout-ms", "120000")]);
    let mut writer = server.connect("list");
    let mut followers: Vec<_> = (0..2).map(|_| server.connect("list")).collect();
    let value = "x".repeat(VALUE);
    for n in 1..=WRITES {
        // The same few cells again and again: the data stays small.
        writer.update(n, &[cell(&format!("k{}", n % 4), "c", value.clone(), n)]);
    }
    if let Some(peak) = server.peak_memory_bytes() {
        assert!(peak < MOST_BYTES, "{} MiB", peak >> 20);
    }
    for follower in &mut followers {
        let held = read_up_to(follower, WRITES);
        assert_eq!(held.len(), 4);
    }
}

fn a_client_that_takes_no_byte_is_closed(store: &str) {
    let settings = [("outbox-max-bytes", "65536"), ("slow-client-timeout-ms", "500")];
    let server = Server::with(store, &settings);
    let mut writer = server.connect("list");
    let mut stuck = server.connect("list");
    let mut reader = server.connect("list");
    let (all, held) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut held = BTreeSet::new();
            while held.len() < LARGE_UPDATES as usize {
                held.extend(keys(changes(&reader.recv_type("update"))));
            }
            held
        });
        (write_a_lot(&mut writer, 1..=LARGE_UPDATES), reading.join().unwrap())
    });
    assert_eq!(held, all, "who reads gets everything");

    thread::sleep(Duration::from_secs(2));
    let mut code = None;
    loop {
        match stuck.event(PATIENCE) {
            Event::Frame(frame) if frame.opcode == CLOSE => code = frame.close_code(),
            Event::Frame(_) => {}
            Event::Ended => break,
            Event::Nothing => panic!("the stuck connection is still open"),
        }
    }
    assert!(matches!(code, None | Some(1013)), "closed with {code:?}");
    assert_eq!(writer.update(500, &[cell("after", "c", "v", 1)])["version"], LARGE_UPDATES + 1);
}
