//! Every way in which a connection ends, with the reason that the log and the metrics give. In each test a channel's name
//! is the reason.

use crate::common::{Client, Length, PATIENCE, Server, TEXT, cell, close_frame, frame, pull, run, wire};
use crate::exposition::Scrape;
use crate::logs::{ends, lines};
use causeway::ending::{Reason, Refused};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

fn server(store: &str, more: &[(&str, &str)]) -> Server {
    Server::with(store, &[&[("log-format", "json")], more].concat())
}

/// The connections of each channel have ended for the reason that is its name, and the metrics say so.
fn assert_reasons(server: Server, expected: &[&str]) {
    let mut all: Vec<_> = expected.to_vec();
    all.sort_unstable();
    server.wait_for_metric("connections", 0);
    let scrape = Scrape::of(&server);
    for reason in Reason::ALL.iter().map(|reason| reason.as_str()) {
        let count = all.iter().filter(|expected| **expected == reason).count();
        assert_eq!(
            scrape.get("causeway_connections_closed_total", &[("reason", reason)]),
            count as f64,
            "{reason}"
        );
    }
    let log = server.stop_and_log();
    let mut found = Vec::new();
    for end in ends(&log) {
        assert_eq!(end["reason"], end["channel"], "{end}");
        found.push(end["reason"].as_str().unwrap().to_owned());
    }
    found.sort_unstable();
    assert_eq!(found, all, "{log}");
}

#[test]
fn what_clients_do() {
    let settings = [("max-bad-messages", "3"), ("max-message-bytes", "2000")];
    let server = server("memory", &settings);
    server.connect("broken").reset();
    let ended = |channel: &str, code: u16, end: &dyn Fn(&mut Client)| {
        let mut client = server.connect(channel);
        end(&mut client);
        client.expect_close(code);
    };
    ended("client_closed", 1000, &|client| client.send_bytes(&close_frame(1000, b"bye")));
    ended("client_closed", 4321, &|client| client.send_bytes(&close_frame(4321, b"")));
    ended("client_ended", 1000, &|client| client.half_close());
    ended("protocol_error", 1002, &|client| {
        client.send_bytes(&wire(0x80 | TEXT, false, Length::Minimal, b"not masked"));
    });
    ended("not_utf8", 1007, &|client| client.send_bytes(&frame(TEXT, b"\xff")));
    ended("too_large", 1009, &|client| client.send_text(&"x".repeat(3000)));
    ended("bad_messages", 1008, &|client| (0..3).for_each(|_| client.send_text("{")));
    // The shard counts bad messages, too.
    ended("bad_messages", 1008, &|client| {
        let far = [cell("k", "c", "v", 900_000_000_000)];
        (1..=3).for_each(|n| client.send_json(&crate::common::update(n, &far)));
    });
    assert_reasons(
        server,
        &[
            "broken",
            "client_closed",
            "client_closed",
            "client_ended",
            "protocol_error",
            "not_utf8",
            "too_large",
            "bad_messages",
            "bad_messages",
        ],
    );
}

#[test]
fn clients_that_do_nothing() {
    let settings = [("ping-interval-ms", "50"), ("pong-timeout-ms", "400"), ("handshake-timeout-ms", "300")];
    let server = server("memory", &settings);
    let mut silent = server.connect("silent");
    silent.answers_pings = false;
    assert_eq!(silent.until_closed(), None, "it is over without a close");

    let mut idle = server.tcp();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = idle.read(&mut [0; 100]);
    let refused = Refused::ALL.iter().map(|refused| refused.as_str()).collect::<BTreeSet<_>>();
    let expected = ["over_limit", "handshake_timeout", "bad_handshake", "answer_not_taken"];
    assert_eq!(refused, BTreeSet::from(expected));
    let counted = [("reason", "handshake_timeout")];
    assert_eq!(Scrape::of(&server).get("causeway_connections_refused_total", &counted), 1.0);
    assert_reasons(server, &["silent"]);
}

#[test]
fn a_client_that_reads_nothing() {
    let settings =
        [("slow-client-timeout-ms", "400"), ("page-max-bytes", "4000000"), ("outbox-max-bytes", "100000")];
    let server = server("memory", &settings);
    // More than any system keeps for it.
    let mut slow = server.connect_narrow("slow", 536);
    for n in 0..8 {
        slow.send_json(&crate::common::update(n, &[cell(&format!("k{n}"), "c", "x".repeat(1_000_000), 1)]));
    }
    slow.send_json(&pull(0));
    server.wait_for_metric("connections", 0);
    assert_reasons(server, &["slow"]);
}

#[test]
fn an_answer_that_is_not_taken() {
    let server = Server::with("memory", &[("slow-client-timeout-ms", "300"), ("metrics-channels", "1000")]);
    // As many names as make the metrics more than any system keeps for a client that reads nothing.
    let name = |n| format!("{n}{}", "n".repeat(250));
    let _named: Vec<_> = (0..400).map(|n| server.connect(&name(n))).collect();
    let mut unread = server.narrow_stream(536);
    unread.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let not_taken = "causeway_connections_refused_total{reason=\"answer_not_taken\"} 1";
    let deadline = Instant::now() + PATIENCE;
    while server.metric_lines(not_taken).is_empty() {
        assert!(Instant::now() < deadline, "a connection whose answer is not read ends");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_the_server_does() {
    let server = server("sqlite", &[("channel-idle-ms", "50")]);
    let mut unread = server.connect("page_failed");
    unread.update(1, &[cell("k", "c", "v", 1)]);
    server.wait_for_metric("open_stores", 0);
    fs::write(server.data.join("page_failed.db"), [b'x'; 8192]).unwrap();
    unread.send_json(&pull(0));
    unread.expect_close(1013);

    let mut removed = server.connect("channel_removed");
    removed.update(1, &[cell("k", "c", "v", 1)]);
    let data = server.data.to_str().unwrap();
    assert_eq!(run(&["delete", "--yes", "channel_removed", "--data", data], &[]).code, Some(0));
    removed.expect_close(1013);
    assert_reasons(server, &["page_failed", "channel_removed"]);
}

#[test]
fn the_end_of_the_server() {
    let mut server = server("memory", &[("drain-timeout-ms", "500"), ("page-max-bytes", "4000000")]);
    let mut told = server.connect("draining");
    // It reads nothing, for longer than the drain may take.
    let mut stuck = server.connect_narrow("abandoned", 536);
    for n in 0..8 {
        stuck.send_json(&crate::common::update(n, &[cell(&format!("k{n}"), "c", "x".repeat(1_000_000), 1)]));
    }
    stuck.send_json(&pull(0));
    server.wait_until("messages_sent_total", |sent| sent > 8);
    server.signal("TERM");
    told.expect_close(1001);
    assert!(server.wait().success());
    let log = server.log();
    let ends = ends(&log);
    assert_eq!(ends.len(), 2, "{log}");
    for end in ends {
        assert_eq!(end["reason"], end["channel"], "{end}");
    }
    let warned = lines(&log).into_iter().any(|line| line["level"] == "WARN");
    assert!(warned, "{log}");
    drop(stuck);
}
