//! `compare` and `run` against real servers: what they report is true of what they ran, and what must fail does. How fast
//! anything is, no test here asks.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

mod server;
#[allow(dead_code, reason = "other tests make the other mistakes")]
mod support;
#[allow(dead_code, reason = "other tests record")]
#[path = "trace/tools.rs"]
mod tools;

use server::server;
use support::{Dialect, Mistake, start};

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn loadgen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-loadgen"));
    command.args(arguments).args(["--drain-seconds", "20"]);
    command
}

fn ended(mut command: Command) -> Ended {
    let output = command.output().expect("the generator runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn report(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("report.json")).expect("written")).expect("JSON")
}

/// A workload that takes half a second.
fn short(dir: &Path, name: &str, more: &str) -> String {
    let path = dir.join(name);
    let text = format!(
        "about = \"short\"\nscenario = \"merge\"\nchannels = 2\nin_flight = 1\nseconds = 0.3\nwarmup_seconds = 0.1\n{more}"
    );
    fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

/// The result of a workload for a contender.
fn result<'a>(report: &'a Value, workload: &str, contender: &str) -> &'a Value {
    let named = |list: &'a Value, key: &str, name: &str| list.as_array()?.iter().find(|one| one[key] == name);
    let workload = named(&report["workloads"], "name", workload).expect("the workload");
    named(&workload["results"], "contender", contender).expect("the contender")
}

#[test]
fn stores_are_compared_by_turns_and_the_report_is_true() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let (data, out, server) = (dir.path().join("data"), dir.path().join("out"), server());
    let sweep = short(dir.path(), "sizes.toml", "[sweep]\nchanges = [1, 20]\n");
    let workloads = format!("{sweep},cold-start,hot-cell,delete-heavy,catch-up");
    let mut command = loadgen(&[
        "compare",
        "--stores",
        "sqlite,memory",
        "--durability",
        "full",
        "--rounds",
        "2",
        "--quick",
    ]);
    command
        .args(["--workloads", &workloads, "--data"])
        .arg(&data)
        .arg("--out")
        .arg(&out)
        .arg("--server")
        .arg(&server);
    let Ended { code, stdout, stderr } = ended(command);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert_eq!(fs::read_dir(&data).expect("readable").count(), 0, "nothing is left");

    let report = report(&out);
    assert_eq!(
        (&report["format"], &report["passed"], &report["rounds"]),
        (&1.into(), &true.into(), &2.into())
    );
    for known in ["cpu", "kernel", "cores", "memory_bytes", "loadgen_version", "command"] {
        assert!(!report["environment"][known].is_null(), "{known}");
    }
    assert!(report["environment"]["data"]["filesystem"].as_str().is_some_and(|name| !name.is_empty()));
    assert!(report["probe"]["syncs"].as_u64() > Some(0) && report["probe"]["says"].is_string());
    let contenders = report["contenders"].as_array().expect("contenders");
    assert_eq!(contenders[0]["durability"], "full");
    assert!(contenders[0]["version"].as_str().is_some_and(|version| version.starts_with("causeway ")));
    assert!(contenders[1]["durability"].is_null(), "memory has no durability levels");

    let sqlite = result(&report, "sizes/changes=20", "sqlite/full");
    let memory = result(&report, "sizes/changes=20", "memory");
    for (result, turns) in [(sqlite, [1, 2]), (memory, [2, 1])] {
        let rounds = result["rounds"].as_array().expect("rounds");
        let turn = |round: &Value| round["turn"].as_u64().expect("a number");
        assert_eq!(rounds.iter().map(turn).collect::<Vec<_>>(), turns, "by turns");
        for round in rounds {
            assert!(round["checked"].as_u64() > Some(0), "{round}");
            assert_eq!((&round["figures"]["faults"], &round["figures"]["lost"]), (&0.0.into(), &0.0.into()));
        }
        for (figure, summary) in result["summary"].as_object().expect("figures") {
            let [median, low, high] =
                ["median", "low", "high"].map(|key| summary[key].as_f64().expect("a number"));
            assert!(low <= median && median <= high, "{figure}: {summary}");
            assert_eq!((&summary["rounds"], &summary["spread"]), (&2.into(), &"range".into()));
        }
    }
    // Both channels, after its end.
    assert!(
        sqlite["rounds"].as_array().expect("rounds").iter().all(|round| round["digests"] == 2),
        "{sqlite}"
    );
    for figure in
        ["rate", "p99_ms", "written_bytes_per_change", "disk_bytes_per_change", "rss_peak_bytes", "reopen_ms"]
    {
        assert!(sqlite["summary"][figure]["median"].as_f64() > Some(0.0), "{figure}: {sqlite}");
    }
    // A row of some 100 bytes is written once at least.
    assert!(sqlite["summary"]["written_bytes_per_change"]["median"].as_f64() > Some(100.0), "{sqlite}");
    for figure in ["reopen_ms", "written_bytes_per_change"] {
        assert_eq!(memory["missing"][figure], "the memory store keeps nothing");
    }
    assert!(memory["summary"]["disk_bytes"].is_null());
    let cold = result(&report, "cold-start", "memory");
    assert!(cold["skipped"].as_str().is_some_and(|why| why.contains("keeps nothing")), "{cold}");
    let cold = result(&report, "cold-start", "sqlite/full");
    assert!(
        cold["summary"]["p50_ms"]["median"].as_f64() > Some(0.0) && cold["summary"]["rate"].is_null(),
        "{cold}"
    );
    // The yardstick is not ranked, so there is nobody to be better than.
    assert_eq!(report["workloads"][0]["verdicts"], Value::Array(Vec::new()));

    let sweeps = report["plots"]["sweeps"].as_array().expect("sweeps");
    assert_eq!(sweeps.len(), 2, "one for each contender");
    let values: Vec<_> =
        sweeps[0]["points"].as_array().expect("points").iter().map(|point| &point["value"]).collect();
    assert_eq!(values, [1.0, 20.0]);
    let curve = report["plots"]["latencies"][0]["points"].as_array().expect("points");
    assert!(curve.windows(2).all(|two| two[0][1].as_f64() <= two[1][1].as_f64()), "{curve:?}");
    let markdown = fs::read_to_string(out.join("report.md")).expect("written");
    assert_eq!(markdown, stdout);
    let page = fs::read_to_string(out.join("report.html")).expect("written");
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    let shown = |name: &str| page.contains(&format!(">{name}</text>"));
    assert!(shown("sqlite/full") && shown("memory") && page.contains("<h2>cold-start</h2>"));
    assert!(markdown.contains("| sqlite/full | ") && markdown.contains("memory: not run: "), "{markdown}");
}

#[test]
fn what_cannot_run_is_told_before_anything_does() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let server = server().to_str().expect("UTF-8").to_owned();
    let bad = short(dir.path(), "bad.toml", "chanels = 3\n");
    for (arguments, named) in [
        (vec!["compare", "--stores", "sqlite,nope", "--server", &server], "there is no store named \"nope\""),
        (
            vec!["compare", "--stores", "sqlite", "--durability", "most", "--server", &server],
            "\"most\" is not a durability",
        ),
        (vec!["compare", "--stores", "sqlite", "--workloads", "nothing"], "no workload \"nothing\""),
        (vec!["compare", "--stores", "sqlite,sqlite"], "sqlite/full is there twice"),
        (vec!["compare", "--server-cmd", "x=sleep 1"], "{port}"),
        (vec!["run", &bad], "bad.toml:7: unknown key `chanels`; merge knows changes, channels"),
        (vec!["run", "single", "--assert", "p98_ms<5"], "no figure \"p98_ms\""),
        (vec!["run", "single", "--set", "behind=1"], "--set behind"),
        (vec!["run", "single", "--baseline", "no-such.json"], "no-such.json"),
        (vec!["run", "single", "--against", &server, "--rounds", "2"], "--rounds 2 is too few"),
        (vec!["run", "cold-start", "--url", "ws://127.0.0.1:1/"], "cannot be restarted"),
        (vec!["run", "cold-start", "--store", "memory", "--server", &server], "keeps nothing over a restart"),
        (vec!["restart"], "needs a server that this program started"),
    ] {
        let Ended { code, stdout, stderr } = ended(loadgen(&arguments));
        assert_eq!(code, Some(2), "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains(named), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("round 1"), "nothing has run: {stderr}");
    }
}

#[test]
fn what_runs_already_is_asked_what_it_is() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let server = tools::serve(&dir.path().join("data"));
    let of_report = |report: &Value, kernel: &Value| {
        assert_eq!((&report["store"], &report["durability"]), (&"sqlite".into(), &"full".into()), "{report}");
        assert!(report["version"].as_str().is_some_and(|version| !version.is_empty()), "{report}");
        assert!(kernel.as_str().is_some_and(|kernel| !kernel.is_empty()));
    };
    let ran = tools::loadgen("merge --seconds 0.2 --warmup-seconds 0.1", &["--url", &server.url]);
    assert_eq!(ran.code, Some(0), "{}", ran.text);
    of_report(&ran.report["identity"], &ran.report["machine"]["kernel"]);
    assert!(ran.text.contains("store sqlite, durability full"), "{}", ran.text);
    let workload = short(dir.path(), "one.toml", "");
    let mut command = loadgen(&["run", &workload, "--url", &server.url, "--rounds", "1"]);
    command.arg("--out").arg(dir.path());
    let Ended { code, stderr, .. } = ended(command);
    assert_eq!(code, Some(0), "{stderr}");
    let run = report(dir.path());
    of_report(&run["contenders"][0], &run["environment"]["kernel"]);
    assert_eq!(run["workloads"][0]["results"][0]["promise"]["durability"], "full");

    let other = start(Mistake::None, Dialect::Paged);
    let ran = tools::loadgen("merge --seconds 0.2 --warmup-seconds 0.1", &["--url", &other]);
    assert!(ran.code == Some(0) && ran.report["identity"].is_null(), "{}", ran.text);
}

#[test]
fn a_loss_fails_the_gate_and_is_told_in_a_line() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let workload = short(dir.path(), "one.toml", "");
    let (junit, url) = (dir.path().join("junit.xml"), start(Mistake::ForgetsAcked, Dialect::Paged));
    let mut command = loadgen(&[
        "run",
        &workload,
        "--url",
        &url,
        "--assert",
        "lost=0",
        "--assert",
        "p99_ms<1000000",
        "--assert",
        "reopen_ms<1",
    ]);
    let scratch = dir.path().join("scratch");
    fs::create_dir(&scratch).expect("made");
    command.arg("--junit").arg(&junit).arg("--out").arg(dir.path()).env("TMPDIR", &scratch);
    let Ended { code, stderr, .. } = ended(command);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("one: lost=0: lost is "), "{stderr}");
    assert!(
        stderr.contains(
            "one: reopen_ms<1: reopen_ms was not measured: this program has not started that server"
        ),
        "{stderr}"
    );
    assert!(!stderr.contains("p99_ms<1000000: "), "{stderr}");
    let junit = fs::read_to_string(junit).expect("written");
    assert!(junit.contains("tests=\"4\" failures=\"3\""), "{junit}");
    assert_eq!(report(dir.path())["passed"], false);
    assert_eq!(fs::read_dir(scratch).expect("readable").count(), 0, "there is no data to keep");
}

#[test]
fn a_run_is_held_against_an_old_one_and_a_run_beside_it() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let (server, workload) =
        (server().to_str().expect("UTF-8").to_owned(), short(dir.path(), "one.toml", ""));
    let run = |more: &[&str]| {
        let arguments = [
            "run",
            &workload,
            "--store",
            "memory",
            "--server",
            &server,
            "--rounds",
            "3",
            "--regress",
            "rate",
        ];
        ended(loadgen(&[&arguments[..], more].concat()))
    };
    let old = dir.path().join("report.json");
    let Ended { code, stderr, .. } = run(&[
        "--against",
        &server,
        "--max-regression",
        "1000%",
        "--out",
        dir.path().to_str().expect("UTF-8"),
    ]);
    assert_eq!(code, Some(0), "{stderr}");
    let first = report(dir.path());
    assert_eq!(result(&first, "one", "against")["rounds"].as_array().map(Vec::len), Some(3));
    assert!(first["gate"]["checks"].to_string().contains("rate at most 1000% worse"), "{first}");
    // What it would be if the server had been a thousand times as fast, or as slow.
    for (times, code_wanted) in [(1e3, 1), (1e-3, 0)] {
        let mut changed = first.clone();
        let results = changed["workloads"][0]["results"].as_array_mut().expect("results");
        for round in results[0]["rounds"].as_array_mut().expect("rounds") {
            let rate = round["figures"]["rate"].as_f64().expect("a number");
            round["figures"]["rate"] = (rate * times).into();
        }
        fs::write(&old, changed.to_string()).expect("written");
        let Ended { code, stderr, .. } = run(&["--baseline", old.to_str().expect("UTF-8")]);
        assert_eq!(code, Some(code_wanted), "{times}: {stderr}");
        assert_eq!(stderr.contains("100% worse, which is more than noise"), code_wanted == 1, "{stderr}");
    }
}

#[test]
fn a_generator_that_is_held_up_says_that_it_was_the_limit() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let workload = short(dir.path(), "paced.toml", "rate = 200\n");
    let mut command = loadgen(&["run", &workload, "--store", "memory", "--seconds", "2", "--rounds", "1"]);
    command.arg("--server").arg(server()).arg("--out").arg(dir.path());
    let mut generator = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    let signal = |generator: &Child, name: &str| {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", generator.id())]).status();
        assert!(sent.expect("sh runs").success());
    };
    // Half of all updates are written late: those that fall due while it stands still.
    while generator.try_wait().expect("a child").is_none() {
        signal(&generator, "STOP");
        sleep(Duration::from_millis(60));
        signal(&generator, "CONT");
        sleep(Duration::from_millis(60));
    }
    let report = report(dir.path());
    let result = result(&report, "paced", "this");
    assert_eq!(result["generator_limited"], 1, "{result}");
    let markdown = fs::read_to_string(dir.path().join("report.md")).expect("written");
    assert!(markdown.contains("the generator, not the server, was the limit in 1 of 1 rounds"), "{markdown}");
}

#[test]
fn who_is_interrupted_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory to test in");
    let mut command = loadgen(&["run", "single", "--store", "memory", "--quiet"]);
    command.arg("--server").arg(server()).env("TMPDIR", dir.path());
    let mut generator = command.stdout(Stdio::null()).spawn().expect("it runs");
    let children = format!("/proc/{0}/task/{0}/children", generator.id());
    let server = loop {
        assert!(generator.try_wait().expect("a child").is_none(), "it ended by itself");
        let running = fs::read_to_string(&children).unwrap_or_default();
        let serves = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("serve\0"))
        };
        if let Some(pid) = running.split_whitespace().find(serves) {
            break pid.to_owned();
        }
        sleep(Duration::from_millis(5));
    };
    let sent = Command::new("sh").args(["-c", &format!("kill -TERM {}", generator.id())]).status();
    assert!(sent.expect("sh runs").success());
    assert_eq!(generator.wait().expect("it ends").code(), Some(2));
    assert!(!Path::new(&format!("/proc/{server}")).exists(), "the server is gone, and waited for");
    assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0, "and so is its data");
}
