//! Bad messages: each is answered, none is applied in part, none disturbs anybody.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{
    BINARY, CONTINUATION, Client, SITE, Server, TEXT, cell, fragment, frame, keys, pull, update, wire,
};
use serde_json::{Value, json};

const MALFORMED: &[&str] = &["malformed"];
const UNKNOWN: &[&str] = &["unknown_type"];

/// A bad message, and the codes that may answer it.
struct Bad {
    text: String,
    codes: &'static [&'static str],
}

fn bad(codes: &'static [&'static str], texts: &[&str]) -> Vec<Bad> {
    texts.iter().map(|text| Bad { text: (*text).to_owned(), codes }).collect()
}

/// An update with `version` 77 and these changes, as JSON text.
fn update_text(changes: &str) -> String {
    format!(r#"{{"type":"update","siteId":"{SITE}","version":77,"channel":"list","changes":[{changes}]}}"#)
}

/// Sends every bad message, with a good one after each, over one connection that another one watches.
fn assert_refused(server: &Server, cases: &[Bad]) {
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    for (n, Bad { text, codes }) in cases.iter().enumerate() {
        let shown: String = text.chars().take(200).collect();
        client.send_text(text);
        let error = client.recv_json();
        assert_eq!(error["type"], "error", "{error} answers {shown}");
        assert!(codes.iter().any(|code| error["code"] == *code), "{error} answers {shown}, not {codes:?}");
        assert_eq!(error["channel"], "list", "{error} answers {shown}");
        assert!(
            error["message"].as_str().is_some_and(|message| !message.is_empty()),
            "{error} answers {shown}"
        );
        // A message that cannot be read may have no version to answer to.
        if codes != &MALFORMED && text.contains(r#""version":77"#) {
            assert_eq!(error["received"], 77, "{error} answers {shown}");
        }
        let good = client.update(n as u64, &[cell(&format!("good{n}"), "c", n, 1)]);
        assert_eq!(good["version"], n + 1, "nothing was applied of {shown}");
        assert_eq!(other.recv_type("update")["version"], n + 1, "nobody was told of {shown}");
    }
    let expected: Vec<_> = (0..cases.len()).map(|n| format!("good{n}")).collect();
    assert_eq!(keys(&client.pull_rows(0)), expected, "only the good ones are stored");
}

#[test]
fn what_is_not_json_is_malformed() {
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"type":"pull","version":0,"siteId":"S","channel":"c","x":{open}{close}}}"#)
    };
    let whole = update_text(r#"["todos","k","c","v",1,1,"S",1,0]"#);
    let mut cases = bad(
        MALFORMED,
        &[
            "",
            " ",
            "x",
            "null",
            "true",
            "17",
            "\"update\"",
            "[]",
            "[{}]",
            "{",
            "}",
            "{}}",
            "{\"type\"}",
            "{\"type\":}",
            "{type:\"pull\"}",
            "{'type':'pull'}",
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":00}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":+1}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":.5}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":NaN}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0} x"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0}{"type":"pull","siteId":"S","channel":"list","version":0}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"type":"pull"}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"version":0}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"vers\u0069on":0}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"x":1,"x":1}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"x":{"y":1,"y":1}}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"x":"\ud800"}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"x":"\udc00\ud800"}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"x":"\ud800\u0041"}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"x":"\x41"}"#,
            r#"{"type":"pull","siteId":"S","channel":"list","version":0,"x":"\u12"}"#,
            "{\"type\":\"pull\",\"siteId\":\"S\",\"channel\":\"list\",\"version\":0,\"x\":\"line\nbreak\"}",
            "{\"type\":\"pull\",\"siteId\":\"S\",\"channel\":\"list\",\"version\":0,\"x\":\"nul\0\"}",
            "\u{feff}{\"type\":\"pull\"",
            // Trailing bytes and a lone surrogate in an update that would be good without.
            &format!("{whole}]"),
            &format!("{whole},"),
            &whole.replace("\"v\"", r#""\ud83d""#),
            &nested(65),
            &nested(200),
            &nested(100_000),
            &"[".repeat(200_000),
            &"{\"a\":".repeat(50_000),
        ],
    );
    // A good message that ends anywhere but at its end.
    cases.extend(
        (1..whole.len()).step_by(7).map(|end| Bad { text: whole[..end].to_owned(), codes: MALFORMED }),
    );
    assert_refused(&Server::start("memory"), &cases);

    // 64 levels are not too many.
    let server = Server::start("memory");
    let mut client = server.connect("list");
    client.send_text(&nested(64));
    assert_eq!(client.recv_type("update")["version"], 0);
}

#[test]
fn a_message_with_wrong_fields_is_refused() {
    let mut cases = bad(
        &["malformed", "unknown_type"],
        &["{}", r#"{"version":0}"#, r#"{"type":null}"#, r#"{"type":5}"#, r#"{"type":["pull"],"version":0}"#],
    );
    cases.extend(bad(
        UNKNOWN,
        &[
            r#"{"type":""}"#,
            r#"{"type":"nonsense"}"#,
            r#"{"type":"Pull","version":0}"#,
            r#"{"type":"pull ","version":0}"#,
            r#"{"type":"connected","version":0,"siteId":"S","channel":"c"}"#,
            r#"{"type":"ack","version":0,"siteId":"S","channel":"c"}"#,
            r#"{"type":"error","code":"storage","message":"m"}"#,
        ],
    ));
    cases.extend(bad(
        MALFORMED,
        &[
            r#"{"type":"pull","siteId":"S","version":"0"}"#,
            r#"{"type":"pull","siteId":"S","version":-1}"#,
            r#"{"type":"pull","siteId":"S","version":1.5}"#,
            r#"{"type":"pull","siteId":"S","version":1e300}"#,
            r#"{"type":"pull","siteId":"S","version":[0]}"#,
            r#"{"type":"update","siteId":"S","version":"1","changes":[["t","k","c",1,1,1,"S",1,0]]}"#,
            r#"{"type":"update","siteId":"S","version":-1,"changes":[["t","k","c",1,1,1,"S",1,0]]}"#,
            r#"{"type":"update","siteId":"S","version":1.5,"changes":[["t","k","c",1,1,1,"S",1,0]]}"#,
            r#"{"type":"update","siteId":5,"version":1,"changes":[["t","k","c",1,1,1,"S",1,0]]}"#,
            r#"{"type":"update","siteId":"S","version":1}"#,
            r#"{"type":"update","siteId":"S","version":1,"changes":null}"#,
            r#"{"type":"update","siteId":"S","version":1,"changes":"[]"}"#,
            r#"{"type":"update","siteId":"S","version":1,"changes":{"0":["t","k","c",1,1,1,"S",1,0]}}"#,
        ],
    ));
    assert_refused(&Server::start("memory"), &cases);
}

#[test]
fn one_bad_change_refuses_the_whole_message_and_is_named() {
    for store in causeway_storage::BACKENDS.iter().map(|backend| backend.name) {
        let server = Server::start(store);
        let (mut client, mut other) = (server.connect("list"), server.connect("list"));
        for index in [0, 17, 39] {
            let mut sent: Vec<_> = (0..40).map(|n| cell(&format!("k{n}"), "c", "v", 1)).collect();
            sent[index][1] = json!("");
            client.send_json(&update(77, &sent));
            let error = client.recv_type("error");
            assert_eq!(
                (&error["code"], &error["received"]),
                (&json!("invalid_change"), &json!(77)),
                "{error}"
            );
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(&index.to_string()) && message.contains("pk"), "{message}");
        }
        assert_eq!(client.update(78, &[cell("good", "c", "v", 1)])["version"], 1);
        assert_eq!(keys(common::changes(&other.recv_type("update"))), ["good"]);
        assert_eq!(keys(&client.pull_rows(0)), ["good"]);
    }
}

#[test]
fn an_update_may_have_as_many_changes_as_the_limit_and_no_more() {
    let server = Server::with("memory", &[("max-changes-per-update", "10")]);
    let many = |n: usize| (0..n).map(|i| cell(&format!("k{i}"), "c", "v", 1)).collect::<Vec<_>>();
    let cases = [Bad { text: update(77, &many(11)).to_string(), codes: &["too_many_changes"] }];
    assert_refused(&server, &cases);
    assert_eq!(server.connect("other").update(1, &many(10))["version"], 1);
}

#[test]
fn a_strict_channel_refuses_messages_for_another_one() {
    let server = Server::with("memory", &[("strict-channel", "true")]);
    let change = r#"["todos","k","c","v",1,1,"S",1,0]"#;
    let cases = bad(
        &["wrong_channel"],
        &[
            &update_text(change).replace("\"list\"", "\"elsewhere\""),
            &update_text(change).replace("\"list\"", "\"LIST\""),
            r#"{"type":"pull","siteId":"S","version":0,"channel":"elsewhere"}"#,
        ],
    );
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    for Bad { text, .. } in &cases {
        client.send_text(text);
        let error = client.recv_type("error");
        assert_eq!((&error["code"], &error["channel"]), (&json!("wrong_channel"), &json!("list")), "{error}");
        if text.contains("update") {
            assert_eq!(error["received"], 77, "{error}");
        }
    }
    client.send_text(&update_text(change));
    assert_eq!(client.recv_type("ack")["version"], 1);
    assert_eq!(other.recv_type("update")["version"], 1);
    client.send_text(r#"{"type":"pull","siteId":"S","version":0,"channel":"list"}"#);
    assert_eq!(keys(common::changes(&client.recv_type("update"))), ["k"]);
}

#[test]
fn invalid_utf8_is_malformed_in_a_binary_frame_and_closes_in_a_text_frame() {
    let server = Server::start("memory");
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    let good = update(7, &[cell("k", "c", "MARK", 1)]).to_string().into_bytes();
    let at = good.windows(4).position(|window| window == b"MARK").unwrap();
    let wrong: [&[u8]; 5] = [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"];
    for wrong in wrong {
        let text = [&good[..at], wrong, &good[at + 4..]].concat();
        client.send_bytes(&frame(BINARY, &text));
        assert_eq!(client.recv_type("error")["code"], "malformed", "{wrong:?}");
        let mut second = server.connect("list");
        second.send_bytes(&frame(TEXT, &text));
        second.expect_close(1007);
    }
    assert_eq!(client.update(8, &[cell("k", "c", "v", 1)])["version"], 1);
    assert_eq!(other.recv_type("update")["version"], 1);
}

/// Sends `n` bad messages and takes their errors.
fn send_bad(client: &mut Client, n: usize) {
    for _ in 0..n {
        client.send_text("{");
        assert_eq!(client.recv_type("error")["code"], "malformed");
    }
}

#[test]
fn twenty_bad_messages_in_a_row_close_and_a_good_one_resets_the_count() {
    let server = Server::start("memory");
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    for n in 1..=3 {
        send_bad(&mut client, 19);
        assert_eq!(client.update(n, &[cell(&format!("k{n}"), "c", "v", 1)])["version"], n);
        other.recv_type("update");
    }
    send_bad(&mut client, 19);
    assert_eq!(client.pull(0).len(), 1, "a pull is a good message");
    send_bad(&mut client, 19);
    client.send_text("{");
    client.expect_close(1008);
    assert_eq!(other.update(1, &[cell("after", "c", "v", 1)])["version"], 4, "others go on");

    // Refused updates count like unreadable ones.
    let mut client = server.connect("list");
    for n in 0..20 {
        client.send_json(&update(n, &[cell("", "c", "v", 1)]));
    }
    client.expect_close(1008);
}

/// What only the merge can see is bad input like any other.
#[test]
fn twenty_updates_in_a_row_beyond_the_clamp_close() {
    let server = Server::start("memory");
    let mut client = server.connect("list");
    for n in 0..20 {
        client.send_json(&update(n, &[cell("k", "c", "v", 1_000_001)]));
        assert_eq!(client.recv_type("error")["code"], "invalid_change");
    }
    client.expect_close(1008);
}

#[test]
fn a_frame_over_the_limit_closes() {
    const NINE_MIB: usize = 9 << 20;
    let server = Server::start("memory");
    let mut other = server.connect("list");
    let payload = vec![b' '; NINE_MIB];

    let mut client = server.connect("list");
    // The server may close before it has read all of it.
    let _ = client.try_send(&frame(TEXT, &payload));
    client.expect_close(1009);

    // The announced length is enough.
    let mut client = server.connect("list");
    let announced = frame(BINARY, &payload);
    client.send_bytes(&announced[..100]);
    client.expect_close(1009);

    // More than anyone could hold.
    let mut client = server.connect("list");
    client.send_bytes(&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    client.expect_close(1009);

    let mut client = server.connect("list");
    let mib = &payload[..1 << 20];
    let _ = client.try_send(&fragment(TEXT, false, mib));
    for _ in 0..8 {
        let _ = client.try_send(&fragment(CONTINUATION, false, mib));
    }
    client.expect_close(1009);

    assert_eq!(other.update(1, &[cell("k", "c", "v", 1)])["version"], 1, "others go on");
}

#[test]
fn a_message_may_be_as_large_as_the_limit_and_no_larger() {
    let server = Server::with("memory", &[("max-message-bytes", "10000")]);
    let padded = |size: usize| {
        let text = pull(0).to_string();
        text.clone() + &" ".repeat(size - text.len())
    };
    let whole = |size| frame(TEXT, padded(size).as_bytes());
    let in_fragments = |size| {
        let text = padded(size).into_bytes();
        let (first, rest) = text.split_at(4000);
        let (second, third) = rest.split_at(4000);
        let middle = fragment(CONTINUATION, false, second);
        [fragment(TEXT, false, first), middle, fragment(CONTINUATION, true, third)].concat()
    };
    for bytes in [whole(10_000), in_fragments(10_000)] {
        let mut client = server.connect("list");
        client.send_bytes(&bytes);
        client.recv_type("update");
    }
    for bytes in [whole(10_001), in_fragments(10_001)] {
        let mut client = server.connect("list");
        client.send_bytes(&bytes);
        client.expect_close(1009);
    }
    // Control frames in between do not count.
    let mut client = server.connect("list");
    let mut bytes = fragment(TEXT, false, b"");
    for _ in 0..200 {
        bytes.extend(wire(0x8a, true, common::Length::Minimal, &[0; 125]));
    }
    bytes.extend(fragment(CONTINUATION, true, padded(9000).as_bytes()));
    client.send_bytes(&bytes);
    client.recv_type("update");
}

#[test]
fn an_update_without_a_version_is_answered() {
    let server = Server::start("memory");
    let mut client = server.connect("list");
    client.send_text(r#"{"type":"update","siteId":"S","changes":[["t","k","c",1,1,1,"S",1,0]]}"#);
    let answer = client.recv_json();
    let taken: Value = match answer["type"].as_str() {
        Some("ack") => json!(1),
        Some("error") => json!(0),
        _ => panic!("{answer}"),
    };
    assert_eq!(client.pull(0)[0]["version"], taken, "either taken or refused: {answer}");
}
