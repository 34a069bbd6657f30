//! One client of a mixed channel, with its own replica: it pulls, follows, and may write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Channel;
use crate::conn::{Conn, ConnError, ConnectWith};
use crate::meter::{Count, Latency};
use crate::replica::{Edit, Replica};
use crate::run::Run;
use crate::verdict::VersionGuard;

/// What a member knows, apart from its socket: it outlives reconnects.
#[derive(Debug)]
pub(in crate::scenario) struct Member {
    pub(in crate::scenario) name: Arc<str>,
    pub(in crate::scenario) who: usize,
    pub(in crate::scenario) site: String,
    pub(in crate::scenario) replica: Replica,
    /// Which of the run's servers it connects to.
    pub(in crate::scenario) server: usize,
    /// How far it is with each database that it has met, and with which it is now: versions of one mean nothing to another.
    reached: Vec<Reached>,
    at: usize,
    greeted: bool,
    /// When the pull of this connection was answered to its end.
    answered_ns: Option<u64>,
    guard: VersionGuard,
    /// Updates before this one were sent while a pull was being answered: the last page may hold more than they did, and
    /// come before their acks.
    sent_in_pull: u64,
    /// Updates without an answer: their number, when they were sent, what they hold.
    pending: VecDeque<(u64, u64, Vec<Edit>)>,
    next_update: u64,
    /// Every change that came, as it came, if they are kept.
    rows: Option<Vec<Value>>,
}

/// How far a member is with a channel's database on a server.
#[derive(Debug, Default)]
struct Reached {
    site: String,
    /// Everything up to this version has been applied: where a pull resumes.
    cursor: u64,
    /// The highest version that was shown.
    last: u64,
}

impl Member {
    pub(in crate::scenario) fn new(name: impl Into<Arc<str>>, who: usize) -> Self {
        Self {
            name: name.into(),
            who,
            site: format!("{:032X}", 0xCC_u128 << 120 | who as u128),
            replica: Replica::default(),
            server: 0,
            reached: vec![Reached::default()],
            at: 0,
            greeted: false,
            answered_ns: None,
            guard: VersionGuard::default(),
            sent_in_pull: 0,
            pending: VecDeque::new(),
            next_update: 1,
            rows: None,
        }
    }

    /// The same at another server.
    pub(in crate::scenario) fn at(self, server: usize) -> Self {
        Self { server, ..self }
    }

    /// The same, but keeps every change that comes, as it comes.
    pub(super) fn keeping_rows(self) -> Self {
        Self { rows: Some(Vec::new()), ..self }
    }

    /// What came, where it is kept.
    pub(in crate::scenario) fn rows(&self) -> &[Value] {
        self.rows.as_deref().unwrap_or_default()
    }

    /// The highest version that this connection has shown.
    pub(in crate::scenario) fn last(&self) -> u64 {
        self.reached[self.at].last
    }

    /// Whether the pull of this connection has been answered to its end.
    pub(in crate::scenario) fn is_answered(&self) -> bool {
        self.answered_ns.is_some()
    }

    pub(in crate::scenario) fn unacked(&self) -> usize {
        self.pending.len()
    }

    /// The updates without an answer, oldest first.
    pub(in crate::scenario) fn unacked_updates(&self) -> Vec<Vec<Edit>> {
        self.pending.iter().map(|(.., edits)| edits.clone()).collect()
    }

    /// When the oldest update without an answer was due.
    pub(in crate::scenario) fn waiting_since_ns(&self) -> Option<u64> {
        self.pending.front().map(|(_, due_ns, _)| *due_ns)
    }

    /// Connects and asks for everything above the cursor, once greeted.
    pub(in crate::scenario) async fn connect(
        &mut self,
        run: &Run,
        channel: &Channel,
    ) -> Result<Conn, ConnError> {
        self.connect_with(run, channel, ConnectWith::default()).await
    }

    /// The same on a socket made to order.
    pub(in crate::scenario) async fn connect_with(
        &mut self,
        run: &Run,
        channel: &Channel,
        with: ConnectWith,
    ) -> Result<Conn, ConnError> {
        let mut conn = self.greet(run, channel, with).await?;
        self.pull(channel, &mut conn, self.cursor());
        Ok(conn)
    }

    /// Connects and waits for the greeting; asks for nothing yet.
    pub(in crate::scenario) async fn greet(
        &mut self,
        run: &Run,
        channel: &Channel,
        with: ConnectWith,
    ) -> Result<Conn, ConnError> {
        let mut conn = run.connect_to(self.server, &channel.name, with).await?;
        (self.greeted, self.answered_ns) = (false, None);
        let deadline = Instant::now() + run.drain_limit();
        while !self.greeted {
            self.turn(run, channel, &mut conn, deadline).await?;
        }
        Ok(conn)
    }

    /// Asks for everything above the version.
    pub(in crate::scenario) fn pull(&mut self, channel: &Channel, conn: &mut Conn, version: u64) {
        let pull = json!({"type": "pull", "siteId": self.site, "version": version, "channel": channel.name});
        conn.queue_text(pull.to_string().as_bytes());
        self.answered_ns = None;
        self.guard.pulled(version);
    }

    /// Everything up to this version has been applied: where a pull resumes.
    pub(in crate::scenario) fn cursor(&self) -> u64 {
        self.reached[self.at].cursor
    }

    /// Reads until the pull is answered to its end.
    pub(in crate::scenario) async fn sync(
        &mut self,
        run: &Run,
        channel: &Channel,
        conn: &mut Conn,
    ) -> Result<(), ConnError> {
        while !self.is_answered() {
            self.turn(run, channel, conn, Instant::now() + run.drain_limit()).await?;
        }
        Ok(())
    }

    /// One turn of the socket, at most until the deadline, which is an error.
    pub(in crate::scenario) async fn turn(
        &mut self,
        run: &Run,
        channel: &Channel,
        conn: &mut Conn,
        deadline: Instant,
    ) -> Result<(), ConnError> {
        let turn = tokio::time::timeout_at(deadline, conn.turn(|text| self.take(text, run, channel))).await;
        run.count_bytes(self.who, conn);
        turn.unwrap_or(Err(ConnError::Timeout(run.drain_limit().as_secs())))
    }

    /// Reads on until all that was acked in the channel is here, or the deadline.
    pub(in crate::scenario) async fn converge(
        &mut self,
        run: &Run,
        channel: &Channel,
        conn: &mut Conn,
        deadline: Instant,
    ) -> Result<(), ConnError> {
        while Instant::now() < deadline {
            if channel.writers_left.load(Ordering::Acquire) == 0 && self.replica == *channel.acked() {
                break;
            }
            // Others may finish without a message to this connection: look again now and then.
            let soon = (Instant::now() + std::time::Duration::from_millis(50)).min(deadline);
            match self.turn(run, channel, conn, soon).await {
                Ok(()) | Err(ConnError::Timeout(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Applies the edits, due at `due_ns`, here and queues them for the server: local first.
    pub(in crate::scenario) fn write(
        &mut self,
        channel: &Channel,
        conn: &mut Conn,
        due_ns: u64,
        edits: Vec<Edit>,
    ) {
        let version = self.next_update;
        self.next_update += 1;
        edits.iter().for_each(|edit| self.replica.apply(edit));
        self.queue(channel, conn, version, due_ns, &edits);
        self.pending.push_back((version, due_ns, edits));
    }

    /// Queues again what has no answer: an earlier connection may have taken it with it.
    pub(in crate::scenario) fn resend(&self, channel: &Channel, conn: &mut Conn) {
        let again =
            |(version, due_ns, edits): &(_, _, Vec<_>)| self.queue(channel, conn, *version, *due_ns, edits);
        self.pending.iter().for_each(again);
    }

    fn queue(&self, channel: &Channel, conn: &mut Conn, version: u64, due_ns: u64, edits: &[Edit]) {
        if let Some(timing) = &channel.timing {
            edits.iter().for_each(|edit| timing.note(edit, due_ns, self.server));
        }
        let wire: Vec<Value> = edits
            .iter()
            .enumerate()
            .map(|(seq, edit)| edit.to_wire(&channel.table, version, &self.site, seq))
            .collect();
        let update = json!({
            "type": "update", "siteId": self.site, "version": version, "channel": channel.name, "changes": wire,
        });
        conn.queue_text(update.to_string().as_bytes());
    }

    fn take(&mut self, text: &[u8], run: &Run, channel: &Channel) {
        let name = Arc::clone(&self.name);
        let fault = |what: String| run.verdict.fault(|| format!("{name} of {}: {what}", channel.name));
        let message: Value = match serde_json::from_slice(text) {
            Ok(message) => message,
            Err(e) => return fault(format!("not JSON: {e}")),
        };
        let version = message["version"].as_u64();
        let received = message["received"].as_u64();
        channel.saw(self.server, version.unwrap_or(0));
        if matches!(message["type"].as_str(), Some("connected" | "ack"))
            && version > Some(0)
            && let Some(known) =
                channel.other_site(self.server, message["siteId"].as_str().unwrap_or_default())
        {
            fault(format!("the channel was site {known}, now it is {}", message["siteId"]));
        }
        match (message["type"].as_str(), version) {
            (Some("connected"), Some(version)) => {
                self.meet(message["siteId"].as_str().unwrap_or_default());
                if version < self.last() {
                    fault(format!("version fell from {} to {version} over a reconnect", self.last()));
                }
                self.guard = VersionGuard::start(version);
                self.greeted = true;
                self.reached[self.at].last = version;
            }
            (Some("ack"), Some(version)) => {
                let fell = self.guard.saw(version);
                if let Some(highest) = fell.filter(|_| received.is_none_or(|sent| sent >= self.sent_in_pull))
                {
                    fault(format!("version fell from {highest} to {version} (ack)"));
                }
                match self.answer(received) {
                    Some((_, sent_ns, edits)) => {
                        run.meter.latency(self.who, Latency::Ack, sent_ns, run.meter.now_ns());
                        run.meter.add(self.who, Count::Acks, 1);
                        run.meter.add(self.who, Count::Changes, edits.len() as u64);
                        let mut acked = channel.acked();
                        edits.iter().for_each(|edit| acked.apply(edit));
                    }
                    None => fault(format!("an ack of nothing sent ({received:?})")),
                }
            }
            (Some("update"), Some(version)) => {
                if let Some(highest) = self.guard.saw(version) {
                    fault(format!("version fell from {highest} to {version}"));
                }
                let changes = message["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
                if let Some(rows) = &mut self.rows {
                    rows.extend_from_slice(changes);
                }
                for change in changes {
                    match Edit::from_wire(change, &channel.table) {
                        Some(edit) => {
                            self.time(run, channel, &edit);
                            self.replica.apply(&edit);
                        }
                        None => {
                            let name = &self.name;
                            run.verdict
                                .fault(|| format!("{name} of {}: a strange change {change}", channel.name));
                        }
                    }
                }
                self.advance(run, version, message["more"].as_bool());
                run.meter.add(self.who, Count::Deliveries, 1);
                run.meter.add(self.who, Count::DeliveredChanges, changes.len() as u64);
            }
            (Some("error"), _) => {
                let code = message["code"].as_str().unwrap_or("(none)");
                run.meter.error(code);
                fault(format!("error {code}: {}", message["message"]));
                self.answer(received);
            }
            (Some(_), None) => fault(format!("a message without a version: {message}")),
            _ => {}
        }
    }

    /// The database with this site id is the one that this connection is about.
    fn meet(&mut self, site: &str) {
        let known = self.reached.iter().position(|reached| reached.site == site);
        self.at = known.unwrap_or_else(|| {
            self.reached.push(Reached { site: site.to_owned(), ..Reached::default() });
            self.reached.len() - 1
        });
    }

    /// Measures how long a change took that is new here, if it was sent when this member had all before it.
    fn time(&self, run: &Run, channel: &Channel, edit: &Edit) {
        if let (Some(timing), Some(answered_ns)) = (&channel.timing, self.answered_ns)
            && let Some((due_ns, server)) = timing.sent(edit)
            && due_ns >= answered_ns
            && !self.replica.has(edit)
        {
            let which = if server == self.server { Latency::Delivery } else { Latency::CrossDelivery };
            run.meter.latency(self.who, which, due_ns, run.meter.now_ns());
        }
    }

    /// Moves the cursor over an `update` that has been applied.
    fn advance(&mut self, run: &Run, version: u64, more: Option<bool>) {
        let Reached { cursor, last, .. } = &mut self.reached[self.at];
        // A server without pages does not mark the answer to a pull; but only a live update's version is new.
        let is_answered = self.answered_ns.is_some();
        let is_answer = more == Some(false) || (more.is_none() && !is_answered && version <= *last);
        // A live update that overtook the answer says nothing of what lies before it.
        if is_answered || more.is_some() || is_answer {
            *cursor = version;
        }
        *last = version.max(*last);
        if is_answer {
            self.answered_ns = Some(run.meter.now_ns());
            self.guard.answered();
            self.sent_in_pull = self.next_update;
        }
    }

    fn answer(&mut self, received: Option<u64>) -> Option<(u64, u64, Vec<Edit>)> {
        let at = match received {
            None => 0,
            Some(version) => self.pending.iter().position(|(update, ..)| *update == version)?,
        };
        self.pending.remove(at)
    }

    /// Compares with all that was acked; to be called when nothing is on its way any more.
    pub(in crate::scenario) fn verify(&self, run: &Run, channel: &Channel) {
        let acked = channel.acked();
        run.verdict.checked(acked.len());
        let name = |found: &[String]| {
            found.iter().map(|what| format!("{} of {}: {what}", self.name, channel.name)).collect()
        };
        let lost = self.replica.behind(&acked);
        run.verdict.lost(lost.len() as u64, || name(&lost));
        let more = self.replica.ahead(&acked);
        run.verdict.faults(more.len() as u64, || name(&more));
    }
}
