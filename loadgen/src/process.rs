//! What a process costs, from `/proc`: CPU time, memory, what it has written.

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
    /// What it caused to be sent to the storage layer, whole pages, also those of its children that have ended; None if the
    /// kernel does not tell.
    pub(crate) written_bytes: Option<u64>,
}

/// Samples a process; `None` stands for this one.
pub(crate) fn sample(pid: Option<u32>) -> io::Result<Sample> {
    let name = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let stat = fs::read_to_string(format!("/proc/{name}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{name}/status"))?;
    let sample = parse(&stat, &status).ok_or_else(|| io::Error::other("/proc is not as expected"))?;
    // The files of a process of somebody else's are not to be read.
    let io = fs::read_to_string(format!("/proc/{name}/io")).unwrap_or_default();
    Ok(Sample { written_bytes: field(&io, "write_bytes:"), ..sample })
}

/// CPU time that all processes have used so far, and what a host has taken from this virtual machine.
pub(crate) fn machine_cpu_s() -> Option<f64> {
    busy_s(&fs::read_to_string("/proc/stat").ok()?)
}

fn busy_s(stat: &str) -> Option<f64> {
    // user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in user and nice.
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks = fields.map(str::parse::<u64>).collect::<Result<Vec<_>, _>>().ok()?;
    let busy = [0, 1, 2, 5, 6, 7].into_iter().map(|at| ticks.get(at).copied().unwrap_or(0)).sum::<u64>();
    Some(busy as f64 / TICKS_PER_SECOND)
}

/// Processes that are sampled as one. What those that were killed had used stays in the sum.
#[derive(Debug, Default)]
pub(crate) struct Processes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    pids: Vec<u32>,
    gone: Option<Sample>,
}

impl Processes {
    /// A process that has begun.
    pub(crate) fn add(&self, pid: u32) {
        self.known(|known| known.pids.push(pid));
    }

    /// A process that is about to end.
    pub(crate) fn remove(&self, pid: u32) {
        let last = sample(Some(pid)).unwrap_or_default();
        self.known(|known| {
            known.pids.retain(|known| *known != pid);
            let gone = known.gone.get_or_insert(Sample { written_bytes: Some(0), ..Sample::default() });
            gone.cpu_s += last.cpu_s;
            gone.written_bytes = sum(gone.written_bytes, last.written_bytes);
        });
    }

    /// All processes are about to end.
    pub(crate) fn remove_all(&self) {
        self.known(|known| known.pids.clone()).into_iter().for_each(|pid| self.remove(pid));
    }

    /// Their sum; None if one cannot be sampled, or there are none.
    pub(crate) fn sample(&self) -> Option<Sample> {
        let (pids, gone) = self.known(|known| (known.pids.clone(), known.gone));
        if pids.is_empty() && gone.is_none() {
            return None;
        }
        let mut all = gone.unwrap_or(Sample { written_bytes: Some(0), ..Sample::default() });
        for pid in pids {
            let Sample { cpu_s, rss_bytes, rss_peak_bytes, written_bytes } = sample(Some(pid)).ok()?;
            all.cpu_s += cpu_s;
            all.rss_bytes += rss_bytes;
            all.rss_peak_bytes += rss_peak_bytes;
            all.written_bytes = sum(all.written_bytes, written_bytes);
        }
        Some(all)
    }

    fn known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    Some(one? + other?)
}

/// The number of a line that begins so.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
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
        written_bytes: None,
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
    fn what_waits_is_not_busy() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 90 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_s(stat), Some(1.71));
        assert_eq!(busy_s("intr 1"), None);
    }

    #[test]
    fn a_strange_command_name_does_not_shift_the_fields() {
        let stat = "12 (a) b 1 2 3) S 1 12 12 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 4 0 100 0 0";
        let status = "Name:\ta\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        let sample = parse(stat, status).expect("as the kernel writes it");
        let wanted = Sample { cpu_s: 1.75, rss_bytes: 1 << 20, rss_peak_bytes: 2 << 20, written_bytes: None };
        assert_eq!(sample, wanted);
        assert_eq!(
            field("wchar: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n", "write_bytes:"),
            Some(4096)
        );
        assert_eq!(parse("nothing", status), None);
    }
}
