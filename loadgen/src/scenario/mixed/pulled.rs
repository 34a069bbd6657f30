//! A pull from 0 by a client of its own, and what can be wrong with its rows.

use std::collections::HashSet;

use serde_json::Value;

use super::{Channel, Member};
use crate::conn::ConnError;
use crate::run::Run;

/// Pulls the channel from 0, checks the rows, that they are all that was acked, and that the version is no lower than any
/// client was shown.
pub(in crate::scenario) async fn verify(run: &Run, channel: &Channel, member: Member) {
    let name = member.name.clone();
    let seen = channel.seen(member.server);
    let pulled = match pull(run, channel, member).await {
        Ok(pulled) => pulled,
        Err(e) => return run.connection_lost(&format!("{name} of {}", channel.name), &e),
    };
    let mut found = row_faults(pulled.rows(), pulled.last());
    if pulled.last() < seen {
        found.push(format!("the version fell: a client was shown {seen}, now it is {}", pulled.last()));
    }
    run.verdict.faults(found.len() as u64, || {
        found.iter().map(|what| format!("{name} of {}: {what}", channel.name)).collect()
    });
    pulled.verify(run, channel);
}

/// Pulls the channel from 0 as this client, which has nothing yet, and keeps the rows.
pub(in crate::scenario) async fn pull(
    run: &Run,
    channel: &Channel,
    member: Member,
) -> Result<Member, ConnError> {
    let mut member = member.keeping_rows();
    let mut conn = member.connect(run, channel).await?;
    member.sync(run, channel, &mut conn).await?;
    Ok(member)
}

/// What is wrong with the rows of a pull that reached version `tail`: cells twice, positions out of order, or above it.
pub(in crate::scenario) fn row_faults(rows: &[Value], tail: u64) -> Vec<String> {
    let mut found = Vec::new();
    let mut cells = HashSet::new();
    let mut last = None;
    for row in rows {
        if !cells.insert((row[0].as_str(), row[1].as_str(), row[2].as_str())) {
            found.push(format!("a cell came twice: {row}"));
        }
        let at = (row[5].as_u64(), row[8].as_u64());
        if last >= Some(at) {
            found.push(format!("positions do not rise: {row} after {last:?}"));
        }
        last = Some(at);
        if at.0 > Some(tail) {
            found.push(format!("a row above version {tail}: {row}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_twice_out_of_order_or_above_the_tail_are_found() {
        let row = |pk: &str, version: u64, seq: u64| json!(["t", pk, "c", "v", 1, version, "S", 1, seq]);
        let good = [row("a", 1, 0), row("b", 1, 1), row("c", 3, 0)];
        assert_eq!(row_faults(&good, 3), Vec::<String>::new());
        assert_eq!(row_faults(&good, 2).len(), 1);
        assert_eq!(row_faults(&[row("a", 1, 0), row("a", 2, 0)], 3).len(), 1);
        assert_eq!(row_faults(&[row("a", 1, 1), row("b", 1, 1)], 3).len(), 1);
        assert_eq!(row_faults(&[row("a", 2, 0), row("b", 1, 1)], 3).len(), 1);
    }
}
