//! Commits that take long.

use std::time::Duration;

use causeway_storage::faulty::{At, Fault};
use serde_json::Value;

use super::common::guarantees::{Row, row};
use super::common::{Client, changes, keys, pull, version};
use super::house::{House, expect_there, expect_told, new_cell, send_and_see_it_wait, write};

on_every_store!(
    a_slow_commit_is_acked_when_it_is_durable_and_holds_up_its_own_shard_only,
    a_stop_waits_for_a_slow_commit_and_acks_it,
);

fn a_slow_commit_is_acked_when_it_is_durable_and_holds_up_its_own_shard_only(store: &str) {
    let house = House::with(store, |config| config.shards = 4);
    let (mut sender, mut other) = (house.connect("list"), house.connect("list"));
    let mut follower = house.connect("list");
    sender.update(1, &[new_cell(1)]);
    expect_told(&mut other, 1, 1);
    expect_told(&mut follower, 1, 1);
    house.faults.once("list", At::Commit, Fault::Held);
    sender.send_json(&write(2));
    house.faults.wait_held();
    // Nothing has come when the answers to these pulls have: no ack, no update. And reading does not wait.
    send_and_see_it_wait(&mut sender, &write(3), 1);
    for n in 4..7 {
        send_and_see_it_wait(&mut other, &write(n), 1);
    }
    assert_eq!(keys(&follower.pull_rows(0)), ["k1"]);
    // Of eight channels some belong to other shards, and these go on.
    let mut elsewhere: Vec<Client> = Vec::new();
    for name in other_shards(&house) {
        let mut client = house.connect(&name);
        assert_eq!(client.update(1, &[new_cell(1)])["version"], 1);
        elsewhere.push(client);
    }
    assert!(!elsewhere.is_empty());
    assert_eq!(house.metrics("causeway_silent_shards"), ["causeway_silent_shards 1"]);
    house.faults.release();
    assert_eq!(sender.recv_type("ack")["received"], 2);
    expect_told(&mut other, 2, 2);
    // What came meanwhile is one commit.
    assert_eq!(sender.recv_type("ack")["received"], 3);
    let mut messages = Vec::new();
    while acks(&messages).len() < 3 {
        messages.push(other.recv_json());
    }
    assert_eq!(acks(&messages), [(4, 4), (5, 5), (6, 6)]);
    let mut told = Vec::new();
    while told.len() < 5 {
        told.extend(keys(changes(&follower.recv_type("update"))));
    }
    assert_eq!(told, ["k2", "k3", "k4", "k5", "k6"]);
    let commits = house.metrics("causeway_commit_seconds_count");
    assert_eq!(commits, [format!("causeway_commit_seconds_count {}", 3 + elsewhere.len())]);
    expect_there(&house, "list", &[1, 2, 3, 4, 5, 6]);
    row(Row {
        number: 30,
        fault: "A commit takes long",
        sender: "no ack before it is durable; what it sends meanwhile is one commit, acked in order",
        others: "nothing before it is durable; pulls of its channel and `/metrics` are answered meanwhile; channels of other shards go on",
        lost: "nothing",
        command: "cargo test --test faults a_slow_commit",
    });
}

/// What the acks among the messages answer, and their versions.
fn acks(messages: &[Value]) -> Vec<(u64, u64)> {
    let acks = messages.iter().filter(|message| message["type"] == "ack");
    acks.map(|ack| (ack["received"].as_u64().unwrap(), version(ack))).collect()
}

/// Channels of other shards than `list`.
fn other_shards(house: &House) -> Vec<String> {
    let relay = house.relay();
    let names = (0..8).map(|n| format!("elsewhere {n}"));
    names.filter(|name| !std::ptr::eq(relay.shards.of(name), relay.shards.of("list"))).collect()
}

fn a_stop_waits_for_a_slow_commit_and_acks_it(store: &str) {
    let mut house = House::new(store);
    let (mut sender, mut follower) = (house.connect("list"), house.connect("list"));
    house.faults.once("list", At::Commit, Fault::Slow(Duration::from_secs(2)));
    sender.send_json(&write(1));
    while house.faults.are_set() {
        std::thread::yield_now();
    }
    // The slow commit has begun.
    sender.send_json(&write(2));
    sender.send_json(&pull(0));
    // Read by now, whether or not the commit has ended meanwhile.
    let mut messages = Vec::new();
    while !messages.iter().any(|message: &Value| message["type"] == "update") {
        messages.push(sender.recv_json());
    }
    house.stop();
    while acks(&messages).len() < 2 {
        messages.push(sender.recv_json());
    }
    assert_eq!(acks(&messages), [(1, 1), (2, 2)]);
    sender.expect_close(1001);
    expect_told(&mut follower, 1, 1);
    expect_told(&mut follower, 2, 2);
    follower.expect_close(1001);
    assert!(house.stopped(), "within drain_timeout");
    assert_eq!(house.stored("list"), 2);
    row(Row {
        number: 31,
        fault: "The server is stopped during a commit of 2 s",
        sender: "the ack of all that it had sent, then a close with 1001",
        others: "the updates, then a close with 1001",
        lost: "nothing",
        command: "cargo test --test faults a_stop_waits",
    });
}
