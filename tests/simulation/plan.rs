//! What a seed means: how the server is set up, how its clients behave, and what goes wrong when.

use std::time::Duration;

use causeway::config::Config;

use crate::disk::Trouble;
use crate::random::Random;

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: Config,
    /// A step of the network.
    pub(crate) tick: Duration,
    pub(crate) latency: (Duration, Duration),
    /// What a stream may have under way, in segments.
    pub(crate) segments: usize,
    /// How long the disk takes for a piece of work.
    pub(crate) work: (Duration, Duration),
    /// How long clients write and things go wrong.
    pub(crate) duration: Duration,
    pub(crate) clients: Vec<Habits>,
    /// In the order of their times.
    pub(crate) faults: Vec<(Duration, Fault)>,
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    pub(crate) channel: String,
    /// The longest pause between two things it does, in milliseconds.
    pub(crate) pause_ms: u64,
    /// The most updates that it makes at once.
    pub(crate) burst: u64,
    /// The most changes in one.
    pub(crate) changes: u64,
    /// Rows that it shares with the others of its channel.
    pub(crate) rows: u64,
    /// Of 1000 messages, after how many it hangs up.
    pub(crate) hangs_up: u64,
    /// Of 1000 things that it does, how many are to stop reading for a while, and how many to pull again.
    pub(crate) stops_reading: u64,
    pub(crate) pulls_again: u64,
    /// Whether an ack moves its cursor. It may: an ack never overtakes an update of a lower version.
    pub(crate) acks_count: bool,
    /// Whether it writes before it pulls.
    pub(crate) writes_first: bool,
}

/// What goes wrong, or is well again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The link of a client; the number names the fault.
    Break(usize, Break, u64),
    Mend(u64),
    /// The latency of a client's link.
    Slow(usize, Duration),
    /// The server is killed, and started after that time. With `true` the power fails: not even the network hears of it.
    Crash(Duration, bool),
    /// The server is told to stop, and started again that long after.
    Drain(Duration),
    Disk(Trouble),
}

/// How a link breaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Break {
    Both,
    ToServer,
    ToClient,
    /// What is sent waits.
    Hold,
}

impl Plan {
    pub(crate) fn new(random: &mut Random) -> Self {
        let channels = random.between(2..=3);
        let rows = random.between(1..=6);
        let mut clients = Vec::new();
        for channel in 0..channels {
            for _ in 0..random.between(2..=3) {
                clients.push(Habits {
                    channel: format!("c{channel}"),
                    pause_ms: random.pick(&[40, 100, 300]),
                    burst: random.pick(&[1, 2, 6]),
                    changes: random.pick(&[1, 4, 12]),
                    rows,
                    hangs_up: random.pick(&[0, 5, 30]),
                    stops_reading: random.pick(&[0, 50, 150]),
                    pulls_again: random.pick(&[0, 0, 60]),
                    acks_count: random.permille(500),
                    writes_first: random.permille(300),
                });
            }
        }
        let duration = random.millis(1500..=4000);
        let faults = faults(random, duration, clients.len());
        let fast = random.millis(0..=5);
        Plan {
            config: config(random),
            tick: Duration::from_millis(random.pick(&[2, 5, 10])),
            latency: (fast, fast + random.millis(1..=60)),
            segments: random.pick(&[16, 16, 32, 64]),
            work: (
                Duration::from_micros(random.between(0..=1000)),
                Duration::from_millis(random.pick(&[3, 10, 40])),
            ),
            duration,
            clients,
            faults,
        }
    }
}

/// A server of small bounds, which are soon reached.
fn config(random: &mut Random) -> Config {
    Config {
        page_max_changes: random.pick(&[2, 3, 5, 40]),
        page_max_bytes: random.pick(&[256, 1024, 1 << 20]),
        outbox_max_bytes: random.pick(&[1024, 1024, 2048, 1 << 20]),
        max_reply_bytes: random.pick(&[1024, 4096]),
        max_queue_bytes: random.pick(&[1 << 16, 1 << 20]),
        max_commit_changes: random.pick(&[3, 20, 10_000]),
        shards: random.between(1..=3) as usize,
        channel_idle_ms: random.pick(&[1, 200, 60_000]),
        max_open_channels: random.pick(&[1, 2, 1024]),
        page_readers: 1,
        ping_interval_ms: random.between(100..=400),
        pong_timeout_ms: random.between(600..=1500),
        slow_client_timeout_ms: random.between(300..=1500),
        close_timeout_ms: random.between(50..=300),
        handshake_timeout_ms: 1000,
        drain_timeout_ms: random.between(300..=1500),
        ..Config::default()
    }
}

fn faults(random: &mut Random, duration: Duration, clients: usize) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    let end = duration.as_millis() as u64;
    for name in 0..random.between(0..=8) {
        let at = random.millis(0..=end);
        let client = random.below(clients as u64) as usize;
        let how = random.pick(&[Break::Both, Break::ToServer, Break::ToClient, Break::Hold]);
        faults.push((at, Fault::Break(client, how, name)));
        faults.push((at + random.millis(20..=1500), Fault::Mend(name)));
    }
    for _ in 0..random.between(0..=3) {
        let client = random.below(clients as u64) as usize;
        faults.push((random.millis(0..=end), Fault::Slow(client, random.millis(10..=300))));
    }
    for _ in 0..random.between(0..=3) {
        faults.push((random.millis(0..=end), Fault::Crash(random.millis(0..=500), random.permille(400))));
    }
    if random.permille(500) {
        faults.push((random.millis(0..=end), Fault::Drain(random.millis(0..=300))));
    }
    if random.permille(600) {
        let start = random.below(end);
        let trouble = Trouble {
            opens: random.pick(&[0, 100]),
            commits: random.pick(&[20, 100, 300]),
            pages: random.pick(&[0, 20, 100]),
        };
        faults.push((Duration::from_millis(start), Fault::Disk(trouble)));
        faults.push((random.millis(start..=end), Fault::Disk(Trouble::default())));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}
