//! The machine that figures were made on.

use std::fmt;
use std::fs;

use serde::Serialize;

/// What a reader must know to believe a figure, or not to. What cannot be found out is empty.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    /// Cores that this program may use.
    pub(crate) cores: usize,
    /// Whether the kernel says that this is a virtual machine.
    pub(crate) virtual_machine: bool,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// The load average over a minute, before anything ran.
    pub(crate) load_average: f64,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let of_cpu = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let flags = of_cpu("flags").unwrap_or_default();
        let kib = read("/proc/meminfo").lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        let first = |text: String| text.split_whitespace().next().unwrap_or_default().to_owned();
        Self {
            cpu: of_cpu("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            virtual_machine: flags.split(' ').any(|flag| flag == "hypervisor"),
            memory_bytes: kib.unwrap_or(0) * 1024,
            kernel: first(read("/proc/sys/kernel/osrelease")),
            load_average: first(read("/proc/loadavg")).parse().unwrap_or(0.0),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, kernel, load_average, .. } = self;
        let is_virtual = if self.virtual_machine { ", a virtual machine" } else { "" };
        let gib = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(
            f,
            "{cpu}, {cores} cores{is_virtual}, {gib:.1} GiB; kernel {kernel}; load average before: {load_average:.2}"
        )
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_found() {
        let found = Machine::look();
        assert!(found.cores > 0 && found.memory_bytes > 0 && !found.kernel.is_empty());
        assert!(found.to_string().contains(&found.kernel));
    }
}
