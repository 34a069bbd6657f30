//! What is answered without a WebSocket: pages, refusals, and connections that never become one.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{
    Client, HANDSHAKE_HEADERS, PATIENCE, Response, Server, cell, encode, exchange, upgrade_request,
};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// Asks for an upgrade.
fn upgrade(server: &Server, target: &str) -> Response {
    let mut stream = server.stream();
    stream.write_all(upgrade_request(target).as_bytes()).unwrap();
    Response::read(&mut stream).unwrap_or_else(|| panic!("no answer to {target}"))
}

/// An upgrade whose headers are put together by the test.
fn upgrade_with(server: &Server, headers: &str) -> u16 {
    let request = format!("GET /?channel=list HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    let mut stream = server.stream();
    stream.write_all(request.as_bytes()).unwrap();
    Response::read(&mut stream).unwrap_or_else(|| panic!("no answer to {request:?}")).status
}

/// Waits for the server to end a connection, and gives all that it sent.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            panic!("the connection should end; so far {:?}", String::from_utf8_lossy(&bytes))
        }
        _ => bytes,
    }
}

#[test]
fn health_and_readiness_are_told() {
    let server = Server::start("memory");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.http_get(path).status, 200, "{path}");
    }
}

#[test]
fn metrics_cover_what_the_guide_wants_watched() {
    let server = Server::start("memory");
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    client.update(1, &[cell("k", "c", "v", 1)]);
    other.recv_type("update");
    client.send_text("{");
    client.recv_type("error");
    let metrics = server.http_get("/metrics");
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    assert!(text.contains("# TYPE") && text.contains("# HELP"), "{text}");
    let named = |word: &str| text.lines().any(|line| !line.starts_with('#') && line.contains(word));
    for word in ["connections", "messages", "merge", "version"] {
        assert!(named(word), "a sample about {word} in {text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        assert!(
            line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()),
            "no sample: {line}"
        );
    }
}

#[test]
fn a_page_without_an_upgrade_is_answered() {
    let server = Server::start("memory");
    assert!(matches!(server.http_get("/").status, 200 | 426), "a plain page at /");
    for path in ["/ws", "/sync", "/?channel=list"] {
        assert!(matches!(server.http_get(path).status, 200 | 400 | 426), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "FROB"] {
        let status =
            server.http(&format!("{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).status;
        assert!(status < 500, "{method} is answered {status}");
    }
}

#[test]
fn any_other_path_is_not_found() {
    let server = Server::start("memory");
    for path in ["/x", "/sync/x", "/ws/", "/WS", "//", "/healthz/x", "/../data", "/%2e%2e/", "/favicon.ico"] {
        assert_eq!(server.http_get(path).status, 404, "{path}");
        assert_eq!(upgrade(&server, path).status, 404, "{path} with an upgrade");
    }
}

#[test]
fn a_bad_channel_name_is_refused_before_the_upgrade() {
    let server = Server::start("memory");
    let mut bad = vec![
        encode("x".repeat(256)),
        encode("é".repeat(128)),
        "x".repeat(5000),
        encode(b"\xff"),
        encode(b"ok\xc3"),
        encode(b"\xed\xa0\x80"),
        encode(b"\xc0\xaf"),
    ];
    bad.extend((0..32).chain([0x7f]).map(|control: u8| encode([b'a', control, b'b'])));
    bad.extend(["\u{80}", "\u{85}", "\u{9f}"].map(encode));
    for name in bad {
        let target = format!("/?channel={name}");
        let response = exchange(server.tcp(), upgrade_request(&target).as_bytes()).unwrap();
        assert_eq!(response.status, 400, "{name}");
        let body: Value = serde_json::from_slice(&response.body).unwrap();
        for key in ["code", "message"] {
            assert!(body[key].as_str().is_some_and(|text| !text.is_empty()), "{key} in {body}");
        }
    }
}

#[test]
fn a_query_is_read_as_the_guide_reads_it() {
    let server = Server::start("memory");
    for (query, channel) in [
        ("?channel=a+b", "a b"),
        ("?channel=a%2Bb", "a+b"),
        ("?channel=a%20b", "a b"),
        ("?x=1&channel=list&y=2", "list"),
        ("?channel=first&channel=second", "first"),
        ("?CHANNEL=x", "default"),
        ("?channels=x", "default"),
        ("?channel", "default"),
        ("?&&channel=list&", "list"),
        ("?channel=a=b", "a=b"),
        ("?channel=%E4%B8%AD", "中"),
        ("?%63hannel=list", "list"),
        ("?channel=a/b?c", "a/b?c"),
    ] {
        let client = Client::connect_to(server.addr, &format!("/{query}"));
        assert_eq!(client.connected["channel"], channel, "{query}");
    }
}

#[test]
fn a_handshake_lacks_nothing() {
    let server = Server::start("memory");
    let without = |name: &str| -> String {
        HANDSHAKE_HEADERS
            .lines()
            .filter(|line| !line.starts_with(name))
            .map(|line| format!("{line}\r\n"))
            .collect()
    };
    assert_eq!(upgrade_with(&server, HANDSHAKE_HEADERS), 101);
    for version in ["12", "8", "14", "x", ""] {
        let headers = HANDSHAKE_HEADERS.replace("Version: 13", &format!("Version: {version}"));
        let status = upgrade_with(&server, &headers);
        assert!(matches!(status, 400 | 426), "version {version:?} is answered {status}");
    }
    for missing in ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Connection", "Upgrade"] {
        let status = upgrade_with(&server, &without(missing));
        let fine = matches!(status, 400 | 426) || (status == 200 && !missing.starts_with("Sec"));
        assert!(fine, "without {missing}: {status}");
    }
    // A browser's and a proxy's ways to write it.
    let headers = HANDSHAKE_HEADERS.replace("Connection: Upgrade", "connection: keep-alive, upgrade");
    assert_eq!(upgrade_with(&server, &headers.replace("websocket", "WebSocket")), 101);
}

#[test]
fn a_handshake_that_is_never_finished_is_closed() {
    let server = Server::with("memory", &[("handshake-timeout-ms", "700")]);
    let mut client = server.connect("list");
    let request = upgrade_request("/?channel=list");
    for sent in ["", "G", "GET / HTTP/1.1\r\n", &request[..request.len() - 2]] {
        let mut stream = server.tcp();
        stream.write_all(sent.as_bytes()).unwrap();
        let answer = String::from_utf8(read_to_end(&mut stream)).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "after {sent:?}: {answer}");
    }
    // What was upgraded in time stays.
    client.update(1, &[cell("k", "c", "v", 1)]);
}

#[test]
fn what_is_no_http_is_refused() {
    let server = Server::start("memory");
    let mut client = server.connect("list");
    let long_header = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(2 << 20));
    let long_target = format!("GET /?channel={} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(200_000));
    let many_headers = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(2000));
    let garbage: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x81\x85\x00\x00\x00\x00hello",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        long_header.as_bytes(),
        long_target.as_bytes(),
        many_headers.as_bytes(),
    ];
    for (n, garbage) in garbage.iter().enumerate() {
        let mut stream = server.tcp();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = String::from_utf8_lossy(&read_to_end(&mut stream)).into_owned();
        let refused = answer.is_empty() || answer.split(' ').nth(1).is_some_and(|code| code.starts_with('4'));
        assert!(refused, "garbage {n}: {answer}");
        client.update(n as u64, &[cell(&format!("k{n}"), "c", "v", 1)]);
    }
}

#[test]
fn a_thousand_connections_that_send_nothing_disturb_nobody() {
    let limit = rlimit::increase_nofile_limit(8192).unwrap_or(1024);
    let count = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(300).min(1000);
    let server = Server::start("memory");
    let silent: Vec<_> = (0..count).map(|_| TcpStream::connect(server.addr).unwrap()).collect();
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    for n in 1..=20 {
        assert_eq!(client.update(n, &[cell(&format!("k{n}"), "c", "v", 1)])["version"], n);
        assert_eq!(other.recv_type("update")["version"], n);
    }
    drop(silent);
    client.update(21, &[cell("last", "c", "v", 1)]);
}
