//! Floods: more messages, bytes or changes than one client may send.

use serde_json::Value;

use super::common::guarantees::{Abuse, abuse};
use super::common::{CLOSE, Client, Event, PATIENCE, Server, TEXT, cell, frame, update, version};
use super::house::{ATTACKER, attacked};

/// What became of updates sent without waiting for anything.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) acked: Vec<u64>,
    pub(crate) limited: Vec<u64>,
    pub(crate) code: Option<u16>,
}

/// Sends them all and reads what comes, until each is answered or the connection is over.
pub(crate) fn flood(client: &mut Client, updates: &[Vec<Value>]) -> Told {
    let mut writer = client.second_handle();
    let mut told = Told::default();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (number, changes) in updates.iter().enumerate() {
                let text = update(number as u64, changes).to_string();
                if writer.try_send(&frame(TEXT, text.as_bytes())).is_err() {
                    return;
                }
            }
        });
        while told.acked.len() + told.limited.len() < updates.len() {
            let frame = match client.event(PATIENCE) {
                Event::Frame(frame) => frame,
                Event::Ended => break,
                Event::Nothing => panic!("an answer should come: {told:?}"),
            };
            if frame.opcode == CLOSE {
                told.code = frame.close_code();
                client.hang_up();
                break;
            }
            let message: Value = serde_json::from_slice(&frame.payload).unwrap();
            let received = message["received"].as_u64().unwrap();
            if message["type"] == "ack" {
                told.acked.push(received);
            } else {
                assert_eq!(message["code"], "rate_limited", "{message}");
                assert!(message["retryAfterMs"].as_u64().unwrap() >= 1, "{message}");
                told.limited.push(received);
            }
        }
    });
    told
}

/// Floods with these settings; what was refused is nowhere, and whoever goes on is closed.
#[track_caller]
fn assert_stopped(limit: &'static str, settings: &[(&str, &str)], updates: Vec<Vec<Value>>, at_least: usize) {
    let server = Server::with("memory", &[settings, &[("max-rate-limited-per-min", "10")]].concat());
    let (told, _) = attacked(&server, || {
        let mut client = Client::try_connect_from(ATTACKER, server.addr, "theirs", "").unwrap();
        flood(&mut client, &updates)
    });
    assert!(told.acked.len() >= at_least && told.acked.len() < updates.len(), "{told:?}");
    // Ten, and one in six seconds; the one that is too many is told so too.
    assert!(told.code == Some(1008) && (11..=20).contains(&told.limited.len()), "{told:?}");
    assert_eq!(server.limited(limit), told.limited.len() as u64);
    let mut client = server.connect("theirs");
    // What was sent behind the last refusal may have been taken, and not be acked any more.
    let found = client.pull_rows(0);
    assert_eq!(found.len(), told.acked.iter().map(|n| updates[*n as usize].len()).sum::<usize>());
}

pub(crate) fn updates(count: usize, changes: usize, value: &str) -> Vec<Vec<Value>> {
    let update = |n| (0..changes).map(|c| cell(&format!("{n}/{c}"), "c", value, 1)).collect();
    (0..count).map(update).collect()
}

#[test]
fn messages_have_a_rate() {
    assert_stopped("max_messages_per_s", &[("max-messages-per-s", "20")], updates(5_000, 1, "v"), 200);
    abuse(Abuse {
        number: 12,
        attack: "5,000 messages as fast as they go",
        limit: "`max_messages_per_s`, `max_rate_limited_per_min`",
        attacker: "ten seconds' worth acked, the others `rate_limited` with `retryAfterMs` and `received` and not applied; \
                   closed with 1008 as it went on",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse messages_have_a_rate",
    });
}

#[test]
fn bytes_have_a_rate() {
    let value = "v".repeat(10_000);
    assert_stopped("max_bytes_per_s", &[("max-bytes-per-s", "20000")], updates(500, 1, &value), 20);
    abuse(Abuse {
        number: 13,
        attack: "500 messages of 10 kB as fast as they go",
        limit: "`max_bytes_per_s`, `max_rate_limited_per_min`",
        attacker: "the same",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse bytes_have_a_rate",
    });
}

#[test]
fn changes_have_a_rate() {
    assert_stopped("max_changes_per_s", &[("max-changes-per-s", "200")], updates(300, 100, "v"), 20);
    abuse(Abuse {
        number: 14,
        attack: "300 updates of 100 changes as fast as they go",
        limit: "`max_changes_per_s`, `max_rate_limited_per_min`",
        attacker: "the same",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse changes_have_a_rate",
    });
}

#[test]
fn who_waits_as_told_is_served() {
    let server = Server::with("memory", &[("max-changes-per-s", "50")]);
    let mut client = server.connect("list");
    // More than comes at once is taken, and paid for by what comes next.
    client.update(1, &updates(1, 600, "v")[0]);
    client.send_json(&update(2, &[cell("k", "c", "v", 1)]));
    let error = client.recv_type("error");
    assert_eq!((&error["code"], &error["received"]), (&"rate_limited".into(), &2.into()), "{error}");
    // A pull has no changes.
    assert_eq!(client.pull_rows(0).len(), 600);
    std::thread::sleep(std::time::Duration::from_millis(error["retryAfterMs"].as_u64().unwrap()));
    client.update(2, &[cell("k", "c", "v", 1)]);
}

#[test]
fn a_month_offline_is_no_flood() {
    let server = Server::start("memory");
    let mut client = server.connect("list");
    let changes: Vec<_> = (0..50_000).map(|n| cell(&format!("k{n}"), "c", n, 1)).collect();
    assert_eq!(version(&client.update(1, &changes)), 1);
    // And the same in messages of one change, none of which waits for another.
    let one: Vec<_> = changes.iter().map(|change| vec![change.clone()]).collect();
    let told = flood(&mut server.connect("other"), &one);
    assert_eq!((told.acked.len(), told.limited.len()), (50_000, 0));
}
