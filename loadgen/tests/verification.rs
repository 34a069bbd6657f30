//! The verification must be able to fail: against a small server that makes one mistake, each is found and named.

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Dialect, Mistake, start};

/// Runs the generator: its exit code, its table, and its JSON report if it wrote one.
fn load(url: &str, scenario: &str) -> (Option<i32>, String, Value) {
    let json =
        std::env::temp_dir().join(format!("loadgen-{}-{}", std::process::id(), url.replace(['/', ':'], "-")));
    let output = Command::new(env!("CARGO_BIN_EXE_causeway-loadgen"))
        .args(scenario.split_whitespace())
        .args(["--url", url, "--quiet", "--json"])
        .arg(&json)
        .args(["--seconds", "0.3", "--warmup-seconds", "0.1", "--drain-seconds", "1"])
        .output()
        .expect("the generator runs");
    let report = std::fs::read(&json).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let _ = std::fs::remove_file(&json);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text, report.unwrap_or_default())
}

#[test]
fn a_server_without_mistakes_passes_every_scenario_in_both_dialects() {
    for dialect in [Dialect::Guide, Dialect::Paged] {
        for scenario in [
            "merge --channels 2 --connections-per-channel 2 --changes 3",
            "merge --rate 200 --keys sequential",
            "merge --rows 10 --columns 2 --changes 3 --connections-per-channel 3",
            "fanout --followers 3 --in-flight 2",
            "fanout --followers 3 --rows 5 --window acks",
            "fanout --followers 2 --rate 100 --stalling-followers 1 --stall-ms 50",
            "pull --rows 500 --changes 100 --pulls 3 --connections 2",
            "idle --connections 20 --channels 3",
        ] {
            let (code, text, report) = load(&start(Mistake::None, dialect), scenario);
            assert_eq!(code, Some(0), "{dialect:?} {scenario}: {text}");
            assert!(text.contains("verified"), "{text}");
            assert_eq!(report["verification"]["faults"], 0, "{report}");
            assert!(report["verification"]["checked"].as_u64() > Some(0), "{report}");
        }
    }
}

#[test]
fn each_mistake_is_found_and_named() {
    for (mistake, scenario, named) in [
        (Mistake::ForgetsAcked, "merge --in-flight 1", "the pull of"),
        (Mistake::ForgetsAcked, "merge --in-flight 1", "lacks 01"),
        (Mistake::ForgetsAcked, "fanout --followers 2 --in-flight 1", "the pull of"),
        (Mistake::SkipsFollower, "fanout --followers 2 --in-flight 2", "follower"),
        (Mistake::SkipsFollower, "merge --connections-per-channel 2", "writer"),
        (Mistake::AltersValue, "fanout --followers 2 --in-flight 2", "changes that nobody sent"),
        (Mistake::VersionFalls, "merge --in-flight 1", "version fell from 2 to 1"),
        (Mistake::AnswersError, "merge --in-flight 1", "error storage"),
        (Mistake::NeverAcks, "merge --in-flight 1", "1 updates got no answer"),
        (Mistake::HangsUp, "merge --in-flight 1", "closed with code 1013"),
        (Mistake::HangsUp, "fanout --followers 2", "closed with code 1013"),
        // The small server knows nothing of deletes.
        (Mistake::None, "mixed --channels 1 --rows 5", "lacks 01"),
    ] {
        let (code, text, report) = load(&start(mistake, Dialect::Paged), scenario);
        assert_eq!(code, Some(1), "{mistake:?} {scenario}: {text}");
        assert!(text.contains(named), "{mistake:?} {scenario}: {text}");
        assert!(report["verification"]["faults"].as_u64() > Some(0), "{report}");
    }
}

#[test]
fn without_verification_a_loss_passes_but_says_that_nobody_looked() {
    let (code, text, _) =
        load(&start(Mistake::ForgetsAcked, Dialect::Guide), "merge --in-flight 1 --no-verify");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("not verified"), "{text}");
}

#[test]
fn a_run_that_cannot_be_carried_out_is_no_verdict() {
    for (url, scenario) in
        [("ws://127.0.0.1:1/", "merge"), ("http://127.0.0.1/", "merge"), ("ws://127.0.0.1:1/", "pull")]
    {
        let (code, text, _) = load(url, scenario);
        assert_eq!(code, Some(2), "{url} {scenario}: {text}");
        assert!(text.contains("causeway-loadgen:"), "{text}");
    }
}
