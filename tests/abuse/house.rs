//! The house under attack: a server with limits, and two honest clients whose updates must go on.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::common::jwt::token;
use super::common::{Client, Server, cell, changes, version};

/// Where the attackers come from, and where the honest ones do.
pub(crate) const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
const HONEST: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)];

/// What the server may take beyond what it had, in all of these attacks: far less than what they try.
const MAX_GROWTH_BYTES: u64 = 160 << 20;

/// Between the honest pair's updates: as many as the strictest rate of these tests allows for ever, 20 a second.
const HONEST_PAUSE: Duration = Duration::from_millis(50);

/// The header of somebody who may do everything, where tokens are asked for.
pub(crate) fn bearer(subject: &str) -> String {
    let token = token(serde_json::json!({"sub": subject, "channels": {"*": "write"}}));
    format!("Authorization: Bearer {token}\r\n")
}

/// A writer and a follower.
struct Pair {
    writer: Client,
    follower: Client,
    sent: u64,
}

impl Pair {
    fn new(server: &Server) -> Self {
        let [writer, follower] = HONEST
            .map(|from| Client::try_connect_from(from, server.addr, "honest", &bearer("honest")).unwrap());
        let sent = writer.connected_version();
        Pair { writer, follower, sent }
    }

    /// One update: it is acked, and arrives.
    fn work(&mut self) {
        self.sent += 1;
        let ack = self.writer.update(self.sent, &[cell("row", "c", self.sent, self.sent)]);
        assert_eq!(version(&ack), self.sent);
        let update = self.follower.recv_type("update");
        assert_eq!((version(&update), &changes(&update)[0][3]), (self.sent, &self.sent.into()));
    }
}

/// What the server had at most during an attack.
#[derive(Debug)]
pub(crate) struct Felt {
    /// Updates of the honest pair that came while it lasted.
    pub(crate) updates: u64,
    /// The most files that were open at once.
    pub(crate) open_files: usize,
    /// How much more memory the server ever held than before, in bytes.
    pub(crate) growth_bytes: u64,
}

/// Runs the attack beside an honest pair that works before, during and after it.
pub(crate) fn attacked<T>(server: &Server, attack: impl FnOnce() -> T) -> (T, Felt) {
    let mut pair = Pair::new(server);
    pair.work();
    let before = server.peak_memory_bytes().unwrap_or(0);
    let over = AtomicBool::new(false);
    let mut open_files = 0;
    let (result, updates) = thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let mut updates = 0;
            // At least one begins after the attack's end.
            loop {
                let last = over.load(Relaxed);
                pair.work();
                thread::sleep(HONEST_PAUSE);
                open_files = open_files.max(server.open_files().unwrap_or(0));
                updates += 1;
                if last {
                    return updates;
                }
            }
        });
        let guard = Over(&over);
        let result = attack();
        drop(guard);
        (result, honest.join().unwrap())
    });
    // And who comes now is let in.
    Pair::new(server).work();
    let growth_bytes = server.peak_memory_bytes().unwrap_or(0).saturating_sub(before);
    let felt = Felt { updates, open_files, growth_bytes };
    assert!(felt.growth_bytes < MAX_GROWTH_BYTES, "{felt:?}");
    assert!(felt.updates > 0, "{felt:?}");
    eprintln!("{felt:?}");
    (result, felt)
}

/// Also when the attack panics the honest pair is to come to its end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
