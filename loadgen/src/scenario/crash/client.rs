//! The clients of a channel: what each does until the server dies, and how it comes back.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::mixed::{Channel, Member, next_edits, run_of_rows};
use crate::conn::{Conn, ConnError, ConnectWith};
use crate::meter::Count;
use crate::options::Crash;
use crate::plan::Plan;
use crate::replica::{Edit, Replica};
use crate::rng::{Rng, hash_name, mix};
use crate::run::Run;

/// Rows that small updates share, and those of them that all writers hit all the time.
const SHARED_ROWS: u64 = 200;
const HOT_ROWS: u64 = 3;
/// The rows at the end of the channel that get large values, and how large.
const HEAVY_ROWS: u64 = 12;
const HEAVY_BYTES: usize = 100_000;
/// Changes in a small update, and rows in one that spans many database pages, at most.
const SMALL_CHANGES: usize = 5;
const BATCH_ROWS: Range<u64> = 100..900;
/// How long a follower stays, at most, in milliseconds.
const STAY_MS: u64 = 400;
/// The receive buffer of a client that hangs in a pull: hardly more than it has read.
const HANGING_BUFFER_BYTES: u32 = 4096;

/// Says that the server is about to die: from then on connections may break.
pub(super) type Ending = watch::Receiver<bool>;

/// What a client does while the server is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Edits rows, as `mixed` does.
    Writer,
    /// Hangs up and resumes from its cursor, over and over.
    Follower,
    /// Begins from nothing, and reads no further once it is in the middle of its pull.
    Hanging,
    /// Begins from nothing, over and over.
    Pulling,
}

/// A client, over all lives of the server.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) member: Member,
    pub(super) channel: Arc<Channel>,
    kind: Kind,
    conn: Option<Conn>,
}

impl Client {
    pub(super) fn new(channel: Arc<Channel>, who: usize, kind: Kind) -> Self {
        Self { member: member(who, kind), channel, kind, conn: None }
    }

    /// Loads the server until the connection ends, which is a fault unless the server is about to die.
    pub(super) async fn load(&mut self, run: &Run, crash: &Crash, round: u64, mut ending: Ending) {
        let seed = hash_name(run.common.seed ^ self.member.who as u64, &self.channel.name);
        let mut rng = Rng::new(seed ^ mix(round));
        let ended = match self.kind {
            Kind::Writer => self.write(run, crash, &mut rng, round).await,
            Kind::Follower => self.follow(run, &mut rng).await,
            Kind::Hanging => self.hang(run, &mut ending).await,
            Kind::Pulling => self.pull(run, &mut rng).await,
        };
        self.conn = None;
        let Err(e) = ended;
        self.judge(run, &e, &ending);
    }

    /// Comes back: resumes from the cursor, sends again what has no answer, and in the end must hold exactly what was
    /// acked. `true` if it did, `false` if the server died meanwhile.
    pub(super) async fn recover(&mut self, run: &Run, ending: Ending) -> bool {
        match self.resume(run).await {
            Ok(conn) => {
                self.conn = Some(conn);
                self.member.verify(run, &self.channel);
                true
            }
            Err(e) => {
                self.judge(run, &e, &ending);
                false
            }
        }
    }

    async fn resume(&mut self, run: &Run) -> Result<Conn, ConnError> {
        let (member, channel) = (&mut self.member, &self.channel);
        let mut conn = member.connect(run, channel).await?;
        member.resend(channel, &mut conn);
        while !member.is_answered() || member.unacked() > 0 {
            member.turn(run, channel, &mut conn, Instant::now() + run.drain_limit()).await?;
        }
        if self.kind == Kind::Writer {
            channel.writers_left.fetch_sub(1, Ordering::Release);
        }
        member.converge(run, channel, &mut conn, Instant::now() + run.drain_limit()).await?;
        Ok(conn)
    }

    fn judge(&self, run: &Run, error: &ConnError, ending: &Ending) {
        if !*ending.borrow() {
            run.connection_lost(&format!("{} of {}", self.member.name, self.channel.name), error);
        }
    }

    async fn connection(&mut self, run: &Run) -> Result<Conn, ConnError> {
        match self.conn.take() {
            Some(conn) => Ok(conn),
            None => self.member.connect(run, &self.channel).await,
        }
    }

    async fn write(
        &mut self,
        run: &Run,
        crash: &Crash,
        rng: &mut Rng,
        round: u64,
    ) -> Result<Infallible, ConnError> {
        let mut conn = self.connection(run).await?;
        let Self { member, channel, .. } = self;
        // From the beginning a pull takes several pages.
        if round == 0 && member.replica.len() == 0 {
            let edits = run_of_rows(rng, &member.replica, &channel.keys, 0..crash.rows, 0);
            member.write(channel, &mut conn, run.meter.now_ns(), edits);
        }
        loop {
            while member.unacked() < crash.in_flight {
                let edits = edits(rng, &member.replica, &channel.keys, crash.rows);
                member.write(channel, &mut conn, run.meter.now_ns(), edits);
            }
            member.turn(run, channel, &mut conn, Instant::now() + run.drain_limit()).await?;
        }
    }

    async fn follow(&mut self, run: &Run, rng: &mut Rng) -> Result<Infallible, ConnError> {
        loop {
            let mut conn = self.connection(run).await?;
            self.stay(run, &mut conn, rng).await?;
            run.meter.add(self.member.who, Count::Reconnects, 1);
        }
    }

    async fn hang(&mut self, run: &Run, ending: &mut Ending) -> Result<Infallible, ConnError> {
        self.begin_anew();
        let with = ConnectWith { receive_buffer: Some(HANGING_BUFFER_BYTES), ..ConnectWith::default() };
        let mut conn = self.member.connect_with(run, &self.channel, with).await?;
        let Self { member, channel, .. } = self;
        while member.replica.len() == 0 && !member.is_answered() {
            member.turn(run, channel, &mut conn, Instant::now() + run.drain_limit()).await?;
        }
        let _ = ending.wait_for(|is_ending| *is_ending).await;
        // What the server had sent by then is still to be read.
        loop {
            member.turn(run, channel, &mut conn, Instant::now() + run.drain_limit()).await?;
        }
    }

    async fn pull(&mut self, run: &Run, rng: &mut Rng) -> Result<Infallible, ConnError> {
        loop {
            self.begin_anew();
            let mut conn = self.connection(run).await?;
            self.member.sync(run, &self.channel, &mut conn).await?;
            run.meter.add(self.member.who, Count::Pulls, 1);
            self.stay(run, &mut conn, rng).await?;
        }
    }

    /// Follows for a while.
    async fn stay(&mut self, run: &Run, conn: &mut Conn, rng: &mut Rng) -> Result<(), ConnError> {
        let until = Instant::now() + Duration::from_millis(rng.below(STAY_MS));
        while Instant::now() < until {
            match self.member.turn(run, &self.channel, conn, until).await {
                Ok(()) | Err(ConnError::Timeout(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A client that has nothing yet.
    fn begin_anew(&mut self) {
        (self.member, self.conn) = (member(self.member.who, self.kind), None);
    }
}

fn member(who: usize, kind: Kind) -> Member {
    Member::new(format!("{kind:?} {who}").to_lowercase(), who)
}

/// One update of a writer: mostly small, some on hot rows, now and then many rows, large values, or more than a page.
fn edits(rng: &mut Rng, replica: &Replica, keys: &Plan, rows: u64) -> Vec<Edit> {
    match rng.below(1_000) {
        0..200 => next_edits(rng, replica, keys, 0..HOT_ROWS.min(rows), 1),
        200..970 => next_edits(rng, replica, keys, 0..SHARED_ROWS.min(rows), SMALL_CHANGES),
        970..993 => {
            let count = (BATCH_ROWS.start + rng.below(BATCH_ROWS.end - BATCH_ROWS.start)).min(rows);
            let start = rng.below(rows - count + 1);
            run_of_rows(rng, replica, keys, start..start + count, 0)
        }
        993..997 => run_of_rows(rng, replica, keys, rows.saturating_sub(HEAVY_ROWS)..rows, HEAVY_BYTES),
        _ => run_of_rows(rng, replica, keys, 0..rows, 0),
    }
}
