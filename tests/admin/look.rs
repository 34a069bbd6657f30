//! What an operator sees of a store: its channels, what one holds, its rows.

use serde_json::{Value, json};

use crate::common::{Client, Place, SITE, cell, change, lines, sentinel, update};
use crate::{of_kind, twice};

on_durable_stores!(
    every_channel_is_listed,
    a_channel_is_inspected,
    rows_are_put_together,
    what_is_not_there_is_said_to_be_missing,
);

fn every_channel_is_listed(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    for command in ["channels", "verify"] {
        assert_eq!(place.people(&[command]), ["there are no channels"]);
        assert_eq!(place.json(&[command]), Vec::<Value>::new());
    }
    let names = ["b/ü", "a", "\u{202e}c d"];
    let mut clients: Vec<Client> = names.map(|name| server.connect(name)).into();
    clients.push(server.connect("a"));
    // A channel is made by the first update that gets as far as being refused for its clocks.
    for client in [0, 2] {
        clients[client].send_json(&update(1, &[cell("k", "c", 1, 1 << 40)]));
        assert_eq!(clients[client].recv_type("error")["code"], "invalid_change");
    }
    clients[1].update(1, &[cell("k1", "c", 1, 1), cell("k2", "c", 1, 1)]);
    clients[1].update(2, &[cell("k1", "c", 2, 2)]);
    let sorted = |mut names: Vec<&str>| {
        names.sort_unstable();
        names.into_iter().map(Value::from).collect::<Vec<_>>()
    };
    twice(&place, server, |place, runs| {
        let found = place.json(&["channels"]);
        let told: Vec<Value> = found.iter().map(|line| line["channel"].clone()).collect();
        assert_eq!(told, sorted(names.to_vec()));
        let a = &found[0];
        assert_eq!((&a["version"], &a["cells"]), (&2.into(), &2.into()));
        assert_eq!(a["connections"], if runs { json!(2) } else { Value::Null });
        assert!(a["bytes"].as_u64().unwrap() > 0 && a["seen_s"].as_u64().unwrap() > 1_700_000_000, "{a}");
        assert_eq!(found[1]["seen_s"], Value::Null, "nobody wrote there");
        let told = place.people(&["channels"]);
        assert!(told.len() == 4 && told[0].starts_with("CHANNEL ") && told[1].starts_with("a  "), "{told:?}");
    });
}

fn a_channel_is_inspected(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let mut client = server.connect("list");
    client
        .update(1, &[cell("k1", "a", 1, 1), cell("k1", "b", 1, 1), cell("k2", "a", 1, 1), sentinel("k3", 3)]);
    client.update(7, &[sentinel("k2", 2), change("notes", "n", "text", "x")]);
    let site_id = client.connected["siteId"].clone();
    twice(&place, server, |place, runs| {
        let found = place.json(&["inspect", "list"]);
        let inspected = &found[0];
        assert_eq!(inspected["line"], "inspected");
        for (field, expected) in [
            ("channel", json!("list")),
            ("version", json!(2)),
            ("site_id", site_id.clone()),
            ("tables", json!(2)),
            ("rows", json!(3)),
            ("deleted", json!(1)),
            ("cells", json!(5)),
            ("connections", if runs { json!(1) } else { Value::Null }),
        ] {
            assert_eq!(inspected[field], expected, "{field}");
        }
        assert_eq!(inspected["digest"], place.json(&["verify", "list"])[0]["digest"]);
        let tables = of_kind(&found, "table");
        let expected = [
            json!({"line": "table", "table": "notes", "rows": 1, "deleted": 0, "cells": 1}),
            json!({"line": "table", "table": "todos", "rows": 2, "deleted": 1, "cells": 4}),
        ];
        assert_eq!(tables, expected.iter().collect::<Vec<_>>());
        let peers = of_kind(&found, "peer");
        assert_eq!(peers.len(), 1);
        let peer = (&peers[0]["site_id"], &peers[0]["event"], &peers[0]["version"], &peers[0]["lag"]);
        assert_eq!(peer, (&SITE.into(), &"received".into(), &7.into(), &Value::Null));
        assert!(peers[0]["seen_s"].as_u64().unwrap() > 1_700_000_000);
        let told = place.people(&["inspect", "list"]).join("\n");
        for part in ["rows         2 live", "rows         3 live, 1 deleted", "notes ", SITE, "received"] {
            assert_eq!(told.contains(part), part != "rows         2 live", "{part:?} in {told}");
        }
    });
}

fn rows_are_put_together(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let mut client = server.connect("list");
    // Not in the order of their keys, not in one piece, one of them deleted, one without columns, one revived.
    client.update(
        1,
        &[
            cell("k3", "done", 1, 1),
            cell("k10", "text", "ten", 1),
            cell("k2", "text", "gone", 1),
            sentinel("k4", 1),
        ],
    );
    client.update(2, &[sentinel("k2", 2), cell("k3", "text", "three\u{1b}[2J", 1), sentinel("k5", 3)]);
    client.update(
        3,
        &[
            cell("k3", "real", 1.0, 1),
            cell("k3", "null", Value::Null, 1),
            cell("k10", "blob", json!({"$blob": "00ff"}), 1),
        ],
    );
    client.update(4, &[change("other", "k1", "text", "elsewhere")]);
    twice(&place, server, |place, _| {
        let found = place.json(&["rows", "list", "todos"]);
        let columns =
            json!({"line": "columns", "table": "todos", "columns": ["blob", "done", "null", "real", "text"]});
        assert_eq!(found[0], columns);
        let row = |pk: &str, columns: Value| json!({"line": "row", "pk": pk, "key": pk, "columns": columns});
        assert_eq!(
            found[1..],
            [
                row("k10", json!({"blob": {"$blob": "00FF"}, "text": "ten"})),
                row("k3", json!({"done": 1, "null": null, "real": 1.0, "text": "three\u{1b}[2J"})),
                row("k4", json!({})),
                row("k5", json!({})),
            ]
        );
        // Page by page, and said that there is more.
        let mut after = String::new();
        let mut told = Vec::new();
        loop {
            let found = place.json(&["rows", "list", "todos", "--limit", "3", "--after", &after]);
            told.extend(of_kind(&found, "row").iter().map(|row| row["pk"].as_str().unwrap().to_owned()));
            let Some(more) = of_kind(&found, "more").pop() else { break };
            after = more["after"].as_str().unwrap().to_owned();
            assert_eq!(after, told[told.len() - 1]);
        }
        assert_eq!(told, ["k10", "k3", "k4", "k5"]);
        let told = place.people(&["rows", "list", "todos", "--limit", "2"]);
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(
            told[0].starts_with("KEY ") && told[1].starts_with("k10  ") && told[2].starts_with("k3 "),
            "{told:?}"
        );
        assert!(told[1].contains("x'00FF'") && told[2].contains("NULL"), "{told:?}");
        assert!(told[2].contains(r"three\u{1b}[2J"), "nothing that a terminal obeys: {told:?}");
        assert!(told[3].contains("--after \"k3\""), "{told:?}");
    });
}

fn what_is_not_there_is_said_to_be_missing(store: &'static str) {
    let place = Place::new(store);
    let refused = place.run(&["channels"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("there is none"), "{refused:?}");
    let server = place.serve();
    server.connect("list").update(1, &[cell("k", "c", 1, 1)]);
    twice(&place, server, |place, _| {
        let long = "x".repeat(256);
        for arguments in [
            &["inspect", "nobody"][..],
            &["inspect", ""],
            &["inspect", &long],
            &["inspect", "a\nb"],
            &["inspect", "../data/list"],
            &["rows", "nobody", "todos"],
            &["rows", "list", "nothing"],
            &["delete", "--yes", "nobody"],
            &["delete", "--yes", "../data/list"],
        ] {
            let refused = place.run(&[arguments, &["--json"]].concat());
            assert_eq!(refused.code, Some(1), "{arguments:?}: {refused:?}");
            let problems = lines(&refused.stdout);
            let problem = (problems.len(), &problems[0]["line"], &problems[0]["code"]);
            assert_eq!(problem, (1, &"problem".into(), &"not_found".into()), "{arguments:?}");
            let told = place.run(arguments).stdout;
            assert!(told.starts_with("PROBLEM ") && told.lines().count() == 2, "{arguments:?}: {told}");
        }
        for limit in ["0", "100001", "x", "-1"] {
            assert_eq!(place.run(&["rows", "list", "todos", "--limit", limit]).code, Some(2), "{limit}");
        }
        assert_eq!(place.json(&["channels"]).len(), 1, "nothing was made by asking for it");
    });
}
