//! One round: a fresh server, a workload against it, and what is left behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::contender::{Contender, Kind};
use super::figures::{Round, limit, of_report};
use super::workload::Workload;
use crate::meter::Count;
use crate::run::{Run, unique_prefix};
use crate::scenario::host::Host;
use crate::scenario::verified::{Verified, verify};
use crate::scenario::{self, Failed};

/// How long a server may take to come up on what it has left, or to end.
const SERVER_LIMIT: Duration = Duration::from_secs(60);

/// Where a round stands among all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// From 1 on.
    pub(crate) round: usize,
    /// From 1 on.
    pub(crate) turn: usize,
}

/// Runs the workload once. Fails where it could not be carried out; what the verification finds is in the round. Data with
/// faults stays in `data`.
pub(crate) async fn once(
    contender: &Contender,
    workload: &Workload,
    data: &Path,
    turn: Turn,
) -> Result<Round, Failed> {
    let mut host = match contender.launch(data)? {
        Some(launch) => {
            std::fs::create_dir_all(data).map_err(|e| format!("{}: {e}", data.display()))?;
            Some(Host::new(launch, SERVER_LIMIT))
        }
        None => None,
    };
    let mut common = workload.common.clone();
    // A line for each round is enough.
    common.quiet = true;
    let mut start_ms = None;
    match (&mut host, &contender.kind) {
        (Some(host), _) => {
            let up = host.start().await?;
            start_ms = Some(up.took.as_secs_f64() * 1e3);
            (common.url, common.pid) = (Some(up.url), Some(up.pid));
            // An empty server: the same seed gives the same keys.
            common.channel_prefix = Some("bench".into());
        }
        (None, Kind::Url(url, _)) => {
            common.url = Some(url.clone());
            common.channel_prefix = Some(unique_prefix());
        }
        (None, _) => unreachable!("all others are launched"),
    }
    let run = Run::new(common, 1)?;
    *run.host.lock().await = host;
    let report = scenario::run(Arc::clone(&run), &workload.scenario).await?;
    let (mut figures, mut missing) = of_report(&report);
    let changes = run.meter.read().get(Count::Changes);
    let mut host = run.host.lock().await.take();
    let mut left = Left::default();
    match &mut host {
        Some(host) => left = after(host, contender, &mut missing).await?,
        None => ["written_bytes_per_change", "disk_bytes_per_change", "disk_bytes", "reopen_ms", "start_ms"]
            .into_iter()
            .for_each(|name| drop(missing.insert(name, "this program has not started that server".into()))),
    }
    let each = |bytes: u64| bytes as f64 / changes as f64;
    figures.extend(start_ms.map(|ms| ("start_ms", ms)));
    figures.extend(left.reopen_ms.map(|ms| ("reopen_ms", ms)));
    figures.extend(left.disk_bytes.map(|bytes| ("disk_bytes", bytes as f64)));
    if changes > 0 {
        figures.extend(left.written_bytes.map(|bytes| ("written_bytes_per_change", each(bytes))));
        figures.extend(left.disk_bytes.map(|bytes| ("disk_bytes_per_change", each(bytes))));
    }
    let faults = report.verification.faults + left.faults.len() as u64;
    figures.insert("faults", faults as f64);
    let mut first_faults = report.verification.first_faults.clone();
    first_faults.extend(left.faults);
    // Each is an item of a list.
    first_faults.iter_mut().for_each(|fault| *fault = fault.replace('\n', " "));
    let mut notes = report.notes.clone();
    if host.is_some() {
        if faults == 0 {
            remove(data);
        } else {
            notes.push(format!("the data is kept in {}", data.display()));
        }
    }
    Ok(Round {
        round: turn.round,
        turn: turn.turn,
        window_seconds: report.seconds,
        figures,
        missing,
        curve: report.latencies.first().map(|latency| latency.curve.clone()).unwrap_or_default(),
        limit: limit(&report),
        checked: report.verification.checked,
        digests: left.digests,
        first_faults,
        notes,
    })
}

/// What a server leaves.
#[derive(Debug, Default)]
struct Left {
    written_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    reopen_ms: Option<f64>,
    digests: Option<u64>,
    faults: Vec<String>,
}

/// Ends the server, and looks at its data: what it takes, how long it takes to open again, whether its digests are right.
async fn after(
    host: &mut Host,
    contender: &Contender,
    missing: &mut BTreeMap<&'static str, String>,
) -> Result<Left, Failed> {
    let mut left = Left::default();
    let data = host.launch.data.clone();
    host.stop().await?;
    if !contender.keeps() {
        for name in ["written_bytes_per_change", "disk_bytes_per_change", "disk_bytes", "reopen_ms"] {
            missing.insert(name, "the memory store keeps nothing".into());
        }
        return Ok(left);
    }
    left.written_bytes = host.written_bytes();
    if left.written_bytes.is_none() {
        missing.insert("written_bytes_per_change", "the kernel does not tell what processes write".into());
    }
    left.disk_bytes = Some(allocated(&data).map_err(|e| format!("{}: {e}", data.display()))?);
    let up = host.start().await.map_err(|e| format!("on what it has left: {e}"))?;
    left.reopen_ms = Some(up.took.as_secs_f64() * 1e3);
    host.stop().await?;
    if !host.launch.is_command() {
        match verify(&host.launch, &data)? {
            // The last line is the sum.
            Verified::Well(lines) => {
                left.digests = Some(lines.iter().filter(|line| line.starts_with("ok")).count() as u64);
            }
            Verified::Wrong(what) => left.faults.push(what),
            Verified::Unknown => {}
        }
    }
    Ok(left)
}

/// Removes a round's data and the server's log; best effort.
pub(crate) fn remove(data: &Path) {
    let _ = std::fs::remove_dir_all(data);
    let mut log = data.as_os_str().to_owned();
    log.push(".log");
    let _ = std::fs::remove_file(PathBuf::from(log));
}

/// The blocks that all files below take, in bytes.
fn allocated(path: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(path)?;
    let mut sum = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            sum += allocated(&entry?.path())?;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_file_takes_what_is_allocated_for_it() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let empty = allocated(dir.path()).expect("readable");
        std::fs::File::create(dir.path().join("sparse"))
            .and_then(|file| file.set_len(1 << 30))
            .expect("made");
        assert!(allocated(dir.path()).expect("readable") < empty + (1 << 20));
        let mut file = std::fs::File::create(dir.path().join("full")).expect("made");
        std::io::Write::write_all(&mut file, &vec![1; 1 << 20])
            .and_then(|()| file.sync_all())
            .expect("written");
        assert!(allocated(dir.path()).expect("readable") >= empty + (1 << 20));
        remove(dir.path());
        assert!(!dir.path().exists());
    }
}
