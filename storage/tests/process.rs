//! What other processes meet: a locked directory, and what a killed one had committed. The test's own binary is the
//! other process.

use std::env;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use causeway_storage::conformance::{digest_of, read_all};
use causeway_storage::{
    BACKENDS, Backend, Change, Clamp, Durability, StoreError, StoreOptions, Update, Value, merge,
};

/// What the other process is to do, in which directory, with which backend and durability.
const TASK: &str = "CAUSEWAY_TEST_TASK";

fn persistent() -> impl Iterator<Item = &'static Backend> {
    BACKENDS.iter().filter(|backend| backend.persistent)
}

/// Runs [`child`] in a process of its own.
fn start(task: &str, dir: &Path, backend: &Backend, durability: Durability) -> Command {
    let mut command = Command::new(env::current_exe().expect("this test has a file"));
    let task = format!("{task}\n{}\n{}\n{durability}", dir.display(), backend.name);
    command.args(["--exact", "child", "--nocapture"]).env(TASK, task).stdout(Stdio::piped());
    command
}

/// The other process; nothing at all when it is run as a test.
#[test]
fn child() {
    let Ok(task) = env::var(TASK) else { return };
    let [task, dir, backend, durability] = task.split('\n').collect::<Vec<_>>()[..] else {
        panic!("{task:?}")
    };
    let durability = durability.parse().expect("a durability");
    let options = StoreOptions { durability, ..StoreOptions::new(dir) };
    let backend = causeway_storage::backend(backend).expect("a backend");
    match task {
        "open" => match (backend.open)(&options) {
            Ok(_) => println!("\nopened"),
            Err(StoreError::Locked { .. }) => println!("\nlocked"),
            Err(e) => panic!("{e}"),
        },
        "commit" => {
            let store = (backend.open)(&options).expect("opened");
            let mut channel = store.open("a").expect("opened");
            println!();
            // Moves and new cells, small and large, until the other side has had enough. Every update wins.
            for n in channel.head().version.. {
                let text = "x".repeat(if n % 7 == 0 { 20_000 } else { 20 });
                let cell = |pk, cid, col_version| Change {
                    table: "t",
                    pk,
                    cid,
                    val: Value::Text(&text),
                    col_version,
                    db_version: 0,
                    site_id: "S",
                    cl: 1,
                    seq: 0,
                };
                let pk = (n % 40).to_string();
                let changes = [cell(&pk, "a", n + 1), cell(&pk, "b", n + 1), cell("count", "c", n + 1)];
                let update = Update { site_id: "S", version: n, changes: &changes };
                merge(&mut *channel, &[update], &Clamp::default()).expect("merged");
                println!("{}", channel.head().version);
            }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_second_process_is_refused_while_the_first_has_the_directory() {
    for backend in persistent() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let store = (backend.open)(&StoreOptions::new(dir.path())).expect("opened");
        let ask = || {
            let output = start("open", dir.path(), backend, Durability::Full).output().expect("it runs");
            String::from_utf8(output.stdout).expect("text")
        };
        let answer = ask();
        assert!(answer.lines().any(|line| line == "locked"), "{}: {answer}", backend.name);
        drop(store);
        let answer = ask();
        assert!(answer.lines().any(|line| line == "opened"), "{}: {answer}", backend.name);
    }
}

/// At `full` and at `normal` a commit outlives the process that made it, and the channel is whole.
#[test]
fn a_killed_process_leaves_all_that_it_committed() {
    for backend in persistent() {
        for durability in [Durability::Full, Durability::Normal] {
            let dir = tempfile::tempdir().expect("a directory to test in");
            let mut told = 0;
            for round in 1..=3u64 {
                let mut child = start("commit", dir.path(), backend, durability).spawn().expect("it runs");
                let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
                let versions = lines.filter_map(|line| line.expect("text").parse::<u64>().ok());
                told = versions.take(60).last().expect("it commits");
                child.kill().expect("killed");
                child.wait().expect("it ends");

                let name = format!("{}, {durability}, round {round}", backend.name);
                let store = (backend.open)(&StoreOptions::new(dir.path())).expect("opened");
                let mut reader = store.reader("a").expect("readable");
                let (cells, version) = read_all(&mut *reader);
                assert!(version >= told, "{name}: {version} is there, {told} was committed");
                assert_eq!(reader.head().expect("read").digest, digest_of(&cells), "{name}");
                assert!(cells.iter().all(|cell| cell.at.version <= version), "{name}");
                let newest = cells.iter().filter(|cell| cell.at.version == version).count();
                assert_eq!(newest, 3, "{name}: the last version is whole");
                let peers = reader.peers().expect("read");
                assert_eq!(peers[0].version + 1, version, "{name}: the peer of the last version is there");
                store.close().expect("closed");
            }
            assert!(told >= 180);
        }
    }
}
