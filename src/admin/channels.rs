//! All channels, one line each, as they are read: nothing but their names is kept.

use causeway_storage::{ChangeStore, StoreError};

use super::{Connections, Line, Problem, Tell, sorted_names};

pub(super) fn tell(
    store: &dyn ChangeStore,
    connections: &Connections,
    tell: Tell<'_>,
) -> Result<(), StoreError> {
    for channel in sorted_names(store, tell)? {
        let line = match look(store, connections, &channel) {
            Ok(line) => line,
            // It was removed since.
            Err(StoreError::Missing { .. }) => continue,
            Err(e) => Line::Problem(Problem::store(Some(&channel), &e)),
        };
        if !tell(line) {
            break;
        }
    }
    Ok(())
}

fn look(store: &dyn ChangeStore, connections: &Connections, channel: &str) -> Result<Line, StoreError> {
    let mut reader = store.reader(channel)?;
    let version = reader.head()?.version;
    let mut cells = 0;
    reader.tables(&mut |counts| cells += counts.cells)?;
    Ok(Line::Channel {
        channel: channel.to_owned(),
        version,
        cells,
        connections: connections.of(channel),
        bytes: reader.size_bytes()?,
        seen_s: reader.peers()?.iter().map(|peer| peer.seen_s).max().filter(|seen_s| *seen_s > 0),
    })
}
