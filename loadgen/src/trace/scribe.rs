//! Writes the trace: names become ids, clocks become steps, and the file stays below its limit.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;

use super::clocks::{Clocks, Place};
use super::format::{Change, End, Event, Header, VERSION, What};
use super::heard::Heard;
use super::ids::Ids;

/// Room that is kept for the last line.
const END_BYTES_MAX: u64 = 100;

/// What a connection did, as it was heard.
#[derive(Debug)]
pub(super) enum Noted {
    /// The hash of its channel's name.
    Open(u64),
    Close,
    /// A message, its length, and for a pull how far it is behind.
    Message {
        heard: Heard,
        bytes: u64,
        behind: u64,
    },
}

impl Noted {
    /// What it takes in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let changes = match self {
            Noted::Message { heard: Heard::Update { changes, .. }, .. } => changes.capacity(),
            _ => 0,
        };
        size_of::<Self>() + changes * size_of::<super::heard::Change>()
    }
}

/// What was recorded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) connections: u64,
    pub(crate) updates: u64,
    pub(crate) changes: u64,
    pub(crate) pulls: u64,
    pub(crate) others: u64,
    pub(crate) file_bytes: u64,
}

/// Writes one trace. What it remembers grows with the file only.
#[derive(Debug)]
pub(super) struct Scribe<W> {
    out: W,
    bytes_max: u64,
    line: Vec<u8>,
    channels: Ids<()>,
    sites: Ids<()>,
    tables: Ids<()>,
    /// For each table.
    columns: Ids<u32>,
    /// For each channel and table, so that nothing tells which channels have the same rows.
    keys: Ids<(u32, u32)>,
    clocks: Clocks,
    /// The channel of each connection that is open.
    channel_of: HashMap<u32, u32>,
    last_us: u64,
    totals: Totals,
}

impl<W: Write> Scribe<W> {
    /// Writes the header.
    pub(super) fn new(out: W, bytes_max: u64) -> io::Result<Self> {
        let mut scribe = Self {
            out,
            bytes_max,
            line: Vec::new(),
            channels: Ids::default(),
            sites: Ids::default(),
            tables: Ids::default(),
            columns: Ids::default(),
            keys: Ids::default(),
            clocks: Clocks::default(),
            channel_of: HashMap::new(),
            last_us: 0,
            totals: Totals::default(),
        };
        scribe.write(&Header { causeway_trace: VERSION }, true)?;
        Ok(scribe)
    }

    /// Writes what connection `conn` did. False: the file has no room for it, nor for anything after it.
    ///
    /// A connection's opening comes before all else of it.
    pub(super) fn note(&mut self, at_us: u64, conn: u32, noted: &Noted) -> io::Result<bool> {
        // Two connections may pass each other on the way here.
        self.last_us = at_us.max(self.last_us);
        let what = match noted {
            Noted::Open(channel) => What::Open { channel: self.channels.of((), *channel) },
            Noted::Close => What::Close,
            Noted::Message { heard, bytes, behind } => self.message(conn, heard, *bytes, *behind),
        };
        let event = Event(self.last_us, conn, what);
        let fits = self.write(&event, false)?;
        if fits {
            self.count(conn, &event.2);
        }
        Ok(fits)
    }

    /// Writes the last line.
    pub(super) fn end(mut self, at_us: u64, full: bool) -> io::Result<Totals> {
        self.write(&End { end: at_us.max(self.last_us), full }, true)?;
        self.out.flush()?;
        Ok(self.totals)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn message(&mut self, conn: u32, heard: &Heard, bytes: u64, behind: u64) -> What {
        let site = |sites: &mut Ids<()>, hash: &Option<u64>| hash.map(|hash| sites.of((), hash));
        match heard {
            Heard::Update { site: by, changes } => {
                let channel = self.channel_of[&conn];
                let site = site(&mut self.sites, by);
                let changes = changes.iter().map(|change| self.change(channel, change)).collect();
                What::Update { site, bytes, changes }
            }
            Heard::Pull { site: by, version } => {
                let behind = (*version > 0).then_some(behind);
                What::Pull { site: site(&mut self.sites, by), bytes, behind }
            }
            Heard::Auth => What::Auth { bytes },
            Heard::Other => What::Other { bytes },
        }
    }

    fn change(&mut self, channel: u32, change: &super::heard::Change) -> Change {
        let table = self.tables.of((), change.table);
        let key = self.keys.of((channel, table), change.key);
        let column = change.column.map(|column| self.columns.of(table, column));
        let place = Place { channel, table, key, column };
        let (cl_step, col_step) = self.clocks.steps(place, change.cl, change.col_version);
        Change(table, key, change.key_bytes, column, change.shape, cl_step, col_step)
    }

    fn count(&mut self, conn: u32, what: &What) {
        match what {
            What::Open { channel } => {
                self.channel_of.insert(conn, *channel);
                self.totals.connections += 1;
            }
            What::Close => drop(self.channel_of.remove(&conn)),
            What::Update { changes, .. } => {
                self.totals.updates += 1;
                self.totals.changes += changes.len() as u64;
            }
            What::Pull { .. } => self.totals.pulls += 1,
            What::Auth { .. } | What::Other { .. } => self.totals.others += 1,
        }
    }

    fn write(&mut self, line: &impl Serialize, must: bool) -> io::Result<bool> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, line)?;
        self.line.push(b'\n');
        let after = self.totals.file_bytes + self.line.len() as u64;
        if !must && after + END_BYTES_MAX > self.bytes_max {
            return Ok(false);
        }
        self.totals.file_bytes = after;
        self.out.write_all(&self.line)?;
        Ok(true)
    }
}
