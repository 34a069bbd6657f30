//! Backup, restore and verify, by the command line, while the server runs and while it does not.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use causeway_storage::{Head, Position, StoreOptions, backend};
use common::{Client, Finished, SITE, Server, cell, keys, run, version};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tempfile::TempDir;

on_durable_stores!(
    a_backup_under_load_is_one_state_of_each_channel,
    clients_recover_from_a_restore_to_an_older_state,
    a_restore_overwrites_nothing_unasked,
    verify_names_the_channel_that_is_not_what_it_should_be,
    a_backup_goes_into_either_store,
    what_is_corrupt_hinders_no_other_channel,
);

/// A place for data directories and backups.
struct Place {
    dir: TempDir,
    store: &'static str,
}

impl Place {
    fn new(store: &'static str) -> Self {
        Place { dir: tempfile::tempdir().unwrap(), store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&self, data: &str) -> Server {
        Server::at(&self.path(data), self.store, &[])
    }

    /// Runs `causeway COMMAND --store … --data … ARGUMENTS`; arguments with a slash before them are names in this place.
    fn run(&self, command: &str, data: &str, arguments: &[&str]) -> Finished {
        self.run_with(self.store, command, data, arguments)
    }

    fn run_with(&self, store: &str, command: &str, data: &str, arguments: &[&str]) -> Finished {
        let data = self.path(data).to_str().unwrap().to_owned();
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| match argument.strip_prefix('/') {
                Some(name) => self.path(name).to_str().unwrap().to_owned(),
                None => (*argument).to_owned(),
            })
            .collect();
        let mut all = vec![command, "--store", store, "--data", &data];
        all.extend(arguments.iter().map(String::as_str));
        run(&all, &[])
    }

    /// The same; it must succeed. Gives the JSON lines, by channel.
    #[track_caller]
    fn succeed(&self, command: &str, data: &str, arguments: &[&str]) -> BTreeMap<String, Value> {
        let finished = self.run(command, data, &[arguments, &["--json"]].concat());
        assert_eq!(finished.code, Some(0), "{command} {arguments:?}: {finished:?}");
        let mut lines: Vec<Value> =
            finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.pop().unwrap()["line"], "end");
        lines.into_iter().map(|line| (line["channel"].as_str().unwrap().to_owned(), line)).collect()
    }

    fn manifest(&self, backup: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(backup).join("manifest.json")).unwrap()).unwrap()
    }
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
    let server = place.serve("data");
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
        let told = place.succeed("backup", "data", &["--to", "/backup"]);
        let verified = place.succeed("verify", "data", &[]);
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
    let manifest = place.manifest("backup");
    assert_eq!(manifest["channels"].as_array().unwrap().len(), 3);
    assert_eq!(
        place.run_with("sqlite", "verify", "backup", &[]).code,
        Some(0),
        "a backup is a data directory"
    );
    let restored = place.succeed("restore", "restored", &["--from", "/backup"]);
    let verified = place.succeed("verify", "restored", &[]);
    for entry in manifest["channels"].as_array().unwrap() {
        let name = entry["channel"].as_str().unwrap();
        for field in ["version", "digest", "cells"] {
            assert_eq!(restored[name][field], entry[field]);
            assert_eq!(verified[name][field], entry[field]);
        }
    }
    let server = place.serve("restored");
    for entry in manifest["channels"].as_array().unwrap() {
        let mut client = server.connect(entry["channel"].as_str().unwrap());
        assert_eq!(client.connected["version"], entry["version"]);
        assert_eq!(client.pull_rows(0).len() as u64, entry["cells"].as_u64().unwrap());
    }
}

fn clients_recover_from_a_restore_to_an_older_state(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve("data");
    let mut client = server.connect("list");
    let site_id = client.connected["siteId"].clone();
    client.update(1, &[cell("old", "c", 1, 1)]);
    place.succeed("backup", "data", &["--to", "/backup"]);
    let ahead = version(&client.update(2, &[cell("lost", "c", 2, 1)]));
    let kept = client.pull_rows(0);
    server.stop();
    place.succeed("restore", "restored", &["--from", "/backup"]);
    let server = place.serve("restored");
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
    place.succeed("restore", "kept", &["--from", "/backup", "--keep-site-ids"]);
    assert_eq!(place.serve("kept").connect("list").connected["siteId"], site_id);
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
    let server = place.serve("data");
    for name in ["a", "b"] {
        server.connect(name).update(1, &[cell("k", "c", "backed up", 1)]);
    }
    place.succeed("backup", "data", &["--to", "/backup"]);
    server.connect("a").update(2, &[cell("k", "c", "since", 2)]);
    let refused = place.run("restore", "data", &["--from", "/backup"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("in use by another process"), "{refused:?}");
    let refused = place.run("backup", "data", &["--to", "/backup"]);
    assert!(refused.code == Some(1) && refused.stdout.contains("is not empty"), "{refused:?}");
    server.stop();

    let refused = place.run("restore", "data", &["--from", "/backup"]);
    assert!(refused.code == Some(1) && refused.stdout.contains("\"a\" is there already"), "{refused:?}");
    assert_eq!(place.succeed("verify", "data", &["a"])["a"]["version"], 2, "it is left as it is");
    let refused = place.run("restore", "data", &["--from", "/backup", "--channel", "c"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("no channel \"c\""), "{refused:?}");
    place.succeed("restore", "data", &["--from", "/backup", "--channel", "a", "--replace"]);
    let versions = place.succeed("verify", "data", &[]);
    assert_eq!((&versions["a"]["version"], &versions["b"]["version"]), (&1.into(), &1.into()));

    // A restore that did not come to its end is not served.
    fs::write(place.path("data").join("causeway.restoring"), "").unwrap();
    for command in ["serve", "verify"] {
        let refused = place.run(command, "data", &[]);
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains("did not come to its end"), "{refused:?}");
    }
    place.succeed("restore", "data", &["--from", "/backup", "--replace"]);
    place.serve("data").stop();

    // A backup that did not come to its end, or was damaged since, is none.
    let manifest = fs::read_to_string(place.path("backup").join("manifest.json")).unwrap();
    for damaged in ["", &manifest.replace("\"format\": 1", "\"format\": 2"), &manifest[..manifest.len() / 2]]
    {
        fs::write(place.path("backup").join("manifest.json"), damaged).unwrap();
        let refused = place.run("restore", "elsewhere", &["--from", "/backup"]);
        assert!(refused.code == Some(1) && refused.stderr.contains("no whole backup"), "{refused:?}");
    }
    fs::write(
        place.path("backup").join("manifest.json"),
        manifest.replace("\"version\": 1", "\"version\": 7"),
    )
    .unwrap();
    let refused = place.run("restore", "data", &["--from", "/backup", "--replace"]);
    assert!(refused.code == Some(1) && refused.stdout.contains("the manifest 7"), "{refused:?}");
    assert_eq!(place.succeed("verify", "data", &[]).len(), 2, "and what is there is not removed for it");
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
    let server = place.serve("data");
    for name in ["good", "bad"] {
        server.connect(name).update(1, &[cell("k", "c", "v", 1)]);
    }
    server.stop();
    place.succeed("verify", "data", &[]);
    tamper(&place.path("data"), store, "bad");
    let running = place.serve("data");
    for _ in ["while it runs", "and while it does not"] {
        let found = place.run("verify", "data", &[]);
        assert_eq!(found.code, Some(1), "{found:?}");
        let problems: Vec<_> = found.stdout.lines().filter(|line| line.starts_with("PROBLEM")).collect();
        assert!(
            problems.len() == 1 && problems[0].contains("bad") && problems[0].contains("digest"),
            "{found:?}"
        );
        assert_eq!(place.run("verify", "data", &["good"]).code, Some(0));
        assert_eq!(place.run("verify", "data", &["nobody"]).code, Some(1));
        running.signal("KILL");
        while std::os::unix::net::UnixStream::connect(place.path("data").join("causeway.sock")).is_ok() {}
    }
    let copied = place.run("backup", "data", &["--to", "/backup"]);
    assert_eq!(copied.code, Some(1), "{copied:?}");
    let manifest = place.manifest("backup");
    assert_eq!(manifest["channels"][0]["channel"], "good");
    assert_eq!(manifest["failed"][0]["channel"], "bad");
    // The channel comes back from an older backup, and nothing else is touched.
    assert_eq!(place.run("verify", "data", &["bad", "good"]).code, Some(1));
}

fn a_backup_goes_into_either_store(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve("data");
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
    place.succeed("backup", "data", &["--to", "/backup"]);
    let before = place.succeed("verify", "data", &[]);
    server.stop();
    let other = if store == "sled" { "sqlite" } else { "sled" };
    assert_eq!(place.run_with(other, "restore", "other", &["--from", "/backup"]).code, Some(0));
    let server = Server::at(&place.path("other"), other, &[]);
    assert_eq!(server.connect("list").pull_rows(0), rows);
    assert_eq!(place.succeed("verify", "other", &[]), before);
}

fn what_is_corrupt_hinders_no_other_channel(store: &'static str) {
    if store == "sled" {
        return; // One file for all: see storage/tests/sled.rs for a channel's keys.
    }
    let place = Place::new(store);
    let long = "long ".repeat(50);
    let server = place.serve("data");
    for name in ["a", "b", "c", &long] {
        server.connect(name).update(1, &[cell("k", "c", "v", 1)]);
    }
    place.succeed("backup", "data", &["--to", "/whole"]);
    server.stop();
    let files: Vec<_> =
        fs::read_dir(place.path("data")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let long_file = files.iter().find(|path| path.to_str().unwrap().contains('~')).unwrap();
    for path in [&place.path("data").join("b.db"), long_file] {
        fs::write(path, [0x5a; 8192]).unwrap();
    }
    let _server = place.serve("data");
    for (command, arguments) in [("verify", &[][..]), ("backup", &["--to", "/backup"])] {
        let found = place.run(command, "data", arguments);
        assert_eq!(found.code, Some(1));
        assert!(found.stdout.contains("2 ok, 2 problems"), "{command}: {found:?}");
        assert!(found.stdout.contains("PROBLEM  b "), "{command}: {found:?}");
    }
    drop(_server);
    place.succeed(
        "restore",
        "data",
        &["--from", "/whole", "--channel", "b", "--channel", &long, "--replace"],
    );
    assert_eq!(place.succeed("verify", "data", &[]).len(), 4);
}

#[test]
fn the_control_socket_is_its_owners_and_outlives_no_server() {
    let place = Place::new("sqlite");
    // Longer than a socket's address may be.
    let data = format!("{}/data", "d".repeat(120));
    let server = place.serve(&data);
    let socket = place.path(&data).join("causeway.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    server.connect("a").update(1, &[cell("k", "c", "v", 1)]);
    place.succeed("verify", &data, &["a"]);
    server.kill();
    assert!(socket.exists(), "a server that is killed leaves it");
    place.succeed("verify", &data, &["a"]);
    let server = place.serve(&data);
    place.succeed("verify", &data, &["a"]);
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
    let refused = place.run("verify", "nowhere", &[]);
    assert!(refused.code == Some(1) && refused.stderr.contains("there is none"), "{refused:?}");
    assert!(!place.path("nowhere").exists());
    let refused = place.run_with("memory", "verify", "nowhere", &[]);
    assert!(refused.code == Some(1) && refused.stderr.contains("memory"), "{refused:?}");
}
