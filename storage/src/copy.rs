//! Copying a channel from one store into another, whichever they are: a backup, a restore, a change of engine.

use std::ops::ControlFlow;

use crate::change::Position;
use crate::error::{Result, StoreError};
use crate::store::{Cell, ChangeStore, ChannelReader, ChannelStore};
use crate::verify::{Sum, Verified};

/// Cells, and bytes in them, after which a copy commits, at the end of a version: what it holds in memory is this, and one
/// version.
const BATCH_CELLS: u64 = 20_000;
const BATCH_BYTES: usize = 8 << 20;

/// Copies one committed state of a channel, peers included, into a new channel with that site id, and checks it as
/// [`verify`](crate::verify::verify) does. The writer of what is read may go on meanwhile.
///
/// # Errors
/// What was copied so far is removed again, unless the channel was there before ([`StoreError::Exists`]) or the process ends:
/// then it is a whole state of the channel, but an old one.
pub fn copy(
    channel: &str,
    from: &mut dyn ChannelReader,
    to: &dyn ChangeStore,
    site_id: &str,
) -> Result<Verified> {
    to.create(channel, site_id)?;
    let copied = to.open(channel).and_then(|to| Copy::new(channel, to).run(from));
    if copied.is_err() {
        // The first error is the one to tell.
        let _ = to.remove(channel);
    }
    copied
}

struct Copy<'c> {
    sum: Sum<'c>,
    to: Box<dyn ChannelStore>,
    /// Of what is not committed yet.
    cells: u64,
    bytes: usize,
}

impl<'c> Copy<'c> {
    fn new(channel: &'c str, to: Box<dyn ChannelStore>) -> Self {
        Copy { sum: Sum::new(channel), to, cells: 0, bytes: 0 }
    }

    fn run(mut self, from: &mut dyn ChannelReader) -> Result<Verified> {
        let peers = from.peers()?;
        self.to.begin()?;
        let mut failed: Option<StoreError> = None;
        let head = from.read(Position::default(), &mut |cell| match self.put(cell) {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                failed = Some(e);
                ControlFlow::Break(())
            }
        })?;
        if let Some(e) = failed {
            return Err(e);
        }
        let verified = self.sum.finish(head)?;
        for peer in &peers {
            self.to.track(peer)?;
        }
        self.to.commit(head)?;
        Ok(verified)
    }

    fn put(&mut self, cell: &Cell<'_>) -> Result<()> {
        let so_far = self.sum.head();
        let full = self.cells >= BATCH_CELLS || self.bytes >= BATCH_BYTES;
        if full && cell.at.version > so_far.version {
            self.to.commit(so_far)?;
            self.to.begin()?;
            (self.cells, self.bytes) = (0, 0);
        }
        self.sum.add(cell)?;
        self.to.put(cell, None)?;
        self.cells += 1;
        self.bytes += cell.bytes();
        Ok(())
    }
}
