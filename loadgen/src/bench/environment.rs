//! The machine that figures were made on: CPU, memory, kernel, the filesystem of the data.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::machine::Machine;

/// What a reader must know to believe a figure, or not to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Environment {
    pub(crate) loadgen_version: &'static str,
    /// Seconds of Unix time.
    pub(crate) made_unix_s: u64,
    pub(crate) command: Vec<String>,
    #[serde(flatten)]
    pub(crate) machine: Machine,
    /// Threads that run the generator's clients.
    pub(crate) generator_threads: usize,
    pub(crate) data: Data,
}

/// Where the data directories are.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Data {
    pub(crate) filesystem: String,
    pub(crate) mount_options: String,
    pub(crate) device: String,
    /// Whether the disk says that it rotates.
    pub(crate) rotational: Option<bool>,
    /// `write back`: the disk says that it has a cache, which a flush must empty; `write through`: that it has none.
    pub(crate) write_cache: Option<String>,
}

impl Environment {
    /// Looks around; what cannot be found out is empty.
    pub(crate) fn look(data: &Path) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            loadgen_version: env!("CARGO_PKG_VERSION"),
            made_unix_s: now.as_secs(),
            command: std::env::args().skip(1).collect(),
            machine: Machine::look(),
            generator_threads: crate::WORKERS,
            data: Data::of(data),
        }
    }
}

impl Data {
    fn of(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let Some((mut data, number)) = mount_of(&read("/proc/self/mountinfo"), &path) else {
            return Self::default();
        };
        // A partition's queue is that of its disk.
        let device = PathBuf::from("/sys/dev/block").join(number);
        let queue = [device.join("queue"), device.join("../queue")].into_iter().find(|queue| queue.is_dir());
        if let Some(queue) = queue {
            let of_queue =
                |name: &str| fs::read_to_string(queue.join(name)).ok().map(|text| text.trim().to_owned());
            data.rotational = of_queue("rotational").map(|text| text == "1");
            data.write_cache = of_queue("write_cache");
        }
        data
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The mount that the path is on, and its device's number: the one with the longest mount point; of equals the last one, which
/// lies over the others.
fn mount_of(mountinfo: &str, path: &Path) -> Option<(Data, String)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<_> = left.split(' ').collect();
        let mut right = right.split(' ');
        // Spaces in paths are written so.
        let point = left.get(4)?.replace("\\040", " ");
        let data = Data {
            filesystem: right.next()?.to_owned(),
            device: right.next()?.to_owned(),
            mount_options: format!("{},{}", left.get(5)?, right.next().unwrap_or_default()),
            ..Data::default()
        };
        path.starts_with(&point).then(|| (point.len(), data, (*left.get(2).unwrap_or(&"")).to_owned()))
    });
    mounts.max_by_key(|(length, ..)| *length).map(|(_, data, number)| (data, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_the_one_with_the_longest_point_and_the_last_of_equals() {
        let mountinfo = "20 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=panic\n\
                         21 20 0:20 / /tmp rw - tmpfs tmpfs rw\n\
                         22 20 0:21 / /tmp rw - overlay over rw\n\
                         23 20 0:22 / /with\\040space rw - xfs /dev/vdb rw\n";
        let on =
            |path: &str| mount_of(mountinfo, Path::new(path)).map(|(data, number)| (data.filesystem, number));
        assert_eq!(on("/home"), Some(("ext4".into(), "254:0".into())));
        assert_eq!(on("/tmp/data"), Some(("overlay".into(), "0:21".into())));
        assert_eq!(on("/tmpfile"), Some(("ext4".into(), "254:0".into())));
        assert_eq!(on("/with space/data"), Some(("xfs".into(), "0:22".into())));
        assert!(mount_of("", Path::new("/")).is_none());
    }

    #[test]
    fn this_machine_is_found() {
        let found = Environment::look(&std::env::temp_dir());
        assert!(!found.data.filesystem.is_empty());
    }
}
