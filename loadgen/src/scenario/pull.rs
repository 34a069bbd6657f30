//! `pull`: pulls of a filled channel, of all of it or of what a client that was away has missed.

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
use crate::puller::{PullError, Pulled, Puller, verify_cells};
use crate::report::Report;
use crate::run::{Run, measure};
use crate::writer::Writer;

/// Updates on their way while the channel is filled.
const FILL_IN_FLIGHT: usize = 4;

pub(super) async fn run(run: Arc<Run>, scenario: &Scenario, pull: &Pull) -> Result<Report, Failed> {
    let plan = run.plan(0);
    let filling = Filling { rows: pull.rows, behind: pull.behind, changes: pull.changes };
    let from = fill(&run, &plan, filling).await?;
    let wanted = if pull.behind == 0 { 0..pull.rows } else { pull.rows - pull.behind..pull.rows };
    let mut cells = Cells::new(false);
    for cell in wanted.clone() {
        cells.note(cell, 1);
    }
    let wanted_rows = wanted.end - wanted.start;

    let mut pullers = Vec::new();
    for who in 0..pull.connections {
        let mut puller = Puller::open(&run, who, &plan).await.map_err(|e| format!("puller {who}: {e}"))?;
        if who == 0 {
            // One unmeasured pull warms the server's caches and is compared cell by cell.
            let pulled = puller.pull(&run, &plan, from, false).await;
            let pulled = pulled.map_err(|e| format!("the first pull: {e}"))?;
            check(&run, &plan, wanted_rows, &pulled);
            verify_cells(&run, &plan, "the first pull", &pulled.cells, &cells);
        }
        pullers.push(puller);
    }

    // The window is as long as the pulls take.
    run.meter.set_window(Duration::ZERO, Duration::from_secs(86_400));
    let left = Arc::new(AtomicU64::new(pull.pulls));
    let reconnect = pull.reconnect;
    let work = async {
        let mut tasks = JoinSet::new();
        for (who, mut puller) in pullers.into_iter().enumerate() {
            let (run, plan, left) = (Arc::clone(&run), Arc::clone(&plan), Arc::clone(&left));
            tasks.spawn(async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    let began = run.meter.now_ns();
                    match once(&run, &plan, &mut puller, from, reconnect).await {
                        Ok(pulled) => {
                            run.meter.latency(who, Latency::Pull, began, run.meter.now_ns());
                            run.meter.add(who, Count::Pulls, 1);
                            run.meter.add(who, Count::PulledRows, pulled.rows);
                            check(&run, &plan, wanted_rows, &pulled);
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
    let latencies = [(Latency::Pull, if pull.behind == 0 { "of a full pull" } else { "of catching up" })];
    Ok(Report::new(&run, scenario, &figures, &rates, &latencies, BTreeMap::new()))
}

async fn once(
    run: &Run,
    plan: &Plan,
    puller: &mut Puller,
    from: u64,
    reconnect: bool,
) -> Result<Pulled, PullError> {
    if reconnect {
        *puller = Puller::open(run, puller.who, plan).await?;
    }
    puller.pull(run, plan, from, false).await
}

/// What a channel is filled with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filling {
    pub(super) rows: u64,
    /// The last so many come after the version that is told; 0 tells 0.
    pub(super) behind: u64,
    pub(super) changes: usize,
}

/// Fills the channel, unless an earlier run with the same prefix, seed and shape has; the version below the rows that a
/// client is `behind`.
pub(super) async fn fill(run: &Arc<Run>, plan: &Arc<Plan>, filling: Filling) -> Result<u64, Failed> {
    let Filling { rows, behind, changes } = filling;
    let role = Role { who: 0, index: 0, writers: 1, changes, rows: 0, shared: false, random: false };
    let mut writer = Writer::open(run, Arc::clone(plan), role).await.map_err(|e| format!("filling: {e}"))?;
    if writer.book.greeted.unwrap_or(0) > 0 {
        return match behind {
            0 => Ok(0),
            _ => {
                Err("filling: the channel is not empty, so nobody knows at which version its last rows begin"
                    .into())
            }
        };
    }
    let mut from = 0;
    for rows in [rows - behind, behind] {
        from = if behind == 0 { 0 } else { writer.book.version() };
        let acked = writer.book.acked.len() + rows;
        match writer.fill(run, rows, FILL_IN_FLIGHT).await {
            Ok(true) if writer.book.acked.len() == acked => {}
            Ok(_) => {
                return Err(format!("filling: only {} of {acked} rows were acked", writer.book.acked.len()));
            }
            Err(e) => return Err(format!("filling: {e}")),
        }
    }
    Ok(from)
}

/// Each pull must bring as many rows as are wanted, all of them known.
pub(super) fn check(run: &Run, plan: &Plan, wanted: u64, pulled: &Pulled) {
    let Pulled { rows, foreign, .. } = *pulled;
    run.verdict.checked(wanted);
    if rows != wanted || foreign > 0 {
        let channel = &plan.channel;
        run.verdict
            .fault(|| format!("a pull of {channel} gave {rows} rows of {wanted}, {foreign} of them foreign"));
    }
}
