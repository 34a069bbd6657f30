//! The server's own check of a data directory that no server has open.

use std::path::Path;
use std::process::Command;

use super::Failed;
use super::server::Launch;

/// What the server's own check said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verified {
    /// All is well; these are its lines, one a channel.
    Well(Vec<String>),
    /// It found what is wrong.
    Wrong(String),
    /// This server has no such command.
    Unknown,
}

/// Runs `causeway verify` on the data, which it recovers if it must.
pub(crate) fn verify(launch: &Launch, data: &Path) -> Result<Verified, Failed> {
    let output = Command::new(&launch.program)
        .args(["verify", "--store", &launch.store, "--data"])
        .arg(data)
        .output()
        .map_err(|e| format!("{} verify: {e}", launch.program.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    Ok(judge(output.status.code(), &stdout, &String::from_utf8_lossy(&output.stderr)))
}

fn judge(code: Option<i32>, stdout: &str, stderr: &str) -> Verified {
    match code {
        Some(0) => Verified::Well(stdout.lines().map(str::to_owned).collect()),
        Some(2) if stderr.contains("unrecognized subcommand") => Verified::Unknown,
        _ => Verified::Wrong(format!("verify ended with {code:?}: {} {}", stdout.trim(), stderr.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
