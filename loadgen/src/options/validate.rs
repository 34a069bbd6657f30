//! What of the command line clap cannot see is senseless.

use super::{Command, Common, Options, Scenario, Writing};
use crate::plan::STAMP_BYTES;
use crate::val::Values;

impl Options {
    /// Refuses it, by the option's name.
    pub(crate) fn validate(&self) -> Result<(), String> {
        match &self.command {
            Command::Scenario(scenario) => scenario.validate(&self.common),
            Command::Run(run) => run.validate(),
            Command::Compare(compare) => compare.validate(),
            Command::Workloads { .. } | Command::Record(_) => Ok(()),
        }
    }
}

impl Scenario {
    /// Refuses it, or what holds for every scenario, by the option's name.
    pub(crate) fn validate(&self, common: &Common) -> Result<(), String> {
        for (name, seconds) in [
            ("--seconds", common.seconds),
            ("--warmup-seconds", common.warmup_seconds),
            ("--drain-seconds", common.drain_seconds),
        ] {
            if !(0.0..=86_400.0).contains(&seconds) {
                return Err(format!("{name} must be from 0 to 86400"));
            }
        }
        at_least_one("--columns", u64::from(common.columns))?;
        if common.seconds == 0.0 {
            return Err("--seconds must be above 0".into());
        }
        if common.value_bytes < STAMP_BYTES {
            return Err(format!("--value-bytes must be at least {STAMP_BYTES}: values prove their origin"));
        }
        let any_values = matches!(self, Scenario::Mixed(_) | Scenario::Crash(_) | Scenario::Cluster(_));
        if common.values == Values::Any && !any_values {
            return Err(
                "--values any is for mixed, crash and cluster only: the others prove a value's origin by \
                        its text"
                    .into(),
            );
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if common.table.is_empty() || common.table.len() > 255 || !common.table.chars().all(plain) {
            return Err("--table must be 1 to 255 letters, digits and underscores".into());
        }
        if let Some(prefix) = &common.channel_prefix
            && (prefix.is_empty() || prefix.len() > 200 || prefix.chars().any(char::is_control))
        {
            return Err("--channel-prefix must be 1 to 200 bytes without control characters".into());
        }
        match self {
            Scenario::Merge(merge) => {
                at_least_one("--channels", merge.channels as u64)?;
                at_least_one("--connections-per-channel", merge.connections_per_channel as u64)?;
                let shares = merge.shared_rows;
                if shares && merge.writing.rows == 0 {
                    return Err("--shared-rows needs --rows".into());
                }
                merge.writing.validate(if shares { 1 } else { merge.connections_per_channel as u64 })
            }
            Scenario::Fanout(fanout) => {
                at_least_one("--followers", fanout.followers as u64)?;
                if fanout.writing.in_flight > 100_000 {
                    return Err("--in-flight must be at most 100000".into());
                }
                fanout.writing.validate(1)
            }
            Scenario::Pull(pull) => {
                at_least_one("--rows", pull.rows)?;
                at_least_one("--changes", pull.changes as u64)?;
                at_least_one("--pulls", pull.pulls)?;
                at_least_one("--connections", pull.connections as u64)?;
                if pull.behind > pull.rows {
                    return Err("--behind must be at most --rows".into());
                }
                Ok(())
            }
            Scenario::Restart(restart) => {
                at_least_one("--channels", restart.channels as u64)?;
                at_least_one("--rows", restart.rows)?;
                at_least_one("--changes", restart.changes as u64)?;
                at_least_one("--restarts", restart.restarts)
            }
            Scenario::Idle(idle) => {
                at_least_one("--connections", idle.connections as u64)?;
                at_least_one("--channels", idle.channels as u64)
            }
            Scenario::Mixed(mixed) => {
                at_least_one("--channels", mixed.channels as u64)?;
                at_least_one("--clients", mixed.clients as u64)?;
                at_least_one("--rows", mixed.rows)?;
                at_least_one("--changes", mixed.changes as u64)?;
                at_least_one("--reconnect-ms", mixed.reconnect_ms)?;
                at_least_one("--pull-ms", mixed.pull_ms)?;
                if mixed.deletes > 100 {
                    return Err("--deletes must be at most 100".into());
                }
                at_least_one("--in-flight", mixed.in_flight as u64)
            }
            Scenario::Crash(crash) => {
                at_least_one("--rounds", crash.rounds)?;
                at_least_one("--channels", crash.channels as u64)?;
                at_least_one("--clients", crash.clients as u64)?;
                at_least_one("--rows", crash.rows)?;
                at_least_one("--in-flight", crash.in_flight as u64)
            }
            Scenario::Cluster(cluster) => {
                if !(2..=9).contains(&cluster.nodes) {
                    return Err("--nodes must be from 2 to 9".into());
                }
                if !(0.0..=86_400.0).contains(&cluster.settle) {
                    return Err("--settle must be from 0 to 86400".into());
                }
                at_least_one("--channels", cluster.channels as u64)?;
                at_least_one("--clients", cluster.clients as u64)?;
                at_least_one("--rows", cluster.rows)?;
                at_least_one("--changes", cluster.changes as u64)?;
                at_least_one("--in-flight", cluster.in_flight as u64)?;
                at_least_one("--stay-ms", cluster.stay_ms)?;
                valid_rate(cluster.rate)
            }
            Scenario::Replay(replay) => match replay.first {
                Some(first) if !(first > 0.0 && first <= 1e9) => Err("--first must be above 0".into()),
                _ => Ok(()),
            },
        }
    }
}

impl Writing {
    fn validate(&self, writers: u64) -> Result<(), String> {
        at_least_one("--changes", self.changes as u64)?;
        at_least_one("--in-flight", self.in_flight as u64)?;
        valid_rate(self.rate)?;
        if self.rows > 0 && self.rows < writers {
            return Err("--rows must be 0, or at least one for each writer of a channel".into());
        }
        Ok(())
    }
}

fn valid_rate(rate: Option<f64>) -> Result<(), String> {
    match rate {
        Some(rate) if !(rate > 0.0 && rate <= 10_000_000.0) => {
            Err("--rate must be above 0, and at most 10000000".into())
        }
        _ => Ok(()),
    }
}

pub(super) fn at_least_one(name: &str, value: u64) -> Result<(), String> {
    if value == 0 { Err(format!("{name} must be at least 1")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn check(args: &str) -> Result<(), String> {
        let args = ["causeway-loadgen"].into_iter().chain(args.split_whitespace());
        Options::try_parse_from(args).map_err(|e| e.to_string())?.validate()
    }

    #[test]
    fn the_command_line_is_well_made() {
        <Options as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn good_options_pass() {
        for good in [
            "merge",
            "merge --channels 64 --changes 1 --in-flight 8 --seconds 5 --pid 1",
            "--url ws://127.0.0.1:1/ merge --rate 1000 --rows 10 --connections-per-channel 10",
            "fanout --followers 500 --window acks --in-flight 16 --slow-follower --stalling-followers 1",
            "pull --pulls 3",
            "pull --rows 100 --behind 100 --reconnect",
            "merge --rows 1 --shared-rows --connections-per-channel 8",
            "idle --connections 5000",
            "mixed --followers 0 --values any",
            "crash --store sled --rounds 5 --server-arg --shards=2 --server-arg --log=debug",
            "cluster --nodes 2 --rate 100 --values any",
            "cluster --store sled --kill-node --kill-redis --pause-redis --partition --no-repair --settle 0",
            "record --listen 127.0.0.1:0 --to ws://127.0.0.1:1/ --max-bytes 5000 a.trace",
            "replay a.trace --speed max",
            "replay a.trace --speed 0.5 --first 3",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn senseless_options_are_refused_by_name() {
        for (bad, name) in [
            ("merge --channels 0", "--channels"),
            ("merge --changes 0", "--changes"),
            ("merge --in-flight 0", "--in-flight"),
            ("merge --rate 0", "--rate"),
            ("merge --rate NaN", "--rate"),
            ("merge --rows 3 --connections-per-channel 4", "--rows"),
            ("merge --seconds 0", "--seconds"),
            ("merge --warmup-seconds NaN", "--warmup-seconds"),
            ("merge --value-bytes 3", "--value-bytes"),
            ("merge --columns 0", "--columns"),
            ("merge --table a\"b", "--table"),
            ("merge --values any", "--values"),
            ("fanout --followers 0", "--followers"),
            ("fanout --window never", "--window"),
            ("pull --pulls 0", "--pulls"),
            ("pull --rows 5 --behind 6", "--behind"),
            ("merge --shared-rows", "--shared-rows"),
            ("mixed --deletes 101", "--deletes"),
            ("idle --channels 0", "--channels"),
            ("mixed --clients 0", "--clients"),
            ("crash --rounds 0", "--rounds"),
            ("cluster --nodes 1", "--nodes"),
            ("cluster --settle NaN", "--settle"),
            ("cluster --rate 0", "--rate"),
            ("record --listen 127.0.0.1:0 --to ws://127.0.0.1:1/ --max-bytes 5 a.trace", "--max-bytes"),
            ("record --listen there --to ws://127.0.0.1:1/ a.trace", "--listen"),
            ("replay a.trace --speed 0", "--speed"),
            ("replay a.trace --first 0", "--first"),
            ("replay --speed 1", "<FILE>"),
            ("nothing", "nothing"),
        ] {
            let error = check(bad).expect_err(bad);
            assert!(error.contains(name), "{bad}: {error}");
        }
    }
}
