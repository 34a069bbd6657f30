//! `causeway check-config`.

use std::fs;

use crate::common::{Place, lines, run};
use crate::unfit::until_checked;

#[test]
fn a_configuration_is_checked_without_anything_being_started() {
    let place = Place::new("sqlite");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    // The port need not be free, nor the data directory be there.
    for store in causeway_storage::BACKENDS.iter().map(|backend| backend.name) {
        let found = place.with_store(store).json(&["check-config", "--listen", &listen]);
        let settings: Vec<&str> = found.iter().map(|line| line["setting"].as_str().unwrap()).collect();
        assert_eq!(settings, ["listen", "log", "data"]);
        assert_eq!(found[0]["found"], listen.as_str());
    }
    assert!(!place.data().exists());
    let token = place.write("token", "0123456789abcdef");
    place.write("short", "0123");
    place.write("bad.toml", "shards = 3\nshard = 4\n");
    place.write("worse.toml", "shards = \n");
    place.write("bad.sql", "-- The first line.\nCREATE TABLE t (id)");
    let admin = ["check-config", "--admin-listen", "127.0.0.1:1"];
    let people = place.people(&[&admin[..], &["--admin-token-file", "/token"]].concat());
    assert_eq!(people.last().unwrap(), "5 ok, 0 problems");
    assert!(
        people[2].starts_with("ok       admin_token_file ") && !people.concat().contains("0123456789abcdef")
    );
    // What a setting can tell of itself is said before anything else, and alone; of the rest everything is said.
    for (arguments, environment, named) in [
        (&admin[..], &[][..], "admin_token_file"),
        (&["check-config", "--config", "/nowhere"], &[], "nowhere"),
        (&["check-config", "--config", "/bad.toml"], &[], "shard:"),
        (&["check-config", "--config", "/worse.toml"], &[], "worse.toml"),
        (&["check-config"], &[("CAUSEWAY_SHARDS", "-1")], "CAUSEWAY_SHARDS"),
        (&["check-config"], &[("CAUSEWAY_NONSENSE", "1")], "CAUSEWAY_NONSENSE"),
    ] {
        let in_place = |argument: &&str| argument.replacen('/', &format!("{}/", place.path("").display()), 1);
        let arguments: Vec<String> = arguments.iter().map(in_place).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let wrong = run(&arguments, environment);
        assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(1), ""), "{arguments:?}: {wrong:?}");
        assert!(wrong.stderr.contains(named), "{arguments:?}: {wrong:?}");
    }
    for (arguments, named) in [
        (&[&admin[..], &["--admin-token-file", "/short"]].concat()[..], "admin_token_file"),
        (&[&admin[..], &["--admin-token-file", "/nowhere"]].concat(), "nowhere"),
        (&["check-config", "--listen", "nonsense"], "listen"),
        (&["check-config", "--log", "causeway=loudly"], "log"),
        (&["check-config", "--schema", "/nowhere"], "nowhere"),
        (&["check-config", "--schema", "/bad.sql"], "bad.sql:2: "),
    ] {
        let wrong = place.run(arguments);
        assert_eq!(wrong.code, Some(1), "{arguments:?}: {wrong:?}");
        let problem = wrong.stdout.lines().find(|line| line.starts_with("PROBLEM ")).unwrap();
        assert!(problem.contains(named) && wrong.stdout.contains("ok       "), "{arguments:?}: {wrong:?}");
        assert!(wrong.stdout.ends_with(" ok, 1 problem\n"), "{wrong:?}");
    }
    let wrong = run(&["check-config", "--data", &token], &[]);
    assert!(wrong.code == Some(1) && wrong.stdout.contains("not a directory"), "{wrong:?}");
    // What is wrong there does not start either.
    for arguments in [&admin[1..], &[&admin[1..], &["--admin-token-file", "/short"]].concat()] {
        let refused = place.with_store("memory").run(&[&["serve"], arguments].concat());
        assert!(refused.code == Some(1) && refused.stderr.contains("admin_token_file"), "{refused:?}");
    }
}

#[test]
fn a_schema_is_held_against_the_data_directorys_last() {
    let place = Place::new("sqlite");
    let tables = "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, text);";
    place.write("schema.sql", tables);
    let check = |more: &[&str]| {
        let finished = place.run(&[&["check-config", "--schema", "/schema.sql", "--json"], more].concat());
        let lines = lines(&finished.stdout);
        let last = lines.last().unwrap();
        let told = last.get("found").or(last.get("problem")).unwrap().as_str().unwrap().to_owned();
        assert_eq!(finished.code, Some(i32::from(last["line"] == "problem")), "{finished:?}");
        told
    };
    assert!(check(&[]).ends_with("schema.sql: 1 table, packed keys; the first for this data directory"));
    assert!(!place.data().exists());
    let server = place.serve_with(&[("schema", place.path("schema.sql").to_str().unwrap())]);
    assert!(server.banner("  schema      ").ends_with("schema.sql: 1 table, packed keys"));
    let note = place.data().join("causeway.schema.sql");
    until_checked(&place);
    let mut server = Some(server);
    for _ in 0..2 {
        let noted = fs::read_to_string(&note).unwrap();
        assert!(check(&[]).ends_with("1 table, packed keys; the data directory's last"));
        assert!(check(&["--key-format", "plain"]).contains("was served with key_format = packed"));
        place.write("schema.sql", &tables.replace("text)", "text, done)"));
        assert!(check(&[]).contains("1 table, packed keys; follows the data directory's last"));
        place.write("schema.sql", &tables.replace(", text)", ")"));
        assert!(check(&[]).contains("no column \"text\" any more"));
        place.write("schema.sql", "CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL)");
        assert!(check(&[]).contains("table \"todos\" is there no more"));
        place.write("schema.sql", tables);
        assert_eq!(fs::read_to_string(&note).unwrap(), noted, "it only looks");
        // While the server runs, and while it does not.
        if let Some(server) = server.take() {
            server.stop();
        }
    }
}
