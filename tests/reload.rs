//! SIGHUP: what was changed takes effect under open connections, what cannot is named, and nothing bad becomes of it.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use causeway::config::SETTINGS;
use causeway::reload::is_reloaded;
use common::{
    CLOSE, Certificate, Client, Event, PATIENCE, Place, Server, cell, keys, run, signal,
    upgrade_request_with, version,
};
use rcgen::SerialNumber;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

const SECRETS: [&str; 2] = ["the first secret, 32 bytes or more", "the second secret, 32 bytes or more"];

/// A server with a configuration file.
struct House {
    place: Place,
    server: Server,
}

impl House {
    fn new(config: &str) -> Self {
        Self::with(config, &[])
    }

    fn with(config: &str, settings: &[(&str, &str)]) -> Self {
        let place = Place::new("memory");
        let file = place.write("causeway.toml", config);
        let server = place.serve_with(&[&[("config", &file[..])], settings].concat());
        House { place, server }
    }

    /// How many times the log has the text.
    fn logged(&self, text: &str) -> usize {
        self.server.logged().matches(text).count()
    }

    /// Reloads with another configuration file; waits until the log has the text once more than before.
    #[track_caller]
    fn reload(&self, config: &str, told: &str) {
        self.place.write("causeway.toml", config);
        self.hang_up(told);
    }

    /// The same with the file as it is.
    #[track_caller]
    fn hang_up(&self, told: &str) {
        let before = self.logged(told);
        self.server.signal("HUP");
        let deadline = Instant::now() + PATIENCE;
        while self.logged(told) == before {
            assert!(Instant::now() < deadline, "{told:?} is not told: {}", self.server.logged());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Changes a file that is also looked at once a second, and reloads, until it is the reload that has seen a change.
    #[track_caller]
    fn until_told(&self, told: &str, mut change: impl FnMut(u64)) {
        let deadline = Instant::now() + PATIENCE;
        for n in 1.. {
            change(n);
            self.hang_up("reloaded: ");
            if self.server.logged().contains(told) {
                return;
            }
            assert!(Instant::now() < deadline, "{told:?} is not told: {}", self.server.logged());
        }
    }
}

/// An update of one cell; its ack, or the error's code.
fn write(client: &mut Client, n: u64) -> Result<u64, String> {
    client.send_json(&common::update(n, &[cell(&format!("k{n}"), "c", n, 1)]));
    let answer = client.recv_json();
    match answer["type"].as_str() {
        Some("ack") => Ok(version(&answer)),
        _ => Err(answer["code"].as_str().unwrap().to_owned()),
    }
}

#[test]
fn a_limit_takes_effect_for_open_and_new_connections() {
    let house = House::new("max_channel_rows = 1\nmax_messages_per_s = 0\n");
    let (mut writer, mut follower) = (house.server.connect("list"), house.server.connect("list"));
    assert_eq!(write(&mut writer, 1), Ok(1));
    assert_eq!(write(&mut writer, 2), Err("quota_exceeded".into()));
    house.reload("max_channel_rows = 100\nmax_messages_per_s = 0\n", "max_channel_rows: 1 -> 100");
    assert_eq!(write(&mut writer, 2), Ok(2));

    house.reload("max_channel_rows = 100\nmax_messages_per_s = 1\n", "max_messages_per_s: 0 -> 1");
    let written: Vec<_> = (3..40).map(|n| write(&mut writer, n)).collect();
    assert!(written.contains(&Err("rate_limited".into())), "{written:?}");
    let acked = written.iter().flatten().count();
    assert!(acked > 0, "{written:?}");
    let head = "max_channel_rows = 100\nmax_messages_per_s = 0\n";
    house.reload(head, "max_messages_per_s: 1 -> 0");
    assert_eq!(write(&mut writer, 40), Ok(acked as u64 + 3));

    // Fewer than there are: they stay.
    house.reload(&format!("{head}max_connections = 2\n"), "max_connections: 100000 -> 2");
    let new = || Client::try_connect(house.server.addr, "list").map(drop).map_err(|answer| answer.status);
    assert_eq!(new(), Err(503));
    assert_eq!(write(&mut writer, 41), Ok(acked as u64 + 4));
    house.reload(&format!("{head}max_connections = 50\n"), "max_connections: 2 -> 50");
    assert_eq!(new(), Ok(()));
    let told = house.server.metric_lines("causeway_limit{setting=\"max_connections\"}");
    assert_eq!(told, ["causeway_limit{setting=\"max_connections\"} 50"]);
    let mut last = 0;
    while last < acked as u64 + 4 {
        last = version(&follower.recv_type("update"));
    }
    assert_eq!(keys(&follower.pull_rows(0)).len(), acked + 4);
}

#[test]
fn the_log_level_changes_and_says_so_both_ways() {
    let house = House::new("log = \"info\"\n");
    let seen = |channel: &str| {
        drop(house.server.connect(channel));
        house.server.wait_for_metric("connections", 0);
    };
    house.reload("log = \"error\"\n", "log: \"info\" -> \"error\"");
    // The filter is the last thing that a reload changes; this one ends after that one.
    house.place.write("causeway.toml", "nonsense");
    house.hang_up("nothing is reloaded");
    seen("quiet");
    house.reload("log = \"causeway=debug\"\n", "log: \"error\" -> \"causeway=debug\"");
    seen("loud");
    let log = house.server.stop_and_log();
    assert!(log.contains("DEBUG") && log.contains("loud") && !log.contains("quiet"), "{log}");
}

#[test]
fn a_certificate_is_served_and_nobody_is_dropped() {
    let serial = |n: u64| Certificate::with(|params| params.serial_number = Some(SerialNumber::from(n)));
    let place = Place::new("memory");
    let file = place.write("causeway.toml", "");
    let dir = place.path("");
    let server = Server::over_tls_in(&dir, "memory", &serial(0xa1), &[("config", &file)]);
    let mut old = server.connect("list");
    old.update(1, &[cell("k1", "c", "v", 1)]);
    let mut house = House { place, server };
    let mut newest = serial(0xb2);
    house.until_told("reloaded: certificate: ", |n| {
        newest = serial(0xb200 + n);
        newest.write(&dir);
    });
    house.server.tls = Some(newest.client());
    house.server.connect("list").update(2, &[cell("k2", "c", "v", 1)]);
    assert_eq!(version(&old.recv_type("update")), 2);
    // One that cannot be used hinders nothing else.
    common::write_certificate(&dir, "nonsense");
    house.reload("max_channels = 7\n", "max_channels: 100000 -> 7");
    assert!(house.logged("the TLS certificate stays as it was") == 1, "{}", house.server.logged());
    house.server.connect("list").update(3, &[cell("k3", "c", "v", 1)]);
    assert_eq!(version(&old.recv_type("update")), 3);
}

#[test]
fn a_key_that_is_removed_lets_nobody_in_any_longer() {
    let place = Place::new("memory");
    let secret = place.write("secret", SECRETS[0]);
    let config = format!("auth_hs256_secret_file = {secret:?}\nping_interval_ms = 100\n");
    let file = place.write("causeway.toml", &config);
    let house = House { server: place.serve_with(&[("config", &file)]), place };
    let token = |secret: &str| {
        let file = house.place.write("signs", secret);
        let made = run(
            &["token", "--auth-hs256-secret-file", &file, "--subject", "ann", "--channel", "list=write"],
            &[],
        );
        assert_eq!(made.code, Some(0), "{made:?}");
        made.stdout.trim().to_owned()
    };
    let [first, second] = SECRETS.map(token);
    let connect = |token: &str| {
        let headers = format!("Authorization: Bearer {token}\r\n");
        Client::try_request(house.server.addr, &upgrade_request_with("/?channel=list", &headers))
            .map_err(|answer| answer.status)
    };
    let mut old = connect(&first).unwrap();
    assert_eq!(connect(&second).err(), Some(401));
    house.until_told("reloaded: keys: ", |n| {
        let other = format!("another secret, number {n}, of 32 bytes or more");
        house.place.write("secret", &[SECRETS[0], SECRETS[1], &other].join("\n"));
    });
    let mut new = connect(&second).unwrap();
    old.update(1, &[cell("k1", "c", "v", 1)]);
    house.place.write("secret", SECRETS[1]);
    house.hang_up("reloaded: ");
    assert_eq!(connect(&first).err(), Some(401));
    assert_eq!(old.recv_type("error")["code"], "unauthorized");
    let close = old.recv_frame();
    assert_eq!((close.opcode, close.close_code()), (CLOSE, Some(1008)));
    assert_eq!(version(&new.recv_type("update")), 1);
    // Keys that cannot be used stay as they were, and hinder nothing else.
    house.place.write("secret", "short");
    house.reload(&format!("{config}max_channels = 7\n"), "max_channels: 100000 -> 7");
    assert!(house.logged("is shorter than 32 bytes") > 0, "{}", house.server.logged());
    new.update(2, &[cell("k2", "c", "v", 1)]);
    connect(&second).unwrap();
}

#[test]
fn a_configuration_that_cannot_be_taken_changes_nothing_and_is_told() {
    let house = House::with("max_channel_rows = 1\n", &[("log-format", "json")]);
    let mut client = house.server.connect("list");
    assert_eq!(write(&mut client, 1), Ok(1));
    let good = "max_channel_rows = 9\nlog = \"error\"\n";
    let bad = [
        ("max_chanel_rows = 3\n", "max_chanel_rows"),
        ("page_max_changes = 0\n", "page_max_changes"),
        ("allowed_origins = [\"example.com\"]\n", "allowed_origins"),
        ("tls_cert = \"cert.pem\"\n", "tls_cert: it needs tls_key"),
        ("durability = \"most\"\n", "durability"),
        ("store = = 1\n", "line 3, column"),
        ("max_channel_rows = 8\n", "max_channel_rows"),
    ];
    for (line, told) in bad {
        house.reload(&format!("{good}{line}"), told);
        assert_eq!(write(&mut client, 2), Err("quota_exceeded".into()), "{line}");
    }
    house.reload("max_channel_rows = 9\nlog = \"causeway=loud\"\n", "no log filter");
    std::fs::remove_file(house.place.path("causeway.toml")).unwrap();
    house.hang_up("No such file");
    assert_eq!(write(&mut client, 2), Err("quota_exceeded".into()));
    house.reload("max_channel_rows = 9\n", "max_channel_rows: 1 -> 9");
    assert_eq!(write(&mut client, 2), Ok(2));
    let log = house.server.stop_and_log();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let count = |level: &str| lines.iter().filter(|line| line["level"] == level).count();
    assert_eq!((count("ERROR"), count("WARN")), (bad.len() + 2, 0), "{log}");
}

#[test]
fn what_needs_a_restart_is_named() {
    let flag = ("max-changes-per-s", "1000");
    let house = House::with("page_max_changes = 10\n", &[flag]);
    let changed = "page_max_changes = 20\nclose_timeout_ms = 1\nmax_channels = 5\nmax_changes_per_s = 1\n";
    let warning = "not reloaded: page_max_changes: 10 -> 20 needs a restart";
    house.reload(changed, warning);
    assert_eq!(house.logged("not reloaded: close_timeout_ms: 2000 -> 1 needs a restart"), 1);
    assert_eq!(house.logged("reloaded: max_channels: 100000 -> 5"), 1);
    // It is still to come.
    house.hang_up(warning);
    assert_eq!((house.logged("nothing has changed"), house.logged("max_channels: ")), (0, 1));
    house.reload("page_max_changes = 10\nmax_channels = 5\n", "nothing has changed");
    // A flag goes before the file as it did.
    assert_eq!(house.logged("max_changes_per_s"), 0, "{}", house.server.logged());
    let changes: Vec<_> = (0..30).map(|n| cell(&format!("k{n}"), "c", n, 1)).collect();
    let mut client = house.server.connect("list");
    client.update(1, &changes);
    assert_eq!(client.pull(0).len(), 3);
}

#[test]
fn many_signals_in_a_row_do_no_harm() {
    let house = House::new("");
    let mut client = house.server.connect("list");
    for n in 1..=200 {
        house.place.write("unfinished", &format!("max_channels = {n}\n"));
        std::fs::rename(house.place.path("unfinished"), house.place.path("causeway.toml")).unwrap();
        house.server.signal("HUP");
        client.update(n, &[cell(&format!("k{n}"), "c", n, 1)]);
    }
    house.server.wait_for_log("-> 200");
    house.hang_up("nothing has changed");
    client.update(201, &[cell("last", "c", 1, 1)]);
    let log = house.server.stop_and_log();
    assert!(!log.contains(" ERROR ") && !log.contains(" WARN "), "{log}");
}

#[test]
fn a_signal_during_the_drain_does_not_end_it() {
    let mut house = House::new("close_timeout_ms = 20000\n");
    // Who does not answer the close keeps it open.
    let mut client = house.server.connect("list");
    house.server.signal("TERM");
    assert_eq!(client.recv_frame().close_code(), Some(1001));
    house.reload("close_timeout_ms = 20000\nmax_channels = 3\n", "max_channels: 100000 -> 3");
    assert_eq!(house.server.http_get("/readyz").status, 503);
    drop(client);
    assert_eq!(house.server.wait().code(), Some(0));
}

#[test]
fn a_signal_during_the_start_is_kept_for_its_end() {
    let place = Place::new("memory");
    let pipe = place.path("schema.sql");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let settings = [("schema", pipe.to_str().unwrap())];
    let server = Server::starting(&place.data(), place.store, &settings, |process| {
        // It can be opened once the server reads it.
        let mut schema = OpenOptions::new().write(true).open(&pipe).unwrap();
        signal(process, "HUP");
        schema.write_all(b"CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, c TEXT);").unwrap();
    });
    server.wait_for_log("reloaded: nothing has changed");
    server.connect("list");
}

/// A terminal that is closed says SIGHUP, too: what ran in it is not to go on without anybody to see it.
#[test]
fn a_closed_terminal_stops_it() {
    let place = Place::new("memory");
    let serve = format!(
        "echo process $$; exec {} serve --store memory --listen 127.0.0.1:0 --data {}",
        env!("CARGO_BIN_EXE_causeway"),
        place.data().display()
    );
    let mut terminal = Command::new("script")
        .args(["-qec", &serve, "/dev/null"])
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut after = |text: &str| {
        let line = lines.find_map(|line| Some(line.split_once(text)?.1.trim().to_owned()));
        line.unwrap_or_else(|| panic!("no {text:?}"))
    };
    let process: u32 = after("process ").parse().unwrap();
    let address = after("ws://").split('/').next().unwrap().to_owned();
    // As long as there is a terminal it is a reload.
    signal(process, "HUP");
    after("nothing has changed");
    let mut client = Client::connect(address.parse().unwrap(), "list");
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    let told = client.event(PATIENCE);
    let stops = matches!(&told, Event::Frame(frame) if frame.close_code() == Some(1001));
    if !stops {
        signal(process, "KILL");
    }
    assert!(stops, "{told:?}");
    drop(client);
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(&address).is_ok() {
        assert!(Instant::now() < deadline, "it does not end");
    }
}

#[test]
fn the_documented_settings_are_those_that_are_reloaded() {
    let docs = include_str!("../docs/operations.md");
    let section = docs.split("\n## Reload\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows =
        section.lines().filter(|line| line.starts_with("| limits of") || line.starts_with("| the log"));
    let settings = rows.flat_map(|row| row.split(" | ").nth(1).unwrap().split(", "));
    let told: BTreeSet<_> = settings.map(|setting| setting.trim_matches('`')).collect();
    let reloaded = SETTINGS.iter().map(|setting| setting.name).filter(|name| is_reloaded(name));
    assert_eq!(told, reloaded.collect());
}
