//! What one channel holds: its head, its tables, its peers.

use std::cmp::Reverse;

use causeway_storage::store::{RECEIVED, SENT};
use causeway_storage::{StoreError, TableCounts};

use super::{Event, Line, OpenStore, Tell, fit};

/// Tables that are told of one by one. The sums are over all.
const TABLES_MAX: usize = 1_000;

pub(super) fn tell(open: &OpenStore<'_>, channel: &str, tell: Tell<'_>) -> Result<(), StoreError> {
    let mut reader = open.store.reader(channel)?;
    let head = reader.head()?;
    let mut tables = Vec::new();
    let mut count = 0;
    let mut sum = TableCounts::default();
    reader.tables(&mut |counts| {
        count += 1;
        sum.rows += counts.rows;
        sum.deleted += counts.deleted;
        sum.cells += counts.cells;
        if tables.len() < TABLES_MAX {
            tables.push(counts);
        }
    })?;
    tables.sort_unstable_by(|a, b| a.table.cmp(&b.table));
    let mut peers = reader.peers()?;
    peers.sort_by_key(|peer| Reverse(peer.seen_s));
    let unfit = open.schema.map(|schema| fit::unfit(reader.as_mut(), schema)).transpose()?;
    let (unfit_cells, unfit) = unfit.map_or_else(Default::default, |(cells, unfit)| (Some(cells), unfit));
    let inspected = Line::Inspected {
        channel: channel.to_owned(),
        version: head.version,
        digest: head.digest.to_string(),
        site_id: reader.site_id()?,
        tables: count,
        rows: sum.rows,
        deleted: sum.deleted,
        cells: sum.cells,
        unfit: unfit_cells,
        connections: open.connections.of(channel),
        bytes: reader.size_bytes()?,
    };
    let tables = tables.into_iter().map(|counts| {
        let TableCounts { table, rows, deleted, cells } = counts;
        Line::Table { table, rows, deleted, cells }
    });
    let peers = peers.into_iter().map(|peer| Line::Peer {
        event: match peer.event {
            RECEIVED => Event::Received,
            SENT => Event::Sent,
            _ => Event::Other,
        },
        // What a peer has sent says nothing of what it has yet to send.
        lag: (peer.event == SENT).then(|| head.version.saturating_sub(peer.version)),
        site_id: peer.site_id,
        tag: peer.tag,
        version: peer.version,
        seen_s: peer.seen_s,
    });
    // `all` stops where nobody listens any more.
    let _ = [inspected]
        .into_iter()
        .chain(tables)
        .chain(unfit.into_iter().map(Line::Unfit))
        .chain(peers)
        .all(tell);
    Ok(())
}
