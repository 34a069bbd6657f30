//! The log: one line an event, readable by machines, and nothing of anybody's data in it.

use crate::common::{Client, Response, Server, cell, exchange, frame, pull, run, update, upgrade_request};
use causeway::logging::{self, LogFormat};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

on_every_store!(no_payload_and_no_token_is_ever_logged);

/// The lines of a JSON log, each an object with what every line has.
pub(crate) fn lines(log: &str) -> Vec<Value> {
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {line}"));
        for key in ["timestamp", "level", "target", "message"] {
            assert!(line[key].is_string(), "{key} in {line}");
        }
        line
    };
    log.lines().map(line).collect()
}

/// The lines about ends of connections.
pub(crate) fn ends(log: &str) -> Vec<Value> {
    lines(log).into_iter().filter(|line| line["message"] == "connection ended").collect()
}

fn json_server(more: &[(&str, &str)]) -> Server {
    Server::with("memory", &[&[("log-format", "json")], more].concat())
}

fn no_payload_and_no_token_is_ever_logged(store: &str) {
    const MARK: &str = "s3cr3tm4rk";
    let server = Server::with(store, &[("log-format", "json"), ("log", "trace")]);
    let mut client = server.connect("list");
    client.update(1, &[cell(MARK, MARK, MARK, 1)]);
    let mut other = server.connect("list");
    assert_eq!(other.pull_rows(0).len(), 1);
    // Refusals, too, say what they say to the client only.
    let mut far = cell(MARK, MARK, MARK, 1);
    far[3] = MARK.into();
    far[4] = 900_000_000_000_u64.into();
    for bad in [
        format!("{{{MARK}"),
        format!(r#"{{"type":"{MARK}"}}"#),
        format!(r#"{{"type":"auth","token":"{MARK}"}}"#),
        update(2, &[far]).to_string(),
        pull(0).to_string().replace("\"pull\"", &format!("\"{MARK}\"")),
    ] {
        client.send_text(&bad);
    }
    client.send_bytes(&frame(crate::common::PING, MARK.as_bytes()));
    let target = format!("/?channel=list&token={MARK}");
    let request = upgrade_request(&target)
        .replace("\r\nHost", &format!("\r\nAuthorization: Bearer {MARK}\r\nSec-WebSocket-Protocol: causeway.bearer.{MARK}\r\nX-Request-Id: {MARK} \"\r\nHost"));
    let mut stream = server.stream();
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(Response::read(&mut stream).unwrap().status, 101);
    drop(stream);
    exchange(server.tcp(), format!("GET /metrics?token={MARK} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .unwrap();
    exchange(server.tcp(), format!("{MARK} / HTTP/1.1\r\nX:\r\n {MARK}\0\r\n\r\n").as_bytes());
    client.send_bytes(&crate::common::close_frame(1000, MARK.as_bytes()));
    client.expect_close(1000);
    // Nor what operators ask for, but for the command and the channel. Memory cannot be asked.
    let durable = store != "memory";
    if durable {
        let data = server.data.to_str().unwrap();
        let rows = ["rows", "list", "todos", "--after", MARK, "--store", store, "--data", data];
        assert_eq!(run(&rows, &[]).code, Some(0));
    }
    let log = server.stop_and_log();
    assert!(lines(&log).iter().any(|line| line["level"] == "DEBUG"), "there was something to find: {log}");
    let asked = |line: &Value| line["command"] == "rows" && line["channels"].to_string().contains("list");
    assert_eq!(lines(&log).iter().any(asked), durable, "{log}");
    // As it is written for people, or as its bytes.
    let bytes = format!("{:?}", MARK.as_bytes());
    let forms = [MARK, bytes.trim_matches(['[', ']'])];
    let found: Vec<_> = log.lines().filter(|line| forms.iter().any(|form| line.contains(form))).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn an_end_says_whose_connection_it_was() {
    let server = json_server(&[]);
    let mut stream = server.stream();
    let request =
        upgrade_request("/?channel=list").replace("\r\nHost", "\r\nX-Request-Id: from-the-proxy.1\r\nHost");
    stream.write_all(request.as_bytes()).unwrap();
    let response = Response::read(&mut stream).unwrap();
    assert_eq!(response.header("x-request-id"), Some("from-the-proxy.1"));
    let peer = stream.socket().local_addr().unwrap().to_string();
    let mut client = server.connect("other");
    client.update(1, &[cell("k", "c", "v", 1), cell("l", "c", "v", 1)]);
    client.send_bytes(&crate::common::close_frame(1000, b""));
    client.expect_close(1000);
    drop(stream);
    server.wait_for_metric("connections", 0);
    let ends = ends(&server.stop_and_log());
    let end = |channel: &str| ends.iter().find(|end| end["channel"] == channel).unwrap();
    let first = end("list");
    assert_eq!((&first["request"], &first["peer"]), (&"from-the-proxy.1".into(), &peer.into()));
    let other = end("other");
    assert_eq!(
        (&other["messages_in"], &other["changes_in"], &other["code"]),
        (&1.into(), &2.into(), &1000.into())
    );
    assert!(other["bytes_in"].as_u64().unwrap() > 50 && other["bytes_out"].as_u64().unwrap() > 50, "{other}");
    assert!(other["duration_s"].is_f64() && other["level"] == "INFO", "{other}");
    assert_ne!(first["connection"], other["connection"]);
}

#[test]
fn behind_a_proxy_it_is_the_clients() {
    let server = json_server(&[("trusted-proxies", "127.0.0.1")]);
    let mut proxies = Vec::new();
    for (channel, forwarded_for) in [("named", "6.6.6.6, 2001:db8::7"), ("not named", "unknown")] {
        let header = format!("X-Forwarded-For: {forwarded_for}\r\n");
        let client = Client::try_connect_from(Ipv4Addr::LOCALHOST, server.addr, channel, &header).unwrap();
        proxies.push(client.stream().socket().local_addr().unwrap().to_string());
        client.reset();
    }
    server.wait_for_metric("connections", 0);
    let ends = ends(&server.stop_and_log());
    let end = |channel: &str| ends.iter().find(|end| end["channel"] == channel).unwrap();
    let named = end("named");
    assert_eq!((&named["peer"], &named["proxy"]), (&"2001:db8::7".into(), &(*proxies[0]).into()), "{named}");
    let unnamed = end("not named");
    assert_eq!((&unnamed["peer"], unnamed.get("proxy")), (&(*proxies[1]).into(), None), "{unnamed}");
}

#[test]
fn an_id_that_is_not_sane_is_replaced() {
    let server = json_server(&[]);
    let id = |sent: &str| {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Request-Id: {sent}\r\n\r\n");
        let response = exchange(server.tcp(), request.as_bytes()).unwrap();
        response.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(id("4bf92f35-77b3"), "4bf92f35-77b3");
    let bad = ["a b", "<script>", "\u{e9}", &"x".repeat(65), ""];
    let given: BTreeSet<_> = bad.iter().map(|bad| id(bad)).collect();
    assert_eq!(given.len(), bad.len(), "each has a new one: {given:?}");
    assert!(given.iter().all(|id| id.len() == 17), "{given:?}");
}

/// Whoever connects chooses the path, the name and the headers. None of them is a line of the log.
#[test]
fn nobody_can_forge_a_line() {
    let server = Server::with("memory", &[("log-format", "human"), ("log", "trace")]);
    for target in [
        "/%0a2026-01-01T00:00:00Z%20ERROR%20forged",
        "/\\n\\rforged",
        "/?channel=a%0Aforged",
        "/\x1b[31mforged",
    ] {
        exchange(server.tcp(), upgrade_request(target).as_bytes());
    }
    drop(server.connect("\u{202e}name \" = 'x' \u{1f600}"));
    server.wait_for_metric("connections", 0);
    let log = server.stop_and_log();
    for line in log.lines() {
        let level = line.split_whitespace().nth(1).unwrap_or_default();
        assert!(["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level), "no line of ours: {line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains(" ERROR "), "{line:?}");
    }
    assert!(log.contains("answered"), "{log}");
}

#[test]
fn json_is_what_is_logged_where_nobody_watches() {
    let server = Server::with("memory", &[("log-format", "auto")]);
    drop(server.connect("list"));
    server.wait_for_metric("connections", 0);
    assert_eq!(ends(&server.stop_and_log()).len(), 1);
    let wrong = run(&["serve", "--log-format", "xml"], &[]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("--log-format"), "{wrong:?}");
}

/// The metrics count every one of them; the log has some, and says how many it has not.
#[test]
fn a_flood_of_connections_does_not_flood_the_log() {
    const FLOOD: u64 = 300;
    let server = json_server(&[]);
    let clients: Vec<_> = (0..FLOOD).map(|_| server.connect("list")).collect();
    drop(clients);
    server.wait_for_metric("connections_closed_total", FLOOD);
    // Those that were left out are told of in the first line of another second.
    thread::sleep(Duration::from_millis(1100));
    drop(server.connect("list"));
    server.wait_for_metric("connections_closed_total", FLOOD + 1);
    let log = server.stop_and_log();
    let missing: u64 = lines(&log).iter().filter_map(|line| line["missing"].as_u64()).sum();
    assert_eq!(ends(&log).len() as u64 + missing, FLOOD + 1, "{log}");
}

/// What ends before it is a WebSocket is counted, and only logged if asked for.
#[test]
fn who_does_not_get_in_is_no_line() {
    let server = json_server(&[("max-connections", "1")]);
    let client = server.connect("list");
    for _ in 0..50 {
        assert_eq!(exchange(server.tcp(), b"GET /healthz HTTP/1.1\r\n\r\n").unwrap().status, 503);
    }
    drop(client);
    server.wait_until_served();
    assert!(exchange(server.tcp(), b"FROB\r\n\r\n").is_none_or(|answer| answer.status == 400));
    let refused = server.metric_lines("causeway_connections_refused_total");
    assert!(
        refused.contains(&r#"causeway_connections_refused_total{reason="bad_handshake"} 1"#.into()),
        "{refused:?}"
    );
    let log = lines(&server.stop_and_log());
    let warned = log.iter().filter(|line| line["limit"] == "max_connections").count();
    assert!((1..50).contains(&warned), "{warned} of 50");
    assert!(!log.iter().any(|line| line["level"] == "DEBUG"), "{log:?}");
}

/// What SIGHUP does to the level.
#[test]
fn the_filter_can_be_changed_while_it_runs() {
    assert!(logging::check_filter("causeway=debug,warn").is_ok());
    assert!(logging::check_filter("causeway=loud").is_err());
    logging::start("error", LogFormat::Json).unwrap();
    // A test that fails here is to be read by people.
    drop(std::panic::take_hook());
    assert!(!tracing::enabled!(tracing::Level::INFO));
    logging::set_filter("info").unwrap();
    assert!(tracing::enabled!(tracing::Level::INFO) && !tracing::enabled!(tracing::Level::DEBUG));
    assert!(logging::set_filter("causeway=loud").is_err_and(|e| e.to_string().contains("loud")));
    assert!(tracing::enabled!(tracing::Level::INFO), "the last good one stays");
    logging::set_filter("error").unwrap();
    assert!(!tracing::enabled!(tracing::Level::INFO));
}
