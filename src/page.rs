//! Pages: what a client missed, read from the store a bounded piece at a time. One code path for the first sync, the
//! pull and the reader that fell behind.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_storage::{ChangeStore, ChannelReader, Position, StoreError};

use crate::outbox::{PageEnd, PageStart};
use crate::protocol::encode::PageEncoder;

/// The bounds of a page. A single change is always a page, whatever its size.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Bytes of its message.
    pub max_bytes: usize,
    /// Changes in it.
    pub max_changes: usize,
}

/// Reads the page that starts at `start`; from the beginning if that is above the channel's version, which then was
/// restored or wiped. May block on the disk.
pub fn read_page(
    reader: &mut dyn ChannelReader,
    channel: &str,
    start: PageStart,
    limits: PageLimits,
) -> Result<(PageEncoder, PageEnd), StoreError> {
    let mut page = PageEncoder::default();
    let mut end = PageEnd { next: start.from, complete: start.complete, tail: None };
    let mut full = false;
    let version = reader
        .read(start.from, &mut |cell| {
            // Whatever comes now, everything below its version has come before.
            end.complete = end.complete.max(cell.at.version - 1);
            full = page.changes() == limits.max_changes || !page.push(cell, limits.max_bytes);
            if full {
                return ControlFlow::Break(());
            }
            end.next = cell.at;
            ControlFlow::Continue(())
        })?
        .version;
    if start.from.version > version {
        let beginning = PageStart { from: Position::default(), complete: 0, ..start };
        return read_page(reader, channel, beginning, limits);
    }
    // The next page would begin anew, and so without end.
    if full && end.next.version > version {
        return Err(StoreError::Corrupt {
            channel: channel.into(),
            detail: format!("it is at version {version}, and has a cell at {:?}", end.next),
        });
    }
    end.tail = (!full).then_some(version);
    Ok((page, end))
}

/// Idle handles that are kept, for each thread that reads pages.
const IDLE_HANDLES_PER_READER: usize = 8;

/// A handle that nobody uses, and its channel.
type Idle = (Arc<str>, Box<dyn ChannelReader>);

/// The handles that pages are read with. A handle that has been used is kept a while: most pulls have a next page.
pub struct Readers {
    store: Arc<dyn ChangeStore>,
    state: Mutex<State>,
    max_idle: usize,
}

#[derive(Default)]
struct State {
    /// The longest unused first.
    idle: VecDeque<Idle>,
    /// How many channels were removed so far: what was opened before a removal may be of the removed channel.
    removals: u64,
}

impl Readers {
    /// Handles for that many threads.
    pub fn new(store: Arc<dyn ChangeStore>, threads: usize) -> Self {
        Readers { store, state: Mutex::default(), max_idle: threads * IDLE_HANDLES_PER_READER }
    }

    /// Reads a page of the channel. May block on the disk.
    pub fn read(
        &self,
        channel: &Arc<str>,
        start: PageStart,
        limits: PageLimits,
    ) -> Result<(PageEncoder, PageEnd), StoreError> {
        match self.with(channel, |reader| read_page(reader, channel, start, limits)) {
            // Nobody has sent it anything yet. If somebody does now, the cursor finds that out.
            Err(StoreError::Missing { .. }) if !start.has_versions => {
                let end = PageEnd { next: Position::default(), complete: 0, tail: Some(0) };
                Ok((PageEncoder::default(), end))
            }
            page => page,
        }
    }

    /// Reads something of the channel. May block on the disk.
    pub fn with<T>(
        &self,
        channel: &Arc<str>,
        read: impl FnOnce(&mut dyn ChannelReader) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (idle, removals) = self.take_idle(channel);
        let mut reader = match idle {
            Some(reader) => reader,
            None => self.store.reader(channel)?,
        };
        let result = read(reader.as_mut())?;
        let mut state = self.state();
        let mut surplus = Some((channel.clone(), reader));
        if state.removals == removals {
            state.idle.extend(surplus.take());
            surplus = if state.idle.len() > self.max_idle { state.idle.pop_front() } else { None };
        }
        drop(state);
        // Closing a handle may take a while: not under the lock.
        drop(surplus);
        Ok(result)
    }

    /// Closes the idle handles of a channel that was removed, and sees to it that no other handle of it is used again. To be
    /// called before the channel can be made anew.
    pub fn forget(&self, channel: &str) {
        let mut state = self.state();
        state.removals += 1;
        let (forgotten, kept): (VecDeque<_>, _) =
            state.idle.drain(..).partition(|(name, _)| name.as_ref() == channel);
        state.idle = kept;
        drop(state);
        drop(forgotten);
    }

    /// Closes the idle handles. A store tidies up when its last handle is closed, and that is to be the writer's.
    pub fn close(&self) {
        self.state().idle.clear();
    }

    fn take_idle(&self, channel: &str) -> (Option<Box<dyn ChannelReader>>, u64) {
        let mut state = self.state();
        let at = state.idle.iter().position(|(name, _)| name.as_ref() == channel);
        let idle = at.and_then(|at| state.idle.remove(at)).map(|(_, reader)| reader);
        (idle, state.removals)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
