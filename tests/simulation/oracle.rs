//! Who knows what was written, what is on disk and what was promised, and says so when a promise is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use causeway_storage::OwnedCell;
use causeway_storage::change::OwnedValue;
use causeway_storage::conformance::read_all;
use causeway_storage::{ChangeStore, SENTINEL};

use crate::model::{Content, Model, OwnedChange};

/// What happened in a run, to see that the runs of many seeds reach everything they are meant to.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// The oracle, as the clients, the disk and the world hold it.
#[derive(Clone)]
pub(crate) struct Oracle(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    channels: BTreeMap<String, Truth>,
    contents: BTreeMap<String, (String, Content)>,
    /// The time of the run, for what happens outside of its hosts.
    now: Duration,
    healed: bool,
    broken: Option<String>,
    counts: Counts,
    trace: Option<Vec<String>>,
    aloud: bool,
}

/// The truth about a channel.
#[derive(Default)]
struct Truth {
    /// By version, from 1: the cells that its commit has left on the disk.
    versions: Vec<Vec<OwnedChange>>,
    /// The version in which each cell that the disk has now was written, by pk and cid.
    current: BTreeMap<(String, String), u64>,
    /// The merge of all of them.
    disk: Model,
    /// The merge of all updates that were ever made: all are sent until they are acked.
    all: Model,
    /// The changes of all updates, and the sentinels that go without saying.
    known: BTreeSet<String>,
    /// Updates by client and its version: those without an ack, and those with one.
    open: BTreeMap<(String, u64), Vec<OwnedChange>>,
    acked: BTreeMap<(String, u64), Vec<OwnedChange>>,
}

impl Oracle {
    pub(crate) fn new(traced: bool, aloud: bool) -> Self {
        let trace = traced.then(Vec::new);
        Oracle(Arc::new(Mutex::new(State { trace, aloud, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set_time(&self, now: Duration) {
        self.state().now = now;
    }

    /// Notes an event of the run.
    pub(crate) fn trace(&self, event: impl FnOnce() -> String) {
        let mut state = self.state();
        if !state.aloud && state.trace.is_none() {
            return;
        }
        let line = format!("{:>9.3?} {}", turmoil::sim_elapsed().unwrap_or(state.now), event());
        if state.aloud {
            eprintln!("{line}");
        }
        if let Some(trace) = &mut state.trace {
            trace.push(line);
        }
    }

    /// Counts something that the runs are meant to reach.
    pub(crate) fn count(&self, what: &'static str) {
        *self.state().counts.entry(what).or_default() += 1;
    }

    /// Says that a promise is broken. The first one ends the run.
    pub(crate) fn broken(&self, what: impl FnOnce() -> String) {
        let mut state = self.state();
        if state.broken.is_none() {
            let at = turmoil::sim_elapsed().unwrap_or(state.now);
            state.broken = Some(format!("{} (at {at:?})", what()));
        }
    }

    pub(crate) fn expect(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken(what);
        }
    }

    pub(crate) fn what_is_broken(&self) -> Option<String> {
        self.state().broken.clone()
    }

    /// The faults are over: nobody writes any more, everybody comes to the end.
    pub(crate) fn heal(&self) {
        self.state().healed = true;
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.state().healed
    }

    /// A commit is on the disk that leaves the channel at `version`, with these cells and without those.
    pub(crate) fn committed(
        &self,
        channel: &str,
        version: u64,
        cells: &[OwnedCell],
        gone: &[(String, String)],
    ) {
        let mut state = self.state();
        let truth = state.channels.entry(channel.into()).or_default();
        let before = truth.versions.len() as u64;
        truth.versions.resize_with(version.max(before) as usize, Vec::new);
        let mut wrong =
            (version < before).then(|| format!("the disk's version fell from {before} to {version}"));
        for key in gone {
            truth.current.remove(key);
        }
        for cell in cells {
            let change = change_of(cell);
            truth.current.insert((cell.pk.clone(), cell.cid.clone()), cell.at.version);
            truth.disk.update(std::slice::from_ref(&change));
            match truth.versions.get_mut(cell.at.version as usize - 1) {
                Some(changes) if cell.at.version > before => changes.push(change),
                _ => wrong = Some(format!("a commit of versions {before}..={version} wrote {cell:?}")),
            }
        }
        drop(state);
        if let Some(wrong) = wrong {
            self.broken(|| format!("{channel}: {wrong}"));
        }
    }

    /// The version on the disk.
    pub(crate) fn tail(&self, channel: &str) -> u64 {
        self.state().channels.get(channel).map_or(0, |truth| truth.versions.len() as u64)
    }

    /// A client has made an update, and will send it until it is acked.
    pub(crate) fn made(&self, channel: &str, client: &str, version: u64, changes: &[OwnedChange]) {
        let mut state = self.state();
        let truth = state.channels.entry(channel.into()).or_default();
        truth.all.update(changes);
        for change in changes {
            truth.known.insert(key_of(change));
            let sentinel = OwnedChange {
                cid: SENTINEL.into(),
                val: OwnedValue::Null,
                col_version: change.cl,
                ..change.clone()
            };
            truth.known.insert(key_of(&sentinel));
        }
        truth.open.insert((client.into(), version), changes.to_vec());
    }

    /// A client has taken an ack: the update is durable.
    pub(crate) fn acked(&self, channel: &str, client: &str, received: u64, version: u64) {
        let mut state = self.state();
        let truth = state.channels.entry(channel.into()).or_default();
        let tail = truth.versions.len() as u64;
        let update = (client.to_owned(), received);
        let lost = truth.open.remove(&update).is_some_and(|changes| {
            let lost = !holds(&mut truth.disk, &changes);
            truth.acked.insert(update, changes);
            lost
        });
        drop(state);
        self.expect(!lost, || {
            format!("{channel}: {client}'s update {received} is acked and not on the disk")
        });
        self.expect(version <= tail, || {
            format!("{channel}: an ack of {client} at version {version}, the disk is at {tail}")
        });
    }

    /// Whether every update that was made is acked.
    pub(crate) fn all_acked(&self, channel: &str) -> bool {
        self.state().channels.get(channel).is_none_or(|truth| truth.open.is_empty())
    }

    /// A client was sent changes at a version: they are durable, and somebody has made them.
    pub(crate) fn received(&self, channel: &str, client: &str, version: u64, changes: &[OwnedChange]) {
        let state = self.state();
        let truth = state.channels.get(channel);
        let tail = truth.map_or(0, |truth| truth.versions.len() as u64);
        let stranger =
            changes.iter().find(|c| !truth.is_some_and(|truth| truth.known.contains(&key_of(c)))).cloned();
        drop(state);
        self.expect(version <= tail, || {
            format!("{channel}: {client} was sent version {version}, the disk is at {tail}")
        });
        if let Some(stranger) = stranger {
            self.broken(|| format!("{channel}: {client} was sent what nobody has made: {stranger:?}"));
        }
    }

    /// The cursor's promise: who has applied every message up to `version` holds every winning change up to it. One that
    /// has been beaten meanwhile may be missing: what has beaten it is newer, and has its turn. `checked` is up to where
    /// all this has been seen.
    pub(crate) fn holds(
        &self,
        channel: &str,
        client: &str,
        model: &mut Model,
        checked: &mut u64,
        version: u64,
    ) {
        let state = self.state();
        let Some(truth) = state.channels.get(channel) else { return };
        let mut missing = None;
        while *checked < version && missing.is_none() {
            *checked += 1;
            let Some(changes) = truth.versions.get(*checked as usize - 1) else { break };
            let wins = |c: &&OwnedChange| truth.current.get(&(c.pk.clone(), c.cid.clone())) == Some(checked);
            missing = changes.iter().filter(wins).find(|c| !holds(model, std::slice::from_ref(*c))).cloned();
        }
        let at = *checked;
        drop(state);
        if let Some(missing) = missing {
            self.broken(|| {
                format!(
                    "{channel}: {client} has come to version {version} without a change of {at}: {missing:?}"
                )
            });
        }
    }

    /// The server has just ended: everything acked is in the store, and nothing that nobody has made.
    pub(crate) fn check_store(&self, store: &dyn ChangeStore) {
        let mut wrong = String::new();
        let mut state = self.state();
        for (channel, truth) in &mut state.channels {
            let Ok(mut reader) = store.reader(channel) else { continue };
            let (cells, version) = read_all(reader.as_mut());
            let mut stored = Model::default();
            for cell in &cells {
                let change = change_of(cell);
                if !truth.known.contains(&key_of(&change)) {
                    let _ = write!(wrong, "{channel}: the store has what nobody has made: {change:?}; ");
                }
                stored.update(&[change]);
            }
            if version != truth.versions.len() as u64 {
                let _ = write!(wrong, "{channel}: the store is at {version}, not {}; ", truth.versions.len());
            }
            for ((client, update), changes) in &truth.acked {
                if !holds(&mut stored, changes) {
                    let _ = write!(
                        wrong,
                        "{channel}: {client}'s update {update} is acked and not in the store; "
                    );
                }
            }
        }
        drop(state);
        self.expect(wrong.is_empty(), || wrong);
    }

    /// What somebody holds at the end.
    pub(crate) fn at_the_end(&self, who: String, channel: &str, content: Content) {
        self.state().contents.insert(who, (channel.into(), content));
    }

    /// How many have come to the end.
    pub(crate) fn ended(&self) -> usize {
        self.state().contents.len()
    }

    /// At the end all hold the merge of all updates.
    pub(crate) fn check_end(&self, store: &dyn ChangeStore) {
        self.check_store(store);
        let state = self.state();
        let mut wrong = None;
        for (who, (channel, content)) in &state.contents {
            let expected = state.channels.get(channel).map(|truth| truth.all.content()).unwrap_or_default();
            if *content != expected {
                wrong = Some(format!("{channel}: {who} has ended apart: {}", difference(content, &expected)));
            }
        }
        for (channel, truth) in &state.channels {
            let Ok(mut reader) = store.reader(channel) else { continue };
            let mut stored = Model::default();
            let cells: Vec<_> = read_all(reader.as_mut()).0.iter().map(change_of).collect();
            stored.update(&cells);
            let (stored, expected) = (stored.content(), truth.all.content());
            if stored != expected {
                wrong =
                    Some(format!("{channel}: the store has ended apart: {}", difference(&stored, &expected)));
            }
        }
        drop(state);
        if let Some(wrong) = wrong {
            self.broken(|| wrong);
        }
    }

    /// What is still open, for a run that does not end.
    pub(crate) fn still_open(&self) -> String {
        let state = self.state();
        let mut text = String::new();
        for (channel, truth) in &state.channels {
            let open: Vec<_> = truth.open.keys().collect();
            let _ = write!(text, "{channel} at version {}, without an ack: {open:?}; ", truth.versions.len());
        }
        let ended: Vec<_> = state.contents.keys().collect();
        let _ = write!(text, "ended: {ended:?}");
        text
    }

    /// What was counted, and the trace.
    pub(crate) fn take(&self) -> (Counts, Vec<String>) {
        let mut state = self.state();
        (std::mem::take(&mut state.counts), state.trace.take().unwrap_or_default())
    }
}

/// Whether the model has all of the changes, or better ones. If not, it has them now.
fn holds(model: &mut Model, changes: &[OwnedChange]) -> bool {
    let winners = |outcome| match outcome {
        causeway_storage::Outcome::Merged { winners, .. } => winners.len(),
        causeway_storage::Outcome::Refused { .. } | causeway_storage::Outcome::OverQuota(_) => usize::MAX,
    };
    winners(model.update(changes)) == 0
}

fn change_of(cell: &OwnedCell) -> OwnedChange {
    OwnedChange {
        table: cell.table.clone(),
        pk: cell.pk.clone(),
        cid: cell.cid.clone(),
        val: cell.val.clone(),
        col_version: cell.col_version,
        db_version: cell.at.version,
        site_id: cell.site_id.clone(),
        cl: cell.cl,
        seq: cell.at.seq,
    }
}

/// What of a change decides.
fn key_of(change: &OwnedChange) -> String {
    let OwnedChange { table, pk, cid, val, col_version, cl, .. } = change;
    format!("{table} {pk} {cid} {val:?} {col_version} {cl}")
}

fn difference(is: &Content, expected: &Content) -> String {
    let missing: Vec<_> = expected.iter().filter(|(key, cell)| is.get(*key) != Some(*cell)).collect();
    let surplus: Vec<_> = is.iter().filter(|(key, cell)| expected.get(*key) != Some(*cell)).collect();
    format!("it has {surplus:?} in the place of {missing:?}")
}
