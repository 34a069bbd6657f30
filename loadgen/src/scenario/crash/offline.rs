//! What is done to the data directory while no server runs on it.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::super::server::Launch;
use super::Failed;

/// What the server's own check said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verified {
    /// All is well; these are its lines, one a channel.
    Well(Vec<String>),
    /// It found what is wrong.
    Wrong(String),
    /// This server has no such command.
    Unknown,
}

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
    let output = Command::new(&launch.program)
        .args(["verify", "--store", &launch.store, "--data"])
        .arg(copy)
        .output()
        .map_err(|e| format!("{} verify: {e}", launch.program.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let verified = judge(output.status.code(), &stdout, &String::from_utf8_lossy(&output.stderr));
    if !matches!(verified, Verified::Wrong(_)) {
        fs::remove_dir_all(copy).map_err(failed)?;
    }
    Ok(verified)
}

fn judge(code: Option<i32>, stdout: &str, stderr: &str) -> Verified {
    match code {
        Some(0) => Verified::Well(stdout.lines().map(str::to_owned).collect()),
        Some(2) if stderr.contains("unrecognized subcommand") => Verified::Unknown,
        _ => Verified::Wrong(format!("verify ended with {code:?}: {} {}", stdout.trim(), stderr.trim())),
    }
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

    #[test]
    fn a_server_without_the_command_is_told_from_one_that_found_faults() {
        assert_eq!(judge(Some(0), "a ok\nb ok\n", ""), Verified::Well(vec!["a ok".into(), "b ok".into()]));
        let unknown = "error: unrecognized subcommand 'verify'\n\nUsage: causeway [OPTIONS]";
        assert_eq!(judge(Some(2), "", unknown), Verified::Unknown);
        for (code, stderr) in [(Some(1), "channel a"), (Some(2), "error: no --data"), (None, "")] {
            assert!(matches!(judge(code, "", stderr), Verified::Wrong(_)), "{code:?}");
        }
    }
}
