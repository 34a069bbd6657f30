//! The bounds of a change's nine fields, each kept by refusing the whole update.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{SITE, Server, cell, keys, sentinel, update};
use serde_json::json;

/// The names of the fields, in their order.
const FIELDS: [&str; 9] = ["table", "pk", "cid", "val", "col_version", "db_version", "site_id", "cl", "seq"];

/// A good change as JSON texts.
fn good() -> [String; 9] {
    [r#""todos""#, r#""k""#, r#""c""#, r#""v""#, "1", "1", r#""S""#, "1", "0"].map(str::to_owned)
}

fn update_text(change: &str) -> String {
    format!(r#"{{"type":"update","siteId":"{SITE}","version":77,"channel":"x","changes":[{change}]}}"#)
}

/// Sends updates whose only change is bad. Each is answered by an error that names one of the given words, and a
/// good update after it finds nothing applied.
fn assert_refused(server: &Server, cases: &[(String, Vec<&str>)]) {
    let (mut client, mut other) = (server.connect("list"), server.connect("list"));
    for (n, (change, named)) in cases.iter().enumerate() {
        let shown: String = change.chars().take(200).collect();
        client.send_text(&update_text(change));
        let error = client.recv_json();
        let code = error["code"].as_str().unwrap_or_else(|| panic!("{error} answers {shown}"));
        // A number that no f64 holds and a key written twice are not even JSON for this relay.
        let unreadable =
            change.contains("e400") || change.contains("99999999") || change.matches("$blob").count() > 1;
        assert!(code == "invalid_change" || (unreadable && code == "malformed"), "{error} answers {shown}");
        if code == "invalid_change" {
            assert_eq!(error["received"], 77, "{error} answers {shown}");
            let message = error["message"].as_str().unwrap();
            let found = named.is_empty() || named.iter().any(|name| message.contains(name));
            assert!(
                found && message.contains('0'),
                "{message:?} names index 0 and one of {named:?}: {shown}"
            );
        }
        let ack = client.update(n as u64, &[cell(&format!("good{n}"), "c", n, 1)]);
        assert_eq!(ack["version"], n + 1, "nothing was applied of {shown}");
        assert_eq!(other.recv_type("update")["version"], n + 1, "nobody was told of {shown}");
    }
    let expected: Vec<_> = (0..cases.len()).map(|n| format!("good{n}")).collect();
    assert_eq!(keys(&client.pull_rows(0)), expected);
}

/// One field of a good change replaced, once for each text.
fn replaced(field: usize, texts: &[&str]) -> Vec<(String, Vec<&'static str>)> {
    let change = |text: &&str| {
        let mut change = good();
        change[field] = (*text).to_owned();
        (format!("[{}]", change.join(",")), vec![FIELDS[field]])
    };
    texts.iter().map(change).collect()
}

#[test]
fn a_change_is_an_array_of_nine() {
    let shapes: &[&str] = &[
        "null",
        "5",
        r#""text""#,
        "{}",
        "[]",
        r#"["todos"]"#,
        r#"["todos","k","c","v",1,1,"S",1]"#,
        r#"["todos","k","c","v",1,1,"S",1,0,0]"#,
        r#"["todos","k","c","v",1,1,"S",1,0,null]"#,
        r#"{"table":"todos","pk":"k","cid":"c","val":"v","col_version":1,"db_version":1,"site_id":"S","cl":1,"seq":0}"#,
    ];
    let cases: Vec<_> = shapes.iter().map(|shape| ((*shape).to_owned(), Vec::new())).collect();
    assert_refused(&Server::start("memory"), &cases);
}

#[test]
fn names_keep_their_bounds() {
    let long = |unit: &str, n: usize| format!("\"{}\"", unit.repeat(n));
    let mut cases = Vec::new();
    for field in [0, 2] {
        cases.extend(replaced(
            field,
            &["null", "1", "true", "[]", "{}", r#""""#, r#""a\u0000b""#, r#""\u0000""#],
        ));
        cases.extend(replaced(field, &[&long("x", 256), &long("é", 128), &long("x", 70_000)]));
    }
    cases.extend(replaced(1, &["null", "1", "false", "[]", "{}", r#"{"$blob":"00"}"#, r#""""#]));
    cases.extend(replaced(1, &[&long("x", 4097), &long("é", 2049)]));
    cases.extend(replaced(6, &["null", "1", "true", "[]", r#""""#, &long("x", 65), &long("é", 33)]));
    assert_refused(&Server::start("memory"), &cases);
}

#[test]
fn a_value_is_a_scalar_or_a_blob() {
    let cases = replaced(
        3,
        &[
            "[]",
            "[1]",
            r#"["a","b"]"#,
            "{}",
            r#"{"a":1}"#,
            r#"{"0":1,"1":2}"#,
            r#"{"blob":"00"}"#,
            r#"{"$blob":"0"}"#,
            r#"{"$blob":"000"}"#,
            r#"{"$blob":"zz"}"#,
            r#"{"$blob":"0x00"}"#,
            r#"{"$blob":"00 11"}"#,
            r#"{"$blob":"éé"}"#,
            r#"{"$blob":5}"#,
            r#"{"$blob":null}"#,
            r#"{"$blob":["00"]}"#,
            r#"{"$blob":"00","x":1}"#,
            r#"{"x":1,"$blob":"00"}"#,
            r#"{"$blob":"00","$blob":"00"}"#,
            "1e400",
            "-1e400",
            &"9".repeat(400),
        ],
    );
    assert_refused(&Server::start("memory"), &cases);
}

#[test]
fn counters_are_integers_from_0_to_2_to_the_53() {
    let wrong = [
        "-1",
        "9007199254740992",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1.5",
        "0.5",
        "-0.5",
        "1e300",
        "\"1\"",
        "true",
        "null",
        "[]",
        "{}",
    ];
    let mut cases = Vec::new();
    for field in [4, 5, 7, 8] {
        cases.extend(replaced(field, &wrong));
    }
    cases.extend(replaced(7, &["0"]));
    assert_refused(&Server::start("memory"), &cases);
}

#[test]
fn a_float_is_no_integer() {
    let mut cases = Vec::new();
    for field in [4, 5, 7, 8] {
        cases.extend(replaced(field, &["1.0", "1e0", "3.0"]));
    }
    assert_refused(&Server::start("memory"), &cases);
}

#[test]
fn the_sentinel_keeps_its_rules() {
    let changes = [
        // The value of a sentinel is null,
        r#"["todos","k","-1","v",1,1,"S",1,0]"#,
        r#"["todos","k","-1",0,2,1,"S",2,0]"#,
        r#"["todos","k","-1",false,2,1,"S",2,0]"#,
        r#"["todos","k","-1",{"$blob":""},2,1,"S",2,0]"#,
        // and its col_version its cl.
        r#"["todos","k","-1",null,1,1,"S",2,0]"#,
        r#"["todos","k","-1",null,3,1,"S",2,0]"#,
        r#"["todos","k","-1",null,0,1,"S",1,0]"#,
        // Any other cell has an odd cl.
        r#"["todos","k","c","v",1,1,"S",2,0]"#,
        r#"["todos","k","c",null,2,1,"S",2,0]"#,
        r#"["todos","k","c","v",1,1,"S",1000,0]"#,
    ];
    let named = vec!["val", "col_version", "cl"];
    let cases: Vec<_> = changes.iter().map(|change| ((*change).to_owned(), named.clone())).collect();
    for store in causeway_storage::BACKENDS.iter().map(|backend| backend.name) {
        assert_refused(&Server::start(store), &cases);
    }
}

#[test]
fn a_jump_beyond_the_clamp_is_refused() {
    for store in causeway_storage::BACKENDS.iter().map(|backend| backend.name) {
        let server = Server::start(store);
        let cases = [
            (r#"["todos","new","c","v",1000001,1,"S",1,0]"#.to_owned(), vec!["col_version"]),
            (r#"["todos","new","c","v",9007199254740991,1,"S",1,0]"#.to_owned(), vec!["col_version"]),
            (r#"["todos","new","c","v",1,1,"S",1000001,0]"#.to_owned(), vec!["cl"]),
            (r#"["todos","new","-1",null,1000002,1,"S",1000002,0]"#.to_owned(), vec!["cl", "col_version"]),
            (r#"["todos","new","c","v",1,1,"S",9007199254740991,0]"#.to_owned(), vec!["cl"]),
        ];
        assert_refused(&server, &cases);
    }
}

#[test]
fn the_clamp_counts_from_what_is_there() {
    for store in causeway_storage::BACKENDS.iter().map(|backend| backend.name) {
        let server = Server::with(store, &[("max-col-version-jump", "10"), ("max-cl-jump", "4")]);
        let mut client = server.connect("list");
        let refused = |client: &mut common::Client, change: serde_json::Value| {
            client.send_json(&update(77, &[cell("fine", "c", "v", 1), change.clone()]));
            let error = client.recv_type("error");
            assert_eq!(
                (&error["code"], &error["received"]),
                (&json!("invalid_change"), &json!(77)),
                "{change}"
            );
        };
        refused(&mut client, cell("k", "c", "v", 11));
        assert_eq!(client.update(1, &[cell("k", "c", "v", 10)])["version"], 1);
        refused(&mut client, cell("k", "c", "v", 21));
        refused(&mut client, cell("k", "d", "v", 11));
        assert_eq!(client.update(2, &[cell("k", "c", "v", 20)])["version"], 2);

        // The row has cl 1 from its cell.
        refused(&mut client, sentinel("k", 6));
        assert_eq!(client.update(3, &[sentinel("k", 4)])["version"], 3);
        refused(&mut client, json!(["todos", "k", "c", "v", 1, 1, SITE, 9, 0]));
        assert_eq!(client.update(4, &[json!(["todos", "k", "c", "v", 1, 1, SITE, 7, 0])])["version"], 4);
        assert_eq!(server.connect("list").connected_version(), 4);
        assert_eq!(
            keys(&client.pull_rows(0)),
            ["k", "k"],
            "the cell and its sentinel, nothing of the refused"
        );
    }
}
