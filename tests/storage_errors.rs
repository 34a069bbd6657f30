//! A channel whose file is damaged: it is refused, named and left alone, and nobody else notices.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::guarantees::{Row, row};
use common::{Server, cell, update};
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
        server.expect_unavailable("bad");
    }
    let unavailable = r#"causeway_channel_unavailable{channel="bad",to="write"} 1"#;
    assert_eq!(server.metric_lines("causeway_channel_unavailable{"), [unavailable]);
    let counted = r#"causeway_storage_errors_total{kind="corrupt"} 2"#;
    assert!(server.metric_lines("causeway_storage_errors_total{").contains(&counted.to_owned()));
    assert_eq!(fs::read(&path).unwrap(), RUBBISH, "what may still be mended is not overwritten");
    assert_eq!(server.connect("good").pull_rows(0).len(), 1);
    let log = server.stop_and_log();
    assert!(log.contains(r#"channel "bad" is corrupt"#), "{log}");
    row(Row {
        number: 50,
        fault: "A channel's SQLite file is rubbish",
        sender: "whoever connects to it is answered 503 with code `storage`",
        others: "nothing; the log and `/metrics` name the channel; its file is not written to; all others go on",
        lost: "what was in the file: it needs its backup",
        command: "cargo test --test storage_errors a_damaged_channel",
    });
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
    row(Row {
        number: 51,
        fault: "A channel's SQLite file becomes rubbish while clients are connected, and is restored",
        sender: "`error` with code `storage` until then; the next update is acked, on the same connection and without a restart",
        others: "nothing of what failed; what follows gets the next version; all others go on",
        lost: "nothing",
        command: "cargo test --test storage_errors an_update_that_cannot_be_stored",
    });
}
