//! A channel's writer: a transaction is a batch in memory that its own reads see.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use super::codec;
use super::current::Handle;
use super::database::Database;
use super::engine::Engine;
use super::guarded::{Guarded, corrupt};
use super::no_such_channel;
use crate::change::Position;
use crate::error::{Result, StoreError};
use crate::store::{Cell, CellVisitor, ChannelStore, Head, TrackedPeer};

pub(super) struct KvChannel<E: Engine> {
    handle: Handle<E>,
    site_id: String,
    head: Head,
    /// The database, from the beginning of a transaction to its end.
    database: Option<Arc<Database<E>>>,
    /// What the transaction has written so far; `None` where it has removed.
    pending: BTreeMap<Vec<u8>, Option<E::Bytes>>,
}

impl<E: Engine> KvChannel<E> {
    pub(super) fn open(handle: Handle<E>, site_id: String) -> Result<Self> {
        let head = handle.shared.head().ok_or_else(|| no_such_channel(&handle.channel))?;
        Ok(KvChannel { handle, site_id, head, database: None, pending: BTreeMap::new() })
    }

    fn engine(&self) -> &Guarded<E> {
        &self.database.as_ref().expect("a transaction has begun").engine
    }

    /// Looks something up, in a transaction or outside of one.
    fn look(&mut self, look: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let outside = self.database.is_none();
        if outside {
            self.database = Some(self.handle.database()?.0);
        }
        let found = look(self);
        if outside {
            self.database = None;
        }
        found
    }

    fn id(&self) -> u64 {
        self.handle.shared.id
    }

    /// What lies under `key` for this transaction.
    fn get(&self, key: &[u8]) -> Result<Option<E::Bytes>> {
        match self.pending.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.engine().get(&self.handle.channel, key),
        }
    }

    /// Gives all that lies under keys with this prefix for this transaction, in no particular order, until `visit` breaks.
    fn scan(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        for item in self.engine().prefix(&self.handle.channel, prefix)? {
            let (key, value) = item?;
            let key = key.as_ref();
            if !self.pending.contains_key(key) && visit(key, value.as_ref())?.is_break() {
                return Ok(());
            }
        }
        let from = (Bound::Included(prefix), Bound::Unbounded);
        for (key, value) in self.pending.range::<[u8], _>(from).take_while(|(key, _)| key.starts_with(prefix))
        {
            if let Some(value) = value
                && visit(key, value.as_ref())?.is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives the cell whose position is kept as `position`.
    fn visit(&self, position: &[u8], visit: CellVisitor<'_>) -> Result<ControlFlow<()>> {
        let at = codec::position(position).ok_or_else(|| self.corrupt("a position cannot be read"))?;
        let bytes = self.get(&codec::position_key(self.id(), at))?;
        let bytes = bytes.ok_or_else(|| self.corrupt(format!("there is no cell at {at:?}")))?;
        let cell = codec::cell(at, bytes.as_ref())
            .ok_or_else(|| self.corrupt(format!("the cell at {at:?} cannot be read")))?;
        Ok(visit(&cell))
    }

    /// The cells that the transaction takes away from readers of the last commit.
    fn retired(&self) -> Result<Vec<(Position, E::Bytes)>> {
        let removed = self.pending.iter().filter(|(_, value)| value.is_none());
        let cells = removed.filter_map(|(key, _)| Some((codec::position_in_key(key)?, key)));
        let bytes =
            cells.map(|(at, key)| Ok(self.engine().get(&self.handle.channel, key)?.map(|cell| (at, cell))));
        bytes.filter_map(Result::transpose).collect()
    }

    fn row_prefix(&self, table: &str, pk: &str) -> Result<Vec<u8>> {
        codec::row_prefix(self.id(), table, pk).ok_or_else(|| self.too_long())
    }

    fn too_long(&self) -> StoreError {
        StoreError::Engine {
            channel: self.handle.channel.to_string(),
            engine: E::NAME,
            doing: "writing a cell",
            detail: "a name in it is too long".into(),
        }
    }

    fn corrupt(&self, detail: impl Into<String>) -> StoreError {
        corrupt(&self.handle.channel, detail)
    }
}

impl<E: Engine> ChannelStore for KvChannel<E> {
    fn site_id(&self) -> &str {
        &self.site_id
    }

    fn head(&self) -> Head {
        self.head
    }

    fn begin(&mut self) -> Result<()> {
        debug_assert!(self.pending.is_empty(), "a transaction is open already");
        let (database, is_new) = self.handle.database()?;
        if is_new && self.handle.shared.head() != Some(self.head) {
            return Err(StoreError::Engine {
                channel: self.handle.channel.to_string(),
                engine: E::NAME,
                doing: "going on in the database that was opened anew",
                detail: "the channel has another head there".into(),
            });
        }
        database.engine.check_writable(&self.handle.channel)?;
        self.database = Some(database);
        Ok(())
    }

    fn row(&mut self, table: &str, pk: &str, visit: CellVisitor<'_>) -> Result<()> {
        self.look(|channel| {
            let prefix = channel.row_prefix(table, pk)?;
            let mark = match E::MARKS_ROWS {
                true => channel.get(&codec::mark_key(prefix.clone()))?,
                false => Some(codec::SCANNED.into()),
            };
            let Some(mark) = mark else { return Ok(()) };
            if mark.as_ref() == codec::SCANNED {
                return channel.scan(&prefix, |_, position| channel.visit(position, visit));
            }
            for cid in codec::cids(mark.as_ref()) {
                let cid = cid.ok_or_else(|| channel.corrupt("a row's mark cannot be read"))?;
                let key = [&prefix[..], cid.as_bytes()].concat();
                if let Some(position) = channel.get(&key)?
                    && channel.visit(position.as_ref(), visit)?.is_break()
                {
                    break;
                }
            }
            Ok(())
        })
    }

    fn cell(&mut self, table: &str, pk: &str, cid: &str, visit: CellVisitor<'_>) -> Result<()> {
        self.look(|channel| {
            let key = codec::cell_key(channel.id(), table, pk, cid).ok_or_else(|| channel.too_long())?;
            if let Some(position) = channel.get(&key)? {
                let _ = channel.visit(position.as_ref(), visit)?;
            }
            Ok(())
        })
    }

    fn put(&mut self, cell: &Cell<'_>, old: Option<Position>) -> Result<()> {
        let id = self.id();
        let key = codec::cell_key(id, cell.table, cell.pk, cell.cid).ok_or_else(|| self.too_long())?;
        let bytes = codec::cell_bytes(cell).ok_or_else(|| self.too_long())?;
        if let Some(old) = old {
            self.pending.insert(codec::position_key(id, old).to_vec(), None);
        } else if E::MARKS_ROWS {
            let mark_key = codec::mark_key(self.row_prefix(cell.table, cell.pk)?);
            let before = self.get(&mark_key)?;
            if let Some(mark) = codec::mark(before.as_ref().map(AsRef::as_ref), cell.cid) {
                self.pending.insert(mark_key, Some(mark.into()));
            }
        }
        self.pending.insert(key, Some(codec::position_bytes(cell.at)[..].into()));
        self.pending.insert(codec::position_key(id, cell.at).to_vec(), Some(bytes.into()));
        Ok(())
    }

    fn remove(&mut self, table: &str, pk: &str, cid: &str, old: Position) -> Result<()> {
        let id = self.id();
        let key = codec::cell_key(id, table, pk, cid).ok_or_else(|| self.too_long())?;
        self.pending.insert(key, None);
        self.pending.insert(codec::position_key(id, old).to_vec(), None);
        Ok(())
    }

    fn track(&mut self, peer: &TrackedPeer) -> Result<()> {
        let key = codec::peer_key(self.id(), peer).ok_or_else(|| self.too_long())?;
        let known = self.get(&key)?.and_then(|bytes| codec::peer(&key, bytes.as_ref()));
        let (version, seen_s) = known.map_or((0, 0), |known| (known.version, known.seen_s));
        let peer = TrackedPeer {
            version: peer.version.max(version),
            seen_s: peer.seen_s.max(seen_s),
            ..peer.clone()
        };
        self.pending.insert(key, Some(codec::peer_bytes(&peer)[..].into()));
        Ok(())
    }

    fn forget_peers(&mut self, seen_s: u64, max: usize) -> Result<usize> {
        let mut old = Vec::new();
        self.scan(&codec::peers_prefix(self.id()), |key, value| {
            let peer = codec::peer(key, value).ok_or_else(|| self.corrupt(codec::UNREADABLE_PEER))?;
            if peer.seen_s < seen_s && old.len() < max {
                old.push(key.to_vec());
            }
            Ok(if old.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        let forgotten = old.len();
        self.pending.extend(old.into_iter().map(|key| (key, None)));
        Ok(forgotten)
    }

    fn commit(&mut self, head: Head) -> Result<()> {
        if head != self.head {
            let key = codec::head_key(self.id());
            self.pending.insert(key, Some(codec::head_bytes(head).into()));
        }
        if !self.pending.is_empty() {
            self.handle.shared.retire(self.retired()?, head.version);
            let batch = std::mem::take(&mut self.pending).into_iter().collect();
            self.engine().commit(&self.handle.channel, batch)?;
            self.head = head;
            self.handle.shared.publish(head);
        }
        self.database = None;
        Ok(())
    }

    fn rollback(&mut self) {
        self.pending.clear();
        self.database = None;
    }
}
