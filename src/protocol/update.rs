//! A client's update between the socket and the merge: three allocations, whatever the number of its changes.

use std::ops::Range;

use causeway_storage::{Change, Value};

/// A decoded update. Its strings lie in one text, its blobs in one buffer, and its changes, as they will be forwarded,
/// in one piece of JSON: whoever merges and forwards it copies no value on its own.
#[derive(Debug, Default)]
pub struct IncomingUpdate {
    /// The client's own version.
    pub version: u64,
    pub(super) site_id: Span,
    pub(super) text: String,
    pub(super) blobs: Vec<u8>,
    pub(super) json: Vec<u8>,
    pub(super) changes: Vec<ChangeSpans>,
}

/// A range in [`IncomingUpdate::text`] or [`IncomingUpdate::blobs`]. A message is far below 4 GiB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) fn new(range: Range<usize>) -> Self {
        Span { start: range.start as u32, end: range.end as u32 }
    }

    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Debug)]
pub(super) struct ChangeSpans {
    pub(super) table: Span,
    pub(super) pk: Span,
    pub(super) cid: Span,
    pub(super) site_id: Span,
    pub(super) val: ValueSpan,
    pub(super) col_version: u64,
    pub(super) db_version: u64,
    pub(super) cl: u64,
    pub(super) seq: u64,
    pub(super) json: Span,
}

#[derive(Debug)]
pub(super) enum ValueSpan {
    Null,
    Integer(i64),
    Real(f64),
    Text(Span),
    Blob(Span),
}

impl IncomingUpdate {
    /// An update without changes.
    pub fn empty(site_id: &str, version: u64) -> Box<Self> {
        let site = Span::new(0..site_id.len());
        Box::new(IncomingUpdate { version, site_id: site, text: site_id.into(), ..IncomingUpdate::default() })
    }

    /// Who sent it.
    pub fn site_id(&self) -> &str {
        &self.text[self.site_id.range()]
    }

    /// How many changes it has.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The memory it holds, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.text.capacity()
            + self.blobs.capacity()
            + self.json.capacity()
            + self.changes.capacity() * size_of::<ChangeSpans>()
            + size_of::<Self>()
    }

    /// Its changes.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.changes.iter().map(|c| Change {
            table: &self.text[c.table.range()],
            pk: &self.text[c.pk.range()],
            cid: &self.text[c.cid.range()],
            val: match c.val {
                ValueSpan::Null => Value::Null,
                ValueSpan::Integer(i) => Value::Integer(i),
                ValueSpan::Real(r) => Value::Real(r),
                ValueSpan::Text(span) => Value::Text(&self.text[span.range()]),
                ValueSpan::Blob(span) => Value::Blob(&self.blobs[span.range()]),
            },
            col_version: c.col_version,
            db_version: c.db_version,
            site_id: &self.text[c.site_id.range()],
            cl: c.cl,
            seq: c.seq,
        })
    }

    /// Appends the changes at `indexes`, ascending, as JSON with commas between them.
    pub fn write_json(&self, indexes: &[u32], out: &mut Vec<u8>) {
        // They lie one after the other with a comma between, so all of them are one copy.
        if indexes.len() == self.changes.len() {
            out.extend_from_slice(&self.json);
            return;
        }
        for (n, &index) in indexes.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&self.json[self.changes[index as usize].json.range()]);
        }
    }
}
