//! Clients that send more than they read.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{Server, cell, changes, keys, pull, update, version};
use std::collections::BTreeSet;

on_every_store!(
    who_sends_without_reading_gets_every_ack_in_order,
    who_pulls_without_reading_gets_an_answer_that_ends_at_the_tail,
    an_ack_does_not_overtake_what_a_lagging_client_has_not_been_sent,
);

fn who_sends_without_reading_gets_every_ack_in_order(store: &str) {
    const SENT: u64 = 6000;
    let server = Server::with(store, &[("outbox-max-bytes", "16384")]);
    let mut other = server.connect("list");
    let mut client = server.connect("list");
    let mut sender = client.second_handle();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 1..=SENT {
                sender.send_json(&update(n, &[cell(&format!("k{n}"), "c", n, 1)]));
            }
        });
        std::thread::sleep(std::time::Duration::from_millis(500));
        for n in 1..=SENT {
            let ack = client.recv_type("ack");
            assert_eq!((version(&ack), ack["received"].as_u64()), (n, Some(n)));
        }
    });
    // The one that did not read either.
    let mut held = BTreeSet::new();
    while held.len() < SENT as usize {
        held.extend(keys(changes(&other.recv_type("update"))));
    }
}

/// The server may refuse pulls while many wait for their answers, as `rate_limited`; but they are good messages, for
/// which nobody is closed.
fn who_pulls_without_reading_gets_an_answer_that_ends_at_the_tail(store: &str) {
    const PULLS: u64 = 2000;
    let server = Server::with(store, &[("page-max-changes", "3"), ("outbox-max-bytes", "16384")]);
    let mut client = server.connect("list");
    let mut sender = client.second_handle();
    let rows: Vec<_> = (0..10).map(|n| cell(&format!("k{n}"), "c", n, 1)).collect();
    client.update(1, &rows);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..PULLS {
                sender.send_json(&pull(0));
            }
            sender.send_json(&update(2, &[cell("last", "c", 1, 1)]));
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        let mut held = BTreeSet::new();
        let mut acked = false;
        let mut paged = false;
        while !acked || !paged {
            let message = client.recv_json();
            if message["type"] == "ack" {
                assert_eq!(version(&message), 2);
                acked = true;
            } else if message["type"] == "error" {
                assert_eq!(message["code"], "rate_limited", "{message}");
            } else {
                held.extend(keys(changes(&message)));
                paged |= message["more"] == false;
            }
        }
        assert!(held.len() >= 10, "{held:?}");
    });
}

/// A client that lags sends an update before it reads on. When its ack comes, it holds all that is older.
fn an_ack_does_not_overtake_what_a_lagging_client_has_not_been_sent(store: &str) {
    const VERSIONS: u64 = 300;
    let server = Server::with(store, &[("outbox-max-bytes", "65536"), ("page-max-bytes", "150000")]);
    let mut writer = server.connect("list");
    let mut lagging = server.connect("list");
    let value = "x".repeat(60_000);
    for n in 1..=VERSIONS {
        writer.update(n, &[cell(&format!("k{n}"), "c", value.clone(), 1)]);
    }
    lagging.send_json(&update(5, &[cell("its own", "c", 1, 1)]));
    let told = writer.recv_type("update");
    assert_eq!(version(&told), VERSIONS + 1, "it is merged and told while its sender lags");
    let mut held = BTreeSet::new();
    let mut reached = 0;
    loop {
        let message = lagging.recv_json();
        assert!(version(&message) >= reached, "the version fell from {reached}");
        reached = version(&message);
        if message["type"] == "ack" {
            break;
        }
        held.extend(keys(changes(&message)));
    }
    assert_eq!(reached, VERSIONS + 1);
    let missing: Vec<_> = (1..=VERSIONS).map(|n| format!("k{n}")).filter(|key| !held.contains(key)).collect();
    assert!(missing.is_empty(), "the ack of {reached} overtook {missing:?}");
}
