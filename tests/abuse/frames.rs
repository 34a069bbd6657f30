//! Bombs: messages that are more than they look like.

use super::common::guarantees::{Abuse, abuse};
use super::common::{
    BINARY, CONTINUATION, Client, Event, Length, PATIENCE, PING, Server, TEXT, fragment, frame, wire,
};
use super::house::{ATTACKER, attacked};

fn attacker(server: &Server) -> Client {
    Client::try_connect_from(ATTACKER, server.addr, "theirs", "").unwrap()
}

/// Sends the bytes over and over until the server ends the connection; gives the close code, and how many it was told that
/// they are too many.
fn flood(client: &mut Client, bytes: &[u8]) -> (Option<u16>, usize) {
    let mut writer = client.second_handle();
    let mut told = 0;
    std::thread::scope(|scope| {
        scope.spawn(move || while writer.try_send(bytes).is_ok() {});
        loop {
            match client.event(PATIENCE) {
                Event::Frame(frame) if frame.opcode == TEXT => {
                    let text = String::from_utf8(frame.payload).unwrap();
                    assert!(text.contains("\"rate_limited\"") && text.contains("\"retryAfterMs\""), "{text}");
                    told += 1;
                }
                Event::Frame(frame) if frame.opcode == super::common::CLOSE => {
                    let code = frame.close_code();
                    // The writer finds the end.
                    client.hang_up();
                    return (code, told);
                }
                Event::Frame(_) => {}
                Event::Ended => return (None, told),
                Event::Nothing => panic!("the flood should be ended"),
            }
        }
    })
}

#[test]
fn endless_fragments_are_ended() {
    let server = Server::with("memory", &[("max-messages-per-s", "100"), ("max-rate-limited-per-min", "5")]);
    let ((code, told), _) = attacked(&server, || {
        let mut client = attacker(&server);
        client.send_bytes(&fragment(TEXT, false, b"{"));
        flood(&mut client, &fragment(CONTINUATION, false, b"").repeat(1_000))
    });
    assert!(code == Some(1008) && (6..=10).contains(&told), "{code:?} {told}");
    assert_eq!(server.limited("max_rate_limited_per_min"), 1);
    abuse(Abuse {
        number: 8,
        attack: "a message in endless empty fragments",
        limit: "`max_messages_per_s` (a fragment counts as a message), `max_rate_limited_per_min`",
        attacker: "`rate_limited` a few times, then closed with 1008",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse endless_fragments_are_ended",
    });
}

#[test]
fn endless_pings_are_ended() {
    let server = Server::with("memory", &[("max-messages-per-s", "100"), ("max-rate-limited-per-min", "5")]);
    let ((code, _), _) =
        attacked(&server, || flood(&mut attacker(&server), &frame(PING, b"?").repeat(1_000)));
    assert_eq!(code, Some(1008));
}

#[test]
fn a_message_in_pieces_is_no_larger_than_one() {
    let server = Server::with("memory", &[("max-message-bytes", "65536")]);
    let ((), felt) = attacked(&server, || {
        for _ in 0..20 {
            let mut client = attacker(&server);
            client.send_bytes(&fragment(BINARY, false, b"x"));
            let pieces = fragment(CONTINUATION, false, b"x").repeat(70_000);
            // It may be ended before all of it is sent.
            let _ = client.try_send(&pieces);
            assert!(matches!(client.until_closed(), Some(1009) | None));
        }
    });
    assert_eq!(server.limited("max_message_bytes"), 20);
    assert!(felt.growth_bytes < 64 << 20, "{felt:?}");
    abuse(Abuse {
        number: 9,
        attack: "a message over the limit in 70,000 fragments of one byte",
        limit: "`max_message_bytes`",
        attacker: "closed with 1009 when the fragments together were too large",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse a_message_in_pieces_is_no_larger_than_one",
    });
}

#[test]
fn what_is_announced_is_not_reserved() {
    let server = Server::start("memory");
    let ((), felt) = attacked(&server, || {
        // Eight mebibytes are announced by each, and not sent; one announces what nobody takes.
        let head = |len: u64| [&[0x82, 0xff][..], &len.to_be_bytes(), &[1, 2, 3, 4]].concat();
        let mut clients: Vec<_> = (0..200).map(|_| attacker(&server)).collect();
        for client in &mut clients {
            client.send_bytes(&head(8 << 20));
        }
        let mut client = attacker(&server);
        client.send_bytes(&head(1 << 40));
        assert_eq!(client.recv_type("error")["code"], "too_large");
        client.expect_close(1009);
    });
    assert!(felt.growth_bytes < 64 << 20, "{felt:?}");
    abuse(Abuse {
        number: 10,
        attack: "200 frames that announce 8 MiB each and bring nothing, and one that announces 1 TiB",
        limit: "`max_message_bytes`",
        attacker: "no memory is taken for what has not come; the large one closed with 1009",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse what_is_announced_is_not_reserved",
    });
}

#[test]
fn messages_that_never_end_have_their_room() {
    const MANY: u64 = 100;
    let server = Server::with("memory", &[("max-partial-bytes", "33554432")]);
    let (closed, _) = attacked(&server, || {
        // Eight mebibytes are announced by each, and six are sent.
        let head = [&[0x82, 0xff][..], &(8_u64 << 20).to_be_bytes(), &[1, 2, 3, 4]].concat();
        let bytes = [head, vec![b'x'; 6 << 20]].concat();
        let mut all: Vec<_> = (0..MANY)
            .map(|_| {
                let mut client = attacker(&server);
                // It may be ended before all of it is sent.
                let _ = client.try_send(&bytes);
                client
            })
            .collect();
        // Four at most have room for it, and stay.
        server.wait_until("connections_closed_total", |closed| closed >= MANY - 4);
        all.iter_mut()
            .filter_map(|client| match client.event(std::time::Duration::from_millis(1)) {
                Event::Frame(frame) => frame.close_code(),
                _ => None,
            })
            .collect::<Vec<_>>()
    });
    assert!(server.limited("max_partial_bytes") >= MANY - 4);
    assert!(!closed.is_empty() && closed.iter().all(|code| *code == 1013), "{closed:?}");
    // When they have gone there is room again.
    server.wait_for_metric("connections", 0);
    let large = "x".repeat(4 << 20);
    server.connect("list").update(1, &[super::common::cell("k", "c", large, 1)]);
    abuse(Abuse {
        number: 25,
        attack: "100 messages of 8 MiB of which 6 MiB are sent, and never the rest",
        limit: "`max_partial_bytes`",
        attacker: "as many as there was room for; the others closed with 1013",
        honest: "nothing: acks and updates went on; large messages of others would have been told to come back later",
        command: "cargo test --test abuse messages_that_never_end_have_their_room",
    });
}

#[test]
fn compressed_frames_are_none() {
    let server = Server::start("memory");
    let ((), _) = attacked(&server, || {
        // What inflates to gigabytes with permessage-deflate, which nobody has agreed on: RSV1 says that it is compressed.
        let mut client = attacker(&server);
        client.send_bytes(&wire(0xc1, true, Length::Minimal, &[0xaa; 1_000]));
        client.expect_close(1002);
    });
    abuse(Abuse {
        number: 11,
        attack: "a compressed bomb",
        limit: "no compression is agreed on",
        attacker: "closed with 1002 at the first byte",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse compressed_frames_are_none",
    });
}
