//! The cells of a channel that do not fit the schema: they were taken before there was one, or came with a restore. They stay
//! where they are, and no table has them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use causeway_storage::{ChangeStore, ChannelReader, Position, Schema, StoreError};

use super::Unfit;

/// Reasons, each of one table, that are told one by one. The sum is over all.
const REASONS_MAX: usize = 100;

/// Counts them: all, and by table and reason, both in order. Reads the whole channel.
pub(super) fn unfit(
    reader: &mut dyn ChannelReader,
    schema: &Schema,
) -> Result<(u64, Vec<Unfit>), StoreError> {
    let mut cells = 0;
    let mut reasons: BTreeMap<(String, String), Unfit> = BTreeMap::new();
    let mut buffer = Vec::new();
    reader.read(Position::default(), &mut |cell| {
        if let Err(refused) = schema.check(&cell.as_change(), &mut buffer) {
            cells += 1;
            let key = (cell.table.to_owned(), refused.to_string());
            if let Some(unfit) = reasons.get_mut(&key) {
                unfit.cells += 1;
            } else if reasons.len() < REASONS_MAX {
                let (table, reason) = key.clone();
                let (pk, cid) = (cell.pk.to_owned(), cell.cid.to_owned());
                reasons.insert(key, Unfit { table, reason, cells: 1, pk, cid });
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok((cells, reasons.into_values().collect()))
}

/// Looks at all cells of all channels, and logs, once for each channel, how many do not fit. Blocks, and may take long.
pub fn warn_of_all(store: &dyn ChangeStore, schema: &Schema) {
    let names = match store.channels() {
        Ok(listing) => listing.names,
        Err(e) => return tracing::warn!("cannot look for cells that do not fit the schema: {e}"),
    };
    for channel in names {
        match store.reader(&channel).and_then(|mut reader| unfit(reader.as_mut(), schema)) {
            Ok((0, _)) | Err(StoreError::Missing { .. }) => {}
            Ok((cells, reasons)) => {
                let example = reasons.first().map_or("", |unfit| unfit.reason.as_str());
                tracing::warn!(
                    channel,
                    cells,
                    example,
                    "cells do not fit the schema: no table has them, and clients that pull are sent them; \
                     `causeway inspect` says which"
                );
            }
            Err(e) => tracing::warn!(channel, "cannot look for cells that do not fit the schema: {e}"),
        }
    }
}
