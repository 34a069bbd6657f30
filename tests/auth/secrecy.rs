//! A token is never written down: not in a log at any level, not in an answer, not in a metric.

use serde_json::{Value, json};

use crate::common::{CLOSE, TEXT, cell, frame};
use crate::house::{House, SECOND, SECRET, claims, now, token};
use crate::jwt::{Signer, hs256, sign};

#[test]
fn no_token_is_ever_written_down() {
    let house = House::with(&[("log", "trace"), ("max-bad-messages", "1000"), ("ping-interval-ms", "100")]);
    let api_key = "causeway_feedfacefeedfacefeedfacefeedfacefeedface";
    let mut shown = String::new();
    let mut tokens = vec![
        token(json!({"jti": "good"})),
        token(json!({"jti": "reads", "channels": {"list": "read"}})),
        token(json!({"jti": "expired", "exp": 1})),
        token(json!({"jti": "later", "nbf": now() + 60.0})),
        token(json!({"jti": "elsewhere", "channels": {"other": "write"}})),
        token(json!({"jti": "other subject", "sub": "bob"})),
        token(json!({"jti": "bad claims", "channels": ["list"]})),
        sign(hs256(SECOND.as_bytes()), &claims(json!({"jti": "other key"}))),
        sign(Signer { alg: "none", key: b"" }, &claims(json!({"jti": "none"}))) + "c2lnbmF0dXJl",
        "nonsensical.bearer.material".to_owned(),
        api_key.to_owned(),
    ];
    for token in &tokens {
        let bearer = format!("Authorization: Bearer {token}\r\n");
        let query = format!("/?channel=list&token={token}");
        let protocols = format!("Sec-WebSocket-Protocol: causeway, causeway.bearer.{token}\r\n");
        for (target, headers) in [
            ("/?channel=list", &*bearer),
            (&*query, ""),
            ("/?channel=list", &*protocols),
            // Refused for something else.
            ("/?channel=%00", &*bearer),
            (&*format!("/nowhere?token={token}"), ""),
            (&*format!("/metrics?token={token}"), ""),
            (&*query, "Authorization: Bearer another.to.ken\r\n"),
            (&*query, "Sec-WebSocket-Version: 12\r\n"),
        ] {
            use std::io::{Read, Write};
            let mut stream = house.server.tcp();
            let request = crate::common::upgrade_request_with(target, headers);
            // Let in or not, all that the server has to say.
            stream.write_all(&[request.as_bytes(), &frame(CLOSE, b"")].concat()).unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            shown += &String::from_utf8_lossy(&answer);
        }
    }
    let mut client = house.connect("list", &tokens[0]);
    let (mut passing, _, token_that_passes) = house.passing(1.0);
    tokens.push(token_that_passes);
    for token in &tokens {
        client.send_json(&json!({"type": "auth", "token": token}));
        for malformed in [
            format!(r#"{{"type":"auth","token":"{token}""#),
            format!(r#"{{"type":"auth","token":["{token}"]}}"#),
            format!(r#"{{"type":"auth","token":"{token}","token":"{token}"}}"#),
            token.clone(),
        ] {
            client.send_bytes(&frame(TEXT, malformed.as_bytes()));
        }
    }
    // After `other subject` was refused and `reads` taken, the last good one stands.
    client.send_json(&json!({"type": "auth", "token": tokens[0]}));
    client.send_json(&crate::common::update(1, &[cell("k", "c", "v", 1)]));
    loop {
        let message: Value = client.recv_json();
        shown += &message.to_string();
        if message["type"] == "ack" {
            break;
        }
    }
    loop {
        let message = passing.recv_json();
        shown += &message.to_string();
        if message["code"] == "unauthorized" {
            break;
        }
    }
    passing.expect_close(1008);
    let all = token(json!({"jti": "metrics", "channels": {"*": "read"}}));
    shown += &house.server.http_get(&format!("/metrics?token={all}")).text();
    house.write("secret", &format!("{SECRET}\n{SECOND} {SECOND}\nshort-secret\n"));
    crate::house::until("the gauge follows", || house.metric("causeway_auth_keys_stale") == 1);
    let log = house.server.stop_and_log();
    assert!(log.contains("DEBUG causeway::routes: refused a request"), "the log is at work: {log}");

    for text in [&shown, &log] {
        for token in tokens.iter().chain([&all]) {
            // Any piece of a token that is long enough to be of use.
            for part in token.split('.').chain([token.as_str()]).filter(|part| part.len() >= 8) {
                let piece = &part[part.len() - 8..];
                let at = text
                    .find(piece)
                    .map(|at| text[at.saturating_sub(200)..].chars().take(400).collect::<String>());
                assert_eq!(at, None, "{piece} of {token}");
            }
        }
        for secret in [SECRET, SECOND, "short-secret"] {
            assert!(!text.contains(secret), "a secret is written down");
        }
    }
}
