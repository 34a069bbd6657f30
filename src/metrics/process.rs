//! The process, as the system sees it: the metrics that every Prometheus dashboard knows. Read when they are asked for, from
//! files that take microseconds; what the system does not tell is left out.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// What `/proc` counts a second of a CPU as, on every Linux that Rust runs on.
const TICKS_PER_S: f64 = 100.0;

/// See the module.
#[derive(Debug)]
pub(super) struct Process {
    started: Duration,
    open_files: Arc<OpenFiles>,
}

impl Default for Process {
    fn default() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Process { started, open_files: Arc::default() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut tell = |name, help, unit, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, Some(unit), metric.metric_type())?)
        };
        let started = ConstGauge::new(self.started.as_secs_f64());
        tell("process_start_time", "When the process started, since 1970", &Unit::Seconds, &started)?;
        if let Some(seconds) = cpu_seconds() {
            tell("process_cpu", "CPU time, of user and system", &Unit::Seconds, &ConstCounter::new(seconds))?;
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, help, key) in [
            ("process_resident_memory", "Memory of the system that the process holds", "VmRSS:"),
            ("process_virtual_memory", "Addresses that the process has", "VmSize:"),
        ] {
            if let Some(kib) = field(&status, key) {
                tell(name, help, &Unit::Bytes, &ConstGauge::new(kib as i64 * 1024))?;
            }
        }
        let open = self.open_files.count();
        let max = rlimit::Resource::NOFILE.get_soft().ok();
        let threads = field(&status, "Threads:");
        for (name, help, value) in [
            ("process_open_fds", "Open files, connections among them", open),
            ("process_max_fds", "The most that may be open", max),
            ("process_threads", "Threads", threads),
        ] {
            if let Some(value) = value {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
            }
        }
        Ok(())
    }
}

/// The number of a line of `/proc/self/status`.
fn field(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses, and may have any character in it.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks = |field: usize| rest.split_whitespace().nth(field)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / TICKS_PER_S)
}

/// Where the open files are.
const FILES: &str = "/proc/self/fd";

/// How many there are, as they were counted last.
#[derive(Debug, Default)]
struct OpenFiles {
    counted: AtomicU64,
    counting: AtomicBool,
}

impl OpenFiles {
    /// Since Linux 6.2 the directory's size is their number. Before, they have to be counted, which takes a microsecond each:
    /// on a thread, for whoever asks next.
    fn count(self: &Arc<Self>) -> Option<u64> {
        let count = match fs::metadata(FILES).ok()?.len() {
            0 => {
                self.count_for_the_next();
                self.counted.load(Relaxed)
            }
            count => count,
        };
        (count > 0).then_some(count)
    }

    fn count_for_the_next(self: &Arc<Self>) {
        if self.counting.swap(true, Relaxed) {
            return;
        }
        let this = self.clone();
        let count = move || {
            let files = fs::read_dir(FILES).map_or(0, Iterator::count);
            this.counted.store(files as u64, Relaxed);
            this.counting.store(false, Relaxed);
        };
        if thread::Builder::new().name("open-files".into()).spawn(count).is_err() {
            self.counting.store(false, Relaxed);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_counted() {
        let open_files = Arc::<OpenFiles>::default();
        let before = open_files.count().unwrap();
        let files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close files meanwhile.
        assert!(open_files.count().unwrap() + 25 > before + files.len() as u64);
        assert!(cpu_seconds().is_some());
        open_files.count_for_the_next();
        while open_files.counting.load(Relaxed) {
            thread::yield_now();
        }
        assert!(open_files.counted.load(Relaxed) + 25 > files.len() as u64);
    }
}
