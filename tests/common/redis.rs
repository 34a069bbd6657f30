//! A redis-server of the test's own, and nodes that hear each other over it. It must be installed: a test that would pass without it tests nothing.

use super::PATIENCE;
use super::place::Place;
use super::server::{Server, freeze, signal};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running redis-server that keeps nothing, killed when it is dropped.
pub struct Redis {
    pub port: u16,
    child: Child,
}

impl Redis {
    /// One on a free port.
    pub fn start() -> Self {
        Self::on(free_port())
    }

    /// One on that port, which is free.
    pub fn on(port: u16) -> Self {
        Self::with(port, &[])
    }

    /// The same with more arguments.
    pub fn with(port: u16, arguments: &[&str]) -> Self {
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(arguments)
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let redis = Self { port, child };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(redis.addr()).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not start");
            thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// Sends a signal by its short name.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Stops the process until it gets `CONT`.
    pub fn freeze(&self) {
        freeze(self.child.id());
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Publishes something, as anybody may who reaches it; gives how many have heard it.
    pub fn publish(&self, topic: &str, message: &[u8]) -> u64 {
        let answer = self.command(&[b"PUBLISH", topic.as_bytes(), message]);
        answer.trim_start_matches(':').parse().unwrap_or_else(|_| panic!("not a number: {answer}"))
    }

    /// Has Redis do something; gives the first line of its answer.
    pub fn command(&self, parts: &[&[u8]]) -> String {
        use std::io::{BufRead, BufReader, Write};
        let mut stream = TcpStream::connect(self.addr()).unwrap();
        let mut command = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            command.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            command.extend_from_slice(part);
            command.extend_from_slice(b"\r\n");
        }
        stream.write_all(&command).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(!answer.starts_with('-'), "{answer}");
        answer.trim_end().to_owned()
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nodes, each in a data directory of its own.
pub struct Cluster {
    pub place: Place,
    redis_url: String,
}

impl Cluster {
    pub fn new(store: &'static str, redis: &Redis) -> Self {
        Self::over(store, redis.url())
    }

    /// One whose nodes connect as that says.
    pub fn over(store: &'static str, redis_url: String) -> Self {
        Cluster { place: Place::new(store), redis_url }
    }

    /// Starts a node, and waits until it hears others.
    pub fn start(&self, node: &str) -> Server {
        self.start_with(node, &[])
    }

    /// The same with more settings.
    pub fn start_with(&self, node: &str, settings: &[(&str, &str)]) -> Server {
        let server = self.start_alone(node, settings);
        server.wait_for_log("other nodes can be heard");
        server
    }

    /// Starts a node, whether there is a Redis or not. The settings go before those of all nodes.
    pub fn start_alone(&self, node: &str, settings: &[(&str, &str)]) -> Server {
        let cluster = [
            ("redis", self.redis_url.as_str()),
            ("log", "info,causeway::bus=debug,causeway::admin=warn"),
            ("node", node),
            ("cluster-heartbeat-ms", "300"),
            ("redis-retry-max-ms", "300"),
            ("redis-timeout-ms", "1000"),
            ("cluster-page-timeout-ms", "1000"),
        ];
        let cluster = cluster.iter().filter(|(name, _)| settings.iter().all(|(other, _)| other != name));
        self.place.at(node).serve_with(&cluster.chain(settings).copied().collect::<Vec<_>>())
    }

    /// Runs a command beside a node, and gives what it prints.
    pub fn run(&self, node: &str, args: &[&str]) -> String {
        let finished = self.place.at(node).run(args);
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        finished.stdout
    }

    /// The digest of the channel at a node, and its cells; nothing if there is no such channel.
    fn digest(&self, node: &str, channel: &str) -> Option<(Value, Value)> {
        let finished = self.place.at(node).run(&["inspect", channel, "--json"]);
        let line: Value = serde_json::from_str(finished.stdout.lines().next()?).unwrap();
        (line["line"] == "inspected").then(|| (line["digest"].clone(), line["cells"].clone()))
    }

    /// Waits until the channel is the same at all of them, and has so many cells.
    #[track_caller]
    pub fn agree(&self, nodes: &[&str], channel: &str, cells: usize) {
        self.agree_if(nodes, channel, |found| *found == json!(cells), &format!("{cells} cells"));
    }

    /// Waits until the channel is the same at all of them.
    #[track_caller]
    pub fn agree_on_all(&self, nodes: &[&str], channel: &str) {
        self.agree_if(nodes, channel, |_| true, "what there is");
    }

    #[track_caller]
    fn agree_if(&self, nodes: &[&str], channel: &str, is_right: impl Fn(&Value) -> bool, what: &str) {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let found: Vec<_> = nodes.iter().map(|node| self.digest(node, channel)).collect();
            if found.iter().all(|f| f == &found[0] && f.as_ref().is_some_and(|(_, n)| is_right(n))) {
                return;
            }
            assert!(Instant::now() < deadline, "{nodes:?} do not agree on {what} of {channel}: {found:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}
