//! What is done to the data directory while no server runs on it.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::super::server::Launch;
use super::super::verified::{self, Verified};
use super::Failed;

/// Runs `causeway verify` on a copy: it recovers what it opens, and that is left for the server to do. A copy with
/// faults is kept.
pub(super) fn verify(launch: &Launch) -> Result<Verified, Failed> {
    let mut copy = launch.data.clone().into_os_string();
    copy.push(".verify");
    let copy = Path::new(&copy);
    let failed = |e: io::Error| format!("{}: {e}", copy.display());
    if copy.exists() {
        fs::remove_dir_all(copy).map_err(failed)?;
    }
    copy_dir(&launch.data, copy).map_err(failed)?;
    let verified = verified::verify(launch, copy)?;
    if !matches!(verified, Verified::Wrong(_)) {
        fs::remove_dir_all(copy).map_err(failed)?;
    }
    Ok(verified)
}

/// Runs the operator's command, with the data directory and the round in its environment.
pub(super) fn between(command: &str, launch: &Launch, round: u64) -> Result<(), Failed> {
    let status = Command::new("sh")
        .args(["-c", command])
        .env("CRASH_DATA", &launch.data)
        .env("CRASH_ROUND", round.to_string())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("--between in round {round}: {status}")),
        Err(e) => Err(format!("--between in round {round}: {e}")),
    }
}

/// Copies directories and files; a dead server's socket, if it left one, is neither.
fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_files_and_leaves_a_socket_out() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("inner")).expect("made");
        fs::write(from.join("inner/file"), "text").expect("written");
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).expect("bound");
        copy_dir(&from, &to).expect("copied");
        assert_eq!(fs::read_to_string(to.join("inner/file")).expect("read"), "text");
        assert!(!to.join("socket").exists());
    }
}
