//! The WebSocket protocol, kept where the library leaves it to the server.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{
    BINARY, CLOSE, CONTINUATION, Client, Event, Length, PING, PONG, Server, TEXT, cell, changes, close_frame,
    encode, fragment, frame, keys, pull, update, wire,
};
use std::thread;
use std::time::{Duration, Instant};

/// Each piece of bytes on a connection of its own closes it with this code, and another connection goes on.
fn assert_closes(code: u16, pieces: &[(&str, Vec<u8>)]) {
    let server = Server::start("memory");
    let mut other = server.connect("list");
    for (n, (what, bytes)) in pieces.iter().enumerate() {
        let mut client = server.connect("list");
        let _ = client.try_send(bytes);
        assert_eq!(client.until_closed(), Some(code), "{what}");
        assert_eq!(other.update(1, &[cell(&format!("k{n}"), "c", "v", 1)])["version"], n + 1, "after {what}");
    }
}

fn good_update() -> Vec<u8> {
    update(1, &[cell("k", "c", "v", 1)]).to_string().into_bytes()
}

#[test]
fn an_unmasked_frame_closes() {
    let unmasked = |opcode: u8, payload: &[u8]| wire(0x80 | opcode, false, Length::Minimal, payload);
    assert_closes(
        1002,
        &[
            ("an unmasked text frame", unmasked(TEXT, pull(0).to_string().as_bytes())),
            ("an unmasked binary frame", unmasked(BINARY, pull(0).to_string().as_bytes())),
            ("an unmasked ping", unmasked(PING, b"x")),
            ("an empty unmasked ping", unmasked(PING, b"")),
        ],
    );
}

#[test]
fn reserved_bits_and_opcodes_close() {
    let text = pull(0).to_string();
    let mut pieces = Vec::new();
    for bit in [0x40, 0x20, 0x10, 0x70] {
        for opcode in [TEXT, BINARY, PING] {
            let bytes = wire(0x80 | bit | opcode, true, Length::Minimal, text.as_bytes());
            pieces.push((format!("bits {bit:#x} on opcode {opcode}"), bytes));
        }
    }
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        pieces.push((format!("opcode {opcode}"), frame(opcode, b"")));
        pieces.push((format!("opcode {opcode} with a payload"), frame(opcode, text.as_bytes())));
    }
    let pieces: Vec<_> = pieces.iter().map(|(what, bytes)| (what.as_str(), bytes.clone())).collect();
    assert_closes(1002, &pieces);
}

#[test]
fn control_frames_are_whole_and_small() {
    assert_closes(
        1002,
        &[
            ("a ping of 126 bytes", frame(PING, &[0; 126])),
            ("a ping of 70,000 bytes", frame(PING, &[0; 70_000])),
            ("a pong of 126 bytes", frame(PONG, &[0; 126])),
            ("a close of 126 bytes", close_frame(1000, &[b'x'; 124])),
            ("a fragmented ping", fragment(PING, false, b"x")),
            ("a fragmented pong", fragment(PONG, false, b"x")),
            ("a fragmented close", fragment(CLOSE, false, &1000_u16.to_be_bytes())),
        ],
    );
}

#[test]
fn a_length_is_written_in_as_few_bytes_as_possible() {
    let text = pull(0).to_string();
    let medium = text.clone() + &" ".repeat(1000);
    assert!(text.len() <= 125);
    assert_closes(
        1002,
        &[
            ("a short length in two bytes", wire(0x81, true, Length::Two, text.as_bytes())),
            ("a short length in eight bytes", wire(0x81, true, Length::Eight, text.as_bytes())),
            ("a medium length in eight bytes", wire(0x82, true, Length::Eight, medium.as_bytes())),
            ("no length in two bytes", wire(0x81, true, Length::Two, b"")),
            ("a ping's length in two bytes", wire(0x80 | PING, true, Length::Two, b"x")),
        ],
    );
}

#[test]
fn fragments_come_in_their_order() {
    let text = pull(0).to_string().into_bytes();
    assert_closes(
        1002,
        &[
            ("a continuation of nothing", fragment(CONTINUATION, true, &text)),
            ("an open continuation of nothing", fragment(CONTINUATION, false, &text)),
            ("a text inside a message", [fragment(TEXT, false, &text), frame(TEXT, &text)].concat()),
            (
                "an open text inside a message",
                [fragment(TEXT, false, b"{"), fragment(TEXT, false, &text)].concat(),
            ),
            ("a binary inside a message", [fragment(TEXT, false, &text), frame(BINARY, &text)].concat()),
            (
                "a continuation after the end",
                [
                    fragment(BINARY, false, b""),
                    fragment(CONTINUATION, true, b"{}"),
                    fragment(CONTINUATION, true, &text),
                ]
                .concat(),
            ),
        ],
    );
}

#[test]
fn fragments_are_put_together_and_a_ping_between_them_is_answered() {
    let server = Server::start("memory");
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    // Splits characters of two, three and four bytes.
    let text = update(7, &[cell("k", "c", "é中😀", 1)]).to_string().into_bytes();
    for (n, opcode) in [TEXT, BINARY].into_iter().enumerate() {
        let last = text.len() - 1;
        for (i, byte) in text.iter().enumerate() {
            let opcode = if i == 0 { opcode } else { CONTINUATION };
            client.send_bytes(&fragment(opcode, i == last, &[*byte]));
            if i == 20 || i == last / 2 {
                client.send_bytes(&frame(PING, b"in between"));
                let pong = client.recv_frame();
                assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, b"in between".as_slice()));
            }
        }
        let ack = client.recv_type("ack");
        assert_eq!((ack["version"].as_u64(), ack["received"].as_u64()), (Some(1), Some(7)), "round {n}");
    }
    assert_eq!(changes(&other.recv_type("update"))[0][3], "é中😀");

    // Empty fragments, and a message that ends in one.
    let pieces = [fragment(TEXT, false, b""), fragment(CONTINUATION, false, pull(0).to_string().as_bytes())];
    client.send_bytes(
        &[pieces.concat(), fragment(CONTINUATION, false, b""), fragment(CONTINUATION, true, b"")].concat(),
    );
    assert_eq!(keys(changes(&client.recv_type("update"))), ["k"]);
}

#[test]
fn text_that_is_not_utf8_closes() {
    let tail = pull(0).to_string().into_bytes();
    let cut = [tail.as_slice(), &"é".as_bytes()[..1]].concat();
    assert_closes(
        1007,
        &[
            ("a text frame of wrong bytes", frame(TEXT, b"\xff\xfe")),
            ("a text that ends inside a character", frame(TEXT, &cut)),
            (
                "a fragmented text that ends inside a character",
                [fragment(TEXT, false, &tail), fragment(CONTINUATION, true, &"😀".as_bytes()[..3])].concat(),
            ),
            (
                "a fragmented text with the wrong byte at a seam",
                [fragment(TEXT, false, &cut), fragment(CONTINUATION, true, b"x")].concat(),
            ),
            (
                "a fragmented text with a wrong last byte",
                [
                    fragment(TEXT, false, &tail),
                    fragment(CONTINUATION, false, b""),
                    fragment(CONTINUATION, true, b"\xff"),
                ]
                .concat(),
            ),
        ],
    );
}

#[test]
fn a_ping_is_answered_with_its_payload_and_a_pong_is_not_answered() {
    let server = Server::start("memory");
    let mut client = server.connect("list");
    for payload in [b"".as_slice(), b"x", &[0xff; 125]] {
        client.send_bytes(&frame(PING, payload));
        let pong = client.recv_frame();
        assert_eq!((pong.opcode, pong.payload.as_slice()), (PONG, payload));
    }
    client.send_bytes(&frame(PONG, b"unasked"));
    client.send_bytes(&frame(PONG, b""));
    client.update(1, &[cell("k", "c", "v", 1)]);
}

#[test]
fn a_close_is_echoed() {
    let server = Server::start("memory");
    let mut other = server.connect("list");
    for code in [1000, 1001, 1003, 1011, 3000, 4000, 4999] {
        let mut client = server.connect("list");
        client.send_bytes(&close_frame(code, "bye, é".as_bytes()));
        client.expect_close(code);
    }
    let mut client = server.connect("list");
    client.send_bytes(&frame(CLOSE, b""));
    assert!(matches!(client.until_closed(), None | Some(1000)));
    other.update(1, &[cell("k", "c", "v", 1)]);
}

#[test]
fn a_bad_close_closes_with_an_error() {
    let mut pieces = vec![("a close of one byte".to_owned(), frame(CLOSE, b"\x03"))];
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 5000, 65535] {
        pieces.push((format!("close code {code}"), close_frame(code, b"")));
    }
    let pieces: Vec<_> = pieces.iter().map(|(what, bytes)| (what.as_str(), bytes.clone())).collect();
    assert_closes(1002, &pieces);
    assert_closes(1007, &[("a reason that is not UTF-8", close_frame(1000, b"\xff\xfe"))]);
}

#[test]
fn a_frame_sent_with_the_handshake_is_answered() {
    let server = Server::start("memory");
    let one = frame(TEXT, &good_update());
    let mut client = Client::connect_with(server.addr, "/?channel=list", &one);
    assert_eq!(client.recv_type("ack")["version"], 1);

    // Several, of which the last is cut in the middle.
    let text = pull(0).to_string();
    let bytes = [frame(PING, b"early"), frame(TEXT, text.as_bytes()), frame(TEXT, text.as_bytes())].concat();
    let (early, late) = bytes.split_at(bytes.len() - 10);
    let mut client = Client::connect_with(server.addr, "/?channel=list", early);
    assert_eq!(client.recv_frame().payload, b"early");
    assert_eq!(keys(changes(&client.recv_type("update"))), ["k"]);
    client.send_bytes(late);
    assert_eq!(keys(changes(&client.recv_type("update"))), ["k"]);
}

#[test]
fn frames_may_be_cut_anywhere_and_come_many_at_once() {
    let server = Server::start("memory");
    let mut client = server.connect("list");
    for byte in frame(TEXT, &good_update()) {
        client.send_bytes(&[byte]);
    }
    assert_eq!(client.recv_type("ack")["version"], 1);

    let many: Vec<_> = (1..=500)
        .flat_map(|n| {
            frame(TEXT, update(n, &[cell(&format!("many{n}"), "c", "v", 1)]).to_string().as_bytes())
        })
        .collect();
    client.send_bytes(&many);
    for n in 1..=500 {
        let ack = client.recv_type("ack");
        assert_eq!((ack["received"].as_u64(), ack["version"].as_u64()), (Some(n), Some(n + 1)));
    }
}

#[test]
fn a_connection_that_only_its_client_ended_is_ended() {
    let server = Server::start("memory");
    let mut other = server.connect("list");
    let mut half = server.connect("list");
    half.send_bytes(&frame(TEXT, &good_update()));
    half.half_close();
    half.until_closed();
    assert_eq!(other.recv_type("update")["version"], 1, "what was sent before the end counts");

    // In the middle of a frame.
    let mut half = server.connect("list");
    half.send_bytes(&frame(TEXT, &good_update())[..20]);
    half.half_close();
    half.until_closed();
    assert_eq!(other.update(1, &[cell("after", "c", "v", 1)])["version"], 2);
}

#[test]
fn an_extension_that_is_offered_is_not_taken() {
    let server = Server::start("memory");
    let mut stream = server.stream();
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let request = common::upgrade_request(&format!("/?channel={}", encode("list")));
    let request = request.replace("Upgrade: websocket\r\n", &format!("Upgrade: websocket\r\n{offer}"));
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let response = common::Response::read(&mut stream).unwrap();
    assert_eq!((response.status, response.header("sec-websocket-extensions")), (101, None), "{response:?}");
}

#[test]
fn the_server_pings_and_closes_what_does_not_answer() {
    let server = Server::with("memory", &[("ping-interval-ms", "100"), ("pong-timeout-ms", "2000")]);
    let mut silent = server.connect("list");
    silent.answers_pings = false;
    let silent = thread::spawn(move || {
        silent.until_closed();
        silent.pings
    });
    // The one that answers outlives twice the timeout.
    let mut answering = server.connect("list");
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        match answering.event(Duration::from_millis(100)) {
            Event::Nothing => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(answering.pings > 1, "{} pings", answering.pings);
    assert_eq!(answering.update(1, &[cell("k", "c", "v", 1)])["version"], 1);
    assert!(silent.join().unwrap() > 0, "it was asked before it was closed");
}
