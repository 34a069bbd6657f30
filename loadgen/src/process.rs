//! What a process costs, from `/proc`: CPU time and memory.

use std::fs;
use std::io;

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
    fn a_strange_command_name_does_not_shift_the_fields() {
        let stat = "12 (a) b 1 2 3) S 1 12 12 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 4 0 100 0 0";
        let status = "Name:\ta\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        let sample = parse(stat, status).expect("as the kernel writes it");
        assert_eq!(sample, Sample { cpu_s: 1.75, rss_bytes: 1 << 20, rss_peak_bytes: 2 << 20 });
        assert_eq!(parse("nothing", status), None);
    }
}
