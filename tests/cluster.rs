//! Several servers over a real Redis: what one is told arrives at the others' clients, and whatever is lost, killed or away, all
//! end with the same data. `redis-server` must be installed.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;

use common::redis::{Cluster, Redis};
use common::{Client, SITE, cell, changes, keys, number, sentinel, update, version};
use serde_json::{Value, json};

on_durable_stores!(
    an_update_arrives_at_the_clients_of_other_nodes_with_their_versions,
    a_node_that_was_down_catches_up,
    a_fresh_node_gets_all_there_is,
    versions_that_were_written_over_are_no_end,
    redis_may_die_while_clients_are_served,
    redis_may_hang,
    nobody_waits_for_a_redis_that_hangs,
    what_only_a_third_node_has_heard_is_found,
    large_versions_are_repaired_in_parts,
    who_comes_to_a_fresh_node_is_let_in_when_all_is_there,
    what_a_dead_node_has_told_the_others_is_there_at_once_too,
    nobody_waits_for_ever_for_a_node_that_does_not_answer,
    how_far_another_node_is_behind_is_told,
    all_channels_are_compared_once_in_a_while,
    what_is_not_ours_on_the_bus_is_ignored,
);

const CHANNEL: &str = "list";

/// A row of that name.
fn row(name: &str) -> Value {
    cell(name, "c", 1, 1)
}

/// Writes so many rows of that prefix, in updates of their own, from that version on.
fn write(client: &mut Client, prefix: &str, rows: u64) {
    for n in 0..rows {
        client.send_json(&update(n + 1, &[row(&format!("{prefix}{n}"))]));
    }
    let mut acks = 0;
    while acks < rows {
        let message = client.recv_json();
        acks += u64::from(message["type"] == "ack");
        assert_ne!(message["type"], "error", "{message}");
    }
}

fn an_update_arrives_at_the_clients_of_other_nodes_with_their_versions(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    let (mut at_a, mut at_b) = (a.connect(CHANNEL), b.connect(CHANNEL));
    assert_ne!(at_a.connected["siteId"], at_b.connected["siteId"]);
    let blob = json!(["t", "ü\u{1}\"", "c", {"$blob": "00fF"}, 1, 7, SITE, 1, 3]);
    at_a.update(1, &[row("1"), blob.clone()]);
    at_a.update(2, &[row("1"), row("2")]);
    let first = at_b.recv_type("update");
    assert_eq!((changes(&first), version(&first)), (&[row("1"), blob][..], 1));
    assert_eq!(first["siteId"], at_b.connected["siteId"]);
    let second = at_b.recv_type("update");
    assert_eq!((keys(changes(&second)), version(&second)), (vec!["2".to_owned()], 2));
    at_b.update(1, &[sentinel("1", 2)]);
    let deleted = at_a.recv_type("update");
    assert_eq!((keys(changes(&deleted)), version(&deleted)), (vec!["1".to_owned()], 3));
    cluster.agree(&["a", "b"], CHANNEL, 3);
    // What was heard is not said again.
    assert_eq!(a.metric("bus_gaps_total") + b.metric("bus_gaps_total"), 0);
    assert_eq!((a.metric("bus_up"), b.metric("bus_up")), (1, 1));
    assert_eq!(a.banner("node").trim(), format!("a, with others over {}", redis.url()));
}

fn a_node_that_was_down_catches_up(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    let mut at_a = a.connect(CHANNEL);
    write(&mut at_a, "before", 10);
    cluster.agree(&["a", "b"], CHANNEL, 10);
    b.kill();
    write(&mut at_a, "while", 30);
    at_a.update(1, &[sentinel("before0", 2)]);
    let b = cluster.start("b");
    cluster.agree(&["a", "b"], CHANNEL, 40);
    let rows = b.connect(CHANNEL).pull_rows(0);
    assert_eq!(rows.len(), 40);
    // What it does from here on is heard at once.
    let mut at_b = b.connect(CHANNEL);
    at_b.update(1, &[row("after")]);
    assert_eq!(keys(changes(&at_a.recv_type("update"))), ["after"]);
    cluster.agree(&["a", "b"], CHANNEL, 41);
}

fn a_fresh_node_gets_all_there_is(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let small = [("page-max-changes", "7")];
    let a = cluster.start_with("a", &small);
    write(&mut a.connect(CHANNEL), "row", 100);
    let b = cluster.start_with("b", &small);
    cluster.agree(&["a", "b"], CHANNEL, 100);
    assert!(a.metric("bus_pages_total") >= 100 / 7, "a page at a time");
    drop(b);
}

fn versions_that_were_written_over_are_no_end(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let small = [("page-max-changes", "7")];
    let a = cluster.start_with("a", &small);
    let mut at_a = a.connect(CHANNEL);
    write(&mut at_a, "row", 100);
    // Every other version has nothing any more, so pages end before such.
    for n in 0..50 {
        at_a.update(n + 1, &[cell(&format!("row{}", 2 * n), "c", 2, 2)]);
    }
    let b = cluster.start_with("b", &small);
    cluster.agree(&["a", "b"], CHANNEL, 100);
    assert!(a.metric("bus_pages_total") < 2 * 100 / 7, "none is read over and over");
    drop(b);
}

fn redis_may_die_while_clients_are_served(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let (a, b) = (cluster.start("a"), cluster.start_with("b", &[("ready-needs-bus", "true")]));
    let (mut at_a, mut at_b) = (a.connect(CHANNEL), b.connect(CHANNEL));
    write(&mut at_a, "a", 5);
    cluster.agree(&["a", "b"], CHANNEL, 5);
    let port = redis.port;
    redis.kill();
    a.wait_for_metric("bus_up", 0);
    b.wait_for_metric("bus_up", 0);
    assert_eq!((a.http_get("/readyz").status, b.http_get("/readyz").status), (200, 503));
    write(&mut at_a, "lost-a", 20);
    write(&mut at_b, "lost-b", 20);
    let redis = Redis::on(port);
    cluster.agree(&["a", "b"], CHANNEL, 45);
    a.wait_for_metric("bus_up", 1);
    b.wait_for_metric("bus_up", 1);
    assert_eq!(b.http_get("/readyz").status, 200);
    let mut rows: Vec<_> = b.connect(CHANNEL).pull_rows(0);
    rows.sort_by_key(|row| number(row, 5));
    assert_eq!(rows.len(), 45);
    drop(redis);
}

fn redis_may_hang(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let small = [("bus-queue-bytes", "65536"), ("page-max-bytes", "8192")];
    let (a, b) = (cluster.start_with("a", &small), cluster.start_with("b", &small));
    let mut at_a = a.connect(CHANNEL);
    write(&mut at_a, "a", 5);
    cluster.agree(&["a", "b"], CHANNEL, 5);
    redis.freeze();
    // More than may wait.
    write(&mut at_a, "lost", 1_000);
    a.wait_for_metric("bus_up", 0);
    redis.signal("CONT");
    cluster.agree(&["a", "b"], CHANNEL, 1_005);
    assert!(a.metric("bus_dropped_total") > 0);
    drop(b);
}

fn nobody_waits_for_a_redis_that_hangs(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    // Nothing ends the waiting in the time of this test.
    let patient = [("catch-up-timeout-ms", "600000"), ("redis-timeout-ms", "600000")];
    let (a, b) = (cluster.start_with("a", &patient), cluster.start_with("b", &patient));
    b.wait_for_metric("bus_nodes", 1);
    redis.freeze();
    let mut at_b = b.connect(CHANNEL);
    at_b.update(1, &[row("1")]);
    assert_eq!(b.metric("bus_up"), 1, "it is not known to be gone");
    redis.signal("CONT");
    cluster.agree(&["a", "b"], CHANNEL, 1);
    drop(a);
}

fn what_only_a_third_node_has_heard_is_found(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    write(&mut a.connect(CHANNEL), "a", 5);
    cluster.agree(&["a", "b"], CHANNEL, 5);
    // b hears of c, and a does not: it is down. Then c is gone for ever.
    a.kill();
    let c = cluster.start("c");
    cluster.agree(&["b", "c"], CHANNEL, 5);
    write(&mut c.connect(CHANNEL), "c", 5);
    cluster.agree(&["b", "c"], CHANNEL, 10);
    c.kill();
    let a = cluster.start("a");
    cluster.agree(&["a", "b"], CHANNEL, 10);
    drop((a, b));
}

fn large_versions_are_repaired_in_parts(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let small = [("page-max-bytes", "4096")];
    let a = cluster.start_with("a", &small);
    let rows: Vec<_> = (0..1_000).map(|n| row(&format!("row {n}"))).collect();
    let mut at_a = a.connect(CHANNEL);
    at_a.update(1, &rows);
    at_a.update(
        2,
        &rows
            .iter()
            .map(|row| {
                let mut row = row.clone();
                row[2] = json!("d");
                row
            })
            .collect::<Vec<_>>(),
    );
    let b = cluster.start_with("b", &small);
    cluster.agree(&["a", "b"], CHANNEL, 2_000);
    drop(b);
}

fn who_comes_to_a_fresh_node_is_let_in_when_all_is_there(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let patient = [("catch-up-timeout-ms", "30000"), ("page-max-changes", "100")];
    let a = cluster.start_with("a", &patient);
    write(&mut a.connect(CHANNEL), "row", 1_000);
    // Nobody has waited for Redis, nor for a.
    let b = cluster.start_alone("b", &patient);
    let mut client = b.connect(CHANNEL);
    assert_eq!(client.pull_rows(0).len(), 1_000);
    assert_eq!(b.metric("bus_openings_total"), 1);
    // Nor does the second have to wait.
    b.connect(CHANNEL);
    assert_eq!(b.metric("bus_openings_total"), 1);
    // What nobody has is there at once, and can be written.
    let (mut at_b, mut at_a) = (b.connect("new"), a.connect("new"));
    at_b.update(1, &[row("1")]);
    assert_eq!(keys(changes(&at_a.recv_type("update"))), ["1"]);
}

fn what_a_dead_node_has_told_the_others_is_there_at_once_too(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let patient = [("catch-up-timeout-ms", "30000"), ("cluster-heartbeat-ms", "1000")];
    let (a, b) = (cluster.start_with("a", &patient), cluster.start_with("b", &patient));
    let mut at_b = b.connect(CHANNEL);
    at_b.update(1, &[row("of b")]);
    write(&mut a.connect(CHANNEL), "row", 100);
    cluster.agree(&["a", "b"], CHANNEL, 101);
    a.kill();
    // b has published one row only.
    let c = cluster.start_alone("c", &patient);
    assert_eq!(c.connect(CHANNEL).pull_rows(0).len(), 101);
}

fn nobody_waits_for_ever_for_a_node_that_does_not_answer(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    // A node that is slow to stop is not taken for gone.
    let settings = [("catch-up-timeout-ms", "200"), ("cluster-heartbeat-ms", "20000")];
    let (a, b) = (cluster.start("a"), cluster.start_with("b", &settings));
    write(&mut a.connect(CHANNEL), "row", 10);
    b.wait_for_log("heard of a node that has started");
    a.freeze();
    let wait_for_openings = |timeout: usize, caught_up: usize| {
        let line = |outcome, n| format!("causeway_bus_openings_total{{outcome=\"{outcome}\"}} {n}");
        for line in [line("timeout", timeout), line("caught_up", caught_up)] {
            b.wait_for_metric_line(&line);
        }
    };
    let mut at_b = b.connect("other");
    wait_for_openings(1, 0);
    // From then on it is not waited for.
    drop(b.connect("another"));
    wait_for_openings(1, 1);
    at_b.update(1, &[row("served")]);
    a.signal("CONT");
    cluster.agree(&["a", "b"], "other", 1);
    cluster.agree(&["a", "b"], CHANNEL, 10);
}

fn how_far_another_node_is_behind_is_told(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    let mut at_a = a.connect(CHANNEL);
    at_a.update(1, &[row("1")]);
    cluster.agree(&["a", "b"], CHANNEL, 1);
    a.wait_for_metric("bus_nodes", 1);
    b.kill();
    write(&mut at_a, "while", 5);
    // That the first is there may not have been confirmed.
    a.wait_until("bus_replicated_lag_versions", |versions| versions >= 5);
    a.wait_until("bus_replicated_lag_seconds", |seconds| seconds >= 1);
    let b = cluster.start("b");
    a.wait_for_metric("bus_replicated_lag_versions", 0);
    assert_eq!(a.metric("bus_replicated_lag_seconds"), 0);
    assert_eq!(a.metric_lines("causeway_bus_replicated_lag_versions{node=\"b\"}").len(), 1);
    drop(b);
}

fn all_channels_are_compared_once_in_a_while(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    // Nobody tells of channels in use.
    let rare = ("cluster-heartbeat-ms", "600000");
    let (a, b) =
        (cluster.start_with("a", &[rare, ("cluster-walk-s", "1")]), cluster.start_with("b", &[rare]));
    write(&mut a.connect(CHANNEL), "row", 10);
    cluster.agree(&["a", "b"], CHANNEL, 10);
    let seen = cluster.run("b", &["inspect", CHANNEL]);
    assert!(seen.contains(" node ") && !seen.contains(" received "), "who wrote was at a: {seen}");
    let removed = cluster.run("b", &["delete", CHANNEL, "--yes"]);
    assert!(removed.contains("other nodes have it still"), "{removed}");
    cluster.agree(&["a", "b"], CHANNEL, 10);
    drop((a, b));
}

fn what_is_not_ours_on_the_bus_is_ignored(store: &'static str) {
    let redis = Redis::start();
    let cluster = Cluster::new(store, &redis);
    let (a, b) = (cluster.start("a"), cluster.start("b"));
    let deep = "[".repeat(10_000);
    for message in [
        "",
        "hello",
        &deep,
        r#"{"v":1,"node":"z","boot":"1","type":"update","channel":"list","siteId":"Z","from":0,"version":1,"changes":[["t","p","c",1,1,1,"S",2,0]]}"#,
        r#"{"v":2,"node":"z","news":true}"#,
        r#"{"v":1,"node":"a","boot":"1","type":"hello"}"#,
    ] {
        assert_eq!(redis.publish("causeway:1:all", message.as_bytes()), 2, "both hear it");
    }
    a.wait_for_metric("bus_ignored_total", 6);
    b.wait_until("bus_ignored_total", |ignored| ignored >= 5);
    a.wait_for_log("another server has this node's name");
    b.wait_for_log("speaks version 2");
    let (mut at_a, mut at_b) = (a.connect(CHANNEL), b.connect(CHANNEL));
    at_a.update(1, &[row("1")]);
    assert_eq!(keys(changes(&at_b.recv_type("update"))), ["1"]);
    cluster.agree(&["a", "b"], CHANNEL, 1);
}
