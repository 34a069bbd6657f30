//! Values pass the relay as they were written, live and from the store.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::{SITE, Server, changes, number};
use serde_json::{Value, json};

on_every_store!(
    values_are_forwarded_and_stored_as_they_were_written,
    booleans_become_1_and_0,
    blobs_keep_their_bytes,
    one_and_one_point_zero_stay_apart,
    names_may_be_as_long_as_the_bounds_allow,
    integers_may_be_as_large_as_the_bounds_allow,
);
on_durable_stores!(everything_outlives_a_restart);

/// As JSON text, so that it is sent exactly like this.
const VALUES: &[&str] = &[
    "null",
    "0",
    "1",
    "-1",
    "-5",
    "1.0",
    "0.0",
    "-0.0",
    "-5.0",
    "1.5",
    "0.1",
    "1e20",
    "1E+2",
    "100000000000000000000",
    "-100000000000000000000",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775806",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "9007199254740993",
    "9007199254740993.0",
    "1.7976931348623157e308",
    "5e-324",
    "2.2250738585072014e-308",
    "0.30000000000000004",
    "123456789.12345679",
    r#""""#,
    r#""text""#,
    r#""1""#,
    r#""-1""#,
    r#""null""#,
    r#"" with \"quotes\", back\\slashes, sl\/ashes, \b\f\n\r\t and \u0000 inside ""#,
    r#""\u00e9\u4e2d\ud83d\ude00""#,
    r#""é中😀 e\u0301 \u2028\u2029 \ufeff \uffff \ud800\udc00 \udbff\udfff""#,
    r#""</script><!--""#,
    r#""{\"$blob\":\"00\"}""#,
    r#""[1,2]""#,
];

/// The value as any reader of JSON takes it: an integer outside i64 is a REAL.
fn meaning(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap();
    match value.as_u64() {
        Some(large) if large > i64::MAX as u64 => json!(large as f64),
        _ => value,
    }
}

/// A change's JSON text with this value.
fn change(pk: &str, val: &str, col_version: u64) -> String {
    format!(r#"["todos","{pk}","c",{val},{col_version},7,"{SITE}",1,3]"#)
}

fn update(changes: &[String]) -> String {
    let all = changes.join(",");
    format!(r#"{{"type":"update","siteId":"{SITE}","version":1,"channel":"x","changes":[{all}]}}"#)
}

fn assert_same(got: &Value, sent: &str) {
    let expected = meaning(sent);
    // A large integer may come back as digits or as a REAL.
    let got = &meaning(&got.to_string());
    assert!(got == &expected, "sent {sent}, which is {expected}, and got {got}");
    assert_eq!(got.is_f64(), expected.is_f64(), "sent {sent} and got {got}");
}

fn values_are_forwarded_and_stored_as_they_were_written(store: &str) {
    let server = Server::start(store);
    let (mut sender, mut other) = (server.connect("list"), server.connect("list"));
    let all: Vec<_> = VALUES.iter().enumerate().map(|(n, val)| change(&format!("k{n}"), val, 1)).collect();
    sender.send_text(&update(&all));
    assert_eq!(sender.recv_type("ack")["version"], 1);

    let told = other.recv_type("update");
    let live = changes(&told);
    assert_eq!(live.len(), VALUES.len());
    let rows = sender.pull_rows(0);
    assert_eq!(rows.len(), VALUES.len());
    for (n, sent) in VALUES.iter().enumerate() {
        assert_same(&live[n][3], sent);
        assert_same(&rows[n][3], sent);
        let rest = json!(["todos", format!("k{n}"), "c", null, 1, 7, SITE, 1, 3]);
        for field in (0..9).filter(|field| *field != 3) {
            assert_eq!(live[n][field], rest[field], "field {field} of {}", live[n]);
        }
        let rest = json!(["todos", format!("k{n}"), "c", null, 1, 1, SITE, 1, n]);
        for field in (0..9).filter(|field| *field != 3) {
            assert_eq!(rows[n][field], rest[field], "field {field} of {}", rows[n]);
        }
    }
}

fn booleans_become_1_and_0(store: &str) {
    let server = Server::start(store);
    let (mut sender, mut other) = (server.connect("list"), server.connect("list"));
    sender.send_text(&update(&[change("t", "true", 1), change("f", "false", 1)]));
    sender.recv_type("ack");
    for rows in [changes(&other.recv_type("update")).to_vec(), sender.pull_rows(0)] {
        assert_eq!((&rows[0][3], &rows[1][3]), (&json!(1), &json!(0)), "{rows:?}");
    }
    // They are integers in the merge as well: equal to what is there, so nothing wins.
    sender.send_text(&update(&[change("t", "1", 1), change("f", "0", 1)]));
    assert_eq!(sender.recv_type("ack")["version"], 1);
}

fn blobs_keep_their_bytes(store: &str) {
    let server = Server::start(store);
    let (mut sender, mut other) = (server.connect("list"), server.connect("list"));
    let hex = ["", "00", "00ff", "00FF7f80", "deadBEEF"];
    let all: Vec<_> = hex
        .iter()
        .enumerate()
        .map(|(n, hex)| change(&format!("k{n}"), &format!(r#"{{"$blob":"{hex}"}}"#), 1))
        .collect();
    sender.send_text(&update(&all));
    sender.recv_type("ack");
    let told = other.recv_type("update");
    let rows = sender.pull_rows(0);
    for (n, hex) in hex.iter().enumerate() {
        assert_eq!(changes(&told)[n][3], json!({"$blob": hex}), "as the sender wrote it");
        let stored = &rows[n][3];
        assert_eq!(stored.as_object().map(|object| object.len()), Some(1), "{stored}");
        assert_eq!(stored["$blob"].as_str().unwrap().to_lowercase(), hex.to_lowercase());
    }
    // The same bytes in other letters are the same value.
    sender.send_text(&update(&[change("k3", r#"{"$blob":"00ff7F80"}"#, 1)]));
    assert_eq!(sender.recv_type("ack")["version"], 1);
}

fn one_and_one_point_zero_stay_apart(store: &str) {
    let server = Server::start(store);
    let mut client = server.connect("list");
    // INTEGER > REAL > TEXT > BLOB > NULL, so each step wins with the same col_version, and none goes back.
    let rising = ["null", r#"{"$blob":"ff"}"#, r#""a""#, r#""b""#, "1.0", "99.5", "-7", "1"];
    for (n, val) in rising.iter().enumerate() {
        client.send_text(&update(&[change("k", val, 1)]));
        assert_eq!(client.recv_type("ack")["version"], n + 1, "{val}");
    }
    for val in rising {
        client.send_text(&update(&[change("k", val, 1)]));
        assert_eq!(client.recv_type("ack")["version"], rising.len(), "{val}");
    }
    let rows = client.pull_rows(0);
    assert_eq!(rows.len(), 1);
    assert_same(&rows[0][3], "1");
}

fn names_may_be_as_long_as_the_bounds_allow(store: &str) {
    let server = Server::start(store);
    let (mut sender, mut other) = (server.connect("list"), server.connect("list"));
    let long = [
        json!(["t".repeat(255), "k", "c", 1, 1, 1, SITE, 1, 0]),
        json!(["é".repeat(127), "k", "c", 1, 1, 1, SITE, 1, 0]),
        json!(["t", "k".repeat(4096), "c", 1, 1, 1, SITE, 1, 0]),
        json!(["t", "any text: \"\\ \u{1F600}\n\u{0}/..", "c", 1, 1, 1, SITE, 1, 0]),
        json!(["t", "k", "c".repeat(255), 1, 1, 1, SITE, 1, 0]),
        json!(["t", "k", "c", 1, 1, 1, "s".repeat(64), 1, 0]),
        json!(["t", "k", "d", "v".repeat(100_000), 1, 1, "s", 1, 0]),
        json!(["t\"'; drop table crdt_changes; --", " ", "%", 1, 1, 1, "'", 1, 0]),
    ];
    sender.update(1, &long);
    assert_eq!(changes(&other.recv_type("update")), long);
    for (row, sent) in sender.pull_rows(0).iter().zip(&long) {
        for field in [0, 1, 2, 3, 6] {
            assert_eq!(row[field], sent[field]);
        }
    }
}

fn integers_may_be_as_large_as_the_bounds_allow(store: &str) {
    const MOST: u64 = (1 << 53) - 1;
    let server = Server::start(store);
    let (mut sender, mut other) = (server.connect("list"), server.connect("list"));
    // What may jump is clamped, so col_version and cl stay within a million of what is there.
    let sent = [
        json!(["t", "k", "c", 1, 0, MOST, SITE, 1, MOST]),
        json!(["t", "k", "d", 1, 1_000_000, 0, SITE, 1, 0]),
        json!(["t", "l", "-1", null, 999_999, 0, SITE, 999_999, 0]),
        // As cr-sqlite exports a cell of a row that was given a new life.
        json!(["t", "k", "e", null, 0, 0, SITE, 1, 0]),
    ];
    assert_eq!(sender.update(MOST, &sent)["received"], MOST);
    assert_eq!(changes(&other.recv_type("update")), sent);
    let rows = sender.pull_rows(0);
    assert_eq!(rows.iter().map(|row| number(row, 4)).collect::<Vec<_>>(), [0, 1_000_000, 999_999, 0]);
}

fn everything_outlives_a_restart(store: &str) {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let server = Server::at(&data, store, &[]);
    let mut client = server.connect("test-channel");
    let site = client.connected["siteId"].clone();
    let all: Vec<_> = VALUES.iter().enumerate().map(|(n, val)| change(&format!("k{n}"), val, 1)).collect();
    client.send_text(&update(&all));
    client.recv_type("ack");
    client.send_text(&update(&[change("last", "1", 1)]));
    client.recv_type("ack");
    let before = client.pull(0);
    server.stop();
    if store == "sqlite" {
        assert!(data.join("test-channel.db").is_file(), "a plain channel name is the file's name");
    }

    let server = Server::at(&data, store, &[]);
    let mut client = server.connect("test-channel");
    assert_eq!(client.connected["siteId"], site);
    assert_eq!(client.connected_version(), 2);
    assert_eq!(client.pull(0), before);
    client.send_text(&update(&[change("next", "1", 1)]));
    assert_eq!(client.recv_type("ack")["version"], 3);
}
