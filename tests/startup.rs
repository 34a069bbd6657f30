//! Starting: configuration from file, environment and flags, and problems told in one line.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Finished, Server, cell, keys, run};
use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;

/// Runs `serve` on a port of its own, where it must fail.
fn serve(data: &Path, more: &[&str]) -> Finished {
    let data = data.to_str().unwrap();
    run(&[&["serve", "--listen", "127.0.0.1:0", "--data", data], more].concat(), &[])
}

fn assert_one_line(finished: &Finished) -> &str {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!finished.stdout.contains("ws://"), "no banner: {finished:?}");
    let line = finished.stderr.trim_end();
    assert!(!line.is_empty() && !line.contains('\n'), "one line: {finished:?}");
    line
}

/// `serve --print-config` with more arguments and variables.
fn print_config(more: &[&str], environment: &[(&str, &str)]) -> String {
    let finished = run(&[&["serve", "--print-config"], more].concat(), environment);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    finished.stdout
}

fn parse(toml: &str) -> Value {
    toml::from_str(toml).unwrap_or_else(|error| panic!("{error} in {toml}"))
}

/// A setting, at the top or in a table.
fn setting<'a>(config: &'a Value, key: &str) -> Option<&'a Value> {
    let tables = config.as_object()?;
    tables.get(key).or_else(|| tables.values().find_map(|table| setting(table, key)))
}

#[test]
fn a_taken_port_is_told_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let data = temp.path().join("data");
    let finished = run(&["serve", "--listen", &addr, "--data", data.to_str().unwrap()], &[]);
    let line = assert_one_line(&finished);
    assert!(line.contains(&addr), "{line}");
}

#[test]
fn a_data_directory_that_cannot_be_is_told_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("a file");
    std::fs::write(&file, "not a directory").unwrap();
    for store in common::durable_stores() {
        for path in [file.clone(), file.join("below"), Path::new("/proc/data").to_owned()] {
            let finished = serve(&path, &["--store", store]);
            let line = assert_one_line(&finished);
            assert!(line.contains(path.to_str().unwrap()), "{line} names {path:?}");
        }
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not a directory");
}

#[test]
fn a_data_directory_in_use_is_told_in_one_line() {
    for store in common::durable_stores() {
        let temp = tempfile::tempdir().unwrap();
        let first = Server::at(temp.path(), store, &[]);
        let mut client = first.connect("list");
        client.update(1, &[cell("k", "c", "v", 1)]);
        for _ in 0..2 {
            assert_one_line(&serve(temp.path(), &["--store", store]));
        }
        client.update(2, &[cell("l", "c", "v", 1)]);
        // Free again after the worst end of the first.
        first.kill();
        let second = Server::at(temp.path(), store, &[]);
        assert_eq!(keys(&second.connect("list").pull_rows(0)), ["k", "l"]);
    }
}

#[test]
fn a_bad_setting_is_named_wherever_it_stands() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let in_file = |text: &str| {
        let file = temp.path().join("bad.toml");
        std::fs::write(&file, text).unwrap();
        serve(&data, &["--config", file.to_str().unwrap()])
    };
    let in_environment = |name: &str, value: &str| {
        run(&["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()], &[(name, value)])
    };
    let cases = [
        ("no_such_key", in_file("no_such_key = 1\n")),
        ("max_message_bytess", in_file("max_message_bytess = 1000\n")),
        ("max_message_bytes", in_file("max_message_bytes = \"many\"\n")),
        ("max_message_bytes", in_file("max_message_bytes = -1\n")),
        ("max_message_bytes", in_environment("CAUSEWAY_MAX_MESSAGE_BYTES", "many")),
        ("strict_channel", in_environment("CAUSEWAY_STRICT_CHANNEL", "perhaps")),
        ("max_message_bytes", serve(&data, &["--max-message-bytes", "many"])),
        ("max_message_bytes", serve(&data, &["--max-message-bytes=-1"])),
        ("page_max_changes", serve(&data, &["--page-max-changes", "1.5"])),
        ("no_such_flag", serve(&data, &["--no-such-flag", "1"])),
        ("listen", run(&["serve", "--listen", "nowhere", "--data", data.to_str().unwrap()], &[])),
        ("nosuchstore", serve(&data, &["--store", "nosuchstore"])),
        ("sometimes", serve(&data, &["--durability", "sometimes"])),
    ];
    for (key, finished) in cases {
        assert!(matches!(finished.code, Some(1 | 2)), "{key}: {finished:?}");
        let told = finished.stderr.to_lowercase().replace('-', "_");
        assert!(told.contains(key), "{key} is named in {finished:?}");
        assert!(!finished.stdout.contains("ws://"), "{finished:?}");
    }
}

#[test]
fn a_config_file_that_is_missing_or_no_toml_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let missing = temp.path().join("missing.toml");
    let broken = temp.path().join("broken.toml");
    std::fs::write(&broken, "max_message_bytes = \n").unwrap();
    for file in [missing, broken] {
        let finished = serve(&data, &["--config", file.to_str().unwrap()]);
        assert!(matches!(finished.code, Some(1 | 2)), "{finished:?}");
        assert!(finished.stderr.contains(file.file_name().unwrap().to_str().unwrap()), "{finished:?}");
    }
}

#[test]
fn a_flag_is_over_the_environment_and_that_over_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("causeway.toml");
    std::fs::write(&file, "page_max_changes = 11\noutbox_max_bytes = 11111\nmax_bad_messages = 7\n").unwrap();
    let with_file = ["--config", file.to_str().unwrap()];
    let environment = [("CAUSEWAY_PAGE_MAX_CHANGES", "22"), ("CAUSEWAY_OUTBOX_MAX_BYTES", "22222")];
    let all = [with_file.as_slice(), &["--page-max-changes", "33"]].concat();
    let told = |arguments: &[&str], environment: &[(&str, &str)]| {
        let config = parse(&print_config(arguments, environment));
        ["page_max_changes", "outbox_max_bytes", "max_bad_messages"].map(|key| {
            setting(&config, key).and_then(Value::as_u64).unwrap_or_else(|| panic!("{key} in {config}"))
        })
    };
    assert_eq!(told(&[], &[]), [5000, 4_194_304, 20], "the defaults");
    assert_eq!(told(&with_file, &[]), [11, 11_111, 7]);
    assert_eq!(told(&with_file, &environment), [22, 22_222, 7]);
    assert_eq!(told(&all, &environment), [33, 22_222, 7]);
}

#[test]
fn the_printed_config_explains_each_key_and_can_be_used() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("printed.toml");
    for more in [&[][..], &["--page-max-changes", "7", "--durability", "normal", "--strict-channel", "true"]]
    {
        let printed = print_config(more, &[]);
        std::fs::write(&file, &printed).unwrap();
        assert_eq!(
            print_config(&["--config", file.to_str().unwrap()], &[]),
            printed,
            "it reads what it wrote"
        );
        let mut commented = false;
        for line in printed.lines().map(str::trim) {
            if line.contains('=') && !line.starts_with('#') && !line.starts_with('[') {
                assert!(commented || line.contains('#'), "no comment at {line:?} in {printed}");
            }
            commented = line.starts_with('#');
        }
    }
    let known = parse(&print_config(&[], &[]));
    for (key, value) in [
        ("max_message_bytes", 8 << 20),
        ("max_changes_per_update", 50_000),
        ("page_max_bytes", 1 << 20),
        ("page_max_changes", 5000),
        ("outbox_max_bytes", 4 << 20),
        ("slow_client_timeout_ms", 30_000),
        ("ping_interval_ms", 20_000),
        ("pong_timeout_ms", 60_000),
        ("max_col_version_jump", 1_000_000),
        ("max_cl_jump", 1_000_000),
        ("max_bad_messages", 20),
    ] {
        assert_eq!(setting(&known, key), Some(&value.into()), "the contract's default of {key}");
    }
    for key in [
        "listen",
        "data",
        "store",
        "durability",
        "drain_timeout_ms",
        "handshake_timeout_ms",
        "strict_channel",
    ] {
        assert!(setting(&known, key).is_some(), "{key} in {known}");
    }
}

#[test]
fn printing_the_config_starts_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    print_config(&["--listen", &addr, "--data", data.to_str().unwrap()], &[]);
    assert!(!data.exists());
}

#[test]
fn a_printed_config_with_the_servers_place_serves() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("printed.toml");
    std::fs::write(&file, print_config(&["--page-max-changes", "2"], &[])).unwrap();
    let server = Server::with("memory", &[("config", file.to_str().unwrap())]);
    let mut client = server.connect("list");
    client.update(1, &(0..5).map(|n| cell(&format!("k{n}"), "c", "v", 1)).collect::<Vec<_>>());
    assert_eq!(client.pull(0).len(), 3);
}
