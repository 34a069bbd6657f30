//! The commands over HTTP.

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::common::{Place, cell, change, encode, lines, sentinel};
use crate::operators::{Operators, TOKEN};

on_durable_stores!(operators_ask_over_http);

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
    for headers in [
        String::new(),
        "Authorization: Bearer \r\n".into(),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Bearer {TOKEN}x\r\n"),
        format!("Authorization: Bearer {}\r\n", TOKEN.to_uppercase()),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("X-Token: {TOKEN}\r\n"),
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
        let authorization = format!("Authorization: Bearer {TOKEN}");
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{authorization}\r\nConnection: close\r\n\r\n");
        let status = operators.server.http(&request).status;
        assert!(matches!(status, 404 | 405), "{method} {target} on the relay's port: {status}");
    }

    let removed = operators.succeed("DELETE", &format!("/admin/channels/{name}"));
    assert_eq!(removed, [json!({"line": "removed", "channel": "a/ü"})]);
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
            write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
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
