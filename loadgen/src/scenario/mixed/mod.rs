//! `mixed`: everything at once, on a few shared rows, so that all paths of the merge rule and of resuming are met.
//!
//! Each member has a replica by the merge rule. In the end every replica, and a pull from the beginning, must be exactly
//! the merge of all that was acked.

mod edits;
mod member;
pub(super) mod pulled;
mod timing;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

pub(super) use self::edits::{next_edits, run_of_rows};
pub(super) use self::member::Member;
pub(super) use self::timing::Timing;
use super::Failed;
use crate::conn::ConnError;
use crate::meter::{Count, Latency};
use crate::options::{Mixed, Scenario};
use crate::plan::Plan;
use crate::replica::Replica;
use crate::report::Report;
use crate::rng::Rng;
use crate::run::{Run, measure};

/// What the members of a channel share.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: String,
    pub(super) table: String,
    /// The merge of everything acked to any writer, and of what was there before.
    acked: Mutex<Replica>,
    /// Writers that still write or wait for acks.
    pub(super) writers_left: AtomicUsize,
    pub(super) keys: Arc<Plan>,
    /// What its members were shown by each server.
    shown: Vec<Shown>,
    /// When each value was sent, if that is kept.
    pub(super) timing: Option<Timing>,
}

/// What members of a channel were shown by a server.
#[derive(Debug, Default)]
struct Shown {
    /// The channel's site id, as the first message of a version gave it: before that, a server may not have made it.
    site: OnceLock<String>,
    /// The highest version in any message to any member.
    seen: AtomicU64,
}

impl Channel {
    pub(super) fn new(run: &Run, keys: Arc<Plan>, writers: usize) -> Self {
        Self {
            name: keys.channel.clone(),
            table: run.common.table.clone(),
            acked: Mutex::default(),
            writers_left: AtomicUsize::new(writers),
            keys,
            shown: (0..run.servers()).map(|_| Shown::default()).collect(),
            timing: None,
        }
    }

    pub(super) fn acked(&self) -> MutexGuard<'_, Replica> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server has shown anyone a version of it.
    pub(super) fn is_made(&self, server: usize) -> bool {
        self.shown[server].site.get().is_some()
    }

    /// The channel's site id at the server, if that has shown another than this.
    fn other_site(&self, server: usize, site: &str) -> Option<&str> {
        let known = self.shown[server].site.get_or_init(|| site.to_owned());
        (known != site).then_some(known)
    }

    fn saw(&self, server: usize, version: u64) {
        self.shown[server].seen.fetch_max(version, Ordering::Relaxed);
    }

    /// The highest version that the server has shown any member.
    pub(super) fn seen(&self, server: usize) -> u64 {
        self.shown[server].seen.load(Ordering::Relaxed)
    }
}

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, mixed: &Mixed) -> Result<Report, Failed> {
    run.start_window();
    let mut tasks = JoinSet::new();
    let mut who = 0;
    for number in 0..mixed.channels {
        let channel = Arc::new(Channel::new(
            &run,
            Arc::new(run.plan(number).with_deletes(mixed.deletes)),
            mixed.clients,
        ));
        // What an earlier run left counts as acked.
        read_all(&run, &channel, who).await.map_err(|e| format!("{}: {e}", channel.name)).map(|found| {
            *channel.acked() = found;
        })?;
        for kind in ["writer", "follower", "puller"] {
            let count = match kind {
                "writer" => mixed.clients,
                "follower" => mixed.followers,
                _ => 1,
            };
            for index in 0..count {
                let member = Member::new(format!("{kind} {index}"), who);
                who += 1;
                let (run, channel, mixed) = (Arc::clone(&run), Arc::clone(&channel), mixed.clone());
                tasks.spawn(async move {
                    let name = format!("{} of {}", member.name, channel.name);
                    let ended = match kind {
                        "writer" => write(&run, &channel, &mixed, member).await,
                        "follower" => follow(&run, &channel, &mixed, member).await,
                        _ => pull(&run, &channel, &mixed, member).await,
                    };
                    if let Err(e) = ended {
                        run.connection_lost(&name, &e);
                    }
                });
            }
        }
    }
    let closes = run.meter.instant_of(run.meter.closes_ns());
    let rates = [
        (Count::Changes, "changes acked"),
        (Count::Deliveries, "deliveries"),
        (Count::Pulls, "pulls"),
        (Count::Reconnects, "reconnects"),
    ];
    let (figures, ()) = measure(&run, &rates, tokio::time::sleep_until(closes.into())).await;
    tasks.join_all().await;
    let latencies = [(Latency::Ack, "to the ack"), (Latency::Pull, "of a full pull")];
    Ok(Report::new(&run, scenario, &figures, &rates, &latencies, BTreeMap::new()))
}

/// Writes until the window closes, then waits for its acks and for what the others had acked.
async fn write(
    run: &Run,
    channel: &Arc<Channel>,
    mixed: &Mixed,
    mut member: Member,
) -> Result<(), ConnError> {
    let mut rng = Rng::new(crate::rng::hash_name(run.common.seed ^ member.who as u64, &channel.name));
    let loaded: Result<_, ConnError> = async {
        let mut conn = member.connect(run, channel).await?;
        member.sync(run, channel, &mut conn).await?;
        while !run.is_over() || member.unacked() > 0 {
            while !run.is_over() && member.unacked() < mixed.in_flight {
                let edits =
                    next_edits(&mut rng, &member.replica, &channel.keys, 0..mixed.rows, mixed.changes);
                member.write(channel, &mut conn, run.meter.now_ns(), edits);
            }
            member.turn(run, channel, &mut conn, Instant::now() + run.drain_limit()).await?;
        }
        Ok(conn)
    }
    .await;
    // Also when it failed: the others would wait for it.
    channel.writers_left.fetch_sub(1, Ordering::Release);
    settle(run, channel, member, loaded?).await
}

/// Hangs up and resumes until the window closes, then waits for all that was acked.
async fn follow(
    run: &Run,
    channel: &Arc<Channel>,
    mixed: &Mixed,
    mut member: Member,
) -> Result<(), ConnError> {
    let mut rng = Rng::new(crate::rng::hash_name(run.common.seed ^ member.who as u64, &channel.name));
    loop {
        let mut conn = member.connect(run, channel).await?;
        let until = Instant::now() + Duration::from_millis(rng.below(2 * mixed.reconnect_ms));
        while Instant::now() < until {
            match member.turn(run, channel, &mut conn, until).await {
                Ok(()) | Err(ConnError::Timeout(_)) => {}
                Err(e) => return Err(e),
            }
        }
        if run.is_over() {
            return settle(run, channel, member, conn).await;
        }
        // Dropped wherever it is, also in the middle of a page.
        run.meter.add(member.who, Count::Reconnects, 1);
    }
}

/// Pulls everything now and then: what was acked before must be in it.
async fn pull(run: &Run, channel: &Arc<Channel>, mixed: &Mixed, member: Member) -> Result<(), ConnError> {
    let mut rng = Rng::new(crate::rng::hash_name(run.common.seed ^ member.who as u64, &channel.name));
    while !run.is_over() {
        let acked = channel.acked().clone();
        let began = run.meter.now_ns();
        let found = read_all(run, channel, member.who).await?;
        run.meter.latency(member.who, Latency::Pull, began, run.meter.now_ns());
        run.meter.add(member.who, Count::Pulls, 1);
        if run.verifies() {
            run.verdict.checked(acked.len());
            let behind = found.behind(&acked);
            run.verdict.lost(behind.len() as u64, || {
                behind
                    .iter()
                    .map(|what| format!("a pull of {} during the load {what}", channel.name))
                    .collect()
            });
        }
        let next = Instant::now() + Duration::from_millis(rng.below(2 * mixed.pull_ms));
        let closes = run.meter.instant_of(run.meter.closes_ns()).into();
        tokio::time::sleep_until(next.min(closes)).await;
    }
    while channel.writers_left.load(Ordering::Acquire) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if run.verifies() {
        let mut last = Member::new("the last pull", member.who);
        last.replica = read_all(run, channel, member.who).await?;
        last.verify(run, channel);
    }
    Ok(())
}

/// Waits until the member holds all that was acked, and compares.
async fn settle(
    run: &Run,
    channel: &Arc<Channel>,
    mut member: Member,
    mut conn: crate::conn::Conn,
) -> Result<(), ConnError> {
    if run.verifies() {
        member.converge(run, channel, &mut conn, Instant::now() + run.drain_limit()).await?;
        member.verify(run, channel);
    }
    Ok(())
}

/// Everything the server has, read by a connection of its own.
pub(super) async fn read_all(run: &Run, channel: &Channel, who: usize) -> Result<Replica, ConnError> {
    let mut member = Member::new("puller", who);
    let mut conn = member.connect(run, channel).await?;
    member.sync(run, channel, &mut conn).await?;
    Ok(member.replica)
}
