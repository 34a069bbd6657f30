//! What can be seen of a channel from outside after a kill, before any writer is back.

use std::collections::BTreeSet;

use super::super::mixed::pulled::{pull, row_faults};
use super::super::mixed::{Channel, Member};
use crate::conn::{ConnError, ConnectWith};
use crate::replica::{Edit, Replica, SENTINEL};
use crate::run::Run;
use crate::val::Val;

/// What an audit counted. Faults go to the run's verdict.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Audited {
    /// Cells and deletes that were acked and are neither there nor beaten.
    pub(super) lost: u64,
    /// Updates that had no answer, and how many of them are there.
    pub(super) unacked: u64,
    pub(super) survived: u64,
}

/// Pulls the channel twice from 0, and compares with what was acked. `unacked` are the updates without an answer, by
/// client: each may be there, whole, or not, but none before which one of the same client is missing.
pub(super) async fn audit(
    run: &Run,
    channel: &Channel,
    who: usize,
    unacked: &[Vec<Vec<Edit>>],
) -> Result<Audited, ConnError> {
    let seen = channel.seen(0);
    let mut newcomer = Member::new("the audit", who);
    newcomer.greet(run, channel, ConnectWith::default()).await?;
    // Before a pull: the cells above such a version may keep it from being answered.
    if newcomer.last() < seen {
        let now = newcomer.last();
        run.verdict.fault(|| {
            format!(
                "{} after the kill: the version fell: a client was shown {seen}, now it is {now}",
                channel.name
            )
        });
    }
    let first = pull(run, channel, newcomer).await?;
    let second = pull(run, channel, Member::new("the audit", who)).await?;
    let acked = channel.acked().clone();
    run.verdict.checked(acked.len());
    let report = |found: Vec<String>| {
        run.verdict.faults(found.len() as u64, || {
            found.iter().map(|what| format!("{} after the kill: {what}", channel.name)).collect()
        });
    };
    if first.rows() != second.rows() {
        report(vec!["two pulls from 0 differ".into()]);
    }
    report(row_faults(first.rows(), first.last()));
    let lost = first.replica.behind(&acked);
    let mut audited = Audited { lost: lost.len() as u64, ..Audited::default() };
    report(lost);
    let mut expected = acked.clone();
    for (client, updates) in unacked.iter().enumerate() {
        let survivors = survivors(&first.replica, &acked, updates, &of_others(unacked, client));
        audited.unacked += updates.len() as u64;
        audited.survived += survivors.iter().filter(|survivor| survivor.proven).count() as u64;
        report(out_of_order(&survivors));
        let whole = updates.iter().zip(&survivors).filter(|(_, survivor)| survivor.whole);
        whole.flat_map(|(update, _)| update).for_each(|edit| expected.apply(edit));
    }
    // Half an update is not whole: what there is of it is more than expected.
    let more = expected.behind(&first.replica);
    report(more.into_iter().map(|what| format!("more is there than was sent whole, which {what}")).collect());
    Ok(audited)
}

/// What became of an update without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Survivor {
    /// All of it is there, or beaten.
    whole: bool,
    /// A cell of it is there that nobody else wrote.
    proven: bool,
}

/// A cell as it is written: its row and column, its clocks, and its value.
type Written<'e> = (&'e str, &'e str, u64, u64, &'e Val);

fn written(edit: &Edit) -> Written<'_> {
    (&edit.pk, &edit.cid, edit.cl, edit.col_version, &edit.val)
}

/// All that is in the unacked updates of other clients.
fn of_others(unacked: &[Vec<Vec<Edit>>], client: usize) -> BTreeSet<Written<'_>> {
    let others = unacked.iter().enumerate().filter(|(other, _)| *other != client);
    others.flat_map(|(_, updates)| updates.iter().flatten().map(written)).collect()
}

fn survivors(
    found: &Replica,
    acked: &Replica,
    updates: &[Vec<Edit>],
    of_others: &BTreeSet<Written<'_>>,
) -> Vec<Survivor> {
    let judge = |update: &Vec<Edit>| {
        let mut wanted = Replica::default();
        update.iter().for_each(|edit| wanted.apply(edit));
        // Two writers may have written the same: there is but one NULL.
        let is_own = |edit: &&Edit| {
            edit.cid != SENTINEL && found.has(edit) && !acked.has(edit) && !of_others.contains(&written(edit))
        };
        Survivor { whole: found.behind(&wanted).is_empty(), proven: update.iter().any(|edit| is_own(&edit)) }
    };
    updates.iter().map(judge).collect()
}

/// A client's updates are merged in its order.
fn out_of_order(survivors: &[Survivor]) -> Vec<String> {
    let missing = survivors.iter().position(|survivor| !survivor.whole);
    let last = survivors.iter().rposition(|survivor| survivor.proven);
    match (missing, last) {
        (Some(missing), Some(last)) if missing < last => {
            vec![format!("of a client's unacked updates number {last} is there, but not number {missing}")]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(pk: &str, val: &str) -> Edit {
        Edit { pk: pk.into(), cid: "c".into(), val: Val::Text(val.into()), col_version: 1, cl: 1 }
    }

    fn replica(edits: &[Edit]) -> Replica {
        let mut replica = Replica::default();
        edits.iter().for_each(|edit| replica.apply(edit));
        replica
    }

    #[test]
    fn half_an_update_is_not_whole_and_a_gap_is_out_of_order() {
        let updates = vec![vec![edit("a", "1"), edit("b", "2")], vec![edit("c", "3")]];
        let of = |edits: &[Edit]| survivors(&replica(edits), &Replica::default(), &updates, &BTreeSet::new());
        let all = of(&[edit("a", "1"), edit("b", "2"), edit("c", "3")]);
        assert_eq!(all, [Survivor { whole: true, proven: true }; 2]);
        assert!(out_of_order(&all).is_empty());
        let half = of(&[edit("a", "1")]);
        assert_eq!(half[0], Survivor { whole: false, proven: true });
        assert!(out_of_order(&half).is_empty(), "it is named as more than was sent whole");
        assert_eq!(out_of_order(&of(&[edit("c", "3")])).len(), 1);
        // Beaten by another's: whole, but nothing proves that it was ever there.
        let beaten = of(&[edit("a", "8"), edit("b", "9")]);
        assert_eq!(beaten[0], Survivor { whole: true, proven: false });
    }

    #[test]
    fn what_another_may_have_written_proves_nothing() {
        let null = |pk: &str| Edit { val: Val::Null, ..edit(pk, "") };
        let unacked = [vec![vec![edit("a", "1")], vec![null("b"), null("c")]], vec![vec![null("b")]]];
        let of = |edits: &[Edit]| {
            let others = of_others(&unacked, 0);
            survivors(&replica(edits), &Replica::default(), &unacked[0], &others)
        };
        let by_the_other = of(&[null("b")]);
        assert!(!by_the_other[1].proven && out_of_order(&by_the_other).is_empty());
        let by_itself = of(&[null("b"), null("c")]);
        assert!(by_itself[1].proven && out_of_order(&by_itself).len() == 1);
    }
}
