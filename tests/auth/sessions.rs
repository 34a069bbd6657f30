//! What a connection may do, until when, and what a fresh token changes.

use serde_json::{Value, json};

use crate::common::{CLOSE, Client, Event, PATIENCE, cell, update};
use crate::house::{House, SECOND, claims, now, token};
use crate::jwt::{hs256, sign};

fn auth(token: &str) -> Value {
    json!({"type": "auth", "token": token})
}

/// The server says why, then closes with 1008; gives the reason.
#[track_caller]
fn expect_end(client: &mut Client) -> String {
    let error = client.recv_type("error");
    assert_eq!(error["code"], "unauthorized", "{error}");
    let frame = client.recv_frame();
    assert_eq!((frame.opcode, frame.close_code()), (CLOSE, Some(1008)));
    error["message"].as_str().unwrap().to_owned()
}

/// Waits for a moment of the clock that tokens are checked by.
fn wait_until(moment: f64) {
    while now() < moment {
        std::thread::sleep(std::time::Duration::from_secs_f64((moment - now()).max(0.001)));
    }
}

#[test]
fn a_token_that_expires_closes_its_connection() {
    let house = House::new();
    let mut other = house.connect("list", &token(json!({})));
    let (mut client, exp, _) = house.passing(1.0);
    assert!(expect_end(&mut client).contains("expired"));
    assert!(now() >= exp, "not before its time");
    assert_eq!(house.metric("causeway_sessions_ended_total{reason=\"expired\"}"), 1);
    other.update(1, &[cell("k", "c", "v", 1)]);
}

#[test]
fn nothing_is_stored_after_the_end() {
    let house = House::new();
    let (mut client, exp, _) = house.passing(0.5);
    wait_until(exp + 0.5);
    let _ = client.try_send(&crate::common::frame(
        crate::common::TEXT,
        update(1, &[cell("k", "c", "v", 1)]).to_string().as_bytes(),
    ));
    assert_eq!(client.until_closed(), Some(1008));
    assert_eq!(house.connect("list", &token(json!({}))).pull_rows(0), [] as [Value; 0]);
}

#[test]
fn leeway_is_given_and_no_more() {
    let house = House::with_leeway("3", &[]);
    let exp = now() - 0.5;
    let mut client = house.connect("list", &token(json!({ "exp": exp })));
    expect_end(&mut client);
    assert!(now() >= exp + 3.0);
    assert_eq!(house.try_connect("list", &token(json!({"exp": now() - 3.0}))).err().unwrap().status, 401);
}

#[test]
fn a_fresh_token_keeps_a_connection_open() {
    // So rarely that no review sees the end before the test has given up.
    let house = House::with(&[("ping-interval-ms", "3600000")]);
    let (mut client, exp, _) = house.passing(3.0);
    client.send_json(&auth(&token(json!({}))));
    client.update(1, &[cell("k", "c", "v", 1)]);
    wait_until(exp + 0.5);
    client.update(2, &[cell("k", "c", "w", 2)]);
    // The next one may end earlier.
    let exp = now() + 2.0;
    client.send_json(&auth(&token(json!({ "exp": exp }))));
    assert!(expect_end(&mut client).contains("expired"));
    assert!(now() >= exp);
}

#[test]
fn a_bad_fresh_token_is_answered_and_changes_nothing() {
    let house = House::new();
    let (mut client, exp, _) = house.passing(5.0);
    for bad in [
        "nonsense".to_owned(),
        String::new(),
        sign(hs256(SECOND.as_bytes()), &claims(json!({}))),
        token(json!({"exp": now() - 1.0})),
        token(json!({"sub": "bob"})),
        token(json!({"channels": {"other": "write"}})),
        token(json!({"nbf": now() + 60.0})),
    ] {
        client.send_json(&auth(&bad));
        let error = client.recv_type("error");
        assert_eq!(error["code"], "unauthorized", "{error}");
        assert!(error.get("received").is_none(), "{error}");
    }
    for malformed in [json!({"type": "auth"}), json!({"type": "auth", "token": 1}), auth(&"x".repeat(20_000))]
    {
        client.send_json(&malformed);
        assert_eq!(client.recv_type("error")["code"], "malformed");
    }
    client.update(1, &[cell("k", "c", "v", 1)]);
    expect_end(&mut client);
    assert!(now() >= exp);
    assert_eq!(house.metric("causeway_auth_denied_total{at=\"message\",reason=\"subject\"}"), 1);
}

#[test]
fn bad_fresh_tokens_in_a_row_end_the_connection() {
    let house = House::with(&[("max-bad-messages", "5")]);
    let mut client = house.connect("list", &token(json!({})));
    for _ in 0..5 {
        client.send_json(&auth("guess"));
        assert_eq!(client.recv_type("error")["code"], "unauthorized");
    }
    client.expect_close(1008);
}

#[test]
fn a_read_only_connection_reads_and_does_not_write() {
    let house = House::new();
    let mut writer = house.connect("list", &token(json!({})));
    let mut reader = house.connect("list", &token(json!({"sub": "bob", "channels": {"list": "read"}})));
    writer.update(1, &[cell("a", "c", "v", 1)]);
    assert_eq!(reader.recv_type("update")["version"], 1);
    reader.send_json(&update(7, &[cell("b", "c", "v", 1)]));
    let error = reader.recv_type("error");
    assert_eq!((&error["code"], &error["received"]), (&json!("forbidden"), &json!(7)), "{error}");
    assert_eq!(reader.pull_rows(0).len(), 1);
    assert_eq!(house.server.http_get("/healthz").status, 200);
    // It may become one that writes, and back.
    let bob = |access: &str| auth(&token(json!({"sub": "bob", "channels": {"list": access}})));
    reader.send_json(&bob("write"));
    reader.update(8, &[cell("b", "c", "v", 1)]);
    reader.send_json(&bob("read"));
    reader.send_json(&update(9, &[cell("c", "c", "v", 1)]));
    assert_eq!(reader.recv_type("error")["code"], "forbidden");
    assert_eq!(writer.recv_type("update")["version"], 2);
    assert_eq!(writer.pull_rows(0).len(), 2, "nothing of the refused ones");
}

#[test]
fn updates_of_a_reader_are_bad_messages() {
    let house = House::with(&[("max-bad-messages", "3")]);
    let mut reader = house.connect("list", &token(json!({"channels": {"list": "read"}})));
    for n in 0..3 {
        reader.send_json(&update(n, &[cell("b", "c", "v", 1)]));
        assert_eq!(reader.recv_type("error")["code"], "forbidden");
    }
    reader.expect_close(1008);
}

#[test]
fn no_expiry_is_too_far() {
    let house = House::with(&[("ping-interval-ms", "50")]);
    for exp in [json!(u64::MAX), json!(i64::MAX), json!(1e300), json!(9_007_199_254_740_991_u64), json!(1e12)]
    {
        let mut client = house.connect("list", &token(json!({ "exp": exp })));
        client.answers_pings = true;
        // Through some reviews of the session.
        while client.pings < 3 {
            assert!(
                !matches!(client.event(PATIENCE.min(std::time::Duration::from_millis(200))), Event::Ended),
                "{exp}"
            );
        }
        client.update(1, &[cell("k", "c", "v", 1)]);
    }
}

#[test]
fn without_authentication_a_token_means_nothing() {
    let server = crate::common::Server::start("memory");
    let mut client = Client::connect_to(server.addr, "/?channel=list&token=nonsense");
    client.send_json(&auth("nonsense"));
    client.update(1, &[cell("k", "c", "v", 1)]);
}
