//! Runs one writer: closed loop or open loop, until the window closes, then until all is answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::book::{Book, Role};
use crate::conn::{Conn, ConnError, ConnectWith};
use crate::meter::Latency;
use crate::plan::Plan;
use crate::run::Run;
use crate::sent::Sent;

/// When the next update may go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// At most so many on their way.
    Closed { in_flight: usize },
    /// One each `every_ns`, the first one `offset_ns` after the start.
    Open { every_ns: u64, offset_ns: u64 },
}

impl Pace {
    /// The pace of writer `who` of `writers`: an open loop's schedule is dealt out in turn.
    pub(crate) fn of(rate: Option<f64>, in_flight: usize, who: usize, writers: usize) -> Self {
        match rate {
            None => Self::Closed { in_flight },
            Some(rate) => {
                let every = 1e9 / rate;
                Self::Open {
                    every_ns: ((every * writers as f64) as u64).max(1),
                    offset_ns: (every * who as f64) as u64,
                }
            }
        }
    }
}

/// A connected writer.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) book: Book,
    role: Role,
    conn: Conn,
    /// Where followers look up when an update was sent, and say when they all have it.
    sent: Option<Arc<Sent>>,
}

impl Writer {
    /// Connects and waits for the greeting.
    pub(crate) async fn open(run: &Run, plan: Arc<Plan>, role: Role) -> Result<Self, ConnError> {
        let conn = run.connect(&plan.channel, ConnectWith::default()).await?;
        let book = Book::new(plan, role, run.common.seed);
        let mut writer = Self { book, role, conn, sent: None };
        let deadline = Instant::now() + run.drain_limit();
        while writer.book.greeted.is_none() {
            if !writer.turn_until(run, deadline).await? {
                return Err(ConnError::Timeout(run.drain_limit().as_secs()));
            }
        }
        Ok(writer)
    }

    /// Makes followers' deliveries count into the closed loop's window and the latencies.
    pub(crate) fn share(&mut self, sent: Arc<Sent>) {
        self.sent = Some(sent);
    }

    /// Writes until the window closes, then waits until all is answered. False: not all was, in the drain time.
    pub(crate) async fn run(&mut self, run: &Run, pace: Pace) -> Result<bool, ConnError> {
        self.load(run, pace).await?;
        let deadline = Instant::now() + run.drain_limit();
        while self.book.unacked() > 0 {
            if !self.turn_until(run, deadline).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes `changes` new cells, `in_flight` updates at a time, and waits until all is answered.
    pub(crate) async fn fill(
        &mut self,
        run: &Run,
        mut changes: u64,
        in_flight: usize,
    ) -> Result<bool, ConnError> {
        while changes > 0 || self.book.unacked() > 0 {
            while changes > 0 && self.book.unacked() < in_flight {
                let now = changes.min(self.role.changes as u64);
                changes -= now;
                self.conn.queue_text(self.book.next_update(now as usize, run.meter.now_ns()));
            }
            if !self.turn_until(run, Instant::now() + run.drain_limit()).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads on until `done`, or until the deadline.
    pub(crate) async fn linger(
        &mut self,
        run: &Run,
        deadline: Instant,
        mut done: impl FnMut(&Book) -> bool,
    ) -> Result<bool, ConnError> {
        while !done(&self.book) {
            // Others may have become done meanwhile, without a message to this connection: look again now and then.
            let soon = Instant::now() + Duration::from_millis(50);
            if !self.turn_until(run, soon.min(deadline)).await? && Instant::now() >= deadline {
                return Ok(done(&self.book));
            }
        }
        Ok(true)
    }

    async fn load(&mut self, run: &Run, pace: Pace) -> Result<(), ConnError> {
        let closes_ns = run.meter.closes_ns();
        let mut due_ns = match pace {
            Pace::Open { offset_ns, .. } => run.meter.now_ns() + offset_ns,
            Pace::Closed { .. } => 0,
        };
        let alarm = tokio::time::sleep_until(run.meter.instant_of(closes_ns).into());
        tokio::pin!(alarm);
        loop {
            let now_ns = run.meter.now_ns();
            if now_ns >= closes_ns {
                return Ok(());
            }
            // A delivery between the look at the window and the wait is remembered, so none is slept through.
            let sent = self.sent.clone();
            let delivered = async {
                match &sent {
                    Some(sent) => sent.changed().await,
                    None => std::future::pending().await,
                }
            };
            match pace {
                Pace::Closed { in_flight } => {
                    while self.on_their_way() < in_flight {
                        self.write(now_ns);
                    }
                }
                Pace::Open { every_ns, .. } => {
                    while due_ns <= now_ns {
                        self.write(due_ns);
                        run.meter.latency(self.role.who, Latency::Late, due_ns, now_ns);
                        due_ns += every_ns;
                    }
                    alarm.as_mut().reset(run.meter.instant_of(due_ns.min(closes_ns)).into());
                }
            }
            let book = &mut self.book;
            tokio::select! {
                biased;
                turn = self.conn.turn(|text| book.take(text, run)) => turn?,
                () = delivered => {}
                () = &mut alarm => {}
            }
            run.count_bytes(self.role.who, &mut self.conn);
        }
    }

    /// Updates that are unacked, or not yet with all followers if those count.
    fn on_their_way(&self) -> usize {
        let undelivered = match &self.sent {
            Some(sent) if sent.holds_window() => self.book.written().saturating_sub(sent.complete()) as usize,
            _ => 0,
        };
        self.book.unacked().max(undelivered)
    }

    fn write(&mut self, due_ns: u64) {
        if let Some(sent) = &self.sent {
            sent.note(self.book.written(), due_ns);
        }
        self.conn.queue_text(self.book.next_update(self.role.changes, due_ns));
    }

    /// One turn of the socket; false at the deadline.
    async fn turn_until(&mut self, run: &Run, deadline: Instant) -> Result<bool, ConnError> {
        let book = &mut self.book;
        let turn = tokio::time::timeout_at(deadline, self.conn.turn(|text| book.take(text, run))).await;
        run.count_bytes(self.role.who, &mut self.conn);
        match turn {
            Ok(turn) => turn.map(|()| true),
            Err(_) => Ok(false),
        }
    }
}
