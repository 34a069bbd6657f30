//! One connection of a mixed channel, with its own replica: it pulls, follows, and may write.

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
pub(super) struct Member {
    pub(super) name: Arc<str>,
    pub(super) who: usize,
    pub(super) site: String,
    pub(super) replica: Replica,
    /// Everything up to this version has been applied: where a pull resumes.
    cursor: u64,
    /// The highest version this connection has shown.
    last: u64,
    greeted: bool,
    /// The pull of this connection has been answered to its end.
    answered: bool,
    guard: VersionGuard,
    /// Updates without an answer: their number, when they were sent, what they hold.
    pending: VecDeque<(u64, u64, Vec<Edit>)>,
    next_update: u64,
}

impl Member {
    pub(super) fn new(name: impl Into<Arc<str>>, who: usize) -> Self {
        Self {
            name: name.into(),
            who,
            site: format!("{:032X}", 0xCC_u128 << 120 | who as u128),
            replica: Replica::default(),
            cursor: 0,
            last: 0,
            greeted: false,
            answered: false,
            guard: VersionGuard::default(),
            pending: VecDeque::new(),
            next_update: 1,
        }
    }

    pub(super) fn unacked(&self) -> usize {
        self.pending.len()
    }

    /// Connects and asks for everything above the cursor, once greeted.
    pub(super) async fn connect(&mut self, run: &Run, channel: &Channel) -> Result<Conn, ConnError> {
        let mut conn = run.connect(&channel.name, ConnectWith::default()).await?;
        (self.greeted, self.answered) = (false, false);
        let deadline = Instant::now() + run.drain_limit();
        while !self.greeted {
            self.turn(run, channel, &mut conn, deadline).await?;
        }
        let pull =
            json!({"type": "pull", "siteId": self.site, "version": self.cursor, "channel": channel.name});
        conn.queue_text(pull.to_string().as_bytes());
        self.guard.pulled(self.cursor);
        Ok(conn)
    }

    /// Reads until the pull is answered to its end.
    pub(super) async fn sync(
        &mut self,
        run: &Run,
        channel: &Channel,
        conn: &mut Conn,
    ) -> Result<(), ConnError> {
        while !self.answered {
            self.turn(run, channel, conn, Instant::now() + run.drain_limit()).await?;
        }
        Ok(())
    }

    /// One turn of the socket, at most until the deadline, which is an error.
    pub(super) async fn turn(
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
    pub(super) async fn converge(
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

    /// Applies the edits here and queues them for the server: local first.
    pub(super) fn write(&mut self, run: &Run, channel: &Channel, conn: &mut Conn, edits: Vec<Edit>) {
        let version = self.next_update;
        self.next_update += 1;
        edits.iter().for_each(|edit| self.replica.apply(edit));
        let wire: Vec<Value> = edits
            .iter()
            .enumerate()
            .map(|(seq, edit)| edit.to_wire(&channel.table, version, &self.site, seq))
            .collect();
        let update = json!({
            "type": "update", "siteId": self.site, "version": version, "channel": channel.name, "changes": wire,
        });
        conn.queue_text(update.to_string().as_bytes());
        self.pending.push_back((version, run.meter.now_ns(), edits));
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
        match (message["type"].as_str(), version) {
            (Some("connected"), Some(version)) => {
                self.guard = VersionGuard::start(version);
                (self.greeted, self.last) = (true, version);
            }
            (Some("ack"), Some(version)) => {
                if let Some(highest) = self.guard.saw(version) {
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
                for change in changes {
                    match Edit::from_wire(change, &channel.table) {
                        Some(edit) => self.replica.apply(&edit),
                        None => {
                            let name = &self.name;
                            run.verdict
                                .fault(|| format!("{name} of {}: a strange change {change}", channel.name));
                        }
                    }
                }
                self.advance(version, message["more"].as_bool());
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

    /// Moves the cursor over an `update` that has been applied.
    fn advance(&mut self, version: u64, more: Option<bool>) {
        // A server without pages does not mark the answer to a pull; but only a live update's version is new.
        let is_answer = more == Some(false) || (more.is_none() && !self.answered && version <= self.last);
        // A live update that overtook the answer says nothing of what lies before it.
        if self.answered || more.is_some() || is_answer {
            self.cursor = version;
        }
        if is_answer {
            self.answered = true;
            self.guard.answered();
        }
        self.last = self.last.max(version);
    }

    fn answer(&mut self, received: Option<u64>) -> Option<(u64, u64, Vec<Edit>)> {
        let at = match received {
            None => 0,
            Some(version) => self.pending.iter().position(|(update, ..)| *update == version)?,
        };
        self.pending.remove(at)
    }

    /// Compares with all that was acked; to be called when nothing is on its way any more.
    pub(super) fn verify(&self, run: &Run, channel: &Arc<Channel>) {
        let acked = channel.acked();
        run.verdict.checked(acked.len());
        let found = self.replica.differences(&acked);
        run.verdict.faults(found.len() as u64, || {
            found.iter().map(|what| format!("{} of {}: {what}", self.name, channel.name)).collect()
        });
    }
}
