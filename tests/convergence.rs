//! The contract's promise: a client that has pulled once and then applied every message up to version V holds every
//! winning change up to V. Here with writers in conflict, deletes, new lives, small pages, lag and reconnects.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{Numbers, Replica, SITE, Server, changes, pull, sentinel, update, version};
use serde_json::{Value, json};
use std::thread;

on_every_store!(clients_that_apply_what_they_are_told_agree_with_the_server);

const WRITERS: u64 = 3;
const UPDATES: u64 = 120;

/// A change to one of a few rows, so that many lose and rows die and come back.
fn any_change(numbers: &mut Numbers) -> Value {
    let pk = format!("row{}", numbers.below(6));
    let cl = numbers.below(6) + 1;
    if cl.is_multiple_of(2) || numbers.below(5) == 0 {
        // Deletes are rare: otherwise nothing would live.
        return sentinel(&pk, if numbers.below(3) == 0 { cl } else { 1 });
    }
    let val = [json!(null), json!(numbers.below(4)), json!(0.5), json!("text"), json!({"$blob": "00ff"})];
    let val = &val[numbers.below(5) as usize];
    json!(["todos", pk, format!("c{}", numbers.below(3)), val, numbers.below(20), 1, SITE, cl, 0])
}

/// Follows the channel up to `last`, from the start, and leaves `leaves` times on the way.
fn follow(server: &Server, last: impl Fn() -> Option<u64>, leaves: u64) -> Replica {
    let mut copy = Replica::default();
    let mut cursor = 0;
    let mut numbers = Numbers(leaves);
    for round in 0.. {
        let mut client = server.connect("list");
        client.send_json(&pull(cursor));
        let stay = if round < leaves { numbers.below(12) } else { u64::MAX };
        let mut paged = false;
        for _ in 0..stay {
            let message = client.recv_type("update");
            paged |= message.get("more").is_some();
            if !paged {
                // Live, and sent before the pull was read: the pages hold it too.
                continue;
            }
            assert!(version(&message) >= cursor, "the version fell from {cursor}");
            cursor = version(&message);
            changes(&message).iter().for_each(|change| copy.apply(change));
            if last() == Some(cursor) && message["more"] != true {
                return copy;
            }
        }
    }
    unreachable!()
}

fn clients_that_apply_what_they_are_told_agree_with_the_server(store: &str) {
    let server = Server::with(store, &[("page-max-changes", "4"), ("outbox-max-bytes", "2048")]);
    let marker = json!(["todos", "the end", "c", 1, 1, 1, SITE, 1, 0]);
    let (copies, tail) = thread::scope(|scope| {
        let server = &server;
        let end = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let followers: Vec<_> = [0, 3, 40]
            .into_iter()
            .map(|leaves| {
                let end = end.clone();
                let last = move || {
                    let end = end.load(std::sync::atomic::Ordering::SeqCst);
                    (end != 0).then_some(end)
                };
                scope.spawn(move || follow(server, last, leaves))
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut numbers = Numbers(writer + 100);
                    let mut client = server.connect("list");
                    for n in 1..=UPDATES {
                        let mut sent: Vec<_> =
                            (0..numbers.below(9)).map(|_| any_change(&mut numbers)).collect();
                        // Nothing later makes up for these, should anyone miss them.
                        for place in [sent.len(), sent.len() / 2, 0] {
                            let pk = format!("only here {writer}-{n}-{place}");
                            sent.insert(place, json!(["todos", pk, "c", n, 1, 1, SITE, 1, 0]));
                        }
                        client.send_json(&update(n, &sent));
                        // Others' updates come in between.
                        while client.recv_json()["type"] != "ack" {}
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        // The followers stop at the marker's version, which they cannot have passed.
        let mut client = server.connect("list");
        let tail = client.connected_version() + 1;
        end.store(tail, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(client.update(1, &[marker])["version"], tail);
        (followers.into_iter().map(|follower| follower.join().unwrap()).collect::<Vec<_>>(), tail)
    });

    let mut pulled = Replica::default();
    let mut client = server.connect("list");
    assert_eq!(client.connected_version(), tail);
    client.pull_rows(0).iter().for_each(|row| pulled.apply(row));
    assert!(pulled.rows.values().any(|row| row.cl % 2 == 0) && pulled.rows.values().any(|row| row.cl > 1));
    for (n, copy) in copies.iter().enumerate() {
        assert_eq!(copy.rows, pulled.rows, "follower {n} and the server");
    }
}
