//! Requests that are no handshakes: what costs the server something to answer, and what is not read.

use std::io::{Read, Write};

use super::common::guarantees::{Abuse, abuse};
use super::common::{PATIENCE, Response, Server, connect_from};
use super::house::{ATTACKER, attacked};

#[test]
fn one_connection_asks_once() {
    const MANY: usize = 1_000;
    let server = Server::start("memory");
    let answered = || server.metric_lines("causeway_http_responses_total{status=\"200\"}");
    let count = |lines: Vec<String>| lines[0].rsplit_once(' ').unwrap().1.parse::<u64>().unwrap();
    let before = count(answered());
    let (text, _) = attacked(&server, || {
        let mut stream = connect_from(ATTACKER, server.addr);
        // It may be closed before all of it is sent, and reset then.
        let _ = stream.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(MANY).as_bytes());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes);
        let timed_out = end.is_err_and(|e| e.kind() != std::io::ErrorKind::ConnectionReset);
        assert!(!timed_out, "the connection ends");
        String::from_utf8_lossy(&bytes).into_owned()
    });
    assert!(text.matches("HTTP/1.1 200").count() <= 1, "{text}");
    // The first of these two looks, and the attacker's one.
    assert_eq!(count(answered()) - before, 2);
    // Whatever is asked for, and also if it is refused.
    for target in ["/", "/healthz", "/nothing"] {
        let mut stream = server.stream();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let answer = Response::read(&mut stream).unwrap();
        assert_eq!(answer.header("connection"), Some("close"), "{target}");
    }
    abuse(Abuse {
        number: 24,
        attack: "1,000 requests for `/metrics` over one connection, none of which waits for an answer",
        limit: "a connection is for one request, so that `max_new_connections_per_ip_per_s` holds for requests too",
        attacker: "one answer, and the end of the connection",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse one_connection_asks_once",
    });
}
