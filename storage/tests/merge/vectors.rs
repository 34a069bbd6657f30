//! The cases that the real cr-sqlite made: `merged` comes out whatever the order and the grouping.

use causeway_storage::change::OwnedValue;
use causeway_storage::{Clamp, Digest, SENTINEL};
use serde_json::Value as Json;

use crate::model::{Content, OwnedChange};
use crate::support::Store;

on_every_store! { the_engines_cases_come_out_in_every_order_and_grouping }

fn the_engines_cases_come_out_in_every_order_and_grouping(store: &Store) {
    let vectors: Vec<Json> =
        serde_json::from_str(include_str!("../data/merge-vectors.json")).expect("the vectors are JSON");
    assert_eq!(vectors.len(), 52);
    for vector in &vectors {
        let name = vector["name"].as_str().expect("a name");
        let expected = without_first_sentinels(expected(vector));
        let sides = ["a", "b"].map(|side| changes(&vector[side]));
        let mut digests: Vec<Digest> = Vec::new();
        for order in [[0, 1], [1, 0]] {
            let [first, second] = order.map(|i| sides[i].clone());
            for (way, deliver) in WAYS {
                let mut channel = store.channel();
                for group in deliver(&first, &second) {
                    channel.merge(&group, &Clamp::default());
                }
                let found = without_first_sentinels(channel.content());
                assert_eq!(found, expected, "{name}, {way}, order {order:?}");
                digests.push(channel.head().digest);
                let (content, head) = (channel.content(), channel.head());
                let channel = channel.reopen();
                assert_eq!((channel.content(), channel.head()), (content, head), "{name}, {way}, reopened");
            }
        }
        assert!(digests.windows(2).all(|two| two[0] == two[1]), "{name}: {digests:?}");
    }
}

pub(crate) type Changes = Vec<OwnedChange>;
pub(crate) type Groups = Vec<Vec<Changes>>;
pub(crate) type Deliver = fn(&Changes, &Changes) -> Groups;

/// How two sites' changes reach the relay: group commits of updates of changes.
pub(crate) const WAYS: [(&str, Deliver); 8] = [
    ("one update", |a, b| vec![vec![[a.clone(), b.clone()].concat()]]),
    ("an update and a commit each", |a, b| vec![vec![a.clone()], vec![b.clone()]]),
    ("an update each, one commit", |a, b| vec![vec![a.clone(), b.clone()]]),
    ("a commit a change", |a, b| a.iter().chain(b).map(|c| vec![vec![c.clone()]]).collect()),
    ("an update a change, one commit", |a, b| vec![a.iter().chain(b).map(|c| vec![c.clone()]).collect()]),
    ("each side twice", |a, b| [a, b, a, b].map(|side| vec![side.clone()]).into()),
    ("each side twice, one commit", |a, b| vec![[a, a, b, b, a].map(Clone::clone).into()]),
    ("each change twice", |a, b| {
        a.iter().chain(b).map(|c| vec![vec![c.clone(), c.clone()]]).chain([vec![a.clone()]]).collect()
    }),
];

/// What the relay gives. In one of the two cases in which the engine depends on the order, the relay ends as the engine
/// does in its second order; in the other as in its first (`merge.md`).
fn expected(vector: &Json) -> Content {
    match vector["name"].as_str() {
        Some("raw_missed_delete_sentinel_first") => cells(&vector["b_then_a"]["merged"]),
        _ => cells(&vector["merged"]),
    }
}

/// Leaves out a sentinel of `cl` 1 beside cells.
fn without_first_sentinels(content: Content) -> Content {
    let has_cells = |table: &str, pk: &str| {
        content.keys().any(|(t, p, cid)| (t.as_str(), p.as_str()) == (table, pk) && cid != SENTINEL)
    };
    let keep = |((table, pk, cid), cell): &(&(String, String, String), &(OwnedValue, u64, u64))| {
        !(cid == SENTINEL && cell.2 == 1 && has_cells(table, pk))
    };
    content.iter().filter(keep).map(|(key, cell)| (key.clone(), cell.clone())).collect()
}

fn cells(merged: &Json) -> Content {
    let cell = |row: &Json| {
        let key = (text(&row[0]), text(&row[1]), text(&row[2]));
        (key, (value(&row[3]), number(&row[4]), number(&row[5])))
    };
    merged.as_array().expect("cells").iter().map(cell).collect()
}

pub(crate) fn changes(side: &Json) -> Changes {
    let change = |row: &Json| OwnedChange {
        table: text(&row[0]),
        pk: text(&row[1]),
        cid: text(&row[2]),
        val: value(&row[3]),
        col_version: number(&row[4]),
        db_version: number(&row[5]),
        site_id: text(&row[6]),
        cl: number(&row[7]),
        seq: number(&row[8]),
    };
    side.as_array().expect("changes").iter().map(change).collect()
}

fn text(json: &Json) -> String {
    json.as_str().expect("a string").into()
}

fn number(json: &Json) -> u64 {
    json.as_u64().expect("a natural number")
}

fn value(json: &Json) -> OwnedValue {
    match json {
        Json::Null => OwnedValue::Null,
        Json::String(text) => OwnedValue::Text(text.as_str().into()),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => OwnedValue::Integer(integer),
            None => OwnedValue::Real(number.as_f64().expect("a number")),
        },
        Json::Object(object) => {
            let hex = object["$blob"].as_str().expect("hex");
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
            OwnedValue::Blob((0..hex.len()).step_by(2).map(byte).collect())
        }
        other => panic!("not a value: {other}"),
    }
}
