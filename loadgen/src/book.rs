//! A writer's book: which change comes next, what waits for its ack, what was acked, what came from others.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cells::Cells;
use crate::meter::{Count, Latency};
use crate::plan::{Change, Plan, push_number};
use crate::rng::Rng;
use crate::run::Run;
use crate::scan::{Incoming, Scanner};
use crate::verdict::VersionGuard;

/// How a writer fills its updates, and its place among the writers of its channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Role {
    /// The writer's number among all of the run, for counters and site ids.
    pub(crate) who: usize,
    /// Its number among the writers of its channel, and how many those are. Unless rows are `shared`, no two of them write
    /// the same cell, so that each change wins whatever the order of arrival.
    pub(crate) index: u64,
    pub(crate) writers: u64,
    pub(crate) changes: usize,
    /// Rows of the channel that are updated over and over; 0: every change is a new cell.
    pub(crate) rows: u64,
    /// The writers of the channel write the same rows, and compete for each cell.
    pub(crate) shared: bool,
    /// Pick rows at random rather than in turn.
    pub(crate) random: bool,
}

/// The cells of an update that waits for its ack.
#[derive(Debug)]
enum Written {
    /// So many own cells, counted from `first`.
    New { first: u64, count: u64 },
    /// Cells, and the `col_version` each was given.
    Over(Vec<(u64, u32)>),
}

#[derive(Debug)]
struct Pending {
    update: u32,
    due_ns: u64,
    written: Written,
}

/// One writer's state, apart from its socket.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) plan: Arc<Plan>,
    role: Role,
    site: String,
    rng: Rng,
    next_own: u64,
    next_update: u32,
    /// For rows that are overwritten: the `col_version` of each own cell.
    own_versions: Vec<u32>,
    pending: VecDeque<Pending>,
    pub(crate) acked: Cells,
    /// What the other writers' updates brought, and what was acked to this one: all that it should hold at the end.
    pub(crate) seen: Cells,
    guard: VersionGuard,
    /// The version the server greeted with, once it has.
    pub(crate) greeted: Option<u64>,
    scanner: Scanner,
    text: Vec<u8>,
}

impl Book {
    pub(crate) fn new(plan: Arc<Plan>, role: Role, seed: u64) -> Self {
        let rng = Rng::new(crate::rng::hash_name(seed ^ role.index, &plan.channel));
        Self {
            site: format!("{:032X}", u128::from(role.who as u64) << 64 | u128::from(seed) | 0xCA << 120),
            own_versions: vec![0; Self::own_cells(&plan, role) as usize],
            plan,
            role,
            rng,
            next_own: 0,
            next_update: 0,
            pending: VecDeque::new(),
            acked: Cells::new(role.rows > 0),
            seen: Cells::new(role.rows > 0),
            guard: VersionGuard::default(),
            greeted: None,
            scanner: Scanner::default(),
            text: Vec::new(),
        }
    }

    /// How many cells this writer owns, where rows are overwritten: every `writers`th row, or all if they are shared.
    fn own_cells(plan: &Plan, role: Role) -> u64 {
        if role.shared {
            return role.rows * u64::from(plan.columns);
        }
        let rows = (role.rows + role.writers - 1 - role.index) / role.writers;
        if role.rows == 0 { 0 } else { rows * u64::from(plan.columns) }
    }

    /// The writer's number among those of its channel.
    pub(crate) fn index(&self) -> u64 {
        self.role.index
    }

    /// Updates written and not yet answered.
    pub(crate) fn unacked(&self) -> usize {
        self.pending.len()
    }

    /// The highest version that the server has shown.
    pub(crate) fn version(&self) -> u64 {
        self.guard.highest()
    }

    /// Updates written so far.
    pub(crate) fn written(&self) -> u64 {
        u64::from(self.next_update)
    }

    /// The channel's cell that is this writer's own cell of this number.
    fn cell_of_own(&self, own: u64) -> (u64, u32) {
        let (row, column) = self.plan.row_and_column(own);
        if self.role.shared {
            return (row, column);
        }
        (row * self.role.writers + self.role.index, column)
    }

    /// Makes the next update, of `changes` changes, due (or sent) at `due_ns`; returns its text.
    pub(crate) fn next_update(&mut self, changes: usize, due_ns: u64) -> &[u8] {
        let update = self.next_update;
        self.next_update += 1;
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        text.extend_from_slice(b"{\"type\":\"update\",\"siteId\":\"");
        text.extend_from_slice(self.site.as_bytes());
        text.extend_from_slice(b"\",\"version\":");
        push_number(&mut text, u64::from(update) + 1);
        text.extend_from_slice(b",\"channel\":");
        // A channel's name is the user's; serde_json knows how to quote it.
        text.extend_from_slice(serde_json::Value::from(self.plan.channel.as_str()).to_string().as_bytes());
        text.extend_from_slice(b",\"changes\":[");
        let mut written = if self.role.rows == 0 {
            Written::New { first: self.next_own, count: changes as u64 }
        } else {
            Written::Over(Vec::new())
        };
        for seq in 0..changes {
            if seq > 0 {
                text.push(b',');
            }
            let (own, col_version) = match &mut written {
                Written::New { first, .. } => (*first + seq as u64, 1),
                Written::Over(_) => {
                    let cells = self.own_versions.len() as u64;
                    let own = if self.role.random { self.rng.below(cells) } else { self.next_own % cells };
                    self.next_own += 1;
                    self.own_versions[own as usize] += 1;
                    (own, self.own_versions[own as usize])
                }
            };
            let (row, column) = self.cell_of_own(own);
            if let Written::Over(cells) = &mut written {
                cells.push((self.plan.cell(row, column), col_version));
            }
            let change = Change { row, column, col_version, update };
            self.plan.write_change(&mut text, &change, &self.site, seq as u32);
        }
        if let Written::New { first, count } = written {
            self.next_own = first + count;
        }
        text.extend_from_slice(b"]}");
        self.pending.push_back(Pending { update, due_ns, written });
        self.text = text;
        &self.text
    }

    /// Takes one message from the server.
    pub(crate) fn take(&mut self, text: &[u8], run: &Run) {
        let who = self.role.who;
        let incoming = match self.scanner.read(text, &self.plan) {
            Ok(incoming) => incoming,
            Err(e) => {
                run.meter.error("bad message");
                return run.verdict.fault(|| format!("writer {who} of {}: {e}", self.plan.channel));
            }
        };
        match incoming {
            Incoming::Connected { version } => {
                self.guard = VersionGuard::start(version);
                self.greeted = Some(version);
            }
            Incoming::Ack { version, received } => {
                self.watch_version(version, run);
                let Some((pending, count)) = self.answered(received) else {
                    return run.verdict.fault(|| {
                        format!(
                            "writer {who} of {}: an ack of nothing sent ({received:?})",
                            self.plan.channel
                        )
                    });
                };
                run.meter.latency(who, Latency::Ack, pending.due_ns, run.meter.now_ns());
                run.meter.add(who, Count::Acks, 1);
                run.meter.add(who, Count::Changes, count);
            }
            Incoming::Update { version, .. } => {
                self.watch_version(version, run);
                let count = self.scanner.changes.len() as u64;
                for change in &self.scanner.changes {
                    let cell = self.plan.cell(change.row, change.column);
                    self.seen.note(cell, change.col_version);
                    // Who has seen another's value writes over it.
                    if self.role.shared
                        && let Some(own) = self.own_versions.get_mut(cell as usize)
                    {
                        *own = change.col_version.max(*own);
                    }
                }
                run.verdict.faults(self.scanner.foreign, || {
                    vec![format!("writer {who} of {}: got changes that nobody sent", self.plan.channel)]
                });
                run.meter.add(who, Count::Deliveries, u64::from(count > 0));
                run.meter.add(who, Count::DeliveredChanges, count);
            }
            Incoming::Error { code, text, received } => {
                run.meter.error(&code);
                run.verdict.fault(|| format!("writer {who} of {}: error {code}: {text}", self.plan.channel));
                // Answered all the same: not acked, and its place in the window is free again.
                if let Some(at) = self.position(received) {
                    self.pending.remove(at);
                }
            }
            Incoming::Other => {}
        }
    }

    fn watch_version(&mut self, version: u64, run: &Run) {
        if let Some(highest) = self.guard.saw(version) {
            let (who, channel) = (self.role.who, &self.plan.channel);
            run.verdict
                .fault(|| format!("writer {who} of {channel}: version fell from {highest} to {version}"));
        }
    }

    /// Which pending update an answer means: the one it names, else the oldest.
    fn position(&self, received: Option<u64>) -> Option<usize> {
        match received {
            None => (!self.pending.is_empty()).then_some(0),
            Some(version) => self.pending.iter().position(|p| u64::from(p.update) + 1 == version),
        }
    }

    /// Marks an update's cells as acked; the update, and how many changes it had.
    fn answered(&mut self, received: Option<u64>) -> Option<(Pending, u64)> {
        let pending = self.pending.remove(self.position(received)?)?;
        let count = match &pending.written {
            Written::New { first, count } => {
                for own in *first..first + count {
                    let (row, column) = self.cell_of_own(own);
                    let cell = self.plan.cell(row, column);
                    self.acked.note(cell, 1);
                    self.seen.note(cell, 1);
                }
                *count
            }
            Written::Over(cells) => {
                for (cell, col_version) in cells {
                    self.acked.note(*cell, *col_version);
                    self.seen.note(*cell, *col_version);
                }
                cells.len() as u64
            }
        };
        Some((pending, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Command, Options, Scenario};
    use clap::Parser;

    fn run() -> Arc<Run> {
        let options =
            Options::try_parse_from(["x", "merge", "--url", "ws://127.0.0.1:1/"]).expect("good options");
        assert!(matches!(options.command, Command::Scenario(Scenario::Merge(_))));
        Run::new(options.common, 1).expect("a good URL")
    }

    fn book(run: &Run, rows: u64, index: u64) -> Book {
        let role =
            Role { who: index as usize, index, writers: 2, changes: 3, rows, shared: false, random: true };
        Book::new(run.plan(0), role, 1)
    }

    #[test]
    fn acks_in_order_and_acks_by_name_mark_the_same_cells() {
        let run = run();
        for rows in [0, 7] {
            let (mut in_order, mut by_name) = (book(&run, rows, 0), book(&run, rows, 0));
            for book in [&mut in_order, &mut by_name] {
                (0..3).for_each(|_| drop(book.next_update(3, 0).to_vec()));
            }
            for version in 1..=3 {
                in_order.take(format!(r#"{{"type":"ack","version":{version}}}"#).as_bytes(), &run);
            }
            for (version, received) in [(1, 3), (2, 1), (3, 2)] {
                let ack = format!(r#"{{"type":"ack","version":{version},"received":{received}}}"#);
                by_name.take(ack.as_bytes(), &run);
            }
            assert_eq!(in_order.unacked() + by_name.unacked(), 0);
            assert!(in_order.acked.covers(&by_name.acked) && by_name.acked.covers(&in_order.acked));
            assert!(rows > 0 || in_order.acked.len() == 9);
        }
        assert!(run.verdict.outcome(true).passed());
    }

    #[test]
    fn writers_of_a_channel_share_no_cell_and_see_one_another() {
        let run = run();
        for rows in [0, 7] {
            let (mut one, mut other) = (book(&run, rows, 0), book(&run, rows, 1));
            let text = String::from_utf8(one.next_update(3, 0).to_vec()).expect("JSON");
            one.take(br#"{"type":"ack","version":1}"#, &run);
            other.next_update(3, 0);
            other.take(br#"{"type":"ack","version":2}"#, &run);
            assert_eq!(other.acked.missing(&one.acked, 1).1, one.acked.len(), "nothing shared");
            assert!(!other.seen.covers(&one.acked));
            other.take(text.as_bytes(), &run);
            assert!(other.seen.covers(&one.acked) && other.seen.covers(&other.acked));
        }
    }

    #[test]
    fn writers_of_shared_rows_write_over_what_they_have_seen() {
        let run = run();
        let role = |index| Role {
            who: index as usize,
            index,
            writers: 2,
            changes: 1,
            rows: 1,
            shared: true,
            random: true,
        };
        let (mut one, mut other) = (Book::new(run.plan(0), role(0), 1), Book::new(run.plan(0), role(1), 1));
        let text = String::from_utf8(one.next_update(1, 0).to_vec()).expect("JSON");
        assert!(text.contains(",1,1,"), "{text}");
        other.take(text.as_bytes(), &run);
        let over = String::from_utf8(other.next_update(1, 0).to_vec()).expect("JSON");
        assert!(over.contains(",2,1,"), "the same cell at the next col_version: {over}");
        assert!(run.verdict.outcome(true).passed());
    }

    #[test]
    fn errors_falling_versions_and_acks_of_nothing_are_faults() {
        let run = run();
        let mut book = book(&run, 0, 0);
        let faults = || run.verdict.outcome(true).faults;
        book.take(br#"{"type":"ack","version":1}"#, &run);
        assert_eq!(faults(), 1, "an ack of nothing");
        book.next_update(1, 0);
        book.take(br#"{"type":"error","code":"storage","message":"x","received":1}"#, &run);
        assert_eq!((faults(), book.unacked(), book.acked.len()), (2, 0, 0));
        book.next_update(1, 0);
        book.take(br#"{"type":"ack","version":0}"#, &run);
        assert_eq!((faults(), book.acked.len()), (3, 1), "the version fell");
        book.take(b"{nonsense", &run);
        assert_eq!(faults(), 4);
        assert_eq!(run.meter.errors().get("storage"), Some(&1));
    }
}
