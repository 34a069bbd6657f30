//! What a process costs, from `/proc`: CPU time and memory.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux architecture that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One sample of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// User and system time so far.
    pub(crate) cpu_s: f64,
    pub(crate) rss_bytes: u64,
    pub(crate) rss_peak_bytes: u64,
}

/// Samples a process; `None` stands for this one.
pub(crate) fn sample(pid: Option<u32>) -> io::Result<Sample> {
    let name = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let stat = fs::read_to_string(format!("/proc/{name}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{name}/status"))?;
    parse(&stat, &status).ok_or_else(|| io::Error::other("/proc is not as expected"))
}

/// Processes that are sampled as one. What those that were killed had used stays in the sum.
#[derive(Debug, Default)]
pub(crate) struct Processes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    pids: Vec<u32>,
    gone: Option<f64>,
}

impl Processes {
    /// A process that has begun.
    pub(crate) fn add(&self, pid: u32) {
        self.known(|known| known.pids.push(pid));
    }

    /// A process that is about to end.
    pub(crate) fn remove(&self, pid: u32) {
        let cpu_s = sample(Some(pid)).unwrap_or_default().cpu_s;
        self.known(|known| {
            known.pids.retain(|known| *known != pid);
            *known.gone.get_or_insert_default() += cpu_s;
        });
    }

    /// Their sum; None if one cannot be sampled, or there are none.
    pub(crate) fn sample(&self) -> Option<Sample> {
        let (pids, gone) = self.known(|known| (known.pids.clone(), known.gone));
        if pids.is_empty() && gone.is_none() {
            return None;
        }
        let mut sum = Sample { cpu_s: gone.unwrap_or(0.0), ..Sample::default() };
        for pid in pids {
            let Sample { cpu_s, rss_bytes, rss_peak_bytes } = sample(Some(pid)).ok()?;
            sum.cpu_s += cpu_s;
            sum.rss_bytes += rss_bytes;
            sum.rss_peak_bytes += rss_peak_bytes;
        }
        Some(sum)
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn parse(stat: &str, status: &str) -> Option<Sample> {
    // The command's name stands in brackets and may hold anything; the numbers begin after the last bracket.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Some(Sample {
        cpu_s: ticks as f64 / TICKS_PER_SECOND,
        rss_bytes: bytes("VmRSS:")?,
        rss_peak_bytes: bytes("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_ended_stays_in_the_sum() {
        let processes = Processes::default();
        assert_eq!(processes.sample(), None);
        let own = std::process::id();
        processes.add(own);
        let one = processes.sample().expect("this process");
        processes.add(own);
        let two = processes.sample().expect("this process twice");
        assert!(two.rss_bytes > one.rss_bytes && two.cpu_s >= 2.0 * one.cpu_s);
        processes.remove(own);
        let gone = processes.sample().expect("what it had used");
        assert_eq!((gone.rss_bytes, gone.cpu_s >= one.cpu_s), (0, true));
    }

    #[test]
    fn a_strange_command_name_does_not_shift_the_fields() {
        let stat = "12 (a) b 1 2 3) S 1 12 12 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 4 0 100 0 0";
        let status = "Name:\ta\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        let sample = parse(stat, status).expect("as the kernel writes it");
        assert_eq!(sample, Sample { cpu_s: 1.75, rss_bytes: 1 << 20, rss_peak_bytes: 2 << 20 });
        assert_eq!(parse("nothing", status), None);
    }
}
