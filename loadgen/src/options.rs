//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::plan::{DELETES_PERCENT, Keys};
use crate::val::Values;

pub(crate) mod bench;
mod validate;

/// Loads a server of the Server Implementation Guide's protocol, measures it, and verifies that it lost nothing.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Scenario(Scenario),
    /// Runs a workload, by its name or its file, and may fail by assertions and by a comparison with another build
    Run(bench::Run),
    /// Runs workloads against several stores, durability levels and servers by turns, and writes a report
    Compare(bench::Compare),
    /// Lists the workloads that come with this program, or prints one, to be copied and edited
    Workloads {
        /// Which
        name: Option<String>,
    },
    /// Stands before a server as a proxy, and writes what its clients do to a file, without anything of what they say;
    /// Ctrl-C ends it. Of the options below, none has a meaning here
    Record(Record),
}

/// What holds for every scenario.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Common {
    /// The server: ws://HOST:PORT/ (by default ws://127.0.0.1:8080/), the channel is added as ?channel=NAME. `run` and
    /// `compare` load it beside those that they start; `compare` takes NAME=URL, several with commas between them
    #[arg(long, global = true)]
    pub(crate) url: Option<String>,
    /// Seconds to measure
    #[arg(long, global = true, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Seconds of load before that, which no figure contains
    #[arg(long, global = true, default_value_t = 2.0)]
    pub(crate) warmup_seconds: f64,
    /// Seconds to wait for outstanding acks, deliveries and pulls after the load
    #[arg(long, global = true, default_value_t = 30.0)]
    pub(crate) drain_seconds: f64,
    /// The same seed gives the same changes
    #[arg(long, global = true, default_value_t = 1)]
    pub(crate) seed: u64,
    /// The server's process id: gives its CPU time and memory, and work per CPU second
    #[arg(long, global = true)]
    pub(crate) pid: Option<u32>,
    /// Also write the report to this file, as JSON
    #[arg(long, global = true)]
    pub(crate) json: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    /// Do not compare what was acked with what is stored and what the followers got
    #[arg(long, global = true)]
    pub(crate) no_verify: bool,
    /// Channel names begin so; by default unique for each run
    #[arg(long, global = true)]
    pub(crate) channel_prefix: Option<String>,
    /// The table that the changes name
    #[arg(long, global = true, default_value = "todos")]
    pub(crate) table: String,
    /// Cells of each row
    #[arg(long, global = true, default_value_t = 1)]
    pub(crate) columns: u32,
    /// Length of each value
    #[arg(long, global = true, default_value_t = 20)]
    pub(crate) value_bytes: usize,
    /// Whether primary keys are scattered or rising
    #[arg(long, global = true, value_enum, default_value_t = Keys::Random)]
    pub(crate) keys: Keys,
    /// What mixed, crash and cluster write; the values of the other scenarios are text, which proves its origin
    #[arg(long, global = true, value_enum, default_value_t = Values::Text)]
    pub(crate) values: Values,
}

impl Common {
    pub(crate) fn url(&self) -> &str {
        self.url.as_deref().unwrap_or("ws://127.0.0.1:8080/")
    }
}

/// What to do to the server.
#[derive(Debug, Clone, Subcommand, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    /// Many writers, each to its channel: how many changes a second become durable
    Merge(Merge),
    /// One writer, many followers: how many deliveries a second
    Fanout(Fanout),
    /// Full pulls of a filled channel: how many rows a second
    Pull(Pull),
    /// A server that this program started (`run`, `compare`): ends it and starts it again: how long until a pull is answered
    Restart(Restart),
    /// Connections that do nothing: how much memory each takes
    Idle(Idle),
    /// Everything at once: edits of shared rows, deletes, re-inserts, pulls, reconnecting followers
    Mixed(Mixed),
    /// Starts a server, kills it under load over and over, and checks that nothing acked is lost
    Crash(Crash),
    /// Starts several servers and the Redis over which they hear each other, makes faults, and checks that all end equal
    Cluster(Cluster),
    /// Does to a server what a recording says that clients did; all of it is measured, without a warm-up
    Replay(Replay),
}

impl Scenario {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Scenario::Merge(_) => "merge",
            Scenario::Fanout(_) => "fanout",
            Scenario::Pull(_) => "pull",
            Scenario::Restart(_) => "restart",
            Scenario::Idle(_) => "idle",
            Scenario::Mixed(_) => "mixed",
            Scenario::Crash(_) => "crash",
            Scenario::Cluster(_) => "cluster",
            Scenario::Replay(_) => "replay",
        }
    }

    /// How many servers the clients connect to.
    pub(crate) fn servers(&self) -> usize {
        match self {
            Scenario::Cluster(cluster) => cluster.nodes,
            _ => 1,
        }
    }
}

/// When a closed-loop sender may send its next update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Window {
    /// When fewer than W are unacked.
    Acks,
    /// When fewer than W are unacked or not yet with every follower.
    Deliveries,
}

/// How a writer writes.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Writing {
    /// Changes in each update
    #[arg(long, default_value_t = 1)]
    pub(crate) changes: usize,
    /// Closed loop: updates on their way at once, for each writer
    #[arg(long, default_value_t = 8)]
    pub(crate) in_flight: usize,
    /// Open loop: updates a second over all writers, sent when due whatever the server does
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Rows in a channel, updated over and over; 0 makes every change a new cell
    #[arg(long, default_value_t = 0)]
    pub(crate) rows: u64,
    /// Add a follower to the first channel that never reads, and watch the server's memory
    #[arg(long)]
    pub(crate) slow_follower: bool,
}

/// Options of `merge`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Merge {
    /// Channels written to at once
    #[arg(long, default_value_t = 1)]
    pub(crate) channels: usize,
    /// Writers of each channel; they follow one another's updates
    #[arg(long, default_value_t = 1)]
    pub(crate) connections_per_channel: usize,
    /// The writers of a channel write the same --rows, and compete for each cell; else each has rows of its own
    #[arg(long)]
    pub(crate) shared_rows: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) writing: Writing,
}

/// Options of `fanout`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Fanout {
    /// Connections that follow the channel
    #[arg(long, default_value_t = 100)]
    pub(crate) followers: usize,
    /// Further followers that stop reading for --stall-ms, again and again; they are verified like all others, but no
    /// figure counts them and no update waits for them
    #[arg(long, default_value_t = 0)]
    pub(crate) stalling_followers: usize,
    /// How long a stalling follower reads nothing
    #[arg(long, default_value_t = 2_000)]
    pub(crate) stall_ms: u64,
    /// What an update in flight waits for
    #[arg(long, value_enum, default_value_t = Window::Deliveries)]
    pub(crate) window: Window,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) writing: Writing,
}

/// Options of `pull`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Pull {
    /// Rows in the channel; it is filled first if its version is 0
    #[arg(long, default_value_t = 100_000)]
    pub(crate) rows: u64,
    /// Changes in each update that fills the channel
    #[arg(long, default_value_t = 1_000)]
    pub(crate) changes: usize,
    /// Full pulls to measure
    #[arg(long, default_value_t = 20)]
    pub(crate) pulls: u64,
    /// Pulls at once
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,
    /// Pull only the last so many rows, as a client that has all before them; 0 pulls everything
    #[arg(long, default_value_t = 0)]
    pub(crate) behind: u64,
    /// Open a connection for each pull, whose latency counts from there
    #[arg(long)]
    pub(crate) reconnect: bool,
}

/// Options of `restart`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Restart {
    /// Channels, which are filled first
    #[arg(long, default_value_t = 16)]
    pub(crate) channels: usize,
    /// Rows in each
    #[arg(long, default_value_t = 10_000)]
    pub(crate) rows: u64,
    /// Changes in each update that fills them
    #[arg(long, default_value_t = 500)]
    pub(crate) changes: usize,
    /// Times that the server is ended and started again
    #[arg(long, default_value_t = 5)]
    pub(crate) restarts: u64,
}

/// Options of `idle`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Idle {
    /// Connections to hold open for --seconds
    #[arg(long, default_value_t = 1_000)]
    pub(crate) connections: usize,
    /// Channels that they are spread over
    #[arg(long, default_value_t = 100)]
    pub(crate) channels: usize,
}

/// Options of `mixed`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Mixed {
    /// Channels
    #[arg(long, default_value_t = 4)]
    pub(crate) channels: usize,
    /// Writers of each channel; they follow as well
    #[arg(long, default_value_t = 4)]
    pub(crate) clients: usize,
    /// Further followers of each channel, that hang up and resume over and over
    #[arg(long, default_value_t = 2)]
    pub(crate) followers: usize,
    /// Rows that all writers of a channel share
    #[arg(long, default_value_t = 200)]
    pub(crate) rows: u64,
    /// Changes in an update, at most
    #[arg(long, default_value_t = 5)]
    pub(crate) changes: usize,
    /// Unacked updates of each writer
    #[arg(long, default_value_t = 4)]
    pub(crate) in_flight: usize,
    /// Milliseconds between a follower's reconnects, on average
    #[arg(long, default_value_t = 300)]
    pub(crate) reconnect_ms: u64,
    /// Milliseconds between full pulls of each channel, on average
    #[arg(long, default_value_t = 500)]
    pub(crate) pull_ms: u64,
    /// Deletes among the edits of rows that live, in percent
    #[arg(long, default_value_t = DELETES_PERCENT)]
    pub(crate) deletes: u64,
}

/// How servers are started.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Serving {
    /// The server's store
    #[arg(long, default_value = "sqlite")]
    pub(crate) store: String,
    /// The server's durability
    #[arg(long, default_value = "full")]
    pub(crate) durability: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) program: Program,
}

/// What is started, whatever its store.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub(crate) struct Program {
    /// The server's program; by default `causeway` beside this program, else on the PATH
    #[arg(long)]
    pub(crate) server: Option<PathBuf>,
    /// The data directory; by default a temporary one, which stays only if faults are found
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// A further argument for the server, such as --server-arg=--shards=2; may be given again
    #[arg(long = "server-arg", allow_hyphen_values = true)]
    pub(crate) server_args: Vec<String>,
}

/// Options of `crash`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Crash {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) serving: Serving,
    /// Times the server is killed under load
    #[arg(long, default_value_t = 20)]
    pub(crate) rounds: u64,
    /// A shell command to run after each kill under load, while no server runs; CRASH_DATA and CRASH_ROUND tell it
    /// the data directory and the round, from 0
    #[arg(long)]
    pub(crate) between: Option<String>,
    /// Channels
    #[arg(long, default_value_t = 4)]
    pub(crate) channels: usize,
    /// Writers of each channel; three more clients hang up and resume, hang in a pull, and pull over and over
    #[arg(long, default_value_t = 4)]
    pub(crate) clients: usize,
    /// Rows of a channel, which bound its size
    #[arg(long, default_value_t = 6_000)]
    pub(crate) rows: u64,
    /// Unacked updates of each writer
    #[arg(long, default_value_t = 4)]
    pub(crate) in_flight: usize,
}

/// Options of `cluster`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Cluster {
    /// Servers that hear each other, each with a directory of its own below --data
    #[arg(long, default_value_t = 3)]
    pub(crate) nodes: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) serving: Serving,
    /// The redis-server's program
    #[arg(long, default_value = "redis-server")]
    pub(crate) redis_server: PathBuf,
    /// Fault: SIGKILL a node, and start it again
    #[arg(long)]
    pub(crate) kill_node: bool,
    /// Fault: SIGKILL Redis, and start it again
    #[arg(long)]
    pub(crate) kill_redis: bool,
    /// Fault: SIGSTOP Redis, and let it go on
    #[arg(long)]
    pub(crate) pause_redis: bool,
    /// Fault: what a node and Redis send each other is swallowed, one way or both, or their connections are cut. Each
    /// node comes to Redis by way of this program
    #[arg(long)]
    pub(crate) partition: bool,
    /// Switch the nodes' repairs off, to see the run fail
    #[arg(long)]
    pub(crate) no_repair: bool,
    /// Seconds that the nodes may take to become equal, once nothing is written and no fault is left
    #[arg(long, default_value_t = 60.0)]
    pub(crate) settle: f64,
    /// Channels
    #[arg(long, default_value_t = 4)]
    pub(crate) channels: usize,
    /// Writers of each channel at each node; they follow as well
    #[arg(long, default_value_t = 2)]
    pub(crate) clients: usize,
    /// Followers of each channel at each node; every other one hangs up and resumes over and over
    #[arg(long, default_value_t = 2)]
    pub(crate) followers: usize,
    /// Clients of each channel that go from node to node; every other one writes
    #[arg(long, default_value_t = 2)]
    pub(crate) movers: usize,
    /// Rows that all writers of a channel share; each has some of its own besides
    #[arg(long, default_value_t = 200)]
    pub(crate) rows: u64,
    /// Changes in an update, at most, but for now and then one that has all of a writer's own rows
    #[arg(long, default_value_t = 5)]
    pub(crate) changes: usize,
    /// Closed loop: unacked updates of each writer
    #[arg(long, default_value_t = 4)]
    pub(crate) in_flight: usize,
    /// Open loop: updates a second over all writers, sent when due whatever the servers do
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Milliseconds that a client stays that hangs up or goes to another node, on average
    #[arg(long, default_value_t = 300)]
    pub(crate) stay_ms: u64,
}

/// Options of `record`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Record {
    /// Where to listen, such as 127.0.0.1:8081; port 0 takes a free one
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The server: ws://HOST:PORT/
    #[arg(long)]
    pub(crate) to: String,
    /// The file's size at most: then the recording ends, but connections are still passed on
    #[arg(long, default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(1 << 10..=64 << 30))]
    pub(crate) max_bytes: u64,
    /// The trace to write; it must not be there yet
    pub(crate) file: PathBuf,
}

/// Options of `replay`.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Replay {
    /// The trace
    pub(crate) file: PathBuf,
    /// Only its first seconds, as it was recorded
    #[arg(long)]
    pub(crate) first: Option<f64>,
    /// How much faster than it was recorded, or `max`: each connection sends as soon as fewer than 64 of its updates are
    /// unacked, and as many connections are open as there were at most
    #[arg(long, default_value = "1")]
    pub(crate) speed: Speed,
}

/// How fast a trace is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Speed {
    /// Open loop: so many seconds of the trace each second.
    Times(f64),
    /// Closed loop.
    Max,
}

impl FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<f64>()) {
            ("max", _) => Ok(Speed::Max),
            (_, Ok(times)) if (0.001..=1_000.0).contains(&times) => Ok(Speed::Times(times)),
            _ => Err("it must be from 0.001 to 1000, or max".into()),
        }
    }
}
