//! Runs one follower: reads all that comes, and keeps what it has seen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::cells::Cells;
use crate::conn::Conn;
use crate::meter::{Count, Latency};
use crate::plan::Plan;
use crate::run::Run;
use crate::scan::{Incoming, Scanner};
use crate::sent::Sent;
use crate::verdict::VersionGuard;

/// A follower's knowledge, shared between its task and the verification.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) number: usize,
    /// The writer's side of the figures; None for a follower that none counts.
    sent: Option<Arc<Sent>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    seen: Cells,
    /// All updates below this one have been reached.
    next_update: u32,
    greeted: bool,
    guard: VersionGuard,
    scanner: Scanner,
}

impl Follower {
    pub(crate) fn new(number: usize, overwritten: bool, sent: Option<Arc<Sent>>) -> Arc<Self> {
        Arc::new(Self {
            number,
            sent,
            state: Mutex::new(State {
                seen: Cells::new(overwritten),
                next_update: 0,
                greeted: false,
                guard: VersionGuard::default(),
                scanner: Scanner::default(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn greeted(&self) -> bool {
        self.state().greeted
    }

    /// Whether it holds all of `wanted`.
    pub(crate) fn covers(&self, wanted: &Cells) -> bool {
        self.state().seen.covers(wanted)
    }

    /// What it lacks of `wanted`: the first cells, and how many in all.
    pub(crate) fn missing(&self, wanted: &Cells, limit: usize) -> (Vec<(u64, u32)>, u64) {
        self.state().seen.missing(wanted, limit)
    }

    /// Follows until the connection ends, which is a fault, or the task is aborted.
    pub(crate) async fn follow(&self, run: &Run, plan: &Plan, mut conn: Conn) {
        while self.turn(run, plan, &mut conn).await {}
    }

    /// The same, but reads nothing for `stall`, then as long as something comes, and so on until the load is over.
    ///
    /// A server may not grow meanwhile, must not hang up, and owes the follower all of it afterwards.
    pub(crate) async fn follow_stalling(&self, run: &Run, plan: &Plan, mut conn: Conn, stall: Duration) {
        while run.meter.now_ns() < run.meter.closes_ns() {
            if self.greeted() {
                tokio::time::sleep(stall).await;
            }
            let until = Instant::now() + stall;
            while Instant::now() < until {
                if let Ok(false) = tokio::time::timeout_at(until, self.turn(run, plan, &mut conn)).await {
                    return;
                }
            }
        }
        self.follow(run, plan, conn).await;
    }

    /// One turn of the socket; false when the connection has ended.
    async fn turn(&self, run: &Run, plan: &Plan, conn: &mut Conn) -> bool {
        let turn = conn.turn(|text| self.state().take(text, self, run, plan)).await;
        run.count_bytes(self.number, conn);
        turn.inspect_err(|e| run.connection_lost(&self.name(plan), e)).is_ok()
    }

    fn name(&self, plan: &Plan) -> String {
        format!("follower {} of {}", self.number, plan.channel)
    }
}

impl State {
    fn take(&mut self, text: &[u8], follower: &Follower, run: &Run, plan: &Plan) {
        let name = || follower.name(plan);
        let version = match self.scanner.read(text, plan) {
            Ok(Incoming::Update { version, .. }) => version,
            Ok(Incoming::Connected { version }) => {
                self.guard = VersionGuard::start(version);
                self.greeted = true;
                return;
            }
            Ok(Incoming::Error { code, text, .. }) => {
                run.meter.error(&code);
                return run.verdict.fault(|| format!("{}: error {code}: {text}", name()));
            }
            Ok(Incoming::Ack { .. }) => return run.verdict.fault(|| format!("{}: an ack, unasked", name())),
            Ok(Incoming::Other) => return,
            Err(e) => {
                run.meter.error("bad message");
                return run.verdict.fault(|| format!("{}: {e}", name()));
            }
        };
        if let Some(highest) = self.guard.saw(version) {
            run.verdict.fault(|| format!("{}: version fell from {highest} to {version}", name()));
        }
        run.verdict
            .faults(self.scanner.foreign, || vec![format!("{}: got changes that nobody sent", name())]);
        self.count(follower, run, plan);
    }

    /// Counts what is new: a page that repeats what a follower has is no delivery.
    fn count(&mut self, follower: &Follower, run: &Run, plan: &Plan) {
        let Follower { number, sent, .. } = follower;
        let now_ns = run.meter.now_ns();
        let (mut updates, mut changes) = (0, 0);
        let mut last = None;
        let from = self.next_update;
        for change in &self.scanner.changes {
            if !self.seen.note(plan.cell(change.row, change.column), change.col_version) {
                continue;
            }
            changes += 1;
            if last != Some(change.update) {
                last = Some(change.update);
                updates += 1;
                if let Some(sent) = sent {
                    run.meter.latency(*number, Latency::Delivery, sent.at_ns(change.update), now_ns);
                }
            }
            self.next_update = self.next_update.max(change.update + 1);
        }
        if let Some(sent) = sent {
            sent.reached(from, self.next_update);
            run.meter.add(*number, Count::Deliveries, updates);
            run.meter.add(*number, Count::DeliveredChanges, changes);
        }
    }
}
