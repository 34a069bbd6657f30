//! A server as a child process: started, found by what it prints or by its port, killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Failed;
use crate::options::Serving;

/// How often to look whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a server that takes a connection may take to say whether it is ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How to start the server, and where it keeps what.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) store: String,
    pub(crate) data: PathBuf,
    /// Where its stderr goes, of all its lives.
    pub(crate) log: PathBuf,
    arguments: Vec<String>,
    /// A shell command in the place of all that, with `{port}` and `{data}` for what it gets.
    command: Option<String>,
}

impl Launch {
    /// With further arguments, as the scenario needs them.
    pub(crate) fn new(serving: &Serving, data: PathBuf, further: &[String]) -> Result<Self, Failed> {
        let mut log = data.clone().into_os_string();
        log.push(".log");
        let durability = ["--durability".to_owned(), serving.durability.clone()];
        let arguments = [&durability, &serving.program.server_args[..], further].concat();
        let program = find(serving.program.server.as_deref())?;
        Ok(Self { program, store: serving.store.clone(), data, log: log.into(), arguments, command: None })
    }

    /// A server of any kind, started by a shell command.
    pub(crate) fn command(command: &str, data: PathBuf) -> Self {
        let mut log = data.clone().into_os_string();
        log.push(".log");
        Self {
            program: "sh".into(),
            store: String::new(),
            data,
            log: log.into(),
            arguments: Vec::new(),
            command: Some(command.to_owned()),
        }
    }

    /// Whether it is started by a command of its own, and so may be no Causeway.
    pub(crate) fn is_command(&self) -> bool {
        self.command.is_some()
    }

    /// Starts the server on a free port.
    pub(crate) fn spawn(&self) -> Result<Server, Failed> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|e| format!("{}: {e}", self.log.display()))?;
        if let Some(command) = &self.command {
            return self.spawn_command(command, log);
        }
        let child = Command::new(&self.program)
            .args(["serve", "--listen", "127.0.0.1:0", "--store", &self.store, "--data"])
            .arg(&self.data)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        Ok(watch(child, self.log.clone()))
    }
}

impl Launch {
    /// Starts the command; it is up when its port takes clients.
    fn spawn_command(&self, command: &str, log: File) -> Result<Server, Failed> {
        let port = free_port().map_err(|e| format!("no free port: {e}"))?;
        let data = quoted(&self.data.to_string_lossy());
        let command = command.replace("{port}", &port.to_string()).replace("{data}", &data);
        let mut child = Command::new("sh")
            // The process that is measured is to be the server's own.
            .args(["-c", &format!("exec {command}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("sh: {e}"))?;
        let mut stdout = child.stdout.take().expect("it is piped");
        let ended = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&ended);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
            ends.store(true, Ordering::Release);
        });
        let (tell, url) = oneshot::channel();
        std::thread::spawn(move || {
            while !ended.load(Ordering::Acquire) && !tell.is_closed() {
                if takes_clients(port) {
                    let _ = tell.send(format!("ws://127.0.0.1:{port}/"));
                    return;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Ok(Server { child, url, log: self.log.clone() })
    }
}

/// Whether a server answers there, and does not say that it is still starting.
fn takes_clients(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut head = [0; 12];
    let asked = stream
        .set_read_timeout(Some(ANSWER_WITHIN))
        .and_then(|()| {
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        })
        .and_then(|()| stream.read_exact(&mut head));
    // Who knows no such path answers something else, or nothing.
    asked.is_err() || !head.ends_with(b" 503")
}

/// The word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A port that nobody listens on now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Reads what the child prints.
fn watch(mut child: Child, log: PathBuf) -> Server {
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
    Server { child, url, log }
}

/// What went wrong, and the last line of the server's log, which is mostly why.
pub(crate) fn with_log(log: &Path, what: String) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    match log.lines().last() {
        Some(last) => format!("{what}; it said: {last}"),
        None => what,
    }
}

/// A started server, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    url: oneshot::Receiver<String>,
    log: PathBuf,
}

impl Server {
    /// Waits until it says where it listens; else says why it does not.
    pub(crate) async fn up(&mut self, limit: Duration) -> Result<String, String> {
        let what = match tokio::time::timeout(limit, &mut self.url).await {
            Ok(Ok(url)) => return Ok(url),
            Ok(Err(_)) => match self.ended(limit).await {
                Some(status) => format!("the server did not come up: {status}"),
                None => "the server did not come up: it closed its stdout".into(),
            },
            Err(_) => format!("the server did not come up within {} s", limit.as_secs_f64()),
        };
        Err(with_log(&self.log, what))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has said where it listens; to be asked once.
    pub(crate) fn is_up(&mut self) -> bool {
        self.url.try_recv().is_ok()
    }

    /// SIGKILL. Fails if it had ended by itself.
    pub(crate) fn kill(mut self) -> Result<(), String> {
        let before = self.child.try_wait();
        let killed = self.child.kill().and_then(|()| self.child.wait());
        match (before, killed) {
            (Ok(None), Ok(_)) => Ok(()),
            (Ok(Some(status)), _) => Err(format!("the server ended by itself: {status}")),
            (Err(e), _) | (_, Err(e)) => Err(format!("the server cannot be killed: {e}")),
        }
    }

    /// SIGTERM, which must end it with exit code 0.
    pub(crate) async fn terminate(mut self, limit: Duration) -> Result<(), String> {
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
pub(crate) fn signal(pid: u32, name: &str) -> Result<(), String> {
    match Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status() {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("SIG{name} could not be sent: {other:?}")),
    }
}

/// The program: what was asked for, else `causeway` beside this one, else on the PATH.
pub(crate) fn find(wanted: Option<&Path>) -> Result<PathBuf, Failed> {
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
        let child = child.stdout(Stdio::piped()).spawn().expect("sh runs");
        let mut server = watch(child, "no-log".into());
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

    #[tokio::test]
    async fn a_command_gets_its_port_and_data_and_is_up_when_the_port_is_open() {
        let dir = tempfile::tempdir().expect("a directory to test in");
        let data = dir.path().join("it's here");
        let launch = |command: &str| Launch::command(command, data.clone());
        let mut gone = launch("echo {data} {port} >&2").spawn().expect("sh runs");
        let why = gone.up(LIMIT).await.expect_err("it has ended");
        assert!(
            why.contains("did not come up: exit status: 0; it said: ") && why.contains("it's here"),
            "{why}"
        );
        let log = std::fs::read_to_string(&launch("").log).expect("the log");
        let (said, port) = log.trim().rsplit_once(' ').expect("two words");
        assert_eq!((said, port.parse::<u16>().is_ok()), (data.to_str().expect("UTF-8"), true));
    }

    #[test]
    fn who_says_that_it_is_starting_takes_no_clients_yet() {
        for (answer, takes) in [
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 426 Upgrade Required\r\n\r\n", true),
            ("", true),
        ] {
            let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            let port = listener.local_addr().expect("it is bound").port();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a connection");
                let _ = stream.read(&mut [0; 1024]).expect("a request");
                stream.write_all(answer.as_bytes()).expect("an answer");
            });
            assert_eq!(takes_clients(port), takes, "{answer:?}");
            server.join().expect("no panic");
            assert!(!takes_clients(port), "nobody listens any more");
        }
    }

    #[test]
    fn the_banner_tells_the_address() {
        let banner = "  listening   ws://127.0.0.1:4041/?channel=NAME";
        assert_eq!(url_in(banner).as_deref(), Some("ws://127.0.0.1:4041/"));
        assert_eq!(url_in("Causeway 0.1.0"), None);
    }
}
