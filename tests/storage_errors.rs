//! A channel whose file is damaged: it is refused, named and left alone, and nobody else notices.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Server, cell, update, upgrade_request};
use serde_json::Value;
use std::fs;
use std::thread;
use std::time::Duration;

const RUBBISH: &[u8] = &[0x5a; 8192];

#[test]
fn a_damaged_channel_answers_503_and_keeps_its_file() {
    let server = Server::start("sqlite");
    server.connect("good").update(1, &[cell("k", "c", "v", 1)]);
    let path = server.data.join("bad.db");
    fs::write(&path, RUBBISH).unwrap();
    for _ in 0..2 {
        let answer = server.http(&upgrade_request("/?channel=bad"));
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(serde_json::from_str::<Value>(&answer.text()).unwrap()["code"], "storage");
    }
    assert_eq!(fs::read(&path).unwrap(), RUBBISH, "what may still be mended is not overwritten");
    assert_eq!(server.connect("good").pull_rows(0).len(), 1);
}

#[test]
fn an_update_that_cannot_be_stored_is_answered_and_not_acked() {
    let server = Server::with("sqlite", &[("channel-idle-ms", "50")]);
    let (mut sender, mut follower) = (server.connect("list"), server.connect("list"));
    let mut elsewhere = server.connect("elsewhere");
    sender.update(1, &[cell("k1", "c", "v", 1)]);
    follower.recv_type("update");
    // The store closes, and its file is damaged, whole and mended.
    thread::sleep(Duration::from_millis(1500));
    let path = server.data.join("list.db");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, RUBBISH).unwrap();
    for n in 2..=3 {
        sender.send_json(&update(n, &[cell("k2", "c", "v", 1)]));
        let error = sender.recv_type("error");
        assert_eq!((&error["code"], &error["received"]), (&"storage".into(), &n.into()), "{error}");
    }
    elsewhere.update(1, &[cell("k", "c", "v", 1)]);
    fs::write(&path, whole).unwrap();
    let ack = sender.update(4, &[cell("k3", "c", "v", 1)]);
    assert_eq!(ack["version"], 2, "what failed took no version");
    let told = follower.recv_type("update");
    assert_eq!((&told["version"], told["changes"][0][1].as_str()), (&2.into(), Some("k3")));
    assert_eq!(sender.pull_rows(0).len(), 2);
}
