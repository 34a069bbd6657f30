//! A channel's readers: ranges of positions up to the version that they began with.

use std::ops::Bound;
use std::sync::Arc;

use sled::IVec;

use super::codec;
use super::engine::{Engine, corrupt};
use super::no_such_channel;
use super::snapshots::Shared;
use crate::change::Position;
use crate::error::Result;
use crate::store::{CellVisitor, ChannelReader, Head};

/// How many cells a reader takes from the database at once, and after how many bytes it takes no more.
const CHUNK_CELLS: usize = 128;
const CHUNK_BYTES: usize = 256 << 10;

pub(super) struct SledReader {
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    channel: Box<str>,
}

impl SledReader {
    pub(super) fn new(engine: Arc<Engine>, shared: Arc<Shared>, channel: &str) -> Self {
        SledReader { engine, shared, channel: channel.into() }
    }
}

impl ChannelReader for SledReader {
    fn read(&mut self, after: Position, visit: CellVisitor<'_>) -> Result<u64> {
        let snapshot = self.shared.snapshot().ok_or_else(|| no_such_channel(&self.channel))?;
        let end = Position::end_of(snapshot.version);
        if after >= end {
            return Ok(snapshot.version);
        }
        let key = |at| codec::position_key(self.shared.id, at);
        let range = (Bound::Excluded(key(after)), Bound::Included(key(end)));
        let mut found = self.engine.range(&self.channel, range)?;
        let mut done = after;
        while done < end {
            let mut chunk = self.chunk(&mut found)?;
            let upto = chunk.last().map_or(end, |(at, _)| *at);
            let ghosts = snapshot.ghosts(done, upto);
            if !ghosts.is_empty() {
                chunk.extend(ghosts);
                chunk.sort_by_key(|(at, _)| *at);
                chunk.dedup_by_key(|(at, _)| *at);
            }
            if !snapshot.is_whole() {
                return Err(no_such_channel(&self.channel));
            }
            for (at, bytes) in &chunk {
                let cell = codec::cell(*at, bytes).ok_or_else(|| self.corrupt(*at))?;
                if visit(&cell).is_break() {
                    return Ok(snapshot.version);
                }
            }
            done = upto;
        }
        Ok(snapshot.version)
    }

    fn head(&mut self) -> Result<Head> {
        self.shared.head().ok_or_else(|| no_such_channel(&self.channel))
    }
}

impl SledReader {
    /// The next cells; none at the end.
    fn chunk(&self, found: &mut impl Iterator<Item = Result<(IVec, IVec)>>) -> Result<Vec<(Position, IVec)>> {
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while chunk.len() < CHUNK_CELLS && bytes < CHUNK_BYTES {
            let Some(item) = found.next() else { break };
            let (key, value) = item?;
            let at =
                codec::position_in_key(&key).ok_or_else(|| corrupt(&self.channel, "a key cannot be read"))?;
            bytes += value.len();
            chunk.push((at, value));
        }
        Ok(chunk)
    }

    fn corrupt(&self, at: Position) -> crate::StoreError {
        corrupt(&self.channel, format!("the cell at {at:?} cannot be read"))
    }
}
