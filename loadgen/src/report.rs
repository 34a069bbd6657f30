//! The report: one structure, printed as a table for people and written as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::identity::Identity;
use crate::machine::Machine;
use crate::meter::{Count, Latency};
use crate::options::Scenario;
use crate::run::{Figures, Run};
use crate::verdict::Outcome;

/// The quantiles of a latency curve.
const CURVE: [f64; 12] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0];
/// An open loop whose updates were written later than this, at the 99th percentile, was not the load that was asked for.
pub(crate) const LATE_MAX_MS: f64 = 10.0;

/// Everything a run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) loadgen_version: &'static str,
    pub(crate) machine: Machine,
    /// None if the server does not say.
    pub(crate) identity: Option<Identity>,
    pub(crate) scenario: Scenario,
    pub(crate) settings: crate::options::Common,
    pub(crate) channel_prefix: String,
    /// The length of the measured window.
    pub(crate) seconds: f64,
    pub(crate) rates: Vec<Rate>,
    pub(crate) latencies: Vec<LatencyLine>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// How many errors came, by code, over the whole run.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) server: Option<Server>,
    pub(crate) generator: Generator,
    /// What else the scenario found, by name.
    pub(crate) facts: BTreeMap<&'static str, f64>,
    /// What a reader of the report should know besides.
    pub(crate) notes: Vec<String>,
    pub(crate) verification: Outcome,
}

#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    pub(crate) name: &'static str,
    pub(crate) total: u64,
    pub(crate) per_second: f64,
    pub(crate) per_server_cpu_second: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(crate) struct LatencyLine {
    pub(crate) name: &'static str,
    pub(crate) count: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// Quantiles from 0 to 1, each with its milliseconds.
    pub(crate) curve: Vec<(f64, f64)>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) cpu_seconds: f64,
    /// Before the run connected anything.
    pub(crate) rss_before_bytes: u64,
    pub(crate) rss_start_bytes: u64,
    pub(crate) rss_end_bytes: u64,
    /// The least and the most in the window, sampled each second, as growth over `rss_before_bytes`.
    pub(crate) rss_growth_min_bytes: i64,
    pub(crate) rss_growth_max_bytes: i64,
    /// The highest ever, as the kernel knows it.
    pub(crate) rss_peak_bytes: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Generator {
    pub(crate) cpu_seconds: f64,
    pub(crate) cores: usize,
    /// The generator itself used nearly all cores: the figures are its limit, not the server's.
    pub(crate) saturated: bool,
    /// Cores that other processes kept busy meanwhile, or a host took away; None if the server's process is not known.
    pub(crate) others_cores: Option<f64>,
    /// How late an open loop's updates were written, at the 99th percentile.
    pub(crate) late_p99_ms: Option<f64>,
    /// That is above [`LATE_MAX_MS`]: the generator did not keep to the schedule.
    pub(crate) schedule_missed: bool,
    /// Generator and server together used nearly all cores: compare work per server CPU second.
    pub(crate) machine_full: bool,
}

impl Report {
    pub(crate) fn new(
        run: &Run,
        scenario: &Scenario,
        figures: &Figures,
        rates: &[(Count, &'static str)],
        latencies: &[(Latency, &'static str)],
        facts: BTreeMap<&'static str, f64>,
    ) -> Self {
        let cpu_s = figures.server.map(|(start, end)| end.cpu_s - start.cpu_s);
        let rate = |(count, name): &(Count, &'static str)| {
            let total = figures.counts.get(*count);
            Rate {
                name,
                total,
                per_second: total as f64 / figures.seconds,
                // Below a few clock ticks the quotient would be noise.
                per_server_cpu_second: cpu_s.filter(|s| *s >= 0.05).map(|s| total as f64 / s),
            }
        };
        let latency = |(which, name): &(Latency, &'static str)| {
            let all = run.meter.histogram(*which);
            let ms = |quantile| all.value_at_quantile(quantile) as f64 / 1e6;
            LatencyLine {
                name,
                count: all.len(),
                p50_ms: ms(0.5),
                p99_ms: ms(0.99),
                p999_ms: ms(0.999),
                max_ms: ms(1.0),
                curve: CURVE.iter().map(|quantile| (*quantile, ms(*quantile))).collect(),
            }
        };
        let server = figures.server.map(|(start, end)| {
            let before = run.server_before.unwrap_or(start).rss_bytes;
            let (min, max) = figures.server_rss.unwrap_or((start.rss_bytes, end.rss_bytes));
            Server {
                cpu_seconds: end.cpu_s - start.cpu_s,
                rss_before_bytes: before,
                rss_start_bytes: start.rss_bytes,
                rss_end_bytes: end.rss_bytes,
                rss_growth_min_bytes: min as i64 - before as i64,
                rss_growth_max_bytes: max as i64 - before as i64,
                rss_peak_bytes: end.rss_peak_bytes,
            }
        });
        let late = run.meter.histogram(Latency::Late);
        let late_p99_ms = (!late.is_empty()).then(|| late.value_at_quantile(0.99) as f64 / 1e6);
        let cores = run.machine.cores;
        let cores_used = figures.own_cpu_s / figures.seconds;
        let cores_used_by_both = cores_used + cpu_s.unwrap_or(0.0) / figures.seconds;
        Self {
            loadgen_version: env!("CARGO_PKG_VERSION"),
            machine: run.machine.clone(),
            identity: None,
            scenario: scenario.clone(),
            settings: run.common.clone(),
            channel_prefix: run.prefix.clone(),
            seconds: figures.seconds,
            rates: rates.iter().map(rate).collect(),
            latencies: latencies.iter().map(latency).filter(|line| line.count > 0).collect(),
            bytes_in: figures.counts.get(Count::BytesIn),
            bytes_out: figures.counts.get(Count::BytesOut),
            errors: run.meter.errors(),
            server,
            generator: Generator {
                cpu_seconds: figures.own_cpu_s,
                cores,
                others_cores: figures.machine_cpu_s.zip(cpu_s).map(|(machine, server)| {
                    ((machine - server - figures.own_cpu_s) / figures.seconds).max(0.0)
                }),
                late_p99_ms,
                schedule_missed: late_p99_ms.is_some_and(|ms| ms > LATE_MAX_MS),
                saturated: cores_used > 0.9 * cores.min(crate::WORKERS) as f64,
                machine_full: cores_used_by_both > 0.95 * cores as f64,
            },
            facts,
            notes: Vec::new(),
            verification: run.verdict.outcome(run.verifies()),
        }
    }

    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(crate) fn passed(&self) -> bool {
        self.verification.passed()
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        self.write_table(&mut out).expect("writing to a String cannot fail");
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{} for {:.1} s, channels {}-*",
            self.scenario.name(),
            self.seconds,
            self.channel_prefix
        )?;
        writeln!(out, "  machine: {}", self.machine)?;
        match &self.identity {
            Some(identity) => writeln!(out, "  server: {identity}")?,
            None => writeln!(out, "  server: it does not say its version, nor what its acks promise")?,
        }
        for rate in &self.rates {
            write!(
                out,
                "  {:<22}{:>14}{:>14}/s",
                rate.name,
                grouped(rate.total as f64),
                grouped(rate.per_second)
            )?;
            match rate.per_server_cpu_second {
                Some(per_cpu) => writeln!(out, "{:>14} per server CPU s", grouped(per_cpu))?,
                None => writeln!(out)?,
            }
        }
        if !self.latencies.is_empty() {
            let header = ("latency, ms", "p50", "p99", "p99.9", "max");
            writeln!(
                out,
                "  {:<22}{:>14}{:>14}{:>14}{:>14}",
                header.0, header.1, header.2, header.3, header.4
            )?;
        }
        for line in &self.latencies {
            writeln!(
                out,
                "  {:<22}{:>14.2}{:>14.2}{:>14.2}{:>14.2}",
                line.name, line.p50_ms, line.p99_ms, line.p999_ms, line.max_ms
            )?;
        }
        for (name, value) in &self.facts {
            writeln!(out, "  {name:<36}{:>14}", grouped(*value))?;
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(out, "  bytes: {:.1} MiB in, {:.1} MiB out", mib(self.bytes_in), mib(self.bytes_out))?;
        if let Some(server) = &self.server {
            writeln!(
                out,
                "  server: {:.2} CPU s, memory {:.1} MiB before, {:.1} at start, {:.1} at end, {:.1} at its peak",
                server.cpu_seconds,
                mib(server.rss_before_bytes),
                mib(server.rss_start_bytes),
                mib(server.rss_end_bytes),
                mib(server.rss_peak_bytes),
            )?;
            writeln!(
                out,
                "  server memory grew by {:.1} to {:.1} MiB in the window",
                server.rss_growth_min_bytes as f64 / f64::from(1 << 20),
                server.rss_growth_max_bytes as f64 / f64::from(1 << 20),
            )?;
        }
        writeln!(out, "  generator: {:.2} CPU s", self.generator.cpu_seconds)?;
        if self.generator.saturated {
            writeln!(
                out,
                "  NOTE: the generator, not the server, was the limit: it used all the CPU time it can"
            )?;
        } else if self.generator.schedule_missed {
            let late = self.generator.late_p99_ms.unwrap_or(0.0);
            writeln!(
                out,
                "  NOTE: the generator, not the server, was the limit: 1% of updates were written {late:.0} ms after they were due"
            )?;
        } else if self.generator.machine_full {
            writeln!(
                out,
                "  NOTE: generator and server fill the machine; compare work per server CPU second"
            )?;
        }
        for note in &self.notes {
            writeln!(out, "  NOTE: {note}")?;
        }
        for (code, count) in &self.errors {
            writeln!(out, "  errors: {count} × {code}")?;
        }
        let outcome = &self.verification;
        match (outcome.passed(), outcome.verified) {
            (true, true) => {
                writeln!(out, "  verified: {} changes where they must be", grouped(outcome.checked as f64))?
            }
            (true, false) => writeln!(out, "  not verified")?,
            (false, _) => writeln!(out, "  FAILED: {} faults, the first of them:", outcome.faults)?,
        }
        outcome.first_faults.iter().try_for_each(|fault| writeln!(out, "    {fault}"))
    }
}

/// A rounded number with its thousands apart.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value <= -0.5 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_stand_apart() {
        let all = [0.4, 999.0, 1_000.0, 1_234_567.8, -1_500.0].map(grouped);
        assert_eq!(all, ["0", "999", "1 000", "1 234 568", "-1 500"]);
    }
}
