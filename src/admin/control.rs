//! The control socket: how a command reaches the server that has the data directory open. A Unix socket in the data
//! directory, for its owner only; a request is a line of JSON, the answer is lines of JSON.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::commands::Commands;
use super::{Line, Problem, Request};

/// The socket's name in the data directory.
const SOCKET: &str = "causeway.sock";

/// The longest request, in bytes.
const REQUEST_MAX_BYTES: u64 = 1 << 20;

/// How long a request may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after the system has refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server's control socket; it ends when this is dropped.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Control {
    /// Listens in the data directory, which this process has locked.
    pub fn start(data: &Path, commands: Commands) -> io::Result<Self> {
        let path = data.join(SOCKET);
        // Left by a server that was killed: the directory's lock is ours, so nobody listens there.
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let address = Address::of(data)?;
        let listener = UnixListener::bind(&address.path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let task = tokio::spawn(async move {
            let _address = address;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let commands = commands.clone();
                        tokio::spawn(async move {
                            if let Err(e) = answer(stream, commands).await {
                                tracing::debug!("a command was not answered to its end: {e}");
                            }
                        });
                    }
                    Err(e) => {
                        tracing::warn!("cannot accept a command: {e}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        Ok(Control { path, task })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        // The next server removes it as well.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(stream: UnixStream, commands: Commands) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut request = String::new();
    let mut read = tokio::io::BufReader::new(read.take(REQUEST_MAX_BYTES));
    tokio::time::timeout(REQUEST_TIMEOUT, read.read_line(&mut request)).await??;
    let request: Request = match serde_json::from_str(&request) {
        Ok(request) => request,
        Err(e) => {
            return send(&mut write, &Line::Problem(Problem::failed(format!("not a request: {e}")))).await;
        }
    };
    let mut told = commands.start(request).await?;
    while let Some(line) = told.recv().await {
        send(&mut write, &line).await?;
    }
    Ok(())
}

async fn send(write: &mut (impl AsyncWriteExt + Unpin), line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Brings a request to the server that has the data directory open, and tells its lines. `false` if there is none.
pub fn ask(data: &Path, request: &Request, tell: &mut dyn FnMut(Line)) -> io::Result<bool> {
    let connected = Address::of(data).and_then(|address| BlockingStream::connect(&address.path));
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(false);
        }
        Err(e) => return Err(e),
    };
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    for line in BufReader::new(stream).lines() {
        tell(serde_json::from_str(&line?)?);
    }
    Ok(true)
}

/// The socket's address. It may have about 100 bytes, a directory's path more: then it goes by way of the directory's
/// descriptor.
struct Address {
    path: PathBuf,
    _dir: Option<File>,
}

impl Address {
    /// What an address may have, in bytes: macOS takes 103.
    const MAX_BYTES: usize = 100;

    fn of(data: &Path) -> io::Result<Self> {
        let path = data.join(SOCKET);
        if path.as_os_str().len() <= Self::MAX_BYTES {
            return Ok(Address { path, _dir: None });
        }
        let dir = File::open(data)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()));
        Ok(Address { path, _dir: Some(dir) })
    }
}
