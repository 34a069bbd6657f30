//! The real binary as a child process.

use super::PATIENCE;
use super::certificate::{Certificate, cert_file, key_file};
use super::client::{Client, narrow};
use super::http::{Response, encode, exchange, upgrade_request};
use super::stream::Stream;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_rustls::rustls::ClientConfig;

/// A running server, killed when it is dropped.
pub struct Server {
    pub addr: SocketAddr,
    pub data: PathBuf,
    /// How its clients speak TLS, if it does.
    pub tls: Option<Arc<ClientConfig>>,
    child: Child,
    /// What it prints after its own address.
    banner: Mutex<mpsc::Receiver<String>>,
    stderr: Option<JoinHandle<String>>,
    /// What it has logged so far.
    logged: Arc<Mutex<Vec<u8>>>,
    _temp: Option<TempDir>,
}

impl Server {
    /// A server on a data directory of its own, which goes with it.
    pub fn start(store: &str) -> Self {
        Self::with(store, &[])
    }

    /// The same with more flags, each a name without dashes and a value.
    pub fn with(store: &str, settings: &[(&str, &str)]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut server = Self::at(&temp.path().join("data"), store, settings);
        server._temp = Some(temp);
        server
    }

    /// The same over TLS, with a certificate in the directory above its data.
    pub fn over_tls(store: &str, certificate: &Certificate, settings: &[(&str, &str)]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut server = Self::over_tls_in(temp.path(), store, certificate, settings);
        server._temp = Some(temp);
        server
    }

    /// The same, with a directory of the caller's for the certificate's files.
    pub fn over_tls_in(
        dir: &Path,
        store: &str,
        certificate: &Certificate,
        settings: &[(&str, &str)],
    ) -> Self {
        certificate.write(dir);
        let (cert, key) = (cert_file(dir), key_file(dir));
        let files = [("tls-cert", cert.to_str().unwrap()), ("tls-key", key.to_str().unwrap())];
        let mut server = Self::at(&dir.join("data"), store, &[&files, settings].concat());
        server.tls = Some(certificate.client());
        server
    }

    /// A server on a data directory of the caller's.
    pub fn at(data: &Path, store: &str, settings: &[(&str, &str)]) -> Self {
        Self::starting(data, store, settings, |_| ())
    }

    /// The same; something is done, with the process' id, before it is waited for.
    pub fn starting(
        data: &Path,
        store: &str,
        settings: &[(&str, &str)],
        meanwhile: impl FnOnce(u32),
    ) -> Self {
        let mut command = command(&["serve", "--store", store], &[]);
        if !settings.iter().any(|(name, _)| *name == "listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.arg("--data").arg(data);
        // What a test fails with is read by people.
        if !settings.iter().any(|(name, _)| *name == "log-format") {
            command.args(["--log-format", "human"]);
        }
        for (name, value) in settings {
            command.arg(format!("--{name}")).arg(value);
        }
        let mut child = command.spawn().unwrap();
        let (send, receive) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        // Read to the end, so that the server never blocks on a full pipe.
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let logged = Arc::default();
        let stderr = collect_into(child.stderr.take().unwrap(), Arc::clone(&logged));
        meanwhile(child.id());
        let deadline = Instant::now() + PATIENCE;
        let addr = loop {
            match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(addr) = bound_address(&line) {
                        break addr;
                    }
                }
                Err(error) => {
                    let _ = child.kill();
                    panic!("no banner ({error}); stderr: {}", stderr.join().unwrap());
                }
            }
        };
        let banner = Mutex::new(receive);
        let (data, stderr) = (data.to_owned(), Some(stderr));
        Self { addr, data, tls: None, child, banner, stderr, logged, _temp: None }
    }

    /// The address of its operators' listener, which it was started with; to be asked for once.
    pub fn operators(&self) -> SocketAddr {
        let url = self.banner("operators   http");
        let (_, rest) = url.split_once("://").unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    }

    /// What its banner says behind that, which must be there and is to be asked for once.
    pub fn banner(&self, of: &str) -> String {
        let banner = self.banner.lock().unwrap();
        loop {
            let line = banner.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line with {of:?}"));
            if let Some((_, said)) = line.split_once(of) {
                return said.to_owned();
            }
        }
    }

    pub fn connect(&self, channel: &str) -> Client {
        Client::connect_over(self.stream(), channel)
    }

    /// The same over a [`narrow`] socket.
    pub fn connect_narrow(&self, channel: &str, segment_bytes: u32) -> Client {
        Client::connect_over(self.narrow_stream(segment_bytes), channel)
    }

    /// The connection below it.
    pub fn narrow_stream(&self, segment_bytes: u32) -> Stream {
        Stream::over(narrow(self.addr, segment_bytes), self.tls.as_ref())
    }

    /// A connection, over TLS if it speaks TLS.
    pub fn stream(&self) -> Stream {
        Stream::over(self.tcp(), self.tls.as_ref())
    }

    /// A bare connection.
    pub fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn http_get(&self, target: &str) -> Response {
        self.http(&format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    /// Any request, which must be answered.
    pub fn http(&self, request: &str) -> Response {
        exchange(self.stream(), request.as_bytes()).unwrap_or_else(|| panic!("no answer to {request:?}"))
    }

    /// All metrics of one moment without their prefix, those that differ in labels only summed up.
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        let mut metrics = BTreeMap::new();
        for line in self.http_get("/metrics").text().lines() {
            if let Some((sample, value)) =
                line.strip_prefix("causeway_").and_then(|line| line.rsplit_once(' '))
            {
                let name = sample.split_once('{').map_or(sample, |(name, _)| name);
                *metrics.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap() as u64;
            }
        }
        metrics
    }

    /// One of [`Server::metrics`].
    #[track_caller]
    pub fn metric(&self, name: &str) -> u64 {
        *self.metrics().get(name).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Waits until a metric is what it should be.
    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, expected: u64) {
        self.wait_until(name, |value| value == expected);
    }

    /// Waits until a metric is as it should be.
    #[track_caller]
    pub fn wait_until(&self, name: &str, is: impl Fn(u64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is(self.metric(name)) {
            assert!(Instant::now() < deadline, "{name} is {}", self.metric(name));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a request is answered that is no refusal for want of room.
    pub fn wait_until_served(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.http_get("/healthz").status != 200 {
            assert!(Instant::now() < deadline, "nobody is served");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal by its short name.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Stops the process until it gets `CONT`.
    pub fn freeze(&self) {
        freeze(self.child.id());
    }

    /// From now on no file may grow beyond that; `None` lifts the limit.
    pub fn limit_files(&self, max_bytes: Option<u64>) {
        let max = max_bytes.map_or_else(|| "unlimited".to_owned(), |max| max.to_string());
        let pid = self.child.id().to_string();
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={max}:unlimited")]).status();
        assert!(set.unwrap().success(), "prlimit --fsize={max}");
    }

    /// How many files the process has open, where the system tells it.
    pub fn open_files(&self) -> Option<usize> {
        Some(std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).ok()?.count())
    }

    /// What `/metrics` has counted of a limit's refusals.
    pub fn limited(&self, setting: &str) -> u64 {
        let lines = self.metric_lines(&format!("causeway_limited_total{{limit=\"{setting}\"}}"));
        lines[0].rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// The most memory that the process ever held, in bytes, where the system tells it.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
    }

    /// `kill -9`, and no trace of the process left.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child).unwrap_or_else(|| panic!("the server should end"))
    }

    /// SIGTERM, which must end in exit code 0.
    pub fn stop(self) {
        self.stop_and_log();
    }

    /// The same; its data directory stays until what is given is dropped.
    pub fn stop_and_keep(mut self) -> Option<TempDir> {
        let temp = self._temp.take();
        self.stop();
        temp
    }

    /// The same, and gives all that was logged.
    pub fn stop_and_log(mut self) -> String {
        self.signal("TERM");
        assert_eq!(self.wait().code(), Some(0), "the exit code after SIGTERM");
        self.log()
    }

    /// All that it has logged, once it has ended.
    pub fn log(&mut self) -> String {
        self.stderr.take().map(|stderr| stderr.join().unwrap()).unwrap_or_default()
    }

    /// Waits until its log has the text.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.logged().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not in {}", self.logged());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has logged so far.
    pub fn logged(&self) -> String {
        String::from_utf8_lossy(&self.logged.lock().unwrap()).into_owned()
    }

    /// The lines of `/metrics` that begin so.
    pub fn metric_lines(&self, prefix: &str) -> Vec<String> {
        let text = self.http_get("/metrics").text();
        text.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
    }

    /// Waits until that line, label and value included, is among the metrics.
    #[track_caller]
    pub fn wait_for_metric_line(&self, line: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.http_get("/metrics").text().lines().any(|other| other == line) {
            assert!(Instant::now() < deadline, "no {line}: {}", self.http_get("/metrics").text());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A handshake that is answered 503, code `storage`.
    #[track_caller]
    pub fn expect_unavailable(&self, channel: &str) {
        let answer = self.http(&upgrade_request(&format!("/?channel={}", encode(channel))));
        assert_eq!(answer.status, 503, "{}", answer.text());
        let body: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(body["code"], "storage");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(stderr) = self.stderr.take().filter(|_| thread::panicking()) {
            eprintln!("the server's stderr: {}", stderr.join().unwrap_or_default());
        }
    }
}

/// What a process left behind that ended by itself.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Sends a process a signal by its short name.
pub fn signal(process: u32, name: &str) {
    let kill = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
    assert!(kill.unwrap().success(), "kill -{name}");
}

/// Stops a process, and waits until all its threads stand still, where the system tells it: on a busy machine some run on
/// after the signal.
pub fn freeze(process: u32) {
    signal(process, "STOP");
    let deadline = Instant::now() + PATIENCE;
    while !stands_still(process) {
        assert!(Instant::now() < deadline, "{process} runs on");
        thread::sleep(Duration::from_millis(5));
    }
}

fn stands_still(process: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return true };
    let states = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("stat")));
    // A thread may have ended since; its name, which ends with the last parenthesis, is before its state.
    states.flatten().all(|stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('T'))
}

/// Runs the binary until it ends by itself.
pub fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Finished {
    let mut child = command(arguments, environment).spawn().unwrap();
    let (stdout, stderr) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    let status = wait(&mut child);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    match status {
        Some(status) => Finished { code: status.code(), stdout, stderr },
        None => panic!("{arguments:?} should end by itself; stdout: {stdout}\nstderr: {stderr}"),
    }
}

/// The binary, away from any configuration of the surroundings.
fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CAUSEWAY_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(environment.iter().copied()).current_dir(std::env::temp_dir());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads a pipe to its end on a thread of its own.
fn collect(pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    collect_into(pipe, Arc::default())
}

/// The same; what has come so far is there for others to see.
fn collect_into(mut pipe: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut chunk) {
            into.lock().unwrap().extend(&chunk[..n]);
        }
        String::from_utf8_lossy(&into.lock().unwrap()).into_owned()
    })
}

fn wait(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(10));
    }
    None
}

/// The address in a banner line with `ws://127.0.0.1:PORT`, or wss.
fn bound_address(line: &str) -> Option<SocketAddr> {
    let (_, url) = line.split_once("ws://").or_else(|| line.split_once("wss://"))?;
    let end = url.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).unwrap_or(url.len());
    Some(url[..end].parse().unwrap_or_else(|_| panic!("no address in the banner line {line:?}")))
}
