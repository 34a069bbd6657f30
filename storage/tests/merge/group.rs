//! Group commits: versions, peers, positions, and what is durable.

use causeway_storage::store::{NODE_TAG, RECEIVED, unix_time_s};
use causeway_storage::{Change, Clamp, Origin, Outcome, Quota, SENTINEL, Update, Value, merge, merge_from};

use crate::model::OwnedChange;
use crate::support::Store;

on_every_store! {
    an_update_that_wins_nothing_makes_no_version
    peers_are_tracked_by_their_updates
    nodes_are_bounded_by_nothing_and_tracked_apart
    winners_stand_in_message_order
    a_sentinel_that_nobody_sent_stands_behind_the_winners
    integers_and_reals_stay_apart
    clocks_and_numbers_reach_their_bounds
}

fn merged(version: u64, winners: &[u32]) -> Outcome {
    Outcome::Merged { version, winners: winners.into() }
}

fn text(pk: &str, cid: &str, val: &str, col_version: u64) -> OwnedChange {
    OwnedChange::cell(pk, cid, Value::Text(val), col_version, 1)
}

fn an_update_that_wins_nothing_makes_no_version(store: &Store) {
    let mut channel = store.channel();
    let one = vec![text("1", "a", "x", 1)];
    let group =
        [vec![], one.clone(), one.clone(), vec![text("1", "a", "w", 1)], vec![text("1", "a", "y", 1)]];
    let expected = [merged(0, &[]), merged(1, &[0]), merged(1, &[]), merged(1, &[]), merged(2, &[0])];
    assert_eq!(channel.merge(&group, &Clamp::default()), expected);
    let before = (channel.head(), channel.cells());
    assert_eq!(channel.merge(&[one, vec![]], &Clamp::default()), [merged(2, &[]), merged(2, &[])]);
    let channel = channel.reopen();
    assert_eq!((channel.head(), channel.cells()), before);
}

fn peers_are_tracked_by_their_updates(store: &Store) {
    let mut channel = store.channel();
    let change = text("1", "a", "x", 1);
    let changes = [change.as_change()];
    let of = |site_id, version| Update { site_id, version, changes: &changes };
    let group = [of("B", 9), of("A", 1), of("B", 3), Update { site_id: "C", version: 4, changes: &[] }];
    merge(&mut *channel.writer, &group, &Clamp::default()).expect("merged");
    merge(&mut *channel.writer, &[of("A", 2), of("B", 1)], &Clamp::default()).expect("merged");
    let mut channel = channel.reopen();
    let peers = channel.peers();
    let found: Vec<_> = peers.iter().map(|p| (p.site_id.as_str(), p.tag, p.event, p.version)).collect();
    assert_eq!(found, [("A", 0, RECEIVED, 2), ("B", 0, RECEIVED, 9), ("C", 0, RECEIVED, 4)]);
    let now = unix_time_s();
    assert!(peers.iter().all(|p| (now - 60..=now).contains(&p.seen_s)), "{peers:?}");
}

fn nodes_are_bounded_by_nothing_and_tracked_apart(store: &Store) {
    let mut channel = store.channel();
    let far = text("1", "a", "x", 1 << 50);
    let (far, near) = ([far.as_change()], text("2", "a", "x", 1));
    let near = [near.as_change()];
    let of = |version, changes| Update { site_id: "N", version, changes };
    let (clamp, quota) = (Clamp::default(), Quota { max_cells: 1, max_bytes: 0 });
    let node = |is_tracked| Origin::Node { is_tracked };
    let group = [(of(3, &far[..]), node(true)), (of(9, &near), node(false)), (of(2, &far), Origin::Client)];
    let outcomes = merge_from(&mut *channel.writer, &group, &clamp, quota).expect("merged");
    // A client may not go beyond what is there, however much that is.
    assert_eq!(outcomes, [merged(1, &[0]), merged(2, &[0]), merged(2, &[])]);
    let tracked = |peers: Vec<causeway_storage::TrackedPeer>| {
        peers.iter().map(|p| (p.site_id.clone(), p.tag, p.version)).collect::<Vec<_>>()
    };
    let mut channel = channel.reopen();
    assert_eq!(tracked(channel.peers()), [("N".into(), 0, 2), ("N".into(), NODE_TAG, 3)]);
    // What is not tracked, and wins nothing, is no commit; what wins is one.
    let more = text("3", "a", "x", 1);
    let more = [more.as_change()];
    for (changes, expected) in [(&near, merged(2, &[])), (&more, merged(3, &[0]))] {
        let outcomes = merge_from(&mut *channel.writer, &[(of(9, changes), node(false))], &clamp, quota);
        assert_eq!(outcomes.expect("merged"), [expected]);
    }
    let mut channel = channel.reopen();
    assert_eq!((channel.head().version, tracked(channel.peers()).len()), (3, 2));
}

fn winners_stand_in_message_order(store: &Store) {
    let mut channel = store.channel();
    channel.merge_one_by_one(&[vec![text("2", "a", "z", 5)]]);
    let update = vec![
        text("1", "a", "x", 1),
        text("2", "a", "loses", 1),
        text("1", "b", "x", 1),
        text("1", "a", "y", 1),
        text("3", "a", "x", 1),
    ];
    assert_eq!(channel.merge(&[update], &Clamp::default()), [merged(2, &[0, 2, 3, 4])]);
    let stood: Vec<_> = channel.cells().into_iter().map(|c| (c.at.version, c.at.seq, c.pk, c.cid)).collect();
    let stand = |version, seq, pk: &str, cid: &str| (version, seq, pk.into(), cid.into());
    // The first winner's cell was won again by the fourth change.
    assert_eq!(
        stood,
        [stand(1, 0, "2", "a"), stand(2, 1, "1", "b"), stand(2, 2, "1", "a"), stand(2, 3, "3", "a")]
    );
}

fn a_sentinel_that_nobody_sent_stands_behind_the_winners(store: &Store) {
    let mut channel = store.channel();
    let new_life = |pk: &str, cl| OwnedChange::cell(pk, "a", Value::Integer(1), 1, cl);
    let update = vec![new_life("1", 3), new_life("2", 5), text("3", "a", "x", 1), new_life("1", 5)];
    assert_eq!(channel.merge(&[update], &Clamp::default()), [merged(1, &[0, 1, 2, 3])]);
    let cells = channel.cells();
    let (sent, unsent): (Vec<_>, Vec<_>) = cells.iter().partition(|cell| cell.cid != SENTINEL);
    assert_eq!(sent.iter().map(|cell| cell.at.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(unsent.iter().map(|cell| (cell.pk.as_str(), cell.cl)).collect::<Vec<_>>().len(), 2);
    assert!(unsent.iter().all(|cell| cell.at.seq > 3 && cell.cl == 5 && cell.col_version == 5));
    // One that is sent after its cell says nothing new, and moves nothing.
    let late = channel.merge(&[vec![OwnedChange::sentinel("1", 5)]], &Clamp::default());
    assert_eq!((late, channel.cells()), (vec![merged(1, &[])], cells));
}

fn integers_and_reals_stay_apart(store: &Store) {
    let mut channel = store.channel();
    let real = OwnedChange::cell("1", "a", Value::Real(1.0), 1, 1);
    let integer = OwnedChange::cell("1", "a", Value::Integer(1), 1, 1);
    let group = [vec![real.clone()], vec![integer.clone()], vec![real]];
    assert_eq!(channel.merge(&group, &Clamp::default()), [merged(1, &[0]), merged(2, &[0]), merged(2, &[])]);
    let channel = channel.reopen();
    assert_eq!(channel.cells()[0].val, integer.val);
}

fn clocks_and_numbers_reach_their_bounds(store: &Store) {
    let top = (1 << 53) - 1;
    let clamp = Clamp { max_col_version_jump: u64::MAX, max_cl_jump: u64::MAX };
    let mut channel = store.channel();
    let cell =
        OwnedChange { db_version: top, seq: top, ..OwnedChange::cell("1", "a", Value::Null, top, top) };
    assert_eq!(channel.merge(&[vec![cell]], &clamp), [merged(1, &[0])]);
    let site_id = "s".repeat(64);
    let changes = [Change {
        table: "t",
        pk: "2",
        cid: "a",
        val: Value::Real(1e308),
        col_version: top,
        db_version: top,
        site_id: &site_id,
        cl: 1,
        seq: top,
    }];
    let update = Update { site_id: &site_id, version: top, changes: &changes };
    merge(&mut *channel.writer, &[update], &clamp).expect("merged");
    let mut channel = channel.reopen();
    let cells = channel.cells();
    assert_eq!(
        cells.iter().map(|c| (c.col_version, c.cl)).collect::<Vec<_>>(),
        [(top, top), (top, top), (top, 1)]
    );
    assert_eq!(channel.peers().iter().map(|peer| peer.version).max(), Some(top));
}
