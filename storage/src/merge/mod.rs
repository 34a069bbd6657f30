//! The merge: the rule ([`rule`]) and its application to the updates of one group commit.
//!
//! [`merge`] looks the rows up that the updates touch, applies the rule to them in memory, and writes what is left at
//! the end: a cell that ten updates of one commit change is written once.

mod rows;
pub mod rule;

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::change::{Change, Position};
use crate::error::Result;
use crate::store::{ChannelStore, Head, NODE_TAG, RECEIVED, Size, TrackedPeer, cell_bytes, unix_time_s};

use rows::Rows;
use rule::Verdict;

/// An update: what one client sent in one message.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The client.
    pub site_id: &'a str,
    /// The client's own version.
    pub version: u64,
    /// Its changes, within the bounds that [`Change`] names.
    pub changes: &'a [Change<'a>],
}

/// Whose update it is, which says what bounds it and how it is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client's: held to the clamp and the quota, and tracked.
    Client,
    /// Another node's, with its channel's site id and version. Its changes were bounded where they came in, and a node
    /// that refused one would never agree with it; it is tracked, as [`NODE_TAG`], only if all up to its version is there.
    Node {
        /// Whether it is.
        is_tracked: bool,
    },
}

/// How far one change may push a clock ahead of what is there. Without a limit one hostile change at the highest
/// clock would win for ever (`merge.md`, the clamp).
#[derive(Clone, Copy, Debug)]
pub struct Clamp {
    /// Above the cell's `col_version`, or 0 where there is no such cell.
    pub max_col_version_jump: u64,
    /// Above the row's `cl`.
    pub max_cl_jump: u64,
}

impl Default for Clamp {
    fn default() -> Self {
        Clamp { max_col_version_jump: 1_000_000, max_cl_jump: 1_000_000 }
    }
}

/// How large a channel may become; 0 means that there is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// The most cells.
    pub max_cells: u64,
    /// The most bytes of them.
    pub max_bytes: u64,
}

impl Quota {
    /// What of a size is beyond it, though it was not there before: what makes a channel no larger is always within.
    fn exceeded(&self, size: Size, before: Size) -> Option<Excess> {
        let over = |max: u64, size: u64, before: u64| max > 0 && size > max && size > before;
        if over(self.max_bytes, size.bytes, before.bytes) {
            return Some(Excess::Bytes);
        }
        over(self.max_cells, size.cells, before.cells).then_some(Excess::Cells)
    }
}

/// What a channel would have too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Cells.
    Cells,
    /// Bytes.
    Bytes,
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was merged.
    Merged {
        /// The channel's version after it: one higher than before if anything won, else the same.
        version: u64,
        /// The indexes of the changes that won, ascending. The stored `seq` of the n-th is n.
        winners: Vec<u32>,
    },
    /// It was refused whole: a change would push a clock beyond the [`Clamp`].
    Refused {
        /// The change.
        index: usize,
        /// `cl` or `col_version`.
        field: &'static str,
        /// The highest value that would have been taken.
        max: u64,
    },
    /// It was refused whole: with it, the channel would be larger than its [`Quota`], and than it was.
    OverQuota(Excess),
}

/// Merges the updates in order and commits them durably in one transaction; gives each one's [`Outcome`].
///
/// # Errors
/// Nothing was merged, or, if the commit itself failed, perhaps all of it: drop the store and open it anew.
pub fn merge(store: &mut dyn ChannelStore, updates: &[Update<'_>], clamp: &Clamp) -> Result<Vec<Outcome>> {
    merge_within(store, updates, clamp, Quota::default())
}

/// The same, of a channel that may not grow beyond its quota.
pub fn merge_within(
    store: &mut dyn ChannelStore,
    updates: &[Update<'_>],
    clamp: &Clamp,
    quota: Quota,
) -> Result<Vec<Outcome>> {
    let updates: Vec<_> = updates.iter().map(|update| (*update, Origin::Client)).collect();
    merge_from(store, &updates, clamp, quota)
}

/// The same of updates that are not all of clients; clamp and quota are for those that are.
pub fn merge_from(
    store: &mut dyn ChannelStore,
    updates: &[(Update<'_>, Origin)],
    clamp: &Clamp,
    quota: Quota,
) -> Result<Vec<Outcome>> {
    store.begin()?;
    match run(store, updates, clamp, quota) {
        Ok(outcomes) => Ok(outcomes),
        Err(e) => {
            store.rollback();
            Err(e)
        }
    }
}

fn run(
    store: &mut dyn ChannelStore,
    updates: &[(Update<'_>, Origin)],
    clamp: &Clamp,
    quota: Quota,
) -> Result<Vec<Outcome>> {
    let mut group = Group {
        head: store.head(),
        rows: Rows::with_capacity(updates.iter().map(|(u, _)| u.changes.len()).sum()),
        places: Vec::new(),
        peers: HashMap::default(),
    };
    let mut outcomes = Vec::with_capacity(updates.len());
    for (update, origin) in updates {
        outcomes.push(match origin {
            Origin::Client => group.update(store, update, clamp, quota, Some(0))?,
            Origin::Node { is_tracked } => {
                let tag = is_tracked.then_some(NODE_TAG);
                group.update(store, update, &UNBOUNDED, Quota::default(), tag)?
            }
        });
    }
    if group.peers.is_empty() && group.head == store.head() {
        store.rollback();
        return Ok(outcomes);
    }
    group.rows.write(store)?;
    let seen_s = unix_time_s();
    for ((site_id, tag), version) in group.peers {
        store.track(&TrackedPeer { site_id: site_id.into(), tag, event: RECEIVED, version, seen_s })?;
    }
    store.commit(group.head)?;
    Ok(outcomes)
}

/// The state of one group commit before it is written.
struct Group<'a> {
    head: Head,
    rows: Rows<'a>,
    /// Where each change of the current update finds its row and its cell.
    places: Vec<(usize, usize)>,
    /// By site id and tag.
    peers: HashMap<(&'a str, u64), u64, RandomState>,
}

/// No clock is too far ahead.
const UNBOUNDED: Clamp = Clamp { max_col_version_jump: u64::MAX, max_cl_jump: u64::MAX };

impl<'a> Group<'a> {
    fn update(
        &mut self,
        store: &mut dyn ChannelStore,
        update: &Update<'a>,
        clamp: &Clamp,
        quota: Quota,
        tag: Option<u64>,
    ) -> Result<Outcome> {
        if let Some(refused) = self.find_places(store, update.changes, clamp)? {
            return Ok(refused);
        }
        let before = self.head;
        let may_exceed = quota.exceeded(most_after(before.size, update.changes), before.size).is_some();
        if may_exceed {
            self.rows.remember();
        }

        let version = self.head.version + 1;
        let mut winners = Vec::new();
        let mut sentinels = Vec::new();
        for (index, change) in update.changes.iter().enumerate() {
            let (row, cell) = self.places[index];
            let at = Position { version, seq: winners.len() as u64 };
            let (row_cl, clock) = self.rows.clocks(row, cell);
            match rule::decide(row_cl, clock, change) {
                Verdict::Lost => continue,
                Verdict::Put => {}
                Verdict::Delete => self.rows.clear(store, row, &mut self.head)?,
                Verdict::NewLife => {
                    self.rows.clear(store, row, &mut self.head)?;
                    if change.cl > 1 && !change.is_sentinel() {
                        self.rows.put_sentinel(row, change, version, &mut self.head);
                        sentinels.push(row);
                    }
                }
            }
            self.rows.put(row, cell, change, at, &mut self.head);
            winners.push(index as u32);
        }
        if may_exceed && let Some(excess) = quota.exceeded(self.head.size, before.size) {
            self.rows.undo();
            self.head = before;
            return Ok(Outcome::OverQuota(excess));
        }
        self.rows.forget();
        if let Some(tag) = tag {
            let peer = self.peers.entry((update.site_id, tag)).or_default();
            *peer = update.version.max(*peer);
        }
        // A sentinel that nobody sent takes a place behind the winners: theirs count from 0 in message order.
        for (n, row) in sentinels.into_iter().enumerate() {
            self.rows.place_sentinel(row, Position { version, seq: (winners.len() + n) as u64 });
        }
        if !winners.is_empty() {
            self.head.version = version;
        }
        Ok(Outcome::Merged { version: self.head.version, winners })
    }

    /// Looks up what the changes touch, and refuses them if one goes beyond the clamp. The clamp counts from what was
    /// there before the update, so that this needs nothing undone.
    fn find_places(
        &mut self,
        store: &mut dyn ChannelStore,
        changes: &'a [Change<'a>],
        clamp: &Clamp,
    ) -> Result<Option<Outcome>> {
        self.places.clear();
        for (index, change) in changes.iter().enumerate() {
            let row = self.rows.find_row(store, change)?;
            let cell = self.rows.find_cell(store, row, change.cid)?;
            self.places.push((row, cell));
            let (row_cl, clock) = self.rows.clocks(row, cell);
            let max_cl = row_cl.saturating_add(clamp.max_cl_jump);
            let max_col_version = clock.map_or(0, |c| c.0).saturating_add(clamp.max_col_version_jump);
            if change.cl > max_cl {
                return Ok(Some(Outcome::Refused { index, field: "cl", max: max_cl }));
            }
            if !change.is_sentinel() && change.col_version > max_col_version {
                return Ok(Some(Outcome::Refused { index, field: "col_version", max: max_col_version }));
            }
        }
        Ok(None)
    }
}

/// The most that a channel can have after the changes: each adds its cell, and a sentinel that is no larger.
fn most_after(before: Size, changes: &[Change<'_>]) -> Size {
    let bytes: usize = changes.iter().map(|c| cell_bytes(c.table, c.pk, c.cid, &c.val)).sum();
    Size { cells: before.cells + 2 * changes.len() as u64, bytes: before.bytes + 2 * bytes as u64 }
}
