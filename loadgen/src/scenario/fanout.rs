//! `fanout`: one writer, many followers of one channel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Failed, slow_follower};
use crate::book::Role;
use crate::cells::Cells;
use crate::conn::ConnectWith;
use crate::follower::Follower;
use crate::meter::{Count, Latency};
use crate::options::{Fanout, Scenario, Window};
use crate::plan::Keys;
use crate::puller::{report_missing, verify_stored};
use crate::report::Report;
use crate::run::{Run, measure};
use crate::sent::Sent;
use crate::verdict::NAMED_MAX;
use crate::writer::{Pace, Writer};

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, fanout: &Fanout) -> Result<Report, Failed> {
    let plan = run.plan(0);
    let writing = &fanout.writing;
    let overwritten = writing.rows > 0;
    let holds_window = fanout.window == Window::Deliveries && writing.rate.is_none();
    let sent = Arc::new(Sent::new(fanout.followers, holds_window));

    let mut following = JoinSet::new();
    let mut followers = Vec::new();
    for number in 0..fanout.followers + fanout.stalling_followers {
        let stalls = number >= fanout.followers;
        // A stalling follower's backlog should wait in the server, not in this side's socket.
        let with = ConnectWith { receive_buffer: stalls.then_some(4096), ..ConnectWith::default() };
        let conn = run.connect(&plan.channel, with).await.map_err(|e| format!("follower {number}: {e}"))?;
        let follower = Follower::new(number, overwritten, (!stalls).then(|| Arc::clone(&sent)));
        followers.push(Arc::clone(&follower));
        let (run, plan) = (Arc::clone(&run), Arc::clone(&plan));
        let stall = Duration::from_millis(fanout.stall_ms);
        following.spawn(async move {
            if stalls {
                follower.follow_stalling(&run, &plan, conn, stall).await;
            } else {
                follower.follow(&run, &plan, conn).await;
            }
        });
    }
    // A follower counts from its greeting on: before it, the server may not have added it to the channel.
    if !wait(run.drain_limit(), || followers.iter().all(|follower| follower.greeted())).await {
        return Err("not all followers were greeted".into());
    }
    let role = Role {
        who: followers.len(),
        index: 0,
        writers: 1,
        changes: writing.changes,
        rows: writing.rows,
        shared: false,
        random: run.common.keys == Keys::Random,
    };
    let mut writer =
        Writer::open(&run, Arc::clone(&plan), role).await.map_err(|e| format!("the writer: {e}"))?;
    writer.share(Arc::clone(&sent));
    let slow = slow_follower(&run, &plan, writing.slow_follower).await?;

    run.start_window();
    let pace = Pace::of(writing.rate, writing.in_flight, 0, 1);
    let task = tokio::spawn({
        let run = Arc::clone(&run);
        async move {
            let answered = writer.run(&run, pace).await;
            (writer, answered)
        }
    });
    let closes = run.meter.instant_of(run.meter.closes_ns());
    let rates = [
        (Count::Deliveries, "deliveries"),
        (Count::DeliveredChanges, "changes delivered"),
        (Count::Acks, "updates acked"),
    ];
    let (figures, ()) = measure(&run, &rates, tokio::time::sleep_until(closes.into())).await;
    let (writer, answered) = task.await.map_err(|e| format!("the writer: {e}"))?;
    match answered {
        Ok(true) => {}
        Ok(false) => {
            run.verdict.fault(|| format!("the writer: {} updates got no answer", writer.book.unacked()));
        }
        Err(e) => run.connection_lost("the writer", &e),
    }
    if run.verifies() {
        let acked = &writer.book.acked;
        wait(run.drain_limit(), || followers.iter().all(|follower| follower.covers(acked))).await;
        verify_followers(&run, &plan, &followers, acked);
        verify_stored(&run, &plan, acked).await;
    }
    following.abort_all();
    drop(slow);

    let latencies = [(Latency::Delivery, "to a follower"), (Latency::Ack, "to the ack")];
    Ok(Report::new(&run, scenario, &figures, &rates, &latencies, BTreeMap::new()))
}

fn verify_followers(run: &Run, plan: &crate::plan::Plan, followers: &[Arc<Follower>], acked: &Cells) {
    let checked = acked.len();
    for follower in followers {
        let missing = follower.missing(acked, NAMED_MAX);
        report_missing(run, plan, &format!("follower {}", follower.number), missing, checked);
    }
}

/// Waits until `done`, or for the limit; whether it became so.
async fn wait(limit: Duration, done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}
