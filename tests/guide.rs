//! The guide's four messages, as a client written from the guide alone sees them.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{BINARY, Client, SITE, Server, cell, changes, frame, keys, number, sentinel, update, version};
use serde_json::{Value, json};

on_every_store!(
    connected_tells_site_version_and_channel,
    a_connection_without_a_channel_is_on_default,
    an_update_is_acked_with_the_servers_version_and_what_it_answers,
    every_other_connection_hears_of_an_update_and_the_sender_does_not,
    channels_are_apart,
    what_does_not_win_is_told_to_nobody_and_leaves_the_version,
    only_the_winners_of_an_update_are_forwarded_and_stored,
    a_pull_answers_from_its_cursor,
    a_pull_above_the_tail_is_answered_from_0,
    rows_carry_the_servers_version_and_count_seq_in_message_order,
    a_delete_leaves_the_sentinel_and_a_new_life_wins,
    binary_frames_are_messages_too,
    keys_in_any_order_and_unknown_ones_do_not_matter,
    versions_are_dense_and_leave_in_order,
);

fn connected_tells_site_version_and_channel(store: &str) {
    let server = Server::start(store);
    let client = server.connect("a list");
    let site = client.connected["siteId"].as_str().unwrap();
    assert_eq!(site.len(), 32, "{site}");
    assert!(site.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F')), "{site}");
    assert_eq!(client.connected["version"], 0);
    assert_eq!(client.connected["channel"], "a list");
    assert_eq!(server.connect("a list").connected, client.connected);
}

fn a_connection_without_a_channel_is_on_default(store: &str) {
    let server = Server::start(store);
    let targets =
        ["/", "/sync", "/ws", "/?", "/?channel=", "/ws?channel=", "/sync?channel=default", "/?other=1"];
    let mut clients: Vec<_> = targets.iter().map(|target| Client::connect_to(server.addr, target)).collect();
    for (client, target) in clients.iter().zip(targets) {
        assert_eq!(client.connected["channel"], "default", "at {target}");
    }
    clients[0].update(1, &[cell("k", "c", "v", 1)]);
    for (client, target) in clients[1..].iter_mut().zip(&targets[1..]) {
        assert_eq!(client.recv_type("update")["version"], 1, "at {target}");
    }
}

fn an_update_is_acked_with_the_servers_version_and_what_it_answers(store: &str) {
    let server = Server::start(store);
    let mut client = server.connect("list");
    client.send_json(&update(41, &[cell("k", "c", "v", 1)]));
    let ack = client.recv_type("ack");
    let site = client.connected["siteId"].clone();
    assert_eq!(ack, json!({"type": "ack", "siteId": site, "version": 1, "channel": "list", "received": 41}));
    assert_eq!(client.update(42, &[cell("k", "c", "w", 2)])["version"], 2);
    assert_eq!(client.update(43, &[])["version"], 2, "an update without changes");
    assert_eq!(server.connect("list").connected_version(), 2);
}

fn every_other_connection_hears_of_an_update_and_the_sender_does_not(store: &str) {
    let server = Server::start(store);
    let mut sender = server.connect("list");
    let mut others: Vec<_> = (0..3).map(|_| server.connect("list")).collect();
    let sent = [cell("k", "a", "v", 1), cell("k", "b", 7, 1)];
    sender.update(9, &sent);
    for other in &mut others {
        let told = other.recv_json();
        let site = other.connected["siteId"].clone();
        let expected =
            json!({"type": "update", "changes": sent, "version": 1, "siteId": site, "channel": "list"});
        assert_eq!(told, expected, "no more and no less than the guide's fields");
    }
    // The sender's next message is its own next ack.
    assert_eq!(sender.update(10, &[cell("l", "a", "v", 1)])["version"], 2);
}

fn channels_are_apart(store: &str) {
    let server = Server::start(store);
    let (mut one, mut two) = (server.connect("one"), server.connect("two"));
    one.update(1, &[cell("k", "c", "one", 1)]);
    // `two` hears nothing of it: its next message is its own ack, of its own first version.
    assert_eq!(two.update(1, &[cell("k", "c", "two", 1)])["version"], 1);
    assert_eq!(two.pull_rows(0)[0][3], "two");
    assert_eq!(one.pull_rows(0)[0][3], "one");
}

fn what_does_not_win_is_told_to_nobody_and_leaves_the_version(store: &str) {
    let server = Server::start(store);
    let (mut sender, mut other) = (server.connect("list"), server.connect("list"));
    sender.update(1, &[cell("k", "c", "m", 5), sentinel("gone", 2)]);
    other.recv_type("update");
    let losers = [
        cell("k", "c", "m", 5),
        cell("k", "c", "a", 5),
        cell("k", "c", "z", 4),
        cell("k", "c", Value::Null, 5),
        cell("gone", "c", "z", 99),
        sentinel("gone", 2),
        sentinel("gone", 1),
    ];
    for loser in &losers {
        assert_eq!(sender.update(2, std::slice::from_ref(loser))["version"], 1, "{loser}");
    }
    assert_eq!(sender.update(3, &losers)["version"], 1);
    assert_eq!(sender.update(4, &[cell("k", "c", "n", 5)])["version"], 2);
    assert_eq!(other.recv_type("update")["version"], 2, "nothing was told in between");
}

fn only_the_winners_of_an_update_are_forwarded_and_stored(store: &str) {
    let server = Server::start(store);
    let (mut sender, mut other) = (server.connect("list"), server.connect("list"));
    sender.update(1, &[cell("k", "a", "old", 3), cell("k", "b", "old", 3)]);
    other.recv_type("update");
    let mixed = [
        cell("k", "a", "late", 2),
        cell("k", "b", "new", 4),
        cell("k", "a", "z", 1),
        cell("l", "a", "new", 1),
    ];
    assert_eq!(sender.update(2, &mixed)["version"], 2);
    let winners = [mixed[1].clone(), mixed[3].clone()];
    assert_eq!(changes(&other.recv_type("update")), winners);
    let rows = sender.pull_rows(1);
    assert_eq!(rows.iter().map(|row| row[3].clone()).collect::<Vec<_>>(), ["new", "new"]);
    assert_eq!(rows.iter().map(|row| number(row, 8)).collect::<Vec<_>>(), [0, 1], "seq counts the winners");
}

fn a_pull_answers_from_its_cursor(store: &str) {
    let server = Server::start(store);
    let mut client = server.connect("list");
    let nothing = client.pull(0);
    assert_eq!(nothing.len(), 1);
    assert!(changes(&nothing[0]).is_empty(), "{}", nothing[0]);
    assert_eq!(nothing[0]["version"], 0);

    for n in 1..=5 {
        client.update(n, &[cell(&format!("k{n}"), "c", n, 1)]);
    }
    for cursor in 0..=5 {
        let pages = client.pull(cursor);
        assert_eq!(pages.len(), 1, "pull from {cursor}");
        let page = &pages[0];
        let site = client.connected["siteId"].clone();
        assert_eq!((&page["version"], &page["siteId"], &page["channel"]), (&json!(5), &site, &json!("list")));
        let expected: Vec<_> = (cursor + 1..=5).map(|n| format!("k{n}")).collect();
        assert_eq!(keys(changes(page)), expected, "pull from {cursor}");
    }
}

fn a_pull_above_the_tail_is_answered_from_0(store: &str) {
    let server = Server::start(store);
    let (mut client, mut writer) = (server.connect("list"), server.connect("list"));
    client.update(1, &[cell("k1", "c", 1, 1)]);
    client.update(2, &[cell("k2", "c", 2, 1)]);
    for cursor in [3, 1000, (1 << 53) - 1] {
        let rows = client.pull_rows(cursor);
        assert_eq!(keys(&rows), ["k1", "k2"], "pull from {cursor}");
    }
    // The connection follows on from there.
    writer.recv_type("update");
    writer.recv_type("update");
    writer.update(1, &[cell("k3", "c", 3, 1)]);
    assert_eq!(client.recv_type("update")["version"], 3);
}

fn rows_carry_the_servers_version_and_count_seq_in_message_order(store: &str) {
    let server = Server::start(store);
    let mut client = server.connect("list");
    let sent = |pk: &str, db_version: u64, seq: u64| {
        json!(["todos", pk, "c", "v", 1, db_version, "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB", 1, seq])
    };
    client.update(70, &[sent("z", 70, 9), sent("a", 12, 4), sent("m", 900, 0)]);
    client.update(71, &[sent("b", 1, 1), sent("y", 1, 0)]);
    let rows = client.pull_rows(0);
    assert_eq!(keys(&rows), ["z", "a", "m", "b", "y"]);
    let places: Vec<_> = rows.iter().map(|row| (number(row, 5), number(row, 8))).collect();
    assert_eq!(places, [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]);
    assert!(
        rows.iter().all(|row| row[6] == "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"),
        "the site stays the writer's"
    );

    // A cell that is written again moves to its new version.
    client.update(72, &[json!(["todos", "z", "c", "w", 2, 1, SITE, 1, 5])]);
    assert_eq!(keys(&client.pull_rows(0)), ["a", "m", "b", "y", "z"]);
    assert_eq!(client.pull_rows(2), [json!(["todos", "z", "c", "w", 2, 3, SITE, 1, 0])]);
}

fn a_delete_leaves_the_sentinel_and_a_new_life_wins(store: &str) {
    let server = Server::start(store);
    let (mut sender, mut other) = (server.connect("list"), server.connect("list"));
    sender.update(1, &[cell("k", "a", "v", 9), cell("k", "b", "v", 9), cell("l", "a", "v", 1)]);
    sender.update(2, &[sentinel("k", 2)]);
    assert_eq!(keys(&sender.pull_rows(0)), ["l", "k"]);
    assert_eq!(sender.pull_rows(1), [json!(["todos", "k", "-1", null, 2, 2, SITE, 2, 0])]);

    let reborn = [sentinel("k", 3), json!(["todos", "k", "a", "again", 1, 5, SITE, 3, 1])];
    assert_eq!(sender.update(3, &reborn)["version"], 3);
    assert_eq!(keys(&sender.pull_rows(2)), ["k", "k"]);
    other.recv_type("update");
    assert_eq!(changes(&other.recv_type("update")), [sentinel("k", 2)]);
    assert_eq!(changes(&other.recv_type("update")), reborn);
}

fn binary_frames_are_messages_too(store: &str) {
    let server = Server::start(store);
    let (mut sender, mut other) = (server.connect("list"), server.connect("list"));
    sender.send_bytes(&frame(BINARY, update(5, &[cell("k", "c", "é", 1)]).to_string().as_bytes()));
    assert_eq!(sender.recv_type("ack")["received"], 5);
    // `recv_json` takes text frames only: the server answers in text.
    assert_eq!(changes(&other.recv_type("update"))[0][3], "é");
    sender.send_bytes(&frame(BINARY, common::pull(0).to_string().as_bytes()));
    assert_eq!(keys(changes(&sender.recv_type("update"))), ["k"]);
}

fn keys_in_any_order_and_unknown_ones_do_not_matter(store: &str) {
    let server = Server::start(store);
    let mut client = server.connect("list");
    client.send_text(
        r#" { "changes" : [ ["todos","k","c","v",1,1,"S",1,0] ], "x": {"deep": [1, {"y": null}]}, "version": 3,
            "channel": "elsewhere", "\u0073iteId": "S", "more": true, "type": "update" } "#,
    );
    assert_eq!(client.recv_type("ack")["received"], 3);
    client.send_text(r#"{"version":0,"extra":[],"type":"pull","siteId":"S","channel":"elsewhere"}"#);
    assert_eq!(keys(changes(&client.recv_type("update"))), ["k"]);
    // What a guide's client may leave out: the channel is in the URL.
    client.send_text(r#"{"type":"pull","version":0,"siteId":"S"}"#);
    assert_eq!(keys(changes(&client.recv_type("update"))), ["k"]);
}

/// Two writers keep many updates in flight. Each version is then either a writer's own ack or the other's update,
/// and each connection sees them all, in order.
fn versions_are_dense_and_leave_in_order(store: &str) {
    const EACH: u64 = 100;
    let server = Server::start(store);
    let mut clients = [server.connect("list"), server.connect("list")];
    let mut reader = server.connect("list");
    for n in 1..=EACH {
        for (writer, client) in clients.iter_mut().enumerate() {
            client.send_json(&update(n, &[cell(&format!("{writer}-{n}"), "c", n, 1)]));
        }
    }
    for client in &mut clients {
        let mut received = 0;
        for expected in 1..=2 * EACH {
            let message = client.recv_json();
            assert_eq!(version(&message), expected, "{message}");
            if message["type"] == "ack" {
                received += 1;
                assert_eq!(message["received"], received, "acks come in the order of the updates");
            }
        }
        assert_eq!(received, EACH);
    }
    for expected in 1..=2 * EACH {
        assert_eq!(version(&reader.recv_type("update")), expected);
    }
    assert_eq!(reader.pull_rows(0).len() as u64, 2 * EACH);
}
