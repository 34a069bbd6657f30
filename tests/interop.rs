//! Real clients: cr-sqlite databases under Node.js, and a client written from the guide alone. The scripts lie in
//! `tests/interop`; here they are installed, and run against the real binary on both durable stores.
//!
//! Needs Node.js 20 or later with npm, and npm's registry once; and redis-server.

#![allow(missing_docs, clippy::unwrap_used)]

#[macro_use]
mod common;
#[path = "interop/tables.rs"]
mod tables;

use common::Server;
use common::redis::{Cluster, Redis};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

on_durable_stores!(
    a_client_of_the_guide_needs_nothing_else,
    databases_converge,
    databases_converge_through_small_pages,
    databases_converge_through_a_crash,
    databases_converge_under_their_schema,
    databases_converge_over_three_nodes_that_lose_redis,
    databases_converge_over_three_nodes_under_their_schema,
);

/// How long a script may stay silent. Each prints a line within its own, shorter limits.
const SILENCE_MAX: Duration = Duration::from_secs(90);

fn a_client_of_the_guide_needs_nothing_else(store: &str) {
    // Small pages, so that even such a client is sent several.
    let server = Server::with(store, &[("page-max-changes", "7")]);
    node("guide.mjs", &[server.addr], &[], |_| {}).succeeds();
}

fn databases_converge(store: &str) {
    let server = Server::start(store);
    node("crsqlite.mjs", &[server.addr], &["--seed", "1", "--runs", "4"], |_| {}).succeeds();
}

/// The relay takes every key and value that real databases make of their tables, and makes the same tables of them.
fn databases_converge_under_their_schema(store: &str) {
    let schema = schema();
    let server = Server::with(store, &[("schema", schema.path().to_str().unwrap())]);
    let tables = tempfile::NamedTempFile::new().unwrap();
    let arguments = ["--seed", "301", "--runs", "2", "--tables", tables.path().to_str().unwrap()];
    node("crsqlite.mjs", &[server.addr], &arguments, |_| {}).succeeds();
    assert_eq!(server.metric("errors_total"), 0, "nothing was refused");
    if store == "sqlite" {
        tables::are_in_the_files(&server, &fs::read_to_string(tables).unwrap(), 2);
    }
}

/// A file with the tables of the scripts' databases.
fn schema() -> tempfile::NamedTempFile {
    const TABLES: &str =
        "import { TABLES } from './lib/workload.mjs'; console.log(TABLES.map(({ sql }) => sql).join(';\\n'))";
    let tables =
        tool("node").current_dir(installed()).args(["--input-type=module", "-e", TABLES]).output().unwrap();
    assert!(tables.status.success(), "{tables:?}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, tables.stdout).unwrap();
    file
}

fn databases_converge_over_three_nodes_that_lose_redis(store: &'static str) {
    over_three_nodes(store, &["--seed", "401"], &[]);
    common::guarantees::row(common::guarantees::Row {
        number: 92,
        fault: "Real cr-sqlite databases edit at three nodes, and move between them, while Redis is killed and away for 5 seconds",
        sender: "acked by its own node, as ever",
        others: "all tables at all nodes are equal in the end, clocks included",
        lost: "nothing",
        command: "cargo test --test interop over_three_nodes",
    });
}

fn databases_converge_over_three_nodes_under_their_schema(store: &'static str) {
    let schema = schema();
    over_three_nodes(store, &["--seed", "501"], &[("schema", schema.path().to_str().unwrap())]);
}

/// Clients of three nodes go on while Redis is away for 5 seconds, and come to another node when they were off line.
fn over_three_nodes(store: &'static str, seed: &[&str], settings: &[(&str, &str)]) {
    const NODES: [&str; 3] = ["a", "b", "c"];
    let redis = Redis::start();
    let (port, cluster) = (redis.port, Cluster::new(store, &redis));
    let servers = NODES.map(|node| cluster.start_with(node, settings));
    let mut redis = Some(redis);
    let apart = |what: &str| match what {
        "apart" => redis.take().unwrap().kill(),
        "together" => {
            servers.iter().for_each(|server| server.wait_for_metric("bus_up", 0));
            redis = Some(Redis::on(port));
        }
        _ => panic!("{what}"),
    };
    let tables = tempfile::NamedTempFile::new().unwrap();
    let arguments = ["--clients", "6", "--rounds", "150", "--apart", "5000", "--tables"];
    let arguments = [seed, &arguments, &[tables.path().to_str().unwrap()]].concat();
    let output =
        node("crsqlite.mjs", &servers.each_ref().map(|server| server.addr), &arguments, apart).succeeds();
    for felt_nothing in ["(0 while apart)", " 0 moves"] {
        assert!(!output.contains(felt_nothing), "{output}");
    }
    let tables = fs::read_to_string(tables).unwrap();
    let channels: BTreeMap<String, serde_json::Value> = serde_json::from_str(&tables).unwrap();
    for channel in channels.keys() {
        cluster.agree_on_all(&NODES, channel);
    }
    for server in &servers {
        server.wait_for_metric("bus_up", 1);
        assert_eq!(server.metric("errors_total"), 0, "nothing was refused");
        if store == "sqlite" && !settings.is_empty() {
            tables::are_in_the_files(server, &tables, 1);
        }
    }
}

fn databases_converge_through_small_pages(store: &str) {
    let server = Server::with(store, &[("page-max-changes", "5"), ("outbox-max-bytes", "2048")]);
    node("crsqlite.mjs", &[server.addr], &["--seed", "101", "--runs", "3", "--clients", "6"], |_| {})
        .succeeds();
}

fn databases_converge_through_a_crash(store: &str) {
    let server = Server::start(store);
    let (addr, data) = (server.addr, tempfile::tempdir().unwrap());
    // On a directory that outlives each of the processes.
    drop(server);
    let mut server = Some(Restartable::start(addr, data.path(), store));
    let crash = |what: &str| {
        assert_eq!(what, "crash");
        server.take().unwrap().kill();
        server = Some(Restartable::start(addr, data.path(), store));
    };
    let arguments = ["--seed", "201", "--runs", "2", "--rounds", "120", "--crashes", "3"];
    let output = node("crsqlite.mjs", &[addr], &arguments, crash).succeeds();
    assert!(!output.contains(" 0 lost"), "a run that felt no crash: {output}");
    common::guarantees::row(common::guarantees::Row {
        number: 91,
        fault: "Real cr-sqlite databases edit, delete, re-insert, go offline and come back, while the server is killed",
        sender: "what was not acked is sent again",
        others: "all tables are equal in the end, clocks included",
        lost: "nothing",
        command: "cargo test --test interop through_a_crash",
    });
}

#[test]
fn a_lost_update_is_noticed() {
    let server = Server::start("memory");
    let script = node("crsqlite.mjs", &[server.addr], &["--seed", "1", "--lose", "5"], |_| {});
    assert!(script.code == Some(1) && script.stdout.contains("differ:"), "{script:?}");
}

/// A server that comes back on the same address.
struct Restartable(Child);

impl Restartable {
    fn start(addr: SocketAddr, data: &Path, store: &str) -> Self {
        let deadline = Instant::now() + common::PATIENCE;
        loop {
            let mut child = Command::new(env!("CARGO_BIN_EXE_causeway"))
                .args(["serve", "--listen", &addr.to_string(), "--store", store, "--data"])
                .arg(data)
                .args(["--log", "error"])
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // The banner, or an end because the address is taken by a passing connection.
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            if lines.any(|line| line.contains("ws://")) {
                thread::spawn(move || lines.for_each(drop));
                return Self(child);
            }
            Self(child).kill();
            assert!(Instant::now() < deadline, "no server on {addr} again");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// `kill -9`.
    fn kill(self) {
        drop(self);
    }
}

impl Drop for Restartable {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a script left behind.
#[derive(Debug)]
struct Script {
    name: &'static str,
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Script {
    #[track_caller]
    fn succeeds(self) -> String {
        let Self { name, code, stdout, stderr } = self;
        assert!(code == Some(0), "{name} ended with {code:?}\n{stdout}\nstderr:\n{stderr}");
        // Shown with --nocapture: the seeds, and what happened in each run.
        println!("{stdout}");
        stdout
    }
}

/// Runs a script to its end on servers; where it asks for something to be done `now`, that is done.
fn node(name: &'static str, addrs: &[SocketAddr], arguments: &[&str], mut act: impl FnMut(&str)) -> Script {
    let mut child = tool("node")
        .current_dir(installed())
        .arg(name)
        .args(addrs.iter().flat_map(|addr| ["--url".into(), format!("ws://{addr}")]))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stderr.take().unwrap();
    let stderr = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (send, receive) = mpsc::channel();
    thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
    let mut stdout = String::new();
    loop {
        match receive.recv_timeout(SILENCE_MAX) {
            Ok(line) => match line.strip_suffix(" now") {
                Some(what) => act(what),
                None => stdout += &(line + "\n"),
            },
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                stdout += &format!("(then nothing for {SILENCE_MAX:?})\n");
                let _ = child.kill();
                break;
            }
        }
    }
    Script { name, code: child.wait().unwrap().code(), stdout, stderr: stderr.join().unwrap() }
}

/// The scripts with their packages, in a directory under `target`, installed once.
fn installed() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
        let manifest = fs::read(source.join("package.json")).unwrap();
        // Written last, so that an interrupted installation is done again.
        let stamp = target.join("installed.json");
        let is_installed = fs::read(&stamp).is_ok_and(|installed| installed == manifest);
        copy(&source, &target);
        if !is_installed {
            let install = ["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"];
            let npm = tool("npm").args(install).current_dir(&target).output().unwrap();
            let said = |pipe| String::from_utf8_lossy(pipe).into_owned();
            let (stdout, stderr) = (said(&npm.stdout), said(&npm.stderr));
            assert!(npm.status.success(), "npm {install:?} in {target:?}: {}\n{stdout}{stderr}", npm.status);
            fs::write(stamp, manifest).unwrap();
        }
        target
    })
}

/// Copies a directory, but no packages that somebody installed there.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if !path.is_dir() {
            fs::copy(path, target).unwrap();
        } else if entry.file_name() != "node_modules" {
            copy(&path, &target);
        }
    }
}

/// A program of Node.js, which must be there: a test that skips itself proves nothing.
fn tool(program: &str) -> Command {
    const NEEDED: &str = "the interop tests need Node.js 20 or later with npm in the PATH \
        (https://nodejs.org, or `apt-get install nodejs npm` where that is recent enough)";
    let version = match Command::new(program).arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => panic!("{NEEDED}: `{program}` does not run: {error}"),
    };
    if program == "node" {
        let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
        assert!(major.is_some_and(|major: u32| major >= 20), "{NEEDED}: this is Node.js {version}");
    }
    Command::new(program)
}
