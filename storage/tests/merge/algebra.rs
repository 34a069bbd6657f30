//! Random changes: the order of arrival, the grouping and repetition make no difference, and each update's outcome is
//! what the plain model says.

use causeway_storage::change::OwnedValue;
use causeway_storage::conformance::collect;
use causeway_storage::{Clamp, Excess, Outcome, Position, Quota, SENTINEL};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

use crate::model::{Model, OwnedChange};
use crate::support::{Channel, Store};

on_every_store! {
    order_and_repetition_make_no_difference
    grouping_makes_no_difference
    outcomes_and_cells_are_the_models
    a_quota_refuses_what_makes_the_channel_too_large
    pages_from_any_cursor_give_all
}

/// Commutative and idempotent: any two deliveries of the same changes, in any order, grouped in any way, some of them
/// more than once, leave the same cells and the same digest.
fn order_and_repetition_make_no_difference(store: &Store) {
    let repeated = prop::collection::vec(any::<Index>(), 0..12);
    let shuffled = (history(), repeated).prop_flat_map(|(changes, repeated)| {
        let repeats = repeated.iter().map(|index| index.get(&changes).clone());
        let all: Vec<_> = changes.iter().cloned().chain(repeats).collect();
        (Just(changes), Just(all).prop_shuffle(), cuts(), cuts(), wide_cl())
    });
    run(store, 256, shuffled, |(changes, shuffled, updates, groups, wide_cl)| {
        let mut in_order = channel(store, wide_cl);
        in_order.merge_one_by_one(std::slice::from_ref(&changes));
        let mut out_of_order = channel(store, wide_cl);
        deliver(&mut out_of_order, &cut(&cut(&shuffled, &updates), &groups));
        prop_assert_eq!(in_order.content(), out_of_order.content());
        prop_assert_eq!(in_order.head().digest, out_of_order.head().digest);
        // And everything once more changes nothing at all.
        let before = (out_of_order.cells(), out_of_order.head());
        deliver(&mut out_of_order, &cut(&cut(&changes, &groups), &updates));
        prop_assert_eq!(before, (out_of_order.cells(), out_of_order.head()));
        Ok(())
    });
}

/// Associative: the same changes in the same order, cut into updates and group commits in two ways, leave the same.
fn grouping_makes_no_difference(store: &Store) {
    let cases = (history(), cuts(), cuts(), wide_cl());
    run(store, 256, cases, |(changes, updates, groups, wide_cl)| {
        let mut grouped = channel(store, wide_cl);
        deliver(&mut grouped, &cut(&cut(&changes, &updates), &groups));
        let mut single = channel(store, wide_cl);
        single.merge_one_by_one(&changes.iter().map(|change| vec![change.clone()]).collect::<Vec<_>>());
        prop_assert_eq!(grouped.content(), single.content());
        prop_assert_eq!(grouped.head().digest, single.head().digest);
        // The same updates in commits of their own: even versions and positions are the same.
        let mut apart = channel(store, wide_cl);
        apart.merge_one_by_one(&cut(&changes, &updates));
        prop_assert_eq!(grouped.cells(), apart.cells());
        prop_assert_eq!(grouped.head(), apart.head());
        Ok(())
    });
}

/// Version by version and winner by winner: versions grow by one for each update that won anything, winners stand at
/// `seq` 0, 1, 2 … with their own site, and a sentinel that nobody sent stands behind them.
fn outcomes_and_cells_are_the_models(store: &Store) {
    let cases = (history(), cuts(), cuts(), wide_cl());
    run(store, 512, cases, |(changes, updates, groups, wide_cl)| {
        let mut channel = channel(store, wide_cl);
        let mut model = model(wide_cl);
        for group in cut(&cut(&changes, &updates), &groups) {
            let expected: Vec<_> = group.iter().map(|update| model.update(update)).collect();
            prop_assert_eq!(channel.merge(&group, &Clamp::default()), expected);
            prop_assert_eq!(channel.head().version, model.version);
            prop_assert_eq!(channel.content(), model.content());
        }
        let found = channel.cells();
        model.assert_stored(&found);
        // The writer looks the same rows up that readers page.
        for (table, pk) in [("t", "1"), ("t", "2"), ("u", "1")] {
            let mut row = channel.row(table, pk);
            row.sort_by_key(|cell| cell.at);
            let paged = found.iter().filter(|cell| cell.table == table && cell.pk == pk);
            prop_assert_eq!(&row, &paged.cloned().collect::<Vec<_>>());
        }
        Ok(())
    });
}

/// What lies after a position is what a page after it gives; pages of any size give all of it.
fn a_quota_refuses_what_makes_the_channel_too_large(store: &Store) {
    let quotas = (select(vec![0u64, 1, 3, 5, 151]), select(vec![0u64, 100, 300, 500, 12_000]));
    let cases = (history(), cuts(), cuts(), wide_cl(), quotas);
    run(store, 512, cases, |(changes, updates, groups, wide_cl, (max_cells, max_bytes))| {
        let mut channel = channel(store, wide_cl);
        let mut model = model(wide_cl);
        for group in cut(&cut(&changes, &updates), &groups) {
            let mut expected = Vec::new();
            for update in &group {
                let mut with = model.clone();
                let outcome = with.update(update);
                let (before, after) = (model.size(), with.size());
                if max_bytes > 0 && after.bytes > max_bytes.max(before.bytes) {
                    expected.push(Outcome::OverQuota(Excess::Bytes));
                } else if max_cells > 0 && after.cells > max_cells.max(before.cells) {
                    expected.push(Outcome::OverQuota(Excess::Cells));
                } else {
                    expected.push(outcome);
                    model = with;
                }
            }
            let quota = Quota { max_cells, max_bytes };
            prop_assert_eq!(channel.merge_within(&group, &Clamp::default(), quota), expected);
            prop_assert_eq!(channel.content(), model.content());
        }
        model.assert_stored(&channel.cells());
        // A row that lives can always be deleted.
        let rows: Vec<_> =
            model.content().into_iter().map(|((table, pk, _), (_, _, cl))| (table, pk, cl)).collect();
        for (table, pk, cl) in rows {
            if cl % 2 == 1 {
                let delete = OwnedChange { table, ..OwnedChange::sentinel(&pk, cl + 1) };
                let quota = Quota { max_cells: 1, max_bytes: 1 };
                let outcomes = channel.merge_within(&[vec![delete]], &Clamp::default(), quota);
                prop_assert!(matches!(outcomes[..], [Outcome::Merged { .. }]), "{:?}", outcomes);
            }
        }
        channel.cells();
        Ok(())
    });
}

fn pages_from_any_cursor_give_all(store: &Store) {
    let cases = (history(), cuts(), 1usize..8);
    run(store, 64, cases, |(changes, updates, limit)| {
        let mut channel = channel(store, None);
        channel.merge_one_by_one(&cut(&changes, &updates));
        let all = channel.cells();
        let mut reader = channel.store.reader(&channel.name).expect("readable");
        let cursors =
            all.iter().map(|cell| cell.at).chain((0..=channel.head().version).map(Position::end_of));
        for cursor in cursors.chain([Position::default()]) {
            let mut paged = Vec::new();
            let mut after = cursor;
            loop {
                let (page, head) = collect(limit, |visit| reader.read(after, visit));
                prop_assert_eq!(head, channel.head());
                let Some(last) = page.last() else { break };
                after = last.at;
                paged.extend(page);
            }
            prop_assert_eq!(paged, all.iter().filter(|cell| cell.at > cursor).cloned().collect::<Vec<_>>());
        }
        Ok(())
    });
}

fn run<S: Strategy>(
    store: &Store,
    cases: u32,
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let config = Config { cases: store.cases(cases), failure_persistence: None, ..Config::default() };
    if let Err(failure) = TestRunner::new(config).run(&strategy, test) {
        panic!("{failure}");
    }
}

/// Up to 40 valid changes to few cells, so that they meet.
fn history() -> impl Strategy<Value = Vec<OwnedChange>> {
    prop::collection::vec(change(), 1..40)
}

fn change() -> impl Strategy<Value = OwnedChange> {
    let row = select(vec![("t", "1"), ("t", "1"), ("t", "2"), ("u", "1")]);
    let cid = select(vec![SENTINEL, "a", "b", "!7", "!99"]);
    let clocks = (0u64..4, select(vec![1u64, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6]));
    let sender = (select(vec!["A", "B"]), 0u64..9, 0u64..9);
    (row, cid, value(), clocks, sender).prop_map(|((table, pk), cid, val, (col_version, cl), sender)| {
        // Only a sentinel deletes, and a sentinel has its row's clock and no value.
        let is_sentinel = cid == SENTINEL || cl % 2 == 0;
        let (site_id, db_version, seq) = sender;
        OwnedChange {
            table: table.into(),
            pk: pk.into(),
            cid: if is_sentinel { SENTINEL } else { cid }.into(),
            val: if is_sentinel { OwnedValue::Null } else { val },
            col_version: if is_sentinel { cl } else { col_version },
            db_version,
            site_id: site_id.into(),
            cl,
            seq,
        }
    })
}

fn value() -> impl Strategy<Value = OwnedValue> {
    prop_oneof![
        Just(OwnedValue::Null),
        select(vec![-1i64, 0, 1, 2, i64::MIN, i64::MAX]).prop_map(OwnedValue::Integer),
        select(vec![-1.5f64, 0.0, -0.0, 1.0, 5e-324, 1e308]).prop_map(OwnedValue::Real),
        select(vec!["", "a", "B", "é", "a\0", "10", "9"]).prop_map(|t| OwnedValue::Text(t.into())),
        select(vec![&b""[..], &[0], &[0, 255], &[1]]).prop_map(|b| OwnedValue::Blob(b.into())),
    ]
}

/// Where to cut a list: before each item for which the next of these, over and over, is true.
fn cuts() -> impl Strategy<Value = Vec<bool>> {
    prop::collection::vec(any::<bool>(), 1..12)
}

fn cut<T: Clone>(items: &[T], cuts: &[bool]) -> Vec<Vec<T>> {
    let mut pieces = vec![Vec::new()];
    for (item, is_cut) in items.iter().zip(cuts.iter().cycle()) {
        if *is_cut {
            pieces.push(Vec::new());
        }
        pieces.last_mut().expect("never empty").push(item.clone());
    }
    pieces
}

fn deliver(channel: &mut Channel, groups: &[Vec<Vec<OwnedChange>>]) {
    for group in groups {
        channel.merge(group, &Clamp::default());
    }
}

/// Whether a channel begins with a [`wide_row`], and in which of its lives that row is.
fn wide_cl() -> impl Strategy<Value = Option<u64>> {
    select(vec![None, Some(1), Some(3)])
}

/// A row of more cells than the merge loads at once, all of which sort before the sentinel.
fn wide_row(cl: u64) -> Vec<OwnedChange> {
    let cell = |n| OwnedChange::cell("1", &format!("!{n}"), causeway_storage::Value::Integer(n), 1, cl);
    (0..150).map(cell).collect()
}

fn channel(store: &Store, wide_cl: Option<u64>) -> Channel {
    let mut channel = store.channel();
    channel.merge_one_by_one(&wide_cl.map(wide_row).into_iter().collect::<Vec<_>>());
    channel
}

fn model(wide_cl: Option<u64>) -> Model {
    let mut model = Model::default();
    if let Some(cl) = wide_cl {
        model.update(&wide_row(cl));
    }
    model
}
