//! How long the disk takes to say that a write is durable, and whether that can be believed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::environment::Environment;

/// One write, as a log appends it.
const WRITE_BYTES: usize = 4096;
/// Syncs to measure, at most.
const SYNCS: usize = 500;
/// When to stop all the same.
const TIME_MAX: Duration = Duration::from_secs(3);
/// No disk without power-loss protection empties its cache in less.
const CACHE_BELOW_MS: f64 = 0.1;
/// No platter comes round in less: half a turn at 15,000 a minute.
const ROTATION_BELOW_MS: f64 = 2.0;
/// Filesystems that have no disk.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// What was measured in the data directory, and what it means.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Probe {
    /// `write_bytes` are written behind one another and synced (fdatasync), again and again.
    pub(crate) write_bytes: usize,
    pub(crate) syncs: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// The same writes without a sync, for each.
    pub(crate) write_only_p50_ms: f64,
    pub(crate) judgement: Judgement,
    pub(crate) says: String,
}

/// Whether an acknowledged write is on stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Judgement {
    /// There is no disk: a filesystem in memory.
    NoDisk,
    /// Faster than such a disk can be: it acknowledges from a cache, which may be protected against a power cut, or not.
    FromCache,
    /// Slow enough to be true; a virtual disk's host may hold the write in its memory all the same.
    Plausible,
}

/// Measures in this directory, and removes what it wrote.
pub(crate) fn probe(dir: &Path, environment: &Environment) -> Result<Probe, String> {
    let path = dir.join("fsync-probe");
    let measured = measure(&path);
    let _ = std::fs::remove_file(&path);
    let (mut synced, mut written) = measured.map_err(|e| format!("{}: {e}", path.display()))?;
    synced.sort_by(f64::total_cmp);
    written.sort_by(f64::total_cmp);
    let at = |all: &[f64], share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
    let p50_ms = at(&synced, 0.5);
    let (judgement, says) = judge(p50_ms, environment);
    Ok(Probe {
        write_bytes: WRITE_BYTES,
        syncs: synced.len(),
        p50_ms,
        p90_ms: at(&synced, 0.9),
        p99_ms: at(&synced, 0.99),
        max_ms: at(&synced, 1.0),
        write_only_p50_ms: at(&written, 0.5),
        judgement,
        says,
    })
}

/// Milliseconds of each write with its sync, and of each write without.
fn measure(path: &Path) -> io::Result<(Vec<f64>, Vec<f64>)> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    // What is preallocated costs no metadata at a sync, as in a log that is used again.
    let block = vec![0xA5; WRITE_BYTES];
    for at in 0..SYNCS {
        file.write_all_at(&block, (at * WRITE_BYTES) as u64)?;
    }
    file.sync_all()?;
    Ok((timed(&file, &block, true)?, timed(&file, &block, false)?))
}

fn timed(file: &File, block: &[u8], sync: bool) -> io::Result<Vec<f64>> {
    let began = Instant::now();
    let mut all = Vec::with_capacity(SYNCS);
    for at in 0..SYNCS {
        let from = Instant::now();
        file.write_all_at(block, (at * WRITE_BYTES) as u64)?;
        if sync {
            file.sync_data()?;
        }
        all.push(from.elapsed().as_secs_f64() * 1e3);
        if began.elapsed() > TIME_MAX {
            break;
        }
    }
    Ok(all)
}

fn judge(p50_ms: f64, environment: &Environment) -> (Judgement, String) {
    let data = &environment.data;
    if IN_MEMORY.contains(&data.filesystem.as_str()) {
        let says =
            format!("{} has no disk: durability full and off are the same here (certain)", data.filesystem);
        return (Judgement::NoDisk, says);
    }
    let rotates = data.rotational == Some(true);
    let bound =
        if rotates && !environment.machine.virtual_machine { ROTATION_BELOW_MS } else { CACHE_BELOW_MS };
    let cache = match data.write_cache.as_deref() {
        Some("write through") => "; it says that it has no write cache, so no flush is sent to it",
        Some(_) => "; it says that it has a write cache, which a sync must empty",
        None => "",
    };
    let (judgement, mut says) = if p50_ms < bound {
        let says = format!(
            "a sync takes {p50_ms:.3} ms, less than the {bound} ms that a disk needs to empty its cache: it acknowledges from a \
             cache (likely; if that cache is protected against a power cut, which cannot be seen from here, what is acked is \
             safe){cache}"
        );
        (Judgement::FromCache, says)
    } else {
        let says = format!(
            "a sync takes {p50_ms:.3} ms, which a disk that really writes may take{cache} (plausible, no proof)"
        );
        (Judgement::Plausible, says)
    };
    if environment.machine.virtual_machine {
        says.push_str(
            "; this is a virtual machine: whether its host writes at once cannot be measured inside",
        );
    }
    (judgement, says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_too_fast_is_not_believed() {
        let mut environment = Environment::look(&std::env::temp_dir());
        environment.machine.virtual_machine = false;
        environment.data.filesystem = "ext4".into();
        environment.data.rotational = Some(false);
        assert_eq!(judge(0.02, &environment).0, Judgement::FromCache);
        assert_eq!(judge(0.9, &environment).0, Judgement::Plausible);
        environment.data.rotational = Some(true);
        assert_eq!(judge(0.9, &environment).0, Judgement::FromCache);
        assert_eq!(judge(8.0, &environment).0, Judgement::Plausible);
        environment.machine.virtual_machine = true;
        let (judgement, says) = judge(0.9, &environment);
        assert_eq!(
            (judgement, says.contains("host")),
            (Judgement::Plausible, true),
            "what it says of itself is the host's"
        );
        environment.data.filesystem = "tmpfs".into();
        assert_eq!(judge(8.0, &environment).0, Judgement::NoDisk);
    }

    #[test]
    fn the_probe_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let found = probe(dir.path(), &Environment::look(dir.path())).expect("it can write here");
        assert!(found.syncs > 0 && found.p50_ms <= found.p99_ms && found.p99_ms <= found.max_ms);
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
