//! Looking inside a store and removing channels from it, by the command line and over HTTP, while the server runs and while it
//! does not.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;

use common::{
    Client, Event, Finished, Response, SITE, Server, TEXT, cell, encode, exchange, keys, run, sentinel,
    update, version,
};
use serde_json::{Value, json};
use tempfile::TempDir;

on_durable_stores!(
    every_channel_is_listed,
    a_channel_is_inspected,
    rows_are_put_together,
    what_is_not_there_is_said_to_be_missing,
    a_channel_is_deleted_where_no_server_runs,
    clients_of_a_deleted_channel_find_a_new_one,
    nothing_of_a_deleted_channel_comes_back,
    operators_ask_over_http,
);

const TOKEN: &str = "a token of the operators";

/// A data directory, a store, and perhaps a server on it.
struct Place {
    dir: TempDir,
    store: &'static str,
}

impl Place {
    fn new(store: &'static str) -> Self {
        Place { dir: tempfile::tempdir().unwrap(), store }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn serve(&self) -> Server {
        Server::at(&self.data(), self.store, &[])
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let data = self.data();
        run(&[arguments, &["--store", self.store, "--data", data.to_str().unwrap()]].concat(), &[])
    }

    /// Runs a command that must succeed, and gives what it prints for people.
    #[track_caller]
    fn people(&self, arguments: &[&str]) -> Vec<String> {
        let finished = self.run(arguments);
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        finished.stdout.lines().map(str::to_owned).collect()
    }

    /// The same, its lines of JSON but for the last.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        lines(&self.people(&[arguments, &["--json"]].concat()).join("\n"))
    }
}

/// Lines of JSON, up to the one that says that they are all.
#[track_caller]
fn lines(text: &str) -> Vec<Value> {
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.pop(), Some(json!({"line": "end"})), "{text}");
    lines
}

/// The lines of one kind.
fn of_kind<'l>(lines: &'l [Value], kind: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["line"] == kind).collect()
}

/// A change to one cell of any table.
fn change(table: &str, pk: &str, cid: &str, val: impl Into<Value>) -> Value {
    json!([table, pk, cid, val.into(), 1, 1, SITE, 1, 0])
}

/// Runs a check while the server runs, and again when it does not.
fn twice(place: &Place, server: Server, check: impl Fn(&Place, bool)) {
    check(place, true);
    server.stop();
    check(place, false);
}

fn every_channel_is_listed(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let names = ["b/ü", "a", "\u{202e}c d"];
    let mut clients: Vec<Client> = names.map(|name| server.connect(name)).into();
    clients.push(server.connect("a"));
    // A channel is made by the first update that gets as far as being refused for its clocks.
    for client in [0, 2] {
        clients[client].send_json(&update(1, &[cell("k", "c", 1, 1 << 40)]));
        assert_eq!(clients[client].recv_type("error")["code"], "invalid_change");
    }
    clients[1].update(1, &[cell("k1", "c", 1, 1), cell("k2", "c", 1, 1)]);
    clients[1].update(2, &[cell("k1", "c", 2, 2)]);
    let sorted = |mut names: Vec<&str>| {
        names.sort_unstable();
        names.into_iter().map(Value::from).collect::<Vec<_>>()
    };
    twice(&place, server, |place, runs| {
        let found = place.json(&["channels"]);
        let told: Vec<Value> = found.iter().map(|line| line["channel"].clone()).collect();
        assert_eq!(told, sorted(names.to_vec()));
        let a = &found[0];
        assert_eq!((&a["version"], &a["cells"]), (&2.into(), &2.into()));
        assert_eq!(a["connections"], if runs { json!(2) } else { Value::Null });
        assert!(a["bytes"].as_u64().unwrap() > 0 && a["seen_s"].as_u64().unwrap() > 1_700_000_000, "{a}");
        assert_eq!(found[1]["seen_s"], Value::Null, "nobody wrote there");
        let told = place.people(&["channels"]);
        assert!(told.len() == 4 && told[0].starts_with("CHANNEL ") && told[1].starts_with("a  "), "{told:?}");
    });
}

fn a_channel_is_inspected(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let mut client = server.connect("list");
    client
        .update(1, &[cell("k1", "a", 1, 1), cell("k1", "b", 1, 1), cell("k2", "a", 1, 1), sentinel("k3", 3)]);
    client.update(7, &[sentinel("k2", 2), change("notes", "n", "text", "x")]);
    let site_id = client.connected["siteId"].clone();
    twice(&place, server, |place, runs| {
        let found = place.json(&["inspect", "list"]);
        let inspected = &found[0];
        assert_eq!(inspected["line"], "inspected");
        for (field, expected) in [
            ("channel", json!("list")),
            ("version", json!(2)),
            ("site_id", site_id.clone()),
            ("tables", json!(2)),
            ("rows", json!(3)),
            ("deleted", json!(1)),
            ("cells", json!(5)),
            ("connections", if runs { json!(1) } else { Value::Null }),
        ] {
            assert_eq!(inspected[field], expected, "{field}");
        }
        assert_eq!(inspected["digest"], place.json(&["verify", "list"])[0]["digest"]);
        let tables = of_kind(&found, "table");
        let expected = [
            json!({"line": "table", "table": "notes", "rows": 1, "deleted": 0, "cells": 1}),
            json!({"line": "table", "table": "todos", "rows": 2, "deleted": 1, "cells": 4}),
        ];
        assert_eq!(tables, expected.iter().collect::<Vec<_>>());
        let peers = of_kind(&found, "peer");
        assert_eq!(peers.len(), 1);
        let peer = (&peers[0]["site_id"], &peers[0]["event"], &peers[0]["version"], &peers[0]["lag"]);
        assert_eq!(peer, (&SITE.into(), &"received".into(), &7.into(), &Value::Null));
        assert!(peers[0]["seen_s"].as_u64().unwrap() > 1_700_000_000);
        let told = place.people(&["inspect", "list"]).join("\n");
        for part in ["rows         2 live", "rows         3 live, 1 deleted", "notes ", SITE, "received"] {
            assert_eq!(told.contains(part), part != "rows         2 live", "{part:?} in {told}");
        }
    });
}

fn rows_are_put_together(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let mut client = server.connect("list");
    // Not in the order of their keys, not in one piece, one of them deleted, one without columns, one revived.
    client.update(
        1,
        &[
            cell("k3", "done", 1, 1),
            cell("k10", "text", "ten", 1),
            cell("k2", "text", "gone", 1),
            sentinel("k4", 1),
        ],
    );
    client.update(2, &[sentinel("k2", 2), cell("k3", "text", "three\u{1b}[2J", 1), sentinel("k5", 3)]);
    client.update(
        3,
        &[
            cell("k3", "real", 1.0, 1),
            cell("k3", "null", Value::Null, 1),
            cell("k10", "blob", json!({"$blob": "00ff"}), 1),
        ],
    );
    client.update(4, &[change("other", "k1", "text", "elsewhere")]);
    twice(&place, server, |place, _| {
        let found = place.json(&["rows", "list", "todos"]);
        let columns =
            json!({"line": "columns", "table": "todos", "columns": ["blob", "done", "null", "real", "text"]});
        assert_eq!(found[0], columns);
        let row = |pk: &str, columns: Value| json!({"line": "row", "pk": pk, "key": pk, "columns": columns});
        assert_eq!(
            found[1..],
            [
                row("k10", json!({"blob": {"$blob": "00FF"}, "text": "ten"})),
                row("k3", json!({"done": 1, "null": null, "real": 1.0, "text": "three\u{1b}[2J"})),
                row("k4", json!({})),
                row("k5", json!({})),
            ]
        );
        // Page by page, and said that there is more.
        let mut after = String::new();
        let mut told = Vec::new();
        loop {
            let found = place.json(&["rows", "list", "todos", "--limit", "3", "--after", &after]);
            told.extend(of_kind(&found, "row").iter().map(|row| row["pk"].as_str().unwrap().to_owned()));
            let Some(more) = of_kind(&found, "more").pop() else { break };
            after = more["after"].as_str().unwrap().to_owned();
            assert_eq!(after, told[told.len() - 1]);
        }
        assert_eq!(told, ["k10", "k3", "k4", "k5"]);
        let told = place.people(&["rows", "list", "todos", "--limit", "2"]);
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(
            told[0].starts_with("KEY ") && told[1].starts_with("k10  ") && told[2].starts_with("k3 "),
            "{told:?}"
        );
        assert!(told[1].contains("x'00FF'") && told[2].contains("NULL"), "{told:?}");
        assert!(told[2].contains(r"three\u{1b}[2J"), "nothing that a terminal obeys: {told:?}");
        assert!(told[3].contains("--after \"k3\""), "{told:?}");
    });
}

fn what_is_not_there_is_said_to_be_missing(store: &'static str) {
    let place = Place::new(store);
    let refused = place.run(&["channels"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("there is none"), "{refused:?}");
    let server = place.serve();
    server.connect("list").update(1, &[cell("k", "c", 1, 1)]);
    twice(&place, server, |place, _| {
        let long = "x".repeat(256);
        for arguments in [
            &["inspect", "nobody"][..],
            &["inspect", ""],
            &["inspect", &long],
            &["inspect", "a\nb"],
            &["inspect", "../data/list"],
            &["rows", "nobody", "todos"],
            &["rows", "list", "nothing"],
            &["delete", "--yes", "nobody"],
            &["delete", "--yes", "../data/list"],
        ] {
            let refused = place.run(&[arguments, &["--json"]].concat());
            assert_eq!(refused.code, Some(1), "{arguments:?}: {refused:?}");
            let problems = lines(&refused.stdout);
            let problem = (problems.len(), &problems[0]["line"], &problems[0]["code"]);
            assert_eq!(problem, (1, &"problem".into(), &"not_found".into()), "{arguments:?}");
            let told = place.run(arguments).stdout;
            assert!(told.starts_with("PROBLEM ") && told.lines().count() == 2, "{arguments:?}: {told}");
        }
        for limit in ["0", "100001", "x", "-1"] {
            assert_eq!(place.run(&["rows", "list", "todos", "--limit", limit]).code, Some(2), "{limit}");
        }
        assert_eq!(place.json(&["channels"]).len(), 1, "nothing was made by asking for it");
    });
}

fn a_channel_is_deleted_where_no_server_runs(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    for name in ["a", "b"] {
        server.connect(name).update(1, &[cell("k", "c", 1, 1)]);
    }
    server.stop();
    let refused = place.run(&["delete", "a"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("--yes"), "{refused:?}");
    assert_eq!(place.json(&["channels"]).len(), 2, "who is not sure removes nothing");
    assert_eq!(place.people(&["delete", "a", "--yes"]), ["removed  a"]);
    assert_eq!(place.json(&["channels"])[0]["channel"], "b");
    assert_eq!(place.json(&["verify"]).len(), 1);
    let server = place.serve();
    assert_eq!(server.connect("a").connected_version(), 0);
    assert_eq!(server.connect("b").connected_version(), 1);
}

fn clients_of_a_deleted_channel_find_a_new_one(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let (mut writer, mut follower, mut other) =
        (server.connect("list"), server.connect("list"), server.connect("other"));
    writer.update(1, &[cell("old", "c", 1, 1)]);
    follower.recv_type("update");
    // A handle that pages are read with is kept a while.
    assert_eq!(keys(&follower.pull_rows(0)), ["old"]);
    let site_id = writer.connected["siteId"].clone();
    assert_eq!(place.json(&["delete", "list", "--yes"]), [json!({"line": "removed", "channel": "list"})]);
    for client in [&mut writer, &mut follower] {
        client.expect_close(1013);
    }
    let mut writer = server.connect("list");
    assert_eq!(writer.connected_version(), 0);
    assert_ne!(writer.connected["siteId"], site_id, "a client can tell");
    assert_eq!(writer.pull_rows(0), Vec::<Value>::new());
    assert_eq!(version(&writer.update(2, &[cell("new", "c", 1, 1)])), 1);
    assert_eq!(keys(&server.connect("list").pull_rows(9)), ["new"]);
    assert_eq!(version(&other.update(1, &[cell("k", "c", 1, 1)])), 1, "nobody else notices");
    assert_eq!(place.json(&["verify"]).len(), 2);
    server.stop();
    let server = place.serve();
    assert_eq!(keys(&server.connect("list").pull_rows(0)), ["new"]);
}

/// Writes row after row, some always under way, and once it is closed as many again: the server may not have seen its end.
fn write_until_closed(mut client: Client, name: &str) {
    const UNDER_WAY: u64 = 20;
    let mut n = 0;
    let mut write = |client: &mut Client| {
        n += 1;
        let message = update(n, &[cell(&format!("{name} {n}"), "c", 1, 1)]);
        client.try_send(&common::frame(TEXT, message.to_string().as_bytes())).is_ok()
    };
    for _ in 0..UNDER_WAY {
        write(&mut client);
    }
    loop {
        match client.event(common::PATIENCE) {
            Event::Frame(frame) if frame.opcode == TEXT => drop(write(&mut client)),
            Event::Frame(_) => while write(&mut client) {},
            Event::Ended => return,
            Event::Nothing => panic!("it should be closed"),
        }
    }
}

/// What clients had under way when their channel was removed is not in the one that is made anew.
fn nothing_of_a_deleted_channel_comes_back(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    for round in 0..5 {
        let writers: Vec<Client> = (0..3).map(|_| server.connect("list")).collect();
        thread::scope(|scope| {
            for (n, writer) in writers.into_iter().enumerate() {
                scope.spawn(move || write_until_closed(writer, &format!("old {n}")));
            }
            while server.connect("list").connected_version() < 5 {}
            assert_eq!(place.people(&["delete", "list", "--yes"]), ["removed  list"]);
            let mut anew = server.connect("list");
            anew.update(1, &[cell("new", "c", 1, 1)]);
            assert_eq!(keys(&anew.pull_rows(0)), ["new"], "round {round}");
        });
        assert_eq!(keys(&server.connect("list").pull_rows(0)), ["new"], "round {round}");
    }
    assert_eq!(place.json(&["verify"]).len(), 1);
}

#[test]
fn a_corrupt_channel_can_be_deleted() {
    let place = Place::new("sqlite");
    let server = place.serve();
    for name in ["good", "bad"] {
        server.connect(name).update(1, &[cell("k", "c", 1, 1)]);
    }
    server.stop();
    for runs in [true, false] {
        fs::write(place.data().join("bad.db"), [0x5a; 8192]).unwrap();
        let server = runs.then(|| place.serve());
        if let Some(server) = &server {
            server.expect_unavailable("bad");
            assert_eq!(server.metric_lines("causeway_channel_unavailable{").len(), 1);
        }
        let found = place.run(&["channels", "--json"]);
        assert_eq!(found.code, Some(1));
        let found = lines(&found.stdout);
        assert_eq!((&found[0]["line"], &found[0]["channel"]), (&"problem".into(), &"bad".into()));
        assert_eq!(found[1]["channel"], "good", "it hinders no other");
        assert_eq!(place.run(&["inspect", "bad"]).code, Some(1));
        assert_eq!(place.people(&["delete", "bad", "--yes"]), ["removed  bad"]);
        assert_eq!(place.json(&["channels"]).len(), 1);
        if let Some(server) = server {
            assert_eq!(server.metric_lines("causeway_channel_unavailable{"), Vec::<String>::new());
            assert_eq!(server.connect("bad").connected_version(), 0);
            server.stop();
        }
    }
}

/// The operators' listener of a server, and its address.
struct Operators {
    server: Server,
    address: SocketAddr,
}

impl Operators {
    fn start(place: &Place) -> Self {
        let file = place.dir.path().join("token");
        fs::write(&file, format!("{}\n", TOKEN.replace(' ', "-"))).unwrap();
        let settings = [("admin-listen", "127.0.0.1:0"), ("admin-token-file", file.to_str().unwrap())];
        let server = Server::at(&place.data(), place.store, &settings);
        Operators { address: server.operators(), server }
    }

    fn ask_with(&self, method: &str, target: &str, headers: &str) -> Response {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        exchange(TcpStream::connect(self.address).unwrap(), request.as_bytes()).unwrap()
    }

    fn ask(&self, method: &str, target: &str) -> Response {
        self.ask_with(method, target, &format!("Authorization: Bearer {}\r\n", TOKEN.replace(' ', "-")))
    }

    /// The lines of an answer, which comes in chunks.
    #[track_caller]
    fn get(&self, target: &str) -> Vec<Value> {
        let answer = self.ask("GET", target);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        lines(&unchunked(&answer.text()))
    }
}

fn unchunked(text: &str) -> String {
    let (mut rest, mut whole) = (text, String::new());
    loop {
        let (length, after) = rest.split_once("\r\n").unwrap_or_else(|| panic!("no chunk in {rest:?}"));
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.push_str(&after[..length]);
        rest = &after[length + 2..];
    }
}

fn operators_ask_over_http(store: &'static str) {
    let place = Place::new(store);
    let operators = Operators::start(&place);
    let mut client = operators.server.connect("a/ü");
    client.update(1, &[change("to do", "k1", "text", "milk"), change("to do", "k2", "text", "eggs")]);
    operators.server.connect("b").update(1, &[cell("k", "c", 1, 1)]);
    let name = encode("a/ü");

    // The same lines as the commands print.
    let told = place.json(&["inspect", "a/ü"]);
    assert_eq!(operators.get(&format!("/admin/channels/{name}")), told);
    assert_eq!(operators.get("/admin/channels").len(), 2);
    assert_eq!(operators.get("/admin/verify").len(), 2);
    assert_eq!(operators.get("/admin/verify?channel=b")[0]["channel"], "b");
    let rows = operators.get(&format!("/admin/channels/{name}/rows/to%20do"));
    assert_eq!(rows, place.json(&["rows", "a/ü", "to do"]));
    let rows = operators.get(&format!("/admin/channels/{name}/rows/to%20do?limit=1&after=k0"));
    assert_eq!((&rows[1]["pk"], &rows[2]["after"]), (&"k1".into(), &"k1".into()));

    // Nothing without the token, not even what is there.
    let whole = TOKEN.replace(' ', "-");
    for headers in [
        String::new(),
        "Authorization: Bearer \r\n".into(),
        format!("Authorization: Bearer {}\r\n", &whole[1..]),
        format!("Authorization: Bearer {whole}x\r\n"),
        format!("Authorization: Bearer {}\r\n", whole.to_uppercase()),
        format!("Authorization: Basic {whole}\r\n"),
        format!("Authorization: {whole}\r\n"),
        format!("X-Token: {whole}\r\n"),
    ] {
        for (method, target) in [
            ("GET", "/admin/channels"),
            ("GET", "/x"),
            ("DELETE", "/admin/channels/b"),
            ("POST", "/admin/verify"),
        ] {
            let answer = operators.ask_with(method, target, &headers);
            assert_eq!(answer.status, 401, "{method} {target} with {headers:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    for (method, target, status) in [
        ("GET", "/admin/channels/nobody", 404),
        ("GET", "/admin/channels/..%2Fdata", 404),
        ("GET", "/admin/channels/%0A", 404),
        ("GET", "/admin/channels/b/rows/nothing", 404),
        ("GET", "/admin/channels/nobody/rows/todos", 404),
        ("DELETE", "/admin/channels/nobody", 404),
        ("GET", "/", 404),
        ("GET", "/admin", 404),
        ("GET", "/metrics", 404),
        ("GET", "/?channel=b", 404),
        ("DELETE", "/admin/channels", 405),
        ("POST", "/admin/channels/b", 405),
        ("DELETE", "/admin/channels/b/rows/todos", 405),
        ("PUT", "/admin/verify", 405),
        ("GET", "/admin/channels/b/rows/todos?limit=0", 400),
    ] {
        let answer = operators.ask(method, target);
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
        assert!(serde_json::from_slice::<Value>(&answer.body).unwrap()["message"].is_string());
    }
    // Nor is there anything of it where clients come.
    for (method, target) in [
        ("GET", "/admin/channels"),
        ("GET", "/admin/verify"),
        ("DELETE", "/admin/channels/b"),
        ("GET", "/admin"),
    ] {
        let authorization = format!("Authorization: Bearer {whole}");
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{authorization}\r\nConnection: close\r\n\r\n");
        let status = operators.server.http(&request).status;
        assert!(matches!(status, 404 | 405), "{method} {target} on the relay's port: {status}");
    }

    let answer = operators.ask("DELETE", &format!("/admin/channels/{name}"));
    assert_eq!(answer.status, 200);
    assert_eq!(lines(&unchunked(&answer.text())), [json!({"line": "removed", "channel": "a/ü"})]);
    client.expect_close(1013);
    assert_eq!(operators.get("/admin/channels").len(), 1);
    operators.server.stop();
    assert!(TcpStream::connect(operators.address).is_err());
}

#[test]
fn operators_look_into_memory_too() {
    let place = Place::new("memory");
    let operators = Operators::start(&place);
    let mut client = operators.server.connect("list");
    client.update(1, &[cell("k1", "c", 1, 1), cell("k2", "c", 1, 1), sentinel("k3", 2)]);
    let found = operators.get("/admin/channels/list");
    assert_eq!(
        (&found[0]["rows"], &found[0]["deleted"], &found[0]["cells"]),
        (&2.into(), &1.into(), &3.into())
    );
    assert_eq!(operators.get("/admin/channels/list/rows/todos").len(), 3);
    assert_eq!(operators.ask("DELETE", "/admin/channels/list").status, 200);
    client.expect_close(1013);
    assert_eq!(operators.server.connect("list").connected_version(), 0);
}

/// Two commands whose answers nobody reads: others are told to come back, clients notice nothing.
#[test]
fn there_are_only_so_many_commands_at_once() {
    let place = Place::new("sqlite");
    let operators = Operators::start(&place);
    let mut client = operators.server.connect("list");
    let text = "x".repeat(4_000);
    for n in 0..20 {
        let cells: Vec<Value> = (0..500).map(|i| cell(&format!("{n} {i}"), "c", &text[..], 1)).collect();
        client.update(n + 1, &cells);
    }
    let target = "/admin/channels/list/rows/todos?limit=100000";
    let stalled: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(operators.address).unwrap();
            let token = TOKEN.replace(' ', "-");
            write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n")
                .unwrap();
            // Its first byte says that it has begun.
            assert_eq!(stream.peek(&mut [0]).unwrap(), 1);
            stream
        })
        .collect();
    assert_eq!(operators.ask("GET", "/admin/channels").status, 503);
    let refused = place.run(&["channels", "--json"]);
    assert_eq!((refused.code, &lines(&refused.stdout)[0]["code"]), (Some(1), &"busy".into()));
    client.update(99, &[cell("k", "c", 1, 1)]);
    drop(stalled);
    while operators.ask("GET", "/admin/channels").status == 503 {}
}

#[test]
fn a_configuration_is_checked_without_anything_being_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let check = |arguments: &[&str], environment: &[(&str, &str)]| {
        let data = path("data");
        run(&[&["check-config", "--data", &data], arguments].concat(), environment)
    };
    // The port need not be free, nor the data directory be there.
    for store in ["sqlite", "sled", "memory"] {
        let fine = check(&["--listen", &listen, "--store", store], &[]);
        assert_eq!((fine.code, fine.stdout.as_str()), (Some(0), "ok\n"), "{fine:?}");
    }
    assert!(!dir.path().join("data").exists());
    fs::write(path("token"), "0123456789abcdef").unwrap();
    fs::write(path("short"), "0123").unwrap();
    fs::write(path("bad.toml"), "shards = 3\nshard = 4\n").unwrap();
    fs::write(path("worse.toml"), "shards = \n").unwrap();
    let (token, short, nowhere) = (path("token"), path("short"), path("nowhere"));
    let admin = ["--admin-listen", "127.0.0.1:1"];
    assert_eq!(check(&[&admin[..], &["--admin-token-file", &token]].concat(), &[]).code, Some(0));
    for (arguments, environment, named) in [
        (&admin[..], &[][..], "admin_token_file"),
        (&[&admin[..], &["--admin-token-file", &short]].concat(), &[], "admin_token_file"),
        (&[&admin[..], &["--admin-token-file", &nowhere]].concat(), &[], &nowhere),
        (&["--config", &nowhere], &[], &nowhere),
        (&["--config", &path("bad.toml")], &[], "shard:"),
        (&["--config", &path("worse.toml")], &[], "worse.toml"),
        (&["--listen", "nonsense"], &[], "listen"),
        (&["--log", "causeway=loudly"], &[], "log"),
        (&["--data", &token], &[], "not a directory"),
        (&[], &[("CAUSEWAY_SHARDS", "-1")], "CAUSEWAY_SHARDS"),
        (&[], &[("CAUSEWAY_NONSENSE", "1")], "CAUSEWAY_NONSENSE"),
    ] {
        let data = path("data");
        let data = if arguments.contains(&"--data") { vec![] } else { vec!["--data", &data] };
        let wrong = run(&[&["check-config"], &data[..], arguments].concat(), environment);
        assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(1), ""), "{arguments:?}: {wrong:?}");
        assert!(wrong.stderr.contains(named), "{arguments:?}: {wrong:?}");
    }
    // What is wrong there does not start either.
    for (arguments, named) in [
        (&admin[..], "admin_token_file"),
        (&[&admin[..], &["--admin-token-file", &short]].concat(), "admin_token_file"),
    ] {
        let refused = run(&[&["serve", "--store", "memory"], arguments].concat(), &[]);
        assert!(refused.code == Some(1) && refused.stderr.contains(named), "{refused:?}");
    }
}
