//! The clients of a channel: each keeps a replica, stays at a node or goes from one to another, and may write.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::mixed::{Channel, Member, next_edits, run_of_rows};
use super::nodes::Nodes;
use crate::conn::{Conn, ConnError};
use crate::meter::Count;
use crate::options::Cluster;
use crate::replica::Edit;
use crate::rng::{Rng, hash_name};
use crate::run::Run;
use crate::writer::Pace;

/// Rows that only one writer writes.
const OWN_ROWS: u64 = 100;
/// How long a client looks at its connection before it looks at anything else, at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Set when nothing is written any more: until when clients may wait for what they lack.
pub(super) type Ending = watch::Receiver<Option<Instant>>;

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// At its node, for as long as that lives.
    Stays,
    /// The same, but hangs up and resumes over and over.
    Resumes,
    /// At one node after the other.
    Moves,
}

/// How a client writes.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    /// Its number among the channel's writers.
    pub(super) index: u64,
    pub(super) pace: Pace,
}

/// A client, over all its connections.
#[derive(Debug)]
pub(super) struct Client {
    member: Member,
    channel: Arc<Channel>,
    nodes: Arc<Nodes>,
    habit: Habit,
    writing: Option<Writing>,
    /// When the next update is due, if they are due at times.
    due_ns: u64,
    rng: Rng,
    /// Times that its node was killed.
    cut: u64,
}

/// Why a connection was left.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// It was time to.
    Habit,
    /// All is over.
    End,
}

impl Client {
    /// One that begins at this node.
    pub(super) fn new(
        run: &Run,
        channel: &Arc<Channel>,
        nodes: &Arc<Nodes>,
        (who, node): (usize, usize),
        habit: Habit,
        writing: Option<Writing>,
    ) -> Self {
        let kind = if writing.is_some() { "writer" } else { "follower" };
        let at = &nodes.nodes[node].name;
        let name = match habit {
            Habit::Stays => format!("{kind} {who} at {at}"),
            Habit::Resumes => format!("resuming {kind} {who} at {at}"),
            Habit::Moves => format!("moving {kind} {who}"),
        };
        Self {
            member: Member::new(name, who).at(node),
            channel: Arc::clone(channel),
            nodes: Arc::clone(nodes),
            habit,
            due_ns: match writing {
                Some(Writing { pace: Pace::Open { offset_ns, .. }, .. }) => run.meter.now_ns() + offset_ns,
                _ => 0,
            },
            writing,
            rng: Rng::new(hash_name(run.common.seed ^ who as u64, &channel.name)),
            cut: 0,
        }
    }

    /// Lives until the end, and must then hold exactly what was acked. Gives how often it was cut by a kill.
    pub(super) async fn live(mut self, run: &Run, cluster: &Cluster, ending: Ending) -> u64 {
        loop {
            let server = self.member.server;
            let life = match self.nodes.up(server).await {
                Ok(life) => life,
                Err(what) => {
                    run.verdict.fault(|| format!("{}: {what}", self.name()));
                    break;
                }
            };
            match self.visit(run, cluster, &ending).await {
                Ok(Left::End) => break,
                Ok(Left::Habit) => run.meter.add(self.member.who, Count::Reconnects, 1),
                Err(_) if self.nodes.was_killed(server, life) => self.cut += 1,
                Err(e) => {
                    run.connection_lost(&self.name(), &e);
                    break;
                }
            }
            if self.habit == Habit::Moves {
                let others = self.nodes.nodes.len() - 1;
                self.member.server = (server + 1 + self.rng.below(others as u64) as usize) % (others + 1);
            }
        }
        // Also when it failed: the others would wait for it.
        self.writes_no_more();
        self.cut
    }

    fn name(&self) -> String {
        format!("{} of {}", self.member.name, self.channel.name)
    }

    fn writes_no_more(&mut self) {
        if self.writing.take().is_some() {
            self.channel.writers_left.fetch_sub(1, Ordering::Release);
        }
    }

    /// One connection, from the node where it is.
    async fn visit(&mut self, run: &Run, cluster: &Cluster, ending: &Ending) -> Result<Left, ConnError> {
        let mut conn = self.member.connect(run, &self.channel).await?;
        self.member.resend(&self.channel, &mut conn);
        let leaves = match self.habit {
            Habit::Stays => None,
            _ => Some(Instant::now() + Duration::from_millis(self.rng.below(2 * cluster.stay_ms))),
        };
        let is_due = |at: Option<Instant>| at.is_some_and(|at| Instant::now() >= at);
        loop {
            let until = *ending.borrow();
            if let Some(until) = until {
                return self.finish(run, &mut conn, until).await.map(|()| Left::End);
            }
            let is_over = run.is_over();
            if is_over && self.member.unacked() == 0 {
                self.writes_no_more();
            } else if !is_over && is_due(leaves) {
                // Wherever it is, also in the middle of a page.
                return Ok(Left::Habit);
            }
            let mut next = Instant::now() + LOOK_EVERY;
            if !is_over && self.member.is_answered() {
                next = next.min(self.write(run, cluster, &mut conn));
            }
            match self.member.turn(run, &self.channel, &mut conn, next).await {
                Ok(()) => {}
                Err(ConnError::Timeout(_)) => self.be_answered(run)?,
                Err(e) => return Err(e),
            }
        }
    }

    /// Fails if an update has waited for its answer longer than any may.
    fn be_answered(&self, run: &Run) -> Result<(), ConnError> {
        let limit = run.drain_limit();
        let latest = self.member.waiting_since_ns().map(|since| since + limit.as_nanos() as u64);
        match latest {
            Some(latest) if latest < run.meter.now_ns() => Err(ConnError::Timeout(limit.as_secs())),
            _ => Ok(()),
        }
    }

    /// Writes what may be written now; when there may be more.
    fn write(&mut self, run: &Run, cluster: &Cluster, conn: &mut Conn) -> Instant {
        let now_ns = run.meter.now_ns();
        let never = Instant::now() + LOOK_EVERY;
        match self.writing {
            None => never,
            Some(Writing { index, pace: Pace::Closed { in_flight } }) => {
                while self.member.unacked() < in_flight {
                    self.write_one(cluster, index, conn, now_ns);
                }
                never
            }
            Some(Writing { index, pace: Pace::Open { every_ns, .. } }) => {
                while self.due_ns <= now_ns {
                    self.write_one(cluster, index, conn, self.due_ns);
                    self.due_ns += every_ns;
                }
                run.meter.instant_of(self.due_ns).into()
            }
        }
    }

    fn write_one(&mut self, cluster: &Cluster, index: u64, conn: &mut Conn, due_ns: u64) {
        let own = cluster.rows + index * OWN_ROWS;
        let edits = self.edits(cluster, own..own + OWN_ROWS);
        self.member.write(&self.channel, conn, due_ns, edits);
    }

    fn edits(&mut self, cluster: &Cluster, own: Range<u64>) -> Vec<Edit> {
        let Self { rng, member, channel, .. } = self;
        match rng.below(100) {
            0..60 => next_edits(rng, &member.replica, &channel.keys, 0..cluster.rows, cluster.changes),
            60..99 => next_edits(rng, &member.replica, &channel.keys, own, cluster.changes),
            _ => run_of_rows(rng, &member.replica, &channel.keys, own, 0),
        }
    }

    /// Waits for what is still to come, and compares.
    async fn finish(&mut self, run: &Run, conn: &mut Conn, until: Instant) -> Result<(), ConnError> {
        if run.verifies() {
            self.member.converge(run, &self.channel, conn, until).await?;
            self.member.verify(run, &self.channel);
        }
        Ok(())
    }
}
