//! Writers, and one honest follower that keeps up with them. Whatever others do, these must not notice.

use crate::common::{
    Client, Event, Numbers, PATIENCE, Replica, SITE, Server, TEXT, cell, changes, sentinel, update, version,
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

/// What is written, and under which limits of the server.
pub(crate) struct Load {
    pub(crate) seed: u64,
    /// Bytes of a value, at most.
    pub(crate) value_bytes: u64,
    /// Changes of a wide update: more than a page.
    pub(crate) wide: u64,
    /// The server's `outbox_max_bytes`.
    pub(crate) outbox_max_bytes: u64,
    /// More than a page, or an update, has.
    pub(crate) message_max_bytes: u64,
}

const WRITERS: u64 = 2;

/// How many versions the writers may be ahead of the honest follower: so many of the largest never fill its outbox.
const AHEAD: u64 = 4;

/// Between two updates of a writer, so that a pull of it all stays short.
const PAUSE: Duration = Duration::from_millis(3);

/// Updates of one writer, at most. It stops before, when the readers are done.
const MOST_UPDATES: u64 = 4000;

/// How far the writers and the honest follower are.
#[derive(Default)]
pub(crate) struct Progress {
    received: AtomicU64,
    stop: AtomicBool,
    /// The channel's last version, once the writers have stopped.
    tail: AtomicU64,
}

impl Progress {
    /// The version that the honest follower has received.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(SeqCst)
    }
}

/// Runs `readers` while others write and follow. Gives what `readers` gives, and the channel's last version.
pub(crate) fn under_load<T>(server: &Server, load: &Load, readers: impl FnOnce(&Progress) -> T) -> (T, u64) {
    let progress = &Progress::default();
    let mut honest = server.connect("list");
    let mut replica = Replica::default();
    honest.pull_rows(0).iter().for_each(|row| replica.apply(row));
    let at = honest.connected_version();
    progress.received.store(at, SeqCst);
    let (given, followed, tail) = thread::scope(|scope| {
        let following = scope.spawn(|| follow(honest, replica, at, progress));
        let writers: Vec<_> =
            (0..WRITERS).map(|n| scope.spawn(move || write(server, load, n, progress))).collect();
        let watching = scope.spawn(|| watch(server, load, progress));
        let given = {
            // Also when a reader panics: else nobody would ever end.
            let _stop = Stop(progress);
            readers(progress)
        };
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        // Also when a writer has failed: else the honest follower would wait for more.
        let tail = ended.iter().map(|tail| *tail.as_ref().unwrap_or(&progress.received())).max().unwrap();
        progress.tail.store(tail, SeqCst);
        assert!(ended.iter().all(Result::is_ok), "a writer has failed");
        watching.join().unwrap();
        (given, following.join().unwrap(), tail)
    });
    let pulled = pulled(server);
    assert_eq!(followed.difference(&pulled), None, "the honest follower");
    (given, tail)
}

/// What a fresh pull from 0 gives.
pub(crate) fn pulled(server: &Server) -> Replica {
    let mut replica = Replica::default();
    server.connect("list").pull_rows(0).iter().for_each(|row| replica.apply(row));
    replica
}

struct Stop<'p>(&'p Progress);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, SeqCst);
        if thread::panicking() {
            // The honest follower would wait for more.
            self.0.tail.store(self.0.received(), SeqCst);
        }
    }
}

/// Reads every version live and by itself, up to the last; gives what it holds then.
fn follow(mut client: Client, mut replica: Replica, mut at: u64, progress: &Progress) -> Replica {
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let tail = progress.tail.load(SeqCst);
        if tail != 0 && at >= tail {
            return replica;
        }
        match client.event(Duration::from_millis(20)) {
            Event::Nothing => assert!(Instant::now() < deadline, "the honest follower waits at {at}"),
            Event::Frame(frame) if frame.opcode == TEXT => {
                let message: Value = serde_json::from_slice(&frame.payload).unwrap();
                assert_next("the honest follower", "update", at, &message);
                changes(&message).iter().for_each(|change| replica.apply(change));
                at += 1;
                progress.received.store(at, SeqCst);
                deadline = Instant::now() + PATIENCE;
            }
            other => panic!("the honest follower at {at}: {other:?}"),
        }
    }
}

/// Writes, each update acked before the next, until it is told to stop; gives the last version acked.
fn write(server: &Server, load: &Load, writer: u64, progress: &Progress) -> u64 {
    let mut numbers = Numbers(load.seed.wrapping_add(writer));
    let mut client = server.connect("list");
    let mut at = client.connected_version();
    let mut acked = at;
    for n in 1..=MOST_UPDATES {
        if progress.stop.load(SeqCst) {
            break;
        }
        let deadline = Instant::now() + PATIENCE;
        while at > progress.received() + AHEAD && !progress.stop.load(SeqCst) {
            assert!(Instant::now() < deadline, "the honest follower is at {}", progress.received());
            thread::sleep(Duration::from_millis(1));
        }
        client.send_json(&update(n, &any_changes(&mut numbers, load, writer, n)));
        // The other's updates come in between. Every version is one of its own or one of those.
        loop {
            let message = client.recv_json();
            let acks = message["type"] == "ack";
            assert_next(&format!("writer {writer}"), if acks { "ack" } else { "update" }, at, &message);
            at += 1;
            if acks {
                assert_eq!(message["received"], n);
                break;
            }
        }
        acked = at;
        thread::sleep(PAUSE);
    }
    acked
}

#[track_caller]
fn assert_next(who: &str, kind: &str, at: u64, message: &Value) {
    let short = || message.to_string().chars().take(300).collect::<String>();
    assert_eq!(message["type"], kind, "{who} at {at}: {}", short());
    assert!(message.get("more").is_none(), "{who} at {at} fell back to pages: {}", short());
    assert_eq!(version(message), at + 1, "{who} after {at}: {}", short());
}

/// Rows that only this update writes, so that nothing later makes up for them, and some that many write.
fn any_changes(numbers: &mut Numbers, load: &Load, writer: u64, n: u64) -> Vec<Value> {
    let wide = numbers.below(8) == 0;
    let count = if wide { load.wide } else { 1 + numbers.below(3) };
    let mut sent = Vec::new();
    for i in 0..count {
        let value = "v".repeat(numbers.below(load.value_bytes + 1) as usize);
        sent.push(cell(&format!("only {writer}-{n}-{i}"), "c", value, 1));
    }
    let place = numbers.below(sent.len() as u64 + 1) as usize;
    let many = match numbers.below(4) {
        0 => sentinel(&format!("life{}", numbers.below(3)), n / 8 + 1),
        1 => json!(["todos", format!("life{}", numbers.below(3)), "c", n, n, 1, SITE, (n / 8 + 1) | 1, 0]),
        _ => cell(&format!("hot{}", numbers.below(4)), "c", n, n),
    };
    sent.insert(place, many);
    sent
}

/// What waits in all outboxes together stays below what they may hold.
fn watch(server: &Server, load: &Load, progress: &Progress) {
    // Connections that have ended, and whose outboxes are still there.
    const LEAVING: u64 = 8;
    while !progress.stop.load(SeqCst) {
        let metrics = server.metrics();
        let (waiting, connections) = (metrics["outbox_bytes"], metrics["connections"]);
        let bound = (connections + LEAVING) * (load.outbox_max_bytes + 2 * load.message_max_bytes);
        assert!(waiting <= bound, "{waiting} bytes wait for {connections} connections, at most {bound} may");
        thread::sleep(Duration::from_millis(50));
    }
}
