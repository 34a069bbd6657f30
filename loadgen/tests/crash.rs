//! `crash` against the real server: it passes, and whoever tampers with the data of the dead server is found out.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

#[path = "../../tests/common/guarantees.rs"]
mod guarantees;
mod server;

use server::server;

/// What the other process of [`tamper`] is to do.
const TASK: &str = "CRASH_TEST_TASK";

struct Crashed {
    code: Option<i32>,
    text: String,
    report: Value,
}

/// Runs `crash` on a data directory in `dir`.
fn crash(dir: &Path, arguments: &str, between: &str, server: &Path) -> Crashed {
    let json = dir.join("report.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-loadgen"));
    command.args(["crash", "--quiet", "--drain-seconds", "20"]).args(arguments.split_whitespace());
    command.arg("--server").arg(server).arg("--data").arg(dir.join("data")).arg("--json").arg(&json);
    if !between.is_empty() {
        command.args(["--between", between]);
    }
    let output = command.output().expect("the generator runs");
    let report = fs::read(&json).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Crashed { code: output.status.code(), text, report: report.unwrap_or_default() }
}

/// The shell command that runs [`tamper`] on the dead server's data.
fn tampering(task: &str) -> String {
    let own = env::current_exe().expect("this test has a file");
    format!("{TASK}={task} '{}' --exact tamper", own.display())
}

/// Not a test of its own: the process that [`tampering`] starts.
#[test]
fn tamper() {
    let Ok(task) = env::var(TASK) else { return };
    // By then all that was sent in the first round is acked.
    if env::var("CRASH_ROUND").as_deref() != Ok("1") {
        return;
    }
    let data = PathBuf::from(env::var("CRASH_DATA").expect("the directory is named"));
    let is_filled = |path: &PathBuf| path.to_string_lossy().ends_with("-0.db");
    let mut files = fs::read_dir(data).expect("readable").map(|entry| entry.expect("readable").path());
    let db = rusqlite::Connection::open(files.find(is_filled).expect("the first channel")).expect("opened");
    // The cell that has lain there for the longest.
    let oldest = "cid != '-1' AND (db_version, seq) =
        (SELECT db_version, seq FROM crdt_changes WHERE cid != '-1' ORDER BY db_version, seq LIMIT 1)";
    let sql = match task.as_str() {
        "delete" => format!("DELETE FROM crdt_changes WHERE {oldest}"),
        "alter" => format!("UPDATE crdt_changes SET val = 'z' || val WHERE {oldest}"),
        "clock" => "UPDATE crdt_db_version SET version = 1".into(),
        "site" => "UPDATE crdt_site_id SET id = 'ANOTHER'".into(),
        other => panic!("{other}"),
    };
    assert_eq!(db.execute(&sql, []).expect("done"), 1, "{sql}");
}

#[test]
fn no_durable_store_loses_what_it_acked() {
    for store in causeway_storage::BACKENDS.iter().filter(|store| store.persistent).map(|store| store.name) {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let arguments = format!("--store {store} --rounds 5 --channels 2 --clients 2");
        let Crashed { code, text, report } = crash(dir.path(), &arguments, "", &server());
        assert_eq!(code, Some(0), "{store}: {text}");
        let fact = |name: &str| report["facts"][name].as_f64().unwrap_or_else(|| panic!("{name}: {text}"));
        assert_eq!(fact("rounds"), 5.0);
        assert_eq!(fact("kills: SIGKILL under load") + fact("kills: SIGTERM under load"), 5.0);
        assert!(fact("kills: SIGTERM under load") >= 1.0, "{text}");
        assert!(fact("kills: SIGKILL while recovering") >= 1.0, "{text}");
        assert_eq!(fact("acked changes lost"), 0.0);
        // All five of each channel, before the first round and after each.
        assert_eq!(fact("clients resumed"), 6.0 * 2.0 * 5.0, "{text}");
        assert!(fact("rows compared") > 6_000.0, "{text}");
        assert!(fact("unacked updates at the kills") > 0.0, "{text}");
        assert!(report["rates"][0]["total"].as_u64() > Some(0), "{report}");
    }
    guarantees::row(guarantees::Row {
        number: 60,
        fault: "The server is killed with SIGKILL, over and over: under load, while it starts, while it recovers",
        sender: "the connection ends; what was acked stays, what was not is there whole or not at all, and can be sent again",
        others: "they come back with their cursor and end with what a pull from 0 gives; versions do not fall, the site id stays",
        lost: "nothing acked; digests are those of the rows",
        command: "cargo test --workspace --test crash",
    });
}

#[test]
fn whoever_tampers_with_the_data_is_found_out() {
    let keep = "cp -r \"$CRASH_DATA\" \"$CRASH_DATA.$CRASH_ROUND\"";
    let restore = "rm -r \"$CRASH_DATA\"; cp -r \"$CRASH_DATA.0\" \"$CRASH_DATA\"";
    let older = format!("if [ $CRASH_ROUND = 1 ]; then {restore}; else {keep}; fi");
    let second = |what: &str| format!("if [ $CRASH_ROUND = 1 ]; then {what}; fi");
    // Of what was acked, or of an update without an answer that had just rewritten every row, and is not whole then.
    let one_is_missing = "lacks 01";
    for (store, between, named) in [
        ("sqlite", tampering("delete"), one_is_missing),
        ("sqlite", tampering("alter"), "more is there than was sent whole, which lacks 01"),
        ("sqlite", tampering("clock"), "the version fell: a client was shown"),
        ("sqlite", tampering("site"), "the channel was site"),
        ("sqlite", older.clone(), "the version fell: a client was shown"),
        ("sled", older, "the version fell: a client was shown"),
        ("sqlite", second("rm -r \"$CRASH_DATA\""), "the version fell: a client was shown"),
        ("sled", second("rm -r \"$CRASH_DATA\""), "the version fell: a client was shown"),
        ("sqlite", second("rm -r \"$CRASH_DATA\" && touch \"$CRASH_DATA\""), "the server did not come up"),
    ] {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let arguments = format!("--store {store} --rounds 3 --channels 1 --clients 2 --rows 300");
        // Its own check would find some of it, too: this is about what shows from outside.
        let server = wrapper(dir.path(), "echo \"error: unrecognized subcommand 'verify'\" >&2; exit 2");
        let Crashed { code, text, report } = crash(dir.path(), &arguments, &between, &server);
        assert_eq!(code, Some(1), "{store} {between}: {text}");
        let faults = report["verification"]["first_faults"].to_string();
        assert!(faults.contains(named), "{store} {between}: {text}");
        assert!(text.contains("stopped after round 1 of 3"), "{text}");
        assert!(text.contains(&format!("the data is kept in {}", dir.path().display())), "{text}");
        if named == one_is_missing && faults.contains("after the kill: lacks 01") {
            assert_eq!(report["facts"]["acked changes lost"], 1.0, "{text}");
        }
    }
}

#[test]
fn what_the_servers_own_check_says_is_reported() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let arguments = "--rounds 1 --channels 1 --clients 1 --rows 10";
    let says = |dir: &Path, what: &str| crash(dir, arguments, "", &wrapper(dir, what));
    let wrong = says(&dir.path().join("1"), "echo \"my-channel: digest differs\"; exit 1");
    assert_eq!(wrong.code, Some(1), "{}", wrong.text);
    assert!(wrong.text.contains("my-channel: digest differs"), "{}", wrong.text);
    let forgets = says(&dir.path().join("2"), "echo 'all is well'; exit 0");
    assert_eq!(forgets.code, Some(1), "{}", forgets.text);
    assert!(forgets.text.contains("verify does not know channel load-"), "{}", forgets.text);
    let without = says(&dir.path().join("3"), "echo \"error: unrecognized subcommand 'verify'\" >&2; exit 2");
    assert_eq!(without.code, Some(0), "{}", without.text);
    assert!(without.text.contains("has no `verify`"), "{}", without.text);
}

#[test]
fn a_run_that_cannot_be_carried_out_is_no_verdict() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    for (arguments, between, named) in [
        ("--rounds 1 --server-arg=--no-such-setting", "", "did not come up"),
        ("--rounds 1 --channels 1 --store nothing", "", "did not come up"),
        ("--rounds 1 --channels 1 --clients 1 --rows 10", "exit 7", "--between in round 0"),
    ] {
        let Crashed { code, text, .. } = crash(dir.path(), arguments, between, &server());
        assert_eq!(code, Some(2), "{arguments}: {text}");
        assert!(text.contains(named), "{arguments}: {text}");
    }
    let nothing = crash(dir.path(), "--rounds 1", "", &dir.path().join("no-such-program"));
    assert_eq!(nothing.code, Some(2), "{}", nothing.text);
    assert!(nothing.text.contains("no-such-program"), "{}", nothing.text);
}

/// A server that answers `verify` by a line of shell.
fn wrapper(dir: &Path, verify: &str) -> PathBuf {
    let server = server();
    program(
        dir,
        &format!(
            "#!/bin/sh\nif [ \"$1\" = verify ]; then {verify}; fi\nexec '{}' \"$@\"\n",
            server.display()
        ),
    )
}

fn program(dir: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(dir).expect("made");
    let path = dir.join("server");
    fs::write(&path, script).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    path
}
