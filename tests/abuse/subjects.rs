//! Subjects: one who has a token, and comes as many.

use std::net::Ipv4Addr;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::common::guarantees::{Abuse, abuse};
use super::common::jwt::{hs256, secret_file, sign, token};
use super::common::{CLOSE, Client, Event, PATIENCE, Response, Server, TEXT, cell, frame, jwt};
use super::floods::{flood, updates};
use super::house::{ATTACKER, attacked, bearer};

/// A server that asks for tokens, and the directory of its secret.
pub(crate) fn server(settings: &[(&str, &str)]) -> (Server, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let secret = secret_file(dir.path());
    let secret = ("auth-hs256-secret-file", secret.to_str().unwrap());
    (Server::with("memory", &[&[secret], settings].concat()), dir)
}

/// A connection of the subject, the `n`th: each from an address of its own.
fn connect(server: &Server, subject: &str, n: u8) -> Result<Client, Response> {
    Client::try_connect_from(
        Ipv4Addr::new(127, 0, 3, n),
        server.addr,
        &format!("{subject} {n}"),
        &bearer(subject),
    )
}

/// Two connections of one subject have no more than its `rate` together, each update being `cost` of it, and another subject has
/// its own.
#[track_caller]
fn assert_shared(limit: &'static str, rate: u64, all: &[Vec<Value>], cost: u64) {
    let (setting, rate_text) = (limit.replace('_', "-"), rate.to_string());
    let (server, _dir) = server(&[(&setting, &rate_text), ("max-rate-limited-per-min", "10")]);
    let ((told, seconds), _) = attacked(&server, || {
        let mut both = [1, 2].map(|n| connect(&server, "mallory", n).unwrap());
        let start = Instant::now();
        let told = both.each_mut().map(|client| flood(client, all));
        (told, start.elapsed().as_secs_f64())
    });
    for told in &told {
        // Ten, and one in six seconds; the one that is too many is told so too.
        assert!(told.code == Some(1008) && (11..=20).contains(&told.limited.len()), "{told:?}");
    }
    let limited: usize = told.iter().map(|told| told.limited.len()).sum();
    assert_eq!(server.limited(limit), limited as u64);
    // Ten seconds' worth at once, its rate since, and one update that began below it. What each alone may have is twice that.
    let acked: usize = told.iter().map(|told| told.acked.len()).sum();
    let most = rate as f64 * (10.0 + seconds) + cost as f64;
    assert!(
        (acked as u64 * cost) as f64 <= most,
        "{acked} updates of {cost}, {most} in {seconds} s: {told:?}"
    );
    assert!(acked as u64 * cost >= rate * 10, "{told:?}");
    let mut other = connect(&server, "bob", 3).unwrap();
    let few = (rate * 9 / cost) as usize;
    assert_eq!(flood(&mut other, &all[..few]).acked.len(), few);
}

#[test]
fn a_subject_has_one_rate_of_messages() {
    assert_shared("max_subject_messages_per_s", 20, &updates(5_000, 1, "v"), 1);
    abuse(Abuse {
        number: 18,
        attack: "5,000 messages each over two connections of one subject, from two addresses, as fast as they go",
        limit: "`max_subject_messages_per_s`, `max_rate_limited_per_min`",
        attacker: "ten seconds' worth acked in all, not each; the others `rate_limited`; both closed with 1008 as they went on",
        honest: "nothing; another subject had a rate of its own",
        command: "cargo test --test abuse a_subject_has_one_rate_of_messages",
    });
}

#[test]
fn a_subject_has_one_rate_of_bytes() {
    // At least these in each message, and some around them.
    let value = "v".repeat(10_000);
    assert_shared("max_subject_bytes_per_s", 20_000, &updates(500, 1, &value), 10_000);
    abuse(Abuse {
        number: 19,
        attack: "500 messages of 10 kB each over two connections of one subject",
        limit: "`max_subject_bytes_per_s`, `max_rate_limited_per_min`",
        attacker: "the same",
        honest: "nothing; another subject had a rate of its own",
        command: "cargo test --test abuse a_subject_has_one_rate_of_bytes",
    });
}

#[test]
fn a_subject_has_one_rate_of_changes() {
    assert_shared("max_subject_changes_per_s", 200, &updates(300, 100, "v"), 100);
    abuse(Abuse {
        number: 20,
        attack: "300 updates of 100 changes each over two connections of one subject",
        limit: "`max_subject_changes_per_s`, `max_rate_limited_per_min`",
        attacker: "the same",
        honest: "nothing; another subject had a rate of its own",
        command: "cargo test --test abuse a_subject_has_one_rate_of_changes",
    });
}

#[test]
fn a_subject_has_its_share_of_connections() {
    let (server, _dir) = server(&[("max-connections-per-subject", "10")]);
    let (refused, _) = attacked(&server, || {
        let all: Vec<_> = (0..50).map(|n| connect(&server, "mallory", n)).collect();
        let refused: Vec<_> = all.iter().filter_map(|client| client.as_ref().err()).collect();
        for answer in &refused {
            assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
            assert!(answer.text().contains("max_connections_per_subject"), "{}", answer.text());
        }
        connect(&server, "bob", 60).unwrap().update(1, &[cell("k", "c", "v", 1)]);
        refused.len()
    });
    assert_eq!((refused, server.limited("max_connections_per_subject")), (40, 40));
    // When they have gone there is room again.
    server.wait_for_metric("connections", 0);
    connect(&server, "mallory", 1).unwrap();
    abuse(Abuse {
        number: 21,
        attack: "50 connections of one subject, each from an address of its own",
        limit: "`max_connections_per_subject`",
        attacker: "as many as its share; the others 429, `quota_exceeded`",
        honest: "nothing; another subject was let in",
        command: "cargo test --test abuse a_subject_has_its_share_of_connections",
    });
}

#[test]
fn fresh_tokens_are_messages_too() {
    let (server, _dir) = server(&[("max-messages-per-s", "20"), ("max-rate-limited-per-min", "10")]);
    let fresh = |subject: &str| {
        let token = token(json!({"sub": subject, "channels": {"*": "write"}}));
        frame(TEXT, json!({"type": "auth", "token": token}).to_string().as_bytes())
    };
    // A good one between the bad ones, so that they are never many in a row.
    let pair = [fresh("mallory"), fresh("ann")].concat();
    let ((bad, limited, code), _) = attacked(&server, || {
        let mut client = connect(&server, "mallory", 1).unwrap();
        let mut writer = client.second_handle();
        let (mut bad, mut limited, mut code) = (0, 0, None);
        std::thread::scope(|scope| {
            scope.spawn(move || while writer.try_send(&pair).is_ok() {});
            while let Event::Frame(frame) = client.event(PATIENCE) {
                if frame.opcode == CLOSE {
                    code = frame.close_code();
                    break;
                }
                let error: Value = serde_json::from_slice(&frame.payload).unwrap();
                match error["code"].as_str().unwrap() {
                    "unauthorized" => bad += 1,
                    "rate_limited" => limited += 1,
                    other => panic!("{other}: {error}"),
                }
            }
            client.hang_up();
        });
        (bad, limited, code)
    });
    assert!(bad >= 100 && code == Some(1008) && (11..=20).contains(&limited), "{bad} {limited} {code:?}");
    assert_eq!(server.limited("max_messages_per_s"), limited);
    abuse(Abuse {
        number: 22,
        attack: "`auth` messages without end, every second one with a token that is not the subject's",
        limit: "`max_messages_per_s`, `max_rate_limited_per_min`; of bad ones in a row `max_bad_messages`",
        attacker: "`unauthorized` for ten seconds' worth, then `rate_limited`; closed with 1008 as it went on",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse fresh_tokens_are_messages_too",
    });
}

#[test]
fn bad_tokens_are_tried_no_faster_than_connections_are_made() {
    let proxy = Ipv4Addr::new(127, 0, 0, 77);
    let settings = [("max-new-connections-per-ip-per-s", "10"), ("trusted-proxies", "127.0.0.77")];
    let (server, _dir) = server(&settings);
    let claims = jwt::claims(json!({"channels": {"*": "write"}}));
    let guess = |n: usize| {
        let secret = format!("a secret that somebody has guessed {n}");
        format!("Authorization: Bearer {}\r\n", sign(hs256(secret.as_bytes()), &claims))
    };
    let tried = |from: Ipv4Addr, more: &str| {
        let mut answers = [0_usize; 2];
        for n in 0..500 {
            let headers = guess(n) + more;
            let answer = Client::try_connect_from(from, server.addr, "honest", &headers).err().unwrap();
            answers[[401, 429].iter().position(|status| *status == answer.status).unwrap()] += 1;
        }
        answers
    };
    let ([direct, proxied], _) = attacked(&server, || {
        let both = [tried(ATTACKER, ""), tried(proxy, "X-Forwarded-For: 192.0.2.1\r\n")];
        // Who comes by the same proxy is let in.
        let headers = bearer("bob") + "X-Forwarded-For: 192.0.2.2\r\n";
        Client::try_connect_from(proxy, server.addr, "honest", &headers).unwrap();
        both
    });
    for [denied, limited] in [direct, proxied] {
        // A hundred at once, and ten a second.
        assert!(denied >= 100 && limited >= 1, "{denied} {limited}");
    }
    let denied = server.metric_lines("causeway_auth_denied_total{at=\"request\",reason=\"signature\"}");
    assert!(denied[0].ends_with(&format!(" {}", direct[0] + proxied[0])), "{denied:?}");
    assert_eq!(server.limited("max_new_connections_per_ip_per_s"), (direct[1] + proxied[1]) as u64);
    abuse(Abuse {
        number: 23,
        attack: "500 guessed tokens from one address, and 500 from one client of a trusted proxy",
        limit: "`max_new_connections_per_ip_per_s`: a connection is for one request, and one behind a trusted proxy is its client's",
        attacker: "401 for ten seconds' worth at once, then for its rate; the others 429 without a look at the token",
        honest: "nothing; who came from another address, or by the same proxy, was let in",
        command: "cargo test --test abuse bad_tokens_are_tried_no_faster_than_connections_are_made",
    });
}
