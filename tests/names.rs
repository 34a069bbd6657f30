//! Channel names: each is a database of its own, and none is a path.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{Server, cell, keys};
use std::collections::BTreeSet;
use std::path::Path;

on_every_store!(every_name_is_a_channel_of_its_own);
on_durable_stores!(every_name_finds_its_own_data_again);

/// Names that some file system, shell or library takes for another thing, or for another name.
fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "default",
        "a",
        "A",
        "foo",
        "Foo",
        "FOO",
        "fOO",
        "foo.db",
        "foo.db-wal",
        "foo.db-shm",
        "foo-wal",
        "foo.",
        "foo ",
        " foo",
        ".foo",
        "foo~",
        "_foo",
        "%66oo",
        "foo%",
        ".",
        "..",
        "...",
        "../x",
        "..\\x",
        "../../x",
        "a/b",
        "a\\b",
        "a//b",
        "/a",
        "/etc/passwd",
        "C:",
        "C:\\x",
        "x:stream",
        "NUL",
        "nul",
        "CON",
        "con.db",
        "COM1",
        "LPT1",
        "-",
        "--help",
        "~",
        "~root",
        "$HOME",
        "*",
        "?",
        "[a]",
        "'",
        "\"",
        "`id`",
        ";",
        "|",
        "a b",
        "a+b",
        "a%2Fb",
        "%2e%2e",
        "%00",
        "%",
        "&",
        "=",
        "#",
        ":memory:",
        "file:x?mode=memory",
        "sqlite_master",
        "ä",
        "a\u{308}",
        "ß",
        "SS",
        "İ",
        "i̇",
        "中文",
        "😀",
        "\u{202e}evil",
        "\u{200b}",
        "\u{feff}",
        "\u{ffff}",
        "null",
        "0",
        "-1",
    ]
    .map(str::to_owned)
    .to_vec();
    // As long as may be, and told apart by their last byte or their letters' case only.
    names.extend(["x".repeat(255), "X".repeat(255), "x".repeat(254) + "y", "x".repeat(254)]);
    names.extend([
        "/".repeat(255),
        ".".repeat(255),
        "%".repeat(255),
        "é".repeat(127),
        "😀".repeat(63) + "abc",
    ]);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    names
}

/// Everything below a directory that is not in its `data`.
fn strangers(outer: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(outer).unwrap().map(|entry| entry.unwrap().file_name());
    entries.map(|name| name.to_string_lossy().into_owned()).filter(|name| name != "data").collect()
}

/// Writes to each name's channel a row that only it has.
fn write(server: &Server, names: &[String]) {
    for (n, name) in names.iter().enumerate() {
        let mut client = server.connect(name);
        assert_eq!(client.connected["channel"], **name);
        assert_eq!(client.connected_version(), 0, "{name:?} is new");
        let ack = client.update(1, &[cell(&format!("k{n}"), "c", "v", 1)]);
        assert_eq!((&ack["version"], &ack["channel"]), (&1.into(), &name.as_str().into()));
    }
}

fn assert_held(server: &Server, names: &[String]) {
    for (n, name) in names.iter().enumerate() {
        assert_eq!(keys(&server.connect(name).pull_rows(0)), [format!("k{n}")], "in {name:?}");
    }
}

fn every_name_is_a_channel_of_its_own(store: &str) {
    let server = Server::start(store);
    let names = names();
    write(&server, &names);
    assert_held(&server, &names);
}

fn every_name_finds_its_own_data_again(store: &str) {
    let outer = tempfile::tempdir().unwrap();
    let data = outer.path().join("data");
    let names = names();
    // Few are open at a time, so that most were closed and opened again.
    let settings = [("max-open-channels", "5")];
    let server = Server::at(&data, store, &settings);
    write(&server, &names);
    assert_held(&server, &names);
    let sites: Vec<_> = names.iter().map(|name| server.connect(name).connected["siteId"].clone()).collect();
    server.stop();
    assert_eq!(strangers(outer.path()), Vec::<String>::new(), "files beside the data directory");
    if store == "sqlite" {
        let files = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap());
        let databases = files.filter(|file| file.file_name().to_string_lossy().ends_with(".db")).count();
        assert_eq!(databases, names.len(), "a database for each name, directly in the data directory");
    }

    let server = Server::at(&data, store, &settings);
    for ((n, name), site) in names.iter().enumerate().zip(&sites) {
        let mut client = server.connect(name);
        assert_eq!(client.connected_version(), 1, "{name:?}");
        assert_eq!(client.connected["siteId"], *site, "{name:?}");
        assert_eq!(keys(&client.pull_rows(0)), [format!("k{n}")], "in {name:?}");
    }
}
