//! The processes of these tests, and their traces.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

/// What a run of the generator gave.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
    pub(crate) report: Value,
}

/// Runs the generator.
pub(crate) fn loadgen(scenario: &str, arguments: &[&str]) -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_causeway-loadgen"))
        .args(scenario.split_whitespace())
        .args(arguments)
        .args(["--quiet", "--json"])
        .arg(&json)
        .output()
        .expect("the generator runs");
    let report = fs::read(&json).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ran { code: output.status.code(), text, report: report.unwrap_or_default() }
}

/// A process that has said where it listens; killed when it is dropped.
pub(crate) struct Listening {
    child: Child,
    pub(crate) pid: String,
    pub(crate) url: String,
}

impl Listening {
    fn start(command: &mut Command) -> (Self, BufReader<std::process::ChildStdout>) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("ws://") {
            line.clear();
            assert!(stdout.read_line(&mut line).expect("lines") > 0, "it ended");
        }
        let from = &line[line.find("ws://").expect("it is there")..];
        let end = 5 + from[5..].find(|c: char| c == '/' || c.is_whitespace()).expect("an end");
        (Self { pid: child.id().to_string(), child, url: format!("{}/", &from[..end]) }, stdout)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The real server.
pub(crate) fn serve(data: &Path) -> Listening {
    let mut command = Command::new(crate::server::server());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data).stderr(Stdio::null());
    let (server, mut stdout) = Listening::start(&mut command);
    thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
    server
}

/// `record` before a server.
pub(crate) struct Recorder {
    process: Listening,
    said: Vec<JoinHandle<String>>,
    pub(crate) url: String,
}

impl Recorder {
    pub(crate) fn start(to: &str, file: &Path, arguments: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-loadgen"));
        command.args(["record", "--listen", "127.0.0.1:0", "--to", to]).args(arguments.split_whitespace());
        let (mut process, mut stdout) = Listening::start(command.arg(file).stderr(Stdio::piped()));
        let mut stderr = process.child.stderr.take().expect("it is piped");
        let said = vec![
            thread::spawn(move || {
                let mut said = String::new();
                stdout.read_to_string(&mut said).map(|_| said).expect("text")
            }),
            thread::spawn(move || {
                let mut said = String::new();
                stderr.read_to_string(&mut said).map(|_| said).expect("text")
            }),
        ];
        Self { url: process.url.clone(), process, said }
    }

    /// Waits until the trace has so many lines.
    pub(crate) fn wait_for(&self, file: &Path, lines: usize) {
        let began = Instant::now();
        while fs::read_to_string(file).expect("a file").lines().count() < lines {
            assert!(began.elapsed() < LONG, "the trace has {lines} lines");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until each connection in the trace has ended: then all that it said is there.
    pub(crate) fn wait_for_closes(&self, file: &Path) {
        let began = Instant::now();
        let count = |what: &str| fs::read_to_string(file).expect("a file").matches(what).count();
        while count("\"close\"]\n") < count("{\"open\"") {
            assert!(began.elapsed() < LONG, "all connections end");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn memory_peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid)).expect("it runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("as the kernel writes it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Ends it by a signal, which it must obey well; what it said.
    pub(crate) fn stop(mut self, signal: &str) -> String {
        let kill = format!("kill -{signal} {}", self.process.pid);
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh runs").success());
        let began = Instant::now();
        let status = loop {
            match self.process.child.try_wait().expect("a child") {
                Some(status) => break status,
                None => assert!(began.elapsed() < LONG, "it ends"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        let said: String = self.said.drain(..).map(|said| said.join().expect("no panic")).collect();
        assert_eq!(status.code(), Some(0), "{said}");
        said
    }
}

/// What a trace counts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) connections: u64,
    pub(crate) updates: u64,
    pub(crate) changes: u64,
    pub(crate) deletes: u64,
    pub(crate) pulls: u64,
    pub(crate) others: u64,
    pub(crate) bytes: u64,
}

/// A whole trace.
pub(crate) struct Trace {
    pub(crate) events: Vec<Value>,
    pub(crate) end: Value,
}

/// The name of what an event says.
pub(crate) fn kind(what: &Value) -> &str {
    what.as_str().unwrap_or_else(|| what.as_object().and_then(|of| of.keys().next()).expect("a kind"))
}

impl Trace {
    pub(crate) fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).expect("a trace");
        let mut lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
        assert_eq!(lines.remove(0), serde_json::json!({"causeway_trace": 1}));
        let end = lines.pop().expect("an end");
        assert!(end["end"].is_u64(), "the file is complete: {end}");
        Self { events: lines, end }
    }

    /// Without the connections after so many: a replay's last ones verify what it did.
    pub(crate) fn before_connection(mut self, count: u64) -> Self {
        self.events.retain(|event| event[1].as_u64() < Some(count));
        self
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        let (mut channels, mut lengths) = (HashMap::new(), HashMap::new());
        for event in &self.events {
            let what = &event[2][kind(&event[2])];
            counts.bytes += what["bytes"].as_u64().unwrap_or(0);
            match kind(&event[2]) {
                "open" => {
                    counts.connections += 1;
                    channels.insert(event[1].as_u64(), what["channel"].as_u64());
                }
                "close" => {}
                "pull" => counts.pulls += 1,
                "update" => {
                    counts.updates += 1;
                    for change in what["changes"].as_array().expect("changes") {
                        let row = (channels[&event[1].as_u64()], change[0].as_u64(), change[1].as_u64());
                        let length: &mut i64 = lengths.entry(row).or_default();
                        let cl = *length + change[5].as_i64().expect("a step");
                        *length = cl.max(*length);
                        counts.changes += 1;
                        counts.deletes += u64::from(change[3].is_null() && cl % 2 == 0);
                    }
                }
                _ => counts.others += 1,
            }
        }
        counts
    }

    /// What each connection did, in its order, with the shape of each change; sorted, as connections that open at nearly the
    /// same time may change places.
    pub(crate) fn connections(&self) -> Vec<Vec<String>> {
        let mut connections: HashMap<_, Vec<String>> = HashMap::new();
        for event in &self.events {
            let what = match &event[2]["update"]["changes"] {
                Value::Array(changes) => changes.iter().fold(String::new(), |all, change| {
                    format!("{all} {} {} {}", change[0], change[3], change[4])
                }),
                _ => kind(&event[2]).to_owned(),
            };
            connections.entry(event[1].as_u64()).or_default().push(what);
        }
        let mut connections: Vec<_> = connections.into_values().collect();
        connections.sort();
        connections
    }

    /// When anything was sent, in order.
    pub(crate) fn times_us(&self) -> Vec<u64> {
        let sent = self.events.iter().filter(|event| kind(&event[2]) != "close");
        sent.map(|event| event[0].as_u64().expect("a time")).collect()
    }
}

/// Opens a connection through a proxy and reads the answer's head.
pub(crate) fn upgrade(url: &str, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&url["ws://".len()..url.len() - 1]).expect("it listens");
    stream.write_all(head.as_bytes()).expect("written");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    stream
}

/// A client's frame.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// Base64 of a multiple of three bytes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (threes, []) = bytes.as_chunks::<3>() else { panic!("three by three") };
    let mut out = String::new();
    for [a, b, c] in threes {
        let all = u32::from(*a) << 16 | u32::from(*b) << 8 | u32::from(*c);
        (0..4).for_each(|at| out.push(char::from(DIGITS[(all >> (18 - 6 * at)) as usize & 63])));
    }
    out
}
