//! The clamp: a clock that is too far ahead refuses its whole update, and leaves nothing of it.

use causeway_storage::store::RECEIVED;
use causeway_storage::{Clamp, Head, Outcome, SENTINEL, Value};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::model::{Model, OwnedChange};
use crate::support::Store;

on_every_store! {
    a_clock_too_far_ahead_refuses_its_update_and_no_other
    refusals_alone_leave_nothing
    refusals_are_the_models
}

const TIGHT: Clamp = Clamp { max_col_version_jump: 3, max_cl_jump: 2 };

fn merged(version: u64, winners: &[u32]) -> Outcome {
    Outcome::Merged { version, winners: winners.into() }
}

fn cell(cid: &str, col_version: u64, cl: u64) -> OwnedChange {
    OwnedChange::cell("1", cid, Value::Integer(1), col_version, cl)
}

fn a_clock_too_far_ahead_refuses_its_update_and_no_other(store: &Store) {
    let mut channel = store.channel();
    let top = (1 << 53) - 1;
    let group = [
        vec![cell("a", 3, 1)],
        // Good changes before and after a bad one go with it.
        vec![cell("b", 1, 1), cell("a", 7, 1), cell("c", 1, 1)],
        vec![cell("d", 1, 1), OwnedChange::sentinel("2", top)],
        // From here the cell has 3: up to 6 is near enough.
        vec![cell("a", 6, 1)],
        vec![cell("a", 9, 1), cell("e", 4, 1)],
        vec![OwnedChange::sentinel("1", 4)],
        vec![OwnedChange::sentinel("1", 3)],
    ];
    let expected = [
        merged(1, &[0]),
        Outcome::Refused { index: 1, field: "col_version", max: 6 },
        Outcome::Refused { index: 1, field: "cl", max: 2 },
        merged(2, &[0]),
        Outcome::Refused { index: 1, field: "col_version", max: 3 },
        Outcome::Refused { index: 0, field: "cl", max: 3 },
        merged(3, &[0]),
    ];
    assert_eq!(channel.merge(&group, &TIGHT), expected);
    let cells = channel.cells();
    assert_eq!(cells.len(), 1, "{cells:?}");
    assert_eq!((cells[0].cid.as_str(), cells[0].col_version, cells[0].cl), (SENTINEL, 3, 3));
    let peers: Vec<_> =
        channel.peers().into_iter().map(|peer| (peer.site_id, peer.event, peer.version)).collect();
    assert_eq!(
        peers,
        [("CLIENT".into(), RECEIVED, 7)],
        "of the updates that were merged the highest version"
    );
}

fn refusals_alone_leave_nothing(store: &Store) {
    let mut channel = store.channel();
    let bad = vec![cell("a", 1, 1), cell("b", 4, 1)];
    let refused = Outcome::Refused { index: 1, field: "col_version", max: 3 };
    assert_eq!(channel.merge(&[bad.clone(), bad], &TIGHT), [refused.clone(), refused]);
    assert_eq!((channel.head(), channel.cells(), channel.peers()), (Head::default(), vec![], vec![]));
    // And the channel goes on.
    assert_eq!(channel.merge(&[vec![cell("a", 1, 1)]], &TIGHT), [merged(1, &[0])]);
    assert_eq!(channel.reopen().cells().len(), 1);
}

/// Random clocks against a tight clamp, counted from what was there before the update.
fn refusals_are_the_models(store: &Store) {
    let change =
        (prop::sample::select(vec!["1", "2"]), prop::sample::select(vec!["a", "b"]), 0u64..9, 1u64..7);
    let change = change.prop_map(|(pk, cid, col_version, cl)| match cl % 2 {
        0 => OwnedChange::sentinel(pk, cl),
        _ => OwnedChange::cell(pk, cid, Value::Text("x"), col_version, cl),
    });
    let groups =
        prop::collection::vec(prop::collection::vec(prop::collection::vec(change, 0..4), 0..4), 1..6);
    let config = Config { cases: store.cases(256), failure_persistence: None, ..Config::default() };
    let run = TestRunner::new(config).run(&groups, |groups| {
        let mut channel = store.channel();
        let mut model = Model::default();
        for group in groups {
            let expected: Vec<_> = group
                .iter()
                .map(|update| model.refusal(update, &TIGHT).unwrap_or_else(|| model.update(update)))
                .collect();
            prop_assert_eq!(channel.merge(&group, &TIGHT), expected);
            prop_assert_eq!(channel.content(), model.content());
        }
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
}
