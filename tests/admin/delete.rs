//! A channel that is deleted, under its clients or not.

use std::fs;
use std::thread;

use serde_json::{Value, json};

use crate::common::{Client, Event, PATIENCE, Place, TEXT, cell, frame, keys, lines, update, version};

on_durable_stores!(
    a_channel_is_deleted_where_no_server_runs,
    clients_of_a_deleted_channel_find_a_new_one,
    nothing_of_a_deleted_channel_comes_back,
);

fn a_channel_is_deleted_where_no_server_runs(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    for name in ["a", "b"] {
        server.connect(name).update(1, &[cell("k", "c", 1, 1)]);
    }
    server.stop();
    let refused = place.run(&["delete", "a"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("--yes"), "{refused:?}");
    assert_eq!(place.json(&["channels"]).len(), 2, "who is not sure removes nothing");
    assert_eq!(place.people(&["delete", "a", "--yes"]), ["removed  a"]);
    assert_eq!(place.json(&["channels"])[0]["channel"], "b");
    assert_eq!(place.json(&["verify"]).len(), 1);
    let server = place.serve();
    assert_eq!(server.connect("a").connected_version(), 0);
    assert_eq!(server.connect("b").connected_version(), 1);
}

fn clients_of_a_deleted_channel_find_a_new_one(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    let (mut writer, mut follower, mut other) =
        (server.connect("list"), server.connect("list"), server.connect("other"));
    writer.update(1, &[cell("old", "c", 1, 1)]);
    follower.recv_type("update");
    // A handle that pages are read with is kept a while.
    assert_eq!(keys(&follower.pull_rows(0)), ["old"]);
    let site_id = writer.connected["siteId"].clone();
    assert_eq!(place.json(&["delete", "list", "--yes"]), [json!({"line": "removed", "channel": "list"})]);
    for client in [&mut writer, &mut follower] {
        client.expect_close(1013);
    }
    let mut writer = server.connect("list");
    assert_eq!(writer.connected_version(), 0);
    assert_ne!(writer.connected["siteId"], site_id, "a client can tell");
    assert_eq!(writer.pull_rows(0), Vec::<Value>::new());
    assert_eq!(version(&writer.update(2, &[cell("new", "c", 1, 1)])), 1);
    assert_eq!(keys(&server.connect("list").pull_rows(9)), ["new"]);
    assert_eq!(version(&other.update(1, &[cell("k", "c", 1, 1)])), 1, "nobody else notices");
    assert_eq!(place.json(&["verify"]).len(), 2);
    server.stop();
    let server = place.serve();
    assert_eq!(keys(&server.connect("list").pull_rows(0)), ["new"]);
}

/// Writes row after row, some always under way, and once it is closed as many again: the server may not have seen its end.
fn write_until_closed(mut client: Client, name: &str) {
    const UNDER_WAY: u64 = 20;
    let mut n = 0;
    let mut write = |client: &mut Client| {
        n += 1;
        let message = update(n, &[cell(&format!("{name} {n}"), "c", 1, 1)]);
        client.try_send(&frame(TEXT, message.to_string().as_bytes())).is_ok()
    };
    for _ in 0..UNDER_WAY {
        write(&mut client);
    }
    loop {
        match client.event(PATIENCE) {
            Event::Frame(frame) if frame.opcode == TEXT => drop(write(&mut client)),
            Event::Frame(_) => while write(&mut client) {},
            Event::Ended => return,
            Event::Nothing => panic!("it should be closed"),
        }
    }
}

/// What clients had under way when their channel was removed is not in the one that is made anew.
fn nothing_of_a_deleted_channel_comes_back(store: &'static str) {
    let place = Place::new(store);
    let server = place.serve();
    for round in 0..5 {
        let writers: Vec<Client> = (0..3).map(|_| server.connect("list")).collect();
        thread::scope(|scope| {
            for (n, writer) in writers.into_iter().enumerate() {
                scope.spawn(move || write_until_closed(writer, &format!("old {n}")));
            }
            while server.connect("list").connected_version() < 5 {}
            assert_eq!(place.people(&["delete", "list", "--yes"]), ["removed  list"]);
            let mut anew = server.connect("list");
            anew.update(1, &[cell("new", "c", 1, 1)]);
            assert_eq!(keys(&anew.pull_rows(0)), ["new"], "round {round}");
        });
        assert_eq!(keys(&server.connect("list").pull_rows(0)), ["new"], "round {round}");
    }
    assert_eq!(place.json(&["verify"]).len(), 1);
}

#[test]
fn a_corrupt_channel_can_be_deleted() {
    let place = Place::new("sqlite");
    let server = place.serve();
    for name in ["good", "bad"] {
        server.connect(name).update(1, &[cell("k", "c", 1, 1)]);
    }
    server.stop();
    for runs in [true, false] {
        fs::write(place.data().join("bad.db"), [0x5a; 8192]).unwrap();
        let server = runs.then(|| place.serve());
        if let Some(server) = &server {
            server.expect_unavailable("bad");
            assert_eq!(server.metric_lines("causeway_channel_unavailable{").len(), 1);
        }
        let found = place.run(&["channels", "--json"]);
        assert_eq!(found.code, Some(1));
        let found = lines(&found.stdout);
        assert_eq!((&found[0]["line"], &found[0]["channel"]), (&"problem".into(), &"bad".into()));
        assert_eq!(found[1]["channel"], "good", "it hinders no other");
        assert_eq!(place.run(&["inspect", "bad"]).code, Some(1));
        assert_eq!(place.people(&["delete", "bad", "--yes"]), ["removed  bad"]);
        assert_eq!(place.json(&["channels"]).len(), 1);
        if let Some(server) = server {
            assert_eq!(server.metric_lines("causeway_channel_unavailable{"), Vec::<String>::new());
            assert_eq!(server.connect("bad").connected_version(), 0);
            server.stop();
        }
    }
}
