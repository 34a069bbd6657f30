//! Backup, restore and verify, by the command line, while the server runs and while it does not.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use causeway_storage::{Head, Position, StoreOptions, backend};
use common::{Client, Place, SITE, Server, cell, keys, version};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

on_durable_stores!(
    a_backup_under_load_is_one_state_of_each_channel,
    clients_recover_from_a_restore_to_an_older_state,
    a_restore_overwrites_nothing_unasked,
    verify_names_the_channel_that_is_not_what_it_should_be,
    a_backup_goes_into_either_store,
    what_is_corrupt_hinders_no_other_channel,
);

/// Runs a command that must succeed, and gives its JSON lines by channel.
#[track_caller]
fn succeed(place: &Place, arguments: &[&str]) -> BTreeMap<String, Value> {
    let lines = place.json(arguments).into_iter();
    lines.map(|line| (line["channel"].as_str().unwrap().to_owned(), line)).collect()
}

fn manifest(place: &Place, backup: &str) -> Value {
    serde_json::from_slice(&fs::read(place.path(backup).join("manifest.json")).unwrap()).unwrap()
}

/// Writes into channel `name` until `stop`, one row an update and its running number in it.
fn write_until(mut client: Client, stop: &AtomicBool) -> u64 {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        // A hot cell beside the rows, so that cells move while they are copied.
        client.update(n, &[cell(&format!("row {n}"), "c", n, 1), cell("hot", "c", n, n)]);
    }
    n
}

fn a_backup_under_load_is_one_state_of_each_channel(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = ["a", "b/ü", &"long ".repeat(50)]
            .map(|name| (name.to_owned(), server.connect(name)))
            .into_iter()
            .map(|(name, client)| (name, scope.spawn(|| write_until(client, &stop))))
            .collect();
        let mut acked_before = BTreeMap::new();
        for (name, _) in &writers {
            // Enough that a copy takes a while.
            let mut client = server.connect(name);
            while client.connected_version() < 20 {
                client = server.connect(name);
            }
            acked_before.insert(name.clone(), client.connected_version());
        }
        let told = succeed(&place, &["backup", "--to", "/backup"]);
        let verified = succeed(&place, &["verify"]);
        stop.store(true, Ordering::Relaxed);
        for (name, writer) in writers {
            let written = writer.join().unwrap();
            let copied = told[&name]["version"].as_u64().unwrap();
            assert!((acked_before[&name]..=written).contains(&copied), "{name:?}: {copied} of {written}");
            // Version n added row n and moved the hot cell.
            assert_eq!(told[&name]["cells"], copied + 1, "{name:?} is one whole version");
            assert!(verified[&name]["version"].as_u64().unwrap() >= copied);
        }
    });
    server.stop();
    let manifest = manifest(&place, "backup");
    assert_eq!(manifest["channels"].as_array().unwrap().len(), 3);
    assert_eq!(
        place.at("backup").with_store("sqlite").run(&["verify"]).code,
        Some(0),
        "a backup is a data directory"
    );
    let restored = succeed(&place.at("restored"), &["restore", "--from", "/backup"]);
    let verified = succeed(&place.at("restored"), &["verify"]);
    for entry in manifest["channels"].as_array().unwrap() {
        let name = entry["channel"].as_str().unwrap();
        for field in ["version", "digest", "cells"] {
            assert_eq!(restored[name][field], entry[field]);
            assert_eq!(verified[name][field], entry[field]);
        }
    }
    let server = place.at("restored").serve();
    for entry in manifest["channels"].as_array().unwrap() {
        let mut client = server.connect(entry["channel"].as_str().unwrap());
        assert_eq!(client.connected["version"], entry["version"]);
        assert_eq!(client.pull_rows(0).len() as u64, entry["cells"].as_u64().unwrap());
    }
}

fn clients_recover_from_a_restore_to_an_older_state(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let mut client = server.connect("list");
    let site_id = client.connected["siteId"].clone();
    client.update(1, &[cell("old", "c", 1, 1)]);
    succeed(&place, &["backup", "--to", "/backup"]);
    let ahead = version(&client.update(2, &[cell("lost", "c", 2, 1)]));
    let kept = client.pull_rows(0);
    server.stop();
    succeed(&place.at("restored"), &["restore", "--from", "/backup"]);
    let server = place.at("restored").serve();
    let mut client = server.connect("list");
    assert_eq!(client.connected_version(), 1);
    assert_ne!(client.connected["siteId"], site_id, "its versions count anew, and a client can tell");
    // A client that knows a newer version is told everything, and gives back what the server has lost.
    let rows = client.pull_rows(ahead);
    assert_eq!(keys(&rows), ["old"]);
    client.update(2, &kept);
    client.update(3, &[cell("new", "c", 3, 1)]);
    let mut fresh = server.connect("list");
    assert_eq!(keys(&fresh.pull_rows(0)), ["old", "lost", "new"]);
    server.stop();
    succeed(&place.at("kept"), &["restore", "--from", "/backup", "--keep-site-ids"]);
    assert_eq!(place.at("kept").serve().connect("list").connected["siteId"], site_id);
    common::guarantees::row(common::guarantees::Row {
        number: 90,
        fault: "The server is restored from an older backup",
        sender: "what was acked since the backup is gone from the server; a client that has it sends it again, and it is merged",
        others: "a cursor above the server's version is answered from 0; every channel has a new site id, so that a client can tell",
        lost: "what no client has any more",
        command: "cargo test --test backup clients_recover",
    });
}

fn a_restore_overwrites_nothing_unasked(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    for name in ["a", "b"] {
        server.connect(name).update(1, &[cell("k", "c", "backed up", 1)]);
    }
    succeed(&place, &["backup", "--to", "/backup"]);
    server.connect("a").update(2, &[cell("k", "c", "since", 2)]);
    let refused = place.run(&["restore", "--from", "/backup"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("in use by another process"), "{refused:?}");
    let refused = place.run(&["backup", "--to", "/backup"]);
    assert!(refused.code == Some(1) && refused.stdout.contains("is not empty"), "{refused:?}");
    server.stop();

    let refused = place.run(&["restore", "--from", "/backup"]);
    assert!(refused.code == Some(1) && refused.stdout.contains("\"a\" is there already"), "{refused:?}");
    assert_eq!(succeed(&place, &["verify", "a"])["a"]["version"], 2, "it is left as it is");
    let refused = place.run(&["restore", "--from", "/backup", "--channel", "c"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("no channel \"c\""), "{refused:?}");
    succeed(&place, &["restore", "--from", "/backup", "--channel", "a", "--replace"]);
    let versions = succeed(&place, &["verify"]);
    assert_eq!((&versions["a"]["version"], &versions["b"]["version"]), (&1.into(), &1.into()));

    // A restore that did not come to its end is not served.
    fs::write(place.path("data").join("causeway.restoring"), "").unwrap();
    for command in ["serve", "verify"] {
        let refused = place.run(&[command]);
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains("did not come to its end"), "{refused:?}");
    }
    succeed(&place, &["restore", "--from", "/backup", "--replace"]);
    place.serve().stop();

    // A backup that did not come to its end, or was damaged since, is none.
    let manifest = fs::read_to_string(place.path("backup").join("manifest.json")).unwrap();
    for damaged in ["", &manifest.replace("\"format\": 1", "\"format\": 2"), &manifest[..manifest.len() / 2]]
    {
        fs::write(place.path("backup").join("manifest.json"), damaged).unwrap();
        let refused = place.at("elsewhere").run(&["restore", "--from", "/backup"]);
        assert!(refused.code == Some(1) && refused.stderr.contains("no whole backup"), "{refused:?}");
    }
    fs::write(
        place.path("backup").join("manifest.json"),
        manifest.replace("\"version\": 1", "\"version\": 7"),
    )
    .unwrap();
    let refused = place.run(&["restore", "--from", "/backup", "--replace"]);
    assert!(refused.code == Some(1) && refused.stdout.contains("the manifest 7"), "{refused:?}");
    assert_eq!(succeed(&place, &["verify"]).len(), 2, "and what is there is not removed for it");
}

/// Writes one more cell into a channel of a store that nobody has open, by the back door: its digest stays as it was.
fn tamper(data: &Path, store: &str, channel: &str) {
    let store = (backend(store).unwrap().open)(&StoreOptions::new(data)).unwrap();
    let mut found = None;
    store
        .reader(channel)
        .unwrap()
        .read(Position::default(), &mut |cell| {
            found = Some(causeway_storage::OwnedCell::from(cell));
            ControlFlow::Break(())
        })
        .unwrap();
    let mut cell = found.unwrap();
    let old = cell.at;
    cell.col_version += 1;
    let mut channel = store.open(channel).unwrap();
    let head = channel.head();
    cell.at.version = head.version + 1;
    channel.begin().unwrap();
    channel.put(&cell.as_cell(), Some(old)).unwrap();
    channel.commit(Head { version: head.version + 1, ..head }).unwrap();
    drop(channel);
    store.close().unwrap();
}

fn verify_names_the_channel_that_is_not_what_it_should_be(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    for name in ["good", "bad"] {
        server.connect(name).update(1, &[cell("k", "c", "v", 1)]);
    }
    server.stop();
    succeed(&place, &["verify"]);
    tamper(&place.path("data"), store, "bad");
    let running = place.serve();
    for _ in ["while it runs", "and while it does not"] {
        let found = place.run(&["verify"]);
        assert_eq!(found.code, Some(1), "{found:?}");
        let problems: Vec<_> = found.stdout.lines().filter(|line| line.starts_with("PROBLEM")).collect();
        assert!(
            problems.len() == 1 && problems[0].contains("bad") && problems[0].contains("digest"),
            "{found:?}"
        );
        assert_eq!(place.run(&["verify", "good"]).code, Some(0));
        assert_eq!(place.run(&["verify", "nobody"]).code, Some(1));
        running.signal("KILL");
        while std::os::unix::net::UnixStream::connect(place.path("data").join("causeway.sock")).is_ok() {}
    }
    let copied = place.run(&["backup", "--to", "/backup"]);
    assert_eq!(copied.code, Some(1), "{copied:?}");
    let manifest = manifest(&place, "backup");
    assert_eq!(manifest["channels"][0]["channel"], "good");
    assert_eq!(manifest["failed"][0]["channel"], "bad");
    // The channel comes back from an older backup, and nothing else is touched.
    assert_eq!(place.run(&["verify", "bad", "good"]).code, Some(1));
}

fn a_backup_goes_into_either_store(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let mut client = server.connect("list");
    let values = [
        serde_json::json!(1),
        1.5.into(),
        "ü\u{0}".into(),
        Value::Null,
        serde_json::json!({"$blob": "00FF"}),
    ];
    for (n, value) in values.iter().enumerate() {
        client.update(n as u64 + 1, &[cell(&format!("k{n}"), "c", value.clone(), 1)]);
    }
    client.update(9, &[common::sentinel("k0", 2)]);
    let rows = client.pull_rows(0);
    succeed(&place, &["backup", "--to", "/backup"]);
    let before = succeed(&place, &["verify"]);
    server.stop();
    for other in common::durable_stores() {
        let restored = place.at(other).with_store(other);
        succeed(&restored, &["restore", "--from", "/backup"]);
        let server = restored.serve();
        assert_eq!(server.connect("list").pull_rows(0), rows);
        assert_eq!(succeed(&restored, &["verify"]), before);
    }
}

fn what_is_corrupt_hinders_no_other_channel(store: &'static str) {
    if causeway_storage::backend(store).unwrap().log.is_some() {
        return; // One database for all: see storage/tests/keys.rs for a channel's keys.
    }
    let place = Place::new(store);
    let long = "long ".repeat(50);
    let server = place.serve();
    for name in ["a", "b", "c", &long] {
        server.connect(name).update(1, &[cell("k", "c", "v", 1)]);
    }
    succeed(&place, &["backup", "--to", "/whole"]);
    server.stop();
    let files: Vec<_> =
        fs::read_dir(place.path("data")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let long_file = files.iter().find(|path| path.to_str().unwrap().contains('~')).unwrap();
    for path in [&place.path("data").join("b.db"), long_file] {
        fs::write(path, [0x5a; 8192]).unwrap();
    }
    let _server = place.serve();
    for arguments in [&["verify"][..], &["backup", "--to", "/backup"]] {
        let found = place.run(arguments);
        assert_eq!(found.code, Some(1));
        assert!(found.stdout.contains("2 ok, 2 problems"), "{arguments:?}: {found:?}");
        assert!(found.stdout.contains("PROBLEM  b "), "{arguments:?}: {found:?}");
    }
    drop(_server);
    succeed(&place, &["restore", "--from", "/whole", "--channel", "b", "--channel", &long, "--replace"]);
    assert_eq!(succeed(&place, &["verify"]).len(), 4);
}

#[test]
fn the_control_socket_is_its_owners_and_outlives_no_server() {
    // Longer than a socket's address may be.
    let place = Place::new("sqlite").at(&format!("{}/data", "d".repeat(120)));
    let server = place.serve();
    let socket = place.data().join("causeway.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    server.connect("a").update(1, &[cell("k", "c", "v", 1)]);
    succeed(&place, &["verify", "a"]);
    server.kill();
    assert!(socket.exists(), "a server that is killed leaves it");
    succeed(&place, &["verify", "a"]);
    let server = place.serve();
    succeed(&place, &["verify", "a"]);
    server.stop();
    assert!(!socket.exists());
}

#[test]
fn what_is_no_request_is_answered() {
    use std::io::{Read, Write};
    let server = Server::start("sqlite");
    for request in ["\n", "{}\n", "{\"command\":\"verify\"}\n", "x", "{\"command\":\"drop\"}\n"] {
        let mut stream = std::os::unix::net::UnixStream::connect(server.data.join("causeway.sock")).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("not a request"), "{request:?}: {answer}");
    }
    assert_eq!(
        server.connect("a").update(1, &[cell("k", "c", "v", 1)])["siteId"].as_str().unwrap().len(),
        SITE.len()
    );
}

#[test]
fn nothing_is_verified_where_nothing_is() {
    let place = Place::new("sqlite");
    let refused = place.at("nowhere").run(&["verify"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("there is none"), "{refused:?}");
    assert!(!place.path("nowhere").exists());
    let refused = place.at("nowhere").with_store("memory").run(&["verify"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("memory"), "{refused:?}");
}
