//! Channels: many names, much in one.

use std::net::Ipv4Addr;

use serde_json::json;

use super::common::guarantees::{Abuse, abuse};
use super::common::{Client, Server, cell, keys, sentinel, update, version};
use super::house::{ATTACKER, attacked};

fn attacker(server: &Server, channel: &str) -> Client {
    Client::try_connect_from(ATTACKER, server.addr, channel, "").unwrap()
}

fn files(server: &Server) -> usize {
    let names = std::fs::read_dir(&server.data).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().ends_with(".db")).count()
}

/// How many names are tried. `ABUSE_NAMES=1000000` tries more; it takes a while.
fn names() -> usize {
    std::env::var("ABUSE_NAMES").map_or(20_000, |names| names.parse().unwrap())
}

#[test]
fn names_that_are_only_read_make_nothing() {
    let names = names();
    let server =
        Server::with("sqlite", &[("max-new-connections-per-ip-per-s", "0"), ("max-open-channels", "100")]);
    let (site_ids, felt) = attacked(&server, || {
        let mut kept = Vec::new();
        for n in 0..names {
            // The ports of one address do not last for a million.
            let from = Ipv4Addr::new(127, 1, (n / 10_000) as u8, 1);
            let name = format!("name {n}");
            let mut client = Client::try_connect_from(from, server.addr, &name, "").unwrap();
            if n % (names / 200) == 0 {
                assert_eq!(
                    client.pull(7),
                    [json!({"type": "update", "changes": [], "version": 0, "more": false,
                    "siteId": client.connected["siteId"], "channel": name})]
                );
                kept.push(client);
            }
        }
        kept.iter()
            .map(|client| client.connected["siteId"].to_string())
            .collect::<std::collections::BTreeSet<_>>()
    });
    assert_eq!(site_ids.len(), 200, "a site id for each channel that has a connection");
    assert_eq!(files(&server), 1, "the honest pair's");
    assert!(felt.open_files < 500, "{felt:?}");
    abuse(Abuse {
        number: 15,
        attack: "20,000 channel names from one client, which reads them",
        limit: "a channel is made by its first update; `max_new_connections_per_ip_per_s` (off in this test)",
        attacker: "an empty channel each time, and no file",
        honest: "nothing: acks and updates went on",
        command: "cargo test --test abuse names_that_are_only_read_make_nothing",
    });
}

#[test]
fn a_channel_is_made_by_its_first_update() {
    for store in causeway_storage::BACKENDS.iter().map(|backend| backend.name) {
        let server = Server::start(store);
        let (mut writer, mut reader) = (server.connect("list"), server.connect("list"));
        assert_eq!(writer.connected["siteId"], reader.connected["siteId"]);
        assert_eq!(reader.pull_rows(0).len(), 0);
        let ack = writer.update(1, &[cell("k", "c", "v", 1)]);
        let told = reader.recv_type("update");
        assert_eq!((version(&told), &told["siteId"]), (1, &ack["siteId"]));
        assert_eq!(keys(&reader.pull_rows(0)), ["k"]);
        let again = server.connect("list");
        assert_eq!(again.connected["siteId"], writer.connected["siteId"]);
        if store == "memory" {
            continue;
        }
        let data = server.data.clone();
        let site_id = again.connected["siteId"].clone();
        drop((writer, reader, again));
        let temp = server.stop_and_keep();
        let server = Server::at(&data, store, &[]);
        assert_eq!(server.connect("list").connected["siteId"], site_id);
        drop((server, temp));
    }
}

#[test]
fn there_are_only_so_many_channels() {
    let server = Server::with("sqlite", &[("max-channels", "50")]);
    let (refused, felt) = attacked(&server, || {
        let mut refused = 0;
        for n in 0..200 {
            let mut client = attacker(&server, &format!("name {n}"));
            client.send_json(&update(7, &[cell("k", "c", "v", 1)]));
            let answer = client.recv_json();
            if answer["type"] == "error" {
                assert_eq!((&answer["code"], &answer["received"]), (&"quota_exceeded".into(), &7.into()));
                refused += 1;
                // Reads go on.
                assert_eq!(client.pull_rows(0).len(), 0);
            }
        }
        refused
    });
    assert_eq!((refused, files(&server), server.limited("max_channels")), (151, 50, 151));
    assert!(felt.open_files < 400, "{felt:?}");
    // Also after a restart.
    let data = server.data.clone();
    let temp = server.stop_and_keep();
    let server = Server::at(&data, "sqlite", &[("max-channels", "50")]);
    let mut client = server.connect("name 199");
    client.send_json(&update(1, &[cell("k", "c", "v", 1)]));
    assert_eq!(client.recv_type("error")["code"], "quota_exceeded");
    server.connect("name 1").update(1, &[cell("k", "c", "w", 2)]);
    drop((server, temp));
    abuse(Abuse {
        number: 16,
        attack: "updates to 200 channel names where there may be 50",
        limit: "`max_channels`",
        attacker: "what room there was; the others `quota_exceeded`, and no file",
        honest: "nothing: channels that are there go on; nobody makes another until an operator deletes some",
        command: "cargo test --test abuse there_are_only_so_many_channels",
    });
}

#[test]
fn a_channel_has_its_quota() {
    let settings = [("max-channel-rows", "20"), ("max-channel-bytes", "3000")];
    let stores = causeway_storage::BACKENDS.iter().map(|store| store.name);
    for (store, (setting, max)) in stores.flat_map(|store| settings.map(|setting| (store, setting))) {
        let server = Server::with(store, &[(setting, max)]);
        let mut writer = attacker(&server, "full");
        let mut reader = server.connect("full");
        let mut row = 0_u64;
        // Rows of two cells, until there is no room.
        let error = loop {
            let pk = format!("row {row}");
            writer.send_json(&update(row, &[cell(&pk, "a", "text", 1), cell(&pk, "b", row, 1)]));
            let answer = writer.recv_json();
            if answer["type"] == "error" {
                break answer;
            }
            row += 1;
            assert_eq!(version(&reader.recv_type("update")), row);
        };
        assert_eq!((&error["code"], &error["received"]), (&"quota_exceeded".into(), &row.into()), "{error}");
        assert!(row >= 9, "{row}");
        assert!(server.limited(&setting.replace('-', "_")) == 1);
        // Nothing of it is there, and reads go on.
        assert_eq!(reader.pull_rows(0).len() as u64, 2 * row);
        // What makes it no larger is taken: deletes, and other values of the same size.
        writer.update(100, &[cell("row 0", "a", "tixt", 2)]);
        writer.update(101, &[sentinel("row 1", 2), sentinel("row 2", 2)]);
        let kept = server.connect("full").pull_rows(0).len() as u64;
        assert_eq!(kept, 2 * row - 2);
        // There is room again, and after a restart it is known how much.
        writer.update(102, &[cell("row 3", "c", "more", 1)]);
        drop((writer, reader));
        if store == "memory" {
            continue;
        }
        let data = server.data.clone();
        let temp = server.stop_and_keep();
        let server = Server::at(&data, store, &[(setting, max)]);
        let mut writer = server.connect("full");
        let large: Vec<_> = (0..20).map(|n| cell(&format!("large {n}"), "a", "text".repeat(40), 1)).collect();
        writer.send_json(&update(103, &large));
        assert_eq!(writer.recv_type("error")["code"], "quota_exceeded");
        drop((server, temp));
    }
    abuse(Abuse {
        number: 17,
        attack: "one channel filled without end",
        limit: "`max_channel_bytes`, `max_channel_rows`",
        attacker: "`quota_exceeded` with `received`, of what makes the channel larger; nothing of it was applied",
        honest: "members of the channel went on reading, and could delete; other channels felt nothing",
        command: "cargo test --test abuse a_channel_has_its_quota",
    });
}
