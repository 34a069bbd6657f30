//! A channel that is damaged in the middle: it opens, and only who meets the damage is refused.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;

use causeway_storage::BACKENDS;
use common::guarantees::{Row, row};
use common::{Client, Server, cell, keys, pull, update};

const CELLS: u64 = 1_000;

/// A channel of many pages.
fn fill(client: &mut Client) {
    for n in 0..10 {
        let cells: Vec<_> =
            (0..CELLS / 10).map(|i| cell(&key(n * CELLS / 10 + i), "c", "x".repeat(1_000), 1)).collect();
        client.update(n + 1, &cells);
    }
}

fn key(n: u64) -> String {
    format!("k{n:05}")
}

/// Everyone who meets the damage is told, and the others go on.
fn use_damaged(server: &Server) {
    let mut good = server.connect("good");
    let (mut sender, mut puller) = (server.connect("hurt"), server.connect("hurt"));
    assert_eq!(sender.connected_version(), 10);
    puller.send_json(&pull(0));
    let error = loop {
        let message = puller.recv_json();
        if message["type"] != "update" {
            break message;
        }
        assert_eq!(message["more"], true, "it never seems to be all");
    };
    assert_eq!((&error["type"], &error["code"]), (&"error".into(), &"storage".into()));
    puller.expect_close(1013);
    // A commit that meets it fails, as often as it is tried, and changes nothing.
    for n in 11..14 {
        let cells: Vec<_> = (0..CELLS).map(|n| cell(&key(n), "c", "y", 2)).collect();
        sender.send_json(&update(n, &cells));
        let error = sender.recv_type("error");
        assert_eq!((&error["code"], &error["received"]), (&"storage".into(), &n.into()), "{error}");
    }
    assert_eq!(server.connect("hurt").connected_version(), 10);
    let mut unavailable = server.metric_lines("causeway_channel_unavailable{");
    unavailable.sort();
    let line = |to| format!("causeway_channel_unavailable{{channel=\"hurt\",to=\"{to}\"}} 1");
    assert_eq!(unavailable, [line("read"), line("write")]);
    assert_eq!(good.update(2, &[cell("k2", "c", 2, 1)])["version"], 2);
    assert_eq!(keys(&good.pull_rows(0)), ["k1", "k2"]);
}

#[test]
fn a_page_in_the_middle_of_a_file_is_damaged() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let server = Server::at(&data, "sqlite", &[]);
    server.connect("good").update(1, &[cell("k1", "c", 1, 1)]);
    fill(&mut server.connect("hurt"));
    server.stop();
    let path = data.join("hurt.db");
    let whole = fs::read(&path).unwrap();
    let damage = whole.len() / 3 / 4096 * 4096..whole.len() * 2 / 3 / 4096 * 4096;
    assert!(damage.len() > 50 * 4096, "a channel of many pages");
    let mut damaged = whole.clone();
    damaged[damage.clone()].fill(0x5a);
    fs::write(&path, &damaged).unwrap();
    let server = Server::at(&data, "sqlite", &[]);
    use_damaged(&server);
    let log = server.stop_and_log();
    assert!(log.contains(r#"channel "hurt" is corrupt"#), "{log}");
    assert!(fs::read(&path).unwrap()[damage.clone()] == damaged[damage], "the damage is left as it is");
    // Its backup has it all again.
    fs::write(&path, &whole).unwrap();
    let server = Server::at(&data, "sqlite", &[]);
    let mut client = server.connect("hurt");
    assert_eq!(client.pull_rows(0).len() as u64, CELLS);
    assert_eq!(client.update(11, &[cell("new", "c", 1, 1)])["version"], 11);
    row(Row {
        number: 52,
        fault: "Pages in the middle of a channel's SQLite file are damaged while it is closed",
        sender: "who meets the damage: an update gets `error` with code `storage`, a pull too, and a close with 1013",
        others: "nothing of what failed; the log and `/metrics` name the channel; what is damaged is not written to; all others go on",
        lost: "what was in those pages: it needs its backup",
        command: "cargo test --test corrupt a_page_in_the_middle",
    });
}

#[test]
fn a_version_below_its_cells_ends_a_pull() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let server = Server::at(&data, "sqlite", &[]);
    fill(&mut server.connect("hurt"));
    server.stop();
    let file = rusqlite::Connection::open(data.join("hurt.db")).unwrap();
    assert_eq!(file.execute("UPDATE crdt_db_version SET version = 1", []).unwrap(), 1);
    drop(file);
    let server = Server::at(&data, "sqlite", &[("page-max-changes", "30")]);
    let mut puller = server.connect("hurt");
    puller.send_json(&pull(0));
    let mut pages = 0;
    let error = loop {
        let message = puller.recv_json();
        if message["type"] != "update" {
            break message;
        }
        pages += 1;
        assert!(pages < 10, "the pages have no end");
    };
    assert_eq!(error["code"], "storage", "{error}");
    puller.expect_close(1013);
    let log = server.stop_and_log();
    assert!(log.contains(r#"channel "hurt" is corrupt"#), "{log}");
}

#[test]
fn what_a_store_of_keys_has_of_a_channel_is_damaged() {
    let mut stores = Vec::new();
    for backend in BACKENDS {
        let Some(open_keys) = backend.keys else { continue };
        stores.push(backend.name);
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        let server = Server::at(&data, backend.name, &[]);
        for channel in ["good", "bad"] {
            server.connect(channel).update(1, &[cell("k1", "c", 1, 1)]);
        }
        fill(&mut server.connect("hurt"));
        server.stop();
        let keys = open_keys(&data);
        let all = keys.all();
        let with = |prefix: Vec<u8>| all.iter().filter(move |(key, _)| key.starts_with(&prefix));
        let prefix = |channel: &str, kind: &[u8]| {
            let (_, id) = with([b"n", channel.as_bytes()].concat()).next().unwrap();
            [b"c", &id[..], kind].concat()
        };
        let (cell_key, _) = with(prefix("hurt", b"v")).nth(CELLS as usize / 2).unwrap();
        let damaged = [prefix("bad", b"h"), cell_key.clone()];
        for key in &damaged {
            keys.write(key, Some(b"rubbish"));
        }
        drop(keys);
        let server = Server::at(&data, backend.name, &[]);
        server.expect_unavailable("bad");
        let unavailable = r#"causeway_channel_unavailable{channel="bad",to="write"} 1"#;
        assert_eq!(server.metric_lines("causeway_channel_unavailable{"), [unavailable]);
        let log = server.stop_and_log();
        assert!(log.contains(r#"channel "bad" is corrupt"#), "{log}");
        let server = Server::at(&data, backend.name, &[]);
        use_damaged(&server);
        let log = server.stop_and_log();
        assert!(log.contains(r#"channel "hurt" is corrupt"#), "{log}");
        let rubbish = open_keys(&data).all().into_iter().filter(|(_, value)| value == b"rubbish");
        assert_eq!(rubbish.map(|(key, _)| key).collect::<Vec<_>>(), damaged, "the damage is left as it is");
    }
    row(Row {
        number: 53,
        fault: &format!(
            "What a store of keys ({}) has of a channel is damaged: its head, a cell",
            stores.join(", ")
        ),
        sender: "503 with code `storage` where it cannot be opened; else who meets the damage, as above",
        others: "nothing of what failed; the log and `/metrics` name the channel; what is damaged is not written to; all others go on",
        lost: "what was damaged: it needs its backup",
        command: "cargo test --test corrupt what_a_store_of_keys",
    });
}
