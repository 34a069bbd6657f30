//! A redis-server of the run's own, which keeps nothing.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::super::server::signal;
use super::Failed;
use crate::process::Processes;
use crate::rng::Rng;

/// Below the ports that connections get by themselves: while Redis is away, nobody may come to own its port.
const PORTS: std::ops::Range<u16> = 10_000..30_000;
/// How many ports are tried.
const TRIES: usize = 100;
/// How often to look whether it is up.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A redis-server, killed when it is dropped.
#[derive(Debug)]
pub(super) struct Redis {
    program: PathBuf,
    log: PathBuf,
    pub(super) address: SocketAddr,
    child: Option<Child>,
    /// Its CPU time over all its lives.
    pub(super) processes: Processes,
}

impl Redis {
    /// Starts one on a free port of loopback.
    pub(super) async fn start(program: &Path, data: &Path, limit: Duration) -> Result<Self, Failed> {
        let mut rng = Rng::new(u64::from(std::process::id()));
        let mut ports = (0..TRIES).map(|_| PORTS.start + rng.below((PORTS.end - PORTS.start).into()) as u16);
        let port = ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        let address = (Ipv4Addr::LOCALHOST, port.ok_or("no port is free for Redis")?).into();
        let (program, log) = (program.to_owned(), data.join("redis.log"));
        let mut redis = Self { program, log, address, child: None, processes: Processes::default() };
        redis.begin(limit).await?;
        Ok(redis)
    }

    /// Starts it where it was before, and waits until it listens.
    pub(super) async fn begin(&mut self, limit: Duration) -> Result<(), Failed> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|e| format!("{}: {e}", self.log.display()))?;
        let child = Command::new(&self.program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"])
            .arg(self.address.port().to_string())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| {
                format!("{}: {e}; name a redis-server with --redis-server", self.program.display())
            })?;
        self.processes.add(child.id());
        let child = self.child.insert(child);
        let deadline = Instant::now() + limit;
        while TcpStream::connect(self.address).await.is_err() {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("redis-server ended by itself: {status}; see {}", self.log.display()));
            }
            if Instant::now() >= deadline {
                return Err(format!("redis-server did not come up within {} s", limit.as_secs_f64()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// SIGKILL. Fails if it had ended by itself.
    pub(super) fn kill(&mut self) -> Result<(), String> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        self.processes.remove(child.id());
        let before = child.try_wait();
        let killed = child.kill().and_then(|()| child.wait());
        match (before, killed) {
            (Ok(None), Ok(_)) => Ok(()),
            (Ok(Some(status)), _) => Err(format!("redis-server ended by itself: {status}")),
            (Err(e), _) | (_, Err(e)) => Err(format!("redis-server cannot be killed: {e}")),
        }
    }

    /// Sends it a signal by its short name.
    pub(super) fn signal(&self, name: &str) -> Result<(), String> {
        self.child.as_ref().map_or(Ok(()), |child| signal(child.id(), name))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It ends with the run, whatever became of that.
        let _ = self.kill();
    }
}
