//! A server as a child process: started, found by what it prints, killed.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Failed;
use crate::options::Serving;

/// How often to look whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How to start the server, and where it keeps what.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) store: String,
    pub(super) data: PathBuf,
    /// Where its stderr goes, of all its lives.
    pub(super) log: PathBuf,
    arguments: Vec<String>,
}

impl Launch {
    /// With further arguments, as the scenario needs them.
    pub(super) fn new(serving: &Serving, data: PathBuf, further: &[String]) -> Result<Self, Failed> {
        let mut log = data.clone().into_os_string();
        log.push(".log");
        let durability = ["--durability".to_owned(), serving.durability.clone()];
        let arguments = [&durability, &serving.server_args[..], further].concat();
        let program = find(serving.server.as_deref())?;
        Ok(Self { program, store: serving.store.clone(), data, log: log.into(), arguments })
    }

    /// Starts the server on a free port.
    pub(super) fn spawn(&self) -> Result<Server, Failed> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|e| format!("{}: {e}", self.log.display()))?;
        let child = Command::new(&self.program)
            .args(["serve", "--listen", "127.0.0.1:0", "--store", &self.store, "--data"])
            .arg(&self.data)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        Ok(watch(child))
    }
}

/// Reads what the child prints.
fn watch(mut child: Child) -> Server {
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let (tell, url) = oneshot::channel();
    // Read to its end, so that the server never waits for a reader.
    std::thread::spawn(move || {
        let mut tell = Some(tell);
        for line in stdout.lines().map_while(Result::ok) {
            if let Some(url) = url_in(&line)
                && let Some(tell) = tell.take()
            {
                let _ = tell.send(url);
            }
        }
    });
    Server { child, url }
}

/// A started server, killed when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    url: oneshot::Receiver<String>,
}

impl Server {
    /// Waits until it says where it listens; else says why it does not.
    pub(super) async fn up(&mut self, limit: Duration) -> Result<String, String> {
        match tokio::time::timeout(limit, &mut self.url).await {
            Ok(Ok(url)) => Ok(url),
            Ok(Err(_)) => match self.ended(limit).await {
                Some(status) => Err(format!("the server did not come up: {status}")),
                None => Err("the server did not come up: it closed its stdout".into()),
            },
            Err(_) => Err(format!("the server did not come up within {} s", limit.as_secs_f64())),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has said where it listens; to be asked once.
    pub(super) fn is_up(&mut self) -> bool {
        self.url.try_recv().is_ok()
    }

    /// SIGKILL. Fails if it had ended by itself.
    pub(super) fn kill(mut self) -> Result<(), String> {
        let before = self.child.try_wait();
        let killed = self.child.kill().and_then(|()| self.child.wait());
        match (before, killed) {
            (Ok(None), Ok(_)) => Ok(()),
            (Ok(Some(status)), _) => Err(format!("the server ended by itself: {status}")),
            (Err(e), _) | (_, Err(e)) => Err(format!("the server cannot be killed: {e}")),
        }
    }

    /// SIGTERM, which must end it with exit code 0.
    pub(super) async fn terminate(mut self, limit: Duration) -> Result<(), String> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(format!("the server ended by itself: {status}"));
        }
        signal(self.child.id(), "TERM")?;
        match self.ended(limit).await {
            Some(status) if status.code() == Some(0) => Ok(()),
            Some(status) => {
                Err(format!("after SIGTERM the server ended with {status}, not with exit code 0"))
            }
            None => Err(format!("the server did not end within {} s of SIGTERM", limit.as_secs_f64())),
        }
    }

    /// How it ended, if it does so in time.
    async fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by its short name: the standard library sends none but SIGKILL.
pub(super) fn signal(pid: u32, name: &str) -> Result<(), String> {
    match Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status() {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("SIG{name} could not be sent: {other:?}")),
    }
}

/// The program: what was asked for, else `causeway` beside this one, else on the PATH.
fn find(wanted: Option<&Path>) -> Result<PathBuf, Failed> {
    if let Some(wanted) = wanted {
        return Ok(wanted.to_owned());
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = beside.into_iter().chain(std::env::split_paths(&path));
    let mut programs = places.map(|place| place.join(format!("causeway{}", std::env::consts::EXE_SUFFIX)));
    programs.find(|program| program.is_file()).ok_or_else(|| {
        "no server: there is no `causeway` beside this program nor on the PATH; name one with --server".into()
    })
}

/// The `ws://HOST:PORT/` in a line of the server's banner.
fn url_in(line: &str) -> Option<String> {
    let url = &line[line.find("ws://")?..];
    let end = url["ws://".len()..].find(|c: char| c == '/' || c.is_whitespace())? + "ws://".len();
    Some(format!("{}/", &url[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that says where it listens, and does this at SIGTERM, and else this.
    async fn started(at_term: &str, then: &str) -> Server {
        let mut child = Command::new("sh");
        child.args(["-c", &format!("trap '{at_term}' TERM; echo ' ws://127.0.0.1:1/?channel=NAME'; {then}")]);
        let mut server = watch(child.stdout(Stdio::piped()).spawn().expect("sh runs"));
        assert_eq!(server.up(LIMIT).await.as_deref(), Ok("ws://127.0.0.1:1/"));
        server
    }

    const LIMIT: Duration = Duration::from_secs(20);
    const STAYS: &str = "while :; do sleep 0.01; done";

    #[tokio::test]
    async fn a_server_must_live_until_it_is_killed_and_end_well_when_it_is_asked() {
        assert_eq!(started("", STAYS).await.kill(), Ok(()));
        let bad = started("exit 3", STAYS).await.terminate(LIMIT).await;
        assert!(bad.as_ref().is_err_and(|e| e.contains("not with exit code 0")), "{bad:?}");
        let well = started("exit 0", STAYS).await.terminate(LIMIT).await;
        assert_eq!(well, Ok(()));
        let mut gone = started("", "exit 5").await;
        assert!(gone.ended(LIMIT).await.is_some());
        assert!(gone.kill().is_err_and(|e| e.contains("ended by itself: exit status: 5")));
        let deaf = started("", STAYS).await.terminate(Duration::ZERO).await;
        assert!(deaf.as_ref().is_err_and(|e| e.contains("did not end within")), "{deaf:?}");
    }

    #[test]
    fn the_banner_tells_the_address() {
        let banner = "  listening   ws://127.0.0.1:4041/?channel=NAME";
        assert_eq!(url_in(banner).as_deref(), Some("ws://127.0.0.1:4041/"));
        assert_eq!(url_in("Causeway 0.1.0"), None);
    }
}
