//! `pull`: full pulls of a filled channel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

use super::Failed;
use crate::book::Role;
use crate::cells::Cells;
use crate::meter::{Count, Latency};
use crate::options::{Pull, Scenario};
use crate::plan::Plan;
use crate::puller::{Puller, verify_cells};
use crate::report::Report;
use crate::run::{Run, measure};
use crate::writer::Writer;

/// Updates on their way while the channel is filled.
const FILL_IN_FLIGHT: usize = 4;

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, pull: &Pull) -> Result<Report, Failed> {
    let plan = run.plan(0);
    fill(&run, &plan, pull).await?;
    let mut wanted = Cells::new(false);
    for cell in 0..pull.rows {
        wanted.note(cell, 1);
    }

    let mut pullers = Vec::new();
    for who in 0..pull.connections {
        let mut puller = Puller::open(&run, who, &plan).await.map_err(|e| format!("puller {who}: {e}"))?;
        if who == 0 {
            // One unmeasured pull warms the server's caches and is compared cell by cell.
            let pulled = puller.pull(&run, &plan, false).await.map_err(|e| format!("the first pull: {e}"))?;
            check(&run, &plan, pull.rows, pulled.rows, pulled.foreign);
            verify_cells(&run, &plan, "the first pull", &pulled.cells, &wanted);
        }
        pullers.push(puller);
    }

    // The window is as long as the pulls take.
    run.meter.set_window(Duration::ZERO, Duration::from_secs(86_400));
    let left = Arc::new(AtomicU64::new(pull.pulls));
    let wanted_rows = pull.rows;
    let work = async {
        let mut tasks = JoinSet::new();
        for (who, mut puller) in pullers.into_iter().enumerate() {
            let (run, plan, left) = (Arc::clone(&run), Arc::clone(&plan), Arc::clone(&left));
            tasks.spawn(async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    let began = run.meter.now_ns();
                    match puller.pull(&run, &plan, false).await {
                        Ok(pulled) => {
                            run.meter.latency(who, Latency::Pull, began, run.meter.now_ns());
                            run.meter.add(who, Count::Pulls, 1);
                            run.meter.add(who, Count::PulledRows, pulled.rows);
                            check(&run, &plan, wanted_rows, pulled.rows, pulled.foreign);
                        }
                        Err(e) => return run.verdict.fault(|| format!("puller {who}: {e}")),
                    }
                }
            });
        }
        tasks.join_all().await;
    };
    let rates = [(Count::PulledRows, "rows pulled"), (Count::Pulls, "pulls")];
    let (figures, ()) = measure(&run, &rates, work).await;
    let latencies = [(Latency::Pull, "of a full pull")];
    Ok(Report::new(&run, scenario, &figures, &rates, &latencies, BTreeMap::new()))
}

/// Fills the channel, unless an earlier run with the same prefix, seed and shape has.
async fn fill(run: &Arc<Run>, plan: &Arc<Plan>, pull: &Pull) -> Result<(), Failed> {
    let role = Role { who: 0, index: 0, writers: 1, changes: pull.changes, rows: 0, random: false };
    let mut writer = Writer::open(run, Arc::clone(plan), role).await.map_err(|e| format!("filling: {e}"))?;
    if writer.book.greeted.unwrap_or(0) > 0 {
        return Ok(());
    }
    match writer.fill(run, pull.rows, FILL_IN_FLIGHT).await {
        Ok(true) if writer.book.acked.len() == pull.rows => Ok(()),
        Ok(_) => Err(format!("filling: only {} of {} rows were acked", writer.book.acked.len(), pull.rows)),
        Err(e) => Err(format!("filling: {e}")),
    }
}

/// Each pull must bring as many rows as the channel has, all of them known.
fn check(run: &Run, plan: &Plan, wanted: u64, rows: u64, foreign: u64) {
    run.verdict.checked(wanted);
    if rows != wanted || foreign > 0 {
        let channel = &plan.channel;
        run.verdict
            .fault(|| format!("a pull of {channel} gave {rows} rows of {wanted}, {foreign} of them foreign"));
    }
}
