//! `cluster` against the real server and a real redis-server: it passes whatever faults are made, and without repairs it
//! fails. Without `redis-server` nothing would be tested, so that fails too.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

mod server;

const FAULTS: &str = "--kill-node --kill-redis --pause-redis --partition";

struct Ran {
    code: Option<i32>,
    text: String,
    report: Value,
}

impl Ran {
    /// A number of the report.
    #[track_caller]
    fn fact(&self, name: &str) -> f64 {
        self.report["facts"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {}", self.text))
    }

    #[track_caller]
    fn latency(&self, name: &str) -> &Value {
        let mut latencies = self.report["latencies"].as_array().expect("an array").iter();
        latencies.find(|line| line["name"] == name).unwrap_or_else(|| panic!("no {name}: {}", self.text))
    }

    #[track_caller]
    fn passed(&self) {
        assert_eq!(self.code, Some(0), "{}", self.text);
        assert!(self.report["verification"]["checked"].as_u64() > Some(0), "{}", self.report);
        assert!(self.report["rates"][0]["total"].as_u64() > Some(0), "{}", self.report);
    }
}

/// Runs `cluster` with little load on data in `dir`.
fn cluster(dir: &Path, arguments: &str) -> Ran {
    let redis = Command::new("redis-server").arg("--version").output();
    assert!(redis.is_ok_and(|said| said.status.success()), "redis-server is installed");
    let json = dir.join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_causeway-loadgen"))
        .args(["cluster", "--quiet", "--warmup-seconds", "0.5", "--drain-seconds", "30"])
        .args(["--channels", "2", "--clients", "1"])
        .args(arguments.split_whitespace())
        .arg("--server")
        .arg(server::server())
        .arg("--data")
        .arg(dir.join("data"))
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the generator runs");
    let report = std::fs::read(&json).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ran { code: output.status.code(), text, report: report.unwrap_or_default() }
}

#[test]
fn whatever_faults_are_made_all_nodes_and_clients_end_equal() {
    for store in causeway_storage::BACKENDS.iter().filter(|store| store.persistent).map(|store| store.name) {
        let dir = tempfile::tempdir().expect("a directory to test in");
        // A seed whose first faults are of all kinds, and whose partitions swallow.
        let ran = cluster(dir.path(), &format!("--store {store} --seed 4 --seconds 6 {FAULTS}"));
        ran.passed();
        for fault in ["nodes killed", "Redis killed", "Redis paused", "partitions"] {
            assert!(ran.fact(&format!("faults: {fault}")) >= 1.0, "{store}: {}", ran.text);
        }
        assert!(ran.fact("messages swallowed") >= 1.0, "{store}: {}", ran.text);
        assert!(ran.fact("clients cut by a kill") >= 1.0, "{store}: {}", ran.text);
    }
}

#[test]
fn without_repairs_the_same_faults_leave_the_nodes_different() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let ran = cluster(dir.path(), &format!("--seed 4 --seconds 6 --settle 2 --no-repair {FAULTS}"));
    assert_eq!(ran.code, Some(1), "{}", ran.text);
    let first = ran.report["verification"]["first_faults"][0].as_str().expect("a fault").to_owned();
    assert!(first.contains("nodes differ after 2 s: a has "), "{}", ran.text);
    assert!(ran.text.contains("lacks 01"), "the first differences are named: {}", ran.text);
    assert!(ran.text.contains("are kept in"), "{}", ran.text);
}

#[test]
fn a_partition_alone_is_healed_by_repairs_and_by_nothing_else() {
    let partition = "--nodes 2 --values any --seed 1 --seconds 4 --partition";
    let dir = tempfile::tempdir().expect("a directory to test in");
    let ran = cluster(&dir.path().join("1"), partition);
    ran.passed();
    assert!(ran.fact("messages swallowed") >= 1.0, "{}", ran.text);
    let ran = cluster(&dir.path().join("2"), &format!("{partition} --no-repair --settle 2"));
    assert_eq!(ran.code, Some(1), "what was swallowed does not come: {}", ran.text);
    assert!(ran.text.contains("nodes differ after 2 s"), "{}", ran.text);
}

#[test]
fn without_faults_it_measures() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let ran = cluster(dir.path(), "--nodes 2 --rate 100 --seconds 2");
    ran.passed();
    let own = ran.latency("delivery, same node")["count"].as_u64();
    let other = ran.latency("delivery, other node")["count"].as_u64();
    assert!(own > Some(0) && other > Some(0), "{}", ran.text);
    // An open loop sends what is due, and no more.
    let acked = ran.report["rates"][0]["total"].as_f64().expect("a number");
    assert!((100.0..=300.0).contains(&acked), "{}", ran.text);
    assert!(ran.report["server"]["cpu_seconds"].as_f64() > Some(0.0), "{}", ran.report);
    assert!(ran.fact("redis-server, CPU ms") >= 0.0);
    assert!(!ran.text.contains("the nodes were started with"), "as they are by default: {}", ran.text);
}

#[test]
fn a_run_that_cannot_be_carried_out_is_no_verdict() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    for (arguments, named) in [
        ("--redis-server no-such-program", "--redis-server"),
        ("--redis-server false", "redis-server ended by itself"),
        ("--server-arg=--no-such-setting", "did not come up"),
    ] {
        let ran = cluster(&dir.path().join(arguments.replace(' ', "")), arguments);
        assert_eq!(ran.code, Some(2), "{arguments}: {}", ran.text);
        assert!(ran.text.contains(named), "{arguments}: {}", ran.text);
    }
}
