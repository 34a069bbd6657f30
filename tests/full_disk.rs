//! A disk that fills up under the real binary: no file may grow beyond a limit, and then again it may.

#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use causeway_storage::BACKENDS;
use common::guarantees::{Row, row};
use common::{Client, PATIENCE, Server, cell, keys, number, update, version};

on_durable_stores!(a_full_disk_loses_nothing_and_needs_no_restart);

/// Files may grow to this: what a store begins with is below it.
const LIMIT_BYTES: u64 = 1 << 20;

const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];
const ROUNDS: usize = 3;

/// A disk is full when a channel was refused so often.
const REFUSALS: usize = 5;

/// Far more than there is room for.
const MAX_UPDATES: usize = 2_000;

/// What an update holds, in bytes.
const VALUE_BYTES: usize = 20_000;

/// A sender that notes what was acked and what was not.
struct Sender {
    /// `None` while it cannot connect.
    client: Option<Client>,
    addr: SocketAddr,
    channel: &'static str,
    sent: u64,
    acked: BTreeSet<String>,
    failed: BTreeSet<String>,
}

impl Sender {
    fn new(server: &Server, channel: &'static str) -> Self {
        let client = Some(server.connect(channel));
        let (acked, failed) = (BTreeSet::new(), BTreeSet::new());
        Sender { client, addr: server.addr, channel, sent: 0, acked, failed }
    }

    /// Sends one update; gives whether it was acked.
    fn send(&mut self) -> bool {
        if self.client.is_none() {
            self.client = match Client::try_connect(self.addr, self.channel) {
                Ok(client) => Some(client),
                Err(refused) => {
                    assert_eq!(refused.status, 503, "{refused:?}");
                    return false;
                }
            };
        }
        let client = self.client.as_mut().expect("it is connected");
        self.sent += 1;
        let key = format!("k{:04}", self.sent);
        let value = format!("{key:x<VALUE_BYTES$}");
        client.send_json(&update(self.sent, &[cell(&key, "c", value, 1)]));
        let answer = loop {
            let message = client.recv_json();
            if message["type"] != "update" {
                break message;
            }
        };
        let acked = answer["type"] == "ack";
        assert!(acked || answer["code"] == "storage", "{answer}");
        if !acked && answer["received"].is_null() {
            // What reached the disk although its commit had failed was to be read for us, and could not be (see below): whether
            // this update was stored we are not told.
            client.expect_close(1013);
            self.client = None;
        } else {
            assert_eq!(answer["received"], self.sent, "{answer}");
        }
        let keys = if acked { &mut self.acked } else { &mut self.failed };
        keys.insert(key);
        acked
    }

    /// All that was acked is there, of the rest only what reached the disk all the same, in versions without a gap.
    fn check(&self, server: &Server, channel: &str) {
        let mut reader = server.connect(channel);
        let rows = reader.pull_rows(0);
        let found: BTreeSet<_> = keys(&rows).into_iter().collect();
        assert!(found.is_superset(&self.acked), "lost: {:?}", self.acked.difference(&found));
        let both: BTreeSet<_> = self.acked.union(&self.failed).cloned().collect();
        assert!(found.is_subset(&both), "{found:?}");
        let versions: Vec<_> = rows.iter().map(|row| number(row, 5)).collect();
        assert_eq!(versions, (1..=version(&reader.connected)).collect::<Vec<_>>(), "dense");
    }
}

fn a_full_disk_loses_nothing_and_needs_no_restart(store: &str) {
    // A database that all channels share has to be opened again after a failure, and some write to do so.
    let is_shared = causeway_storage::backend(store).unwrap().log.is_some();
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let server = Server::at(&data, store, &[]);
    let mut senders = CHANNELS.map(|name| (name, Sender::new(&server, name)));
    let mut idle = Sender::new(&server, "idle");
    assert!(idle.send());
    for _ in 0..ROUNDS {
        for (_, sender) in &mut senders {
            assert!(sender.send(), "there is room");
        }
        server.limit_files(Some(LIMIT_BYTES));
        thread::scope(|scope| {
            for (name, sender) in &mut senders {
                scope.spawn(move || {
                    let full = (0..MAX_UPDATES).filter(|_| !sender.send()).nth(REFUSALS - 1);
                    assert!(full.is_some(), "{name}: {} acked within the limit", sender.acked.len());
                });
            }
        });
        // What is there can be read, if the store can.
        if !is_shared {
            senders.iter().for_each(|(name, sender)| sender.check(&server, name));
        }
        server.limit_files(None);
        thread::scope(|scope| {
            for (name, sender) in &mut senders {
                let server = &server;
                scope.spawn(move || {
                    let start = Instant::now();
                    // A shared database waits a second between two tries to write again.
                    while !sender.send() {
                        assert!(start.elapsed() < PATIENCE, "{name}: there is room again");
                        thread::sleep(Duration::from_millis(20));
                    }
                    sender.check(server, name);
                });
            }
        });
        assert!(idle.send(), "who sent nothing meanwhile does not notice");
        idle.check(&server, "idle");
    }
    let unavailable = server.metric_lines("causeway_channel_unavailable{");
    assert!(unavailable.is_empty(), "{unavailable:?}");
    server.kill();
    let server = Server::at(&data, store, &[]);
    for (name, sender) in &senders {
        sender.check(&server, name);
    }
    idle.check(&server, "idle");
    server.stop();
    let alike = BACKENDS.iter().filter(|backend| backend.persistent && backend.log.is_some() == is_shared);
    let stores: Vec<_> = alike.map(|backend| backend.name).collect();
    row(Row {
        number: if is_shared { 41 } else { 40 },
        fault: &format!(
            "The disk is full under the real server, with {}, and later there is room again",
            stores.join(" or ")
        ),
        sender: "`error` with code `storage` while it is full; acks again once there is room, without a restart",
        others: match is_shared {
            false => {
                "what was acked, and what reached the disk all the same, without a gap; pulls are answered meanwhile"
            }
            true => {
                "what was acked, and what reached the disk all the same, without a gap; pulls may get `storage` meanwhile, of all channels"
            }
        },
        lost: "nothing, and nothing after a `kill -9` and a restart",
        command: "cargo test --test full_disk",
    });
}
