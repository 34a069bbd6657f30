//! `mixed`: everything at once, on a few shared rows, so that all paths of the merge rule and of resuming are met.
//!
//! Each member has a replica by the merge rule. In the end every replica, and a pull from the beginning, must be exactly
//! the merge of all that was acked.

mod member;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use self::member::Member;
use super::Failed;
use crate::conn::ConnError;
use crate::meter::{Count, Latency};
use crate::options::{Mixed, Scenario};
use crate::replica::{Edit, Replica, SENTINEL};
use crate::report::Report;
use crate::rng::Rng;
use crate::run::{Run, measure};

/// What the members of a channel share.
#[derive(Debug)]
struct Channel {
    name: String,
    table: String,
    /// The merge of everything acked to any writer, and of what was there before.
    acked: Mutex<Replica>,
    /// Writers that still write or wait for acks.
    writers_left: AtomicUsize,
    keys: Arc<crate::plan::Plan>,
}

impl Channel {
    fn acked(&self) -> MutexGuard<'_, Replica> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, mixed: &Mixed) -> Result<Report, Failed> {
    run.start_window();
    let mut tasks = JoinSet::new();
    let mut who = 0;
    for number in 0..mixed.channels {
        let channel = Arc::new(Channel {
            name: run.channel(number),
            table: run.common.table.clone(),
            acked: Mutex::default(),
            writers_left: AtomicUsize::new(mixed.clients),
            keys: run.plan(number),
        });
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

fn is_over(run: &Run) -> bool {
    run.meter.now_ns() >= run.meter.closes_ns()
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
        while !is_over(run) || member.unacked() > 0 {
            while !is_over(run) && member.unacked() < mixed.in_flight {
                let edits = next_edits(&mut rng, &member.replica, channel, mixed);
                member.write(run, channel, &mut conn, edits);
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
        if is_over(run) {
            return settle(run, channel, member, conn).await;
        }
        // Dropped wherever it is, also in the middle of a page.
        run.meter.add(member.who, Count::Reconnects, 1);
    }
}

/// Pulls everything now and then: what was acked before must be in it.
async fn pull(run: &Run, channel: &Arc<Channel>, mixed: &Mixed, member: Member) -> Result<(), ConnError> {
    let mut rng = Rng::new(crate::rng::hash_name(run.common.seed ^ member.who as u64, &channel.name));
    while !is_over(run) {
        let acked = channel.acked().clone();
        let began = run.meter.now_ns();
        let found = read_all(run, channel, member.who).await?;
        run.meter.latency(member.who, Latency::Pull, began, run.meter.now_ns());
        run.meter.add(member.who, Count::Pulls, 1);
        if run.verifies() {
            run.verdict.checked(acked.len());
            let behind = found.behind(&acked);
            run.verdict.faults(behind.len() as u64, || {
                behind
                    .iter()
                    .map(|what| format!("a pull of {} during the load {what}", channel.name))
                    .collect()
            });
        }
        tokio::time::sleep(Duration::from_millis(rng.below(2 * mixed.pull_ms))).await;
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
async fn read_all(run: &Run, channel: &Channel, who: usize) -> Result<Replica, ConnError> {
    let mut member = Member::new("puller", who);
    let mut conn = member.connect(run, channel).await?;
    member.sync(run, channel, &mut conn).await?;
    Ok(member.replica)
}

/// A few edits of rows picked at random, as a client that sees `replica` would make them.
fn next_edits(rng: &mut Rng, replica: &Replica, channel: &Channel, mixed: &Mixed) -> Vec<Edit> {
    let wanted = 1 + rng.below(mixed.changes as u64) as usize;
    let mut edits = Vec::new();
    let mut touched = Vec::new();
    for _ in 0..wanted {
        let row = rng.below(mixed.rows);
        // Each row once an update: the edits are made from one state of the replica.
        if touched.contains(&row) {
            continue;
        }
        touched.push(row);
        edit_row(rng, replica, &channel.keys.pk(row), channel.keys.columns, &mut edits);
    }
    edits
}

fn edit_row(rng: &mut Rng, replica: &Replica, pk: &str, columns: u32, edits: &mut Vec<Edit>) {
    let mut push = |cid: String, val: Option<String>, col_version, cl| {
        edits.push(Edit { pk: pk.to_owned(), cid, val, col_version, cl });
    };
    let value = |rng: &mut Rng| Some(format!("v{:016x}", rng.next()));
    let row = replica.row(pk);
    let cl = row.map_or(0, |row| row.cl);
    match (row, rng.below(100)) {
        (Some(row), dice) if cl % 2 == 1 && dice >= 15 => {
            let cid = format!("c{}", rng.below(u64::from(columns)));
            let col_version = row.cells.get(&cid).map_or(0, |(col_version, _)| *col_version) + 1;
            push(cid, value(rng), col_version, cl);
        }
        (Some(_), _) if cl % 2 == 1 => push(SENTINEL.into(), None, cl + 1, cl + 1),
        (_, dice) => {
            // A re-insert says so by its sentinel, or leaves it to its cells' causal length.
            if cl > 0 && dice < 80 {
                push(SENTINEL.into(), None, cl + 1, cl + 1);
            }
            for column in 0..columns {
                push(format!("c{column}"), value(rng), 1, cl + 1);
            }
        }
    }
}
