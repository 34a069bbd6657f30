//! Connections: slow handshakes, many of them, from where they may not come.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use super::common::guarantees::{Abuse, abuse};
use super::common::{Client, HANDSHAKE_HEADERS, PATIENCE, Response, Server, connect_from};
use super::house::{ATTACKER, attacked};

fn connect(server: &Server, from: Ipv4Addr, channel: &str, headers: &str) -> Result<Client, Response> {
    Client::try_connect_from(from, server.addr, channel, headers)
}

#[test]
fn slow_handshakes_end_in_time() {
    const MANY: usize = 200;
    let server = Server::with("memory", &[("handshake-timeout-ms", "1000")]);
    let (ended, felt) = attacked(&server, || {
        let mut slow: Vec<_> = (0..MANY).map(|_| Some(connect_from(ATTACKER, server.addr))).collect();
        let head = b"GET /?channel=x HTTP/1.1\r\nHost: x\r\nX-Slow: ";
        for (n, stream) in slow.iter_mut().flatten().enumerate() {
            stream.set_nonblocking(true).unwrap();
            // Some never say a word.
            if n % 4 > 0 {
                stream.write_all(head).unwrap();
            }
        }
        let mut ended = 0;
        let deadline = std::time::Instant::now() + PATIENCE;
        while ended < MANY {
            assert!(std::time::Instant::now() < deadline, "{ended} of {MANY} have ended");
            thread::sleep(Duration::from_millis(50));
            for (n, slot) in slow.iter_mut().enumerate() {
                let Some(stream) = slot else { continue };
                let mut answer = [0; 64];
                let over = match stream.read(&mut answer) {
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => false,
                    Ok(1..) => panic!("half a request has no answer"),
                    _ => true,
                };
                if over || (n % 4 > 0 && stream.write_all(b"x").is_err()) {
                    *slot = None;
                    ended += 1;
                }
            }
        }
        ended
    });
    assert_eq!((ended, server.limited("handshake_timeout_ms")), (MANY, MANY as u64));
    assert!(felt.open_files < MANY + 100, "{felt:?}");
    abuse(Abuse {
        number: 1,
        attack: "Slowloris: handshakes that come a byte at a time, or never",
        limit: "`handshake_timeout_ms`",
        attacker: "each connection ended when its time was up, however many bytes it had sent",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse slow_handshakes_end_in_time",
    });
}

#[test]
fn one_address_has_its_share_of_connections() {
    let server = Server::with("memory", &[("max-connections-per-ip", "50")]);
    let (refused, felt) = attacked(&server, || {
        let all: Vec<_> = (0..500).map(|_| connect(&server, ATTACKER, "x", "")).collect();
        let refused: Vec<_> = all.iter().filter_map(|client| client.as_ref().err()).collect();
        for answer in &refused {
            assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
        }
        refused.len()
    });
    assert_eq!(refused, 450);
    assert_eq!(server.limited("max_connections_per_ip"), 450);
    assert!(felt.open_files < 150, "{felt:?}");
    // When they have gone there is room again.
    server.wait_for_metric("connections", 0);
    connect(&server, ATTACKER, "x", "").unwrap();
    abuse(Abuse {
        number: 2,
        attack: "500 connections of one address, which are kept",
        limit: "`max_connections_per_ip`",
        attacker: "as many as its share; the others 429, before a word was read",
        honest: "nothing; who came from another address was let in",
        command: "cargo test --test abuse one_address_has_its_share_of_connections",
    });
}

#[test]
fn many_addresses_have_what_there_is() {
    let server = Server::with("memory", &[("max-connections", "60")]);
    let (refused, felt) = attacked(&server, || {
        let all: Vec<_> =
            (0..200).map(|n| connect(&server, Ipv4Addr::new(127, 0, 1, n), "x", "").err()).collect();
        let held: Vec<_> = (0..200).map(|n| connect(&server, Ipv4Addr::new(127, 0, 2, n), "x", "")).collect();
        drop(all);
        held.iter().filter(|client| client.as_ref().is_err_and(|answer| answer.status == 503)).count()
    });
    // Two are the honest pair's, and one may be its metrics'.
    assert!((140..=143).contains(&refused), "{refused}");
    assert!(felt.open_files < 200, "{felt:?}");
    abuse(Abuse {
        number: 3,
        attack: "200 connections of 200 addresses where there is room for 60",
        limit: "`max_connections`",
        attacker: "what room there was; the others 503",
        honest: "who was connected nothing; who came was refused until there was room",
        command: "cargo test --test abuse many_addresses_have_what_there_is",
    });
}

#[test]
fn connections_are_not_made_faster_than_that() {
    let server = Server::with("memory", &[("max-new-connections-per-ip-per-s", "10")]);
    let (refused, _) = attacked(&server, || {
        (0..1_000)
            .filter(|_| match connect(&server, ATTACKER, "x", "") {
                Ok(_) => false,
                Err(answer) => {
                    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
                    true
                }
            })
            .count()
    });
    // A hundred at once, and ten a second.
    assert!((1..=900).contains(&refused), "{refused}");
    assert_eq!(server.limited("max_new_connections_per_ip_per_s"), refused as u64);
    abuse(Abuse {
        number: 4,
        attack: "1,000 connections of one address, one after the other, each closed at once",
        limit: "`max_new_connections_per_ip_per_s` (and `max_new_connections_per_s` of all)",
        attacker: "ten seconds' worth at once, then its rate; the others 429 with `Retry-After`",
        honest: "nothing; who came from another address was let in",
        command: "cargo test --test abuse connections_are_not_made_faster_than_that",
    });
}

#[test]
fn behind_a_proxy_each_client_has_its_own_share() {
    let settings = [("trusted-proxies", "127.0.0.66/32"), ("max-connections-per-ip", "2")];
    let server = Server::with("memory", &settings);
    let through_proxy =
        |header: &str| connect(&server, ATTACKER, "x", &format!("X-Forwarded-For: {header}\r\n"));
    let _two = [through_proxy("192.0.2.1").unwrap(), through_proxy("6.6.6.6, 192.0.2.1").unwrap()];
    let answer = through_proxy("192.0.2.5, 192.0.2.1").err().unwrap();
    assert_eq!(answer.status, 429);
    assert!(answer.text().contains("max_connections_per_ip"), "{}", answer.text());
    through_proxy("192.0.2.2").unwrap();
    // Whoever is no trusted proxy may write what it likes.
    let direct = Ipv4Addr::new(127, 0, 0, 7);
    let header = |n| format!("X-Forwarded-For: 192.0.2.{n}\r\n");
    let _two = [10, 11].map(|n| connect(&server, direct, "x", &header(n)).unwrap());
    assert_eq!(connect(&server, direct, "x", &header(12)).err().unwrap().status, 429);
    abuse(Abuse {
        number: 5,
        attack: "an `X-Forwarded-For` that names somebody else",
        limit: "`trusted_proxies`",
        attacker: "without a trusted proxy it was ignored; behind one, only what the proxy itself had added counted",
        honest: "each client behind the proxy had a share of its own",
        command: "cargo test --test abuse behind_a_proxy_each_client_has_its_own_share",
    });
}

#[test]
fn one_channel_has_so_many_connections() {
    let server = Server::with("memory", &[("max-connections-per-channel", "10")]);
    let (refused, _) = attacked(&server, || {
        let all: Vec<_> = (0..50).map(|_| connect(&server, ATTACKER, "theirs", "")).collect();
        let refused: Vec<_> = all.iter().filter_map(|client| client.as_ref().err()).collect();
        for answer in &refused {
            assert!(answer.status == 503 && answer.text().contains("quota_exceeded"), "{}", answer.text());
        }
        refused.len()
    });
    assert_eq!((refused, server.limited("max_connections_per_channel")), (40, 40));
    abuse(Abuse {
        number: 6,
        attack: "50 connections to one channel, so that each update costs 50 sends",
        limit: "`max_connections_per_channel`",
        attacker: "as many as the channel may have; the others 503, `quota_exceeded`",
        honest: "nothing: other channels have their own",
        command: "cargo test --test abuse one_channel_has_so_many_connections",
    });
}

#[test]
fn only_pages_on_the_list_connect() {
    let server =
        Server::with("memory", &[("allowed-origins", "https://app.example.com,https://*.example.org")]);
    let from = |origin: &str| connect(&server, ATTACKER, "x", &format!("Origin: {origin}\r\n"));
    for bad in ["https://evil.net", "null", "http://app.example.com", "https://app.example.com.evil.net"] {
        let answer = from(bad).err().unwrap();
        assert!(answer.status == 403 && answer.text().contains("forbidden"), "{bad}: {}", answer.text());
    }
    assert_eq!(server.limited("allowed_origins"), 4);
    from("https://app.example.com").unwrap();
    from("https://a.example.org").unwrap();
    connect(&server, ATTACKER, "x", "").unwrap();
    abuse(Abuse {
        number: 7,
        attack: "a foreign web page that connects from its visitor's browser",
        limit: "`allowed_origins`",
        attacker: "403 before the upgrade",
        honest: "pages on the list connected, and so did what is no browser",
        command: "cargo test --test abuse only_pages_on_the_list_connect",
    });
}

#[test]
fn no_compression_is_agreed_on() {
    // A compressed bomb needs an extension: what is offered is not taken.
    let server = Server::start("memory");
    let request = format!(
        "GET /?channel=x HTTP/1.1\r\nHost: x\r\n{HANDSHAKE_HEADERS}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    );
    let mut stream = server.stream();
    stream.write_all(request.as_bytes()).unwrap();
    let answer = Response::read(&mut stream).unwrap();
    assert_eq!((answer.status, answer.header("sec-websocket-extensions")), (101, None));
}
