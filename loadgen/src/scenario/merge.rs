//! `merge`: many writers, each to its channel.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Failed, slow_follower};
use crate::book::Role;
use crate::cells::Cells;
use crate::meter::{Count, Latency};
use crate::options::{Merge, Scenario};
use crate::plan::{Keys, Plan};
use crate::puller::{verify_cells, verify_stored};
use crate::report::Report;
use crate::run::{Run, measure};
use crate::writer::{Pace, Writer};

/// Channels that are pulled at once to be verified: as many as keep both sides busy.
const VERIFIED_AT_ONCE: usize = 2;

/// What the writers of a channel have had acked, together.
#[derive(Debug)]
struct Channel {
    plan: Arc<Plan>,
    acked: Mutex<(Cells, usize)>,
    writers: usize,
}

impl Channel {
    /// Whether all writers have said what was acked to them, and `seen` holds all of it.
    fn is_held_by(&self, seen: &Cells) -> bool {
        let acked = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        acked.1 == self.writers && seen.covers(&acked.0)
    }
}

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, merge: &Merge) -> Result<Report, Failed> {
    let writers = merge.connections_per_channel;
    let channels: Vec<_> = (0..merge.channels)
        .map(|number| {
            Arc::new(Channel {
                plan: run.plan(number),
                acked: Mutex::new((Cells::new(merge.writing.rows > 0), 0)),
                writers,
            })
        })
        .collect();
    let mut connected = Vec::new();
    for (number, channel) in channels.iter().enumerate() {
        for index in 0..writers {
            let role = Role {
                who: number * writers + index,
                index: index as u64,
                writers: writers as u64,
                changes: merge.writing.changes,
                rows: merge.writing.rows,
                shared: merge.shared_rows,
                random: run.common.keys == Keys::Random,
            };
            let writer = Writer::open(&run, Arc::clone(&channel.plan), role)
                .await
                .map_err(|e| format!("writer {} of {}: {e}", index, channel.plan.channel))?;
            connected.push((writer, Arc::clone(channel)));
        }
    }
    let slow = slow_follower(&run, &channels[0].plan, merge.writing.slow_follower).await?;

    run.start_window();
    let all = connected.len();
    let mut tasks = JoinSet::new();
    for (who, (writer, channel)) in connected.into_iter().enumerate() {
        let pace = Pace::of(merge.writing.rate, merge.writing.in_flight, who, all);
        tasks.spawn(write_and_verify(Arc::clone(&run), writer, channel, pace));
    }
    let closes = run.meter.instant_of(run.meter.closes_ns());
    let rates = [(Count::Changes, "changes acked"), (Count::Acks, "updates acked")];
    let (figures, ()) = measure(&run, &rates, tokio::time::sleep_until(closes.into())).await;
    tasks.join_all().await;
    drop(slow);
    if run.verifies() {
        verify(&run, &channels).await;
    }

    let latencies = [(Latency::Ack, "to the ack")];
    let followed = [(Count::Deliveries, "deliveries to writers")];
    let rates: Vec<_> = rates.into_iter().chain(followed.into_iter().filter(|_| writers > 1)).collect();
    Ok(Report::new(&run, scenario, &figures, &rates, &latencies, BTreeMap::new()))
}

async fn write_and_verify(run: Arc<Run>, mut writer: Writer, channel: Arc<Channel>, pace: Pace) {
    let name = format!("writer {} of {}", writer.book.index(), channel.plan.channel);
    match writer.run(&run, pace).await {
        Ok(true) => {}
        Ok(false) => run.verdict.fault(|| format!("{name}: {} updates got no answer", writer.book.unacked())),
        Err(e) => run.connection_lost(&name, &e),
    }
    {
        let mut acked = channel.acked.lock().unwrap_or_else(PoisonError::into_inner);
        acked.0.note_all(&writer.book.acked);
        acked.1 += 1;
    }
    if channel.writers == 1 || !run.verifies() {
        return;
    }
    let deadline = Instant::now() + run.drain_limit();
    if let Err(e) = writer.linger(&run, deadline, |book| channel.is_held_by(&book.seen)).await {
        return run.connection_lost(&name, &e);
    }
    let acked = channel.acked.lock().unwrap_or_else(PoisonError::into_inner);
    verify_cells(&run, &channel.plan, &name, &writer.book.seen, &acked.0);
}

async fn verify(run: &Arc<Run>, channels: &[Arc<Channel>]) {
    let mut pulls = JoinSet::new();
    for channel in channels {
        if pulls.len() == VERIFIED_AT_ONCE {
            pulls.join_next().await;
        }
        let (run, channel) = (Arc::clone(run), Arc::clone(channel));
        pulls.spawn(async move {
            let acked = channel.acked.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
            verify_stored(&run, &channel.plan, &acked).await;
        });
    }
    pulls.join_all().await;
}
