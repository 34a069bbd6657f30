//! Whether a channel is as it has to be: its digest is that of its cells, they stand where they may, its indexes are whole.

use std::ops::ControlFlow;

use crate::change::{Position, Value};
use crate::digest::{Digest, cell_hash};
use crate::error::{Result, StoreError};
use crate::store::{Cell, ChannelReader, Head, Size};

/// A channel that is as it has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its version and digest.
    pub head: Head,
    /// How many cells it has.
    pub cells: u64,
}

/// Reads all of a channel, a bounded piece at a time, and checks it. Its writer may go on meanwhile.
///
/// # Errors
/// [`StoreError::Corrupt`] says what is wrong.
pub fn verify(channel: &str, reader: &mut dyn ChannelReader) -> Result<Verified> {
    let mut sum = Sum::new(channel);
    let mut wrong = None;
    let head = reader.read(Position::default(), &mut |cell| match sum.add(cell) {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => {
            wrong = Some(e);
            ControlFlow::Break(())
        }
    })?;
    let verified = wrong.map_or_else(|| sum.finish(head), Err)?;
    reader.check()?;
    Ok(verified)
}

/// The sum of a channel's cells, given one after the other.
pub(crate) struct Sum<'c> {
    channel: &'c str,
    last: Position,
    digest: Digest,
    size: Size,
}

impl<'c> Sum<'c> {
    pub(crate) fn new(channel: &'c str) -> Self {
        Sum { channel, last: Position::default(), digest: Digest::default(), size: Size::default() }
    }

    pub(crate) fn add(&mut self, cell: &Cell<'_>) -> Result<()> {
        let Cell { table, pk, cid, ref val, col_version, cl, at, .. } = *cell;
        if at <= self.last {
            return Err(self.wrong(format!("the cell at {at:?} stands behind the one at {:?}", self.last)));
        }
        let may_be = match cid {
            crate::SENTINEL => *val == Value::Null && col_version == cl && cl > 0,
            _ => cl % 2 == 1,
        };
        if !may_be {
            return Err(self.wrong(format!("the cell at {at:?} is none that a merge leaves: {cell:?}")));
        }
        self.last = at;
        self.digest.add(cell_hash(table, pk, cid, val, col_version, cl));
        self.size.add(cell.bytes() as u64);
        Ok(())
    }

    /// The head of all that was added, were it the whole channel.
    pub(crate) fn head(&self) -> Head {
        Head { version: self.last.version, digest: self.digest, size: self.size }
    }

    /// Compares with what the channel says of itself.
    pub(crate) fn finish(&self, head: Head) -> Result<Verified> {
        let Head { version, digest, size } = self.head();
        if version != head.version {
            return Err(self.wrong(format!("its version is {}, its last cell's {version}", head.version)));
        }
        if digest != head.digest {
            return Err(
                self.wrong(format!("its digest is {}, its {} cells give {digest}", head.digest, size.cells))
            );
        }
        if size != head.size {
            return Err(self.wrong(format!("its size is {:?}, its cells give {size:?}", head.size)));
        }
        Ok(Verified { head, cells: size.cells })
    }

    fn wrong(&self, detail: String) -> StoreError {
        StoreError::Corrupt { channel: self.channel.into(), detail }
    }
}
