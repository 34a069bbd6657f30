//! One recorded connection, made again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::fill;
use super::script::{Act, Visit};
use crate::conn::{Conn, ConnError, ConnectWith};
use crate::meter::{Count, Latency};
use crate::replica::{Edit, SENTINEL};
use crate::rng::{Rng, hash_name};
use crate::run::Run;
use crate::scenario::mixed::{Channel, Member};

/// At full speed: updates of a connection without an answer.
const IN_FLIGHT_MAX: usize = 64;

/// When what was recorded is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) start_ns: u64,
    /// None: as soon as it can be.
    pub(super) speed: Option<f64>,
}

impl Pace {
    /// When something of this moment of the trace is due.
    pub(super) fn due_ns(self, at_us: u64) -> Option<u64> {
        self.speed.map(|speed| self.start_ns + (at_us as f64 * 1e3 / speed) as u64)
    }
}

/// What was sent, by all connections.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) connections: AtomicU64,
    pub(super) updates: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) deletes: AtomicU64,
    pub(super) pulls: AtomicU64,
}

impl Sent {
    pub(super) fn facts(&self) -> BTreeMap<&'static str, f64> {
        let number = |of: &AtomicU64| of.load(Ordering::Relaxed) as f64;
        BTreeMap::from([
            ("connections opened", number(&self.connections)),
            ("updates sent", number(&self.updates)),
            ("changes sent", number(&self.changes)),
            ("deletes sent", number(&self.deletes)),
            ("pulls sent", number(&self.pulls)),
        ])
    }
}

/// Whose connection it is: who has been there before comes back with what it has.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) member: Member,
    /// It has pulled from 0, and never from above what it had then.
    has_all: bool,
    /// It has pulled on this connection.
    pulls: bool,
}

impl Client {
    pub(super) fn new(member: Member) -> Self {
        Self { member, has_all: false, pulls: false }
    }

    /// Whether it must end with everything.
    pub(super) fn follows_all(&self) -> bool {
        self.has_all && self.pulls
    }

    /// The version from which it pulls, so that it misses nothing if it never has.
    fn pull_from(&mut self, wanted: u64) -> u64 {
        self.has_all |= wanted == 0;
        self.pulls = true;
        if self.has_all { wanted.min(self.member.cursor()) } else { wanted }
    }
}

/// What a visit needs of its run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) run: &'a Run,
    pub(super) channel: &'a Channel,
    pub(super) pace: Pace,
    pub(super) sent: &'a Sent,
}

impl Scene<'_> {
    /// Does what was recorded, until the connection is to be closed and all is acked.
    pub(super) async fn play(
        self,
        visit: &Visit,
        client: &mut Client,
        length_us: u64,
    ) -> Result<Conn, ConnError> {
        let Self { run, channel, pace, sent } = self;
        client.pulls = false;
        let mut conn = client.member.greet(run, channel, ConnectWith::default()).await?;
        sent.connections.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng::new(hash_name(run.common.seed ^ client.member.who as u64, &channel.name));
        // A server that opens a connection late makes the generator late.
        let open_ns = run.meter.now_ns();
        let mut pull_due_ns = None;
        for (at_us, act) in &visit.acts {
            self.wait(client, &mut conn, pace.due_ns(*at_us), &mut pull_due_ns).await?;
            let now_ns = run.meter.now_ns();
            let due_ns = pace.due_ns(*at_us).inspect(|due_ns| {
                run.meter.latency(client.member.who, Latency::Late, open_ns.max(*due_ns), now_ns);
            });
            let due_ns = due_ns.unwrap_or(now_ns);
            match act {
                Act::Update(writes) => {
                    let edits: Vec<_> =
                        writes.iter().map(|write| fill::edit(&mut rng, &channel.keys, write)).collect();
                    self.count(&edits);
                    client.member.write(channel, &mut conn, due_ns, edits);
                }
                Act::Pull(behind) => {
                    let wanted = behind.map_or(0, |behind| channel.seen(0).saturating_sub(behind));
                    let version = client.pull_from(wanted);
                    client.member.pull(channel, &mut conn, version);
                    pull_due_ns = Some(due_ns);
                    sent.pulls.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let closes_us = visit.closes_us.unwrap_or(length_us);
        self.wait(client, &mut conn, pace.due_ns(closes_us), &mut pull_due_ns).await?;
        let deadline = Instant::now() + run.drain_limit();
        let is_full_speed = pace.speed.is_none();
        while client.member.unacked() > 0 || conn.has_unsent() || (is_full_speed && pull_due_ns.is_some()) {
            self.turn(client, &mut conn, deadline, &mut pull_due_ns).await?;
        }
        Ok(conn)
    }

    /// Reads until something is due, or until there is room for it; at least what is there.
    async fn wait(
        self,
        client: &mut Client,
        conn: &mut Conn,
        due_ns: Option<u64>,
        pull_due_ns: &mut Option<u64>,
    ) -> Result<(), ConnError> {
        let Some(due_ns) = due_ns else {
            while client.member.unacked() >= IN_FLIGHT_MAX {
                let deadline = Instant::now() + self.run.drain_limit();
                self.turn(client, conn, deadline, pull_due_ns).await?;
            }
            return Ok(());
        };
        let due = self.run.meter.instant_of(due_ns).into();
        loop {
            match self.turn(client, conn, due, pull_due_ns).await {
                Ok(()) | Err(ConnError::Timeout(_)) => {}
                Err(e) => return Err(e),
            }
            if Instant::now() >= due {
                return Ok(());
            }
        }
    }

    async fn turn(
        self,
        client: &mut Client,
        conn: &mut Conn,
        deadline: Instant,
        pull_due_ns: &mut Option<u64>,
    ) -> Result<(), ConnError> {
        let run = self.run;
        client.member.turn(run, self.channel, conn, deadline).await?;
        if let Some(due_ns) = pull_due_ns.take_if(|_| client.member.is_answered()) {
            run.meter.latency(client.member.who, Latency::Pull, due_ns, run.meter.now_ns());
            run.meter.add(client.member.who, Count::Pulls, 1);
        }
        Ok(())
    }

    fn count(self, edits: &[Edit]) {
        let deletes = edits.iter().filter(|edit| edit.cid == SENTINEL && edit.cl.is_multiple_of(2));
        self.sent.updates.fetch_add(1, Ordering::Relaxed);
        self.sent.changes.fetch_add(edits.len() as u64, Ordering::Relaxed);
        self.sent.deletes.fetch_add(deletes.count() as u64, Ordering::Relaxed);
    }

    /// Waits until the others have had their acks too, and compares what this client has with them.
    pub(super) async fn settle(self, client: &mut Client, conn: &mut Conn) -> Result<(), ConnError> {
        // The others may take as long as the trace does; the drain time begins when they are through.
        while self.channel.writers_left.load(Ordering::Acquire) > 0 {
            let soon = Instant::now() + Duration::from_millis(50);
            match client.member.turn(self.run, self.channel, conn, soon).await {
                Ok(()) | Err(ConnError::Timeout(_)) => {}
                Err(e) => return Err(e),
            }
        }
        let deadline = Instant::now() + self.run.drain_limit();
        client.member.converge(self.run, self.channel, conn, deadline).await?;
        client.member.verify(self.run, self.channel);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_keep_the_trace_s_order_and_distances() {
        let pace = Pace { start_ns: 500, speed: Some(2.0) };
        assert_eq!([0, 2, 1_000_001].map(|at_us| pace.due_ns(at_us)), [500, 1_500, 500_001_000].map(Some));
        assert_eq!(Pace { speed: None, ..pace }.due_ns(7), None);
    }
}
